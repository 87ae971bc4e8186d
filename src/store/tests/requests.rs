//! An answer and the change it tells of are one commit: whatever a crash leaves, a repetition finds both
//! or neither.

use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;

use super::*;
use crate::domain::ids::SubscriptionId;
use crate::store::engine::{
    Commit, CommitError, EngineError, Health, Receipt, Revision, Rows, Scan, Snapshot,
    SnapshotError, Urgency,
};

/// Lets a number of commits through and refuses all that follow, as if the process had died.
#[derive(Debug)]
struct Mortal {
    inner: Arc<MemoryEngine>,
    left: AtomicI64,
}

#[async_trait]
impl Engine for Mortal {
    async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.inner.get(key).await
    }

    async fn get_many(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, EngineError> {
        self.inner.get_many(keys).await
    }

    async fn range(&self, scan: Scan) -> Result<Rows, EngineError> {
        self.inner.range(scan).await
    }

    async fn submit(&self, commit: Commit, urgency: Urgency) -> Result<Receipt, CommitError> {
        if self.left.fetch_sub(1, Ordering::SeqCst) <= 0 {
            return Err(EngineError::Closed.into());
        }
        self.inner.submit(commit, urgency).await
    }

    async fn watch(&self, stream: Bytes) -> Result<watch::Receiver<Revision>, EngineError> {
        self.inner.watch(stream).await
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, SnapshotError> {
        self.inner.snapshot().await
    }

    fn health(&self) -> Health {
        self.inner.health()
    }

    async fn close(&self) -> Result<(), EngineError> {
        self.inner.close().await
    }
}

const BODY: BodyHash = BodyHash([7; 32]);

fn request() -> RequestId {
    RequestId(uuid::Uuid::from_u128(1))
}

async fn remember<T: 'static>(world: &World) -> Remember<T> {
    let requests = world.default().await.requests();
    Remember::new(requests, request(), BODY, |_| b"answer".to_vec())
}

/// Runs `mutate` in daemons that die after one commit more each time, until one lives to the end. After
/// each, over what it left: `changed` says whether the change was made; it was exactly if the answer is
/// remembered.
async fn die_everywhere(
    prepare: impl AsyncFn(&World),
    mutate: impl AsyncFn(&World) -> bool,
    changed: impl AsyncFn(&World) -> bool,
) {
    let mut made = Vec::new();
    for commits in 0.. {
        let rows = Arc::new(MemoryEngine::new());
        prepare(&World::on(Arc::clone(&rows) as _).await).await;
        let mortal = Arc::new(Mortal {
            inner: Arc::clone(&rows),
            left: AtomicI64::new(i64::MAX),
        });
        let world = World::on(Arc::clone(&mortal) as _).await;
        mortal.left.store(commits, Ordering::SeqCst);
        let lived = mutate(&world).await;
        let after = World::on(rows as _).await;
        let requests = after.default().await.requests();
        let answer = requests.recall(request(), BODY).await.unwrap();
        let is_changed = changed(&after).await;
        assert_eq!(is_changed, answer.is_some(), "after {commits} commits");
        made.push(is_changed);
        if lived {
            break;
        }
    }
    assert_eq!((made.first(), made.last()), (Some(&false), Some(&true)));
}

async fn nothing(_: &World) {}

#[tokio::test]
async fn a_session_and_its_answer_are_one() {
    die_everywhere(
        nothing,
        async |world| {
            let sessions = world.default().await.sessions();
            let answer = remember(world).await;
            sessions
                .create_once(new_session("line"), answer)
                .await
                .is_ok()
        },
        async |world| {
            let id = SessionId::new("line").unwrap();
            world.default().await.sessions().get(&id).await.is_ok()
        },
    )
    .await;
}

#[tokio::test]
async fn a_deleted_session_and_its_answer_are_one() {
    die_everywhere(
        async |world| {
            world.session("line").await;
        },
        async |world| {
            let sessions = world.default().await.sessions();
            let id = SessionId::new("line").unwrap();
            let answer = remember(world).await;
            sessions.delete_once(&id, None, &answer).await.is_ok()
        },
        async |world| {
            let id = SessionId::new("line").unwrap();
            world.default().await.sessions().get(&id).await.is_err()
        },
    )
    .await;
}

