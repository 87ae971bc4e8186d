//! What a core gave up, seen and mended by an operator.

use std::time::Duration;

use serde_json::Value;
use trunkline::pb;
use trunkline::pb::event_service_client::EventServiceClient;
use trunkline::pb::subscription_service_client::SubscriptionServiceClient;
use trunkline_simulator::{Simulator, SimulatorConfig};

use crate::support::core::{create_session, request_id};
use crate::support::daemon::Daemon;
use crate::support::eventually;

const CORE: &str = "workspaces/default/subscriptions/core";
const PATIENCE: Duration = Duration::from_mins(3);

async fn lease(daemon: &Daemon) -> Vec<pb::Lease> {
    let request = pb::LeaseEventsRequest {
        subscription: CORE.to_owned(),
        max_events: 1,
        wait: Some(prost_types::Duration {
            seconds: 60,
            nanos: 0,
        }),
        ..pb::LeaseEventsRequest::default()
    };
    let mut events = EventServiceClient::new(daemon.channel().await.unwrap());
    let leased = events.lease_events(request).await.unwrap();
    leased.into_inner().leases
}

#[tokio::test]
async fn dead_letters_are_listed_and_delivered_again() {
    let simulator = Simulator::bind(SimulatorConfig::default()).await.unwrap();
    let mut daemon = Daemon::prepare(&simulator.ws_url(), "");
    daemon.start().await;
    let run = |arguments: &[&str]| {
        let output = daemon.trunkline().args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap() + &said,
        )
    };
    let channel = daemon.channel().await.unwrap();
    let mut subscriptions = SubscriptionServiceClient::new(channel.clone());
    let strict = pb::CreateSubscriptionRequest {
        parent: "workspaces/default".to_owned(),
        subscription_id: "core".to_owned(),
        subscription: Some(pb::Subscription {
            max_attempts: 1,
            ..pb::Subscription::default()
        }),
        from_revision: Some(0),
        request_id: request_id(),
    };
    subscriptions.create_subscription(strict).await.unwrap();
    create_session(&channel, "main").await;
    assert_eq!(run(&["session", "stop", "main"]).0, Some(0));

    let lease_of_poison = lease(&daemon).await.remove(0);
    let poison = lease_of_poison.event.clone().unwrap();
    let nack = pb::SettleLeasesRequest {
        subscription: CORE.to_owned(),
        nack: Some(pb::PullNack {
            ack_ids: vec![lease_of_poison.ack_id],
            delay: None,
        }),
        ..pb::SettleLeasesRequest::default()
    };
    let mut events = EventServiceClient::new(channel);
    events.settle_leases(nack).await.unwrap();
    let dead = || run(&["subscription", "dead-letters", "core", "--output", "json"]).1;
    eventually("it is given up", PATIENCE, async || !dead().is_empty()).await;
    let letter: Value = serde_json::from_str(&dead()).unwrap();
    assert_eq!(letter["event"]["eventId"], poison.event_id.as_str());
    let table = run(&["subscription", "dead-letters", "core"]).1;
    assert!(table.contains("MAX_ATTEMPTS"), "{table}");
    let listed = run(&["subscription", "list"]).1;
    assert!(
        listed.contains("core") && listed.contains("default"),
        "{listed}"
    );

    let (code, said) = run(&["subscription", "redrive", "core"]);
    assert_eq!(code, Some(2), "{said}");
    let revision = poison.revision.to_string();
    let (code, said) = run(&["subscription", "redrive", "core", &revision, "999999"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("1 dead letters") && said.contains("999999"),
        "{said}"
    );
    let (_, said) = run(&["subscription", "redrive", "core", "--all"]);
    assert!(said.contains("0 dead letters"), "{said}");
    assert!(dead().is_empty());

    // Whatever else there is comes first.
    let mut again = lease(&daemon).await.remove(0);
    while again.event.as_ref().unwrap().event_id != poison.event_id {
        let ack = pb::SettleLeasesRequest {
            subscription: CORE.to_owned(),
            ack: Some(pb::PullAck {
                ack_ids: vec![again.ack_id],
            }),
            ..pb::SettleLeasesRequest::default()
        };
        events.settle_leases(ack).await.unwrap();
        again = lease(&daemon).await.remove(0);
    }
    assert_eq!(again.attempt, 1);
    assert!(again.event.unwrap().revision > poison.revision);
    simulator.shutdown().await;
}
