//! Pull: leases that compete, come again, are given up, and acks that stay.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use trunkline::domain::clock::{Clock as _, Timestamp};
use trunkline::pb;
use trunkline::pb::pull_request::Request;
use trunkline::pb::pull_response::Response;
use trunkline::store::{StartAt, SubscriptionConfig};

use crate::harness::{Client, World, arrive, check, fresh, soon, stanza};

const DEFAULT: &str = "workspaces/default/subscriptions/default";

/// A consumer's end of a Pull stream.
struct Puller {
    asks: mpsc::Sender<pb::PullRequest>,
    answers: Streaming<pb::PullResponse>,
    leases: Vec<pb::Lease>,
    results: Vec<pb::PullResult>,
}

fn open(subscription: &str, max_events: i64, max_bytes: i64) -> Request {
    Request::Open(pb::PullOpen {
        subscription: subscription.to_owned(),
        max_events,
        max_bytes,
    })
}

impl Puller {
    async fn raw(client: &mut Client, first: Option<Request>) -> Result<Self, Status> {
        let (asks, queue) = mpsc::channel(100);
        asks.send(pb::PullRequest { request: first }).await.unwrap();
        let stream = client.events.pull(ReceiverStream::new(queue)).await?;
        Ok(Self {
            asks,
            answers: stream.into_inner(),
            leases: Vec::new(),
            results: Vec::new(),
        })
    }

    async fn open(client: &mut Client, subscription: &str, max_events: i64) -> Self {
        let first = open(subscription, max_events, 1 << 20);
        let mut puller = Self::raw(client, Some(first)).await.unwrap();
        let opened = soon(puller.answers.message()).await.unwrap().unwrap();
        assert!(matches!(opened.response, Some(Response::Opened(_))));
        puller
    }

    async fn say(&self, request: Request) {
        let request = pb::PullRequest {
            request: Some(request),
        };
        self.asks.send(request).await.unwrap();
    }

    async fn ack(&self, leases: &[&pb::Lease]) {
        let ack_ids = leases.iter().map(|lease| lease.ack_id.clone()).collect();
        self.say(Request::Ack(pb::PullAck { ack_ids })).await;
    }

    async fn nack(&self, lease: &pb::Lease) {
        let delay = Some(prost_types::Duration::default());
        let ack_ids = vec![lease.ack_id.clone()];
        self.say(Request::Nack(pb::PullNack { ack_ids, delay }))
            .await;
    }

    /// Takes one frame.
    async fn step(&mut self) -> Result<(), Status> {
        match soon(self.answers.message())
            .await?
            .unwrap()
            .response
            .unwrap()
        {
            Response::Leases(leases) => self.leases.extend(leases.leases),
            Response::Results(results) => self.results.extend(results.results),
            Response::Opened(_) => panic!("opened twice"),
        }
        Ok(())
    }

    /// Waits for `count` leases and takes them.
    async fn take(&mut self, count: usize) -> Vec<pb::Lease> {
        while self.leases.len() < count {
            self.step().await.unwrap();
        }
        self.leases.drain(..count).collect()
    }

    /// Waits for the result of one lease.
    async fn outcome(&mut self, lease: &pb::Lease) -> pb::PullOutcome {
        loop {
            let found = self.results.iter().position(|r| r.ack_id == lease.ack_id);
            if let Some(at) = found {
                return self.results.remove(at).outcome();
            }
            self.step().await.unwrap();
        }
    }
}

fn stanzas(leases: &[pb::Lease]) -> Vec<String> {
    leases
        .iter()
        .map(|lease| stanza(lease.event.as_ref().unwrap()))
        .collect()
}

async fn with_events(events: &[(&str, &str)]) -> (World, Client) {
    let world = World::new().await;
    let session = world.session("s").await;
    for (chat, stanza_id) in events {
        arrive(&session, chat, stanza_id, Timestamp(1_000)).await;
    }
    let client = world.client().await;
    (world, client)
}

