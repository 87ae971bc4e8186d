//! Backups and what a restored store is: the same rows under another key, a generation on.

use std::io::Cursor;

use super::*;
use crate::store::backup::{
    Archive, FormatError, RecipientError, Recipients, RestoreError, Restored, Unlock, UnlockError,
    restore,
};
use crate::store::engine::Urgency;

fn identity() -> age::x25519::Identity {
    age::x25519::Identity::generate()
}

fn recipients(identity: &age::x25519::Identity) -> Recipients {
    Recipients::parse([identity.to_public().to_string().as_str()]).unwrap()
}

fn unlock(identity: &age::x25519::Identity) -> Unlock {
    Unlock::Identities(vec![Box::new(identity.clone())])
}

async fn back_up(store: &Store, identity: &age::x25519::Identity) -> Vec<u8> {
    let backup = store.backup(false).await.unwrap();
    let recipients = recipients(identity);
    let write = move || {
        let mut out = Vec::new();
        backup.write_to(&recipients, &mut out).map(|_| out)
    };
    tokio::task::spawn_blocking(write).await.unwrap().unwrap()
}

fn open(bytes: &[u8], identity: &age::x25519::Identity) -> Result<Archive, RestoreError> {
    Archive::open(Cursor::new(bytes.to_vec()), &unlock(identity))
}

/// Restores into a fresh engine under another key encryption key.
async fn restored(archive: Archive) -> (World, Restored) {
    let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new());
    let clock = ManualClock::at(NOW);
    let mut fresh = options(&engine, &clock, 9);
    fresh.keks = Keks::ephemeral([8; 32]);
    let before_close = Arc::new(Unclosed(engine));
    fresh.engine = Arc::clone(&before_close) as Arc<dyn Engine>;
    let restored = restore(archive, fresh).await.unwrap();
    let engine = Arc::clone(&before_close.0);
    let mut again = options(&engine, &clock, 10);
    again.keks = Keks::ephemeral([8; 32]);
    let store = Store::open(again).await.unwrap();
    let world = World {
        engine,
        clock,
        store,
    };
    (world, restored)
}

/// An engine in memory that survives being closed.
#[derive(Debug)]
struct Unclosed(Arc<dyn Engine>);

#[async_trait::async_trait]
impl Engine for Unclosed {
    async fn get(
        &self,
        key: &[u8],
    ) -> Result<Option<bytes::Bytes>, crate::store::engine::EngineError> {
        self.0.get(key).await
    }

    async fn get_many(
        &self,
        keys: &[bytes::Bytes],
    ) -> Result<Vec<Option<bytes::Bytes>>, crate::store::engine::EngineError> {
        self.0.get_many(keys).await
    }

    async fn range(
        &self,
        scan: crate::store::engine::Scan,
    ) -> Result<crate::store::engine::Rows, crate::store::engine::EngineError> {
        self.0.range(scan).await
    }

    async fn submit(
        &self,
        commit: crate::store::engine::Commit,
        urgency: Urgency,
    ) -> Result<crate::store::engine::Receipt, crate::store::engine::CommitError> {
        self.0.submit(commit, urgency).await
    }

    async fn watch(
        &self,
        stream: bytes::Bytes,
    ) -> Result<tokio::sync::watch::Receiver<u64>, crate::store::engine::EngineError> {
        self.0.watch(stream).await
    }

    async fn snapshot(
        &self,
    ) -> Result<Box<dyn crate::store::engine::Snapshot>, crate::store::engine::SnapshotError> {
        self.0.snapshot().await
    }

    fn health(&self) -> crate::store::engine::Health {
        self.0.health()
    }

    async fn close(&self) -> Result<(), crate::store::engine::EngineError> {
        Ok(())
    }
}

