//! The session layer's supervisor, as the API needs it.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;

use super::faults;
use super::ports::{Deletion, Live, PairBy, PairingProgress, Sessions, Submission};
use super::status::{ApiError, Reason};
use crate::domain::clock::Clock;
use crate::domain::ids::{MessageId, SessionName, WorkspaceId};
use crate::domain::message::OutboundMessage;
use crate::domain::session::Login;
use crate::session::{
    self, CancelError, CommandError, CreateSessionError, DeleteSessionError, FetchError, Groups,
    GroupsError, Illegal, PacingRefused, PairMode, PairingUpdate, SubmitError, Supervisor, Verb,
};
use crate::store::{
    Enqueued, NewSession, Remember, SessionRecord, SessionStore, TransitionError, WorkspaceStore,
};

/// Steps of a pairing that wait for a slow client.
const STEPS: usize = 8;

/// How long to wait for a session that is busy.
const BUSY: Duration = Duration::from_millis(500);

/// When to ask again for what cannot be fetched now.
const OFFLINE: Duration = Duration::from_secs(5);

/// How long a logout may take before a deletion goes on without it.
const UNLINK: Duration = Duration::from_secs(30);

/// A [`Supervisor`] behind the API's port.
#[derive(Debug)]
pub struct Supervised {
    supervisor: Supervisor,
    clock: Arc<dyn Clock>,
    providers: OnceLock<Vec<String>>,
}

impl Supervised {
    /// The API's view of `supervisor`.
    pub fn new(supervisor: Supervisor, clock: Arc<dyn Clock>) -> Self {
        Self {
            supervisor,
            clock,
            providers: OnceLock::new(),
        }
    }

    /// Logs a session out and waits until the link has ended, for a while. Returns whether there was one.
    async fn log_out(
        &self,
        session: &SessionName,
        expected: Option<&str>,
    ) -> Result<bool, ApiError> {
        let status = self.supervisor.watch(session);
        match self
            .supervisor
            .command(session, Verb::Logout, expected)
            .await
        {
            Ok(_) => {}
            Err(CommandError::Illegal(Illegal::NotPaired)) => return Ok(false),
            Err(error) => return Err(refused(session, error)),
        }
        if let Some(mut status) = status {
            let ended = status.wait_for(|status| status.login == Login::Unpaired);
            // The provider is told as best can be: credentials that are about to be wiped do not wait longer.
            if tokio::time::timeout(UNLINK, ended).await.is_err() {
                tracing::warn!(%session, "the logout did not end in time; the session is deleted all the same");
            }
        }
        Ok(true)
    }

    fn paced(&self, refused: &PacingRefused) -> ApiError {
        let wait = refused.retry_at.since(self.clock.now());
        ApiError::new(Reason::QuotaExceeded, refused.to_string())
            .with("quota", refused.reason)
            .retry_after(wait)
    }
}

/// A state that forbids a command.
fn illegal(session: &SessionName, illegal: &Illegal) -> ApiError {
    let reason = match illegal {
        Illegal::NotPaired => Reason::SessionNotPaired,
        Illegal::AlreadyPaired => Reason::SessionAlreadyPaired,
        Illegal::PairingUnderWay => Reason::PairingUnderWay,
        Illegal::LoggedOut => Reason::SessionLoggedOut,
        Illegal::Banned { .. } => Reason::SessionBanned,
        Illegal::Stopped => Reason::SessionStopped,
        Illegal::LoggingOut => Reason::LogoutUnderWay,
        Illegal::WorkspaceFull => Reason::WorkspaceFull,
    };
    ApiError::precondition(reason, session.to_string(), illegal.to_string())
}

fn refused(session: &SessionName, error: CommandError) -> ApiError {
    match error {
        CommandError::Illegal(reason) => illegal(session, &reason),
        CommandError::EtagMismatch => ApiError::new(Reason::EtagMismatch, error.to_string())
            .with("resource", session.to_string()),
        CommandError::NotFound => ApiError::not_found(&session.to_string()),
        CommandError::Busy => {
            ApiError::new(Reason::SessionBusy, error.to_string()).retry_after(BUSY)
        }
        CommandError::Stopping => faults::draining(),
        CommandError::Store(error) => error.into(),
    }
}

