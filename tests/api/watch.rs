//! Watch: inclusive resume, progress when idle, and the truth after compaction.

use std::time::Duration;

use tonic::{Code, Streaming};
use tonic_types::StatusExt as _;
use trunkline::domain::clock::{Clock as _, Timestamp};
use trunkline::pb;
use trunkline::pb::watch_response::Frame;
use trunkline::store::Retention;

use crate::harness::{Client, World, arrive, check, soon, stanza};

fn from(from_revision: Option<u64>) -> pb::WatchRequest {
    pb::WatchRequest {
        parent: "workspaces/default".to_owned(),
        from_revision,
        ..Default::default()
    }
}

async fn watch(client: &mut Client, request: pb::WatchRequest) -> Streaming<pb::WatchResponse> {
    client.events.watch(request).await.unwrap().into_inner()
}

/// Events up to the next progress frame, and where that says to resume.
async fn until_progress(stream: &mut Streaming<pb::WatchResponse>) -> (Vec<pb::Event>, u64) {
    let mut events = Vec::new();
    loop {
        let frame = soon(stream.message()).await.unwrap().unwrap().frame;
        match frame.unwrap() {
            Frame::Event(event) => events.push(event),
            Frame::Progress(progress) => return (events, progress.next_revision),
        }
    }
}

fn stanzas(events: &[pb::Event]) -> Vec<String> {
    events.iter().map(stanza).collect()
}

#[tokio::test]
async fn a_watch_resumes_where_it_was() {
    let world = World::new().await;
    let session = world.session("s").await;
    for n in 1..=3 {
        arrive(&session, "a", &n.to_string(), world.clock.now()).await;
    }
    let mut client = world.client().await;
    let mut stream = watch(&mut client, from(Some(0))).await;
    let (events, next) = until_progress(&mut stream).await;
    assert_eq!(stanzas(&events), ["1", "2", "3"]);
    let (none, same) = until_progress(&mut stream).await;
    assert!(none.is_empty() && same == next, "idle progress");
    arrive(&session, "a", "4", world.clock.now()).await;
    loop {
        let (events, _) = until_progress(&mut stream).await;
        if !events.is_empty() {
            assert_eq!(stanzas(&events), ["4"]);
            break;
        }
    }
    let mut resumed = watch(&mut client, from(Some(events[1].revision))).await;
    let (events, _) = until_progress(&mut resumed).await;
    assert_eq!(stanzas(&events), ["2", "3", "4"], "inclusive");
    let mut resumed = watch(&mut client, from(Some(next))).await;
    assert_eq!(stanzas(&until_progress(&mut resumed).await.0), ["4"]);
    let mut live = watch(&mut client, from(None)).await;
    assert!(until_progress(&mut live).await.0.is_empty());
}

#[tokio::test]
async fn a_watch_filters_by_session_and_type() {
    let world = World::new().await;
    let (one, two) = (world.session("one").await, world.session("two").await);
    arrive(&one, "a", "1", world.clock.now()).await;
    arrive(&two, "a", "2", world.clock.now()).await;
    let mut client = world.client().await;
    let of_two = pb::WatchRequest {
        session: "workspaces/default/sessions/two".to_owned(),
        ..from(Some(0))
    };
    let mut stream = watch(&mut client, of_two).await;
    assert_eq!(stanzas(&until_progress(&mut stream).await.0), ["2"]);
    let receipts = pb::WatchRequest {
        types: vec![pb::EventType::Receipt.into()],
        ..from(Some(0))
    };
    let mut stream = watch(&mut client, receipts).await;
    let (events, next) = until_progress(&mut stream).await;
    assert!(events.is_empty() && next == 3, "passed over: {next}");
    let bad = pb::WatchRequest {
        types: vec![99],
        ..from(None)
    };
    let refused = client.events.watch(bad).await;
    check(
        refused,
        Code::InvalidArgument,
        "INVALID_FIELD",
        Some("types"),
    );
    let elsewhere = pb::WatchRequest {
        session: "workspaces/other/sessions/two".to_owned(),
        ..from(None)
    };
    let refused = client.events.watch(elsewhere).await;
    check(
        refused,
        Code::InvalidArgument,
        "INVALID_FIELD",
        Some("session"),
    );
    let unknown = pb::WatchRequest {
        session: "workspaces/default/sessions/three".to_owned(),
        ..from(None)
    };
    let refused = client.events.watch(unknown).await;
    check(refused, Code::NotFound, "RESOURCE_NOT_FOUND", None);
}

#[tokio::test]
async fn after_compaction_the_oldest_revision_is_told() {
    let world = World::new().await;
    let session = world.session("s").await;
    for n in 1..=5 {
        arrive(&session, "a", &n.to_string(), Timestamp(1_000)).await;
    }
    arrive(&session, "a", "young", world.clock.now()).await;
    let retention = Retention {
        max_age: Some(Duration::from_hours(1)),
        max_bytes: None,
    };
    world.workspace().await.enforce(&retention).await.unwrap();
    let mut client = world.client().await;
    let refused = client.events.watch(from(Some(2))).await;
    let status = check(refused, Code::OutOfRange, "REVISION_OUT_OF_RANGE", None);
    let details = status.get_error_details();
    let oldest = &details.error_info().unwrap().metadata["oldest_revision"];
    assert_eq!(oldest, "6");
    let mut stream = watch(&mut client, from(Some(oldest.parse().unwrap()))).await;
    let (events, _) = until_progress(&mut stream).await;
    assert_eq!(stanza(&events[0]), "young");
    assert_eq!(events.len(), 1, "what a subscription lost is told to it");
    let refused = client.events.watch(from(Some(1_000))).await;
    let status = check(refused, Code::OutOfRange, "REVISION_OUT_OF_RANGE", None);
    assert!(status.message().contains("does not exist yet"));
}
