//! What a sink remembers so that it need not ask the store about every arrival. Bounded; forgetting is
//! safe everywhere, it only costs a question or an idempotent write.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};

use crate::domain::ids::EventId;

/// Names remembered before they are forgotten together.
const NAMES: usize = 2_048;

/// Undecryptable reports remembered.
const REPORTS: usize = 512;

/// See the module documentation. Names are kept as hashes, to be small.
#[derive(Debug, Default)]
pub(super) struct Memory {
    hasher: RandomState,
    mappings: HashSet<u64>,
    contacts: HashSet<u64>,
    reports: HashMap<u64, EventId>,
    order: VecDeque<u64>,
    forgot_reports: bool,
}

impl Memory {
    /// Whether this pair of names has not been seen yet; it has been from now on.
    pub(super) fn is_new_mapping(&mut self, lid: &str, pn: &str) -> bool {
        let hash = self.hasher.hash_one((lid, pn));
        insert(&mut self.mappings, hash)
    }

    /// Whether this conversation has not been seen yet; it has been from now on.
    pub(super) fn is_new_contact(&mut self, alias: &str) -> bool {
        let hash = self.hasher.hash_one(alias);
        insert(&mut self.contacts, hash)
    }

    /// Remembers that a message was reported undecryptable. Senders choose stanza ids, so the sender's
    /// canonical name belongs to it.
    pub(super) fn reported(&mut self, sender: &str, stanza_id: &str, event: EventId) {
        let hash = self.hasher.hash_one((sender, stanza_id));
        if self.reports.insert(hash, event).is_some() {
            return;
        }
        self.order.push_back(hash);
        if self.order.len() > REPORTS
            && let Some(oldest) = self.order.pop_front()
        {
            self.reports.remove(&oldest);
            self.forgot_reports = true;
        }
    }

    /// The report of a message, and whether not finding one means that there is none.
    pub(super) fn report_of(&self, sender: &str, stanza_id: &str) -> (Option<EventId>, bool) {
        let hash = self.hasher.hash_one((sender, stanza_id));
        (self.reports.get(&hash).copied(), !self.forgot_reports)
    }
}

fn insert(set: &mut HashSet<u64>, hash: u64) -> bool {
    if set.len() >= NAMES {
        set.clear();
    }
    set.insert(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgetting_is_admitted() {
        let mut memory = Memory::default();
        assert!(memory.is_new_mapping("1@lid", "1@s.whatsapp.net"));
        assert!(!memory.is_new_mapping("1@lid", "1@s.whatsapp.net"));
        let event = EventId(uuid::Uuid::nil());
        memory.reported("1@lid", "A", event);
        assert_eq!(memory.report_of("1@lid", "A"), (Some(event), true));
        assert_eq!(memory.report_of("2@lid", "A"), (None, true));
        for n in 0..REPORTS {
            memory.reported("1@lid", &n.to_string(), event);
        }
        assert_eq!(memory.report_of("1@lid", "A"), (None, false));
    }
}
