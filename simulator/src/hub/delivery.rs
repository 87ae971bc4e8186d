//! From the queue to the socket: backlog with preview and batches first, then live.

use wacore_binary::Node;
use wacore_binary::builder::NodeBuilder;

use super::connection::{ConnectionId, Departure, Phase, State};
use super::mailbox::{Class, Letter};
use super::people::Waiting;
use super::{Hub, receipt_ids};
use crate::directory::DeviceKey;
use crate::faults::Fault;
use crate::ledger::Fact;
use crate::wire;

/// Stanzas sent after the preview before the client has asked for any.
const PRIMER: usize = 5;

impl Hub {
    /// Queues a stanza for a device and sends it if the device is there.
    pub(super) fn deliver(&mut self, to: DeviceKey, from: &str, class: Class, node: Node) {
        if to.is_phone() {
            if let Some(waiting) = &mut self.people[to.account.0].waiting {
                let from = from.to_owned();
                waiting.push(Waiting { from, class, node });
                return;
            }
            let fact = delivered(class, &node, from, &self.label(to), 1, false);
            self.record(fact);
            self.errands.push_back((to.account, node));
            return;
        }
        let id = wire::attr(&node, "id").unwrap_or_default().into_owned();
        let kind = wire::attr(&node, "type")
            .filter(|_| class == Class::Receipt)
            .map(std::borrow::Cow::into_owned);
        self.mailboxes
            .entry(to)
            .or_default()
            .push(class, id, kind, from.to_owned(), node);
        if let Some(&connection) = self.online.get(&to) {
            self.pump(connection);
        }
    }

    /// The client left passive mode: announce the backlog, or say that there is none.
    pub(super) fn activate(&mut self, id: ConnectionId) {
        let Some(online) = self.online_mut(id) else {
            return;
        };
        if online.phase != Phase::Passive {
            return;
        }
        let device = online.device;
        let mailbox = self.mailboxes.entry(device).or_default();
        let (total, until) = (mailbox.len(), mailbox.next_number());
        let preview = (total > 0).then(|| {
            NodeBuilder::new("offline_preview")
                .attr("count", total)
                .attr("message", mailbox.count(Class::Message))
                .attr("receipt", mailbox.count(Class::Receipt))
                .attr("notification", mailbox.count(Class::Notification))
                .attr("appdata", 0)
                .attr("call", mailbox.count(Class::Call))
                .attr("status", 0)
                .build()
        });
        if let Some(online) = self.online_mut(id) {
            online.phase = Phase::Draining {
                until,
                total,
                credit: if online.pull { PRIMER } else { usize::MAX },
            };
        }
        let fact = Fact::Active {
            device: self.label(device),
            backlog: total,
        };
        self.record(fact);
        if let Some(preview) = preview {
            self.transmit(id, wire::ib(preview));
        }
        self.pump(id);
    }

    /// `<ib>` from a client: `offline_batch` asks for more of the backlog.
    pub(super) fn on_ib(&mut self, from: DeviceKey, node: &Node) {
        let Some(batch) = node.get_optional_child("offline_batch") else {
            return;
        };
        let count = wire::uint_attr(batch, "count").unwrap_or(0);
        let Some(&id) = self.online.get(&from) else {
            return;
        };
        if let Some(online) = self.online_mut(id)
            && let Phase::Draining { credit, .. } = &mut online.phase
        {
            *credit = credit.saturating_add(usize::try_from(count).unwrap_or(usize::MAX));
        }
        self.pump(id);
    }

    /// Sends everything the connection's phase allows.
    pub(super) fn pump(&mut self, id: ConnectionId) {
        while self.pump_one(id) {}
    }

    /// Sends one letter, or finishes the backlog. Returns whether there may be more to do.
    fn pump_one(&mut self, id: ConnectionId) -> bool {
        let Some(online) = self.online_mut(id) else {
            return false;
        };
        let (device, phase, cursor) = (online.device, online.phase, online.cursor);
        if phase == Phase::Passive || self.is_silent(Some(device), false) {
            return false;
        }
        let next = self
            .mailboxes
            .get_mut(&device)
            .and_then(|mailbox| mailbox.first_from(cursor))
            .map(|letter| letter.number);
        if let Phase::Draining {
            until,
            total,
            credit,
        } = phase
        {
            if next.is_none_or(|number| number >= until) {
                let done = NodeBuilder::new("offline").attr("count", total).build();
                self.transmit(id, wire::ib(done));
                if let Some(online) = self.online_mut(id) {
                    online.phase = Phase::Live;
                }
                return true;
            }
            if credit == 0 {
                return false;
            }
            if let Some(online) = self.online_mut(id) {
                online.phase = Phase::Draining {
                    until,
                    total,
                    credit: credit - 1,
                };
            }
        }
        let Some(number) = next else {
            return false;
        };
        self.post(id, device, number, matches!(phase, Phase::Draining { .. }));
        true
    }

