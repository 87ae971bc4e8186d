//! Acks, nacks, deadlines: how events are settled or come again.

use std::time::Duration;

use super::entry::State;
use super::{Dispatch, Outcome, Revision, Waiter};
use crate::store::{DeliveryFailure, Hash};

/// First wait after a failure; doubles with each further one.
const BACKOFF_BASE: Duration = Duration::from_secs(1);

/// Longest wait after a failure.
const BACKOFF_CAP: Duration = Duration::from_mins(10);

/// A lease as a client's token names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::delivery) struct LeaseRef {
    /// The event.
    pub(in crate::delivery) revision: Revision,
    /// The lease, if this run of the machine gave it out; `None` for one of an earlier run, which is
    /// over, but whose ack is still welcome.
    pub(in crate::delivery) lease: Option<u64>,
}

/// The lease is over, and its event is no longer this client's to decide about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::delivery) struct Ended;

/// What an ack that was accepted came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::delivery) enum Acked {
    /// It is durable already.
    Confirmed,
    /// Its outcome follows.
    Accepted,
    /// The same ack is waiting for its outcome: there will be one for both.
    Repeated,
}

/// What is to be made durable. All of it comes from one moment and is written together.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::delivery) struct Writes {
    /// Events that are done.
    pub(in crate::delivery) acks: Vec<Ack>,
    /// Events that are given up, with their attempts.
    pub(in crate::delivery) dead: Vec<(Revision, u32)>,
    /// Deliveries that failed.
    pub(in crate::delivery) charges: Vec<Charge>,
}

/// An event that is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::delivery) struct Ack {
    pub(in crate::delivery) revision: Revision,
    /// When it was first given out, as far as is known.
    pub(in crate::delivery) first_leased: Option<Duration>,
    /// Deliveries of it that failed.
    pub(in crate::delivery) failures: u32,
}

/// A delivery that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::delivery) struct Charge {
    pub(in crate::delivery) revision: Revision,
    /// When the event was first given out.
    pub(in crate::delivery) first_leased: Option<Duration>,
    /// How it failed.
    pub(in crate::delivery) failure: DeliveryFailure,
    /// When.
    pub(in crate::delivery) at: Duration,
}

impl Writes {
    /// Whether there is nothing to write.
    pub(in crate::delivery) fn is_empty(&self) -> bool {
        self.acks.is_empty() && self.dead.is_empty() && self.charges.is_empty()
    }
}

/// How long an event waits after its `attempts`-th failure.
fn backoff(attempts: u32) -> Duration {
    let doublings = attempts.saturating_sub(1).min(16);
    (BACKOFF_BASE * (1 << doublings)).min(BACKOFF_CAP)
}

impl Dispatch {
    /// Accepts an ack. Its outcome follows once it is durable, or once an earlier event of its key has
    /// failed.
    ///
    /// # Errors
    /// [`Ended`] when the event was given out again meanwhile, or its lease is of this run and over.
    pub(in crate::delivery) fn ack(
        &mut self,
        lease: LeaseRef,
        waiter: Waiter,
        now: Duration,
    ) -> Result<Acked, Ended> {
        let Some(entry) = self.entries.get_mut(&lease.revision) else {
            return match lease.lease {
                _ if self.settled.contains(&lease.revision) => Ok(Acked::Confirmed),
                Some(_) => Err(Ended),
                None => self.ack_early(lease.revision, waiter),
            };
        };
        let current = match entry.state {
            State::Leased { lease, .. } => Some(lease),
            State::Waiting | State::Held | State::Settling => entry.last_lease,
        };
        if lease.lease.is_some() && lease.lease != current && entry.state != State::Settling {
            return Err(Ended);
        }
        if entry.dead {
            if entry.state == State::Settling {
                return Err(Ended);
            }
            entry.dead = false;
        }
        if entry.waiters.contains(&waiter) {
            return Ok(Acked::Repeated);
        }
        entry.waiters.push(waiter);
        let key = entry.key;
        self.done(lease.revision);
        self.settle_key(key, now);
        Ok(Acked::Accepted)
    }

    /// Refuses an event: it comes again after `delay`, or after a backoff.
    ///
    /// # Errors
    /// [`Ended`] when the lease is over.
    pub(in crate::delivery) fn nack(
        &mut self,
        lease: LeaseRef,
        delay: Option<Duration>,
        now: Duration,
    ) -> Result<(), Ended> {
        self.check_held(lease)?;
        self.fail(lease.revision, delay, false, now);
        Ok(())
    }

