//! What rows of the key space are called, and batches of writes to them.

use crate::domain::clock::Timestamp;
use crate::store::key::id_parts;
use bytes::Bytes;

/// What a row of the key space is. The numbers are on disk: never reuse or renumber one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum KeyKind {
    /// The device's own credentials.
    Device = 0,
    /// Identity keys of remote addresses.
    Identity = 1,
    /// Signal sessions with remote addresses.
    Session = 2,
    /// One-time prekeys (packed).
    PreKey = 3,
    /// Signed prekeys.
    SignedPreKey = 4,
    /// Sender keys of groups.
    SenderKey = 5,
    /// Which devices have a group's sender key.
    SenderKeyDevice = 6,
    /// App-state synchronisation keys.
    SyncKey = 7,
    /// App-state collection versions.
    SyncVersion = 8,
    /// App-state mutation MACs.
    MutationMac = 9,
    /// LID → phone number.
    LidMapping = 10,
    /// Phone number → LID.
    PnMapping = 11,
    /// Base keys for retry collision detection.
    BaseKey = 12,
    /// Device lists of users.
    DeviceList = 13,
    /// Group metadata.
    GroupMetadata = 14,
    /// Trusted contact tokens.
    TcToken = 15,
    /// Messages decrypted but not yet committed by the inbound hook.
    PendingInbound = 16,
    /// Secrets of messages, for edits, reactions and polls.
    MessageSecret = 17,
    /// Messages sent by the library itself, for retry receipts.
    SentMessage = 18,
    /// Anything of which a session has one (counters, flags).
    Meta = 19,
    /// App-state collections that still have to be synchronised.
    SyncOwed = 20,
    /// Free for a provider's own use.
    Provider = 21,
    /// People this session has exchanged messages with, for the budget of new conversations.
    Contact = 22,
}

/// Kinds of the key space that exist, for deletion.
pub(in crate::store) const KIND_COUNT: u8 = 23;

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Part {
    Name(Vec<u8>),
    U16(u16),
    U32(u32),
    U64(u64),
}

/// The id of a row within its kind: names and numbers, in order. Rows that share their first parts are
/// neighbours and can be listed together.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct KeyId(pub(super) Vec<Part>);

impl KeyId {
    /// The id of a row of which there is only one.
    pub fn single() -> Self {
        Self::default()
    }

    /// An id that begins with a name. Names are hashed and cannot be read back.
    pub fn name(name: impl AsRef<[u8]>) -> Self {
        Self::default().and_name(name)
    }

    /// An id that begins with a number that sorts numerically and can be read back.
    pub fn number(number: u32) -> Self {
        Self::default().and_number(number)
    }

    /// Adds a name.
    #[must_use]
    pub fn and_name(mut self, name: impl AsRef<[u8]>) -> Self {
        self.0.push(Part::Name(name.as_ref().to_vec()));
        self
    }

    /// Adds a number.
    #[must_use]
    pub fn and_number(mut self, number: u32) -> Self {
        self.0.push(Part::U32(number));
        self
    }

    /// Adds a device number.
    #[must_use]
    pub fn and_device(mut self, device: u16) -> Self {
        self.0.push(Part::U16(device));
        self
    }

    /// Adds a 64-bit number.
    #[must_use]
    pub fn and_u64(mut self, number: u64) -> Self {
        self.0.push(Part::U64(number));
        self
    }
}

/// The id of a row as a listing found it: good for deleting the row; numbers can be read back.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RawId {
    pub(super) key: Bytes,
}

impl RawId {
    /// The last part, if it is a 32-bit number.
    pub fn last_number(&self) -> Option<u32> {
        let (rest, number) = id_parts(&self.key)?.split_last_chunk::<4>()?;
        (rest.last() == Some(&4)).then(|| u32::from_be_bytes(*number))
    }

    /// The last part, if it is a device number.
    pub fn last_device(&self) -> Option<u16> {
        let (rest, number) = id_parts(&self.key)?.split_last_chunk::<2>()?;
        (rest.last() == Some(&2)).then(|| u16::from_be_bytes(*number))
    }
}

/// When a write is on disk; see the module documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Durability {
    /// On return.
    Durable,
    /// No later than any later durable write.
    Ordered,
    /// With the session's next durable or ordered write.
    Deferred,
}

/// Writes that happen together or not at all.
#[derive(Debug, Clone, Default)]
pub struct KeyBatch {
    pub(super) writes: Vec<(KeyKind, Target, Option<Bytes>, Option<Timestamp>)>,
}

#[derive(Debug, Clone)]
pub(super) enum Target {
    Id(KeyId),
    Raw(RawId),
}

impl KeyBatch {
    /// Writes nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a row.
    #[must_use]
    pub fn put(mut self, kind: KeyKind, id: KeyId, value: impl Into<Bytes>) -> Self {
        self.writes
            .push((kind, Target::Id(id), Some(value.into()), None));
        self
    }

    /// Sets a row that the sweeper removes some time after `expires_at`. Setting it again replaces the
    /// deadline.
    #[must_use]
    pub fn put_expiring(
        mut self,
        kind: KeyKind,
        id: KeyId,
        value: impl Into<Bytes>,
        expires_at: Timestamp,
    ) -> Self {
        let value = Some(value.into());
        self.writes
            .push((kind, Target::Id(id), value, Some(expires_at)));
        self
    }

    /// Removes a row; a missing one is no error.
    #[must_use]
    pub fn delete(mut self, kind: KeyKind, id: KeyId) -> Self {
        self.writes.push((kind, Target::Id(id), None, None));
        self
    }

    /// Removes a row that a listing found.
    #[must_use]
    pub fn delete_raw(mut self, kind: KeyKind, id: RawId) -> Self {
        self.writes.push((kind, Target::Raw(id), None, None));
        self
    }

    /// The same writes in the same order, in batches of at most `most`: for what need not happen at once.
    #[must_use]
    pub fn into_parts(mut self, most: usize) -> Vec<Self> {
        let mut parts = Vec::new();
        while self.writes.len() > most.max(1) {
            let rest = self.writes.split_off(most.max(1));
            parts.push(std::mem::replace(&mut self, Self { writes: rest }));
        }
        parts.push(self);
        parts
    }

    /// Whether it writes nothing.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }
}
