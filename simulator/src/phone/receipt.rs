//! Receipts and acks: delivery and read, single and aggregated, in both directions.

use wacore_binary::builder::NodeBuilder;
use wacore_binary::{Jid, JidExt, Node};

use super::Phone;
use super::net::{Net, person};
use super::receive::Envelope;
use super::record::{DeviceReceipt, ReceiptKind, ViolationKind};
use super::stanza::{attr, jid, receipt_ids};

/// A group, if any, and who wrote.
type Chat = (Option<Jid>, Jid);

impl Phone {
    /// Marks messages as read by this person and returns the read receipts: one per sender and
    /// addressing, aggregated. Unknown and already read ids are left out.
    pub fn mark_read(&mut self, ids: &[String], net: &mut dyn Net) -> Vec<Node> {
        let now = net.now();
        let mut chats: Vec<(Chat, Vec<String>)> = Vec::new();
        for entry in &mut self.inbox {
            if entry.read.is_some() || !ids.contains(&entry.id) {
                continue;
            }
            entry.read = Some(now);
            let chat = (entry.group.clone(), entry.from.to_non_ad());
            match chats.iter_mut().find(|(known, _)| *known == chat) {
                Some((_, ids)) => ids.push(entry.id.clone()),
                None => chats.push((chat, vec![entry.id.clone()])),
            }
        }
        chats
            .into_iter()
            .map(|((group, sender), ids)| {
                let receipt = NodeBuilder::new("receipt")
                    .attr("type", "read")
                    .attr("t", now);
                let receipt = match group {
                    Some(group) => receipt.attr("to", group).attr("participant", sender),
                    None => receipt.attr("to", sender),
                };
                with_ids(receipt, &ids)
            })
            .collect()
    }

    pub(super) fn on_receipt(&mut self, stanza: &Node, net: &mut dyn Net) -> Vec<Node> {
        let chat = jid(stanza, "from");
        let group = chat.clone().filter(JidExt::is_group);
        let from = match &group {
            Some(_) => jid(stanza, "participant"),
            None => chat,
        };
        let Some(from) = from else {
            let detail = "receipt without from or participant".to_owned();
            self.object(stanza, ViolationKind::BadStanza { detail }, net.now());
            return Vec::new();
        };
        let kind = match attr(stanza, "type").unwrap_or_default().as_ref() {
            "" | "delivered" => ReceiptKind::Delivered,
            "inactive" => ReceiptKind::Inactive,
            "read" => ReceiptKind::Read,
            "played" => ReceiptKind::Played,
            "retry" => return self.on_retry(stanza, &from, group.as_ref(), net),
            "read-self" => {
                self.read_elsewhere(stanza, net);
                return Vec::new();
            }
            // `sender`, `peer_msg`, `hist_sync` and the like: between a companion and the server.
            _ => return Vec::new(),
        };
        if self.is_own(&from) {
            if kind == ReceiptKind::Read {
                self.read_elsewhere(stanza, net);
            }
            return Vec::new();
        }
        for id in receipt_ids(stanza) {
            self.record_receipt(stanza, &id, &from, group.as_ref(), kind, net);
        }
        Vec::new()
    }

    fn record_receipt(
        &mut self,
        stanza: &Node,
        id: &str,
        from: &Jid,
        group: Option<&Jid>,
        kind: ReceiptKind,
        net: &mut dyn Net,
    ) {
        let now = net.now();
        let sender = person(from, net);
        let Some(entry) = self.outbox_entry(id) else {
            // A companion's message whose copy has not arrived here (yet).
            return;
        };
        let addressed = match group {
            Some(group) => entry.to == *group,
            None => person(&entry.to, net) == sender,
        };
        if !addressed {
            self.object(stanza, ViolationKind::ForeignReceipt, now);
            return;
        }
        match kind {
            ReceiptKind::Inactive => {}
            ReceiptKind::Delivered => {
                entry.delivered.get_or_insert(now);
            }
            ReceiptKind::Read | ReceiptKind::Played => {
                entry.delivered.get_or_insert(now);
                entry.read.get_or_insert(now);
            }
        }
        let repeated = entry
            .receipts
            .iter()
            .any(|known| known.kind == kind && known.from == *from);
        if !repeated {
            entry.receipts.push(DeviceReceipt {
                from: from.clone(),
                kind,
                at: now,
            });
        }
    }

