use secrecy::ExposeSecret;

use super::*;

#[tokio::test]
async fn tokens_are_shown_once_and_verified_by_digest() {
    let world = World::new().await;
    let shop = WorkspaceId::new("shop").unwrap();
    let tokens = world.store.tokens();
    let admin = tokens
        .create(TokenKind::Administrator, "ops")
        .await
        .unwrap();
    let scoped = tokens
        .create(TokenKind::Workspace(shop.clone()), "crm")
        .await
        .unwrap();
    let secret = scoped.secret.expose_secret().to_owned();
    assert!(secret.starts_with(TOKEN_PREFIX) && secret.len() == 46);
    assert!(!format!("{scoped:?}").contains(&secret));
    assert_eq!(tokens.verify(&secret).unwrap().info, scoped.info);
    let rubbish = [
        "",
        "tl_",
        &secret[..45],
        &secret.to_uppercase(),
        &format!("{secret}x"),
    ];
    for rubbish in rubbish {
        assert!(tokens.verify(rubbish).is_none(), "{rubbish}");
    }
    let world = world.restarted().await;
    let tokens = world.store.tokens();
    let verified = tokens.verify(&secret).unwrap();
    assert_eq!(verified.info.kind, TokenKind::Workspace(shop));
    assert!(!verified.revoked.is_cancelled());
    assert_eq!(tokens.list().len(), 2);
    tokens.revoke(scoped.info.id).await.unwrap();
    assert!(tokens.verify(&secret).is_none());
    assert!(verified.revoked.is_cancelled());
    let again = tokens.revoke(scoped.info.id).await;
    assert!(matches!(again, Err(LookupError::NotFound { .. })));
    let world = world.restarted().await;
    assert!(world.store.tokens().verify(&secret).is_none());
    let admin = admin.secret.expose_secret().to_owned();
    assert_eq!(
        world.store.tokens().verify(&admin).unwrap().info.kind,
        TokenKind::Administrator
    );
}

#[tokio::test]
async fn the_audit_log_is_append_only_and_read_from_the_end() {
    let world = World::new().await;
    for n in 0..5 {
        let target = format!("workspaces/w{n}");
        let revision = world
            .store
            .audit()
            .record("operator", "Workspaces.Delete", &target)
            .await;
        assert_eq!(revision.unwrap(), n + 1);
    }
    let world = world.restarted().await;
    let page = world
        .store
        .audit()
        .list(&PageRequest::first(3))
        .await
        .unwrap();
    let targets: Vec<_> = page
        .items
        .iter()
        .map(|entry| entry.target.as_str())
        .collect();
    assert_eq!(targets, ["workspaces/w4", "workspaces/w3", "workspaces/w2"]);
    assert_eq!(
        (page.items[0].at, page.items[0].actor.as_str()),
        (NOW, "operator")
    );
    let rest = PageRequest {
        size: 3,
        after: page.next,
    };
    let rest = world.store.audit().list(&rest).await.unwrap();
    assert_eq!(rest.items.last().unwrap().revision, 1);
    assert_eq!(rest.next, None);
}

#[tokio::test]
async fn answers_are_remembered_for_a_week() {
    let world = World::new().await;
    let requests = world.default().await.requests();
    let id = RequestId(uuid::Uuid::from_u128(1));
    let body = BodyHash::of("CreateSession", b"line");
    assert_eq!(requests.recall(id, body).await.unwrap(), None);
    assert_eq!(
        requests.remember(id, body, "first".into()).await.unwrap(),
        "first"
    );
    assert_eq!(
        requests.remember(id, body, "second".into()).await.unwrap(),
        "first"
    );
    assert_eq!(requests.recall(id, body).await.unwrap().unwrap(), "first");
    for other in [
        BodyHash::of("CreateSession", b"other"),
        BodyHash::of("Other", b"line"),
    ] {
        let conflict = requests.recall(id, other).await;
        assert!(matches!(conflict, Err(RecallError::Conflict { .. })));
        let conflict = requests.remember(id, other, "x".into()).await;
        assert!(matches!(conflict, Err(RecallError::Conflict { .. })));
    }
    world.clock.advance(REMEMBERED_FOR / 2);
    world.store.sweep().await.unwrap();
    assert!(requests.recall(id, body).await.unwrap().is_some());
    world.clock.advance(REMEMBERED_FOR);
    world.store.sweep().await.unwrap();
    assert_eq!(requests.recall(id, body).await.unwrap(), None);
}

#[tokio::test]
async fn usage_of_long_ago_goes() {
    let world = World::new().await;
    let usage = world.default().await.usage();
    let line = SessionId::new("line").unwrap();
    let one = Counters {
        sent: 1,
        ..Counters::default()
    };
    usage.add(&line, one).await.unwrap();
    let day = Day::of(NOW);
    assert_eq!(usage.of_session(&line, day).await.unwrap(), one);
    world
        .clock
        .advance(std::time::Duration::from_hours(500 * 24));
    usage.add(&line, one).await.unwrap();
    world.store.sweep().await.unwrap();
    assert_eq!(
        usage.of_session(&line, day).await.unwrap(),
        Counters::default()
    );
    assert_eq!(
        usage.of_session(&line, Day(day.0 + 500)).await.unwrap(),
        one
    );
}

#[tokio::test]
async fn a_closed_store_says_so() {
    let world = World::new().await;
    let session = world.session("line").await;
    world.store.close().await.unwrap();
    let closed = session.keys().get(KeyKind::Meta, &KeyId::single()).await;
    assert_eq!(closed, Err(StoreError::Closed));
    assert_eq!(StoreError::Closed.to_string(), "the store is closed");
}

