//! Nothing is acknowledged before it is durable, and nothing acknowledged is lost.

use std::time::Duration;

use trunkline::domain::event::ReceiptKind;
use trunkline::domain::session::Cause;
use trunkline::provider::contract::ProbeError;
use trunkline_simulator::{Fact, Truth};

use crate::sink::Seen;
use crate::world::{CUSTOMER, SHOP, World};

fn confirmed(truth: &Truth<'_>, wanted: &str) -> bool {
    truth
        .ledger()
        .facts()
        .any(|fact| matches!(fact, Fact::Confirmed { id, .. } if id == wanted))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_cannot_be_stored_is_not_acknowledged_and_comes_again() {
    let (world, run) = World::online(|_| {}).await;
    let before = world.customer.send_text(SHOP, "before").unwrap();
    world
        .sink
        .wait("the first", |seen| seen.messages().count() == 1)
        .await;
    world
        .until("the first is confirmed", |truth| confirmed(truth, &before))
        .await;
    world.sink.refuse(true);
    let id = world.customer.send_text(SHOP, "keep me").unwrap();
    match run.ended().await {
        Cause::StoreFailed { .. } => {}
        other => panic!("{other:?}"),
    }
    assert!(!world.simulator.look(|truth| confirmed(truth, &id)));

    world.sink.refuse(false);
    let run = world.login();
    world
        .sink
        .wait("the message", |seen| {
            seen.messages().any(|m| m.stanza_id == id)
        })
        .await;
    world
        .until("confirmed", |truth| confirmed(truth, &id))
        .await;
    world
        .sink
        .look(|seen| assert_eq!(seen.messages().filter(|m| m.stanza_id == id).count(), 1));
    assert_eq!(run.stop().await, Cause::Requested);
    assert!(world.simulator.ledger().violations().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receipt_is_acknowledged_only_when_it_is_durable() {
    let (world, run) = World::online(|config| config.gate_patience = Duration::from_mins(1)).await;
    let stanza = world.send(CUSTOMER, "hello").await.unwrap();
    world
        .sink
        .wait("delivered", |seen| {
            seen.has_receipt(&stanza, ReceiptKind::Delivered)
        })
        .await;
    let receipts = |truth: &Truth<'_>| {
        truth
            .ledger()
            .facts()
            .filter(|fact| matches!(fact, Fact::Confirmed { class, .. } if class == "receipt"))
            .count()
    };
    world
        .until("the delivery receipt is confirmed", |truth| {
            receipts(truth) >= 1
        })
        .await;
    let before = world.simulator.look(|truth| receipts(truth));
    world.sink.hold(true);
    let stored = world.sink.look(|seen| seen.arrivals.len());
    let dispatched = world.sink.look(Seen::dispatched);
    world.customer.mark_read(std::slice::from_ref(&stanza));
    world
        .sink
        .wait("the read receipt", |seen| seen.dispatched() > dispatched)
        .await;
    // The connection works, but whatever it is to say waits at the gate: a probe as well.
    assert_eq!(
        world.line.probe(Duration::from_secs(2)).await,
        Err(ProbeError::Silent)
    );
    assert_eq!(
        world.simulator.look(|truth| receipts(truth)),
        before,
        "the receipt must not be confirmed while it is not durable"
    );
    assert_eq!(world.sink.look(|seen| seen.arrivals.len()), stored);
    world.sink.hold(false);
    world
        .until("confirmed", |truth| receipts(truth) > before)
        .await;
    assert_eq!(run.stop().await, Cause::Requested);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stuck_writer_closes_the_connection() {
    // Silence is noticed later, so that the gate is what ends it.
    let (world, run) = World::online(|config| config.gate_patience = Duration::from_secs(10)).await;
    let stanza = world.send(CUSTOMER, "hello").await.unwrap();
    world
        .sink
        .wait("delivered", |seen| {
            seen.has_receipt(&stanza, ReceiptKind::Delivered)
        })
        .await;
    world.sink.hold(true);
    world.customer.mark_read(std::slice::from_ref(&stanza));
    match run.ended().await {
        Cause::StoreFailed { detail } => assert!(detail.contains("not stored"), "{detail}"),
        other => panic!("{other:?}"),
    }
    world.sink.hold(false);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sudden_deaths_neither_lose_nor_double_messages() {
    let (mut world, mut run) = World::online(|_| {}).await;
    let mut sent = Vec::new();
    for round in 0..6 {
        for n in 0..5 {
            let text = format!("{round}.{n}");
            sent.push(world.customer.send_text(SHOP, &text).unwrap());
        }
        let some = sent.len() - 5 + round % 5;
        world
            .sink
            .wait("some arrived", |seen| seen.messages().count() >= some)
            .await;
        run.kill().await;
        world.reopen().await;
        run = world.login();
        world.sink.online().await;
    }
    world
        .sink
        .wait("all arrived", |seen| {
            sent.iter()
                .all(|id| seen.messages().any(|m| m.stanza_id == *id))
        })
        .await;
    let device = world.device();
    world
        .until("all confirmed", move |truth| {
            truth.backlog(SHOP, device) == 0
        })
        .await;
    world.sink.look(|seen| {
        let total = seen.messages().count();
        assert_eq!(
            total - seen.repeated,
            sent.len(),
            "what was delivered again was recognised"
        );
    });
    let back = world.send(CUSTOMER, "still here").await.unwrap();
    world
        .sink
        .wait("delivered", |seen| {
            seen.has_receipt(&back, ReceiptKind::Delivered)
        })
        .await;
    assert!(world.customer.violations().is_empty());
    assert_eq!(run.stop().await, Cause::Requested);
}

/// The ratchet step of a message is on disk, the message is not: what a crash between the two leaves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_whose_key_is_spent_is_reported_and_asked_for_again() {
    let (mut world, run) = World::online(|_| {}).await;
    let stanza = world.send(CUSTOMER, "hello").await.unwrap();
    world
        .sink
        .wait("delivered", |seen| {
            seen.has_receipt(&stanza, ReceiptKind::Delivered)
        })
        .await;
    // A receipt that is not durable yet keeps every acknowledgement back.
    world.sink.hold(true);
    let before = world.sink.look(Seen::dispatched);
    world.customer.mark_read(std::slice::from_ref(&stanza));
    world
        .sink
        .wait("the read receipt", |seen| seen.dispatched() > before)
        .await;
    world.sink.lose(true);
    let id = world.customer.send_text(SHOP, "keep me").unwrap();
    world
        .sink
        .wait("the message was decrypted", |seen| seen.lost == 1)
        .await;
    // An orderly end, so that the ratchet step is certainly stored.
    assert_eq!(run.stop().await, Cause::Requested);
    assert!(!world.simulator.look(|truth| confirmed(truth, &id)));
    world.sink.hold(false);
    world.sink.lose(false);

    world.reopen().await;
    let run = world.login();
    world
        .sink
        .wait("the message came again", |seen| {
            seen.messages().any(|m| m.stanza_id == id)
        })
        .await;
    world.sink.look(|seen| {
        assert!(seen.is_undecryptable(&id), "it was reported first");
        // Asked for twice, it may come twice: the second is recognised.
        let taken = seen.new_messages.iter().filter(|it| **it == id);
        assert_eq!(taken.count(), 1);
    });
    assert_eq!(run.stop().await, Cause::Requested);
    assert!(world.simulator.ledger().violations().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repetition_of_a_message_that_was_seen_is_acknowledged_in_silence() {
    let (mut world, run) = World::online(|_| {}).await;
    let stanza = world.send(CUSTOMER, "hello").await.unwrap();
    world
        .sink
        .wait("delivered", |seen| {
            seen.has_receipt(&stanza, ReceiptKind::Delivered)
        })
        .await;
    world.sink.hold(true);
    world.customer.mark_read(std::slice::from_ref(&stanza));
    let before = world.sink.look(Seen::dispatched);
    world
        .sink
        .wait("the read receipt", |seen| seen.dispatched() > before)
        .await;
    let id = world.customer.send_text(SHOP, "seen").unwrap();
    world
        .sink
        .wait("the message", |seen| {
            seen.messages().any(|m| m.stanza_id == id)
        })
        .await;
    assert_eq!(run.stop().await, Cause::Requested);
    assert!(!world.simulator.look(|truth| confirmed(truth, &id)));
    world.sink.hold(false);

    world.reopen().await;
    let run = world.login();
    world
        .until("confirmed", |truth| confirmed(truth, &id))
        .await;
    world.sink.look(|seen| {
        assert!(!seen.is_undecryptable(&id));
        assert_eq!(seen.messages().filter(|m| m.stanza_id == id).count(), 1);
    });
    assert_eq!(run.stop().await, Cause::Requested);
}
