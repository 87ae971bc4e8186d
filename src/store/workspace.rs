//! One workspace: the handle everything of a tenant is reached through.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use dashmap::{DashMap, Entry};
use prost::Message;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::engine::{Engine, Scan, Version};
use super::errors::{LookupError, StoreError};
use super::guard::ClockGuard;
use super::journal::Journal;
use super::key::{KeyBuilder, Kind, trailing_u64};
use super::keyring::WorkspaceKeys;
use super::media::Shelf;
use super::migrate::first_version;
use super::requests::Requests;
use super::scope::Scope;
use super::seal::Sealer;
use super::session::SessionStore;
use super::sessions::Sessions;
use super::subscriptions::Subscriptions;
use super::usage::Usage;
use crate::domain::clock::{Clock, Entropy, Timestamp};
use crate::domain::ids::{SessionId, SubscriptionId, WorkspaceId};
use crate::domain::workspace::Workspace;

/// What every part of the store needs besides its rows.
#[derive(Debug, Clone)]
pub(super) struct Context {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) entropy: Entropy,
    pub(super) guard: Arc<ClockGuard>,
    /// How often the store was restored; see [`super::ownership`].
    pub(super) generation: u64,
    /// Where uploaded files lie.
    pub(super) media: Option<Arc<Shelf>>,
}

impl Context {
    /// Wall time, if it may delete.
    pub(super) fn deleting_now(&self) -> Option<Timestamp> {
        self.guard.now(&*self.clock)
    }
}

/// A workspace as stored.
#[derive(Clone, PartialEq, Message)]
pub(super) struct WorkspaceRow {
    #[prost(uint64, tag = "1")]
    pub(super) number: u64,
    #[prost(string, tag = "2")]
    pub(super) id: String,
    #[prost(string, tag = "3")]
    pub(super) display_name: String,
    #[prost(uint64, tag = "4")]
    pub(super) created_at: u64,
}
first_version!(WorkspaceRow, "workspace");

impl WorkspaceRow {
    pub(super) fn to_domain(&self, version: Version) -> Result<Workspace, StoreError> {
        Ok(Workspace {
            id: stored_id(WorkspaceId::new(self.id.clone()))?,
            display_name: self.display_name.clone(),
            created_at: Timestamp(self.created_at),
            etag: etag(version),
            full: false,
        })
    }
}

/// The etag of a row: clients give it back unread.
pub(super) fn etag(version: Version) -> String {
    hex::encode(version.0)
}

/// An id that was valid when it was written.
pub(super) fn stored_id<T>(id: Result<T, crate::domain::ids::IdError>) -> Result<T, StoreError> {
    id.map_err(|error| StoreError::Damaged(error.to_string()))
}

/// The shared part of a workspace's handles.
pub(super) struct Inner {
    pub(super) id: WorkspaceId,
    pub(super) number: u64,
    pub(super) context: Context,
    pub(super) keys: Arc<WorkspaceKeys>,
    /// Workspace-level rows.
    pub(super) root: Scope,
    /// Handles already built, so that keys are derived once and all handles of a session share what it
    /// deferred. Grows with the sessions that exist. Each holds this workspace in turn, until
    /// [`WorkspaceStore::release_sessions`].
    pub(super) sessions: DashMap<SessionId, SessionStore>,
    /// Cancelled when the workspace has been deleted: what reads it must end.
    pub(super) gone: CancellationToken,
    /// Whether the journal is above its size limit and cannot be made smaller.
    pub(super) full: watch::Sender<bool>,
    /// The size limit under which the last [`WorkspaceStore::enforce`] left no room; 0 when it left some.
    pub(super) full_under: AtomicU64,
    /// One lock per subscription: its rows are read, changed and written back.
    pub(super) subscription_locks: DashMap<SubscriptionId, Arc<tokio::sync::Mutex<()>>>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Workspace({})", self.id)
    }
}

/// A workspace's part of the store. Cheap to clone. Nothing of another workspace can be reached from
/// it, and what it reads opens only with this workspace's keys.
#[derive(Debug, Clone)]
pub struct WorkspaceStore(pub(super) Arc<Inner>);

impl WorkspaceStore {
    pub(super) fn new(
        id: WorkspaceId,
        number: u64,
        context: Context,
        keys: WorkspaceKeys,
    ) -> Result<Self, StoreError> {
        let keys = Arc::new(keys);
        let root = Scope {
            engine: Arc::clone(&context.engine),
            sealer: Arc::new(Sealer::new(number, 0, Arc::clone(&keys))?),
        };
        Ok(Self(Arc::new(Inner {
            id,
            number,
            context,
            keys,
            root,
            sessions: DashMap::new(),
            gone: CancellationToken::new(),
            full: watch::Sender::new(false),
            full_under: AtomicU64::new(0),
            subscription_locks: DashMap::new(),
        })))
    }

