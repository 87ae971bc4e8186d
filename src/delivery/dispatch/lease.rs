//! Giving events out.

use std::time::Duration;

use super::entry::{Place, State, Stream};
use super::{BURST, Credit, Dispatch, Revision, SUSPECT_AFTER, StreamId};
use crate::store::Hash;

/// Given to a stream at once, at most; a larger event goes alone. Little, because the leases of what waits
/// on the way to a slow client run out before it has read them.
const BATCH: Credit = Credit {
    events: 32,
    bytes: 256 << 10,
};

/// An event given to a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::delivery) struct Grant {
    /// The stream.
    pub(in crate::delivery) stream: StreamId,
    /// The event.
    pub(in crate::delivery) revision: Revision,
    /// The lease; differs with every delivery.
    pub(in crate::delivery) lease: u64,
    /// Which delivery this is, from 1, not counting ones that were taken back unharmed.
    pub(in crate::delivery) attempt: u32,
}

/// Why a stream takes no more of a key.
enum Stop {
    /// The next event does not fit its credit: nothing else may overtake it either.
    Full,
    /// The next event is suspect and the stream has one already.
    Suspect,
    /// Nothing left, or its turn is over.
    Done,
}

impl Dispatch {
    /// A stream has taken what it was given last, if anything: it may be given a batch.
    pub(in crate::delivery) fn ready(&mut self, id: StreamId, now: Duration) {
        self.handed_over(id, now);
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.room = Some(if stream.call { stream.credit } else { BATCH });
        }
    }

    /// A stream has taken what it was given last: the clocks of those leases begin.
    pub(in crate::delivery) fn handed_over(&mut self, id: StreamId, now: Duration) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        for (revision, given) in std::mem::take(&mut stream.on_the_way) {
            if let Some(entry) = self.entries.get_mut(&revision)
                && let State::Leased {
                    lease,
                    deadline,
                    handed_over,
                    ..
                } = &mut entry.state
                && *lease == given
            {
                *handed_over = true;
                // An extension may have come first.
                let until = (now + self.rules.ack_deadline).max(*deadline);
                self.move_deadline(revision, until);
            }
        }
    }

    /// Gives out whatever may go now, in turns among streams and keys: to each stream a batch at most,
    /// and none to one that has not taken its last.
    pub(in crate::delivery) fn lease(&mut self, now: Duration) -> Vec<Grant> {
        let mut grants = Vec::new();
        let turn = self.turn;
        let order: Vec<StreamId> = self
            .streams
            .range(turn..)
            .chain(self.streams.range(..turn))
            .map(|(id, _)| *id)
            .collect();
        self.turn = order.first().map_or(0, |first| first + 1);
        loop {
            let before = grants.len();
            for id in &order {
                self.lease_to(*id, now, &mut grants);
            }
            if grants.len() == before {
                break;
            }
        }
        for stream in self.streams.values_mut() {
            if !stream.on_the_way.is_empty() {
                stream.room = None;
            }
        }
        grants
    }

    fn lease_to(&mut self, id: StreamId, now: Duration, grants: &mut Vec<Grant>) {
        let mut left = BURST;
        let mut passed_over = Vec::new();
        while left > 0 && self.streams.get(&id).is_some_and(Stream::is_open) {
            let Some(key) = self.next_key(id) else { break };
            let before = grants.len();
            let stop = self.lease_key(id, key, now, left, grants);
            left -= (grants.len() - before).min(left);
            match stop {
                Stop::Done => self.place(key, now),
                Stop::Suspect => passed_over.push(key),
                Stop::Full => {
                    self.place_first(key, now);
                    break;
                }
            }
        }
        for key in passed_over {
            self.place(key, now);
        }
    }

    /// Takes the next key off the queues this stream may serve, its own first.
    fn next_key(&mut self, id: StreamId) -> Option<Hash> {
        loop {
            let own = self.streams.get_mut(&id)?.ready.pop_front();
            let (key, place) = match own {
                Some(key) => (key, Place::Held(id)),
                None => (self.ready.pop_front()?, Place::Ready),
            };
            // Queues may hold keys that have moved since: only the place on record counts.
            if let Some(record) = self.keys.get_mut(&key)
                && record.place == place
            {
                record.place = Place::Nowhere;
                return Some(key);
            }
        }
    }

    fn lease_key(
        &mut self,
        id: StreamId,
        key: Hash,
        now: Duration,
        most: usize,
        grants: &mut Vec<Grant>,
    ) -> Stop {
        for _ in 0..most {
            let Some(revision) = self.candidate(key) else {
                return Stop::Done;
            };
            let (Some(entry), Some(stream), Some(record)) = (
                self.entries.get_mut(&revision),
                self.streams.get_mut(&id),
                self.keys.get_mut(&key),
            ) else {
                return Stop::Done;
            };
            if entry.not_before > now {
                return Stop::Done;
            }
            if !stream.fits(entry.size) || (stream.call && self.call_leases >= self.rules.most_kept)
            {
                return Stop::Full;
            }
            let suspect = entry.drops >= SUSPECT_AFTER;
            if suspect && stream.suspects > 0 {
                return Stop::Suspect;
            }
            let lease = self.next_lease;
            self.next_lease += 1;
            let deadline = now + self.rules.ack_deadline;
            entry.state = State::Leased {
                lease,
                stream: id,
                deadline,
                handed_over: false,
            };
            entry.last_lease = Some(lease);
            entry.first_leased.get_or_insert(now);
            stream.leases.insert(revision);
            stream.events += 1;
            stream.bytes += entry.size;
            if let Some(room) = &mut stream.room {
                room.events -= 1;
                room.bytes = room.bytes.saturating_sub(entry.size);
            }
            stream.on_the_way.push((revision, lease));
            stream.suspects += usize::from(suspect);
            self.call_leases += usize::from(stream.call);
            record.leased += 1;
            record.holder = Some(id);
            record.next += 1;
            self.deadlines.insert((deadline, revision));
            grants.push(Grant {
                stream: id,
                revision,
                lease,
                attempt: entry.attempts.saturating_add(1),
            });
        }
        Stop::Done
    }

    /// Like [`Self::place`], but before all others: its event is too large to fit now and must not be
    /// overtaken for ever by smaller ones.
    fn place_first(&mut self, key: Hash, now: Duration) {
        self.place(key, now);
        match self.keys.get(&key).map(|record| record.place) {
            Some(Place::Ready) => {
                self.ready.pop_back();
                self.ready.push_front(key);
            }
            Some(Place::Held(holder)) => {
                if let Some(stream) = self.streams.get_mut(&holder) {
                    stream.ready.pop_back();
                    stream.ready.push_front(key);
                }
            }
            _ => {}
        }
    }

    /// Ends the lease of an event, whatever comes next for it.
    pub(super) fn release(&mut self, revision: Revision) {
        let Some(entry) = self.entries.get_mut(&revision) else {
            return;
        };
        let State::Leased {
            stream, deadline, ..
        } = entry.state
        else {
            return;
        };
        entry.state = State::Waiting;
        self.deadlines.remove(&(deadline, revision));
        let holder = match self.streams.get_mut(&stream) {
            Some(open) => Some(open),
            None => self.kept.get_mut(&stream),
        };
        if let Some(holder) = holder {
            holder.leases.remove(&revision);
            holder.events = holder.events.saturating_sub(1);
            holder.bytes = holder.bytes.saturating_sub(entry.size);
            if entry.drops >= SUSPECT_AFTER {
                holder.suspects = holder.suspects.saturating_sub(1);
            }
            if holder.call {
                self.call_leases = self.call_leases.saturating_sub(1);
                if holder.leases.is_empty() {
                    self.kept.remove(&stream);
                }
            }
        }
        if let Some(record) = self.keys.get_mut(&entry.key) {
            record.leased = record.leased.saturating_sub(1);
            if record.leased == 0 {
                record.holder = None;
            }
        }
    }

    /// The first event of a key that is leased.
    pub(super) fn first_leased(&self, key: Hash) -> Option<Revision> {
        let record = self.keys.get(&key)?;
        if record.leased == 0 {
            return None;
        }
        record.revisions.iter().copied().find(|revision| {
            self.entries
                .get(revision)
                .is_some_and(|entry| matches!(entry.state, State::Leased { .. }))
        })
    }

    /// Moves the end of a lease.
    pub(super) fn move_deadline(&mut self, revision: Revision, to: Duration) {
        if let Some(entry) = self.entries.get_mut(&revision)
            && let State::Leased { deadline, .. } = &mut entry.state
        {
            self.deadlines.remove(&(*deadline, revision));
            *deadline = to;
            self.deadlines.insert((to, revision));
        }
    }
}