    /// Puts one letter on the wire, twice or out of turn if that is ordered.
    fn post(&mut self, id: ConnectionId, device: DeviceKey, number: u64, offline: bool) {
        if let Some(online) = self.online_mut(id) {
            online.cursor = number + 1;
        }
        let is_message = self
            .letter(device, number)
            .is_some_and(|letter| letter.class == Class::Message);
        if is_message && self.strike(device, &Fault::Duplicate) {
            self.post_once(id, device, number, offline, false);
        }
        let overtaken = is_message && self.strike(device, &Fault::Reorder);
        self.post_once(id, device, number, offline, overtaken);
    }

    fn letter(&mut self, device: DeviceKey, number: u64) -> Option<&mut Letter> {
        self.mailboxes.get_mut(&device)?.first_from(number)
    }

    fn post_once(
        &mut self,
        id: ConnectionId,
        device: DeviceKey,
        number: u64,
        offline: bool,
        overtaken: bool,
    ) {
        let Some(letter) = self.letter(device, number) else {
            return;
        };
        letter.attempts += 1;
        letter.copies += 1;
        let (class, attempt, from) = (letter.class, letter.attempts, letter.from.clone());
        let mut node = letter.node.clone();
        if offline {
            node.attrs.insert("offline", attempt - 1);
        }
        let fact = delivered(class, &node, &from, &self.label(device), attempt, offline);
        self.transmit_letter(id, node, Departure { fact, overtaken });
    }

    /// Uses up one occurrence of a condition without parameters.
    pub(super) fn strike(&mut self, device: DeviceKey, wanted: &Fault) -> bool {
        let hit = self
            .faults
            .take(Some(device), |fault| (fault == wanted).then_some(()))
            .is_some();
        if hit {
            let fact = Fact::Fault {
                fault: wanted.name().to_owned(),
                device: self.label(device),
            };
            self.record(fact);
        }
        hit
    }

    /// `<ack>` from a client: the stanza leaves its queue, negative or not.
    pub(super) fn on_ack(&mut self, from: DeviceKey, node: &Node) {
        let class = match wire::attr(node, "class").as_deref() {
            Some("message") => Class::Message,
            Some("receipt") => Class::Receipt,
            Some("notification") => Class::Notification,
            Some("call") => Class::Call,
            _ => return,
        };
        let id = wire::attr(node, "id").unwrap_or_default().into_owned();
        let kind = wire::attr(node, "type").map(std::borrow::Cow::into_owned);
        let error = wire::attr(node, "error").map(std::borrow::Cow::into_owned);
        self.confirm(from, class, &id, kind.as_deref(), error);
    }

    /// A receipt is also the confirmation of the messages it names.
    pub(super) fn confirm_by_receipt(&mut self, from: DeviceKey, node: &Node) {
        for id in receipt_ids(node) {
            let gone = self
                .mailboxes
                .get_mut(&from)
                .map_or(0, |mailbox| mailbox.confirm_message(&id));
            for _ in 0..gone {
                self.record_confirmed(from, Class::Message, &id, None);
            }
        }
    }

    fn confirm(
        &mut self,
        by: DeviceKey,
        class: Class,
        id: &str,
        kind: Option<&str>,
        error: Option<String>,
    ) {
        let Some(mailbox) = self.mailboxes.get_mut(&by) else {
            return;
        };
        if mailbox.confirm(class, id, kind) {
            self.record_confirmed(by, class, id, error);
        }
    }

    fn record_confirmed(&mut self, by: DeviceKey, class: Class, id: &str, error: Option<String>) {
        let fact = Fact::Confirmed {
            class: class.as_str().to_owned(),
            id: id.to_owned(),
            by: self.label(by),
            error,
        };
        self.record(fact);
    }

    /// Stanzas that wait for a device.
    pub(crate) fn backlog(&self, device: DeviceKey) -> usize {
        self.mailboxes.get(&device).map_or(0, super::Mailbox::len)
    }

    /// Resumes delivery everywhere, after faults were lifted.
    pub(super) fn pump_all(&mut self) {
        let ids: Vec<ConnectionId> = self
            .connections
            .iter()
            .filter(|(_, connection)| matches!(connection.state, State::Online(_)))
            .map(|(&id, _)| id)
            .collect();
        for id in ids {
            self.pump(id);
        }
    }
}

fn delivered(class: Class, node: &Node, from: &str, to: &str, attempt: u32, offline: bool) -> Fact {
    Fact::Delivered {
        class: class.as_str().to_owned(),
        id: wire::attr(node, "id").unwrap_or_default().into_owned(),
        from: from.to_owned(),
        to: to.to_owned(),
        attempt,
        offline,
    }
}