    /// Holds an event until `deadline`.
    ///
    /// # Errors
    /// [`Ended`] when the lease is over.
    pub(in crate::delivery) fn extend(
        &mut self,
        lease: LeaseRef,
        deadline: Duration,
    ) -> Result<(), Ended> {
        self.check_held(lease)?;
        self.move_deadline(lease.revision, deadline);
        Ok(())
    }

    /// The journal no longer has an event: there is nothing to deliver.
    pub(in crate::delivery) fn vanish(&mut self, revision: Revision, now: Duration) {
        if let Some(entry) = self.entries.get(&revision) {
            let key = entry.key;
            self.done(revision);
            self.settle_key(key, now);
        }
    }

    /// The journal no longer has anything below `oldest`.
    pub(in crate::delivery) fn compact(&mut self, oldest: Revision, now: Duration) {
        let gone: Vec<_> = self.entries.range(..oldest).map(|(r, _)| *r).collect();
        for revision in gone {
            self.vanish(revision, now);
        }
        let lost: Vec<_> = self
            .spilled
            .iter()
            .copied()
            .take_while(|(from, _)| *from < oldest)
            .collect();
        for (from, key) in lost {
            self.spilled.remove(&(from, key));
            self.spill(key, oldest);
        }
        self.cursor = self.cursor.max(oldest);
        self.answer_early();
    }

    /// Takes what is to be written. Give it to [`Self::written`] once it is durable.
    pub(in crate::delivery) fn take_writes(&mut self) -> Writes {
        std::mem::take(&mut self.writes)
    }

    /// These writes are durable: their events are settled.
    pub(in crate::delivery) fn written(&mut self, writes: &Writes, now: Duration) {
        let dead = writes.dead.iter().map(|(revision, _)| revision);
        let acked = writes.acks.iter().map(|ack| &ack.revision);
        for revision in acked.chain(dead) {
            let Some(entry) = self.entries.remove(revision) else {
                continue;
            };
            self.remember_settled(*revision);
            for waiter in entry.waiters {
                self.tell(waiter, true);
            }
            if let Some(record) = self.keys.get_mut(&entry.key)
                && let Some(index) = record.index(*revision)
            {
                record.revisions.remove(index);
                record.next = record.next.saturating_sub(usize::from(index < record.next));
                record.settling = record.settling.saturating_sub(1);
            }
            self.place(entry.key, now);
            self.forget_empty(entry.key);
        }
    }

    fn remember_settled(&mut self, revision: Revision) {
        self.settled.insert(revision);
        self.settled_order.push_back(revision);
        while self.settled_order.len() > self.rules.window.max(1) {
            if let Some(old) = self.settled_order.pop_front() {
                self.settled.remove(&old);
            }
        }
    }

    /// Notes an outcome for a stream that is still open.
    pub(super) fn tell(&mut self, waiter: Waiter, confirmed: bool) {
        if self.streams.contains_key(&waiter.stream) {
            self.outcomes.push(Outcome { waiter, confirmed });
        }
    }

    /// Whether a lease is in force.
    fn check_held(&self, lease: LeaseRef) -> Result<(), Ended> {
        let entry = self.entries.get(&lease.revision).ok_or(Ended)?;
        match entry.state {
            State::Leased { lease: held, .. } if lease.lease == Some(held) => Ok(()),
            _ => Err(Ended),
        }
    }

    /// The deadline of a lease has passed.
    pub(super) fn expire(&mut self, revision: Revision, now: Duration) {
        let Some(entry) = self.entries.get(&revision) else {
            return;
        };
        let State::Leased {
            handed_over,
            stream,
            ..
        } = entry.state
        else {
            return;
        };
        if !handed_over {
            self.give_back(revision, now);
            return;
        }
        let first = self.first_leased(entry.key);
        if first.is_some_and(|first| first != revision) {
            // Its turn has not come: its clock has not begun.
            self.move_deadline(revision, now + self.rules.ack_deadline);
        } else {
            self.suspect_if_kept(revision, stream);
            self.fail(revision, None, true, now);
        }
    }

