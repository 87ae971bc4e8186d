//! The machine against a reference model: whatever clients do, order, fencing, credit and bounds hold,
//! and nothing is lost.

mod model;

use std::time::Duration;

use model::{DEADLINE, Op, World, op};
use proptest::prelude::*;

use super::lease::Grant;
use super::settle::Ended;
use super::*;

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

fn acked(writes: &Writes) -> Vec<Revision> {
    writes.acks.iter().map(|ack| ack.revision).collect()
}

fn charged(writes: &Writes) -> Vec<Revision> {
    let charges = writes.charges.iter();
    charges.map(|charge| charge.revision).collect()
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
    assert_eq!(acked(&writes), vec![first.revision, second.revision]);
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
    assert_eq!(charged(&world.machine.take_writes()), vec![first.revision]);
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

/// A call that is given what there is.
fn call(world: &mut World, events: u64) -> StreamId {
    let credit = Credit {
        events,
        bytes: 1_000_000,
    };
    let id = world.machine.open_call(credit);
    world.streams.insert(id, credit);
    world.calls.insert(id);
    world.run();
    id
}

#[test]
fn what_a_call_was_given_outlives_it() {
    let mut world = with_events(&[1, 1, 2], 0);
    let id = call(&mut world, 1);
    world.keep(id);
    let first = world.grants[0].clone();
    open(&mut world, 10);
    let others: Vec<_> = world.grants[1..].iter().map(|g| g.revision).collect();
    assert_eq!(others, vec![3], "its key is not given to others");
    assert!(!world.machine.is_idle());
    ack(&mut world, &first).unwrap();
    world.run();
    assert_eq!(world.grants.last().unwrap().revision, 2, "until it is done");
    assert_eq!(acked(&world.machine.take_writes()), vec![1]);
}

#[test]
fn what_nobody_settles_comes_again_after_the_deadline() {
    let mut world = with_events(&[1, 1], 0);
    let id = world.machine.open_call(Credit {
        events: 10,
        bytes: 10,
    });
    world.machine.ready(id, world.now);
    let given = world.machine.lease(world.now);
    world.grants.extend(given);
    world.now += DEADLINE / 2;
    world.keep(id);
    world.now += DEADLINE / 2;
    world.machine.tick(world.now);
    assert!(world.machine.take_writes().is_empty(), "not yet");
    world.now += DEADLINE / 2;
    world.machine.tick(world.now);
    assert_eq!(
        charged(&world.machine.take_writes()),
        vec![1],
        "the first of its key"
    );
    world.now += Duration::from_secs(1);
    world.machine.tick(world.now);
    open(&mut world, 10);
    let again: Vec<_> = world.grants[2..]
        .iter()
        .map(|grant| (grant.revision, grant.attempt))
        .collect();
    assert_eq!(again, vec![(1, 2), (2, 1)]);
    assert!(world.machine.kept.is_empty());
}

#[test]
fn a_call_whose_answer_did_not_leave_costs_nothing() {
    let mut world = with_events(&[1, 2], 1);
    let id = call(&mut world, 10);
    world.keep(id);
    world.machine.close(id, Ending::Orderly, world.now);
    assert!(world.machine.take_writes().is_empty());
    assert!(world.machine.is_idle());
    call(&mut world, 10);
    assert!(world.grants[2..].iter().all(|grant| grant.attempt == 1));
    assert_eq!(world.grants.len(), 4);
}

#[test]
fn events_that_outlive_two_deadlines_of_calls_are_tried_one_at_a_time() {
    let mut world = with_events(&[1, 2, 3], 10);
    for _ in 0..2 {
        let id = call(&mut world, 10);
        world.keep(id);
        world.now += DEADLINE * 10;
        world.machine.tick(world.now);
        world.learn();
        world.now += DEADLINE * 10;
        world.machine.tick(world.now);
        world.grants.clear();
    }
    call(&mut world, 10);
    assert_eq!(world.grants.len(), 1);
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
        for revision in &acked(&writes) {
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
    assert_eq!(acked(&writes), vec![1]);
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
