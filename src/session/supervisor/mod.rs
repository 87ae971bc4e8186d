//! The supervisor: every session of the process, and the only one that may make them connect.
//!
//! Cheap to clone. `api` writes the store and nudges; commands go to a session's mailbox and are
//! answered when their effects are durable. No guard of the registry is held across an await.

mod asking;
mod fleetwide;
mod messages;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

pub use self::fleetwide::{FleetCounts, Restored};
pub use self::messages::{CancelError, Submission, SubmitError};
use super::admission::Admission;
use super::config::SessionConfig;
use super::detached::detached;
use super::fleet::Fleet;
use super::keeper::Keeper;
use super::mailbox::{CommandError, Message, PairingUpdate, Verb};
use super::outbound::Depth;
use super::pacing::Pacing;
use super::state::{Facts, PairMode, State};
use super::status::{Cell, SessionStatus};
use crate::domain::clock::{Clock, Entropy, Timestamp};
use crate::domain::ids::{SessionName, WorkspaceId};
use crate::domain::session::{Connection, Traffic};
use crate::provider::contract::{Capabilities, Provider};
use crate::store::{
    CreateError, LookupError, NewSession, Remember, SessionRecord, SessionStore, Store, StoreError,
    UpdateError, WorkspaceStore,
};

/// What a supervisor is made of.
pub struct SupervisorOptions {
    /// The store.
    pub store: Store,
    /// The providers sessions may name.
    pub providers: Vec<Arc<dyn Provider>>,
    /// The numbers to run by; validated.
    pub config: SessionConfig,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub entropy: Entropy,
}

/// Every session of the process. See the module documentation.
#[derive(Clone)]
pub struct Supervisor(Arc<Inner>);

impl fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Supervisor({} sessions)", self.0.sessions.len())
    }
}

struct Inner {
    store: Store,
    fleet: Arc<Fleet>,
    sessions: DashMap<SessionName, Handle>,
    /// One at a time per session: create and delete.
    membership: DashMap<SessionName, Arc<tokio::sync::Mutex<()>>>,
    keepers: TaskTracker,
    services: TaskTracker,
    stop: CancellationToken,
}

#[derive(Clone)]
struct Handle {
    mailbox: mpsc::Sender<Message>,
    cell: Arc<Cell>,
}

impl Handle {
    /// A message was accepted: the sender, if there is one, counts it itself.
    fn accepted(&self, now: Timestamp) {
        self.cell.nudge.notify_one();
        let online = self.cell.status.borrow().connection == Connection::Online;
        if !online {
            self.cell.depth.send_modify(|depth| {
                depth.waiting += 1;
                depth.oldest.get_or_insert(now);
            });
        }
    }
}

