use super::*;
use crate::domain::session::Login;
use crate::store::engine::Scan;

fn id(text: &str) -> SessionId {
    SessionId::new(text).unwrap()
}

#[tokio::test]
async fn a_record_is_what_was_written() {
    let world = World::new().await;
    let sessions = world.default().await.sessions();
    let mut new = new_session("line");
    new.display_name = "Front desk".into();
    new.labels.insert("team".into(), "sales".into());
    new.desired = Desired::Stopped;
    let created = sessions.create(new.clone()).await.unwrap();
    assert_eq!(created.name.to_string(), "workspaces/default/sessions/line");
    assert_eq!(
        (created.desired, created.login),
        (Desired::Stopped, Login::Unpaired)
    );
    assert_eq!(created.labels, new.labels);
    let taken = sessions.create(new).await;
    assert!(matches!(taken, Err(CreateError::AlreadyExists { .. })));

    world.clock.advance(std::time::Duration::from_secs(5));
    let account = person("15551234567", Some("42"));
    let changed = sessions
        .update(&id("line"), None, |record| {
            record.login = Login::Paired;
            record.account = Some(account.clone());
            record.pairing_unconfirmed = true;
            record.initial_sync_owed = true;
            record.stopped_cleanly = false;
        })
        .await
        .unwrap();
    assert_ne!(changed.etag, created.etag);
    assert!(changed.updated_at > created.updated_at);
    let world = world.restarted().await;
    let read = world
        .default()
        .await
        .sessions()
        .get(&id("line"))
        .await
        .unwrap();
    assert_eq!(read, changed);
    assert_eq!(read.account, Some(account));
}

#[tokio::test]
async fn an_etag_protects_updates_and_deletes() {
    let world = World::new().await;
    let sessions = world.default().await.sessions();
    let first = sessions.create(new_session("line")).await.unwrap();
    let stop = |record: &mut SessionRecord| record.desired = Desired::Stopped;
    sessions
        .update(&id("line"), Some(&first.etag), stop)
        .await
        .unwrap();
    let stale = sessions.update(&id("line"), Some(&first.etag), stop).await;
    assert!(matches!(stale, Err(UpdateError::EtagMismatch { .. })));
    let stale = sessions.delete(&id("line"), Some(&first.etag)).await;
    assert!(matches!(stale, Err(UpdateError::EtagMismatch { .. })));
    let missing = sessions.update(&id("nope"), None, stop).await;
    assert!(matches!(missing, Err(UpdateError::NotFound { .. })));
}

