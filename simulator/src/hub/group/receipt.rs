//! Receipts of group messages: they name the group, and the author as participant.

use wacore_binary::builder::NodeBuilder;
use wacore_binary::{Jid, Node};

use super::roster::ADDRESSING;
use crate::directory::DeviceKey;
use crate::hub::Hub;
use crate::hub::mailbox::Class;
use crate::hub::receipt::own_kind;
use crate::wire::{self, Addressing};

impl Hub {
    /// Forwards a receipt to the author's devices, a request for a resend to the one that sent, and a
    /// read also to the reader's own.
    pub(in crate::hub) fn on_group_receipt(&mut self, from: DeviceKey, node: &Node, jid: &Jid) {
        let author = wire::jid_attr(node, "participant");
        let author = author.and_then(|author| self.directory.resolve_device(&author));
        let Some(author) = author else {
            return self.violation(from, None, "receipt to a group without a valid participant");
        };
        let in_it = self.groups.get(jid).is_some_and(|group| {
            group.role(from.account).is_some() && group.role(author.account).is_some()
        });
        if !in_it {
            return;
        }
        let own = from.account == author.account;
        match wire::attr(node, "type").as_deref() {
            Some("retry" | "server-error") => self.pass_on(from, node, jid, author),
            Some("sender" | "peer_msg" | "hist_sync") => {}
            Some("read-self" | "played-self") => self.tell_own(from, node, jid, author),
            Some("read" | "played") => {
                if !own {
                    self.tell_author(from, node, jid, author);
                }
                self.tell_own(from, node, jid, author);
            }
            _ if own => {}
            _ => self.tell_author(from, node, jid, author),
        }
    }

    fn tell_author(&mut self, from: DeviceKey, node: &Node, jid: &Jid, author: DeviceKey) {
        for device in self.directory.devices_of(author.account) {
            self.pass_on(from, node, jid, device);
        }
    }

    fn pass_on(&mut self, from: DeviceKey, node: &Node, jid: &Jid, to: DeviceKey) {
        let reader = self.address(from, ADDRESSING);
        let pn = self.address(from, Addressing::Pn).to_non_ad();
        let mut receipt = NodeBuilder::new("receipt")
            .attr("from", jid)
            .attr("participant", reader)
            .attr("participant_pn", pn)
            .attr("addressing_mode", ADDRESSING.as_str())
            .attr("t", self.now());
        for key in ["id", "type"] {
            if let Some(value) = node.attrs.get(key) {
                receipt = receipt.attr(key, value.clone());
            }
        }
        let receipt = receipt.apply_content(node.content.clone()).build();
        let label = self.label(from);
        self.deliver(to, &label, Class::Receipt, receipt);
    }

    /// The reader's other devices learn that it was read.
    fn tell_own(&mut self, from: DeviceKey, node: &Node, jid: &Jid, author: DeviceKey) {
        let label = self.label(from);
        let author = self.address(author, ADDRESSING);
        for device in self.directory.devices_of(from.account) {
            if device == from {
                continue;
            }
            let mut receipt = NodeBuilder::new("receipt")
                .attr("from", jid)
                .attr("participant", author.clone())
                .attr("type", own_kind(node))
                .attr("t", self.now());
            if let Some(id) = node.attrs.get("id") {
                receipt = receipt.attr("id", id.clone());
            }
            let receipt = receipt.apply_content(node.content.clone()).build();
            self.deliver(device, &label, Class::Receipt, receipt);
        }
    }
}
