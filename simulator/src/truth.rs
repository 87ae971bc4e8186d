//! A consistent look at everything, for conditions to be waited on.

use crate::account::phone_digits;
use crate::directory::{AccountId, DeviceKey};
use crate::hub::{Census, Hub};
use crate::ledger::Ledger;
use crate::phone::{Inbound, Outbound};

/// What is true at one moment.
pub struct Truth<'a> {
    hub: &'a Hub,
}

impl<'a> Truth<'a> {
    pub(crate) fn new(hub: &'a Hub) -> Self {
        Self { hub }
    }

    fn account(&self, phone: &str) -> Option<AccountId> {
        self.hub.directory.by_phone(&phone_digits(phone)?)
    }

    /// Everything that has happened.
    pub fn ledger(&self) -> &'a Ledger {
        self.hub.ledger()
    }

    /// Connection counts.
    pub fn connections(&self) -> Census {
        self.hub.census()
    }

    /// Messages shown on the phone with this number; empty when there is none.
    pub fn inbox(&self, phone: &str) -> &'a [Inbound] {
        self.account(phone)
            .map_or(&[], |account| self.hub.inbox(account))
    }

    /// Messages sent by the account with this number, from any of its devices; empty when there
    /// is none.
    pub fn sent(&self, phone: &str) -> &'a [Outbound] {
        self.account(phone)
            .map_or(&[], |account| self.hub.outbox(account))
    }

    /// Whether this device of the account is logged in and has left passive mode.
    pub fn is_online(&self, phone: &str, device: u16) -> bool {
        self.account(phone)
            .is_some_and(|account| self.hub.is_active(account, device))
    }

    /// Stanzas that wait for a device, sent or not, until it confirms them.
    pub fn backlog(&self, phone: &str, device: u16) -> usize {
        self.account(phone)
            .map_or(0, |account| self.hub.backlog(DeviceKey { account, device }))
    }
}
