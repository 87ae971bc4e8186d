//! `LeaseEvents` and `SettleLeases`: leases without a stream, in gRPC and in JSON.

use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use hyper_util::client::legacy::Client as Http;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tonic::{Code, Status};
use trunkline::config::Metrics;
use trunkline::domain::clock::Timestamp;
use trunkline::pb;
use trunkline::pb::PullOutcome::{Confirmed, InvalidAckId, Waiting};
use trunkline::telemetry::init_metrics;

use crate::harness::{Client, World, arrive, check, fresh, soon, stanza};

const DEFAULT: &str = "workspaces/default/subscriptions/default";

/// The text of another workspace's name for the same.
const OTHER: &str = "workspaces/globex/subscriptions/default";

async fn with_events(events: &[(&str, &str)]) -> (World, Client) {
    let world = World::new().await;
    let session = world.session("s").await;
    for (chat, stanza_id) in events {
        arrive(&session, chat, stanza_id, Timestamp(1_000)).await;
    }
    let client = world.client().await;
    (world, client)
}

fn request(max_events: i32, wait: i64) -> pb::LeaseEventsRequest {
    pb::LeaseEventsRequest {
        subscription: DEFAULT.to_owned(),
        max_events,
        max_bytes: 0,
        wait: Some(prost_types::Duration {
            seconds: wait,
            nanos: 0,
        }),
    }
}

async fn lease(client: &mut Client, max_events: i32, wait: i64) -> Vec<pb::Lease> {
    let leased = soon(client.events.lease_events(request(max_events, wait))).await;
    leased.unwrap().into_inner().leases
}

fn ids(leases: &[&pb::Lease]) -> Vec<String> {
    leases.iter().map(|lease| lease.ack_id.clone()).collect()
}

async fn settle(
    client: &mut Client,
    request: pb::SettleLeasesRequest,
) -> Result<Vec<(String, pb::PullOutcome)>, Status> {
    let settled = soon(client.events.settle_leases(request)).await?;
    let results = settled.into_inner().results.into_iter();
    Ok(results
        .map(|result| (result.ack_id.clone(), result.outcome()))
        .collect())
}

fn acks(subscription: &str, ack_ids: Vec<String>) -> pb::SettleLeasesRequest {
    pb::SettleLeasesRequest {
        subscription: subscription.to_owned(),
        ack: Some(pb::PullAck { ack_ids }),
        ..Default::default()
    }
}

fn stanzas(leases: &[pb::Lease]) -> Vec<String> {
    let events = leases.iter().map(|lease| lease.event.as_ref().unwrap());
    events.map(stanza).collect()
}

#[tokio::test]
async fn each_lease_gets_its_outcome_in_the_order_of_the_request() {
    let events = [("a", "1"), ("b", "2"), ("c", "3"), ("d", "4"), ("d", "5")];
    let (_world, mut client) = with_events(&events).await;
    let leases = lease(&mut client, 10, 0).await;
    assert_eq!(leases.len(), 5);
    let of = |wanted: &str| {
        let at = stanzas(&leases).iter().position(|id| id == wanted);
        &leases[at.unwrap()]
    };
    let asked = pb::SettleLeasesRequest {
        subscription: DEFAULT.to_owned(),
        ack: Some(pb::PullAck {
            ack_ids: vec![
                of("5").ack_id.clone(),
                "rubbish".to_owned(),
                of("1").ack_id.clone(),
            ],
        }),
        nack: Some(pb::PullNack {
            ack_ids: ids(&[of("2")]),
            delay: Some(prost_types::Duration::default()),
        }),
        extend: Some(pb::PullExtend {
            ack_ids: ids(&[of("3")]),
            ack_deadline: None,
        }),
    };
    let settled = settle(&mut client, asked).await.unwrap();
    assert_eq!(
        settled,
        [
            (of("5").ack_id.clone(), Waiting),
            ("rubbish".to_owned(), InvalidAckId),
            (of("1").ack_id.clone(), Confirmed),
            (of("2").ack_id.clone(), Confirmed),
            (of("3").ack_id.clone(), Confirmed),
        ]
    );
    let again = lease(&mut client, 10, 0).await;
    assert_eq!(stanzas(&again), ["2"], "the one that was refused");
    assert_eq!(again[0].attempt, 2);
    let rest = acks(DEFAULT, ids(&[of("3"), of("4"), of("5"), &again[0]]));
    let settled = settle(&mut client, rest).await.unwrap();
    assert!(settled.iter().all(|(_, outcome)| *outcome == Confirmed));
    assert!(lease(&mut client, 10, 0).await.is_empty());
}

