use std::time::Duration;

use super::*;
use crate::domain::event::{EventType, ReceiptKind};
use crate::store::key::Kind;

const DAY: Duration = Duration::from_hours(24);

fn alice() -> Person {
    person("15550001", Some("77"))
}

fn state_event() -> NewEvent {
    NewEvent {
        at: NOW,
        payload: Payload::Pairing {
            step: "started".into(),
            reason: None,
            account: None,
        },
        dedup: None,
    }
}

async fn all(journal: &Journal) -> Vec<crate::domain::event::Event> {
    let mut events = Vec::new();
    let mut from = 0;
    loop {
        let page = journal
            .read(from, 100, &CompiledFilter::default())
            .await
            .unwrap();
        from = page.next;
        if page.events.is_empty() {
            return events;
        }
        events.extend(page.events);
    }
}

#[tokio::test]
async fn events_read_back_as_they_were_written() {
    let world = World::new().await;
    let session = world.session("line").await;
    let event = inbound(&alice(), "A1", "hello", NOW);
    let appended = append(&session, event.clone()).await;
    assert_eq!((appended.revision, appended.duplicate), (1, false));
    let world = world.restarted().await;
    let events = all(&world.default().await.journal()).await;
    assert_eq!(events.len(), 1);
    let read = &events[0];
    assert_eq!(read.event_id, appended.event_id);
    assert_eq!(read.payload, event.payload);
    assert_eq!(read.session.as_ref().unwrap().as_str(), "line");
    assert_eq!(read.ordering_key, "line/77@lid");
    assert_eq!(read.at, NOW);
}