#[tokio::test]
async fn events_are_leased_acked_and_gone() {
    let (_world, mut client) = with_events(&[("a", "1"), ("b", "2"), ("a", "3")]).await;
    let mut puller = Puller::open(&mut client, DEFAULT, 10).await;
    let leases = puller.take(3).await;
    let got: BTreeSet<_> = stanzas(&leases).into_iter().collect();
    assert_eq!(got, ["1", "2", "3"].map(str::to_owned).into());
    assert!(leases.iter().all(|lease| lease.attempt == 1));
    puller.ack(&leases.iter().collect::<Vec<_>>()).await;
    for lease in &leases {
        assert_ne!(&lease.ack_id, &lease.event.as_ref().unwrap().event_id);
        assert_eq!(puller.outcome(lease).await, pb::PullOutcome::Confirmed);
    }
    let shown = client
        .subscriptions
        .get_subscription(pb::GetSubscriptionRequest {
            name: DEFAULT.to_owned(),
        })
        .await
        .unwrap();
    let floor = shown.into_inner().subscription.unwrap().floor_revision;
    let newest = leases
        .iter()
        .map(|l| l.event.as_ref().unwrap().revision)
        .max();
    assert_eq!(Some(floor), newest.map(|newest| newest + 1));
}

#[tokio::test]
async fn streams_compete_and_a_key_has_one_holder() {
    let (_world, mut client) = with_events(&[("a", "1"), ("a", "2"), ("b", "3"), ("b", "4")]).await;
    let mut one = Puller::open(&mut client, DEFAULT, 1).await;
    let first = one.take(1).await.remove(0);
    let mut two = Puller::open(&mut client, DEFAULT, 2).await;
    let others = two.take(2).await;
    let key = |lease: &pb::Lease| lease.event.as_ref().unwrap().ordering_key.clone();
    assert!(others.iter().all(|lease| key(lease) != key(&first)));
    assert_eq!(key(&others[0]), key(&others[1]));
    assert_eq!(stanzas(&others), ["3", "4"], "in order within the key");
    one.ack(&[&first]).await;
    assert_eq!(one.outcome(&first).await, pb::PullOutcome::Confirmed);
    assert_eq!(stanzas(&one.take(1).await), ["2"]);
}

#[tokio::test]
async fn a_stream_that_drops_gives_its_events_back() {
    let (_world, mut client) = with_events(&[("a", "1"), ("a", "2")]).await;
    let mut dropped = Puller::open(&mut client, DEFAULT, 10).await;
    let before = dropped.take(2).await;
    drop(dropped);
    let mut puller = Puller::open(&mut client, DEFAULT, 10).await;
    let after = puller.take(2).await;
    assert_eq!(stanzas(&after), ["1", "2"]);
    let ids = |leases: &[pb::Lease]| -> Vec<String> {
        leases
            .iter()
            .map(|lease| lease.event.as_ref().unwrap().event_id.clone())
            .collect()
    };
    assert_eq!(ids(&before), ids(&after), "the same event_ids");
    puller.ack(&[&before[0]]).await;
    assert_eq!(
        puller.outcome(&before[0]).await,
        pb::PullOutcome::LeaseEnded,
        "the old lease is fenced"
    );
}

