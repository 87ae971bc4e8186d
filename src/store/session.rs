//! One session's part of the store.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::engine::{Commit, Fence, RowError, UpdateFn, Urgency};
use super::errors::{LookupError, StoreError};
use super::evaluate::counter;
use super::key::Kind;
use super::keyspace::{Deferred, KIND_COUNT, KeySpace, SharedDeferred};
use super::media::MediaStore;
use super::outbox::Outbox;
use super::scope::Scope;
use super::sessions::SessionRecord;
use super::workspace::WorkspaceStore;
use crate::domain::ids::{SessionId, SessionName};

struct Inner {
    workspace: WorkspaceStore,
    id: SessionId,
    scope: Scope,
    deferred: SharedDeferred,
    /// The epoch of the owner in this process; 0 before the first claim. The stored epoch is the
    /// authority, this one spares a stale owner the trip.
    epoch: AtomicU64,
    /// The session was deleted: a handle that is still around must not bring rows of it back.
    gone: AtomicBool,
}

/// A session's part of the store: its keys, its outbox, its share of the journal. Cheap to clone; all
/// clones share what is deferred.
#[derive(Clone)]
pub struct SessionStore {
    inner: Arc<Inner>,
    /// What this handle owns; `None` for handles that only look or write on behalf of the API.
    held: Option<u64>,
}

impl fmt::Debug for SessionStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionStore({})", self.name())
    }
}

impl SessionStore {
    pub(super) fn new(workspace: WorkspaceStore, id: SessionId, scope: Scope) -> Self {
        Self {
            inner: Arc::new(Inner {
                workspace,
                id,
                scope,
                deferred: SharedDeferred::default(),
                epoch: AtomicU64::new(0),
                gone: AtomicBool::new(false),
            }),
            held: None,
        }
    }

    /// The session's full name.
    pub fn name(&self) -> SessionName {
        SessionName::new(self.inner.workspace.id().clone(), self.inner.id.clone())
    }

    /// The workspace it belongs to.
    pub fn workspace(&self) -> &WorkspaceStore {
        &self.inner.workspace
    }

    /// Reads the session's record.
    ///
    /// # Errors
    /// [`LookupError::NotFound`] when it was deleted meanwhile.
    pub async fn record(&self) -> Result<SessionRecord, LookupError> {
        self.inner.workspace.sessions().get(&self.inner.id).await
    }

    /// How often the store was restored. What may be used only once, such as the keys of a Signal session,
    /// must not be used in a later generation than the one it was made in: the store it was restored from
    /// may have gone on using it.
    pub fn generation(&self) -> u64 {
        self.inner.workspace.0.context.generation
    }

    /// The provider's key space.
    pub fn keys(&self) -> KeySpace {
        KeySpace::new(self.clone())
    }

    /// The session's uploaded files; `None` in a store that keeps none.
    pub fn media(&self) -> Option<MediaStore> {
        let files = self.inner.workspace.0.context.media.clone()?;
        Some(MediaStore::new(self.clone(), files))
    }

    /// The session's outbox.
    pub fn outbox(&self) -> Outbox {
        Outbox::new(self.clone())
    }

    /// Takes the session over: the handle returned is its owner, and every write through the handle of
    /// an earlier owner is refused with [`StoreError::Fenced`] from now on. What an earlier owner
    /// deferred is kept.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn claim(&self) -> Result<Self, StoreError> {
        let mut deferred = self.inner.deferred.lock().await;
        if self.inner.gone.load(Ordering::SeqCst) {
            return Err(StoreError::Gone);
        }
        let key = self.inner.scope.key(Kind::SessionOwner).finish();
        let (tx, rx) = tokio::sync::oneshot::channel();
        let update: UpdateFn = Box::new(move |current| {
            let epoch = counter(current).map_err(|error| RowError(error.to_string()))? + 1;
            // The receiver lives until the commit is answered.
            let _ = tx.send(epoch);
            Ok(Some(epoch.to_be_bytes().to_vec().into()))
        });
        let commit = Commit {
            update: vec![(key, update)],
            ..Commit::default()
        };
        let engine = &self.inner.scope.engine;
        deferred.flush(&**engine, None).await?;
        engine.submit(commit, Urgency::Durable).await?.await?;
        let epoch = rx.await.map_err(|_| StoreError::Closed)?;
        self.inner.epoch.store(epoch, Ordering::SeqCst);
        Ok(Self {
            inner: Arc::clone(&self.inner),
            held: Some(epoch),
        })
    }

    /// The fence that this handle's writes carry.
    pub(super) fn fence(&self) -> Option<Fence> {
        self.held.map(|epoch| Fence {
            key: self.inner.scope.key(Kind::SessionOwner).finish(),
            epoch,
        })
    }

    /// From now on every handle of this session is refused, and what it deferred is dropped.
    pub(super) async fn retire(&self) {
        let mut deferred = self.inner.deferred.lock().await;
        self.inner.gone.store(true, Ordering::SeqCst);
        deferred.clear();
    }

    /// Refuses a handle that is known to have lost its session.
    pub(super) fn check_owner(&self) -> Result<(), StoreError> {
        if self.inner.gone.load(Ordering::SeqCst) {
            return Err(StoreError::Gone);
        }
        let current = self.inner.epoch.load(Ordering::SeqCst);
        match self.held {
            Some(held) if held != current => Err(StoreError::Fenced { held, current }),
            _ => Ok(()),
        }
    }

    pub(super) fn id(&self) -> &SessionId {
        &self.inner.id
    }

    pub(super) fn number(&self) -> u64 {
        self.inner.scope.sealer.session()
    }

    pub(super) fn scope(&self) -> &Scope {
        &self.inner.scope
    }

    pub(super) fn deferred(&self) -> &tokio::sync::Mutex<Deferred> {
        &self.inner.deferred
    }
}

/// Every kind whose rows belong to one session and go with it.
pub(super) fn owned_kinds() -> impl Iterator<Item = u8> {
    // Credentials first: a crash half-way must not leave a session that looks paired.
    let keys = (0..KIND_COUNT).map(|kind| Kind::Keys as u8 | kind);
    keys.chain([
        Kind::SessionOwner as u8,
        Kind::OutboxOpen as u8,
        Kind::OutboxStanza as u8,
        Kind::Outbox as u8,
        Kind::OutboxNumbers as u8,
        Kind::Media as u8,
    ])
}
