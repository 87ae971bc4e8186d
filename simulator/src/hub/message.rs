//! Messages: checked, split into one copy per device, queued, acknowledged.

use std::collections::BTreeSet;

use wacore::messages::MessageUtils;
use wacore_binary::builder::NodeBuilder;
use wacore_binary::{Jid, JidExt as _, Node};

use super::Hub;
use super::mailbox::Class;
use crate::directory::{AccountId, DeviceKey};
use crate::faults::Fault;
use crate::ledger::Fact;
use crate::wire::{self, Addressing};

pub(super) const BAD_REQUEST: u16 = 400;
pub(super) const NOT_FOUND: u16 = 404;

/// A copy for one device, as the sender addressed it.
struct Copy<'a> {
    device: DeviceKey,
    enc: Vec<&'a Node>,
}

/// Why a message is answered with an error.
pub(super) struct Nack {
    error: u16,
    /// What the sender did wrong; nothing when it could not know better.
    why: Option<String>,
}

impl Nack {
    pub(super) fn new(error: u16, why: impl Into<String>) -> Self {
        Self {
            error,
            why: Some(why.into()),
        }
    }

    pub(super) fn honest(error: u16) -> Self {
        Self { error, why: None }
    }
}

/// A message the server understands.
struct Plan<'a> {
    chat: Jid,
    addressing: Addressing,
    recipient: AccountId,
    copies: Vec<Copy<'a>>,
    /// The participant hash the server computes, when the sender's device list is out of date.
    corrected_phash: Option<String>,
    /// The sender has shown a token of the recipient's.
    trusted: bool,
}

impl Hub {
    pub(super) fn on_message(&mut self, from: DeviceKey, node: &Node) {
        let id = wire::attr(node, "id").unwrap_or_default().into_owned();
        let ordered = self.faults.take(Some(from), |fault| match fault {
            Fault::Nack { error } => Some(*error),
            _ => None,
        });
        if let Some(error) = ordered {
            return self.refuse_message(from, node, &id, error);
        }
        if let Some(group) = wire::jid_attr(node, "to").filter(Jid::is_group) {
            return self.on_group_message(from, node, &id, &group);
        }
        match self.plan(from, node) {
            Ok(plan) => self.carry_out(from, node, &id, &plan),
            Err(nack) => self.nack(from, node, &id, nack),
        }
    }

    pub(super) fn nack(&mut self, from: DeviceKey, node: &Node, id: &str, nack: Nack) {
        if let Some(why) = nack.why {
            self.violation(from, Some(id), why);
        }
        self.refuse_message(from, node, id, nack.error);
    }

    fn refuse_message(&mut self, from: DeviceKey, node: &Node, id: &str, error: u16) {
        let fact = Fact::MessageRefused {
            id: id.to_owned(),
            from: self.label(from),
            error,
        };
        self.record(fact);
        self.acknowledge(from, node, "message", Some(error));
    }