#[tokio::test]
async fn poison_goes_to_the_dead_letter_and_unblocks_its_key() {
    let (world, mut client) = with_events(&[("a", "poison"), ("a", "2")]).await;
    let workspace = world.workspace().await;
    let config = SubscriptionConfig {
        max_attempts: 2,
        ..SubscriptionConfig::default()
    };
    let id = "strict".parse().unwrap();
    let subscriptions = workspace.subscriptions();
    subscriptions
        .create(&id, &config, StartAt::Oldest)
        .await
        .unwrap();
    let name = "workspaces/default/subscriptions/strict";
    let mut puller = Puller::open(&mut client, name, 1).await;
    for attempt in 1..=2 {
        let lease = puller.take(1).await.remove(0);
        assert_eq!(stanzas(std::slice::from_ref(&lease)), ["poison"]);
        assert_eq!(lease.attempt, attempt);
        puller.nack(&lease).await;
        assert_eq!(puller.outcome(&lease).await, pb::PullOutcome::Confirmed);
    }
    let next = puller.take(1).await.remove(0);
    assert_eq!(stanzas(std::slice::from_ref(&next)), ["2"]);
    puller.ack(&[&next]).await;
    assert_eq!(puller.outcome(&next).await, pb::PullOutcome::Confirmed);
    let shown = client
        .subscriptions
        .get_subscription(pb::GetSubscriptionRequest {
            name: name.to_owned(),
        })
        .await
        .unwrap();
    let shown = shown.into_inner().subscription.unwrap();
    assert_eq!(shown.dead_letter_count, 1);
    assert!(shown.floor_revision > next.event.unwrap().revision);
}

#[tokio::test]
async fn an_early_ack_is_confirmed_after_the_one_before_it() {
    let (_world, mut client) = with_events(&[("a", "1"), ("a", "2")]).await;
    let mut puller = Puller::open(&mut client, DEFAULT, 10).await;
    let leases = puller.take(2).await;
    puller.ack(&[&leases[1]]).await;
    // A made-up token is answered at once: when that answer is here, the early ack has had its chance.
    let bogus = pb::Lease {
        ack_id: "bogus".to_owned(),
        ..Default::default()
    };
    puller.ack(&[&bogus]).await;
    assert_eq!(puller.outcome(&bogus).await, pb::PullOutcome::InvalidAckId);
    assert!(puller.results.is_empty());
    puller.ack(&[&leases[0]]).await;
    for lease in &leases {
        assert_eq!(puller.outcome(lease).await, pb::PullOutcome::Confirmed);
    }
}

#[tokio::test]
async fn leases_can_be_extended() {
    let (_world, mut client) = with_events(&[("a", "1")]).await;
    let mut puller = Puller::open(&mut client, DEFAULT, 10).await;
    let lease = puller.take(1).await.remove(0);
    let extend = |seconds| {
        Request::Extend(pb::PullExtend {
            ack_ids: vec![lease.ack_id.clone()],
            ack_deadline: Some(prost_types::Duration { seconds, nanos: 0 }),
        })
    };
    puller.say(extend(300)).await;
    assert_eq!(puller.outcome(&lease).await, pb::PullOutcome::Confirmed);
    puller.say(extend(1)).await;
    let refused = puller.step().await;
    check(
        refused,
        Code::InvalidArgument,
        "INVALID_FIELD",
        Some("extend.ack_deadline"),
    );
}

#[tokio::test]
async fn a_stream_must_be_opened_properly() {
    let (_world, mut client) = with_events(&[]).await;
    let ack = Request::Ack(pb::PullAck {
        ack_ids: vec!["x".to_owned()],
    });
    let refused = Puller::raw(&mut client, Some(ack)).await.map(|_| ());
    check(refused, Code::InvalidArgument, "STREAM_NOT_OPENED", None);
    let refused = Puller::raw(&mut client, None).await.map(|_| ());
    check(refused, Code::InvalidArgument, "STREAM_NOT_OPENED", None);
    for (events, bytes, field) in [
        (0, 1, "open.max_events"),
        (-1, 1, "open.max_events"),
        (1, 0, "open.max_bytes"),
    ] {
        let refused = Puller::raw(&mut client, Some(open(DEFAULT, events, bytes))).await;
        check(
            refused.map(|_| ()),
            Code::InvalidArgument,
            "NO_CREDIT",
            Some(field),
        );
    }
    let unknown = open("workspaces/default/subscriptions/nobody", 1, 1);
    let refused = Puller::raw(&mut client, Some(unknown)).await.map(|_| ());
    check(refused, Code::NotFound, "RESOURCE_NOT_FOUND", None);
    let mut puller = Puller::open(&mut client, DEFAULT, 1).await;
    puller.say(open(DEFAULT, 1, 1)).await;
    check(
        puller.step().await,
        Code::InvalidArgument,
        "STREAM_NOT_OPENED",
        None,
    );
}

