//! What a phone needs from the network it is attached to, and what it gives to the key directory.
//!
//! A phone never does I/O: the hub implements [`Net`] over its own in-memory state and carries the
//! stanzas a phone returns.

use bytes::Bytes;
use wacore_binary::Jid;

/// One device of an account, as a `usync` device list names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceEntry {
    /// Device number; 0 is the phone itself.
    pub device: u16,
    /// ADV key index; `None` only for device 0.
    pub key_index: Option<u32>,
}

/// A signed prekey as it lies in the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedPreKeyPart {
    /// Key id, at most 24 bits.
    pub id: u32,
    /// Raw Curve25519 public key, without the type byte.
    pub public: [u8; 32],
    /// `XEdDSA` signature of the identity key over `05 ‖ public`.
    pub signature: [u8; 64],
}

/// A one-time prekey as it lies in the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OneTimePreKeyPart {
    /// Key id, at most 24 bits.
    pub id: u32,
    /// Raw Curve25519 public key, without the type byte.
    pub public: [u8; 32],
}

/// Everything a phone uploads so that strangers can start a session with it.
#[derive(Debug, Clone)]
pub struct DeviceKeys {
    /// Signal registration id.
    pub registration_id: u32,
    /// Raw identity public key, without the type byte.
    pub identity: [u8; 32],
    /// The current signed prekey; the same on every call.
    pub signed: SignedPreKeyPart,
    /// Fresh one-time prekeys; each call issues new ids.
    pub one_time: Vec<OneTimePreKeyPart>,
}

/// One device's answer to a prekey fetch.
#[derive(Debug, Clone)]
pub struct PreKeyBundleParts {
    /// Signal registration id of the device.
    pub registration_id: u32,
    /// Raw identity public key of the device, without the type byte.
    pub identity: [u8; 32],
    /// The device's signed prekey.
    pub signed: SignedPreKeyPart,
    /// The one-time prekey this answer consumed; `None` when the pool is empty.
    pub one_time: Option<OneTimePreKeyPart>,
    /// The device's `ADVSignedDeviceIdentity`; companions always have one, device 0 never.
    pub device_identity: Option<Vec<u8>>,
}

/// Where a blob is on the media host.
#[derive(Debug, Clone)]
pub struct MediaPlace {
    /// The whole address.
    pub url: String,
    /// Path and query on whatever host `media_conn` names.
    pub direct_path: String,
}

/// The network around a phone: synchronous look-ups in the hub's memory.
pub trait Net {
    /// All devices of a PN or LID user, device 0 included; empty for an unknown user.
    fn devices(&mut self, user: &Jid) -> Vec<DeviceEntry>;
    /// A prekey bundle of one device, consuming one of its one-time prekeys.
    fn take_bundle(&mut self, device: &Jid) -> Option<PreKeyBundleParts>;
    /// The identity key the directory holds for a device (PN or LID form), consuming nothing.
    fn identity(&self, device: &Jid) -> Option<[u8; 32]>;
    /// The LID user of a PN user, when the mapping is known.
    fn lid_of(&self, pn: &Jid) -> Option<Jid>;
    /// The PN user of a LID user, when the mapping is known.
    fn pn_of(&self, lid: &Jid) -> Option<Jid>;
    /// Puts an encrypted blob of a media type (`image`, `audio`…) on the media host.
    fn store_media(&mut self, kind: &str, blob: Bytes) -> MediaPlace;
    /// The encrypted blob at a direct path.
    fn media(&self, direct_path: &str) -> Option<Bytes>;
    /// Everybody in a group, in the addressing the group uses; empty for an unknown group.
    fn members(&self, group: &Jid) -> Vec<Jid>;
    /// A group's name; none for an unknown group.
    fn subject(&self, group: &Jid) -> Option<String>;
    /// The server's clock, in unix seconds.
    fn now(&self) -> u64;
}

/// The address a Signal session with `jid` is kept under: the LID form once it is known, with the
/// device kept. One conversation can arrive under both names; there is one session per device.
pub(super) fn canonical(jid: &Jid, net: &dyn Net) -> Jid {
    if jid.is_pn()
        && let Some(lid) = net.lid_of(&jid.to_non_ad())
    {
        return lid.with_device(jid.device);
    }
    Jid {
        agent: 0,
        ..jid.clone()
    }
}

/// [`canonical`] without the device: the person.
pub(super) fn person(jid: &Jid, net: &dyn Net) -> Jid {
    canonical(jid, net).into_non_ad()
}
