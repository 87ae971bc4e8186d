//! One WhatsApp account and its linked devices.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use sha2::{Digest as _, Sha256};
use wacore_binary::Jid;

use super::keys::KeyPool;
use crate::wire::Addressing;

/// Index of an account; never reused within one simulator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct AccountId(pub(crate) usize);

/// One device of one account; device 0 is the phone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct DeviceKey {
    pub(crate) account: AccountId,
    pub(crate) device: u16,
}

impl DeviceKey {
    pub(crate) fn phone(account: AccountId) -> Self {
        Self { account, device: 0 }
    }

    pub(crate) fn is_phone(self) -> bool {
        self.device == 0
    }
}

/// An account.
pub(crate) struct Account {
    /// Phone number, digits only.
    pub(crate) pn: String,
    /// LID, digits only.
    pub(crate) lid: String,
    /// The name other people's clients are told (`notify`).
    pub(crate) name: String,
    /// Linked devices by number, the phone (0) included.
    pub(crate) devices: BTreeMap<u16, Device>,
    /// Device numbers that were linked once and are not any more.
    pub(crate) former: BTreeSet<u16>,
    /// The phone's signed list of valid key indexes, for `usync`.
    pub(crate) key_index_list: Option<Vec<u8>>,
    /// When that list was signed (Unix seconds).
    pub(crate) key_index_at: u64,
    next_device: u16,
}

/// A device as the server knows it.
pub(crate) struct Device {
    /// ADV key index; `None` for the phone.
    pub(crate) key_index: Option<u32>,
    /// Noise static key the device logs in with; `None` for the phone.
    pub(crate) noise_public: Option<[u8; 32]>,
    /// `ADVSignedDeviceIdentity`, signed by both sides; `None` for the phone.
    pub(crate) adv_identity: Option<Vec<u8>>,
    pub(crate) keys: KeyPool,
    /// When it was linked (Unix seconds).
    pub(crate) linked_at: u64,
    /// Whether the phone has shared an app-state key with it.
    pub(crate) app_state_shared: bool,
}

impl Account {
    pub(crate) fn new(pn: String, lid: String, name: String, phone: Device) -> Self {
        Self {
            pn,
            lid,
            name,
            devices: BTreeMap::from([(0, phone)]),
            former: BTreeSet::new(),
            key_index_list: None,
            key_index_at: 0,
            next_device: 1,
        }
    }

    /// The account's JID, without a device.
    pub(crate) fn jid(&self, addressing: Addressing) -> Jid {
        match addressing {
            Addressing::Pn => Jid::pn(self.pn.as_str()),
            Addressing::Lid => Jid::lid(self.lid.as_str()),
        }
    }

    /// Companions linked now.
    pub(crate) fn companions(&self) -> usize {
        self.devices.len() - 1
    }

    /// A device number that was never used on this account.
    pub(crate) fn reserve_device(&mut self) -> u16 {
        let device = self.next_device;
        self.next_device += 1;
        device
    }

    /// Fingerprint of the device list, as `device-list hash` and in device notifications.
    pub(crate) fn device_hash(&self) -> String {
        let mut hasher = Sha256::new();
        for (device, record) in &self.devices {
            hasher.update(device.to_be_bytes());
            hasher.update(record.key_index.unwrap_or(0).to_be_bytes());
        }
        let digest = hasher.finalize();
        format!("2:{}", BASE64_STANDARD_NO_PAD.encode(&digest[..6]))
    }
}