    /// Another device of this account read messages: they are read for the person.
    fn read_elsewhere(&mut self, stanza: &Node, net: &mut dyn Net) {
        let now = net.now();
        // In a group the participant is the author, elsewhere the recipient is the chat.
        let chat = jid(stanza, "recipient")
            .filter(|chat| !chat.is_group())
            .or_else(|| jid(stanza, "participant"));
        let chat = chat.map(|chat| person(&chat, net));
        let ids = receipt_ids(stanza);
        for entry in &mut self.inbox {
            let matches = ids.contains(&entry.id)
                && chat
                    .as_ref()
                    .is_none_or(|chat| person(&entry.from, net) == *chat);
            if matches {
                entry.read.get_or_insert(now);
            }
        }
    }

    pub(super) fn on_ack(&mut self, stanza: &Node, net: &mut dyn Net) {
        if attr(stanza, "class").is_none_or(|class| class != "message") {
            return;
        }
        let (Some(id), now) = (attr(stanza, "id"), net.now()) else {
            return;
        };
        let error = attr(stanza, "error").map(std::borrow::Cow::into_owned);
        let Some(entry) = self.outbox_entry(&id) else {
            return;
        };
        match error {
            Some(error) => entry.refused = Some(error),
            None => {
                entry.server_acked.get_or_insert(now);
            }
        }
    }
}

/// The delivery receipt for a message: plain to a peer, `sender` for an own device's copy,
/// `peer_msg` within the account.
pub(super) fn delivery(envelope: &Envelope) -> Node {
    let mut receipt = addressed_like(envelope).attr("id", envelope.id.as_str());
    if envelope.own && envelope.peer {
        receipt = receipt.attr("type", "peer_msg");
    } else if envelope.own {
        receipt = receipt.attr("type", "sender");
        if let Some(recipient) = &envelope.recipient {
            receipt = receipt.attr("recipient", recipient.to_non_ad());
        }
    }
    receipt.build()
}

/// A receipt back to where a message came from: to its sender, or to the group with the sender as
/// participant.
pub(super) fn addressed_like(envelope: &Envelope) -> NodeBuilder {
    let receipt = NodeBuilder::new("receipt");
    match &envelope.group {
        Some(group) => receipt
            .attr("to", group)
            .attr("participant", &envelope.from),
        None => receipt.attr("to", &envelope.from),
    }
}

/// Completes a receipt for several ids: the first is its own, the rest are listed.
fn with_ids(receipt: NodeBuilder, ids: &[String]) -> Node {
    let Some((first, rest)) = ids.split_first() else {
        return receipt.build();
    };
    let receipt = receipt.attr("id", first.as_str());
    if rest.is_empty() {
        return receipt.build();
    }
    let items = rest
        .iter()
        .map(|id| NodeBuilder::new("item").attr("id", id.as_str()).build());
    receipt
        .children([NodeBuilder::new("list").children(items).build()])
        .build()
}

/// Merges single delivery receipts that differ only in their id, keeping everything else in place.
pub(super) fn aggregate(sent: Vec<Node>) -> Vec<Node> {
    let mut others = Vec::new();
    let mut groups: Vec<(Node, Vec<String>)> = Vec::new();
    for node in sent {
        let mergeable = node.tag == "receipt" && node.content.is_none();
        let Some(id) = attr(&node, "id")
            .filter(|_| mergeable)
            .map(std::borrow::Cow::into_owned)
        else {
            others.push(node);
            continue;
        };
        let mut key = node.clone();
        key.attrs.0.retain(|(name, _)| name != "id");
        match groups.iter_mut().find(|(known, _)| *known == key) {
            Some((_, ids)) => ids.push(id),
            None => groups.push((key, vec![id])),
        }
    }
    others.extend(groups.into_iter().map(|(key, ids)| {
        let mut receipt = NodeBuilder::new("receipt");
        for (name, value) in key.attrs {
            if let std::borrow::Cow::Borrowed(name) = name {
                receipt = receipt.attr(name, value);
            }
        }
        with_ids(receipt, &ids)
    }));
    others
}
