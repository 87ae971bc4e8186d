//! What arrives is durable before it is acknowledged, once.

use std::sync::Arc;

use crate::domain::clock::Clock as _;
use crate::domain::clock::Timestamp;
use crate::domain::event::{DedupKey, NewEvent, Payload, ReceiptKind};
use crate::domain::ids::SessionName;
use crate::domain::message::{Content, InboundMessage, MessageState};
use crate::domain::session::Cause;
use crate::provider::contract::{Arrival, Sink, UNDECRYPTABLE};
use crate::session::testing::*;

fn sink(h: &Harness, name: &SessionName) -> Arc<dyn Sink> {
    h.world.peer(name, |peer| peer.sink.clone()).unwrap()
}

fn dedup(stanza: &str, kind: &str) -> DedupKey {
    DedupKey {
        chat: "7@s.whatsapp.net".into(),
        sender: "7@s.whatsapp.net".into(),
        stanza_id: stanza.into(),
        kind: kind.into(),
    }
}

fn message(h: &Harness, stanza: &str) -> Arrival {
    let now = h.clock.now();
    Arrival::Event(NewEvent {
        at: now,
        payload: Payload::Message {
            message: InboundMessage {
                chat: person("7"),
                sender: person("7"),
                from_me: false,
                stanza_id: stanza.into(),
                sent_at: now,
                push_name: None,
                content: Content::Text { text: "hi".into() },
                quoted: None,
            },
            recovers: None,
        },
        dedup: Some(dedup(stanza, "message")),
    })
}

fn undecryptable(h: &Harness, stanza: &str) -> Arrival {
    Arrival::Event(NewEvent {
        at: h.clock.now(),
        payload: Payload::Undecryptable {
            chat: person("7"),
            sender: person("7"),
            stanza_id: stanza.into(),
            reason: "no session".into(),
        },
        dedup: Some(dedup(stanza, UNDECRYPTABLE)),
    })
}

fn receipt(stanza: &str, kind: ReceiptKind, at: Timestamp) -> Arrival {
    Arrival::Receipt {
        chat: person("1"),
        from: person("1"),
        stanza_ids: vec![stanza.into()],
        kind,
        at,
        dedup: dedup(stanza, &format!("receipt/{kind:?}")),
    }
}

async fn of_type(h: &Harness, wanted: fn(&Payload) -> bool) -> usize {
    h.events()
        .await
        .iter()
        .filter(|event| wanted(&event.payload))
        .count()
}

#[tokio::test]
async fn a_redelivery_is_acknowledged_and_not_a_second_event() {
    let h = Harness::new(quick()).await;
    let name = h.online("a").await;
    let sink = sink(&h, &name);
    for _ in 0..3 {
        sink.commit(vec![message(&h, "M1"), message(&h, "M2")])
            .await
            .unwrap();
    }
    assert_eq!(
        of_type(&h, |p| matches!(p, Payload::Message { .. })).await,
        2
    );
}

#[tokio::test]
async fn what_is_enqueued_becomes_durable_in_order_and_receipts_move_messages() {
    let h = Harness::new(quick()).await;
    let name = h.online("a").await;
    let sent = h.submit(&name, "1", "hi").await.message;
    h.settled(&name, sent.id, MessageState::Sent).await;
    let sink = sink(&h, &name);
    let now = h.clock.now();
    sink.enqueue(receipt(&sent.stanza_id, ReceiptKind::Delivered, now));
    sink.enqueue(receipt(&sent.stanza_id, ReceiptKind::Delivered, now));
    let last = sink.enqueue(receipt(&sent.stanza_id, ReceiptKind::Read, now));
    assert_eq!((last, sink.dispatched()), (3, 3));
    sink.wait_durable(last).await.unwrap();
    assert!(sink.durable() >= last);
    let read = h.message(&name, sent.id).await;
    assert_eq!(read.state, MessageState::Read);
    let states: Vec<_> = read.history.iter().map(|(state, _)| *state).collect();
    assert_eq!(
        states,
        [
            MessageState::Queued,
            MessageState::Sending,
            MessageState::Sent,
            MessageState::Delivered,
            MessageState::Read
        ]
    );
    assert_eq!(
        of_type(&h, |p| matches!(p, Payload::Receipt { .. })).await,
        2
    );
}