#[tokio::test]
async fn deleting_a_subscription_ends_its_streams() {
    let (_world, mut client) = with_events(&[]).await;
    client
        .subscriptions
        .create_subscription(pb::CreateSubscriptionRequest {
            parent: "workspaces/default".to_owned(),
            subscription_id: "core".to_owned(),
            request_id: fresh(),
            ..Default::default()
        })
        .await
        .unwrap();
    let name = "workspaces/default/subscriptions/core";
    let mut puller = Puller::open(&mut client, name, 1).await;
    client
        .subscriptions
        .delete_subscription(pb::DeleteSubscriptionRequest {
            name: name.to_owned(),
            request_id: fresh(),
            etag: String::new(),
        })
        .await
        .unwrap();
    check(
        puller.step().await,
        Code::NotFound,
        "RESOURCE_NOT_FOUND",
        None,
    );
}

#[tokio::test]
async fn confirmed_acks_survive_a_restart_and_late_ones_are_welcome() {
    let (world, mut client) = with_events(&[("a", "1"), ("b", "2"), ("c", "3")]).await;
    let mut puller = Puller::open(&mut client, DEFAULT, 10).await;
    let leases = puller.take(3).await;
    let by = |wanted: &str| {
        leases
            .iter()
            .find(|lease| stanza(lease.event.as_ref().unwrap()) == wanted)
            .unwrap()
    };
    puller.ack(&[by("1")]).await;
    assert_eq!(puller.outcome(by("1")).await, pb::PullOutcome::Confirmed);
    let engine = Arc::clone(&world.engine);
    // The first daemon is forgotten as a crash would: nothing it still wanted to write is written.
    std::mem::forget(world);
    drop(puller);

    let world = World::over(engine, |_| {}).await;
    let mut client = world.client().await;
    // No credit to spare: the event to be acked late is not given out again first.
    let mut puller = Puller::open(&mut client, DEFAULT, 1).await;
    let held = puller.take(1).await.remove(0);
    assert_eq!(
        stanzas(std::slice::from_ref(&held)),
        ["2"],
        "not the one that was acked"
    );
    puller.ack(&[by("1"), by("3")]).await;
    assert_eq!(puller.outcome(by("1")).await, pb::PullOutcome::Confirmed);
    assert_eq!(puller.outcome(by("3")).await, pb::PullOutcome::Confirmed);
    puller.ack(&[&held]).await;
    assert_eq!(puller.outcome(&held).await, pb::PullOutcome::Confirmed);
    let workspace = world.workspace().await;
    let id = "default".parse().unwrap();
    let progress = workspace.subscriptions().progress(&id).await.unwrap();
    let floor = progress.confirmed().await.unwrap().floor();
    assert_eq!(floor, workspace.journal().size().await.unwrap().newest + 1);
}

#[tokio::test]
async fn events_that_arrive_later_are_pushed() {
    let (world, mut client) = with_events(&[]).await;
    let mut puller = Puller::open(&mut client, DEFAULT, 10).await;
    let session = world
        .workspace()
        .await
        .session(&"s".parse().unwrap())
        .await
        .unwrap();
    for n in 0..200 {
        arrive(
            &session,
            &format!("c{}", n % 7),
            &n.to_string(),
            world.clock.now(),
        )
        .await;
    }
    let mut seen = BTreeSet::new();
    while seen.len() < 200 {
        for lease in puller.take(1).await {
            seen.insert(stanza(lease.event.as_ref().unwrap()));
            puller.ack(&[&lease]).await;
        }
    }
    puller.results.clear();
}
