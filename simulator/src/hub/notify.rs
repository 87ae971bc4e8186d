//! Notifications the server originates.

use wacore_binary::Node;
use wacore_binary::builder::NodeBuilder;

use super::Hub;
use super::mailbox::Class;
use crate::directory::{AccountId, DeviceKey};
use crate::wire::{self, Addressing};

/// The name the ledger gives the server as a sender.
pub(super) const SERVER: &str = "server";

impl Hub {
    /// Notes that two accounts talk, so that each hears of the other's devices.
    pub(super) fn acquaint(&mut self, a: AccountId, b: AccountId) {
        if a != b {
            self.acquainted.entry(a).or_default().insert(b);
            self.acquainted.entry(b).or_default().insert(a);
        }
    }

    /// Tells companions of the account, of its acquaintances and of those it shares a group with that a device came or went.
    pub(super) fn announce_device(&mut self, device: DeviceKey, added: bool) {
        let mut audience: Vec<AccountId> = vec![device.account];
        audience.extend(self.acquainted.get(&device.account).into_iter().flatten());
        audience.extend(self.groups.companions_of(device.account));
        audience.sort_unstable();
        audience.dedup();
        for account in audience {
            for to in self.directory.devices_of(account) {
                if to.is_phone() || to == device {
                    continue;
                }
                let node = self.device_notification(device, added);
                self.deliver(to, SERVER, Class::Notification, node);
            }
        }
    }

    fn device_notification(&mut self, device: DeviceKey, added: bool) -> Node {
        let account = self.directory.account(device.account);
        let key_index = account
            .devices
            .get(&device.device)
            .and_then(|record| record.key_index);
        let mut entry = NodeBuilder::new("device")
            .attr("jid", self.address(device, Addressing::Pn))
            .attr("lid", self.address(device, Addressing::Lid));
        if let Some(index) = key_index {
            entry = entry.attr("key-index", index);
        }
        let mut list = NodeBuilder::new("key-index-list").attr("ts", account.key_index_at);
        if let Some(signed) = account.key_index_list.as_ref().filter(|_| added) {
            list = list.bytes(signed.clone());
        }
        let change = NodeBuilder::new(if added { "add" } else { "remove" })
            .attr("device_hash", account.device_hash())
            .children([entry.build(), list.build()])
            .build();
        let (from, lid) = (account.jid(Addressing::Pn), account.jid(Addressing::Lid));
        NodeBuilder::new("notification")
            .attr("from", from)
            .attr("type", "devices")
            .attr("id", self.stanza_id())
            .attr("lid", lid)
            .attr("t", self.now())
            .children([change])
            .build()
    }

    /// A device's one-time prekeys run low.
    pub(super) fn ask_for_prekeys(&mut self, device: DeviceKey) {
        if device.is_phone() {
            self.replenish_phone(device.account);
            return;
        }
        let left = self
            .directory
            .device(device)
            .map_or(0, |record| record.keys.remaining());
        let node = NodeBuilder::new("notification")
            .attr("from", wire::server())
            .attr("type", "encrypt")
            .attr("id", self.stanza_id())
            .attr("t", self.now())
            .children([NodeBuilder::new("count").attr("value", left).build()])
            .build();
        self.deliver(device, SERVER, Class::Notification, node);
    }

    /// Tells an account's other companions that a collection has a new version.
    pub(super) fn announce_app_state(&mut self, by: DeviceKey, changed: &[(String, u64)]) {
        for to in self.directory.devices_of(by.account) {
            if to.is_phone() || to == by {
                continue;
            }
            let collections = changed.iter().map(|(name, version)| {
                NodeBuilder::new("collection")
                    .attr("name", name.as_str())
                    .attr("version", *version)
                    .build()
            });
            let node = NodeBuilder::new("notification")
                .attr(
                    "from",
                    self.address(DeviceKey::phone(by.account), Addressing::Pn),
                )
                .attr("type", "server_sync")
                .attr("id", self.stanza_id())
                .attr("t", self.now())
                .children(collections)
                .build();
            self.deliver(to, SERVER, Class::Notification, node);
        }
    }
}