    /// A stream did not take an event in time: others may have it. Nothing was delivered, so nothing
    /// failed.
    fn give_back(&mut self, revision: Revision, now: Duration) {
        let Some(key) = self.entries.get(&revision).map(|entry| entry.key) else {
            return;
        };
        self.release(revision);
        if let Some(record) = self.keys.get_mut(&key)
            && let Some(index) = record.index(revision)
        {
            record.next = record.next.min(index);
        }
        self.place(key, now);
    }

    /// A delivery failed. `late_ack`: whether an ack of it is still welcome until it is given out again.
    fn fail(&mut self, revision: Revision, delay: Option<Duration>, late_ack: bool, now: Duration) {
        let Some(entry) = self.entries.get(&revision) else {
            return;
        };
        let key = entry.key;
        let failure = if late_ack {
            DeliveryFailure::DeadlinePassed
        } else {
            DeliveryFailure::Refused
        };
        self.charge(revision, failure, now);
        self.take_back(key, revision, late_ack);
        if let Some(entry) = self.entries.get_mut(&revision) {
            entry.not_before = now + delay.unwrap_or_else(|| backoff(entry.attempts));
        }
        self.give_up_if_worn(revision);
        self.settle_key(key, now);
    }

    /// Counts a failure.
    pub(super) fn charge(&mut self, revision: Revision, failure: DeliveryFailure, now: Duration) {
        if let Some(entry) = self.entries.get_mut(&revision) {
            entry.attempts = entry.attempts.saturating_add(1);
            self.writes.charges.push(Charge {
                revision,
                first_leased: entry.first_leased,
                failure,
                at: now,
            });
        }
    }

    /// Takes back `first` and everything after it in its key that is leased or acked but not settled.
    pub(super) fn take_back(&mut self, key: Hash, first: Revision, keep_first: bool) {
        let Some(record) = self.keys.get_mut(&key) else {
            return;
        };
        let Some(index) = record.index(first) else {
            return;
        };
        record.next = record.next.min(index);
        let later: Vec<Revision> = record.revisions.range(index..).copied().collect();
        for revision in later {
            self.release(revision);
            let Some(entry) = self.entries.get_mut(&revision) else {
                continue;
            };
            if !(keep_first && revision == first) {
                entry.last_lease = None;
            }
            if entry.state == State::Held && !entry.dead {
                entry.state = State::Waiting;
                for waiter in std::mem::take(&mut entry.waiters) {
                    self.tell(waiter, false);
                }
            }
        }
    }

    /// Gives an event up when it has failed too often, which unblocks its key.
    pub(super) fn give_up_if_worn(&mut self, revision: Revision) {
        let most = self.rules.max_attempts;
        if let Some(entry) = self.entries.get_mut(&revision)
            && most > 0
            && entry.attempts >= most
        {
            entry.dead = true;
            self.done(revision);
        }
    }

    /// An event needs no further delivery.
    pub(super) fn done(&mut self, revision: Revision) {
        self.release(revision);
        if let Some(entry) = self.entries.get_mut(&revision)
            && entry.state == State::Waiting
        {
            entry.state = State::Held;
        }
    }

    /// Settles what is first in its key. If that moved the key on, the clock of the lease that is first
    /// now begins.
    pub(super) fn settle_key(&mut self, key: Hash, now: Duration) {
        let mut moved = false;
        while let Some(record) = self.keys.get_mut(&key)
            && let Some(revision) = record.revisions.get(record.settling).copied()
            && let Some(entry) = self.entries.get_mut(&revision)
            && entry.state == State::Held
        {
            entry.state = State::Settling;
            record.settling += 1;
            moved = true;
            if entry.dead {
                self.writes.dead.push((revision, entry.attempts));
            } else {
                self.writes.acks.push(Ack {
                    revision,
                    first_leased: entry.first_leased,
                    failures: entry.attempts,
                });
            }
        }
        if moved {
            self.start_clock(key, now + self.rules.ack_deadline);
        }
        self.place(key, now);
    }

    /// The lease that is first in its key lasts until `earliest` at least.
    fn start_clock(&mut self, key: Hash, earliest: Duration) {
        if let Some(first) = self.first_leased(key)
            && let Some(entry) = self.entries.get(&first)
            && let State::Leased { deadline, .. } = entry.state
            && deadline < earliest
        {
            self.move_deadline(first, earliest);
        }
    }
}
