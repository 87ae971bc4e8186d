//! Acks of an earlier run for events that were not read yet: they count when the event is.

use super::settle::{Acked, Ended};
use super::{Dispatch, Revision, Waiter};

/// Most events that were acked before they were read.
const MOST_EARLY: usize = 20_000;

impl Dispatch {
    /// Takes an ack of an earlier run for an event that is not in memory.
    pub(super) fn ack_early(&mut self, revision: Revision, waiter: Waiter) -> Result<Acked, Ended> {
        if revision < self.unread_from() {
            return Ok(Acked::Confirmed);
        }
        if self.early.len() >= MOST_EARLY && !self.early.contains_key(&revision) {
            return Err(Ended);
        }
        let waiters = self.early.entry(revision).or_default();
        if waiters.contains(&waiter) {
            return Ok(Acked::Repeated);
        }
        waiters.push(waiter);
        Ok(Acked::Accepted)
    }

    /// An event was read into memory: an ack that came before it counts now.
    pub(super) fn meet_early(&mut self, revision: Revision) {
        let Some(waiters) = self.early.remove(&revision) else {
            return;
        };
        if let Some(entry) = self.entries.get_mut(&revision) {
            entry.dead = false;
            entry.waiters = waiters;
            self.done(revision);
        }
    }

    /// Answers acks of events that were passed without being read into memory: they are settled, or gone
    /// from the journal.
    pub(super) fn answer_early(&mut self) {
        let later = self.early.split_off(&self.unread_from());
        for (_, waiters) in std::mem::replace(&mut self.early, later) {
            for waiter in waiters {
                self.tell(waiter, true);
            }
        }
    }

    /// Of what lies below, everything that is not settled is in memory.
    fn unread_from(&self) -> Revision {
        let spilled = self.spilled.first().map(|(from, _)| *from);
        spilled.map_or(self.cursor, |from| from.min(self.cursor))
    }
}
