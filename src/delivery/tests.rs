//! Streams over a store in memory: what consumers that misbehave do to others.

mod calls;
mod draining;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::domain::clock::{Entropy, ManualClock, Timestamp};
use crate::domain::event::{NewEvent, Payload, ReceiptKind};
use crate::domain::ids::{SessionId, SubscriptionId, WorkspaceId};
use crate::domain::person::Person;
use crate::domain::session::Desired;
use crate::store::keyring::Keks;
use crate::store::memory::MemoryEngine;
use crate::store::{
    Change, DEFAULT_SUBSCRIPTION, NewSession, SessionStore, StartAt, Store, StoreOptions,
    SubscriptionConfig, WorkspaceStore,
};

/// A Saturday in November 2026.
const NOW: Timestamp = Timestamp(1_795_262_400_000);

const MUCH: Credit = Credit {
    events: 10_000,
    bytes: 1 << 30,
};

/// An event in a conversation of its own.
fn receipt(number: usize) -> NewEvent {
    let chat = Person {
        phone: None,
        pn_jid: None,
        lid: Some(format!("{number}@lid")),
        provider_id: None,
    };
    NewEvent {
        at: NOW,
        payload: Payload::Receipt {
            chat: chat.clone(),
            from: chat,
            stanza_ids: Vec::new(),
            kind: ReceiptKind::Read,
            at: NOW,
        },
        dedup: None,
    }
}

struct World {
    clock: ManualClock,
    workspace: WorkspaceStore,
    hub: Hub,
    name: SubscriptionId,
    session: SessionStore,
    _store: Store,
}

impl World {
    async fn new(events: usize) -> Self {
        let clock = ManualClock::at(NOW);
        let store = Store::open(StoreOptions {
            engine: Arc::new(MemoryEngine::new()),
            keks: Keks::ephemeral([7; 32]),
            clock: Arc::new(clock.clone()),
            entropy: Entropy::seeded(1),
            release: "test".to_owned(),
            media: None,
        })
        .await
        .unwrap();
        let id = WorkspaceId::default_workspace();
        let workspace = store.workspace(&id).await.unwrap();
        let line = SessionId::new("line").unwrap();
        let new = NewSession {
            id: line.clone(),
            display_name: String::new(),
            labels: BTreeMap::new(),
            provider: "multidevice".to_owned(),
            desired: Desired::Running,
        };
        workspace.sessions().create(new).await.unwrap();
        let world = Self {
            session: workspace.session(&line).await.unwrap(),
            hub: Hub::new(Arc::new(clock.clone()), WINDOW),
            clock,
            workspace,
            name: SubscriptionId::new(DEFAULT_SUBSCRIPTION).unwrap(),
            _store: store,
        };
        world.append(events).await;
        world
    }

    async fn append(&self, count: usize) {
        let session = self.session.apply(
            (0..count)
                .map(|number| Change::Event(receipt(number)))
                .collect(),
        );
        session.await.unwrap();
    }

    async fn open(&self, credit: Credit) -> Consumer {
        let opened = self.hub.open(&self.workspace, &self.name, credit);
        opened.await.unwrap()
    }

    /// Lets time pass, and makes the subscription notice.
    async fn pass(&self, by: Duration) {
        self.clock.advance(by);
        self.open(MUCH).await.close();
    }
}

/// Takes what arrives until `done`.
async fn take(consumer: &mut Consumer, mut done: impl FnMut(Delivery) -> bool) {
    let all = async {
        while let Some(delivery) = consumer.next().await {
            if done(delivery) {
                return;
            }
        }
        panic!("the stream ended");
    };
    tokio::time::timeout(Duration::from_mins(1), all)
        .await
        .expect("it never came");
}

#[tokio::test]
async fn a_client_that_hangs_costs_nobody_an_attempt() {
    let world = World::new(500).await;
    let hung = world.open(MUCH).await;
    for _ in 0..30 {
        world.pass(Duration::from_mins(11)).await;
    }
    let mut reader = world.open(MUCH).await;
    let mut seen = BTreeSet::new();
    let subscriptions = world.workspace.subscriptions();
    let progress = subscriptions.progress(&world.name).await.unwrap();
    take(&mut reader, |delivery| {
        let Delivery::Leases(leases) = delivery else {
            return false;
        };
        for delivered in leases {
            assert_eq!(delivered.attempt, 1, "{}", delivered.event.revision);
            seen.insert(delivered.event.revision);
        }
        seen.len() == 500
    })
    .await;
    let all: Vec<_> = (1..=500).collect();
    let attempts = progress.attempts(&all).await.unwrap();
    assert!(attempts.iter().all(|attempts| *attempts == 0));
    drop(hung);
}

