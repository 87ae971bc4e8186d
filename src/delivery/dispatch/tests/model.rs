//! The reference model: what clients may do, what is known of each event, and what must hold after every
//! step.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

pub(super) const DEADLINE: Duration = Duration::from_mins(1);

pub(super) fn key(number: u8) -> Hash {
    Hash([number; 16])
}

/// What clients, time and the journal do.
#[derive(Debug, Clone)]
pub(super) enum Op {
    Append {
        key: u8,
        size: u64,
    },
    Open {
        events: u64,
        bytes: u64,
    },
    /// A call for leases.
    Call {
        events: u64,
        bytes: u64,
    },
    /// The answer of a call leaves.
    Keep {
        call: usize,
    },
    /// What is kept of a call is taken back: its answer never left.
    Undo {
        call: usize,
    },
    Close {
        stream: usize,
        broken: bool,
    },
    /// The client stops reading, for good.
    Hang {
        stream: usize,
    },
    Ack {
        grant: usize,
    },
    /// An ack with a token of an earlier run.
    OldAck {
        event: usize,
    },
    Nack {
        grant: usize,
        delay: Option<u64>,
    },
    Extend {
        grant: usize,
    },
    Pass {
        seconds: u64,
    },
    Write,
}

pub(super) fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0_u8..5, 1_u64..40).prop_map(|(key, size)| Op::Append { key, size }),
        2 => (1_u64..6, 1_u64..80).prop_map(|(events, bytes)| Op::Open { events, bytes }),
        2 => (1_u64..6, 1_u64..80).prop_map(|(events, bytes)| Op::Call { events, bytes }),
        3 => any::<usize>().prop_map(|call| Op::Keep { call }),
        1 => any::<usize>().prop_map(|call| Op::Undo { call }),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(stream, broken)| Op::Close { stream, broken }),
        1 => any::<usize>().prop_map(|stream| Op::Hang { stream }),
        6 => any::<usize>().prop_map(|grant| Op::Ack { grant }),
        1 => any::<usize>().prop_map(|event| Op::OldAck { event }),
        2 => (any::<usize>(), prop::option::of(0_u64..30))
            .prop_map(|(grant, delay)| Op::Nack { grant, delay }),
        1 => any::<usize>().prop_map(|grant| Op::Extend { grant }),
        2 => (0_u64..90).prop_map(|seconds| Op::Pass { seconds }),
        3 => Just(Op::Write),
    ]
}

#[derive(Debug, Clone)]
pub(super) struct Journalled {
    pub(super) key: u8,
    pub(super) size: u64,
}

/// What the model knows of an event.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    /// The latest lease and whether it may still be in force.
    pub(super) lease: Option<(u64, StreamId)>,
    /// An ack was accepted and neither confirmed nor overtaken.
    pub(super) acked: bool,
    pub(super) settled: bool,
    /// Some lease of it was handed over.
    pub(super) delivered: bool,
}

pub(super) struct World {
    pub(super) machine: Dispatch,
    pub(super) rules: Rules,
    pub(super) now: Duration,
    pub(super) journal: BTreeMap<Revision, Journalled>,
    pub(super) known: BTreeMap<Revision, Known>,
    pub(super) grants: Vec<Grant>,
    pub(super) streams: BTreeMap<StreamId, Credit>,
    /// Those that are calls, also when they are over.
    pub(super) calls: BTreeSet<StreamId>,
    /// Streams whose clients do not read.
    pub(super) hung: BTreeSet<StreamId>,
    /// Leases that no client has seen.
    pub(super) unseen: BTreeSet<u64>,
    pub(super) acks: u64,
}

impl World {
    pub(super) fn new(window: usize, max_attempts: u32) -> Self {
        let rules = Rules {
            ack_deadline: DEADLINE,
            max_attempts,
            window,
            most_kept: (window / 2).max(1),
        };
        Self {
            machine: Dispatch::new(rules.clone(), 1),
            rules,
            now: Duration::ZERO,
            journal: BTreeMap::new(),
            known: BTreeMap::new(),
            grants: Vec::new(),
            streams: BTreeMap::new(),
            calls: BTreeSet::new(),
            hung: BTreeSet::new(),
            unseen: BTreeSet::new(),
            acks: 0,
        }
    }

