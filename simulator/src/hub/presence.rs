//! Presence and chat states: forwarded to whoever is connected, never queued.

use wacore_binary::Node;
use wacore_binary::builder::NodeBuilder;

use super::Hub;
use super::connection::State;
use crate::directory::{AccountId, DeviceKey};
use crate::wire::{self, Addressing};

impl Hub {
    pub(super) fn on_presence(&mut self, from: DeviceKey, node: &Node) {
        match wire::attr(node, "type").as_deref() {
            Some("subscribe") => self.subscribe(from, node),
            Some("unsubscribe") => {
                if let Some(peer) =
                    wire::jid_attr(node, "to").and_then(|to| self.directory.resolve(&to))
                {
                    self.subscriptions.entry(peer).or_default().remove(&from);
                }
            }
            None | Some("available") => self.set_available(from, true),
            Some("unavailable") => self.set_available(from, false),
            Some(_) => {}
        }
    }

    fn subscribe(&mut self, from: DeviceKey, node: &Node) {
        let Some(to) = wire::jid_attr(node, "to") else {
            return;
        };
        let Some(peer) = self.directory.resolve(&to) else {
            return;
        };
        self.subscriptions.entry(peer).or_default().insert(from);
        if self.is_available(peer) {
            let node = self.presence_of(peer, &to, true);
            self.send(from, node);
        }
    }

    fn set_available(&mut self, device: DeviceKey, available: bool) {
        let before = self.is_available(device.account);
        if device.is_phone() {
            self.people[device.account.0].available = available;
        } else if let Some(&id) = self.online.get(&device)
            && let Some(online) = self.online_mut(id)
        {
            online.available = available;
        }
        let after = self.is_available(device.account);
        if before != after {
            self.publish_presence(device.account, after);
        }
    }

    /// The device's connection is gone; `was_available` is what it had declared.
    pub(super) fn went_away(&mut self, device: DeviceKey, was_available: bool) {
        if was_available && !self.is_available(device.account) {
            self.publish_presence(device.account, false);
        }
    }

    fn is_available(&self, account: AccountId) -> bool {
        self.people[account.0].available
            || self
                .directory
                .devices_of(account)
                .iter()
                .filter_map(|device| self.online.get(device))
                .filter_map(|id| self.connections.get(id))
                .any(|connection| matches!(&connection.state, State::Online(o) if o.available))
    }

    fn publish_presence(&mut self, account: AccountId, available: bool) {
        let subscribers: Vec<DeviceKey> = self
            .subscriptions
            .get(&account)
            .into_iter()
            .flatten()
            .copied()
            .collect();
        for subscriber in subscribers {
            let as_seen = self.directory.account(account).jid(Addressing::Pn);
            let node = self.presence_of(account, &as_seen, available);
            self.send(subscriber, node);
        }
    }

    fn presence_of(
        &self,
        account: AccountId,
        asked_as: &wacore_binary::Jid,
        available: bool,
    ) -> Node {
        let addressing = Addressing::of(asked_as).unwrap_or(Addressing::Pn);
        let from = self.directory.account(account).jid(addressing);
        let builder = NodeBuilder::new("presence").attr("from", from);
        if available {
            builder.build()
        } else {
            builder
                .attr("type", "unavailable")
                .attr("last", self.now())
                .build()
        }
    }

    /// `<chatstate to=…>`: forwarded to every connected device of the peer.
    pub(super) fn on_chatstate(&mut self, from: DeviceKey, node: &Node) {
        let Some(to) = wire::jid_attr(node, "to") else {
            return;
        };
        let (Some(peer), Some(addressing)) = (self.directory.resolve(&to), Addressing::of(&to))
        else {
            return;
        };
        let sender = self.directory.account(from.account).jid(addressing);
        for device in self.directory.devices_of(peer) {
            let forwarded = NodeBuilder::new("chatstate")
                .attr("from", sender.clone())
                .apply_content(node.content.clone())
                .build();
            self.send(device, forwarded);
        }
    }
}
