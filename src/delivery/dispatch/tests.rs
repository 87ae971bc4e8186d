//! The machine against a reference model: whatever clients do, order, fencing, credit and bounds hold,
//! and nothing is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::lease::Grant;
use super::settle::Ended;
use super::*;

const DEADLINE: Duration = Duration::from_mins(1);

fn key(number: u8) -> Hash {
    Hash([number; 16])
}

/// What clients, time and the journal do.
#[derive(Debug, Clone)]
enum Op {
    Append {
        key: u8,
        size: u64,
    },
    Open {
        events: u64,
        bytes: u64,
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

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0_u8..5, 1_u64..40).prop_map(|(key, size)| Op::Append { key, size }),
        2 => (1_u64..6, 1_u64..80).prop_map(|(events, bytes)| Op::Open { events, bytes }),
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
struct Journalled {
    key: u8,
    size: u64,
}

/// What the model knows of an event.
#[derive(Debug, Clone, Default)]
struct Known {
    /// The latest lease and whether it may still be in force.
    lease: Option<(u64, StreamId)>,
    /// An ack was accepted and neither confirmed nor overtaken.
    acked: bool,
    settled: bool,
    /// Some lease of it was handed over.
    delivered: bool,
}

struct World {
    machine: Dispatch,
    rules: Rules,
    now: Duration,
    journal: BTreeMap<Revision, Journalled>,
    known: BTreeMap<Revision, Known>,
    grants: Vec<Grant>,
    streams: BTreeMap<StreamId, Credit>,
    /// Streams whose clients do not read.
    hung: BTreeSet<StreamId>,
    /// Leases that no client has seen.
    unseen: BTreeSet<u64>,
    acks: u64,
}

impl World {
    fn new(window: usize, max_attempts: u32) -> Self {
        let rules = Rules {
            ack_deadline: DEADLINE,
            max_attempts,
            window,
        };
        Self {
            machine: Dispatch::new(rules.clone(), 1),
            rules,
            now: Duration::ZERO,
            journal: BTreeMap::new(),
            known: BTreeMap::new(),
            grants: Vec::new(),
            streams: BTreeMap::new(),
            hung: BTreeSet::new(),
            unseen: BTreeSet::new(),
            acks: 0,
        }
    }

    fn newest(&self) -> Revision {
        self.journal.last_key_value().map_or(0, |(last, _)| *last)
    }

    /// Reads and gives out until nothing changes, checking every step.
    fn run(&mut self) {
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
            if !progress {
                return;
            }
        }
    }

    /// Clients that read take what they were given.
    fn take_batches(&mut self) {
        for id in self.streams.keys().filter(|id| !self.hung.contains(id)) {
            self.machine.ready(*id, self.now);
        }
        for grant in &self.grants {
            if !self.hung.contains(&grant.stream) && self.unseen.remove(&grant.lease) {
                self.known.get_mut(&grant.revision).unwrap().delivered = true;
            }
        }
    }

    fn same_key(&self, key: u8) -> impl Iterator<Item = Revision> {
        self.journal
            .iter()
            .filter(move |(_, event)| event.key == key)
            .map(|(revision, _)| *revision)
    }

    fn check_grant(&mut self, grant: &Grant) {
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
        let held: Vec<u64> = self
            .machine
            .entries
            .values()
            .filter(|e| matches!(e.state, State::Leased { stream, .. } if stream == grant.stream))
            .map(|entry| entry.size)
            .collect();
        assert!(held.len() as u64 <= credit.events, "too many events");
        assert!(
            held.iter().sum::<u64>() <= credit.bytes || held.len() == 1,
            "too many bytes"
        );
    }

