//! The store as a whole: opening, workspaces, the fleet, upkeep.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use dashmap::DashMap;
use prost::Message;
use thiserror::Error;

use super::audit::Audit;
use super::engine::{Commit, Engine, Expectation, Health, Scan, Urgency};
use super::errors::{CreateError, StoreError};
use super::guard::{ClockGuard, ClockRow};
use super::key::{KeyBuilder, Kind, SYSTEM, trailing_u64};
use super::keyring::{Keks, UnwrapError, WorkspaceKeys};
use super::media::{MediaOptions, Shelf};
use super::migrate::{self, FORMAT, FormatMark};
use super::ownership;
use super::page::{PageRequest, PageToken};
use super::scope::Scope;
use super::seal::Sealer;
use super::session::SessionStore;
use super::sweeper::{self, Swept};
use super::tokens::Tokens;
use super::workspace::{Context, WorkspaceRow, WorkspaceStore, stored_id};
use crate::domain::clock::{Clock, Entropy, Timestamp};
use crate::domain::ids::WorkspaceId;

/// What the store is opened with.
#[derive(Debug)]
pub struct StoreOptions {
    /// Where rows live.
    pub engine: Arc<dyn Engine>,
    /// What wraps the workspaces' keys.
    pub keks: Keks,
    /// Wall time.
    pub clock: Arc<dyn Clock>,
    /// Randomness for keys and ids.
    pub entropy: Entropy,
    /// The release that opens it, for the format mark.
    pub release: String,
    /// How uploaded files are kept; `None` takes none.
    pub media: Option<MediaOptions>,
}

/// Why the store did not open.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OpenError {
    /// The key encryption key is not the one this store was made with.
    #[error(transparent)]
    Kek(#[from] UnwrapError),
    /// It was handed over: another machine runs its sessions.
    #[error(
        "this store was handed over on {} by `trunkline backup --hand-over`: its sessions belong to the daemon that was restored from that backup; if the backup was never restored anywhere, `trunkline restore --take-back` makes this store usable again",
        moment(*at)
    )]
    HandedOver {
        /// When.
        at: Timestamp,
    },
    /// It was written by a newer release, is damaged, or cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// For people: `Sat, 21 Nov 2026 17:10:18 GMT`.
fn moment(at: Timestamp) -> String {
    let since = std::time::Duration::from_millis(at.0);
    httpdate::fmt_http_date(std::time::UNIX_EPOCH + since)
}

/// What a store is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// To run its sessions.
    Run,
    /// To copy or to change it.
    Rest,
}

pub(super) struct Inner {
    pub(super) context: Context,
    pub(super) system: Scope,
    pub(super) keks: RwLock<Arc<Keks>>,
    pub(super) workspaces: DashMap<WorkspaceId, WorkspaceStore>,
    pub(super) tokens: Tokens,
    pub(super) rotation: tokio::sync::Mutex<()>,
}

/// The store. Cheap to clone.
#[derive(Clone)]
pub struct Store(pub(super) Arc<Inner>);

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Store")
    }
}

/// A place in the fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetCursor {
    workspace: u64,
    session: Option<PageToken>,
}

pub(super) fn system_key(kind: Kind) -> KeyBuilder {
    KeyBuilder::new(SYSTEM, kind as u8, 0)
}

pub(super) fn wrapped_key(workspace: u64) -> bytes::Bytes {
    system_key(Kind::WrappedKeys).u64(workspace).finish()
}

impl Store {
    /// Opens the store: refuses a newer format, migrates an older one, makes a fresh one if there is
    /// nothing yet, finishes deletions that a crash interrupted. The workspace `default` and its
    /// subscription `default` exist afterwards.
    ///
    /// # Errors
    /// [`OpenError`] says what is wrong and what to do.
    pub async fn open(options: StoreOptions) -> Result<Self, OpenError> {
        Self::open_as(options, Purpose::Run).await
    }

