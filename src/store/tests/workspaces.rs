use bytes::Bytes;
use prost::Message as _;
use secrecy::ExposeSecret;

use super::*;
use crate::store::engine::{Commit, Scan};
use crate::store::keyring::{KekSource, UnwrapError};
use crate::store::migrate::{FormatMark, mark_key};
use crate::store::sled::SledEngine;

fn id(text: &str) -> WorkspaceId {
    WorkspaceId::new(text).unwrap()
}

async fn rows(engine: &Arc<dyn Engine>) -> Vec<(Bytes, Bytes)> {
    let mut rows = Vec::new();
    let mut scan = Scan::prefix(b"", 1_000);
    loop {
        let page = engine.range(scan.clone()).await.unwrap();
        if let Some((last, _)) = page.rows.last() {
            scan = scan.after(last);
        }
        rows.extend(page.rows);
        if !page.more {
            return rows;
        }
    }
}

#[tokio::test]
async fn a_fresh_store_has_the_default_workspace_and_subscription() {
    let world = World::new().await;
    let all = world
        .store
        .list_workspaces(&PageRequest::default())
        .await
        .unwrap();
    assert_eq!(all.items.len(), 1);
    assert_eq!(all.items[0].id, WorkspaceId::default_workspace());
    let subscriptions = world.default().await.subscriptions();
    let all = subscriptions.list(&PageRequest::default()).await.unwrap();
    assert_eq!(all.items[0].id.as_str(), DEFAULT_SUBSCRIPTION);
    assert_eq!(all.items.len(), 1);
}

#[tokio::test]
async fn workspaces_survive_a_restart_and_names_are_unique() {
    let world = World::new().await;
    let shop = world
        .store
        .create_workspace(&id("shop"), "The Shop")
        .await
        .unwrap();
    let again = world.store.create_workspace(&id("shop"), "Other").await;
    assert_eq!(
        again,
        Err(CreateError::AlreadyExists {
            what: "workspaces/shop".into()
        })
    );
    let world = world.restarted().await;
    assert_eq!(world.store.get_workspace(&id("shop")).await.unwrap(), shop);
    assert!(world.store.workspace(&id("shop")).await.is_ok());
    let missing = world.store.workspace(&id("nope")).await.unwrap_err();
    assert_eq!(missing.to_string(), "workspaces/nope does not exist");
}

#[tokio::test]
async fn an_etag_protects_an_update() {
    let world = World::new().await;
    let store = &world.store;
    let shop = store.create_workspace(&id("shop"), "a").await.unwrap();
    let renamed = store
        .update_workspace(&id("shop"), Some(&shop.etag), "b")
        .await
        .unwrap();
    assert_ne!(renamed.etag, shop.etag);
    let stale = store
        .update_workspace(&id("shop"), Some(&shop.etag), "c")
        .await;
    assert!(matches!(stale, Err(UpdateError::EtagMismatch { .. })));
    assert_eq!(store.get_workspace(&id("shop")).await.unwrap(), renamed);
}

#[tokio::test]
async fn listings_page_through() {
    let world = World::new().await;
    for n in 0..7 {
        world
            .store
            .create_workspace(&id(&format!("w{n}")), "")
            .await
            .unwrap();
    }
    let mut seen = Vec::new();
    let mut request = PageRequest::first(3);
    loop {
        let page = world.store.list_workspaces(&request).await.unwrap();
        assert!(page.items.len() <= 3);
        seen.extend(page.items.into_iter().map(|w| w.id.to_string()));
        match page.next {
            Some(next) => request.after = PageToken::decode(&next.encode()).unwrap(),
            None => break,
        }
    }
    assert_eq!(seen, ["default", "w0", "w1", "w2", "w3", "w4", "w5", "w6"]);
}