#[tokio::test]
async fn everything_is_there_again_under_another_key() {
    let world = World::new().await;
    let session = world.session("line").await;
    let ada = person("15551234567", None);
    for n in 0..5 {
        append(&session, inbound(&ada, &format!("A{n}"), "hello", NOW)).await;
    }
    let sent = session.outbox().enqueue(outbound(7, &ada, "hi")).await;
    let sent = sent.unwrap();
    let acme = WorkspaceId::new("acme").unwrap();
    world.store.create_workspace(&acme, "Acme").await.unwrap();
    let created = world.store.tokens().create(TokenKind::Administrator, "me");
    let token = created.await.unwrap();
    let keys = session.keys();
    let id = KeyId::name("somebody");
    keys.put(
        KeyKind::Identity,
        id.clone(),
        vec![5; 32],
        Durability::Durable,
    )
    .await
    .unwrap();

    let identity = identity();
    let bytes = back_up(&world.store, &identity).await;
    let archive = open(&bytes, &identity).unwrap();
    assert_eq!(archive.header().generation, 0);
    assert!(!archive.header().hand_over);
    let (copy, outcome) = restored(archive).await;
    assert_eq!((outcome.generation, outcome.header.format), (1, FORMAT));
    assert!(outcome.entries > 20);

    let again = copy.session("line").await;
    assert_eq!(again.generation(), 1);
    let stored = again.keys().get(KeyKind::Identity, &id).await.unwrap();
    assert_eq!(stored.unwrap(), vec![5; 32]);
    let found = again.outbox().get(sent.message.id).await.unwrap();
    assert_eq!(found.stanza_id, sent.message.stanza_id);
    assert_eq!(
        copy.store.get_workspace(&acme).await.unwrap().display_name,
        "Acme"
    );
    let secret = secrecy::ExposeSecret::expose_secret(&token.secret).to_owned();
    assert!(copy.store.tokens().verify(&secret).is_some());
    // A repetition is still recognised.
    let first = append(&again, inbound(&ada, "A0", "hello", NOW)).await;
    assert!(first.duplicate);
}

#[tokio::test]
async fn numbers_that_may_have_been_given_out_since_are_left_out_and_readers_told() {
    let world = World::new().await;
    let session = world.session("line").await;
    let ada = person("15551234567", None);
    append(&session, inbound(&ada, "A0", "one", NOW)).await;
    let head = world.default().await.journal().size().await.unwrap().newest;
    let identity = identity();
    let bytes = back_up(&world.store, &identity).await;
    // The old owner goes on.
    let lost = append(&session, inbound(&ada, "A1", "two", NOW)).await;
    let (copy, _) = restored(open(&bytes, &identity).unwrap()).await;
    let session = copy.session("line").await;
    let next = append(&session, inbound(&ada, "A2", "three", NOW)).await;
    assert!(next.revision > head + ROOM && next.revision > lost.revision);

    // Whoever had read the lost one resumes behind it and misses nothing.
    let workspace = copy.default().await;
    let journal = workspace.journal();
    let everything = CompiledFilter::default();
    let page = journal
        .read(lost.revision + 1, 10, &everything)
        .await
        .unwrap();
    let payloads: Vec<_> = page.events.iter().map(|event| &event.payload).collect();
    assert!(
        matches!(payloads[0], Payload::Gap { reason, from_revision, to_revision }
            if reason == "RESTORED" && *from_revision == Some(head + 1) && *to_revision == Some(head + ROOM)),
        "{payloads:?}"
    );
    assert_eq!(page.events.last().unwrap().revision, next.revision);

    // The hole does not keep a subscription's floor down, nor retention from passing it.
    let subscriptions = workspace.subscriptions();
    let id = crate::domain::ids::SubscriptionId::new(DEFAULT_SUBSCRIPTION).unwrap();
    let progress = subscriptions.progress(&id).await.unwrap();
    progress.skip(&[1..=next.revision]).await.unwrap();
    assert_eq!(
        progress.confirmed().await.unwrap().floor(),
        next.revision + 1
    );
    let retention = Retention {
        max_bytes: Some(1),
        ..Retention::default()
    };
    let enforced = workspace.enforce(&retention).await.unwrap();
    assert!(!enforced.over_limit);
    assert_eq!(journal.size().await.unwrap().oldest, next.revision + 1);
}