#[async_trait]
impl Sessions for Supervised {
    fn providers(&self) -> Vec<String> {
        let names = || self.supervisor.providers().map(str::to_owned).collect();
        self.providers.get_or_init(names).clone()
    }

    fn live(&self, session: &SessionName) -> Option<Live> {
        let status = self.supervisor.status(session)?;
        Some(Live {
            connection: status.connection,
            traffic: status.traffic,
        })
    }

    async fn create(
        &self,
        workspace: &WorkspaceStore,
        new: NewSession,
        remember: Remember<SessionRecord>,
    ) -> Result<SessionRecord, ApiError> {
        let created = self.supervisor.create_once(workspace, new, remember).await;
        created.map_err(|error| match error {
            CreateSessionError::UnknownProvider { .. } => {
                ApiError::field("provider", error.to_string())
            }
            CreateSessionError::Stopping => faults::draining(),
            CreateSessionError::Create(error) => error.into(),
        })
    }

    async fn command(
        &self,
        session: &SessionName,
        verb: Verb,
        expected: Option<&str>,
    ) -> Result<(), ApiError> {
        let done = self.supervisor.command(session, verb, expected).await;
        done.map_err(|error| refused(session, error))?;
        Ok(())
    }

    async fn delete(
        &self,
        workspace: &WorkspaceStore,
        session: &SessionName,
        deletion: Deletion<'_>,
        remember: &Remember<()>,
    ) -> Result<(), ApiError> {
        // Whoever logs out has met the etag, and made another.
        let logged_out = deletion.logout && self.log_out(session, deletion.expected).await?;
        let expected = deletion.expected.filter(|_| !logged_out);
        let deleted = self
            .supervisor
            .delete_once(workspace, session, expected, remember)
            .await;
        deleted.map_err(|error| match error {
            DeleteSessionError::Busy => {
                ApiError::new(Reason::SessionBusy, error.to_string()).retry_after(BUSY)
            }
            DeleteSessionError::Update(error) => error.into(),
        })
    }

    async fn release(&self, workspace: &WorkspaceId) -> Result<(), ApiError> {
        match self.supervisor.release(workspace).await {
            0 => Ok(()),
            left => {
                let said = format!("{left} sessions did not end in time: try again");
                Err(ApiError::new(Reason::SessionBusy, said).retry_after(BUSY))
            }
        }
    }

    async fn pair(
        &self,
        session: &SessionName,
        by: PairBy,
    ) -> Result<mpsc::Receiver<PairingProgress>, ApiError> {
        let mode = match by {
            PairBy::Qr => PairMode::Qr,
            PairBy::Code(phone) => PairMode::Code { phone },
        };
        let updates = self.supervisor.pair(session, mode).await;
        let updates = updates.map_err(|error| refused(session, error))?;
        let (steps, receiver) = mpsc::channel(STEPS);
        tokio::spawn(follow(updates, steps));
        Ok(receiver)
    }

    async fn submit(
        &self,
        session: &SessionStore,
        submission: Submission,
    ) -> Result<Enqueued, ApiError> {
        let submission = session::Submission {
            request_id: submission.request_id,
            body: submission.body,
            to: submission.to,
            content: submission.content,
            media: submission.media,
            priority: submission.priority,
            send_after: submission.send_after,
            expire_at: submission.expire_at,
        };
        let accepted = self.supervisor.submit(session, submission).await;
        accepted.map_err(|error| match error {
            SubmitError::NotFound => ApiError::not_found(&session.name().to_string()),
            SubmitError::Recipient => ApiError::field(
                "to",
                "is nobody this provider can address: give a phone number, or the id of a person or a group as this API gave it out",
            ),
            SubmitError::Content(why) => {
                ApiError::field_with(Reason::UnsupportedContent, "content", why)
            }
            SubmitError::Pacing(refused) => self.paced(&refused),
            SubmitError::Enqueue(error) => error.into(),
            SubmitError::Stopping => faults::draining(),
            SubmitError::Store(error) => error.into(),
        })
    }