#[tokio::test]
async fn another_key_encryption_key_opens_nothing() {
    let world = World::new().await;
    let mut wrong = options(&world.engine, &world.clock, 3);
    wrong.keks = Keks::ephemeral([8; 32]);
    let refused = Store::open(wrong).await.unwrap_err();
    assert_eq!(refused, OpenError::Kek(UnwrapError::WrongKek));
}

#[tokio::test]
async fn a_store_of_a_newer_release_is_refused_and_untouched() {
    let world = World::new().await;
    let mark = FormatMark {
        format: FORMAT + 1,
        release: "9.9".into(),
    };
    let commit = Commit {
        put: vec![(mark_key(), mark.encode_to_vec().into())],
        ..Commit::default()
    };
    world.engine.commit(commit).await.unwrap();
    let before = rows(&world.engine).await;
    let refused = Store::open(options(&world.engine, &world.clock, 3))
        .await
        .unwrap_err();
    let found = FORMAT + 1;
    assert!(
        matches!(refused, OpenError::Store(StoreError::Newer { found: f, supported: FORMAT, .. }) if f == found)
    );
    assert!(refused.to_string().contains("upgrade"), "{refused}");
    assert_eq!(rows(&world.engine).await, before);
}

#[tokio::test]
async fn one_workspace_sees_nothing_of_another() {
    let world = World::new().await;
    world
        .store
        .create_workspace(&id("other"), "")
        .await
        .unwrap();
    let other = world.store.workspace(&id("other")).await.unwrap();
    let ours = world.session("line").await;
    let event = inbound(&person("15550001", None), "A", "hi", NOW);
    append(&ours, event).await;

    let line = SessionId::new("line").unwrap();
    let missing = other.session(&line).await.unwrap_err();
    assert_eq!(
        missing.to_string(),
        "workspaces/other/sessions/line does not exist"
    );
    assert!(
        other
            .sessions()
            .list(&PageRequest::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
    assert_eq!(other.journal().size().await.unwrap().newest, 0);

    // The same names in both are two different things.
    other.sessions().create(new_session("line")).await.unwrap();
    let theirs = other.session(&line).await.unwrap();
    let id = KeyId::name("alice");
    ours.keys()
        .put(KeyKind::Session, id.clone(), "ours", Durability::Durable)
        .await
        .unwrap();
    assert_eq!(
        theirs.keys().get(KeyKind::Session, &id).await.unwrap(),
        None
    );
}

/// Promise 4: even a wrong read yields nothing.
#[tokio::test]
async fn a_row_that_is_moved_does_not_open() {
    let world = World::new().await;
    let one = world.session("one").await;
    let two = world.session("two").await;
    for (session, text) in [(&one, "first"), (&two, "second")] {
        let keys = session.keys();
        keys.put(KeyKind::Meta, KeyId::single(), text, Durability::Durable)
            .await
            .unwrap();
    }
    let all = rows(&world.engine).await;
    let kind = 0x80 | KeyKind::Meta as u8;
    let metas: Vec<_> = all
        .iter()
        .filter(|(key, _)| key.get(9) == Some(&kind))
        .collect();
    assert_eq!(metas.len(), 2);
    let commit = Commit {
        put: vec![(metas[1].0.clone(), metas[0].1.clone())],
        ..Commit::default()
    };
    world.engine.commit(commit).await.unwrap();
    let wrong = two.keys().get(KeyKind::Meta, &KeyId::single()).await;
    assert!(matches!(wrong, Err(StoreError::Damaged(_))), "{wrong:?}");
    let right = one.keys().get(KeyKind::Meta, &KeyId::single()).await;
    assert_eq!(right.unwrap().unwrap(), "first");
}

#[tokio::test]
async fn deleting_a_workspace_takes_everything_of_it_and_nothing_else() {
    let world = World::new().await;
    let store = &world.store;
    let kept = world.session("kept").await;
    append(&kept, inbound(&person("15550001", None), "A", "stays", NOW)).await;
    let before = rows(&world.engine).await.len();

    store.create_workspace(&id("gone"), "").await.unwrap();
    let gone = store.workspace(&id("gone")).await.unwrap();
    gone.sessions().create(new_session("s")).await.unwrap();
    let session = gone.session(&SessionId::new("s").unwrap()).await.unwrap();
    append(
        &session,
        inbound(&person("15550002", None), "B", "goes", NOW),
    )
    .await;
    session
        .outbox()
        .enqueue(outbound(1, &person("15550002", None), "x"))
        .await
        .unwrap();
    let token = store
        .tokens()
        .create(TokenKind::Workspace(id("gone")), "")
        .await
        .unwrap();
    let secret = token.secret.expose_secret().to_owned();
    assert!(store.tokens().verify(&secret).is_some());

    store.delete_workspace(&id("gone"), None).await.unwrap();
    assert!(store.workspace(&id("gone")).await.is_err());
    assert!(store.tokens().verify(&secret).is_none());
    // What is left over: the mark that a new key encryption key is owed.
    let after = rows(&world.engine).await;
    assert_eq!(after.len(), before + 1);
    assert!(store.rotation_owed().await.unwrap());
    assert_eq!(kept.workspace().journal().size().await.unwrap().events, 1);

    let refused = store
        .delete_workspace(&WorkspaceId::default_workspace(), None)
        .await;
    assert!(matches!(refused, Err(UpdateError::BuiltIn { .. })));
}

#[tokio::test]
async fn a_new_key_encryption_key_replaces_the_old_one_everywhere() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dev.key");
    let source = KekSource::Development(path.clone());
    let entropy = Entropy::seeded(4);
    let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new());
    let clock = ManualClock::at(NOW);
    let open = || {
        let mut options = options(&engine, &clock, 5);
        options.keks = Keks::load(&source, &entropy).unwrap();
        Store::open(options)
    };
    let store = open().await.unwrap();
    store.create_workspace(&id("a"), "kept").await.unwrap();
    store.create_workspace(&id("b"), "").await.unwrap();
    let old_file = std::fs::read_to_string(&path).unwrap();

    store.delete_workspace(&id("b"), None).await.unwrap();
    assert!(!store.rotation_owed().await.unwrap());
    let new_file = std::fs::read_to_string(&path).unwrap();
    assert_eq!(new_file.lines().count(), 1);
    assert_ne!(new_file, old_file);
    let reopened = open().await.unwrap();
    assert_eq!(
        reopened.get_workspace(&id("a")).await.unwrap().display_name,
        "kept"
    );
    std::fs::write(&path, old_file).unwrap();
    assert_eq!(
        open().await.unwrap_err(),
        OpenError::Kek(UnwrapError::WrongKek)
    );
}