    pub(super) fn newest(&self) -> Revision {
        self.journal.last_key_value().map_or(0, |(last, _)| *last)
    }

    /// Reads and gives out until nothing changes, checking every step.
    pub(super) fn run(&mut self) {
        loop {
            let mut progress = false;
            if let Some(start) = self.machine.next_read(self.newest()) {
                // A page of three, so that reads end in the middle of everything.
                let page: Vec<_> = self.journal.range(start..).take(3).collect();
                let next = page
                    .last()
                    .map_or(self.newest() + 1, |(last, _)| **last + 1);
                let loads: Vec<_> = page
                    .into_iter()
                    .filter(|(revision, _)| !self.known[revision].settled)
                    .map(|(revision, event)| Load {
                        revision: *revision,
                        key: key(event.key),
                        size: event.size,
                        attempts: 0,
                    })
                    .collect();
                let before = (self.machine.cursor(), self.machine.len());
                self.machine.fill(start, &loads, next, self.now);
                self.learn();
                progress |= before != (self.machine.cursor(), self.machine.len());
            }
            assert!(self.machine.len() <= self.rules.window);
            self.take_batches();
            let grants = self.machine.lease(self.now);
            progress |= !grants.is_empty();
            for grant in grants {
                self.check_grant(&grant);
                self.grants.push(grant);
            }
            self.learn();
            let of_calls = self.held_by(|stream| self.calls.contains(&stream)).count();
            assert_eq!(of_calls, self.machine.call_leases);
            assert!(of_calls <= self.rules.most_kept, "calls hold too much");
            if !progress {
                return;
            }
        }
    }

    /// Clients that read take what they were given.
    pub(super) fn take_batches(&mut self) {
        for id in self.streams.keys().filter(|id| !self.hung.contains(id)) {
            self.machine.ready(*id, self.now);
        }
        for grant in &self.grants {
            if !self.hung.contains(&grant.stream) && self.unseen.remove(&grant.lease) {
                self.known.get_mut(&grant.revision).unwrap().delivered = true;
            }
        }
    }

    pub(super) fn same_key(&self, key: u8) -> impl Iterator<Item = Revision> {
        self.journal
            .iter()
            .filter(move |(_, event)| event.key == key)
            .map(|(revision, _)| *revision)
    }

    pub(super) fn check_grant(&mut self, grant: &Grant) {
        let event = self.journal[&grant.revision].clone();
        assert!(!self.known[&grant.revision].settled, "settled: {grant:?}");
        for earlier in self.same_key(event.key).take_while(|r| *r < grant.revision) {
            let known = &self.known[&earlier];
            let entry = self.machine.entries.get(&earlier);
            let passable = entry.is_some_and(|entry| match entry.state {
                State::Leased { stream, .. } => stream == grant.stream,
                _ => entry.dead,
            });
            assert!(
                known.settled || known.acked || passable,
                "{grant:?} overtakes {earlier}: {known:?}"
            );
        }
        for other in self.same_key(event.key) {
            if let Some(entry) = self.machine.entries.get(&other)
                && let State::Leased { stream, .. } = entry.state
            {
                assert_eq!(stream, grant.stream, "two streams hold one key");
            }
        }
        let known = self.known.get_mut(&grant.revision).unwrap();
        assert!(!known.acked, "given out although acked: {grant:?}");
        if let Some((lease, _)) = known.lease {
            assert!(grant.lease > lease, "leases must differ");
        }
        known.lease = Some((grant.lease, grant.stream));
        self.unseen.insert(grant.lease);
        let credit = self.streams[&grant.stream];
        let held: Vec<u64> = self.held_by(|stream| stream == grant.stream).collect();
        assert!(held.len() as u64 <= credit.events, "too many events");
        assert!(
            held.iter().sum::<u64>() <= credit.bytes || held.len() == 1,
            "too many bytes"
        );
    }

    /// The sizes of events leased to some streams.
    pub(super) fn held_by(&self, these: impl Fn(StreamId) -> bool) -> impl Iterator<Item = u64> {
        self.machine
            .entries
            .values()
            .filter(
                move |entry| matches!(entry.state, State::Leased { stream, .. } if these(stream)),
            )
            .map(|entry| entry.size)
    }