#[tokio::test]
async fn a_redelivery_is_not_a_second_event() {
    let world = World::new().await;
    let session = world.session("line").await;
    let event = inbound(&alice(), "A1", "hello", NOW);
    let first = append(&session, event.clone()).await;
    let again = append(&session, event.clone()).await;
    assert!(again.duplicate);
    assert_eq!(
        (again.revision, again.event_id),
        (first.revision, first.event_id)
    );

    // In one batch, with news before and after; and after a restart, days later.
    let news = |id: &str| Change::Event(inbound(&alice(), id, "new", NOW));
    let world = world.restarted().await;
    world.clock.advance(DAY * 20);
    let session = world.session("line").await;
    let batch = vec![
        news("B"),
        Change::Event(event.clone()),
        news("C"),
        news("B"),
    ];
    let applied = session.apply(batch).await.unwrap();
    let seen: Vec<_> = applied
        .iter()
        .map(|applied| match applied {
            Applied::Event(event) => (event.revision, event.duplicate),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(seen, [(2, false), (1, true), (3, false), (2, true)]);
    assert_eq!(all(&world.default().await.journal()).await.len(), 3);

    // Another session, another kind or another id is another event.
    let other = world.session("other").await;
    assert!(!append(&other, event.clone()).await.duplicate);
    let mut kind = event.clone();
    kind.dedup.as_mut().unwrap().kind = "receipt/read".into();
    assert!(!append(&session, kind).await.duplicate);
}

#[tokio::test]
async fn a_redelivery_under_another_name_is_recognised() {
    let by_phone = person("15550001", None);
    let by_both = alice();
    let by_lid = Person {
        phone: None,
        pn_jid: None,
        ..alice()
    };
    for (first, second) in [
        (&by_phone, &by_both),
        (&by_both, &by_phone),
        (&by_both, &by_lid),
    ] {
        let world = World::new().await;
        let session = world.session("line").await;
        let original = append(&session, inbound(first, "A1", "hello", NOW)).await;
        let again = append(&session, inbound(second, "A1", "hello", NOW)).await;
        assert!(again.duplicate, "{first:?} then {second:?}");
        assert_eq!(again.event_id, original.event_id);
    }
}

#[tokio::test]
async fn racing_deliveries_make_one_event() {
    let world = World::new().await;
    let session = world.session("line").await;
    let tasks: Vec<_> = (0..16)
        .map(|_| {
            let session = session.clone();
            tokio::spawn(async move { append(&session, inbound(&alice(), "A1", "x", NOW)).await })
        })
        .collect();
    let mut fresh = 0;
    for task in tasks {
        let appended = task.await.unwrap();
        assert_eq!(appended.revision, 1);
        fresh += usize::from(!appended.duplicate);
    }
    assert_eq!(fresh, 1);
}

#[tokio::test]
async fn age_of_the_message_and_steps_of_the_clock_do_not_fool_dedup() {
    // (age of the message at first delivery, how much later it comes again)
    for (age, later) in [
        (0, 29),
        (29, 3),
        (31, 1),
        (40, 15),
        (5, 31),
        (200, 10),
        (0, 0),
    ] {
        let world = World::new().await;
        let session = world.session("line").await;
        let sent_at = Timestamp(NOW.0 - age * 86_400_000);
        let event = inbound(&alice(), "A1", "x", sent_at);
        append(&session, event.clone()).await;
        world.clock.advance(DAY * later);
        world.store.sweep().await.unwrap();
        let again = append(&session, event).await;
        assert!(
            again.duplicate,
            "sent {age} days before, again {later} days later"
        );
    }
    // A message from the future, then the clock steps forward; and a clock that steps back.
    for (ahead, step) in [(5_u64, 4), (5, 6), (0, -3), (0, -40)] {
        let world = World::new().await;
        let session = world.session("line").await;
        let sent_at = Timestamp(NOW.0 + ahead * 86_400_000);
        let event = inbound(&alice(), "A1", "x", sent_at);
        append(&session, event.clone()).await;
        let wall = NOW.0.checked_add_signed(step * 86_400_000).unwrap();
        world.clock.set_wall(Timestamp(wall));
        let again = append(&session, event).await;
        assert!(
            again.duplicate,
            "sent {ahead} days ahead, clock stepped {step} days"
        );
    }
}

#[tokio::test]
async fn marks_expire_by_day_and_by_entry() {
    let world = World::new().await;
    let session = world.session("line").await;
    let before = world
        .engine
        .range(crate::store::engine::Scan::prefix(b"", 1_000))
        .await
        .unwrap();
    append(&session, inbound(&alice(), "A1", "x", NOW)).await;
    append(
        &session,
        inbound(&alice(), "A2", "x", Timestamp(NOW.0 - 50 * 86_400_000)),
    )
    .await;
    let retention = Retention {
        max_age: Some(DAY),
        max_bytes: None,
    };
    world.clock.advance(DAY * 70);
    world.store.sweep().await.unwrap();
    let workspace = world.default().await;
    let progress = default_progress(&workspace).await;
    progress.ack(&acks(&[1, 2])).await.unwrap();
    workspace.enforce(&retention).await.unwrap();
    let after = world
        .engine
        .range(crate::store::engine::Scan::prefix(b"", 1_000))
        .await
        .unwrap();
    // Left: the journal's head and state, two day counters.
    let fresh = after
        .rows
        .iter()
        .filter(|(key, _)| !before.rows.iter().any(|(k, _)| k == key));
    assert_eq!(fresh.count(), 4);
}

pub(super) async fn default_progress(workspace: &WorkspaceStore) -> Progress {
    let id = crate::domain::ids::SubscriptionId::new(DEFAULT_SUBSCRIPTION).unwrap();
    workspace.subscriptions().progress(&id).await.unwrap()
}

#[tokio::test]
async fn an_arrival_is_found_by_a_repetition_of_it() {
    let world = World::new().await;
    let session = world.session("line").await;
    let mut event = inbound(&alice(), "A1", "x", NOW);
    event.payload = Payload::Undecryptable {
        chat: alice(),
        sender: alice(),
        stanza_id: "A1".into(),
        reason: "no session".into(),
    };
    event.dedup.as_mut().unwrap().kind = "undecryptable".into();
    let appended = append(&session, event.clone()).await;
    assert!(append(&session, event.clone()).await.duplicate);
    let journal = world.default().await.journal();
    let line = SessionId::new("line").unwrap();
    let found = journal.find(&line, &event).await.unwrap().unwrap();
    assert_eq!(found.event_id, appended.event_id);
    let mut other = event;
    other.dedup.as_mut().unwrap().stanza_id = "B".into();
    assert_eq!(journal.find(&line, &other).await.unwrap(), None);
}

#[tokio::test]
async fn filters_look_at_headers() {
    let world = World::new().await;
    let (one, two) = (world.session("one").await, world.session("two").await);
    for n in 0..10 {
        append(&one, inbound(&alice(), &format!("A{n}"), "x", NOW)).await;
        append(&two, state_event()).await;
    }
    let journal = world.default().await.journal();
    let read = |filter: Filter, from, limit| {
        let journal = journal.clone();
        async move {
            let filter = journal.compile(&filter).await.unwrap();
            let page = journal.read(from, limit, &filter).await.unwrap();
            let revisions: Vec<_> = page.events.iter().map(|event| event.revision).collect();
            (revisions, page.next)
        }
    };
    let messages = Filter {
        types: [EventType::Message].into(),
        ..Filter::default()
    };
    let first_three = read(messages.clone(), 0, 3).await;
    assert_eq!(first_three, (vec![1, 3, 5], 7));
    assert_eq!(
        read(messages, 7, 100).await,
        (vec![7, 9, 11, 13, 15, 17, 19], 21)
    );
    let two_only = Filter {
        sessions: [SessionId::new("two").unwrap()].into(),
        ..Filter::default()
    };
    assert_eq!(read(two_only, 15, 100).await, (vec![16, 18, 20], 21));
    let nobody = Filter {
        sessions: [SessionId::new("nobody").unwrap()].into(),
        ..Filter::default()
    };
    assert_eq!(read(nobody, 0, 100).await, (vec![], 21));
    assert_eq!(read(Filter::default(), 21, 100).await, (vec![], 21));
    let headers = journal.headers(0, 1_000).await.unwrap().headers;
    assert_eq!(headers[0].key, journal.key_hash("one/77@lid"));
    assert_eq!(headers[0].key, headers[2].key);
    assert_ne!(headers[0].key, headers[1].key);
}

#[tokio::test]
async fn readers_wait_without_polling_and_learn_where_the_ends_are() {
    let world = World::new().await;
    let session = world.session("line").await;
    let journal = world.default().await.journal();
    let mut head = journal.watch().await.unwrap();
    let waiting = tokio::spawn(async move { *head.wait_for(|newest| *newest > 1).await.unwrap() });
    append(&session, state_event()).await;
    append(&session, state_event()).await;
    let newest = tokio::time::timeout(Duration::from_secs(90), waiting).await;
    assert_eq!(newest.unwrap().unwrap(), 2);
    let future = journal.read(4, 10, &CompiledFilter::default()).await;
    assert_eq!(future, Err(ReadError::Future { newest: 2 }));
    assert!(
        journal
            .read(3, 10, &CompiledFilter::default())
            .await
            .unwrap()
            .events
            .is_empty()
    );
}

#[tokio::test]
async fn age_removes_events_and_says_which_unconfirmed_ones() {
    let world = World::new().await;
    let session = world.session("line").await;
    let workspace = world.default().await;
    let journal = workspace.journal();
    for n in 0..1_200 {
        let mut event = state_event();
        event.at = if n < 1_100 { NOW } else { NOW.plus(DAY * 5) };
        append(&session, event).await;
    }
    let progress = default_progress(&workspace).await;
    progress.next_epoch().await.unwrap();
    progress.skip(&[1..=600]).await.unwrap();
    progress
        .count_failures(&failures(&[700, 1_150]))
        .await
        .unwrap();
    world.clock.advance(DAY * 8);
    let retention = Retention {
        max_age: Some(DAY * 7),
        max_bytes: None,
    };
    let enforced = workspace.enforce(&retention).await.unwrap();
    assert_eq!(enforced.lost, Some((601, 1_100)));
    assert_eq!((enforced.removed, enforced.over_limit), (1_100, false));
    let size = journal.size().await.unwrap();
    assert_eq!((size.oldest, size.newest, size.events), (1_101, 1_200, 100));
    assert_eq!(progress.attempts(&[700, 1_150]).await.unwrap(), [0, 1]);
    let compacted = journal.read(1_100, 10, &CompiledFilter::default()).await;
    assert_eq!(compacted, Err(ReadError::Compacted { oldest: 1_101 }));
    progress.report_loss().await.unwrap();
    progress.report_loss().await.unwrap();
    let filter = progress.compile(&Filter::default()).await.unwrap();
    let last = journal.read(1_201, 10, &filter).await.unwrap();
    assert_eq!(last.events.len(), 1, "told once");
    let gap = Payload::Gap {
        reason: "RETENTION".into(),
        from_revision: Some(601),
        to_revision: Some(1_100),
    };
    assert_eq!(last.events[0].payload, gap);
    // What is gone counts as confirmed, and doing it again changes nothing.
    let confirmed = default_progress(&workspace)
        .await
        .confirmed()
        .await
        .unwrap();
    assert_eq!(confirmed.floor(), 1_101);
    assert_eq!(
        workspace.enforce(&retention).await.unwrap(),
        Enforced::default()
    );
}

#[tokio::test]
async fn receipts_are_recognised_too() {
    let world = World::new().await;
    let session = world.session("line").await;
    let receipt = || ReceiptArrival {
        chat: alice(),
        from: alice(),
        stanza_ids: vec!["X".into()],
        kind: ReceiptKind::Read,
        at: NOW,
        dedup: Some(DedupKey {
            chat: "77@lid".into(),
            sender: "77@lid".into(),
            stanza_id: "X".into(),
            kind: "receipt/read".into(),
        }),
        received_at: NOW,
    };
    for duplicate in [false, true] {
        let applied = session
            .apply(vec![Change::Receipt(receipt())])
            .await
            .unwrap();
        match &applied[0] {
            Applied::Receipt { event, moved } => {
                assert_eq!((event.revision, event.duplicate), (1, duplicate));
                assert!(moved.is_empty());
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_loss_is_told_to_those_who_lost_something_and_once() {
    use crate::domain::event::EventType;
    use crate::domain::ids::SubscriptionId;
    let world = World::new().await;
    let session = world.session("line").await;
    let workspace = world.default().await;
    let journal = workspace.journal();
    let subscriptions = workspace.subscriptions();
    // Never consumes.
    let _default = default_progress(&workspace).await;
    // Wants messages, of which there are none; consumed all it wants.
    let picky = SubscriptionId::new("picky").unwrap();
    let messages = Filter {
        types: [EventType::Message].into(),
        ..Filter::default()
    };
    let config = SubscriptionConfig {
        filter: messages.clone(),
        ..SubscriptionConfig::default()
    };
    let begin = StartAt::Oldest;
    subscriptions.create(&picky, &config, begin).await.unwrap();
    let picky = subscriptions.progress(&picky).await.unwrap();
    // Wants everything, and was away.
    let away = SubscriptionId::new("away").unwrap();
    let config = SubscriptionConfig::default();
    subscriptions.create(&away, &config, begin).await.unwrap();
    let away = subscriptions.progress(&away).await.unwrap();
    for progress in [&picky, &away] {
        progress.next_epoch().await.unwrap();
    }
    let retention = Retention {
        max_age: Some(DAY * 30),
        max_bytes: None,
    };
    world.clock.advance(DAY * 31);
    for day in 0..5_u32 {
        let mut event = state_event();
        event.at = NOW.plus(DAY * day);
        append(&session, event).await;
    }
    let newest = journal.size().await.unwrap().newest;
    for _ in 0..5 {
        workspace.enforce(&retention).await.unwrap();
        world.clock.advance(DAY);
    }
    let after = journal.size().await.unwrap();
    assert_eq!((after.newest, after.events), (newest, 0), "no news so far");
    for progress in [&picky, &away, &away] {
        progress.report_loss().await.unwrap();
    }
    assert_eq!(journal.size().await.unwrap().newest, newest + 1);
    let read = async |filter: CompiledFilter| {
        let page = journal.read(newest + 1, 10, &filter).await.unwrap();
        page.events.len()
    };
    let any = Filter::default();
    assert_eq!(read(away.compile(&any).await.unwrap()).await, 1);
    assert_eq!(read(picky.compile(&messages).await.unwrap()).await, 0);
    assert_eq!(read(journal.compile(&any).await.unwrap()).await, 0);
}

#[tokio::test]
async fn what_retention_removed_leaves_no_rows_behind() {
    let world = World::new().await;
    let session = world.session("line").await;
    let workspace = world.default().await;
    let progress = default_progress(&workspace).await;
    let changes = || (0..500).map(|_| Change::Event(state_event())).collect();
    for _ in 0..18 {
        session.apply(changes()).await.unwrap();
    }
    progress.ack(&acks(&[5, 5_000, 8_900])).await.unwrap();
    progress.bury(6, "MAX_ATTEMPTS", 3).await.unwrap();
    let rows = async |kind| {
        let prefix = workspace.key(kind).prefix();
        let scan = crate::store::engine::Scan::prefix(&prefix, 100);
        world.engine.range(scan).await.unwrap().rows.len()
    };
    assert_eq!((rows(Kind::Ack).await, rows(Kind::Delivery).await), (3, 4));
    world.clock.advance(DAY * 31);
    let retention = Retention {
        max_age: Some(DAY * 30),
        max_bytes: None,
    };
    workspace.enforce(&retention).await.unwrap();
    assert_eq!(rows(Kind::Ack).await, 1, "only that of the newest events");
    assert_eq!(rows(Kind::Delivery).await, 0);
    let dead = progress.dead_letters(&PageRequest::default()).await;
    assert!(dead.unwrap().items.is_empty());
    assert_eq!(progress.confirmed().await.unwrap().floor(), 9_001);
    progress.ack(&acks(&[9_001])).await.unwrap();
    assert_eq!(progress.confirmed().await.unwrap().floor(), 9_002);
}
