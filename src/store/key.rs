//! The layout of every key: `version ‖ workspace u64 ‖ kind u8 ‖ session u64 ‖ id`.
//!
//! Keys are not sealed, so nothing readable may enter one: workspaces and sessions appear as numbers,
//! and every name (an id a client chose, a phone number, a JID, a stanza id) only as [`Hash`], its
//! HMAC-SHA256/128 under an index key that never leaves memory. Ids are made of self-delimiting parts
//! followed by an end mark, so no key is a prefix of another, and a scan over the first parts of an id
//! cannot run into a neighbour.

use aws_lc_rs::hmac;
use bytes::Bytes;

/// First byte of every key this release writes.
const LAYOUT: u8 = 1;

/// The number that stands for the store itself where a workspace number is expected.
pub(super) const SYSTEM: u64 = 0;

/// What a row is. The numbers are on disk: never reuse or renumber one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Kind {
    // The store itself (workspace 0).
    /// Which release's format the files have.
    Format = 0x01,
    /// A workspace.
    Workspace = 0x02,
    /// Workspace name hash → number.
    WorkspaceName = 0x03,
    /// A workspace's wrapped keys.
    WrappedKeys = 0x04,
    /// Last workspace number given out.
    WorkspaceNumbers = 0x05,
    /// A bearer token.
    Token = 0x06,
    /// Last audit revision.
    AuditHead = 0x07,
    /// An audit entry.
    Audit = 0x08,
    /// A purge under way, so that it resumes after a crash.
    Purge = 0x09,
    /// A new key encryption key is owed since a workspace was deleted.
    RotationOwed = 0x0a,
    /// Wall time, as it was last believed.
    Clock = 0x0b,
    /// Who the store belongs to.
    Ownership = 0x0c,

    // A workspace.
    /// Last session number given out.
    SessionNumbers = 0x20,
    /// Session name hash → number.
    SessionName = 0x21,
    /// A session.
    Session = 0x22,
    /// The epoch of a session's owner.
    SessionOwner = 0x23,
    /// Last journal revision.
    JournalHead = 0x24,
    /// An event's payload.
    Journal = 0x25,
    /// An event's filter header.
    JournalHeader = 0x26,
    /// What the journal holds: oldest revision, bytes.
    JournalState = 0x27,
    /// Dedup rows, by day.
    DedupDay = 0x28,
    /// Dedup rows of events without a usable provider time.
    DedupLate = 0x29,
    /// A subscription.
    Subscription = 0x2a,
    /// Subscription name hash → number.
    SubscriptionName = 0x2b,
    /// Last subscription number given out.
    SubscriptionNumbers = 0x2c,
    /// Confirmed revisions, 4,096 to a row.
    Ack = 0x2d,
    /// Delivery attempts of one event.
    Attempt = 0x2e,
    /// A dead-lettered event.
    Dead = 0x2f,
    /// An answer to a `request_id`.
    Idempotency = 0x30,
    /// Usage counters of one day.
    Usage = 0x31,
    /// What expires when.
    Expiry = 0x32,
    /// How far a subscription has come.
    SubscriptionState = 0x33,
    /// What is remembered of one event's delivery.
    Delivery = 0x34,

    // A session's outbox.
    /// An outbound message.
    Outbox = 0x40,
    /// Stanza id hash → message.
    OutboxStanza = 0x41,
    /// Messages that still have work to do, in the order they were accepted.
    OutboxOpen = 0x42,
    /// Last sequence number given out in this outbox.
    OutboxNumbers = 0x43,

    // A session's files.
    /// A file that was uploaded to be sent.
    Media = 0x44,

    // A session's keys: `0x80 | KeyKind`.
    /// The first of the provider's key kinds.
    Keys = 0x80,
}

/// HMAC-SHA256 of a name under an index key, cut to 128 bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hash(pub [u8; 16]);

impl std::fmt::Debug for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "#{}", hex::encode(&self.0[..4]))
    }
}

/// Turns names into [`Hash`]es. One per workspace and one per session, so that equal names in two
/// sessions cannot be linked.
pub(super) struct IndexKey(hmac::Key);

impl IndexKey {
    pub(super) fn new(secret: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    /// The hash of a name made of `parts`; parts cannot run into each other.
    pub(super) fn hash(&self, parts: &[&[u8]]) -> Hash {
        let mut context = hmac::Context::with_key(&self.0);
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut short = [0; 16];
        short.copy_from_slice(&context.sign().as_ref()[..16]);
        Hash(short)
    }
}

impl std::fmt::Debug for IndexKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("IndexKey")
    }
}

const END: u8 = 0x00;
const PART_U16: u8 = 0x02;
const PART_U32: u8 = 0x04;
const PART_U64: u8 = 0x08;
const PART_HASH: u8 = 0x10;
const PART_UUID: u8 = 0x11;

/// Builds one key. Dropping into [`KeyBuilder::prefix`] instead of [`KeyBuilder::finish`] yields the
/// common prefix of all keys that go on with further parts.
#[derive(Debug, Clone)]
pub(super) struct KeyBuilder(Vec<u8>);