#[tokio::test]
async fn a_key_encryption_key_that_is_replaced_meanwhile_does_no_harm() {
    let world = World::new().await;
    let acme = WorkspaceId::new("acme").unwrap();
    world.store.create_workspace(&acme, "").await.unwrap();
    let backup = world.store.backup(false).await.unwrap();
    *world.store.0.keks.write().unwrap() = Arc::new(Keks::ephemeral([99; 32]));
    let identity = identity();
    let mut bytes = Vec::new();
    backup.write_to(&recipients(&identity), &mut bytes).unwrap();
    let (copy, _) = restored(open(&bytes, &identity).unwrap()).await;
    copy.store.get_workspace(&acme).await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_restored_is_told_apart() {
    let world = World::new().await;
    let (ours, theirs) = (identity(), identity());
    let bytes = back_up(&world.store, &ours).await;
    assert!(open(&bytes, &ours).unwrap().check().unwrap().entries > 3);
    let refused = open(&bytes, &theirs).unwrap_err();
    assert!(
        matches!(refused, RestoreError::Unlock(UnlockError::WrongIdentity)),
        "{refused}"
    );
    let passphrase = Unlock::passphrase("open".into());
    let refused = Archive::open(Cursor::new(bytes.clone()), &passphrase).unwrap_err();
    assert!(
        matches!(refused, RestoreError::Unlock(UnlockError::NeedsIdentity)),
        "{refused}"
    );
    for len in 0..bytes.len() {
        let cut = &bytes[..len];
        let refused = open(cut, &ours).and_then(Archive::check).unwrap_err();
        let told = matches!(
            refused,
            RestoreError::Unlock(
                UnlockError::Truncated | UnlockError::Foreign | UnlockError::Damaged
            ) | RestoreError::Format(FormatError::Truncated | FormatError::Damaged(_))
        );
        assert!(told, "cut at {len}: {refused}");
    }
    for at in (0..bytes.len()).step_by(7) {
        let mut altered = bytes.clone();
        altered[at] ^= 1;
        assert!(
            open(&altered, &ours).and_then(Archive::check).is_err(),
            "byte {at}"
        );
    }
    let refused = open(b"rubbish", &ours).unwrap_err();
    assert!(
        matches!(
            refused,
            RestoreError::Unlock(UnlockError::Foreign | UnlockError::Truncated)
        ),
        "{refused}"
    );
    assert_eq!(Recipients::parse([]).unwrap_err(), RecipientError::None);
    let secret = Recipients::parse(["AGE-SECRET-KEY-1QQQ"]).unwrap_err();
    assert!(!secret.to_string().contains("QQQ"), "{secret}");
    assert!(matches!(
        Unlock::identities("nothing"),
        Err(UnlockError::NoIdentity)
    ));
}

#[tokio::test]
async fn a_store_that_was_handed_over_is_refused_until_it_is_taken_back() {
    let world = World::new().await;
    world.store.hand_over().await.unwrap();
    let refused = Store::open(options(&world.engine, &world.clock, 2)).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused, OpenError::HandedOver { at: NOW });
    assert!(refused.to_string().contains("--take-back"), "{refused}");

    // The archive of it is nobody's until it is restored.
    let at_rest = Store::open_at_rest(options(&world.engine, &world.clock, 3));
    let at_rest = at_rest.await.unwrap();
    assert_eq!(at_rest.handed_over_at().await.unwrap(), Some(NOW));
    let identity = identity();
    let bytes = back_up(&at_rest, &identity).await;
    let (copy, outcome) = restored(open(&bytes, &identity).unwrap()).await;
    assert_eq!(outcome.generation, 1);
    assert_eq!(copy.store.handed_over_at().await.unwrap(), None);

    at_rest.take_back().await.unwrap();
    let back = Store::open(options(&world.engine, &world.clock, 4))
        .await
        .unwrap();
    assert_eq!(back.handed_over_at().await.unwrap(), None);
    let again = World {
        store: back,
        ..world
    };
    assert_eq!(again.session("line").await.generation(), 1);
}
