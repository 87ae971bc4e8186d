//! Who exists: accounts, their addresses, their devices and the keys those published.

mod account;
mod keys;

use std::collections::HashMap;

use wacore_binary::Jid;

pub(crate) use account::{Account, AccountId, Device, DeviceKey};
pub(crate) use keys::{KeyError, KeyPool, Upload};

use crate::phone::{DeviceEntry, PreKeyBundleParts};
use crate::wire::Addressing;

/// All accounts of one simulator.
#[derive(Default)]
pub(crate) struct Directory {
    accounts: Vec<Account>,
    by_pn: HashMap<String, AccountId>,
    by_lid: HashMap<String, AccountId>,
    /// Devices whose one-time prekeys ran low since the last look.
    low_on_prekeys: Vec<DeviceKey>,
}

/// One-time prekeys left at which the server asks for more.
const LOW_WATER: usize = 5;

impl Directory {
    /// Adds an account, or says that the number is taken.
    pub(crate) fn add(&mut self, account: Account) -> Option<AccountId> {
        if self.by_pn.contains_key(&account.pn) || self.by_lid.contains_key(&account.lid) {
            return None;
        }
        let id = AccountId(self.accounts.len());
        self.by_pn.insert(account.pn.clone(), id);
        self.by_lid.insert(account.lid.clone(), id);
        self.accounts.push(account);
        Some(id)
    }

    pub(crate) fn account(&self, id: AccountId) -> &Account {
        &self.accounts[id.0]
    }

    pub(crate) fn account_mut(&mut self, id: AccountId) -> &mut Account {
        &mut self.accounts[id.0]
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = AccountId> + use<> {
        (0..self.accounts.len()).map(AccountId)
    }

    /// The account with phone number `digits`.
    pub(crate) fn by_phone(&self, digits: &str) -> Option<AccountId> {
        self.by_pn.get(digits).copied()
    }

    /// The account a person's JID names, in either addressing.
    pub(crate) fn resolve(&self, jid: &Jid) -> Option<AccountId> {
        match Addressing::of(jid)? {
            Addressing::Pn => self.by_pn.get(jid.user.as_str()).copied(),
            Addressing::Lid => self.by_lid.get(jid.user.as_str()).copied(),
        }
    }

    /// The device a JID names; the device need not exist.
    pub(crate) fn resolve_device(&self, jid: &Jid) -> Option<DeviceKey> {
        self.resolve(jid).map(|account| DeviceKey {
            account,
            device: jid.device,
        })
    }

    pub(crate) fn device(&self, key: DeviceKey) -> Option<&Device> {
        self.account(key.account).devices.get(&key.device)
    }

    pub(crate) fn device_mut(&mut self, key: DeviceKey) -> Option<&mut Device> {
        self.account_mut(key.account).devices.get_mut(&key.device)
    }

    /// Every device of an account, the phone first.
    pub(crate) fn devices_of(&self, account: AccountId) -> Vec<DeviceKey> {
        self.account(account)
            .devices
            .keys()
            .map(|&device| DeviceKey { account, device })
            .collect()
    }

    /// The address of a device.
    pub(crate) fn jid(&self, key: DeviceKey, addressing: Addressing) -> Jid {
        self.account(key.account)
            .jid(addressing)
            .with_device(key.device)
    }

    /// The linked device with this Noise key.
    pub(crate) fn by_noise_key(&self, key: &[u8; 32]) -> Option<DeviceKey> {
        self.ids().find_map(|account| {
            let devices = &self.account(account).devices;
            let device = devices
                .iter()
                .find(|(_, device)| device.noise_public.as_ref() == Some(key));
            device.map(|(&device, _)| DeviceKey { account, device })
        })
    }

    /// A prekey bundle of `key`, consuming one one-time prekey.
    pub(crate) fn take_bundle(&mut self, key: DeviceKey) -> Option<PreKeyBundleParts> {
        let device = self.device_mut(key)?;
        let before = device.keys.remaining();
        let bundle = device.keys.take_bundle(device.adv_identity.clone());
        if before > LOW_WATER && device.keys.remaining() <= LOW_WATER {
            self.low_on_prekeys.push(key);
        }
        Some(bundle)
    }

    /// Devices that should be told to upload prekeys; each is named once per drop.
    pub(crate) fn drain_low_on_prekeys(&mut self) -> Vec<DeviceKey> {
        std::mem::take(&mut self.low_on_prekeys)
    }

    /// The device list of an account as peers see it.
    pub(crate) fn entries(&self, account: AccountId) -> Vec<DeviceEntry> {
        self.account(account)
            .devices
            .iter()
            .map(|(&device, record)| DeviceEntry {
                device,
                key_index: record.key_index,
            })
            .collect()
    }
}