/// A session could not be created.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CreateSessionError {
    /// No such provider.
    #[error("provider `{name}` does not exist: use one of {known}")]
    UnknownProvider {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// The daemon is stopping.
    #[error("the daemon is stopping")]
    Stopping,
    /// The store refused.
    #[error(transparent)]
    Create(#[from] CreateError),
}

/// A session could not be deleted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DeleteSessionError {
    /// Its connection did not end in time: try again.
    #[error("the session's connection did not end in time: try again")]
    Busy,
    /// The store refused.
    #[error(transparent)]
    Update(#[from] UpdateError),
}

/// How long an orderly end of one session may take before it is given up.
const END: Duration = Duration::from_mins(1);

impl Supervisor {
    /// A supervisor without sessions; [`Self::restore`] finds them. Starts the fleet-wide services.
    pub fn new(options: SupervisorOptions) -> Self {
        let SupervisorOptions {
            store,
            providers,
            config,
            clock,
            entropy,
        } = options;
        let admission = Admission::new(
            config.admission.clone(),
            config.breaker.clone(),
            Arc::clone(&clock),
            entropy.clone(),
        );
        let named = |provider: Arc<dyn Provider>| (provider.name().to_owned(), provider);
        let fleet = Arc::new(Fleet {
            pacing: Pacing::new(config.pacing.clone(), Arc::clone(&clock)),
            admission: Arc::clone(&admission),
            providers: providers.into_iter().map(named).collect::<BTreeMap<_, _>>(),
            config,
            clock,
            entropy,
        });
        let supervisor = Self(Arc::new(Inner {
            store,
            fleet,
            sessions: DashMap::new(),
            membership: DashMap::new(),
            keepers: TaskTracker::new(),
            services: TaskTracker::new(),
            stop: CancellationToken::new(),
        }));
        let inner = &supervisor.0;
        inner.services.spawn(admission.run(inner.stop.clone()));
        inner.services.spawn(fleetwide::measure(
            Arc::downgrade(inner),
            inner.stop.clone(),
        ));
        supervisor
    }

    /// What a provider can do; `None` when there is no such provider.
    pub fn capabilities(&self, provider: &str) -> Option<Capabilities> {
        let provider = self.0.fleet.providers.get(provider)?;
        Some(provider.capabilities())
    }

    /// The names of the providers there are.
    pub fn providers(&self) -> impl Iterator<Item = &str> {
        self.0.fleet.providers.keys().map(String::as_str)
    }

    /// Creates a session and starts its actor; unpaired, it waits for a Pair.
    ///
    /// # Errors
    /// [`CreateSessionError`] says whose fault it is.
    pub async fn create(
        &self,
        workspace: &WorkspaceStore,
        new: NewSession,
    ) -> Result<SessionRecord, CreateSessionError> {
        self.create_with(workspace, new, None).await
    }

    /// Like [`Self::create`], and remembers the answer to the request in the same commit.
    ///
    /// # Errors
    /// [`CreateSessionError`] says whose fault it is.
    pub async fn create_once(
        &self,
        workspace: &WorkspaceStore,
        new: NewSession,
        remember: Remember<SessionRecord>,
    ) -> Result<SessionRecord, CreateSessionError> {
        self.create_with(workspace, new, Some(remember)).await
    }

    async fn create_with(
        &self,
        workspace: &WorkspaceStore,
        new: NewSession,
        remember: Option<Remember<SessionRecord>>,
    ) -> Result<SessionRecord, CreateSessionError> {
        let (this, workspace) = (self.clone(), workspace.clone());
        let create = async move { this.create_whole(&workspace, new, remember).await };
        detached(create).await.ok_or(CreateSessionError::Stopping)?
    }

    async fn create_whole(
        &self,
        workspace: &WorkspaceStore,
        new: NewSession,
        remember: Option<Remember<SessionRecord>>,
    ) -> Result<SessionRecord, CreateSessionError> {
        if self.0.stop.is_cancelled() {
            return Err(CreateSessionError::Stopping);
        }
        if !self.0.fleet.providers.contains_key(&new.provider) {
            return Err(CreateSessionError::UnknownProvider {
                known: self.providers().collect::<Vec<_>>().join(", "),
                name: new.provider,
            });
        }
        let name = SessionName::new(workspace.id().clone(), new.id.clone());
        let lock = self.membership(&name);
        let _held = lock.lock().await;
        let sessions = workspace.sessions();
        let record = match remember {
            Some(remember) => sessions.create_once(new, remember).await?,
            None => sessions.create(new).await?,
        };
        let store = workspace
            .session(&name.session)
            .await
            .map_err(|error| match error {
                LookupError::Store(store) => store,
                LookupError::NotFound { what } => StoreError::Damaged(format!("{what} vanished")),
            })
            .map_err(CreateError::Store)?;
        self.adopt(store, &record, true);
        Ok(record)
    }

    /// Deletes a session with its credentials, its outbox and its keys, after its connection has ended.
    /// The provider is not told: Logout before, if the device should leave the phone's list.
    ///
    /// # Errors
    /// [`DeleteSessionError`]; an etag mismatch leaves the session as it was.
    pub async fn delete(
        &self,
        workspace: &WorkspaceStore,
        name: &SessionName,
        etag: Option<&str>,
    ) -> Result<(), DeleteSessionError> {
        self.delete_with(workspace, name, etag, None).await
    }

    /// Like [`Self::delete`], and remembers the answer to the request in the same commit.
    ///
    /// # Errors
    /// [`DeleteSessionError`]; an etag mismatch leaves the session as it was.
    pub async fn delete_once(
        &self,
        workspace: &WorkspaceStore,
        name: &SessionName,
        etag: Option<&str>,
        remember: &Remember<()>,
    ) -> Result<(), DeleteSessionError> {
        self.delete_with(workspace, name, etag, Some(remember))
            .await
    }

    async fn delete_with(
        &self,
        workspace: &WorkspaceStore,
        name: &SessionName,
        etag: Option<&str>,
        remember: Option<&Remember<()>>,
    ) -> Result<(), DeleteSessionError> {
        let (this, workspace, name) = (self.clone(), workspace.clone(), name.clone());
        let (etag, remember) = (etag.map(str::to_owned), remember.cloned());
        let delete = async move {
            this.delete_whole(&workspace, &name, etag.as_deref(), remember.as_ref())
                .await
        };
        detached(delete).await.ok_or(DeleteSessionError::Busy)?
    }

    async fn delete_whole(
        &self,
        workspace: &WorkspaceStore,
        name: &SessionName,
        etag: Option<&str>,
        remember: Option<&Remember<()>>,
    ) -> Result<(), DeleteSessionError> {
        let lock = self.membership(name);
        let held = lock.lock().await;
        let sessions = workspace.sessions();
        // Checked in a commit of its own, which makes the etag stale for everybody else: ending the
        // connection changes the record again.
        let record = sessions.update(&name.session, etag, |_| {}).await?;
        // From here on nobody reaches it.
        if let Some((_, handle)) = self.0.sessions.remove(name)
            && !end(&handle).await
        {
            self.0.sessions.insert(name.clone(), handle);
            return Err(DeleteSessionError::Busy);
        }
        let deleted = match remember {
            Some(remember) => sessions.delete_once(&name.session, None, remember).await,
            None => sessions.delete(&name.session, None).await,
        };
        if let Err(error) = deleted {
            // It stays, so somebody has to run it.
            if let Ok(store) = workspace.session(&name.session).await {
                self.adopt(store, &record, false);
            }
            return Err(error.into());
        }
        drop(held);
        self.0.membership.remove(name);
        Ok(())
    }

    /// Ends all sessions of a workspace and lets go of them; what is stored stays. For the deletion of the
    /// workspace, before the store deletes it. Returns how many did not end in time.
    pub async fn release(&self, workspace: &WorkspaceId) -> usize {
        let of_workspace: Vec<_> = self
            .0
            .sessions
            .iter()
            .filter(|entry| entry.key().workspace == *workspace)
            .map(|entry| (entry.key().clone(), entry.value().clone()))
            .collect();
        let ends = of_workspace.iter().map(|(name, handle)| async move {
            let ended = end(handle).await;
            if ended {
                self.0.sessions.remove(name);
                self.0.membership.remove(name);
            }
            ended
        });
        let ended = futures::future::join_all(ends).await;
        ended.into_iter().filter(|ended| !ended).count()
    }

    /// Keeps the session connected from now on.
    ///
    /// # Errors
    /// [`CommandError`]
    pub async fn start(&self, name: &SessionName) -> Result<SessionStatus, CommandError> {
        self.command(name, Verb::Start, None).await
    }

    /// Keeps the session disconnected from now on; credentials stay. Answers when the wish is durable;
    /// the connection may take a moment longer to end.
    ///
    /// # Errors
    /// [`CommandError`]
    pub async fn stop(&self, name: &SessionName) -> Result<SessionStatus, CommandError> {
        self.command(name, Verb::Stop, None).await
    }

    /// Disconnects if connected, then connects anew; also out of REPLACED, BANNED and FAILED.
    ///
    /// # Errors
    /// [`CommandError`]
    pub async fn restart(&self, name: &SessionName) -> Result<SessionStatus, CommandError> {
        self.command(name, Verb::Restart, None).await
    }

    /// Ends the link at the provider (best effort) and deletes the credentials.
    ///
    /// # Errors
    /// [`CommandError`]
    pub async fn logout(&self, name: &SessionName) -> Result<SessionStatus, CommandError> {
        self.command(name, Verb::Logout, None).await
    }

    /// Links a device. Dropping the receiver before the phone has accepted cancels the pairing; after
    /// that it goes on by itself. See [`PairingUpdate`] for how the stream ends.
    ///
    /// # Errors
    /// [`CommandError`]
    pub async fn pair(
        &self,
        name: &SessionName,
        mode: PairMode,
    ) -> Result<mpsc::Receiver<PairingUpdate>, CommandError> {
        let (updates, receiver) = mpsc::channel(64);
        self.ask(name, |reply| Message::Pair {
            mode,
            updates,
            reply,
        })
        .await?;
        Ok(receiver)
    }

    /// What is going on with a session; `None` when this process does not hold it.
    pub fn status(&self, name: &SessionName) -> Option<SessionStatus> {
        let handle = self.handle(name)?;
        Some(handle.cell.status(self.0.fleet.clock.now()))
    }

    /// Every change of a session's status. Traffic, queue and holds are refreshed by [`Self::status`].
    pub fn watch(&self, name: &SessionName) -> Option<watch::Receiver<SessionStatus>> {
        Some(self.handle(name)?.cell.status.subscribe())
    }

    fn handle(&self, name: &SessionName) -> Option<Handle> {
        self.0.sessions.get(name).map(|handle| handle.clone())
    }

    fn membership(&self, name: &SessionName) -> Arc<tokio::sync::Mutex<()>> {
        self.0.membership.entry(name.clone()).or_default().clone()
    }

    /// Does what `verb` asks; with an etag, only if the session's record still has it when the wish is
    /// made durable. Answers when it is, not when the connection has followed.
    ///
    /// # Errors
    /// [`CommandError`]
    pub async fn command(
        &self,
        name: &SessionName,
        verb: Verb,
        expected: Option<&str>,
    ) -> Result<SessionStatus, CommandError> {
        let expected = expected.map(str::to_owned);
        self.ask(name, |reply| Message::Command {
            verb,
            expected,
            reply,
        })
        .await
    }

    async fn ask(
        &self,
        name: &SessionName,
        message: impl FnOnce(oneshot::Sender<Result<SessionStatus, CommandError>>) -> Message,
    ) -> Result<SessionStatus, CommandError> {
        let handle = self.handle(name).ok_or(CommandError::NotFound)?;
        if self.0.stop.is_cancelled() {
            return Err(CommandError::Stopping);
        }
        let (reply, answer) = oneshot::channel();
        handle
            .mailbox
            .try_send(message(reply))
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => CommandError::Busy,
                mpsc::error::TrySendError::Closed(_) => CommandError::NotFound,
            })?;
        // No answer: the actor failed while it was at it, and is being built again.
        answer.await.unwrap_or(Err(CommandError::Busy))
    }

    /// Starts the actor of a session that is in the store, unless it runs already.
    ///
    /// `new` says that it was just made, so that its first state is announced whatever it is.
    fn adopt(&self, store: SessionStore, record: &SessionRecord, new: bool) {
        let name = record.name.clone();
        let Some(provider) = self.0.fleet.providers.get(&record.provider) else {
            tracing::error!(session = %name, provider = record.provider, "no such provider in this build");
            return;
        };
        let (mailbox, messages) = mpsc::channel(self.0.fleet.config.mailbox);
        let cell = Arc::new(Cell::new(
            first_status(record),
            self.0.fleet.pacing.limits(),
        ));
        let handle = Handle {
            mailbox,
            cell: Arc::clone(&cell),
        };
        match self.0.sessions.entry(name.clone()) {
            // A closed mailbox is what is left of a session that was deleted with its workspace.
            dashmap::Entry::Occupied(mut known) if known.get().mailbox.is_closed() => {
                known.insert(handle);
            }
            dashmap::Entry::Occupied(_) => return,
            dashmap::Entry::Vacant(vacant) => {
                vacant.insert(handle);
            }
        }
        let keeper = Keeper {
            fleet: Arc::clone(&self.0.fleet),
            cell,
            provider: Arc::clone(provider),
            store,
            new,
            stop: self.0.stop.clone(),
        };
        // Its own root: it outlives the call that created the session.
        let span = tracing::info_span!(
            parent: None,
            "session",
            workspace = %name.workspace,
            session = %name.session,
        );
        self.0.keepers.spawn(keeper.keep(messages).instrument(span));
    }
}

/// Ends one session's actor in good order; whether it did.
async fn end(handle: &Handle) -> bool {
    let (done, ended) = oneshot::channel();
    let ask = async {
        // A closed mailbox is an actor that has ended.
        if handle.mailbox.send(Message::Shutdown(done)).await.is_ok() {
            let _ = ended.await;
        }
        handle.mailbox.closed().await;
    };
    tokio::time::timeout(END, ask).await.is_ok()
}

fn first_status(record: &SessionRecord) -> SessionStatus {
    SessionStatus {
        name: record.name.clone(),
        provider: record.provider.clone(),
        desired: record.desired,
        connection: State::expected(Facts::from(record)),
        login: record.login,
        account: record.account.clone(),
        pairing_unconfirmed: record.pairing_unconfirmed,
        since: record.updated_at,
        last_cause: None,
        last_online: None,
        next_attempt: None,
        traffic: Traffic::default(),
        queue: Depth::default(),
        holds: (None, None),
        crashes: 0,
    }
}
