//! Kills, lost keys and absences: nothing is lost or doubled.

use std::collections::BTreeSet;

use trunkline::pb::event::Payload;
use trunkline_simulator::{Fact, Fault, FaultSpec, FaultTarget};

use crate::support::{core, eventually};
use crate::world::{PATIENCE, World};

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_the_middle_nothing_is_lost_or_doubled_and_no_iteration_is_used_twice() {
    const ROUNDS: usize = 8;
    const BURST: usize = 4;
    let mut world = World::new().await;
    let group = world.group();
    let (mut sent, mut received) = (Vec::new(), BTreeSet::new());
    for round in 0..ROUNDS {
        for n in 0..BURST {
            let text = format!("in {round}.{n}");
            received.insert(world.ben.send_to_group(&group, &text).unwrap());
            sent.push(world.send(&group, &format!("out {round}.{n}")).await);
        }
        // At another moment each round: before anything left, or after some of it did.
        let before = world.simulator.ledger().entries().len();
        world
            .simulator
            .wait_until(
                |truth| truth.ledger().entries().len() >= before + round * 2,
                PATIENCE,
            )
            .await
            .ok();
        world.daemon.kill().await;
        world.daemon.start().await;
    }
    for message in &sent {
        for member in [&world.ana, &world.ben] {
            let phone = member.phone();
            world
                .simulator
                .wait_until(
                    |truth| {
                        truth
                            .inbox(&phone)
                            .iter()
                            .any(|m| m.id == message.stanza_id)
                    },
                    PATIENCE,
                )
                .await
                .unwrap_or_else(|_| panic!("{} was not shown", message.stanza_id));
        }
    }
    eventually("everything is in the journal", PATIENCE, async || {
        let arrivals = core::arrivals(&world.journal().await);
        received.iter().all(|id| arrivals.contains_key(id))
    })
    .await;
    let arrivals = core::arrivals(&world.journal().await);
    assert!(arrivals.values().all(|events| events.len() == 1));
    let ledger = world.simulator.ledger();
    for member in [&world.ana, &world.ben] {
        let phone = member.phone();
        let shown = ledger.displayed_by(&phone);
        for message in &sent {
            assert_eq!(shown.get(message.stanza_id.as_str()), Some(&1));
        }
    }
    world.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_lost_its_state_is_answered_from_the_outbox_even_after_a_kill() {
    let mut world = World::new().await;
    let group = world.group();
    world.send(&group, "one").await;
    world.shown(&world.ana, "one").await;
    world.shown(&world.ben, "one").await;

    world.ana.lose_sessions();
    let sent = world.send(&group, "two").await;
    world.shown(&world.ana, "two").await;
    world.shown(&world.ben, "two").await;
    let device = format!("{}:1", world.shop.phone());
    let ledger = world.simulator.ledger();
    let times = ledger.accepted_from(&device)[sent.stanza_id.as_str()];
    assert!(times > 1, "the same id again, for the one that asked");
    let ana = format!("{}:0", world.ana.phone());
    let asked = ledger.facts().any(|fact| {
        matches!(fact, Fact::Receipt { kind, from, ids, .. }
            if kind == "retry" && *from == ana && ids.contains(&sent.stanza_id))
    });
    assert!(asked);
    let to_ben = ledger.facts().filter(|fact| {
        matches!(fact, Fact::Delivered { id, to, .. }
            if *id == sent.stanza_id && *to == format!("{}:0", world.ben.phone()))
    });
    assert_eq!(to_ben.count(), 1, "nobody else gets it again");

    // Killed before the request has reached it, it answers when it is back.
    world.ana.lose_sessions();
    world
        .simulator
        .fault(FaultSpec {
            target: FaultTarget::Account(world.shop.phone()),
            fault: Fault::Delay { millis: 3_600_000 },
            times: None,
        })
        .unwrap();
    let sent = world.send(&group, "three").await;
    world
        .simulator
        .wait_until(
            |truth| {
                truth.ledger().facts().any(|fact| {
                    matches!(fact, Fact::Receipt { kind, from, ids, .. }
                        if kind == "retry" && *from == ana && ids.contains(&sent.stanza_id))
                })
            },
            PATIENCE,
        )
        .await
        .unwrap();
    world.daemon.kill().await;
    world.simulator.clear_faults();
    world.daemon.start().await;
    world.shown(&world.ana, "three").await;
    world.shown(&world.ben, "three").await;
    world.send(&group, "four").await;
    world.shown(&world.ana, "four").await;
    world.shown(&world.ben, "four").await;
    world.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_meanwhile_arrives_once_and_in_order() {
    const WAITING: usize = 12;
    let mut world = World::new().await;
    let group = world.group();
    world.ben.send_to_group(&group, "before").unwrap();
    world.text("shop", "before").await;
    assert_eq!(world.daemon.stop().await, Some(0));
    let mut expected = Vec::new();
    for n in 0..WAITING {
        let by = if n % 2 == 0 { &world.ana } else { &world.ben };
        expected.push(by.send_to_group(&group, &format!("waiting {n}")).unwrap());
    }
    world.daemon.start().await;
    let last = expected.last().unwrap().clone();
    world
        .event(
            "the last of them",
            "shop",
            |payload| matches!(payload, Payload::Message(message) if message.stanza_id == last),
        )
        .await;
    let journal = world.journal().await;
    let order: Vec<String> = journal
        .iter()
        .filter_map(|event| match &event.payload {
            Some(Payload::Message(message)) => Some(message.stanza_id.clone()),
            _ => None,
        })
        .filter(|id| expected.contains(id))
        .collect();
    assert_eq!(order, expected);
    world.assert_clean();
}
