//! Dead letters that are put back into their subscription.

use tonic::Code;
use trunkline::domain::clock::Timestamp;
use trunkline::pb;
use trunkline::pb::RedriveOutcome::{NotFound, Redriven};

use crate::harness::{Client, World, arrive, check, fresh, soon, stanza};

const STRICT: &str = "workspaces/default/subscriptions/strict";
const DEFAULT: &str = "workspaces/default/subscriptions/default";

/// A subscription that gives up after one attempt.
async fn strict(events: &[(&str, &str)]) -> (World, Client) {
    let world = World::new().await;
    let session = world.session("s").await;
    for (chat, stanza_id) in events {
        arrive(&session, chat, stanza_id, Timestamp(1_000)).await;
    }
    let mut client = world.client().await;
    let created = pb::CreateSubscriptionRequest {
        parent: "workspaces/default".to_owned(),
        subscription_id: "strict".to_owned(),
        subscription: Some(pb::Subscription {
            max_attempts: 1,
            ..Default::default()
        }),
        from_revision: Some(0),
        request_id: fresh(),
    };
    let created = client.subscriptions.create_subscription(created).await;
    created.unwrap();
    (world, client)
}

async fn lease(client: &mut Client, subscription: &str) -> Vec<pb::Lease> {
    let request = pb::LeaseEventsRequest {
        subscription: subscription.to_owned(),
        ..Default::default()
    };
    let leased = soon(client.events.lease_events(request)).await.unwrap();
    leased.into_inner().leases
}

async fn settle(client: &mut Client, ack: &[&pb::Lease], nack: &[&pb::Lease]) {
    let ids = |leases: &[&pb::Lease]| leases.iter().map(|lease| lease.ack_id.clone()).collect();
    let request = pb::SettleLeasesRequest {
        subscription: STRICT.to_owned(),
        ack: Some(pb::PullAck { ack_ids: ids(ack) }),
        nack: Some(pb::PullNack {
            ack_ids: ids(nack),
            delay: None,
        }),
        extend: None,
    };
    let settled = soon(client.events.settle_leases(request)).await.unwrap();
    for result in settled.into_inner().results {
        assert_eq!(result.outcome(), pb::PullOutcome::Confirmed);
    }
}

/// Takes and acks events until there are so many, in the order in which they come.
async fn take(client: &mut Client, count: usize) -> Vec<pb::Lease> {
    let mut taken = Vec::new();
    soon(async {
        while taken.len() < count {
            let leases = lease(client, STRICT).await;
            if leases.is_empty() {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                continue;
            }
            settle(client, &leases.iter().collect::<Vec<_>>(), &[]).await;
            taken.extend(leases);
        }
    })
    .await;
    taken
}

async fn dead(client: &mut Client) -> Vec<pb::DeadLetter> {
    let request = pb::ListDeadLettersRequest {
        parent: STRICT.to_owned(),
        ..Default::default()
    };
    let listed = client.subscriptions.list_dead_letters(request).await;
    listed.unwrap().into_inner().dead_letters
}

/// Waits until so many events were given up.
async fn given_up(client: &mut Client, count: usize) -> Vec<pb::DeadLetter> {
    soon(async {
        loop {
            let letters = dead(client).await;
            if letters.len() == count {
                return letters;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await
}

fn redrive(names: Vec<String>) -> pb::RedriveDeadLettersRequest {
    pb::RedriveDeadLettersRequest {
        parent: STRICT.to_owned(),
        names,
        request_id: fresh(),
    }
}

fn event(lease: &pb::Lease) -> &pb::Event {
    lease.event.as_ref().unwrap()
}

fn stanzas(leases: &[pb::Lease]) -> Vec<String> {
    leases.iter().map(|lease| stanza(event(lease))).collect()
}

#[tokio::test]
async fn what_is_put_back_comes_again_after_what_is_there() {
    let events = [("a", "poison"), ("a", "2"), ("b", "3")];
    let (world, mut client) = strict(&events).await;
    let leases = lease(&mut client, STRICT).await;
    let poison = leases.iter().find(|l| stanza(event(l)) == "poison");
    let poison = poison.unwrap().clone();
    settle(&mut client, &[], &[&poison]).await;
    let letters = given_up(&mut client, 1).await;

    let request = redrive(vec![letters[0].name.clone()]);
    for _ in 0..2 {
        let answer = client.subscriptions.redrive_dead_letters(request.clone());
        let answer = answer.await.unwrap().into_inner();
        assert_eq!(
            answer.results.len(),
            1,
            "a repetition gets the first answer"
        );
        assert_eq!(answer.results[0].outcome(), Redriven);
        assert_eq!(answer.results[0].event_id, event(&poison).event_id);
        assert!(!answer.more);
    }
    assert!(dead(&mut client).await.is_empty());
    let gone = redrive(vec![letters[0].name.clone()]);
    let gone = client.subscriptions.redrive_dead_letters(gone).await;
    assert_eq!(gone.unwrap().into_inner().results[0].outcome(), NotFound);

    // "2" was taken back when "poison" failed, and is first in its chat now.
    let again = take(&mut client, 2).await;
    assert_eq!(stanzas(&again), ["2", "poison"]);
    let back = &again[1];
    assert_eq!(event(back).event_id, event(&poison).event_id);
    assert_eq!(event(back).ordering_key, event(&poison).ordering_key);
    assert!(event(back).revision > event(&poison).revision);
    assert_eq!(back.attempt, 1, "counted anew");

    // To others it happened once.
    let others = lease(&mut client, DEFAULT).await;
    let copies = others
        .iter()
        .filter(|l| event(l).event_id == event(&poison).event_id);
    assert_eq!(copies.count(), 1);
    let size = world.workspace().await.journal().size().await.unwrap();
    assert_eq!(size.newest, event(back).revision, "one copy");
}

#[tokio::test]
async fn all_dead_letters_come_back_in_order() {
    let events: Vec<_> = (0..7).map(|n| n.to_string()).collect();
    let events: Vec<_> = events.iter().map(|n| ("a", n.as_str())).collect();
    let (_world, mut client) = strict(&events).await;
    for count in 1..=7 {
        let leases = lease(&mut client, STRICT).await;
        settle(&mut client, &[], &[&leases[0]]).await;
        given_up(&mut client, count).await;
    }
    let answer = client
        .subscriptions
        .redrive_dead_letters(redrive(Vec::new()));
    let answer = answer.await.unwrap().into_inner();
    assert_eq!(answer.results.len(), 7);
    let again = take(&mut client, 7).await;
    let texts: Vec<_> = events.iter().map(|(_, n)| (*n).to_owned()).collect();
    assert_eq!(stanzas(&again), texts);
}

#[tokio::test]
async fn names_must_be_dead_letters_of_the_subscription() {
    let (_world, mut client) = strict(&[]).await;
    let one = format!("{STRICT}/deadLetters/1");
    for names in [
        vec![STRICT.to_owned()],
        vec![format!("{DEFAULT}/deadLetters/1")],
        vec![one.clone(), one.clone()],
        (1..=101)
            .map(|n| format!("{STRICT}/deadLetters/{n}"))
            .collect(),
    ] {
        let refused = client.subscriptions.redrive_dead_letters(redrive(names));
        let refused = refused.await;
        check(
            refused,
            Code::InvalidArgument,
            "INVALID_FIELD",
            Some("names"),
        );
    }
}
