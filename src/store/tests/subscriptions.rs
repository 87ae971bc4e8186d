use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};

use super::*;
use crate::domain::event::{Event, EventType};
use crate::domain::ids::SubscriptionId;

fn id(text: &str) -> SubscriptionId {
    SubscriptionId::new(text).unwrap()
}

async fn fill(session: &SessionStore, count: usize) {
    for chunk in (0..count).collect::<Vec<_>>().chunks(100) {
        let event = |_: &usize| {
            Change::Event(NewEvent {
                at: NOW,
                payload: Payload::Pairing {
                    step: "started".into(),
                    reason: None,
                    account: None,
                },
                dedup: None,
            })
        };
        session
            .apply(chunk.iter().map(event).collect())
            .await
            .unwrap();
    }
}

async fn progress(world: &World, name: &str) -> Progress {
    world
        .default()
        .await
        .subscriptions()
        .progress(&id(name))
        .await
        .unwrap()
}

#[tokio::test]
async fn configurations_are_kept_and_guarded() {
    let world = World::new().await;
    let subscriptions = world.default().await.subscriptions();
    let config = SubscriptionConfig {
        filter: Filter {
            types: [EventType::Message, EventType::Receipt].into(),
            sessions: [SessionId::new("line").unwrap()].into(),
        },
        ack_deadline: Duration::from_secs(30),
        max_attempts: 3,
        retention: Some(Duration::from_hours(1)),
    };
    let created = subscriptions
        .create(&id("crm"), &config, StartAt::Oldest)
        .await
        .unwrap();
    assert_eq!(created.config, config);
    let taken = subscriptions
        .create(&id("crm"), &config, StartAt::Oldest)
        .await;
    assert!(matches!(taken, Err(CreateError::AlreadyExists { .. })));
    let changed = subscriptions
        .update(&id("crm"), Some(&created.etag), |config| {
            config.max_attempts = 9;
        })
        .await
        .unwrap();
    let stale = subscriptions
        .update(&id("crm"), Some(&created.etag), |_| {})
        .await;
    assert!(matches!(stale, Err(UpdateError::EtagMismatch { .. })));
    let world = world.restarted().await;
    let subscriptions = world.default().await.subscriptions();
    assert_eq!(subscriptions.get(&id("crm")).await.unwrap(), changed);
    subscriptions.delete(&id("crm"), None).await.unwrap();
    assert!(subscriptions.get(&id("crm")).await.is_err());
    assert!(subscriptions.progress(&id("crm")).await.is_err());
    let kept = subscriptions.delete(&id("default"), None).await;
    assert!(matches!(kept, Err(UpdateError::BuiltIn { .. })));
}

#[tokio::test]
async fn a_subscription_begins_where_it_was_told() {
    let world = World::new().await;
    fill(&world.session("line").await, 10).await;
    let subscriptions = world.default().await.subscriptions();
    let starts = [
        (StartAt::Oldest, 1),
        (StartAt::Newest, 11),
        (StartAt::Revision(5), 5),
    ];
    for (n, (start, floor)) in starts.into_iter().enumerate() {
        let name = format!("s{n}");
        let config = SubscriptionConfig::default();
        subscriptions
            .create(&id(&name), &config, start)
            .await
            .unwrap();
        let confirmed = progress(&world, &name).await.confirmed().await.unwrap();
        assert_eq!(confirmed.floor(), floor);
    }
    assert_eq!(subscriptions.lowest_unconfirmed().await.unwrap(), 1);
}

#[tokio::test]
async fn acks_are_remembered_and_the_floor_moves_over_full_chunks() {
    let world = World::new().await;
    let default = progress(&world, "default").await;
    default.ack(&acks(&[3, 1, 2, 7])).await.unwrap();
    let confirmed = default.confirmed().await.unwrap();
    assert_eq!(confirmed.floor(), 4);
    assert!(confirmed.contains(7) && !confirmed.contains(5));
    assert_eq!(confirmed.next_unconfirmed(7), 8);

    // Everything but 4 in the first chunk, and all of the second: nothing can be forgotten yet.
    default
        .skip(&[0..=3, 5..=4_095, 4_096..=8_191, 8_192..=8_200])
        .await
        .unwrap();
    assert_eq!(default.confirmed().await.unwrap().floor(), 4);
    default.ack(&acks(&[4])).await.unwrap();
    let world = world.restarted().await;
    let default = progress(&world, "default").await;
    assert_eq!(default.confirmed().await.unwrap().floor(), 8_201);
    // A late repetition below the floor changes nothing.
    default.ack(&acks(&[1, 4, 5_000, 8_200])).await.unwrap();
    assert_eq!(default.confirmed().await.unwrap().floor(), 8_201);
}