    /// One of the calls of which something is left, picked by number.
    fn pick_call(&self, at: usize, open: bool) -> Option<StreamId> {
        let wanted = |id: &&StreamId| self.streams.contains_key(*id) == open;
        let some: Vec<_> = self.calls.iter().filter(wanted).copied().collect();
        some.get(at.checked_rem(some.len())?).copied()
    }

    /// The answer of a call leaves, unless its client is gone.
    pub(super) fn keep(&mut self, id: StreamId) {
        self.streams.remove(&id);
        if self.hung.contains(&id) {
            self.machine.close(id, Ending::Orderly, self.now);
            return;
        }
        self.machine.handed_over(id, self.now);
        for grant in self.grants.iter().filter(|grant| grant.stream == id) {
            if self.unseen.remove(&grant.lease) {
                self.known.get_mut(&grant.revision).unwrap().delivered = true;
            }
        }
        self.machine.keep(id);
    }

    pub(super) fn learn(&mut self) {
        for outcome in self.machine.take_outcomes() {
            assert!(self.streams.contains_key(&outcome.waiter.stream));
        }
        for (revision, known) in &mut self.known {
            if let Some(entry) = self.machine.entries.get(revision) {
                known.acked = matches!(entry.state, State::Held | State::Settling);
            }
        }
    }

    /// Writes what is to be written, and checks that it is in order within each key.
    pub(super) fn write(&mut self) {
        let writes = self.machine.take_writes();
        for revision in &charged(&writes) {
            assert!(
                self.known[revision].delivered,
                "{revision} is charged although no client has seen it"
            );
        }
        let dead = writes.dead.iter().map(|(revision, _)| *revision);
        let settled: BTreeSet<_> = acked(&writes).into_iter().chain(dead).collect();
        for revision in &settled {
            let event = self.journal[revision].clone();
            for earlier in self.same_key(event.key).take_while(|r| r < revision) {
                assert!(
                    self.known[&earlier].settled || settled.contains(&earlier),
                    "{revision} is settled before {earlier}"
                );
            }
            assert!(!self.known[revision].settled, "settled twice: {revision}");
        }
        for (revision, attempts) in &writes.dead {
            assert!(
                *attempts >= self.rules.max_attempts,
                "{revision} is dead too early"
            );
        }
        for revision in settled {
            self.known.get_mut(&revision).unwrap().settled = true;
        }
        self.machine.written(&writes, self.now);
    }

    pub(super) fn waiter(&mut self, stream: StreamId) -> Waiter {
        self.acks += 1;
        Waiter {
            stream,
            ack_id: Arc::from(self.acks.to_string()),
        }
    }

    pub(super) fn pick(&self, at: usize) -> Option<Grant> {
        let at = at.checked_rem(self.grants.len())?;
        let grant = self.grants.get(at).cloned();
        grant.filter(|grant| !self.unseen.contains(&grant.lease))
    }

    pub(super) fn lease_ref(grant: &Grant) -> LeaseRef {
        LeaseRef {
            revision: grant.revision,
            lease: Some(grant.lease),
        }
    }

