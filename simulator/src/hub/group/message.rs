//! Messages to groups: one ciphertext for every device of every member, and a sender key for each
//! device that the sender named.

use std::collections::{BTreeMap, BTreeSet};

use wacore::messages::MessageUtils;
use wacore_binary::builder::NodeBuilder;
use wacore_binary::{Jid, Node};

use super::roster::{ADDRESSING, Group};
use crate::directory::DeviceKey;
use crate::hub::Hub;
use crate::hub::mailbox::Class;
use crate::hub::message::{BAD_REQUEST, NOT_FOUND, Nack};
use crate::ledger::Fact;
use crate::wire::{self, Addressing};

/// The sender is not in the group.
const FORBIDDEN: u16 = 403;
/// The sender addressed the group's members in another way than the group does.
const STALE_ADDRESSING: u16 = 421;

/// A message to a group that the server understands.
struct Plan<'a> {
    /// What each receiving device gets, in order: its sender key, then the group ciphertext.
    copies: BTreeMap<DeviceKey, Vec<&'a Node>>,
    /// The hash over the devices it should have been for, when the sender computed another.
    corrected_phash: Option<String>,
}

impl Hub {
    pub(in crate::hub) fn on_group_message(
        &mut self,
        from: DeviceKey,
        node: &Node,
        id: &str,
        jid: &Jid,
    ) {
        match self.group_plan(from, node, jid) {
            Ok(plan) => self.carry_to_group(from, node, id, jid, &plan),
            Err(nack) => self.nack(from, node, id, nack),
        }
    }

    fn group_plan<'a>(&self, from: DeviceKey, node: &'a Node, jid: &Jid) -> Result<Plan<'a>, Nack> {
        if wire::attr(node, "id").is_none_or(|id| id.is_empty()) {
            return Err(Nack::new(BAD_REQUEST, "message without id"));
        }
        let group = self
            .groups
            .get(jid)
            .ok_or_else(|| Nack::new(NOT_FOUND, "message to a group that does not exist"))?;
        if group.role(from.account).is_none() {
            // Whoever was removed a moment ago cannot know it yet: refused, and no offence.
            return Err(Nack::honest(FORBIDDEN));
        }
        if wire::attr(node, "addressing_mode").is_some_and(|mode| mode != ADDRESSING.as_str()) {
            return Err(Nack::honest(STALE_ADDRESSING));
        }
        let for_all: Vec<&Node> = node.get_children_by_tag("enc").collect();
        if let Some(named) = wire::jid_attr(node, "participant") {
            return self.resend_plan(from, group, &named, for_all);
        }
        let mut copies = self.named_copies(from, node)?;
        let members: BTreeSet<DeviceKey> = group.devices(&self.directory).into_iter().collect();
        // A device named by an honest sender that has not heard of the change yet.
        copies.retain(|device, _| members.contains(device));
        for &device in members.iter().filter(|device| **device != from) {
            if !for_all.is_empty() {
                copies.entry(device).or_default().extend(&for_all);
            }
        }
        if copies.is_empty() && members.len() > 1 {
            return Err(Nack::new(BAD_REQUEST, "message without <enc>"));
        }
        Ok(Plan {
            copies,
            corrected_phash: self.group_phash(node, &members),
        })
    }

    /// What the sender sealed for single devices. One that it knows under both names counts once.
    fn named_copies<'a>(
        &self,
        from: DeviceKey,
        node: &'a Node,
    ) -> Result<BTreeMap<DeviceKey, Vec<&'a Node>>, Nack> {
        let mut copies = BTreeMap::new();
        let participants = node.get_optional_child("participants");
        let named = participants.into_iter();
        for to in named.flat_map(|list| list.get_children_by_tag("to")) {
            let device = wire::jid_attr(to, "jid")
                .and_then(|jid| self.directory.resolve_device(&jid))
                .ok_or_else(|| Nack::new(BAD_REQUEST, "participant without an account"))?;
            let enc: Vec<&Node> = to.get_children_by_tag("enc").collect();
            if enc.is_empty() {
                return Err(Nack::new(BAD_REQUEST, "participant without <enc>"));
            }
            // Baileys seals its key for itself too; in a group nobody minds.
            if device != from && self.check_device(from, device)? {
                copies.entry(device).or_insert(enc);
            }
        }
        Ok(copies)
    }

    /// A resend goes to the one device that asked for it.
    fn resend_plan<'a>(
        &self,
        from: DeviceKey,
        group: &Group,
        named: &Jid,
        enc: Vec<&'a Node>,
    ) -> Result<Plan<'a>, Nack> {
        let device = self
            .directory
            .resolve_device(named)
            .ok_or_else(|| Nack::new(NOT_FOUND, "resend to nobody"))?;
        if group.role(device.account).is_none() || !self.check_device(from, device)? {
            return Err(Nack::honest(NOT_FOUND));
        }
        if enc.is_empty() {
            return Err(Nack::new(BAD_REQUEST, "message without <enc>"));
        }
        Ok(Plan {
            copies: BTreeMap::from([(device, enc)]),
            corrected_phash: None,
        })
    }

    /// The hash over every device of every member, the sender's own included, when the sender
    /// computed another one.
    fn group_phash(&self, node: &Node, members: &BTreeSet<DeviceKey>) -> Option<String> {
        let claimed = wire::attr(node, "phash")?;
        let jids: Vec<Jid> = members
            .iter()
            .map(|&device| self.address(device, ADDRESSING))
            .collect();
        let expected = MessageUtils::participant_list_hash(&jids).ok()?;
        (claimed != expected).then_some(expected)
    }

    fn carry_to_group(
        &mut self,
        from: DeviceKey,
        node: &Node,
        id: &str,
        jid: &Jid,
        plan: &Plan<'_>,
    ) {
        let sender = self.label(from);
        let fact = Fact::MessageAccepted {
            id: id.to_owned(),
            from: sender.clone(),
            to: jid.to_string(),
            recipients: plan.copies.keys().map(|&d| self.label(d)).collect(),
        };
        self.record(fact);
        for (&device, enc) in &plan.copies {
            let stanza = self.group_copy(from, node, jid, enc);
            self.deliver(device, &sender, Class::Message, stanza);
        }
        self.ack_message(from, node, id, plan.corrected_phash.as_deref());
    }

    /// The stanza one device receives.
    fn group_copy(&self, from: DeviceKey, node: &Node, jid: &Jid, enc: &[&Node]) -> Node {
        let sender = self.directory.account(from.account);
        let mut builder = NodeBuilder::new("message")
            .attr("from", jid)
            .attr("participant", self.address(from, ADDRESSING))
            .attr("participant_pn", sender.jid(Addressing::Pn))
            .attr("addressing_mode", ADDRESSING.as_str())
            .attr("t", self.now())
            .attr("notify", sender.name.as_str());
        for key in ["id", "type", "edit", "push_priority", "verified_name"] {
            if let Some(value) = node.attrs.get(key) {
                builder = builder.attr(key, value.clone());
            }
        }
        let starts_session = enc.iter().any(|enc| wire::attr_is(enc, "type", "pkmsg"));
        let others = node.children().unwrap_or_default().iter();
        let passed = others.filter(|child| match child.tag.as_ref() {
            "participants" | "enc" => false,
            "device-identity" => starts_session,
            _ => true,
        });
        let children: Vec<Node> = enc.iter().copied().chain(passed).cloned().collect();
        builder.children(children).build()
    }
}
