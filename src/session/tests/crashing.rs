//! Panics and faults stay where they happen.

use crate::domain::message::MessageState;
use crate::domain::session::{Cause, Connection};
use crate::provider::contract::Signal;
use crate::session::testing::*;

#[tokio::test]
async fn a_panicking_line_does_not_disturb_its_neighbour_and_ends_in_failed() {
    let h = Harness::new(quick()).await;
    let good = h.online("good").await;
    let bad = h.store_paired("bad").await;
    h.world.plan(&bad, std::iter::repeat_n(Plan::Panic, 5));
    h.supervisor.restore().await.unwrap();
    let status = h.reach(&bad, "FAILED").await;
    assert!(
        matches!(&status.connection, Connection::Failed { reason } if reason.contains("panicked")),
        "{status:?}"
    );
    assert_eq!(h.world.peer(&bad, |peer| peer.attempts), 5);
    let status = h.supervisor.status(&good).unwrap();
    assert_eq!(status.connection, Connection::Online);
    assert_eq!(h.world.peer(&good, |peer| peer.attempts), 1);
    // An operator's Start gives it another chance.
    h.supervisor.start(&bad).await.unwrap();
    h.reach(&bad, "ONLINE").await;
}

#[tokio::test]
async fn a_panic_while_opening_or_sending_is_contained() {
    let h = Harness::new(quick()).await;
    let name = h.store_paired("a").await;
    h.world.peer(&name, |peer| peer.open_panics = 2);
    h.supervisor.restore().await.unwrap();
    h.reach(&name, "ONLINE").await;
    h.world.peer(&name, |peer| peer.ack = Some(AckMode::Panic));
    let sent = h.submit(&name, "1", "hi").await.message;
    eventually(|| async {
        match h.world.peer(&name, |peer| peer.wire.len()) {
            0 => Err("nothing was sent".to_owned()),
            _ => Ok(()),
        }
    })
    .await;
    h.world.peer(&name, |peer| peer.ack = Some(AckMode::Accept));
    let sent = h.settled(&name, sent.id, MessageState::Sent).await;
    let wire = h.world.peer(&name, |peer| peer.wire.clone());
    assert!(wire.len() >= 2);
    assert!(
        wire.iter()
            .all(|(id, bytes)| *id == sent.stanza_id && *bytes == sent.encoded)
    );
}

#[tokio::test]
async fn an_actor_that_panics_is_built_again_and_the_panic_is_counted() {
    let h = Harness::new(quick()).await;
    let name = h.online("a").await;
    let other = h.online("b").await;
    h.world.peer(&name, |peer| {
        peer.traffic_panics = 1;
        let sink = peer.sink.clone().unwrap();
        sink.signal(Signal::InitialSyncDone);
    });
    let crashed = h.until(&name, |s| s.crashes == 1).await;
    // What a panic says may quote a message: it is for the log at debug alone.
    match crashed.last_cause {
        Some(Cause::Internal { detail }) => assert_eq!(detail, "panicked"),
        other => panic!("{other:?}"),
    }
    h.reach(&name, "ONLINE").await;
    assert_eq!(h.world.peer(&name, |peer| peer.opens), 2);
    assert_eq!(
        h.world.peaks().1,
        1,
        "the old connection outlived its actor"
    );
    assert_eq!(h.supervisor.status(&other).unwrap().crashes, 0);
    assert_eq!(h.world.peer(&other, |peer| peer.attempts), 1);
}