#[tokio::test]
async fn a_recovered_message_names_its_report_even_after_a_restart() {
    let mut h = Harness::new(quick()).await;
    let name = h.online("a").await;
    let reported = [message(&h, "M2")];
    sink(&h, &name)
        .commit(vec![undecryptable(&h, "M1"), undecryptable(&h, "M2")])
        .await
        .unwrap();
    sink(&h, &name)
        .commit(vec![message(&h, "M1")])
        .await
        .unwrap();
    h.restart(quick()).await;
    h.reach(&name, "ONLINE").await;
    sink(&h, &name).commit(reported.into()).await.unwrap();
    let events = h.events().await;
    for stanza in ["M1", "M2"] {
        let report = events.iter().find(|event| {
            matches!(&event.payload, Payload::Undecryptable { stanza_id, .. } if stanza_id == stanza)
        });
        let recovers = events.iter().find_map(|event| match &event.payload {
            Payload::Message { message, recovers } if message.stanza_id == stanza => {
                Some(*recovers)
            }
            _ => None,
        });
        assert_eq!(
            recovers.unwrap(),
            Some(report.unwrap().event_id),
            "{stanza}"
        );
    }
}

#[tokio::test]
async fn a_learned_mapping_is_told_once() {
    let h = Harness::new(quick()).await;
    let name = h.online("a").await;
    for stanza in ["M1", "M2"] {
        let Arrival::Event(mut event) = message(&h, stanza) else {
            unreachable!()
        };
        if let Payload::Message { message, .. } = &mut event.payload {
            message.sender.lid = Some("77@lid".into());
        }
        sink(&h, &name)
            .commit(vec![Arrival::Event(event)])
            .await
            .unwrap();
    }
    assert_eq!(
        of_type(&h, |p| matches!(p, Payload::ContactMapping { .. })).await,
        1
    );
}

#[tokio::test]
async fn a_store_that_fails_closes_the_connection_unacknowledged() {
    let h = Harness::new(quick()).await;
    let name = h.online("a").await;
    let sink = sink(&h, &name);
    h.engine.close().await.unwrap();
    assert!(sink.commit(vec![message(&h, "M1")]).await.is_err());
    let seq = sink.enqueue(message(&h, "M2"));
    assert!(sink.wait_durable(seq).await.is_err());
    assert!(sink.durable() < seq);
    // The actor cannot write either; the connection is gone all the same.
    eventually(|| async {
        if h.world.peer(&name, |peer| peer.is_live()) {
            Err("still connected".to_owned())
        } else {
            Ok(())
        }
    })
    .await;
}

#[tokio::test]
async fn a_forgotten_line_can_write_nothing() {
    let h = Harness::new(quick()).await;
    let name = h.online("a").await;
    let old = sink(&h, &name);
    h.world.control(&name, Control::End(Cause::Stalled));
    h.until(&name, |s| {
        s.last_cause == Some(Cause::Stalled) && s.connection.name() == "ONLINE"
    })
    .await;
    assert_eq!(h.world.peer(&name, |peer| peer.opens), 2);
    assert!(old.commit(vec![message(&h, "M1")]).await.is_err());
    assert_eq!(
        of_type(&h, |p| matches!(p, Payload::Message { .. })).await,
        0
    );
    sink(&h, &name)
        .commit(vec![message(&h, "M1")])
        .await
        .unwrap();
    assert_eq!(
        of_type(&h, |p| matches!(p, Payload::Message { .. })).await,
        1
    );
}

#[tokio::test]
async fn a_flood_closes_its_own_session_only() {
    // More than a sink lets wait.
    const FLOOD: u64 = 70_000;
    let h = Harness::new(quick()).await;
    let (flooded, calm) = (h.online("a").await, h.online("b").await);
    let (loud, quiet) = (sink(&h, &flooded), sink(&h, &calm));
    // A line that does not stop reading at the backlog it is allowed.
    for n in 0..FLOOD {
        loud.enqueue(message(&h, &format!("M{n}")));
    }
    let last = loud.dispatched();
    assert_eq!(last, FLOOD);
    assert!(loud.wait_durable(last).await.is_err());
    quiet.commit(vec![message(&h, "M")]).await.unwrap();
    h.until(&flooded, |s| {
        matches!(s.last_cause, Some(Cause::StoreFailed { .. })) && s.connection.name() == "ONLINE"
    })
    .await;
    assert_eq!(h.world.peer(&calm, |peer| peer.attempts), 1);
}