    /// Like [`Self::open`], for whoever does not run sessions: also a store that was handed over.
    ///
    /// # Errors
    /// [`OpenError`] says what is wrong and what to do.
    pub async fn open_at_rest(options: StoreOptions) -> Result<Self, OpenError> {
        Self::open_as(options, Purpose::Rest).await
    }

    async fn open_as(options: StoreOptions, purpose: Purpose) -> Result<Self, OpenError> {
        let engine = Arc::clone(&options.engine);
        let mut context = Context {
            guard: Arc::new(ClockGuard::new(&*options.clock, None)),
            engine: options.engine,
            clock: options.clock,
            entropy: options.entropy,
            generation: 0,
            media: options.media.map(|media| Arc::new(Shelf::new(media))),
        };
        let engine = &*engine;
        if migrate::read_mark(engine).await?.is_none() {
            initialise(&context, &options.keks, &options.release).await?;
        }
        migrate::bring_forward(engine, FORMAT, &options.release, &[]).await?;

        let wrapped = engine
            .get(&wrapped_key(SYSTEM))
            .await
            .map_err(StoreError::from)?;
        let wrapped =
            wrapped.ok_or_else(|| StoreError::Damaged("its own keys are missing".into()))?;
        let keys = options.keks.unwrap(SYSTEM, &wrapped)?;
        let sealer = Sealer::new(SYSTEM, 0, Arc::new(keys)).map_err(StoreError::from)?;
        let system = Scope {
            engine: Arc::clone(&context.engine),
            sealer: Arc::new(sealer),
        };
        let ownership = ownership::read(&system).await?;
        if let (Purpose::Run, Some(at)) = (purpose, ownership.handed_over_at) {
            return Err(OpenError::HandedOver { at: Timestamp(at) });
        }
        context.generation = ownership.generation;
        let last: Option<ClockRow> = system.get(&clock_key()).await?;
        let last = last.map(|row| Timestamp(row.at));
        context.guard = Arc::new(ClockGuard::new(&*context.clock, last));
        let tokens = Tokens::load(context.clone(), system.clone()).await?;
        let store = Self(Arc::new(Inner {
            context,
            system,
            keks: RwLock::new(Arc::new(options.keks)),
            workspaces: DashMap::new(),
            tokens,
            rotation: tokio::sync::Mutex::new(()),
        }));
        store.resume().await?;
        if purpose == Purpose::Run {
            store.tidy_media().await?;
        }
        store.deleting_now().await?;
        Ok(store)
    }

    /// Wall time, if it may delete; kept for the next run.
    async fn deleting_now(&self) -> Result<Option<Timestamp>, StoreError> {
        let Some(now) = self.0.context.deleting_now() else {
            return Ok(None);
        };
        if self.0.context.guard.is_due(now) {
            let key = clock_key();
            let sealed = self.0.system.seal(&key, &ClockRow { at: now.0 })?;
            let commit = Commit {
                put: vec![(key, sealed)],
                ..Commit::default()
            };
            self.0.context.engine.submit(commit, Urgency::Lazy).await?;
        }
        Ok(Some(now))
    }

    async fn resume(&self) -> Result<(), StoreError> {
        let default = WorkspaceId::default_workspace();
        match self.create_workspace(&default, "").await {
            Ok(_) | Err(CreateError::AlreadyExists { .. }) => {}
            Err(CreateError::Store(error)) => return Err(error),
        }
        let marks = system_key(Kind::Purge).prefix();
        let engine = &self.0.context.engine;
        let page = engine.range(Scan::prefix(&marks, 1_000)).await?;
        for (key, _) in page.rows {
            if let Some(number) = trailing_u64(&key) {
                self.purge_workspace(number).await?;
            }
        }
        for row in self.all_workspaces().await? {
            match self.resume_one(&row).await {
                Err(error @ StoreError::Damaged(_)) => {
                    tracing::error!(workspace = row.id, %error, "a workspace cannot be opened");
                }
                done => done?,
            }
        }
        Ok(())
    }