impl KeyBuilder {
    /// A key of `kind` in a workspace and session (0 for workspace-level rows).
    pub(super) fn new(workspace: u64, kind: u8, session: u64) -> Self {
        let mut bytes = Vec::with_capacity(48);
        bytes.push(LAYOUT);
        bytes.extend_from_slice(&workspace.to_be_bytes());
        bytes.push(kind);
        bytes.extend_from_slice(&session.to_be_bytes());
        Self(bytes)
    }

    fn part(mut self, tag: u8, bytes: &[u8]) -> Self {
        self.0.push(tag);
        self.0.extend_from_slice(bytes);
        self
    }

    /// Adds a 16-bit number (a device).
    pub(super) fn u16(self, value: u16) -> Self {
        self.part(PART_U16, &value.to_be_bytes())
    }

    /// Adds a 32-bit number (a prekey id).
    pub(super) fn u32(self, value: u32) -> Self {
        self.part(PART_U32, &value.to_be_bytes())
    }

    /// Adds a 64-bit number (a revision).
    pub(super) fn u64(self, value: u64) -> Self {
        self.part(PART_U64, &value.to_be_bytes())
    }

    /// Adds the hash of a name.
    pub(super) fn hash(self, hash: Hash) -> Self {
        self.part(PART_HASH, &hash.0)
    }

    /// Adds a UUID.
    pub(super) fn uuid(self, id: uuid::Uuid) -> Self {
        self.part(PART_UUID, id.as_bytes())
    }

    /// The key.
    pub(super) fn finish(mut self) -> Bytes {
        self.0.push(END);
        self.0.into()
    }

    /// The prefix shared by all keys that begin with these parts.
    pub(super) fn prefix(self) -> Bytes {
        self.0.into()
    }
}

/// All rows of one kind in a workspace and session.
pub(super) fn kind_prefix(workspace: u64, kind: u8, session: u64) -> Bytes {
    KeyBuilder::new(workspace, kind, session).prefix()
}

/// All rows of a workspace.
pub(super) fn workspace_prefix(workspace: u64) -> Bytes {
    let mut bytes = vec![LAYOUT];
    bytes.extend_from_slice(&workspace.to_be_bytes());
    bytes.into()
}

/// Reads back the last 64-bit part of a key such as a journal row's.
pub(super) fn trailing_u64(key: &[u8]) -> Option<u64> {
    let body = key.strip_suffix(&[END])?;
    let (rest, number) = body.split_last_chunk::<8>()?;
    (rest.last() == Some(&PART_U64)).then(|| u64::from_be_bytes(*number))
}

/// Whether a key is of a kind.
pub(super) fn is_of(key: &[u8], kind: Kind) -> bool {
    key.get(9) == Some(&(kind as u8))
}

/// Reads back the session number of a key.
pub(super) fn session_of(key: &[u8]) -> Option<u64> {
    let bytes = key.get(10..18)?;
    bytes.try_into().ok().map(u64::from_be_bytes)
}

/// The parts of a key after its session number, without the end mark.
pub(super) fn id_parts(key: &[u8]) -> Option<&[u8]> {
    key.get(18..)?.strip_suffix(&[END])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Part {
        U16(u16),
        U32(u32),
        U64(u64),
        Hash([u8; 16]),
    }

    fn part() -> impl Strategy<Value = Part> {
        prop_oneof![
            any::<u16>().prop_map(Part::U16),
            any::<u32>().prop_map(Part::U32),
            any::<u64>().prop_map(Part::U64),
            any::<[u8; 16]>().prop_map(Part::Hash),
        ]
    }

    fn build(kind: u8, session: u64, parts: &[Part]) -> Bytes {
        let start = KeyBuilder::new(7, kind, session);
        let key = parts.iter().fold(start, |key, part| match part {
            Part::U16(n) => key.u16(*n),
            Part::U32(n) => key.u32(*n),
            Part::U64(n) => key.u64(*n),
            Part::Hash(h) => key.hash(Hash(*h)),
        });
        key.finish()
    }

    proptest! {
        #[test]
        fn no_key_is_a_prefix_of_another(
            a in prop::collection::vec(part(), 0..4),
            b in prop::collection::vec(part(), 0..4),
            kinds in (0_u8..4, 0_u8..4),
            sessions in (0_u64..3, 0_u64..3),
        ) {
            let left = build(kinds.0, sessions.0, &a);
            let right = build(kinds.1, sessions.1, &b);
            if left != right {
                prop_assert!(!left.starts_with(&right) && !right.starts_with(&left));
            }
        }

        #[test]
        fn numbers_sort_as_numbers(a in any::<u64>(), b in any::<u64>()) {
            let key = |n| KeyBuilder::new(1, Kind::Journal as u8, 0).u64(n).finish();
            prop_assert_eq!(a.cmp(&b), key(a).cmp(&key(b)));
            prop_assert_eq!(trailing_u64(&key(a)), Some(a));
        }
    }

    #[test]
    fn hashes_depend_on_key_and_on_where_parts_end() {
        let (one, two) = (IndexKey::new(b"one"), IndexKey::new(b"two"));
        assert_eq!(one.hash(&[b"ab", b"c"]), one.hash(&[b"ab", b"c"]));
        assert_ne!(one.hash(&[b"ab", b"c"]), one.hash(&[b"a", b"bc"]));
        assert_ne!(one.hash(&[b"ab"]), two.hash(&[b"ab"]));
    }
}