#[tokio::test]
async fn calls_and_streams_compete_for_keys() {
    let (_world, mut client) = with_events(&[("a", "1"), ("a", "2"), ("b", "3")]).await;
    let first = lease(&mut client, 1, 0).await;
    assert_eq!(stanzas(&first), ["1"]);
    let second = lease(&mut client, 10, 0).await;
    assert_eq!(stanzas(&second), ["3"], "the key of the first is taken");
    let done = acks(DEFAULT, ids(&[&first[0]]));
    settle(&mut client, done).await.unwrap();
    assert_eq!(stanzas(&lease(&mut client, 10, 0).await), ["2"]);
}

#[tokio::test]
async fn nobody_settles_what_belongs_to_another_workspace() {
    let (_world, mut client) = with_events(&[("a", "1")]).await;
    let created = pb::CreateWorkspaceRequest {
        workspace_id: "globex".to_owned(),
        request_id: fresh(),
        ..Default::default()
    };
    client.workspaces.create_workspace(created).await.unwrap();
    let leases = lease(&mut client, 1, 0).await;
    let settled = settle(&mut client, acks(OTHER, ids(&[&leases[0]]))).await;
    let outcomes: Vec<_> = settled.unwrap().into_iter().map(|(_, o)| o).collect();
    assert_eq!(outcomes, [pb::PullOutcome::InvalidAckId]);
    let held = settle(&mut client, acks(DEFAULT, ids(&[&leases[0]]))).await;
    assert_eq!(held.unwrap()[0].1, pb::PullOutcome::Confirmed);
}

#[tokio::test]
async fn what_is_malformed_names_its_field() {
    let (_world, mut client) = with_events(&[]).await;
    for (change, field) in [
        (request(-1, 0), "max_events"),
        (request(1_001, 0), "max_events"),
        (request(1, 61), "wait"),
        (request(1, -1), "wait"),
        (
            pb::LeaseEventsRequest {
                max_bytes: i32::MAX,
                ..request(1, 0)
            },
            "max_bytes",
        ),
    ] {
        let refused = client.events.lease_events(change).await;
        check(refused, Code::InvalidArgument, "INVALID_FIELD", Some(field));
    }
    let twice = pb::SettleLeasesRequest {
        nack: Some(pb::PullNack {
            ack_ids: vec!["x".to_owned()],
            delay: None,
        }),
        ..acks(DEFAULT, vec!["x".to_owned()])
    };
    let many = (0..1_001).map(|n| n.to_string()).collect();
    for (asked, field) in [
        (acks(DEFAULT, Vec::new()), "ack.ack_ids"),
        (acks(DEFAULT, many), "ack.ack_ids"),
        (twice, "nack.ack_ids"),
    ] {
        let refused = settle(&mut client, asked).await;
        check(refused, Code::InvalidArgument, "INVALID_FIELD", Some(field));
    }
}

#[tokio::test]
async fn a_call_that_waits_ends_when_the_daemon_stops() {
    let (world, _client) = with_events(&[]).await;
    let channel = world.channel().await;
    let of_channel = || Client::new(&channel, Some(&world.token));
    let (mut waiting, mut client) = (of_channel(), of_channel());
    let waiting = tokio::spawn(async move { waiting.events.lease_events(request(1, 60)).await });
    tokio::task::yield_now().await;
    // Asked later on the same connection: when this is answered, the other has arrived.
    assert!(lease(&mut client, 1, 0).await.is_empty());
    let down = tokio::spawn(world.server.shutdown(Duration::from_mins(1)));
    let ended = soon(waiting).await.unwrap();
    check(ended, Code::Unavailable, "DRAINING", None);
    soon(down).await.unwrap();
}