/// Nothing readable in keys or unsealed values: not in the engine, not in its files.
#[tokio::test(flavor = "multi_thread")]
async fn the_files_contain_no_name_number_or_text() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let clock = Arc::new(crate::domain::clock::SystemClock::new());
    let engine: Arc<dyn Engine> = Arc::new(SledEngine::open(&path, clock).unwrap());
    let world = World::on(engine).await;
    let store = &world.store;
    store
        .create_workspace(&id("plantedworkspace"), "PlantedDisplay")
        .await
        .unwrap();
    let workspace = store.workspace(&id("plantedworkspace")).await.unwrap();
    let mut new = new_session("plantedsession");
    new.labels
        .insert("plantedlabel".into(), "plantedvalue".into());
    workspace.sessions().create(new).await.unwrap();
    let session = SessionId::new("plantedsession").unwrap();
    let session = workspace.session(&session).await.unwrap();
    let someone = person("15557654321", Some("99887766554433"));
    append(
        &session,
        inbound(&someone, "PLANTEDSTANZA", "planted text", NOW),
    )
    .await;
    session
        .outbox()
        .enqueue(outbound(0xfeed, &someone, "planted reply"))
        .await
        .unwrap();
    let keys = session.keys();
    let address = KeyId::name("15557654321@s.whatsapp.net").and_device(3);
    let large = "plantedkeyvalue".repeat(1_000);
    keys.put(KeyKind::Session, address, large, Durability::Durable)
        .await
        .unwrap();
    let subscription = crate::domain::ids::SubscriptionId::new("plantedsubscription").unwrap();
    let config = SubscriptionConfig::default();
    workspace
        .subscriptions()
        .create(&subscription, &config, StartAt::Newest)
        .await
        .unwrap();
    let kind = TokenKind::Workspace(id("plantedworkspace"));
    let token = store.tokens().create(kind, "plantedtoken").await.unwrap();
    let secret = token.secret.expose_secret().to_owned();
    store
        .audit()
        .record("plantedactor", "plantedaction", "plantedtarget")
        .await
        .unwrap();
    store.close().await.unwrap();

    let mut searched = 0;
    let mut folders = vec![path];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
                continue;
            }
            let bytes = std::fs::read(entry.path()).unwrap();
            searched += bytes.len();
            let haystack = bytes.to_ascii_lowercase();
            for needle in [
                "planted",
                "15557654321",
                "99887766554433",
                "whatsapp",
                &secret,
            ] {
                let needle = needle.to_ascii_lowercase();
                let found = haystack
                    .windows(needle.len())
                    .any(|w| w == needle.as_bytes());
                assert!(!found, "{needle} in {:?}", entry.path());
            }
        }
    }
    assert!(searched > 10_000, "the store wrote something");
}