    fn learn(&mut self) {
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
    fn write(&mut self) {
        let writes = self.machine.take_writes();
        for revision in &writes.charges {
            assert!(
                self.known[revision].delivered,
                "{revision} is charged although no client has seen it"
            );
        }
        let dead = writes.dead.iter().map(|(revision, _)| *revision);
        let settled: BTreeSet<_> = writes.acks.iter().copied().chain(dead).collect();
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

    fn waiter(&mut self, stream: StreamId) -> Waiter {
        self.acks += 1;
        Waiter {
            stream,
            ack_id: Arc::from(self.acks.to_string()),
        }
    }

    fn pick(&self, at: usize) -> Option<Grant> {
        let at = at.checked_rem(self.grants.len())?;
        let grant = self.grants.get(at).cloned();
        grant.filter(|grant| !self.unseen.contains(&grant.lease))
    }

    fn lease_ref(grant: &Grant) -> LeaseRef {
        LeaseRef {
            revision: grant.revision,
            lease: Some(grant.lease),
        }
    }

    fn apply(&mut self, op: &Op) {
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
    fn drain(&mut self) {
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
        }
        for (revision, known) in &self.known {
            assert!(known.settled, "{revision} was never settled");
        }
        assert_eq!(self.machine.len(), 0);
        assert!(self.machine.keys.is_empty(), "{:?}", self.machine.keys);
        assert!(self.machine.spilled.is_empty() && self.machine.delayed.is_empty());
        assert!(self.machine.deadlines.is_empty() && self.machine.early.is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_clients_do_nothing_is_lost_or_out_of_order(
        ops in prop::collection::vec(op(), 1..120),
        window in 2_usize..9,
        max_attempts in prop_oneof![Just(0_u32), 2_u32..5],
    ) {
        let mut world = World::new(window, max_attempts);
        for op in ops {
            world.apply(&op);
        }
        world.drain();
    }
}

/// A machine with everything in reach, and events of one key.
fn with_events(keys: &[u8], max_attempts: u32) -> World {
    let mut world = World::new(100, max_attempts);
    for key in keys {
        world.apply(&Op::Append { key: *key, size: 1 });
    }
    world
}

fn open(world: &mut World, events: u64) -> StreamId {
    let credit = Credit {
        events,
        bytes: 1_000_000,
    };
    let id = world.machine.open(credit);
    world.streams.insert(id, credit);
    world.run();
    id
}

fn ack(world: &mut World, grant: &Grant) -> Result<Acked, Ended> {
    let waiter = world.waiter(grant.stream);
    let outcome = world
        .machine
        .ack(World::lease_ref(grant), waiter, world.now);
    world.learn();
    outcome
}

#[test]
fn an_early_ack_waits_for_the_events_before_it() {
    let mut world = with_events(&[1, 1], 0);
    open(&mut world, 10);
    let (first, second) = (world.grants[0].clone(), world.grants[1].clone());
    ack(&mut world, &second).unwrap();
    assert!(world.machine.take_writes().is_empty());
    ack(&mut world, &first).unwrap();
    let writes = world.machine.take_writes();
    assert_eq!(writes.acks, vec![first.revision, second.revision]);
    world.machine.written(&writes, world.now);
    let outcomes = world.machine.take_outcomes();
    assert!(outcomes.len() == 2 && outcomes.iter().all(|o| o.confirmed));
}

#[test]
fn a_failure_takes_back_what_follows_without_charging_it() {
    let mut world = with_events(&[1, 1, 2], 0);
    let id = open(&mut world, 10);
    let (first, second) = (world.grants[0].clone(), world.grants[1].clone());
    ack(&mut world, &second).unwrap();
    let nack = world
        .machine
        .nack(World::lease_ref(&first), Some(Duration::ZERO), world.now);
    assert_eq!(nack, Ok(()));
    assert_eq!(world.machine.take_writes().charges, vec![first.revision]);
    let overtaken = world.machine.take_outcomes();
    assert!(overtaken.len() == 1 && !overtaken[0].confirmed);
    let again = world.machine.lease(world.now);
    let attempts: Vec<_> = again.iter().map(|g| (g.revision, g.attempt)).collect();
    assert_eq!(attempts, vec![(first.revision, 2), (second.revision, 1)]);
    assert!(again.iter().all(|grant| grant.stream == id));
    assert_eq!(
        ack(&mut world, &second),
        Err(Ended),
        "the old token is fenced"
    );
}

#[test]
fn a_poison_event_is_given_up_and_its_key_moves_on() {
    let mut world = with_events(&[1, 1], 3);
    open(&mut world, 1);
    for attempt in 1..=3 {
        let poison = world.grants.last().unwrap().clone();
        assert_eq!((poison.revision, poison.attempt), (1, attempt));
        let nack = world
            .machine
            .nack(World::lease_ref(&poison), Some(Duration::ZERO), world.now);
        assert_eq!(nack, Ok(()));
        world.learn();
        world.run();
    }
    assert_eq!(world.grants.last().unwrap().revision, 2);
    let writes = world.machine.take_writes();
    assert_eq!((writes.dead, writes.acks), (vec![(1, 3)], vec![]));
}

#[test]
fn the_clock_of_a_lease_runs_while_it_is_first() {
    let mut world = with_events(&[1, 1], 0);
    open(&mut world, 10);
    let (first, second) = (world.grants[0].clone(), world.grants[1].clone());
    let late = world.now + DEADLINE * 3;
    world
        .machine
        .extend(World::lease_ref(&first), late)
        .unwrap();
    world.now += DEADLINE * 2;
    world.machine.tick(world.now);
    assert!(world.machine.lease(world.now).is_empty(), "still leased");
    ack(&mut world, &first).unwrap();
    world.now += DEADLINE / 2;
    world.machine.tick(world.now);
    assert_eq!(
        ack(&mut world, &second),
        Ok(Acked::Accepted),
        "its clock began late"
    );
}

#[test]
fn a_stream_that_does_not_read_holds_one_batch_and_is_charged_nothing() {
    let mut world = with_events(&[], 1);
    for number in 0..90 {
        world.apply(&Op::Append {
            key: number,
            size: 1,
        });
    }
    let credit = Credit {
        events: 1_000,
        bytes: 1_000_000,
    };
    let hung = world.machine.open(credit);
    world.streams.insert(hung, credit);
    world.hung.insert(hung);
    world.machine.ready(hung, world.now);
    world.run();
    assert_eq!(world.grants.len(), 32, "one batch");
    world.now += DEADLINE * 2;
    world.machine.tick(world.now);
    world.run();
    assert_eq!(world.grants.len(), 32, "and no more until it is taken");
    assert!(world.machine.take_writes().is_empty(), "nothing is charged");

    let other = open(&mut world, 1_000);
    let given: BTreeSet<_> = world
        .grants
        .iter()
        .filter(|grant| grant.stream == other && grant.attempt == 1)
        .map(|grant| grant.revision)
        .collect();
    assert_eq!(given.len(), 90, "others are given all of it");
}

#[test]
fn the_clock_of_a_lease_begins_when_it_is_handed_over() {
    let mut world = with_events(&[1], 0);
    let id = open(&mut world, 10);
    world.machine.close(id, Ending::Orderly, world.now);
    let credit = Credit {
        events: 1,
        bytes: 1,
    };
    let id = world.machine.open(credit);
    world.machine.ready(id, world.now);
    let given = world.machine.lease(world.now);
    world.now += DEADLINE / 2;
    world.machine.tick(world.now);
    world.machine.ready(id, world.now);
    world.now += DEADLINE * 3 / 4;
    world.machine.tick(world.now);
    assert_eq!(
        world.machine.extend(World::lease_ref(&given[0]), world.now),
        Ok(()),
        "more than a deadline after it was given, less than one after it was taken"
    );
}

#[test]
fn a_stream_that_breaks_before_it_took_its_batch_is_charged_nothing() {
    let mut world = with_events(&[1, 2], 0);
    let credit = Credit {
        events: 10,
        bytes: 10,
    };
    let id = world.machine.open(credit);
    world.machine.ready(id, world.now);
    assert_eq!(world.machine.lease(world.now).len(), 2);
    world.machine.close(id, Ending::Broken, world.now);
    assert!(world.machine.take_writes().is_empty());
}

#[test]
fn an_ack_of_an_earlier_run_waits_until_its_event_is_read() {
    let mut world = World::new(2, 0);
    let credit = Credit {
        events: 1,
        bytes: 1_000,
    };
    let id = world.machine.open(credit);
    let lease = LeaseRef {
        revision: 5,
        lease: None,
    };
    let waiter = world.waiter(id);
    let accepted = world.machine.ack(lease, waiter.clone(), world.now);
    assert_eq!(accepted, Ok(Acked::Accepted));
    let accepted = world.machine.ack(lease, waiter.clone(), world.now);
    assert_eq!(accepted, Ok(Acked::Repeated));
    for key in 1..=5 {
        world.apply(&Op::Append { key, size: 1 });
    }
    world.streams.insert(id, credit);
    world.run();
    let mut told = Vec::new();
    for _ in 0..5 {
        let Some(grant) = world.grants.last().cloned() else {
            break;
        };
        let other = world.waiter(id);
        let _ = world
            .machine
            .ack(World::lease_ref(&grant), other, world.now);
        let writes = world.machine.take_writes();
        world.machine.written(&writes, world.now);
        for revision in &writes.acks {
            world.known.get_mut(revision).unwrap().settled = true;
        }
        told.extend(world.machine.take_outcomes());
        world.run();
    }
    assert!(told.contains(&Outcome {
        waiter,
        confirmed: true
    }));
    assert!(world.grants.iter().all(|grant| grant.revision != 5));
}

#[test]
fn a_late_ack_is_welcome_until_the_event_is_given_out_again() {
    let mut world = with_events(&[1], 0);
    open(&mut world, 10);
    let grant = world.grants[0].clone();
    world.now += DEADLINE;
    world.machine.tick(world.now);
    assert_eq!(ack(&mut world, &grant), Ok(Acked::Accepted));
    let writes = world.machine.take_writes();
    assert_eq!(writes.acks, vec![1]);
    world.machine.written(&writes, world.now);
    assert_eq!(
        ack(&mut world, &grant),
        Ok(Acked::Confirmed),
        "repeated acks are confirmed"
    );
}

#[test]
fn events_lost_with_broken_streams_are_tried_one_at_a_time() {
    let mut world = with_events(&[1, 2, 3], 10);
    for _ in 0..2 {
        let id = open(&mut world, 10);
        world.machine.close(id, Ending::Broken, world.now);
        world.streams.remove(&id);
        world.learn();
    }
    world.grants.clear();
    open(&mut world, 10);
    assert_eq!(world.grants.len(), 1, "suspects go out alone");
    let first = world.grants[0].clone();
    ack(&mut world, &first).unwrap();
    world.run();
    assert_eq!(world.grants.len(), 2);
}

#[test]
fn a_blocked_key_does_not_starve_the_others() {
    let mut world = World::new(4, 0);
    for _ in 0..20 {
        world.apply(&Op::Append { key: 1, size: 1 });
    }
    world.apply(&Op::Append { key: 2, size: 1 });
    open(&mut world, 1);
    let slow = world.grants[0].clone();
    open(&mut world, 1);
    let other = world.grants.last().unwrap();
    assert_eq!(
        world.journal[&other.revision].key, 2,
        "found behind the blocked key"
    );
    assert!(world.machine.len() <= 4);
    ack(&mut world, &slow).unwrap();
    world.run();
    assert_eq!(
        world.grants.last().unwrap().revision,
        2,
        "and the blocked key goes on in order"
    );
}

#[test]
fn an_event_larger_than_the_credit_is_given_out_alone() {
    let mut world = World::new(100, 0);
    world.apply(&Op::Append { key: 1, size: 5 });
    world.apply(&Op::Append { key: 2, size: 500 });
    world.apply(&Op::Append { key: 3, size: 5 });
    let id = world.machine.open(Credit {
        events: 10,
        bytes: 100,
    });
    world.streams.insert(
        id,
        Credit {
            events: 10,
            bytes: 100,
        },
    );
    world.run();
    assert_eq!(
        world.grants.len(),
        1,
        "the large one waits and is not overtaken"
    );
    let first = world.grants[0].clone();
    ack(&mut world, &first).unwrap();
    world.run();
    assert_eq!(world.grants.len(), 2);
    let second = &world.grants[1];
    assert_eq!(world.journal[&second.revision].size, 500);
}