/// The leases of what arrives next.
async fn leases(consumer: &mut Consumer, count: usize) -> Vec<Delivered> {
    let mut all = Vec::new();
    take(consumer, |delivery| {
        if let Delivery::Leases(leases) = delivery {
            all.extend(leases);
        }
        all.len() >= count
    })
    .await;
    all
}

#[tokio::test]
async fn acks_that_are_repeated_while_they_wait_do_not_use_the_stream_up() {
    let world = World::new(0).await;
    // Two events of one key: the second cannot be confirmed before the first.
    let event = || Change::Event(receipt(1));
    world.session.apply(vec![event(), event()]).await.unwrap();
    let mut consumer = world.open(MUCH).await;
    let leases = leases(&mut consumer, 2).await;
    let (settler, second) = (consumer.settler(), leases[1].ack_id.clone());
    let patience = Duration::from_mins(1);
    for _ in 0..30 {
        let again = vec![second.clone(); 1_000];
        tokio::time::timeout(patience, settler.settle(Operation::Ack, again))
            .await
            .expect("no permits are left")
            .unwrap();
    }
    let first = vec![leases[0].ack_id.clone()];
    settler.settle(Operation::Ack, first).await.unwrap();
    let mut confirmed = 0;
    take(&mut consumer, |delivery| {
        if let Delivery::Results(results) = delivery {
            confirmed += results.len();
            assert!(results.iter().all(|r| r.outcome == Outcome::Confirmed));
        }
        confirmed == 2
    })
    .await;
}

#[tokio::test]
async fn acks_of_an_earlier_run_count_before_and_beyond_the_window() {
    let mut world = World::new(100).await;
    let mut consumer = world.open(MUCH).await;
    let leases = leases(&mut consumer, 100).await;
    drop(consumer);
    // Another run, which can hold 10 events, and is given all acks before it has read one.
    world.hub = Hub::new(Arc::new(world.clock.clone()), 10);
    let one = Credit {
        events: 1,
        bytes: 1 << 20,
    };
    let mut consumer = world.open(one).await;
    let late: Vec<_> = leases[1..].iter().map(|l| l.ack_id.clone()).collect();
    let settler = consumer.settler();
    settler.settle(Operation::Ack, late).await.unwrap();
    let (mut confirmed, mut given) = (0, BTreeSet::new());
    take(&mut consumer, |delivery| {
        match delivery {
            Delivery::Results(results) => {
                confirmed += results.len();
                assert!(results.iter().all(|r| r.outcome == Outcome::Confirmed));
            }
            Delivery::Leases(leases) => given.extend(leases.iter().map(|l| l.event.revision)),
            other => panic!("{other:?}"),
        }
        confirmed == 99
    })
    .await;
    // The one that was not acked, and at most one that was on its way when the acks came.
    assert!(given.len() <= 2, "{given:?}");
}

#[tokio::test]
async fn an_ack_that_races_the_deletion_finds_the_subscription_gone() {
    let mut world = World::new(1).await;
    world.name = SubscriptionId::new("crm").unwrap();
    let subscriptions = world.workspace.subscriptions();
    let config = SubscriptionConfig::default();
    subscriptions
        .create(&world.name, &config, StartAt::Oldest)
        .await
        .unwrap();
    let mut consumer = world.open(MUCH).await;
    let leases = leases(&mut consumer, 1).await;
    // The hub has not been told yet.
    subscriptions.delete(&world.name, None).await.unwrap();
    let ack = vec![leases[0].ack_id.clone()];
    let settler = consumer.settler();
    settler.settle(Operation::Ack, ack).await.unwrap();
    take(&mut consumer, |delivery| match delivery {
        Delivery::Stopped(why) => {
            assert_eq!(why, Stopped::Deleted);
            true
        }
        Delivery::Failed(error) => panic!("{error}"),
        _ => false,
    })
    .await;
}