#[tokio::test]
async fn the_fleet_is_every_session_of_every_workspace_once() {
    let world = World::new().await;
    for workspace in ["default", "empty", "many"] {
        match world.store.create_workspace(&id(workspace), "").await {
            Ok(_) | Err(CreateError::AlreadyExists { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    for (workspace, count) in [("default", 1), ("many", 7)] {
        let sessions = world
            .store
            .workspace(&id(workspace))
            .await
            .unwrap()
            .sessions();
        for n in 0..count {
            sessions
                .create(new_session(&format!("s{n}")))
                .await
                .unwrap();
        }
    }
    let mut seen = Vec::new();
    let mut cursor = None;
    loop {
        let (sessions, next) = world.store.fleet(cursor, 3).await.unwrap();
        assert!(sessions.len() <= 3);
        seen.extend(sessions.iter().map(|session| session.name().to_string()));
        match next {
            Some(next) => cursor = Some(next),
            None => break,
        }
    }
    let mut expected = vec!["workspaces/default/sessions/s0".to_owned()];
    expected.extend((0..7).map(|n| format!("workspaces/many/sessions/s{n}")));
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn no_workspace_is_created_while_keys_are_replaced() {
    let world = World::new().await;
    let rotating = world.store.0.rotation.lock().await;
    let shop = id("shop");
    let mut creating = Box::pin(world.store.create_workspace(&shop, ""));
    assert!(futures::poll!(&mut creating).is_pending());
    drop(rotating);
    creating.await.unwrap();
}

#[tokio::test]
async fn a_workspace_that_cannot_be_opened_holds_up_no_other() {
    let world = World::new().await;
    world
        .store
        .create_workspace(&id("broken"), "")
        .await
        .unwrap();
    world.session("line").await;
    let number = world.store.workspace(&id("broken")).await.unwrap().0.number;
    let spoil = crate::store::engine::Commit {
        put: vec![(crate::store::root::wrapped_key(number), "rubbish".into())],
        ..Default::default()
    };
    world.engine.commit(spoil).await.unwrap();
    let world = world.restarted().await;
    assert!(world.store.workspace(&id("broken")).await.is_err());
    let (sessions, next) = world.store.fleet(None, 10).await.unwrap();
    assert_eq!(sessions.len(), 1);
    let rest = match next {
        Some(next) => world.store.fleet(Some(next), 10).await.unwrap().0,
        None => Vec::new(),
    };
    assert!(rest.is_empty());
    world.store.sweep().await.unwrap();
}
