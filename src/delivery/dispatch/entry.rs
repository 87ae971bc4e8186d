//! What the machine remembers of events, keys and streams.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use super::{Credit, Revision, StreamId, Waiter};
use crate::store::Hash;

/// Where an event is on its way to being settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// To be given out.
    Waiting,
    /// Given out.
    Leased {
        /// The lease.
        lease: u64,
        /// To whom.
        stream: StreamId,
        /// Until when; before it was handed over: how long it waits for that.
        deadline: Duration,
        /// Whether the stream has taken it. Only then can a delivery fail.
        handed_over: bool,
    },
    /// Acked (or given up), and waiting for earlier events of its key.
    Held,
    /// Being written.
    Settling,
}

/// An event in the window.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: Hash,
    pub(super) size: u64,
    /// Deliveries that failed.
    pub(super) attempts: u32,
    /// How many broken streams it was lost with as the first of its key.
    pub(super) drops: u8,
    /// When it was first given out since it was read.
    pub(super) first_leased: Option<Duration>,
    /// Not to be given out before this.
    pub(super) not_before: Duration,
    pub(super) state: State,
    /// The lease whose ack is still welcome although it ended.
    pub(super) last_lease: Option<u64>,
    /// Given up: it goes to the dead letter instead of being acked.
    pub(super) dead: bool,
    pub(super) waiters: Vec<Waiter>,
}

/// Where a key waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Nothing to give out.
    Nowhere,
    /// With all keys that any stream may take.
    Ready,
    /// With the stream that holds it.
    Held(StreamId),
    /// Until a moment.
    Delayed(Duration),
}

/// An ordering key with events in the window.
#[derive(Debug)]
pub(super) struct Key {
    /// Its events in the window, in order.
    pub(super) revisions: VecDeque<Revision>,
    /// No event before this index waits.
    pub(super) next: usize,
    /// How many events at the front are being written.
    pub(super) settling: usize,
    /// How many are leased.
    pub(super) leased: usize,
    /// The stream that has them.
    pub(super) holder: Option<StreamId>,
    /// Events from this revision on were left in the journal.
    pub(super) spilled: Option<Revision>,
    pub(super) place: Place,
}

impl Default for Key {
    fn default() -> Self {
        Self {
            revisions: VecDeque::new(),
            next: 0,
            settling: 0,
            leased: 0,
            holder: None,
            spilled: None,
            place: Place::Nowhere,
        }
    }
}

impl Key {
    /// Where `revision` is among the key's events.
    pub(super) fn index(&self, revision: Revision) -> Option<usize> {
        self.revisions.binary_search(&revision).ok()
    }
}

/// An open stream, or a call.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) credit: Credit,
    /// A call: it is given one batch, as large as its credit.
    pub(super) call: bool,
    pub(super) events: u64,
    pub(super) bytes: u64,
    /// Leased events that are delivered in isolation.
    pub(super) suspects: usize,
    pub(super) leases: BTreeSet<Revision>,
    /// What it can take at once now; `None` while it has not taken what it was given.
    pub(super) room: Option<Credit>,
    /// Given and not taken yet: events and their leases.
    pub(super) on_the_way: Vec<(Revision, u64)>,
    /// Keys it holds whose next event may go out.
    pub(super) ready: VecDeque<Hash>,
}

impl Stream {
    pub(super) fn new(credit: Credit, call: bool) -> Self {
        Self {
            credit,
            call,
            events: 0,
            bytes: 0,
            suspects: 0,
            leases: BTreeSet::new(),
            room: None,
            on_the_way: Vec::new(),
            ready: VecDeque::new(),
        }
    }

    /// Whether it may take one more event of any size.
    pub(super) fn has_credit(&self) -> bool {
        self.events < self.credit.events && (self.events == 0 || self.bytes < self.credit.bytes)
    }

    /// Whether it may be given an event now.
    pub(super) fn is_open(&self) -> bool {
        self.has_credit() && self.room.is_some_and(|room| room.events > 0)
    }

    /// Whether it may be given an event of `size` bytes now.
    pub(super) fn fits(&self, size: u64) -> bool {
        let in_credit = self.events < self.credit.events
            && (self.events == 0 || self.bytes.saturating_add(size) <= self.credit.bytes);
        let in_room = self.room.is_some_and(|room| {
            room.events > 0 && (self.on_the_way.is_empty() || size <= room.bytes)
        });
        in_credit && in_room
    }
}