    /// The workspace's id.
    pub fn id(&self) -> &WorkspaceId {
        &self.0.id
    }

    /// Cancelled when the workspace has been deleted.
    pub fn gone(&self) -> &CancellationToken {
        &self.0.gone
    }

    /// Whether the journal is above the size limit that was last enforced, although everything that
    /// is confirmed has gone. Not stored: the first [`Self::enforce`] after a start finds it again.
    pub fn full(&self) -> watch::Receiver<bool> {
        self.0.full.subscribe()
    }

    /// The session records.
    pub fn sessions(&self) -> Sessions {
        Sessions::new(self.clone())
    }

    /// One session's part of the store.
    ///
    /// # Errors
    /// [`LookupError::NotFound`] when this workspace has no such session.
    pub async fn session(&self, id: &SessionId) -> Result<SessionStore, LookupError> {
        if let Some(known) = self.0.sessions.get(id) {
            return Ok(known.clone());
        }
        let number = self.sessions().number_of(id).await?;
        let handle = self.session_handle(id, number)?;
        // A deletion in between has let go of the handle it found, not of this one.
        match self.sessions().number_of(id).await {
            Ok(current) if current == number => Ok(handle),
            Err(LookupError::Store(error)) => Err(error.into()),
            _ => {
                self.0
                    .sessions
                    .remove_if(id, |_, known| known.number() == number);
                handle.retire().await;
                Err(StoreError::Gone.into())
            }
        }
    }

    /// The handle of a session whose number is known.
    pub(super) fn session_handle(
        &self,
        id: &SessionId,
        number: u64,
    ) -> Result<SessionStore, StoreError> {
        // All callers must share one handle, for what it defers and for its epoch.
        let place = match self.0.sessions.entry(id.clone()) {
            Entry::Occupied(known) if known.get().number() == number => {
                return Ok(known.get().clone());
            }
            // Deleted and created anew since the number was read.
            Entry::Occupied(known) if known.get().number() > number => {
                return Err(StoreError::Gone);
            }
            place => place,
        };
        let sealer = Sealer::new(self.0.number, number, Arc::clone(&self.0.keys))?;
        let scope = Scope {
            engine: Arc::clone(&self.0.context.engine),
            sealer: Arc::new(sealer),
        };
        let handle = SessionStore::new(self.clone(), id.clone(), scope);
        place.insert(handle.clone());
        Ok(handle)
    }

    /// The workspace's event journal.
    pub fn journal(&self) -> Journal {
        Journal::new(self.clone())
    }

    /// The workspace's subscriptions. `default` always exists.
    pub fn subscriptions(&self) -> Subscriptions {
        Subscriptions::new(self.clone())
    }

    /// Daily usage counters.
    pub fn usage(&self) -> Usage {
        Usage::new(self.clone())
    }

    /// Remembered answers, for idempotent mutations.
    pub fn requests(&self) -> Requests {
        Requests::new(self.clone())
    }

    /// Finishes deletions of sessions that a crash interrupted. Run once at open.
    pub(super) async fn resume_purges(&self) -> Result<(), StoreError> {
        let prefix = self.0.root.prefix(Kind::Purge);
        let page = self
            .0
            .context
            .engine
            .range(Scan::prefix(&prefix, 1_000))
            .await?;
        let pending: BTreeSet<u64> = page
            .rows
            .iter()
            .filter_map(|(key, _)| trailing_u64(key))
            .collect();
        for number in pending {
            self.sessions().purge(number).await?;
        }
        Ok(())
    }

    /// Writes what sessions deferred and lets go of their handles.
    pub(super) async fn release_sessions(&self) -> Result<(), StoreError> {
        let sessions: Vec<_> = self.0.sessions.iter().map(|s| s.value().clone()).collect();
        for session in sessions {
            session.keys().flush_deferred().await?;
        }
        self.0.sessions.clear();
        Ok(())
    }

    pub(super) fn now(&self) -> Timestamp {
        self.0.context.clock.now()
    }

    /// A key of a workspace-level row.
    pub(super) fn key(&self, kind: Kind) -> KeyBuilder {
        self.0.root.key(kind)
    }

    pub(super) fn journal_head(&self) -> Bytes {
        self.key(Kind::JournalHead).finish()
    }
}
