//! `GetDelivery`: what became of an event in a subscription, with times.

use std::time::Duration;

use tonic::Code;
use trunkline::domain::clock::Timestamp;
use trunkline::pb;
use trunkline::pb::DeliveryState::{Acknowledged, GivenUp, Leased, NotWanted, Settled, Waiting};

use crate::harness::{Client, World, arrive, check, fresh, soon};

const CORE: &str = "workspaces/default/subscriptions/core";

async fn create(client: &mut Client, id: &str, types: &[pb::EventType], from: Option<u64>) {
    let request = pb::CreateSubscriptionRequest {
        parent: "workspaces/default".to_owned(),
        subscription_id: id.to_owned(),
        subscription: Some(pb::Subscription {
            max_attempts: 2,
            filter: Some(pb::SubscriptionFilter {
                types: types.iter().map(|kind| (*kind).into()).collect(),
                sessions: Vec::new(),
            }),
            ..Default::default()
        }),
        from_revision: from,
        request_id: fresh(),
    };
    let created = client.subscriptions.create_subscription(request).await;
    created.unwrap();
}

async fn delivery(client: &mut Client, subscription: &str, revision: u64) -> pb::Delivery {
    let request = pb::GetDeliveryRequest {
        name: format!("workspaces/default/subscriptions/{subscription}/deliveries/{revision}"),
    };
    let answer = client.subscriptions.get_delivery(request).await.unwrap();
    answer.into_inner().delivery.unwrap()
}

/// Waits until the delivery is as wanted: a failure is written a moment after it is answered.
async fn becomes(
    client: &mut Client,
    revision: u64,
    wanted: impl Fn(&pb::Delivery) -> bool,
) -> pb::Delivery {
    soon(async {
        loop {
            let delivery = delivery(client, "core", revision).await;
            if wanted(&delivery) {
                return delivery;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}

#[allow(clippy::cast_precision_loss, reason = "seconds, to compare")]
fn seconds(time: prost_types::Timestamp) -> f64 {
    time.seconds as f64 + f64::from(time.nanos) / 1e9
}

async fn lease(client: &mut Client) -> pb::Lease {
    let request = pb::LeaseEventsRequest {
        subscription: CORE.to_owned(),
        max_events: 1,
        wait: Some(prost_types::Duration {
            seconds: 60,
            nanos: 0,
        }),
        ..Default::default()
    };
    let leased = soon(client.events.lease_events(request)).await.unwrap();
    leased.into_inner().leases.remove(0)
}

async fn settle(client: &mut Client, lease: pb::Lease, ack: bool) {
    let ack_ids = vec![lease.ack_id];
    let mut request = pb::SettleLeasesRequest {
        subscription: CORE.to_owned(),
        ..Default::default()
    };
    if ack {
        request.ack = Some(pb::PullAck { ack_ids });
    } else {
        let delay = Some(prost_types::Duration::default());
        request.nack = Some(pb::PullNack { ack_ids, delay });
    }
    let settled = soon(client.events.settle_leases(request)).await.unwrap();
    let outcome = settled.into_inner().results[0].outcome();
    assert_eq!(outcome, pb::PullOutcome::Confirmed);
}

#[tokio::test]
async fn a_delivery_is_followed_from_its_first_lease_to_its_end() {
    let world = World::new().await;
    let session = world.session("s").await;
    for stanza_id in ["1", "2"] {
        arrive(&session, "a", stanza_id, Timestamp(1_000)).await;
    }
    let newest = world
        .workspace()
        .await
        .journal()
        .size()
        .await
        .unwrap()
        .newest;
    let (first, second) = (newest - 1, newest);
    let mut client = world.client().await;
    create(&mut client, "core", &[pb::EventType::Message], Some(0)).await;
    create(&mut client, "other", &[pb::EventType::Receipt], Some(0)).await;
    create(&mut client, "late", &[], None).await;

    let waiting = delivery(&mut client, "core", first).await;
    assert_eq!((waiting.state(), waiting.first_lease_time), (Waiting, None));
    let refused = lease(&mut client).await;
    assert_eq!(refused.event.as_ref().unwrap().revision, first);
    let leased = delivery(&mut client, "core", first).await;
    assert_eq!(leased.state(), Leased);
    let since = leased.first_lease_time.expect("when it was leased");
    assert_eq!(delivery(&mut client, "core", second).await.state(), Waiting);

    settle(&mut client, refused, false).await;
    let failed = becomes(&mut client, first, |delivery| delivery.failures == 1).await;
    assert_eq!(failed.state(), Waiting);
    assert_eq!(failed.last_failure(), pb::DeliveryFailure::Refused);
    assert!(failed.last_failure_time.is_some());

    let again = lease(&mut client).await;
    assert_eq!(again.attempt, 2);
    settle(&mut client, again, true).await;
    let done = delivery(&mut client, "core", first).await;
    assert_eq!((done.state(), done.failures), (Acknowledged, 1));
    // The same instant, worked out from two clocks twice.
    let apart = seconds(done.first_lease_time.unwrap()) - seconds(since);
    assert!(apart.abs() < 0.5, "{apart} s apart");
    assert!(done.ack_time.is_some() && done.give_up_time.is_none());

    for _ in 0..2 {
        let poison = lease(&mut client).await;
        assert_eq!(poison.event.as_ref().unwrap().revision, second);
        settle(&mut client, poison, false).await;
    }
    let gone = becomes(&mut client, second, |delivery| delivery.state() == GivenUp).await;
    assert_eq!(gone.failures, 2);
    assert!(gone.give_up_time.is_some() && gone.ack_time.is_none());

    let other = delivery(&mut client, "other", first).await;
    assert_eq!(other.state(), NotWanted);
    let late = delivery(&mut client, "late", first).await;
    assert_eq!((late.state(), late.ack_time), (Settled, None));
}

#[tokio::test]
async fn an_event_that_is_not_in_the_journal_has_no_delivery() {
    let world = World::new().await;
    world.session("s").await;
    let mut client = world.client().await;
    for revision in ["0", "1000"] {
        let name = format!("workspaces/default/subscriptions/default/deliveries/{revision}");
        let request = pb::GetDeliveryRequest { name };
        let refused = client.subscriptions.get_delivery(request).await;
        check(refused, Code::NotFound, "RESOURCE_NOT_FOUND", None);
    }
    let name = "workspaces/default/subscriptions/default/deliveries/x".to_owned();
    let request = pb::GetDeliveryRequest { name };
    let refused = client.subscriptions.get_delivery(request).await;
    check(
        refused,
        Code::InvalidArgument,
        "INVALID_FIELD",
        Some("name"),
    );
}