#[tokio::test]
async fn rival_updates_all_count() {
    let world = World::new().await;
    let sessions = world.default().await.sessions();
    sessions.create(new_session("line")).await.unwrap();
    let tasks: Vec<_> = (0..16)
        .map(|n| {
            let sessions = sessions.clone();
            tokio::spawn(async move {
                let label = format!("l{n}");
                let add = |record: &mut SessionRecord| {
                    record.labels.insert(label.clone(), String::new());
                };
                sessions.update(&id("line"), None, add).await.unwrap();
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(sessions.get(&id("line")).await.unwrap().labels.len(), 16);
}

#[tokio::test]
async fn listing_pages_in_order_of_creation() {
    let world = World::new().await;
    let sessions = world.default().await.sessions();
    for n in (0..9).rev() {
        sessions
            .create(new_session(&format!("s{n}")))
            .await
            .unwrap();
    }
    let mut seen = Vec::new();
    let mut request = PageRequest::first(4);
    loop {
        let page = sessions.list(&request).await.unwrap();
        seen.extend(page.items.into_iter().map(|s| s.name.session.to_string()));
        match page.next {
            Some(next) => request.after = Some(next),
            None => break,
        }
    }
    assert_eq!(seen, ["s8", "s7", "s6", "s5", "s4", "s3", "s2", "s1", "s0"]);
}

async fn fill(session: &SessionStore) {
    let to = person("15550001", None);
    let keys = session.keys();
    for n in 0..30 {
        session
            .outbox()
            .enqueue(outbound(n + 1, &to, "x"))
            .await
            .unwrap();
        let id = KeyId::number(u32::try_from(n).unwrap());
        keys.put(KeyKind::PreKey, id, vec![1; 50], Durability::Ordered)
            .await
            .unwrap();
    }
    keys.put(KeyKind::Device, KeyId::single(), "d", Durability::Durable)
        .await
        .unwrap();
    append(session, inbound(&to, "A", "hi", NOW)).await;
}

async fn owned(world: &World, number: u64) -> usize {
    let rows = world
        .engine
        .range(Scan::prefix(b"", 1_000))
        .await
        .unwrap()
        .rows;
    let session = number.to_be_bytes();
    rows.iter()
        .filter(|(key, _)| key.get(10..18) == Some(&session[..]))
        .count()
}

#[tokio::test]
async fn deleting_takes_keys_and_outbox_but_not_history() {
    let world = World::new().await;
    let session = world.session("line").await;
    fill(&session).await;
    let number = session.number();
    assert!(owned(&world, number).await > 90);
    let sessions = world.default().await.sessions();
    sessions.delete(&id("line"), None).await.unwrap();
    assert_eq!(owned(&world, number).await, 0);
    assert!(world.default().await.session(&id("line")).await.is_err());
    assert_eq!(
        world.default().await.journal().size().await.unwrap().events,
        1
    );
    let refused = session
        .outbox()
        .enqueue(outbound(99, &person("1", None), "late"))
        .await;
    assert_eq!(refused, Err(EnqueueError::Store(StoreError::Gone)));
    // A handle that is still around cannot bring rows back.
    for durability in [
        Durability::Durable,
        Durability::Ordered,
        Durability::Deferred,
    ] {
        let keys = session.keys();
        let put = keys.put(KeyKind::Device, KeyId::single(), "zombie", durability);
        assert_eq!(put.await, Err(StoreError::Gone));
    }
    assert_eq!(owned(&world, number).await, 0);

    // The name is free again, and the new session starts empty.
    let fresh = world.session("line").await;
    assert_ne!(fresh.number(), number);
    assert_eq!(
        fresh
            .keys()
            .get(KeyKind::Device, &KeyId::single())
            .await
            .unwrap(),
        None
    );
}

#[tokio::test]
async fn a_deletion_cut_short_is_finished_at_the_next_start() {
    let world = World::new().await;
    let session = world.session("line").await;
    fill(&session).await;
    let number = session.number();
    world
        .default()
        .await
        .sessions()
        .unlink_for_test(&id("line"))
        .await;
    assert!(owned(&world, number).await > 90);
    let world = world.restarted().await;
    assert_eq!(owned(&world, number).await, 0);
}

#[tokio::test]
async fn a_new_owner_shuts_the_old_one_out() {
    let world = World::new().await;
    let session = world.session("line").await;
    let first = session.claim().await.unwrap();
    let kind = KeyKind::Meta;
    let put = |owner: &SessionStore, value: &'static str, durability| {
        let keys = owner.keys();
        async move { keys.put(kind, KeyId::single(), value, durability).await }
    };
    put(&first, "first", Durability::Durable).await.unwrap();
    put(&first, "deferred", Durability::Deferred).await.unwrap();
    let second = session.claim().await.unwrap();
    let read = second.keys().get(kind, &KeyId::single()).await.unwrap();
    assert_eq!(read.unwrap(), "deferred");
    for durability in [Durability::Durable, Durability::Ordered] {
        let refused = put(&first, "zombie", durability).await;
        assert_eq!(
            refused,
            Err(StoreError::Fenced {
                held: 1,
                current: 2
            })
        );
    }
    let event = inbound(&person("15550001", None), "A", "late", NOW);
    let refused = first.apply(vec![Change::Event(event)]).await;
    assert!(matches!(
        refused,
        Err(ApplyError::Store(StoreError::Fenced { .. }))
    ));
    put(&second, "second", Durability::Durable).await.unwrap();

    // Also across a restart, where only the stored epoch knows.
    let world = world.restarted().await;
    let again = world.session("line").await;
    again.claim().await.unwrap();
    let refused = put(&second, "zombie", Durability::Durable).await;
    assert_eq!(
        refused,
        Err(StoreError::Fenced {
            held: 2,
            current: 3
        })
    );
    let read = again.keys().get(kind, &KeyId::single()).await.unwrap();
    assert_eq!(read.unwrap(), "second");
}

#[tokio::test]
async fn a_record_and_its_event_change_together() {
    let world = World::new().await;
    let session = world.session("line").await;
    let event = inbound(&person("15550001", None), "A", "hi", NOW);
    let edit: EditSession = Box::new(|record| record.login = Login::Paired);
    let changes = vec![Change::Session(edit), Change::Event(event)];
    let applied = session.apply(changes).await.unwrap();
    assert!(matches!(&applied[0], Applied::Session(record) if record.login == Login::Paired));
    assert!(matches!(&applied[1], Applied::Event(event) if event.revision == 1));
    assert_eq!(session.record().await.unwrap().login, Login::Paired);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_callers_at_the_same_time_share_a_handle() {
    let (engine, _gate) = super::writer::gated();
    let world = World::on(engine).await;
    drop(world.session("line").await);
    let workspace = world.default().await;
    workspace.0.sessions.clear();
    let id = SessionId::new("line").unwrap();
    let (one, other) = futures::join!(workspace.session(&id), workspace.session(&id));
    let (one, other) = (one.unwrap().keys(), other.unwrap().keys());
    let key = || KeyId::single();
    one.put(KeyKind::Meta, key(), "v", Durability::Deferred)
        .await
        .unwrap();
    assert!(other.contains(KeyKind::Meta, &key()).await.unwrap());
    // A number that was read before the session was deleted and created anew.
    let old = workspace.sessions().number_of(&id).await.unwrap();
    workspace.sessions().delete(&id, None).await.unwrap();
    workspace
        .sessions()
        .create(new_session("line"))
        .await
        .unwrap();
    let fresh = workspace.session(&id).await.unwrap();
    assert!(matches!(
        workspace.session_handle(&id, old),
        Err(StoreError::Gone)
    ));
    let again = workspace.session(&id).await.unwrap();
    assert_eq!(again.number(), fresh.number());
}