    async fn resume_one(&self, row: &WorkspaceRow) -> Result<(), StoreError> {
        let id = stored_id(WorkspaceId::new(row.id.clone()))?;
        let workspace = self.open_workspace(&id, row.number).await?;
        workspace.resume_purges().await?;
        workspace.subscriptions().ensure_default().await
    }

    /// Removes files that a crash left without their rows. What cannot be removed stays, and is said.
    async fn tidy_media(&self) -> Result<(), StoreError> {
        let Some(files) = self.0.context.media.clone() else {
            return Ok(());
        };
        let looking = Arc::clone(&files);
        let found = tokio::task::spawn_blocking(move || looking.tidy())
            .await
            .map_err(|error| StoreError::Io(error.to_string()))?;
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                tracing::error!(%error, "the directory of uploaded files cannot be read");
                return Ok(());
            }
        };
        for file in found {
            let key = KeyBuilder::new(file.workspace, Kind::Media as u8, file.session)
                .uuid(file.id)
                .finish();
            if self.0.context.engine.get(&key).await?.is_none()
                && let Err(error) = files.remove(&file)
            {
                tracing::warn!(%error, "an uploaded file without a row cannot be removed");
            }
        }
        Ok(())
    }

    /// How the engine is doing; cheap. For readiness, the watchdog and metrics.
    pub fn health(&self) -> Health {
        self.0.context.engine.health()
    }

    /// Bearer tokens.
    pub fn tokens(&self) -> &Tokens {
        &self.0.tokens
    }

    /// The audit log.
    pub fn audit(&self) -> Audit {
        Audit::new(self.0.context.clone(), self.0.system.clone())
    }

    /// Makes everything written so far durable, what sessions deferred included, and closes the store
    /// for good. The files are free once the last handle is gone.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn close(&self) -> Result<(), StoreError> {
        let workspaces: Vec<_> = self
            .0
            .workspaces
            .iter()
            .map(|w| w.value().clone())
            .collect();
        for workspace in workspaces {
            workspace.release_sessions().await?;
        }
        self.0.workspaces.clear();
        Ok(self.0.context.engine.close().await?)
    }

    pub(super) async fn all_workspaces(&self) -> Result<Vec<WorkspaceRow>, StoreError> {
        let mut all = Vec::new();
        let mut scan = Scan::prefix(&system_key(Kind::Workspace).prefix(), 1_000);
        loop {
            let (rows, more) = self.0.system.scan::<WorkspaceRow>(scan.clone()).await?;
            if let Some((last, _)) = rows.last() {
                scan = scan.after(last);
            }
            all.extend(rows.into_iter().map(|(_, row)| row));
            if !more {
                return Ok(all);
            }
        }
    }

    pub(super) async fn open_workspace(
        &self,
        id: &WorkspaceId,
        number: u64,
    ) -> Result<WorkspaceStore, StoreError> {
        if let Some(known) = self.0.workspaces.get(id) {
            return Ok(known.clone());
        }
        let wrapped = self.0.context.engine.get(&wrapped_key(number)).await?;
        let wrapped =
            wrapped.ok_or_else(|| StoreError::Damaged("a workspace's keys are missing".into()))?;
        let keys = {
            let ring = self.0.keks.read().unwrap_or_else(PoisonError::into_inner);
            ring.unwrap(number, &wrapped)?
        };
        let fresh = WorkspaceStore::new(id.clone(), number, self.0.context.clone(), keys)?;
        // Two callers may have built one at the same time; all must share one, for its locks.
        let shared = self.0.workspaces.entry(id.clone()).or_insert(fresh);
        Ok(shared.clone())
    }

    /// Goes through all sessions of all workspaces, page by page, for restore at boot: scoped handles,
    /// never raw data. `None` starts; the cursor returned goes on; no cursor means the end.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn fleet(
        &self,
        cursor: Option<FleetCursor>,
        size: usize,
    ) -> Result<(Vec<SessionStore>, Option<FleetCursor>), StoreError> {
        let mut at = cursor.unwrap_or(FleetCursor {
            workspace: 0,
            session: None,
        });
        loop {
            let mut scan = Scan::prefix(&system_key(Kind::Workspace).prefix(), 2);
            scan.start = Self::row_key(at.workspace);
            let (rows, _) = self.0.system.scan::<WorkspaceRow>(scan).await?;
            let mut rows = rows.into_iter().map(|(_, row)| row);
            let Some(row) = rows.next() else {
                return Ok((Vec::new(), None));
            };
            if row.number != at.workspace {
                at.session = None;
            }
            let following = rows.next().map(|row| FleetCursor {
                workspace: row.number,
                session: None,
            });
            let id = stored_id(WorkspaceId::new(row.id))?;
            let workspace = match self.open_workspace(&id, row.number).await {
                Ok(workspace) => workspace,
                // Reported when the store was opened; the others go on without it.
                Err(StoreError::Damaged(_)) => match following {
                    Some(cursor) => {
                        at = cursor;
                        continue;
                    }
                    None => return Ok((Vec::new(), None)),
                },
                Err(error) => return Err(error),
            };
            let request = PageRequest {
                size,
                after: at.session.take(),
            };
            let (records, next) = workspace.sessions().page(&request).await?;
            let mut sessions = Vec::with_capacity(records.len());
            for (number, record) in records {
                sessions.push(workspace.session_handle(&record.name.session, number)?);
            }
            let next = match next {
                Some(token) => Some(FleetCursor {
                    workspace: row.number,
                    session: Some(token),
                }),
                None => following,
            };
            match next {
                Some(cursor) if sessions.is_empty() => at = cursor,
                next => return Ok((sessions, next)),
            }
        }
    }

    /// Removes what has expired, in every workspace; nothing while the clock is in doubt. A workspace
    /// that cannot be swept is reported and does not hold up the others. Run every few minutes.
    ///
    /// # Errors
    /// Only when the store fails as a whole.
    pub async fn sweep(&self) -> Result<Swept, StoreError> {
        let mut total = Swept::default();
        let Some(now) = self.deleting_now().await? else {
            return Ok(total);
        };
        for row in self.all_workspaces().await? {
            match self.sweep_one(&row, now).await {
                Ok(swept) => total.add(swept),
                Err(error @ (StoreError::Closed | StoreError::Io(_))) => return Err(error),
                Err(error) => {
                    tracing::error!(workspace = row.id, %error, "a workspace cannot be swept");
                }
            }
        }
        Ok(total)
    }

    async fn sweep_one(&self, row: &WorkspaceRow, now: Timestamp) -> Result<Swept, StoreError> {
        let id = stored_id(WorkspaceId::new(row.id.clone()))?;
        let workspace = self.open_workspace(&id, row.number).await?;
        sweeper::sweep(&workspace, now).await
    }
}

pub(super) fn purge_key(number: u64) -> bytes::Bytes {
    system_key(Kind::Purge).u64(number).finish()
}

fn clock_key() -> bytes::Bytes {
    system_key(Kind::Clock).finish()
}

pub(super) fn rotation_key() -> bytes::Bytes {
    system_key(Kind::RotationOwed).finish()
}

/// Writes the format mark and the store's own keys, in one commit.
async fn initialise(context: &Context, ring: &Keks, release: &str) -> Result<(), StoreError> {
    let keys = WorkspaceKeys::generate(&context.entropy);
    let mark = FormatMark {
        format: FORMAT,
        release: release.to_owned(),
    };
    let commit = Commit {
        expect: vec![(migrate::mark_key(), Expectation::Absent)],
        put: vec![
            (migrate::mark_key(), mark.encode_to_vec().into()),
            (wrapped_key(SYSTEM), ring.wrap(SYSTEM, &keys)?),
        ],
        ..Commit::default()
    };
    context.engine.commit(commit).await?;
    Ok(())
}