#[tokio::test]
async fn a_subscription_and_its_answer_are_one() {
    let id = SubscriptionId::new("crm").unwrap();
    die_everywhere(
        nothing,
        async |world| {
            let subscriptions = world.default().await.subscriptions();
            let answer = remember(world).await;
            let config = SubscriptionConfig::default();
            subscriptions
                .create_once(&id, &config, StartAt::Oldest, answer)
                .await
                .is_ok()
        },
        async |world| world.default().await.subscriptions().get(&id).await.is_ok(),
    )
    .await;
}

#[tokio::test]
async fn dead_letters_that_are_put_back_and_the_answer_are_one() {
    let id = SubscriptionId::new(DEFAULT_SUBSCRIPTION).unwrap();
    let progress = async |world: &World| {
        let subscriptions = world.default().await.subscriptions();
        subscriptions.progress(&id).await.unwrap()
    };
    let newest = async |world: &World| world.default().await.journal().size().await.unwrap().newest;
    die_everywhere(
        async |world| {
            let session = world.session("line").await;
            for n in ["1", "2"] {
                append(&session, inbound(&person("15550001", None), n, n, NOW)).await;
            }
            for revision in [1, 2] {
                let progress = progress(world).await;
                progress.bury(revision, "MAX_ATTEMPTS", 3).await.unwrap();
            }
        },
        async |world| {
            let answer = remember(world).await;
            progress(world)
                .await
                .redrive_once(None, &answer)
                .await
                .is_ok()
        },
        async |world| {
            let dead = progress(world).await;
            let dead = dead.dead_letters(&PageRequest::default()).await.unwrap();
            let copied = newest(world).await > 2;
            assert_eq!(dead.items.is_empty(), copied, "both or neither");
            assert!([2, 4].contains(&newest(world).await));
            copied
        },
    )
    .await;
}

#[tokio::test]
async fn a_workspace_and_its_answer_are_one() {
    let id = WorkspaceId::new("shop").unwrap();
    die_everywhere(
        nothing,
        async |world| {
            let answer = remember(world).await;
            world
                .store
                .create_workspace_once(&id, "", answer)
                .await
                .is_ok()
        },
        async |world| {
            let Ok(shop) = world.store.workspace(&id).await else {
                return false;
            };
            let default = SubscriptionId::new(DEFAULT_SUBSCRIPTION).unwrap();
            shop.subscriptions().get(&default).await.unwrap();
            true
        },
    )
    .await;
}

#[tokio::test]
async fn a_token_and_its_answer_are_one() {
    die_everywhere(
        nothing,
        async |world| {
            let answer = remember(world).await;
            let tokens = world.store.tokens();
            let kind = TokenKind::Administrator;
            tokens.create_once(kind, "", &answer).await.is_ok()
        },
        async |world| !world.store.tokens().list().is_empty(),
    )
    .await;
}

#[tokio::test]
async fn a_revocation_and_its_answer_are_one() {
    die_everywhere(
        async |world| {
            let tokens = world.store.tokens();
            tokens.create(TokenKind::Administrator, "").await.unwrap();
        },
        async |world| {
            let tokens = world.store.tokens();
            let answer = remember(world).await;
            let id = tokens.list()[0].id;
            tokens.revoke_once(id, &answer).await.is_ok()
        },
        async |world| world.store.tokens().list().is_empty(),
    )
    .await;
}

#[tokio::test]
async fn an_answer_remembered_elsewhere_stops_the_change() {
    let world = World::new().await;
    let workspace = world.default().await;
    let requests = workspace.requests();
    let earlier = Bytes::from_static(b"earlier");
    requests.remember(request(), BODY, earlier).await.unwrap();
    let answer = remember(&world).await;
    let refused = workspace
        .sessions()
        .create_once(new_session("line"), answer)
        .await;
    assert_eq!(refused, Err(CreateError::Store(StoreError::Contended)));
    let id = SessionId::new("line").unwrap();
    assert!(workspace.sessions().get(&id).await.is_err());
}