/// How many calls for leases were cancelled in this process.
fn cancelled() -> u64 {
    let metrics = init_metrics(&Metrics::default()).unwrap().render();
    let line = metrics.lines().find(|line| {
        line.starts_with("trunkline_api_requests_total{")
            && line.contains("method=\"LeaseEvents\"")
            && line.contains("code=\"Cancelled\"")
    });
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok())
        .unwrap_or_default()
}

/// Makes a call and leaves, until the server has seen a client leave in the middle of it.
async fn abandoned(call: impl Fn() -> tokio::task::JoinHandle<()>) {
    let (before, mut patience) = (cancelled(), Duration::from_millis(50));
    soon(async {
        loop {
            let call = call();
            tokio::time::sleep(patience).await;
            call.abort();
            for _ in 0..100 {
                if cancelled() > before {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            patience *= 2;
        }
    })
    .await;
}

#[tokio::test]
async fn a_client_that_leaves_while_it_waits_takes_nothing() {
    init_metrics(&Metrics::default()).unwrap();
    let (world, mut client) = with_events(&[]).await;
    let session = world.workspace().await;
    let session = session.session(&"s".parse().unwrap()).await.unwrap();

    let channel = world.channel().await;
    abandoned(|| {
        let mut leaving = Client::new(&channel, Some(&world.token));
        tokio::spawn(async move { drop(leaving.events.lease_events(request(10, 60)).await) })
    })
    .await;
    let address = world.server.tcp().unwrap();
    abandoned(|| {
        let http = Http::builder(TokioExecutor::new()).build_http::<Body>();
        let asked = Request::post(format!("http://{address}/v1/{DEFAULT}:lease"))
            .header("authorization", format!("Bearer {}", world.token))
            .body(Body::from(json!({ "wait": "60s" }).to_string()))
            .unwrap();
        tokio::spawn(async move { drop(http.request(asked).await) })
    })
    .await;
    arrive(&session, "a", "1", Timestamp(1_000)).await;
    let leases = lease(&mut client, 10, 30).await;
    assert_eq!(stanzas(&leases), ["1"]);
    assert_eq!(leases[0].attempt, 1);
}

#[tokio::test]
async fn a_core_in_json_leases_and_settles() {
    let (world, _client) = with_events(&[("a", "1"), ("b", "2")]).await;
    let http = Http::builder(TokioExecutor::new()).build_http::<Body>();
    let address = world.server.tcp().unwrap();
    let post = async |verb: &str, body: Value| -> Value {
        let asked = Request::post(format!("http://{address}/v1/{DEFAULT}:{verb}"))
            .header("authorization", format!("Bearer {}", world.token))
            .body(Body::from(body.to_string()))
            .unwrap();
        let answer = soon(http.request(asked)).await.unwrap();
        let body = axum::body::to_bytes(Body::new(answer.into_body()), usize::MAX);
        serde_json::from_slice(&body.await.unwrap()).unwrap()
    };
    let answer = post("lease", json!({ "maxEvents": 10 })).await;
    let leases = answer["leases"].as_array().unwrap();
    assert_eq!(leases.len(), 2, "{answer}");
    let ack_ids: Vec<_> = leases.iter().map(|lease| &lease["ackId"]).collect();
    let settled = post("settle", json!({ "ack": { "ackIds": ack_ids } })).await;
    for result in settled["results"].as_array().unwrap() {
        assert_eq!(result["outcome"], "PULL_OUTCOME_CONFIRMED", "{settled}");
        assert_eq!(result["operation"], "PULL_OPERATION_ACK");
    }
    let nothing = post("lease", json!({})).await;
    assert_eq!(nothing, json!({ "leases": [] }));
}