    pub(super) fn apply(&mut self, op: &Op) {
        match *op {
            Op::Append { key, size } => {
                // Revisions have gaps.
                let revision = self.newest() + 1 + u64::from(size % 3 == 0);
                self.journal.insert(revision, Journalled { key, size });
                self.known.insert(revision, Known::default());
            }
            Op::Open { events, bytes } => {
                let credit = Credit { events, bytes };
                let id = self.machine.open(credit);
                self.streams.insert(id, credit);
            }
            Op::Call { events, bytes } => {
                let credit = Credit { events, bytes };
                let id = self.machine.open_call(credit);
                self.streams.insert(id, credit);
                self.calls.insert(id);
            }
            Op::Keep { call } => {
                if let Some(id) = self.pick_call(call, true) {
                    self.keep(id);
                }
            }
            Op::Undo { call } => {
                if let Some(id) = self.pick_call(call, false) {
                    let charged = self.machine.writes.charges.len();
                    self.machine.close(id, Ending::Orderly, self.now);
                    assert_eq!(self.machine.writes.charges.len(), charged);
                    assert_eq!(self.held_by(|stream| stream == id).count(), 0);
                }
            }
            Op::Close { stream, broken } => {
                let ids: Vec<_> = self.streams.keys().copied().collect();
                if let Some(at) = stream.checked_rem(ids.len()) {
                    let ending = if broken {
                        Ending::Broken
                    } else {
                        Ending::Orderly
                    };
                    self.machine.close(ids[at], ending, self.now);
                    self.streams.remove(&ids[at]);
                }
            }
            Op::Hang { stream } => {
                let ids: Vec<_> = self.streams.keys().copied().collect();
                if let Some(at) = stream.checked_rem(ids.len()) {
                    self.hung.insert(ids[at]);
                }
            }
            Op::Ack { grant } => {
                let Some(grant) = self.pick(grant) else {
                    return;
                };
                let fenced = {
                    let known = &self.known[&grant.revision];
                    let latest = known.lease.map(|(lease, _)| lease);
                    latest != Some(grant.lease) && !known.settled && !known.acked
                };
                let waiter = self.waiter(grant.stream);
                let accepted = self.machine.ack(Self::lease_ref(&grant), waiter, self.now);
                assert!(!(fenced && accepted.is_ok()), "a fenced ack was accepted");
                if accepted == Ok(Acked::Confirmed) {
                    assert!(self.known[&grant.revision].settled);
                }
            }
            Op::OldAck { event } => {
                let all: Vec<_> = self.journal.keys().copied().collect();
                if let Some(at) = event.checked_rem(all.len()) {
                    let waiter = self.waiter(0);
                    let lease = LeaseRef {
                        revision: all[at],
                        lease: None,
                    };
                    let accepted = self.machine.ack(lease, waiter, self.now);
                    if accepted == Ok(Acked::Confirmed) {
                        assert!(self.known[&all[at]].settled);
                    }
                }
            }
            Op::Nack { grant, delay } => {
                let Some(grant) = self.pick(grant) else {
                    return;
                };
                let delay = delay.map(Duration::from_secs);
                let _ = self.machine.nack(Self::lease_ref(&grant), delay, self.now);
            }
            Op::Extend { grant } => {
                let Some(grant) = self.pick(grant) else {
                    return;
                };
                let deadline = self.now + DEADLINE * 2;
                let _ = self.machine.extend(Self::lease_ref(&grant), deadline);
            }
            Op::Pass { seconds } => {
                self.now += Duration::from_secs(seconds);
                self.machine.tick(self.now);
            }
            Op::Write => self.write(),
        }
        self.learn();
        self.run();
    }

    /// A consumer without faults must be able to finish everything.
    pub(super) fn drain(&mut self) {
        for id in self.streams.keys().copied().collect::<Vec<_>>() {
            self.machine.close(id, Ending::Orderly, self.now);
        }
        self.streams.clear();
        self.learn();
        let credit = Credit {
            events: 4,
            bytes: 1_000,
        };
        let id = self.machine.open(credit);
        self.streams.insert(id, credit);
        for _ in 0..10 * (self.journal.len() + 10) {
            self.run();
            let held: Vec<_> = self.machine.streams[&id].leases.iter().copied().collect();
            for revision in held {
                let State::Leased { lease, .. } = self.machine.entries[&revision].state else {
                    continue;
                };
                let waiter = self.waiter(id);
                let lease = LeaseRef {
                    revision,
                    lease: Some(lease),
                };
                self.machine.ack(lease, waiter, self.now).unwrap();
            }
            self.learn();
            self.write();
            self.now += Duration::from_secs(30);
            self.machine.tick(self.now);
            self.learn();
        }
        for (revision, known) in &self.known {
            assert!(known.settled, "{revision} was never settled");
        }
        assert_eq!(self.machine.len(), 0);
        assert!(self.machine.keys.is_empty(), "{:?}", self.machine.keys);
        assert!(self.machine.spilled.is_empty() && self.machine.delayed.is_empty());
        assert!(self.machine.deadlines.is_empty() && self.machine.early.is_empty());
        assert!(self.machine.kept.is_empty() && self.machine.call_leases == 0);
    }
}
