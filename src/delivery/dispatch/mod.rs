//! Which event goes to which stream: a pure machine over time that is passed in.
//!
//! It holds a bounded window of events that are not settled yet. Events of one ordering key go to one
//! stream at a time and in order; their acks are settled in order. What does not fit the window is left
//! in the journal: the tail of a key that cannot be delivered now is *spilled* (dropped from memory,
//! remembered as "from this revision on") and read again when the key moves.
//!
//! A stream is given a batch at a time, and the next one when it has taken the last. The clock of a lease
//! begins when its stream has taken it; what is not taken in time goes to other streams, and only what
//! was taken is ever charged an attempt. A consumer that stops reading so holds one batch, however much
//! credit it asked for.
//!
//! A call without a stream of its own is a stream for one batch; what it was given is then *kept*: it stays
//! leased, under the call's name, when the call is over.
//!
//! A lease ends by ack, nack, deadline, or with its stream. When an event fails, everything later in its
//! key is taken back too and comes again in order, without being charged: attempts count against the
//! event that failed. The clock of a lease runs while it is the first of its key, because nothing after
//! it can be settled anyway.

mod early;
mod entry;
mod fill;
mod keep;
mod lease;
mod settle;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use entry::{Entry, Key, Place, State, Stream};
pub(super) use fill::Load;
pub(super) use settle::{Acked, LeaseRef, Writes};

use crate::store::{DeliveryFailure, Hash};

/// Position in the journal.
pub(super) type Revision = u64;

/// One open Pull stream.
pub(super) type StreamId = u64;

/// The numbers the machine follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rules {
    /// How long a lease lasts without a word.
    pub(super) ack_deadline: Duration,
    /// After so many failures an event is given up; 0: never.
    pub(super) max_attempts: u32,
    /// Most events in memory.
    pub(super) window: usize,
    /// Most events that calls may hold together, answered or not.
    pub(super) most_kept: usize,
}

/// What a stream may hold at any time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credit {
    /// Events.
    pub events: u64,
    /// Bytes; one event larger than this is given out alone.
    pub bytes: u64,
}

/// Who is to be told what became of an ack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Waiter {
    /// The stream it came on.
    pub(super) stream: StreamId,
    /// The token as the client gave it.
    pub(super) ack_id: Arc<str>,
}

/// What became of an ack that had been accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Who is to be told.
    pub(super) waiter: Waiter,
    /// Durable, or overtaken by a failure earlier in its key.
    pub(super) confirmed: bool,
}

/// How many streams an event must have been lost with before it is delivered in isolation.
const SUSPECT_AFTER: u8 = 2;

/// Events of one key given to a stream before the next key has its turn.
const BURST: usize = 32;

/// The machine. See the module documentation.
#[derive(Debug)]
pub(super) struct Dispatch {
    rules: Rules,
    entries: BTreeMap<Revision, Entry>,
    keys: HashMap<Hash, Key>,
    streams: BTreeMap<StreamId, Stream>,
    /// Calls that are over and whose leases are not.
    kept: BTreeMap<StreamId, Stream>,
    /// Leases of calls, answered or not.
    call_leases: usize,
    /// Keys that no stream holds and whose next event may go out.
    ready: VecDeque<Hash>,
    /// Keys whose next event has to wait.
    delayed: BTreeSet<(Duration, Hash)>,
    /// Ends of leases.
    deadlines: BTreeSet<(Duration, Revision)>,
    /// Keys with events that were left in the journal, by the first of them.
    spilled: BTreeSet<(Revision, Hash)>,
    /// Everything below was read from the journal once.
    cursor: Revision,
    /// Whether the next read should look for spilled events before new ones.
    rescan_next: bool,
    next_lease: u64,
    next_stream: StreamId,
    /// The stream that is served first in the next round.
    turn: StreamId,
    /// Settled lately, so that a repeated ack is confirmed and not mistaken for a stale one.
    settled: HashSet<Revision>,
    settled_order: VecDeque<Revision>,
    /// Acks of an earlier run for events that are not in memory, and who waits for them.
    early: BTreeMap<Revision, Vec<Waiter>>,
    writes: Writes,
    outcomes: Vec<Outcome>,
}

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// The client finished, or we are stopping: its events go back unharmed.
    Orderly,
    /// The connection broke: the first event of each key, if it was handed over, may be why, and is
    /// charged an attempt.
    Broken,
}

impl Dispatch {
    /// A machine that begins to read at `cursor`.
    pub(super) fn new(rules: Rules, cursor: Revision) -> Self {
        Self {
            rules,
            entries: BTreeMap::new(),
            keys: HashMap::new(),
            streams: BTreeMap::new(),
            kept: BTreeMap::new(),
            call_leases: 0,
            ready: VecDeque::new(),
            delayed: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            spilled: BTreeSet::new(),
            cursor,
            rescan_next: false,
            next_lease: 1,
            next_stream: 1,
            turn: 0,
            settled: HashSet::new(),
            settled_order: VecDeque::new(),
            early: BTreeMap::new(),
            writes: Writes::default(),
            outcomes: Vec::new(),
        }
    }