#[tokio::test]
async fn a_clock_that_is_set_deletes_nothing() {
    use std::time::Duration;
    let world = World::new().await;
    let session = world.session("line").await;
    let workspace = world.default().await;
    let id = RequestId(uuid::Uuid::from_u128(1));
    let body = BodyHash::of("Send", b"text");
    let requests = workspace.requests();
    requests.remember(id, body, "sent".into()).await.unwrap();
    let arrival = inbound(&person("15550001", None), "A", "hi", NOW);
    append(&session, arrival.clone()).await;
    let retention = Retention {
        max_age: Some(Duration::from_hours(30 * 24)),
        max_bytes: None,
    };
    world
        .clock
        .set_wall(NOW.plus(Duration::from_hours(90 * 24)));
    for _ in 0..50 {
        assert_eq!(world.store.sweep().await.unwrap(), Swept::default());
        let enforced = workspace.enforce(&retention).await.unwrap();
        assert_eq!(enforced, Enforced::default());
        world.clock.advance(Duration::from_mins(1));
    }
    world.clock.set_wall(NOW.plus(Duration::from_mins(50)));
    assert!(requests.recall(id, body).await.unwrap().is_some());
    assert!(append(&session, arrival.clone()).await.duplicate);
    assert_eq!(workspace.journal().size().await.unwrap().events, 1);

    // Right again, and long enough: what is old goes.
    world.clock.advance(Duration::from_hours(31 * 24));
    let enforced = workspace.enforce(&retention).await.unwrap();
    assert_eq!(enforced.removed, 0, "the clock was set back");
    world.clock.advance(Duration::from_hours(2));
    assert_eq!(workspace.enforce(&retention).await.unwrap().removed, 1);
    assert_eq!(world.store.sweep().await.unwrap().expired, 1);

    // A run that begins with a clock far ahead.
    append(&session, inbound(&person("15550001", None), "B", "hi", NOW)).await;
    world.clock.advance(Duration::from_hours(60 * 24));
    let world = world.restarted().await;
    let workspace = world.default().await;
    let enforced = workspace.enforce(&retention).await.unwrap();
    assert_eq!(enforced.removed, 0);
    world.clock.advance(Duration::from_hours(1));
    assert_eq!(workspace.enforce(&retention).await.unwrap().removed, 1);
}

#[tokio::test]
async fn events_stamped_by_a_wrong_clock_hold_nothing_up() {
    use std::time::Duration;
    let world = World::new().await;
    let session = world.session("line").await;
    let workspace = world.default().await;
    let year = Duration::from_hours(365 * 24);
    for (id, at) in [("A", NOW), ("B", NOW.plus(year)), ("C", NOW)] {
        let mut event = inbound(&person("15550001", None), id, "hi", NOW);
        event.at = at;
        append(&session, event).await;
    }
    world.clock.advance(Duration::from_hours(31 * 24));
    let retention = Retention {
        max_age: Some(Duration::from_hours(30 * 24)),
        max_bytes: None,
    };
    assert_eq!(workspace.enforce(&retention).await.unwrap().removed, 3);
}

#[tokio::test]
async fn rows_that_cannot_be_read_hold_up_nothing_else() {
    let world = World::new().await;
    let workspace = world.default().await;
    let requests = workspace.requests();
    let body = BodyHash::of("Send", b"text");
    let ids: Vec<_> = (0..300)
        .map(|n| RequestId(uuid::Uuid::from_u128(n)))
        .collect();
    for id in &ids {
        requests.remember(*id, body, "ok".into()).await.unwrap();
    }
    let prefix = workspace.0.root.prefix(super::super::key::Kind::Expiry);
    let scan = super::super::engine::Scan::prefix(&prefix, 1_000);
    let entries = world.engine.range(scan).await.unwrap().rows;
    let spoilt = super::super::engine::Commit {
        put: vec![(entries[0].0.clone(), "rubbish".into())],
        ..Default::default()
    };
    world.engine.commit(spoilt).await.unwrap();
    world.clock.advance(REMEMBERED_FOR * 2);
    let swept = world.store.sweep().await.unwrap();
    assert_eq!((swept.expired, swept.unreadable), (299, 1));
}

#[tokio::test]
async fn settled_messages_go_after_a_while() {
    use crate::domain::message::MessageState::{Delivered, Sending, Sent};
    use std::time::Duration;
    let world = World::new().await;
    let session = world.session("line").await;
    let outbox = session.outbox();
    let to = person("15550001", None);
    let send = async |request, settled: bool| {
        let new = outbound(request, &to, "x");
        let message = outbox.enqueue(new).await.unwrap().message;
        if settled {
            for state in [Sending, Sent] {
                let step = Step::to(state, NOW);
                outbox.transition(message.id, step).await.unwrap();
            }
        }
        message
    };
    let (open, old, read) = (
        send(1, false).await,
        send(2, true).await,
        send(3, true).await,
    );
    let day = Duration::from_hours(24);
    let late = Step::to(Delivered, NOW.plus(day * 20));
    outbox.transition(read.id, late).await.unwrap();
    world.clock.advance(day * 31);
    world.store.sweep().await.unwrap();
    assert!(outbox.get(old.id).await.is_err());
    let found = outbox.find_by_stanza(&old.stanza_id).await.unwrap();
    assert_eq!(found, None);
    assert!(outbox.get(read.id).await.is_ok() && outbox.get(open.id).await.is_ok());
    world.clock.advance(day * 20);
    world.store.sweep().await.unwrap();
    assert!(outbox.get(read.id).await.is_err() && outbox.get(open.id).await.is_ok());
}