    async fn fetch(
        &self,
        session: &SessionName,
        raw: &[u8],
    ) -> Result<mpsc::Receiver<Bytes>, ApiError> {
        let fetched = self.supervisor.fetch(session, raw).await;
        fetched.map_err(|error| match error {
            FetchError::NotConnected => {
                let said = format!("{session} is not online");
                ApiError::new(Reason::SessionOffline, said).retry_after(OFFLINE)
            }
            FetchError::Temporary(_) => {
                ApiError::new(Reason::MediaUnavailable, error.to_string()).retry_after(OFFLINE)
            }
            FetchError::Gone | FetchError::NoFile => {
                ApiError::new(Reason::MediaGone, error.to_string())
            }
            FetchError::TooLarge { .. } => {
                ApiError::new(Reason::MessageTooLarge, error.to_string())
            }
            FetchError::Damaged(_) => ApiError::new(Reason::MediaDamaged, error.to_string()),
        })
    }

    async fn groups(&self, session: &SessionName) -> Result<Arc<Groups>, ApiError> {
        let groups = self.supervisor.groups(session).await;
        groups.map_err(|error| match error {
            GroupsError::NotConnected => {
                let said = format!("{session} is not online");
                ApiError::new(Reason::SessionOffline, said).retry_after(OFFLINE)
            }
            GroupsError::TooOften { wait } => {
                ApiError::new(Reason::QuotaExceeded, error.to_string())
                    .with("quota", "GROUP_QUERIES")
                    .retry_after(wait.unwrap_or(OFFLINE))
            }
            GroupsError::Temporary(_) => {
                ApiError::new(Reason::ProviderUnavailable, error.to_string()).retry_after(OFFLINE)
            }
        })
    }

    async fn cancel(
        &self,
        session: &SessionStore,
        message: MessageId,
    ) -> Result<OutboundMessage, ApiError> {
        let canceled = self.supervisor.cancel(session, message).await;
        canceled.map_err(|error| match error {
            CancelError::NotFound { what } => TransitionError::NotFound { what }.into(),
            CancelError::TooLate { state } => {
                let name = format!("{}/messages/{message}", session.name());
                ApiError::precondition(Reason::IllegalTransition, name, error.to_string())
                    .with("state", state.name())
            }
            CancelError::Store(error) => error.into(),
        })
    }
}

/// Passes a pairing's updates on until the last. Ends, and thereby cancels, when the client has left.
async fn follow(mut updates: mpsc::Receiver<PairingUpdate>, steps: mpsc::Sender<PairingProgress>) {
    loop {
        let update = tokio::select! {
            update = updates.recv() => update,
            () = steps.closed() => return,
        };
        let step = match update {
            Some(PairingUpdate::Qr {
                payload,
                expires_at,
            }) => PairingProgress::Qr {
                payload,
                expires_at,
            },
            Some(PairingUpdate::Code { code, expires_at }) => {
                PairingProgress::Code { code, expires_at }
            }
            // The first login follows, and with it the last step.
            Some(PairingUpdate::Paired { .. }) => continue,
            Some(PairingUpdate::Confirmed { account }) => PairingProgress::Succeeded {
                account: account.unwrap_or_default(),
            },
            Some(PairingUpdate::Expired) => PairingProgress::Failed {
                reason: "EXPIRED".to_owned(),
            },
            Some(PairingUpdate::Failed { reason }) => PairingProgress::Failed { reason },
            None => return,
        };
        let last = matches!(
            step,
            PairingProgress::Succeeded { .. } | PairingProgress::Failed { .. }
        );
        if steps.send(step).await.is_err() || last {
            return;
        }
    }
}