    fn plan<'a>(&self, from: DeviceKey, node: &'a Node) -> Result<Plan<'a>, Nack> {
        if wire::attr(node, "id").is_none_or(|id| id.is_empty()) {
            return Err(Nack::new(BAD_REQUEST, "message without id"));
        }
        let to = wire::jid_attr(node, "to")
            .ok_or_else(|| Nack::new(BAD_REQUEST, "message without a valid `to`"))?;
        let addressing = Addressing::of(&to)
            .ok_or_else(|| Nack::new(NOT_FOUND, format!("no such chat: {}", to.server)))?;
        let recipient = self
            .directory
            .resolve(&to)
            .ok_or_else(|| Nack::new(NOT_FOUND, "message to a number without an account"))?;
        let mut plan = Plan {
            addressing,
            recipient,
            copies: Vec::new(),
            corrected_phash: None,
            trusted: false,
            chat: to.to_non_ad(),
        };
        let Some(participants) = node.get_optional_child("participants") else {
            // Peer messages and resends go to the one device that `to` names.
            let device = DeviceKey {
                account: recipient,
                device: to.device,
            };
            let enc: Vec<&Node> = node.get_children_by_tag("enc").collect();
            if enc.is_empty() {
                return Err(Nack::new(BAD_REQUEST, "message without <enc>"));
            }
            if !self.check_device(from, device)? {
                return Err(Nack::new(
                    NOT_FOUND,
                    "message to a device that was unlinked",
                ));
            }
            plan.copies.push(Copy { device, enc });
            return Ok(plan);
        };
        plan.trusted = self.check_token(from, recipient, node)?;
        let mut named = BTreeSet::new();
        let mut addresses = Vec::new();
        for to in participants.get_children_by_tag("to") {
            let jid = wire::jid_attr(to, "jid")
                .ok_or_else(|| Nack::new(BAD_REQUEST, "participant without a valid jid"))?;
            let device = self
                .directory
                .resolve_device(&jid)
                .ok_or_else(|| Nack::new(NOT_FOUND, "participant without an account"))?;
            if device.account != recipient && device.account != from.account {
                return Err(Nack::new(BAD_REQUEST, "participant is not in this chat"));
            }
            if !named.insert(device) {
                return Err(Nack::new(BAD_REQUEST, "participant named twice"));
            }
            let linked = self.check_device(from, device)?;
            addresses.push(jid);
            let enc: Vec<&Node> = to.get_children_by_tag("enc").collect();
            if enc.is_empty() {
                return Err(Nack::new(BAD_REQUEST, "participant without <enc>"));
            }
            if linked {
                plan.copies.push(Copy { device, enc });
            }
        }
        if plan.copies.is_empty() {
            return Err(Nack::new(BAD_REQUEST, "message without participants"));
        }
        plan.corrected_phash = self.corrected_phash(from, recipient, &named, &addresses);
        Ok(plan)
    }

    /// Whether a named device is linked. One that never existed is the sender's invention;
    /// one that was unlinked may still be in an honest sender's list.
    pub(super) fn check_device(&self, from: DeviceKey, device: DeviceKey) -> Result<bool, Nack> {
        if device == from {
            return Err(Nack::new(BAD_REQUEST, "message to the sending device"));
        }
        let account = self.directory.account(device.account);
        if account.devices.contains_key(&device.device) {
            Ok(true)
        } else if account.former.contains(&device.device) {
            Ok(false)
        } else {
            Err(Nack::new(
                BAD_REQUEST,
                format!("message to device {} that never existed", device.device),
            ))
        }
    }

    /// The hash over the devices the message should have named, when it named others.
    fn corrected_phash(
        &self,
        from: DeviceKey,
        recipient: AccountId,
        named: &BTreeSet<DeviceKey>,
        addresses: &[Jid],
    ) -> Option<String> {
        let accounts: BTreeSet<AccountId> = [recipient, from.account].into();
        let expected: BTreeSet<DeviceKey> = accounts
            .into_iter()
            .flat_map(|account| self.directory.devices_of(account))
            .filter(|&device| device != from)
            .collect();
        if &expected == named {
            return None;
        }
        let addressing_of = |account: AccountId| {
            addresses
                .iter()
                .find(|jid| self.directory.resolve(jid) == Some(account))
                .and_then(Addressing::of)
                .unwrap_or(Addressing::Pn)
        };
        let jids: Vec<Jid> = expected
            .iter()
            .map(|&device| self.address(device, addressing_of(device.account)))
            .collect();
        MessageUtils::participant_list_hash(&jids).ok()
    }

    fn carry_out(&mut self, from: DeviceKey, node: &Node, id: &str, plan: &Plan<'_>) {
        self.acquaint(from.account, plan.recipient);
        let fact = Fact::MessageAccepted {
            id: id.to_owned(),
            from: self.label(from),
            to: plan.chat.to_string(),
            recipients: plan.copies.iter().map(|c| self.label(c.device)).collect(),
        };
        self.record(fact);
        if plan.trusted {
            self.record_token_shown(from, plan.recipient, id);
        }
        let sender = self.label(from);
        let blocked = self.has_blocked(plan.recipient, from.account);
        for copy in &plan.copies {
            if blocked && copy.device.account == plan.recipient {
                continue;
            }
            let stanza = self.copy_for(from, node, plan, copy);
            self.deliver(copy.device, &sender, Class::Message, stanza);
        }
        self.ack_message(from, node, id, plan.corrected_phash.as_deref());
    }

    pub(super) fn ack_message(
        &mut self,
        from: DeviceKey,
        node: &Node,
        id: &str,
        phash: Option<&str>,
    ) {
        let withheld = self
            .faults
            .take(Some(from), |f| {
                matches!(f, Fault::WithholdAcks).then_some(())
            })
            .is_some();
        if withheld {
            let fact = Fact::Fault {
                fault: Fault::WithholdAcks.name().to_owned(),
                device: self.label(from),
            };
            return self.record(fact);
        }
        let mut ack = super::ack_for(node, "message", self.now(), None);
        if let Some(phash) = phash {
            ack.attrs.insert("phash", phash);
        }
        let fact = Fact::MessageAcked {
            id: id.to_owned(),
            to: self.label(from),
        };
        self.record(fact);
        self.send(from, ack);
    }

    /// The stanza one device receives.
    fn copy_for(&self, from: DeviceKey, node: &Node, plan: &Plan<'_>, copy: &Copy<'_>) -> Node {
        let sender = self.directory.account(from.account);
        let other = match plan.addressing {
            Addressing::Pn => Addressing::Lid,
            Addressing::Lid => Addressing::Pn,
        };
        let mut builder = NodeBuilder::new("message")
            .attr("from", self.address(from, plan.addressing))
            .attr("t", self.now())
            .attr("notify", sender.name.as_str())
            .attr("addressing_mode", plan.addressing.as_str());
        for key in [
            "id",
            "type",
            "edit",
            "category",
            "push_priority",
            "verified_name",
        ] {
            if let Some(value) = node.attrs.get(key) {
                builder = builder.attr(key, value.clone());
            }
        }
        builder = builder.attr(
            match other {
                Addressing::Lid => "sender_lid",
                Addressing::Pn => "sender_pn",
            },
            sender.jid(other),
        );
        let is_peer = wire::attr_is(node, "category", "peer");
        if copy.device.account == from.account && !is_peer {
            let key = match other {
                Addressing::Lid => "peer_recipient_lid",
                Addressing::Pn => "peer_recipient_pn",
            };
            // A resend to one device of the account names the chat itself.
            let named = wire::jid_attr(node, "recipient")
                .filter(|_| node.get_optional_child("participants").is_none());
            let chat = named.unwrap_or_else(|| plan.chat.clone());
            if let Some(recipient) = self.directory.resolve(&chat) {
                builder = builder.attr(key, self.directory.account(recipient).jid(other));
            }
            builder = builder.attr("recipient", chat.to_non_ad());
        }
        let prekey_message = copy
            .enc
            .iter()
            .any(|enc| wire::attr_is(enc, "type", "pkmsg"));
        let passed =
            node.children()
                .unwrap_or_default()
                .iter()
                .filter(|child| match child.tag.as_ref() {
                    "participants" | "enc" | "tctoken" | "cstoken" => false,
                    "device-identity" => prekey_message,
                    _ => true,
                });
        let children: Vec<Node> = copy.enc.iter().copied().chain(passed).cloned().collect();
        builder.children(children).build()
    }
}