#[tokio::test]
async fn any_order_of_acks_is_the_same_set() {
    let mut runner = TestRunner::new(Config {
        failure_persistence: None,
        ..Config::default()
    });
    for _ in 0..10 {
        let world = World::new().await;
        let default = progress(&world, "default").await;
        let batches = prop::collection::vec(
            prop::collection::vec(prop_oneof![1_u64..60, 4_000_u64..4_200], 1..40),
            1..8,
        );
        let batches = batches.new_tree(&mut runner).unwrap().current();
        let mut model = BTreeSet::new();
        for batch in &batches {
            default.ack(&acks(batch)).await.unwrap();
            model.extend(batch.iter().copied());
        }
        let confirmed = default.confirmed().await.unwrap();
        for revision in 1..4_300 {
            assert_eq!(
                confirmed.contains(revision),
                model.contains(&revision),
                "{batches:?}"
            );
        }
        let floor = (1..=5_000)
            .find(|revision| !model.contains(revision))
            .unwrap();
        assert_eq!(confirmed.floor(), floor);
    }
}

#[tokio::test]
async fn rival_acks_lose_nothing() {
    let world = World::new().await;
    let tasks: Vec<_> = (0..20)
        .map(|task| {
            let workspace = world.store.clone();
            tokio::spawn(async move {
                let id = WorkspaceId::default_workspace();
                let workspace = workspace.workspace(&id).await.unwrap();
                let name = SubscriptionId::new("default").unwrap();
                let progress = workspace.subscriptions().progress(&name).await.unwrap();
                for n in 0..10 {
                    progress.ack(&acks(&[1 + task + n * 20])).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let confirmed = progress(&world, "default").await.confirmed().await.unwrap();
    assert_eq!(confirmed.floor(), 201);
}

#[tokio::test]
async fn attempts_are_counted_until_the_event_is_confirmed_or_buried() {
    let world = World::new().await;
    let default = progress(&world, "default").await;
    for _ in 0..3 {
        default.count_failures(&failures(&[5, 6])).await.unwrap();
    }
    default.count_failures(&failures(&[6])).await.unwrap();
    assert_eq!(default.attempts(&[5, 6, 7]).await.unwrap(), [3, 4, 0]);
    default.ack(&acks(&[5])).await.unwrap();
    default.bury(6, "MAX_ATTEMPTS", 4).await.unwrap();
    assert_eq!(default.attempts(&[5, 6]).await.unwrap(), [0, 0]);
    let world = world.restarted().await;
    let default = progress(&world, "default").await;
    assert!(default.confirmed().await.unwrap().contains(6));
    let dead = default
        .dead_letters(&PageRequest::default())
        .await
        .unwrap()
        .items;
    let expected = DeadLetter {
        revision: 6,
        reason: "MAX_ATTEMPTS".into(),
        attempts: 4,
        at: NOW,
    };
    assert_eq!(dead, [expected]);
}

/// An answer under a request id nobody used.
async fn answer(world: &World, number: u128) -> Remember<Redrive> {
    let requests = world.default().await.requests();
    let id = RequestId(uuid::Uuid::from_u128(number));
    Remember::new(requests, id, BodyHash([7; 32]), |_| Vec::new())
}

#[tokio::test]
async fn a_dead_letter_that_is_put_back_is_the_same_event_for_its_subscription_alone() {
    let world = World::new().await;
    let session = world.session("line").await;
    let (ada, bob) = (person("15550001", None), person("15550002", None));
    for (from, n) in [(&ada, "1"), (&bob, "2"), (&ada, "3")] {
        append(&session, inbound(from, n, n, NOW)).await;
    }
    let workspace = world.default().await;
    let subscriptions = workspace.subscriptions();
    let config = SubscriptionConfig::default();
    let other = subscriptions
        .create(&id("other"), &config, StartAt::Oldest)
        .await
        .unwrap();
    let default = progress(&world, "default").await;
    default.count_failures(&failures(&[1])).await.unwrap();
    default.bury(1, "MAX_ATTEMPTS", 3).await.unwrap();
    let redrive = default
        .redrive_once(Some(&[1, 2]), &answer(&world, 1).await)
        .await
        .unwrap();
    let journal = workspace.journal();
    let events = journal.get_many(&[1, 4]).await.unwrap();
    let [Some(original), Some(copy)] = &events[..] else {
        panic!("{events:?}");
    };
    let expected = [
        (1, Redriven::Back(original.event_id)),
        (2, Redriven::NotFound),
    ];
    assert_eq!(redrive.letters, expected);
    assert!(!redrive.more);
    let expected = Event {
        revision: 4,
        ..original.clone()
    };
    assert_eq!(*copy, expected);
    assert_eq!(default.attempts(&[4]).await.unwrap(), [0]);
    let dead = default.dead_letters(&PageRequest::default()).await.unwrap();
    assert!(dead.items.is_empty());
    let confirmed = default.confirmed().await.unwrap();
    assert!(confirmed.contains(1) && !confirmed.contains(4));

    let header = journal.headers(4, 1).await.unwrap().headers.remove(0);
    let others = progress(&world, "other").await;
    assert!(
        default
            .compile(&config.filter)
            .await
            .unwrap()
            .matches(&header)
    );
    assert!(
        !others
            .compile(&other.config.filter)
            .await
            .unwrap()
            .matches(&header)
    );
    assert!(
        !journal
            .compile(&config.filter)
            .await
            .unwrap()
            .matches(&header)
    );
    assert_eq!(
        journal.headers(1, 1).await.unwrap().headers[0].key,
        header.key
    );
    assert_eq!(journal.size().await.unwrap().events, 4);

    // The copy can be given up and put back like any event.
    default.bury(4, "MAX_ATTEMPTS", 3).await.unwrap();
    let again = default
        .redrive_once(None, &answer(&world, 2).await)
        .await
        .unwrap();
    assert_eq!(again.letters, [(4, Redriven::Back(original.event_id))]);
}

#[tokio::test]
async fn dead_letters_are_put_back_in_parts_and_without_what_has_left_the_journal() {
    let world = World::new().await;
    let session = world.session("line").await;
    fill(&session, 120).await;
    let default = progress(&world, "default").await;
    for revision in 1..=120 {
        default.bury(revision, "MAX_ATTEMPTS", 1).await.unwrap();
    }
    let journal = world.default().await.journal();
    journal.remove_below(3).await.unwrap();
    let first = default
        .redrive_once(None, &answer(&world, 1).await)
        .await
        .unwrap();
    let revisions: Vec<_> = first
        .letters
        .iter()
        .map(|(revision, _)| *revision)
        .collect();
    assert_eq!(revisions, (1..=100).collect::<Vec<_>>());
    assert!(first.more);
    for (revision, redriven) in first.letters {
        let gone = redriven == Redriven::EventGone;
        assert_eq!(gone, revision < 3, "{revision}: {redriven:?}");
    }
    let second = default
        .redrive_once(None, &answer(&world, 2).await)
        .await
        .unwrap();
    assert_eq!((second.letters.len(), second.more), (20, false));
    let third = default
        .redrive_once(None, &answer(&world, 3).await)
        .await
        .unwrap();
    assert_eq!(third, Redrive::default());
    assert_eq!(journal.size().await.unwrap().newest, 120 + 98 + 20);
}

#[tokio::test]
async fn what_became_of_a_delivery_is_remembered() {
    let world = World::new().await;
    let later = |seconds| NOW.plus(Duration::from_secs(seconds));
    let default = progress(&world, "default").await;
    assert_eq!(default.delivery(1).await.unwrap(), None);
    let ack = |revision, failed_before| Acknowledged {
        revision,
        first_leased: Some(later(5)),
        failed_before,
    };
    default.count_failures(&failures(&[2, 2, 3])).await.unwrap();
    world.clock.advance(Duration::from_secs(7));
    default.ack(&[ack(1, false), ack(2, true)]).await.unwrap();
    default.bury(3, "MAX_ATTEMPTS", 1).await.unwrap();
    let world = world.restarted().await;
    let default = progress(&world, "default").await;
    let refused = Some((DeliveryFailure::Refused, later(1)));
    let expected = [
        DeliveryRecord {
            first_leased: Some(later(5)),
            acknowledged: Some(later(7)),
            ..DeliveryRecord::default()
        },
        DeliveryRecord {
            first_leased: Some(NOW),
            failures: 2,
            last_failure: refused,
            acknowledged: Some(later(7)),
            given_up: None,
        },
        DeliveryRecord {
            first_leased: Some(NOW),
            failures: 1,
            last_failure: refused,
            acknowledged: None,
            given_up: Some(later(7)),
        },
    ];
    for (revision, expected) in (1..).zip(expected) {
        let found = default.delivery(revision).await.unwrap();
        assert_eq!(found, Some(expected), "{revision}");
    }
}

#[tokio::test]
async fn epochs_never_repeat() {
    let world = World::new().await;
    assert_eq!(
        progress(&world, "default")
            .await
            .next_epoch()
            .await
            .unwrap(),
        1
    );
    assert_eq!(
        progress(&world, "default")
            .await
            .next_epoch()
            .await
            .unwrap(),
        2
    );
    let world = world.restarted().await;
    assert_eq!(
        progress(&world, "default")
            .await
            .next_epoch()
            .await
            .unwrap(),
        3
    );
}

#[tokio::test]
async fn progress_of_a_deleted_subscription_says_so() {
    let world = World::new().await;
    let subscriptions = world.default().await.subscriptions();
    let config = SubscriptionConfig::default();
    subscriptions
        .create(&id("crm"), &config, StartAt::Oldest)
        .await
        .unwrap();
    let crm = progress(&world, "crm").await;
    subscriptions.delete(&id("crm"), None).await.unwrap();
    assert_eq!(crm.ack(&acks(&[1])).await, Err(StoreError::Gone));
    assert_eq!(crm.confirmed().await, Err(StoreError::Gone));
    assert_eq!(crm.next_epoch().await, Err(StoreError::Gone));
}
