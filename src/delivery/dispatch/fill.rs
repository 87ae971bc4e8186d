//! Filling the window from the journal, and making room in it.

use std::collections::BTreeSet;
use std::time::Duration;

use super::entry::{Entry, Place, State, Stream};
use super::{Dispatch, Revision};
use crate::store::Hash;

/// An event of the journal that is wanted and not settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::delivery) struct Load {
    /// Its position.
    pub(in crate::delivery) revision: Revision,
    /// Its ordering key.
    pub(in crate::delivery) key: Hash,
    /// Its size in bytes.
    pub(in crate::delivery) size: u64,
    /// How often its delivery failed before.
    pub(in crate::delivery) attempts: u32,
}

impl Dispatch {
    /// Everything below was read once; newer events are read from here.
    pub(in crate::delivery) fn cursor(&self) -> Revision {
        self.cursor
    }

    /// Where to read the journal next, if there is room and something to read up to `newest`.
    pub(in crate::delivery) fn next_read(&mut self, newest: Revision) -> Option<Revision> {
        let spilled = self.first_thirsty();
        let fresh = (self.cursor <= newest).then_some(self.cursor);
        if spilled.is_none() && fresh.is_none() {
            return None;
        }
        if self.entries.len() >= self.rules.window {
            self.make_room();
        }
        if self.entries.len() >= self.rules.window {
            return None;
        }
        let rescan = self.rescan_next || fresh.is_none();
        self.rescan_next = !self.rescan_next;
        if rescan { spilled.or(fresh) } else { fresh }
    }

    /// Takes a page of the journal that was read from `start` (given by [`Self::next_read`]): `loads` are
    /// the events in it that are wanted and not settled, in order; everything below `next` was looked at.
    pub(in crate::delivery) fn fill(
        &mut self,
        start: Revision,
        loads: &[Load],
        next: Revision,
        now: Duration,
    ) {
        let thirsty = self.thirsty(start);
        let cursor = self.cursor;
        let mut touched = Vec::new();
        let mut reached = next;
        for load in loads {
            let spilled = self.keys.get(&load.key).and_then(|key| key.spilled);
            let wanted = match spilled {
                // The rest of a spilled key stays where it is until the key needs it.
                Some(from) => thirsty.contains(&load.key) && load.revision >= from,
                None => load.revision >= cursor,
            };
            if !wanted || self.entries.contains_key(&load.revision) {
                continue;
            }
            if self.entries.len() >= self.rules.window {
                reached = load.revision;
                break;
            }
            self.insert(load);
            self.give_up_if_worn(load.revision);
            self.meet_early(load.revision);
            touched.push(load.key);
        }
        self.cursor = self.cursor.max(reached);
        for key in thirsty {
            let Some(from) = self.keys.get(&key).and_then(|record| record.spilled) else {
                continue;
            };
            self.spilled.remove(&(from, key));
            self.spill(key, from.max(reached));
            touched.push(key);
        }
        for key in touched {
            self.settle_key(key, now);
        }
        self.answer_early();
    }

    fn insert(&mut self, load: &Load) {
        let entry = Entry {
            key: load.key,
            size: load.size,
            attempts: load.attempts,
            drops: 0,
            first_leased: None,
            not_before: Duration::ZERO,
            state: State::Waiting,
            last_lease: None,
            dead: false,
            waiters: Vec::new(),
        };
        self.entries.insert(load.revision, entry);
        let record = self.keys.entry(load.key).or_default();
        record.revisions.push_back(load.revision);
    }

    /// Notes that a key's events from `from` on are only in the journal, or that none are.
    pub(super) fn spill(&mut self, key: Hash, from: Revision) {
        let Some(record) = self.keys.get_mut(&key) else {
            return;
        };
        if from < self.cursor {
            record.spilled = Some(from);
            self.spilled.insert((from, key));
        } else {
            record.spilled = None;
            self.forget_empty(key);
        }
    }

    /// Spilled keys whose rest lies wholly at or after `start`, of which nothing in memory is left to give
    /// out, and whose holder could take more.
    fn thirsty(&mut self, start: Revision) -> BTreeSet<Hash> {
        let spilled: Vec<_> = self
            .spilled
            .range((start, Hash([0; 16]))..)
            .copied()
            .collect();
        spilled
            .into_iter()
            .map(|(_, key)| key)
            .filter(|key| self.is_thirsty(*key))
            .collect()
    }

    fn first_thirsty(&mut self) -> Option<Revision> {
        let spilled: Vec<_> = self.spilled.iter().copied().collect();
        spilled
            .into_iter()
            .find(|(_, key)| self.is_thirsty(*key))
            .map(|(from, _)| from)
    }

    fn is_thirsty(&mut self, key: Hash) -> bool {
        let holder = self.keys.get(&key).and_then(|record| record.holder);
        let can_take = match holder {
            None => true,
            // A call that is over takes no more.
            Some(holder) => self.streams.get(&holder).is_some_and(Stream::has_credit),
        };
        can_take && self.candidate(key).is_none()
    }

    /// Spills the tails of keys that cannot be delivered now, if some stream could take other events.
    fn make_room(&mut self) {
        if !self.streams.values().any(Stream::has_credit) {
            return;
        }
        let blocked: Vec<Hash> = self
            .keys
            .iter()
            .filter(|(_, record)| matches!(record.place, Place::Delayed(_) | Place::Held(_)))
            .map(|(key, _)| *key)
            .collect();
        for key in blocked {
            let Some(first) = self.candidate(key) else {
                continue;
            };
            let mut from = None;
            while let Some(record) = self.keys.get_mut(&key)
                && let Some(last) = record.revisions.back().copied()
                && last > first
                && let Some(entry) = self.entries.get(&last)
                && entry.state == State::Waiting
            {
                record.revisions.pop_back();
                self.entries.remove(&last);
                from = Some(last);
            }
            if let Some(from) = from {
                if let Some(earlier) = self.keys.get(&key).and_then(|record| record.spilled) {
                    self.spilled.remove(&(earlier, key));
                }
                self.spill(key, from);
            }
        }
    }
}