    /// Opens a stream.
    pub(super) fn open(&mut self, credit: Credit) -> StreamId {
        self.insert_stream(Stream::new(credit, false))
    }

    fn insert_stream(&mut self, stream: Stream) -> StreamId {
        let id = self.next_stream;
        self.next_stream += 1;
        self.streams.insert(id, stream);
        id
    }

    /// Ends a stream, or what is kept of a call, and takes its leases back.
    pub(super) fn close(&mut self, id: StreamId, ending: Ending, now: Duration) {
        let Some(stream) = self.streams.get(&id).or_else(|| self.kept.get(&id)) else {
            return;
        };
        let mut firsts: HashMap<Hash, Revision> = HashMap::new();
        for revision in &stream.leases {
            if let Some(entry) = self.entries.get(revision) {
                firsts.entry(entry.key).or_insert(*revision);
            }
        }
        for (key, first) in firsts {
            if ending == Ending::Broken
                && let Some(entry) = self.entries.get_mut(&first)
                && let State::Leased {
                    handed_over: true, ..
                } = entry.state
            {
                entry.drops = entry.drops.saturating_add(1);
                self.charge(first, DeliveryFailure::StreamEnded, now);
            }
            self.take_back(key, first, true);
            self.give_up_if_worn(first);
            self.settle_key(key, now);
        }
        self.streams.remove(&id);
        self.outcomes.retain(|outcome| outcome.waiter.stream != id);
    }

    /// Does what is due: ends leases, wakes delayed keys.
    pub(super) fn tick(&mut self, now: Duration) {
        while let Some((deadline, revision)) = self.deadlines.first().copied() {
            if deadline > now {
                break;
            }
            self.expire(revision, now);
        }
        while let Some((until, key)) = self.delayed.first().copied() {
            if until > now {
                break;
            }
            self.place(key, now);
        }
    }

    /// When [`Self::tick`] is due.
    pub(super) fn wake_at(&self) -> Option<Duration> {
        let deadline = self.deadlines.first().map(|(at, _)| *at);
        let delayed = self.delayed.first().map(|(at, _)| *at);
        deadline.into_iter().chain(delayed).min()
    }

    /// Takes the outcomes that are to be told.
    pub(super) fn take_outcomes(&mut self) -> Vec<Outcome> {
        std::mem::take(&mut self.outcomes)
    }

    /// Whether nothing depends on this machine: no stream, no lease, nothing to write.
    pub(super) fn is_idle(&self) -> bool {
        self.streams.is_empty() && self.kept.is_empty() && self.writes.is_empty()
    }

    /// Events that streams and calls hold.
    pub(super) fn leased(&self) -> usize {
        self.streams
            .values()
            .chain(self.kept.values())
            .map(|stream| stream.leases.len())
            .sum()
    }

    /// Whether consumers hold events that they have not settled, or that are on their way to them. A call
    /// that has not answered holds nothing yet.
    pub(super) fn is_owed(&self) -> bool {
        let streams = self.streams.values().filter(|stream| !stream.call);
        let mut holders = streams.chain(self.kept.values());
        holders.any(|holder| !holder.leases.is_empty())
    }

    /// How many events are in memory.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The next event of a key that could be leased, passing over what is leased or settled.
    fn candidate(&mut self, key: Hash) -> Option<Revision> {
        let record = self.keys.get_mut(&key)?;
        while let Some(revision) = record.revisions.get(record.next) {
            match self.entries.get(revision) {
                Some(entry) if entry.state == State::Waiting => return Some(*revision),
                _ => record.next += 1,
            }
        }
        None
    }

    /// Puts a key where it belongs now: among the ready ones, its holder's, or the delayed ones.
    fn place(&mut self, key: Hash, now: Duration) {
        let candidate = self.candidate(key);
        let not_before = candidate
            .and_then(|revision| self.entries.get(&revision))
            .map(|entry| entry.not_before);
        let Some(record) = self.keys.get_mut(&key) else {
            return;
        };
        let place = match (not_before, record.holder) {
            (None, _) => Place::Nowhere,
            (Some(until), _) if until > now => Place::Delayed(until),
            (Some(_), Some(stream)) => Place::Held(stream),
            (Some(_), None) => Place::Ready,
        };
        if place == record.place {
            return;
        }
        if let Place::Delayed(until) = record.place {
            self.delayed.remove(&(until, key));
        }
        record.place = place;
        match place {
            Place::Nowhere => {}
            Place::Delayed(until) => {
                self.delayed.insert((until, key));
            }
            Place::Held(stream) => {
                if let Some(stream) = self.streams.get_mut(&stream) {
                    stream.ready.push_back(key);
                }
            }
            Place::Ready => self.ready.push_back(key),
        }
        self.forget_empty(key);
    }

    /// Drops the record of a key of which nothing is in memory or spilled.
    fn forget_empty(&mut self, key: Hash) {
        if let Some(record) = self.keys.get(&key)
            && record.revisions.is_empty()
            && record.spilled.is_none()
        {
            self.keys.remove(&key);
        }
    }
}
