//! Accepting messages into the outbox, and taking them back.

use thiserror::Error;

use super::Supervisor;
use crate::domain::clock::Timestamp;
use crate::domain::ids::{MediaId, MessageId, RequestId, SessionName};
use crate::domain::message::{Content, MessageState, OutboundMessage, Priority};
use crate::domain::person::Person;
use crate::provider::contract::EncodeError;
use crate::session::detached::detached;
use crate::session::pacing::PacingRefused;
use crate::store::{
    BodyHash, Day, EnqueueError, Enqueued, KeyId, KeyKind, LookupError, NewMessage, SessionStore,
    Step, StoreError, TransitionError,
};

/// A message to be accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submission {
    /// What makes the request idempotent.
    pub request_id: RequestId,
    /// A digest of what the client asked for.
    pub body: BodyHash,
    /// The recipient.
    pub to: Person,
    /// What it says.
    pub content: Content,
    /// The uploaded file that `content` describes.
    pub media: Option<MediaId>,
    /// How urgent it is.
    pub priority: Priority,
    /// Not before this.
    pub send_after: Option<Timestamp>,
    /// Not after this.
    pub expire_at: Option<Timestamp>,
}

/// A message was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SubmitError {
    /// The session does not exist here: `NOT_FOUND`.
    #[error("session does not exist")]
    NotFound,
    /// The provider has no way to the recipient: `INVALID_ARGUMENT`.
    #[error("the provider cannot address this recipient")]
    Recipient,
    /// The content cannot be carried: `INVALID_ARGUMENT`.
    #[error("{0}")]
    Content(String),
    /// Too much for now: `RESOURCE_EXHAUSTED` with a time to retry.
    #[error(transparent)]
    Pacing(#[from] PacingRefused),
    /// The `request_id` was used for something else: `ALREADY_EXISTS`.
    #[error(transparent)]
    Enqueue(#[from] EnqueueError),
    /// The daemon is stopping: UNAVAILABLE.
    #[error("the daemon is stopping")]
    Stopping,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A message was not taken back.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CancelError {
    /// There is no such message: `NOT_FOUND`.
    #[error("{what} does not exist")]
    NotFound {
        /// The message.
        what: String,
    },
    /// It is on the wire or settled already: `FAILED_PRECONDITION`.
    #[error("the message is {}: only a QUEUED message can be canceled", state.name())]
    TooLate {
        /// Where it is.
        state: MessageState,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Supervisor {
    /// Accepts a message: when this returns, it is durable and will be sent, or its outcome told. A
    /// repeated request gets the message it made the first time.
    ///
    /// # Errors
    /// [`SubmitError`] says whose fault it is and when to retry.
    pub async fn submit(
        &self,
        session: &SessionStore,
        submission: Submission,
    ) -> Result<Enqueued, SubmitError> {
        if self.0.stop.is_cancelled() {
            return Err(SubmitError::Stopping);
        }
        let name = session.name();
        let handle = self.handle(&name).ok_or(SubmitError::NotFound)?;
        let outbox = session.outbox();
        let before = outbox
            .recall(submission.request_id, submission.body)
            .await?;
        if let Some(before) = before {
            // Whoever accepted it may have died before the sender was told.
            if matches!(
                before.message.state,
                MessageState::Queued | MessageState::Sending
            ) {
                handle.cell.nudge.notify_one();
            }
            return Ok(before);
        }
        let fleet = &self.0.fleet;
        let provider = handle.cell.status.borrow().provider.clone();
        let provider = fleet
            .providers
            .get(&provider)
            .ok_or(SubmitError::NotFound)?;
        let day = Day::of(fleet.clock.now());
        let usage = session.workspace().usage();
        let today = usage.of_session(&name.session, day).await?;
        let is_known = self.is_known(session, &submission.to).await?;
        fleet.pacing.accept(&handle.cell.holds, &today, is_known)?;
        let encoded = provider.encode(&submission.to, &submission.content)?;
        let message = NewMessage {
            request_id: submission.request_id,
            body: submission.body,
            to: submission.to,
            content: without_bulk(submission.content),
            media: submission.media,
            stanza_id: encoded.stanza_id,
            encoded: encoded.bytes,
            priority: submission.priority,
            send_after: submission.send_after,
            expire_at: submission.expire_at,
        };
        let now = fleet.clock.now();
        let accept = async move {
            let enqueued = outbox.enqueue(message).await?;
            handle.accepted(now);
            Ok(enqueued)
        };
        detached(accept).await.ok_or(SubmitError::Stopping)?
    }

    /// Takes a message back that is still QUEUED.
    ///
    /// # Errors
    /// [`CancelError`]
    pub async fn cancel(
        &self,
        session: &SessionStore,
        id: MessageId,
    ) -> Result<OutboundMessage, CancelError> {
        let step = Step::to(MessageState::Canceled, self.0.fleet.clock.now());
        match session.outbox().transition(id, step).await {
            Ok((message, _)) => Ok(message),
            Err(TransitionError::Illegal { from, .. }) => Err(CancelError::TooLate { state: from }),
            Err(TransitionError::NotFound { what }) => Err(CancelError::NotFound { what }),
            Err(TransitionError::Store(error)) => Err(error.into()),
        }
    }

    /// Tells a session that its outbox has grown; nothing happens if it is not held here.
    pub fn nudge(&self, name: &SessionName) {
        if let Some(handle) = self.handle(name) {
            handle.cell.nudge.notify_one();
        }
    }

    async fn is_known(&self, session: &SessionStore, to: &Person) -> Result<bool, StoreError> {
        if !to.is_individual() {
            return Ok(true);
        }
        let keys = session.keys();
        for alias in to.aliases() {
            if keys.contains(KeyKind::Contact, &KeyId::name(alias)).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// What need not be stored twice: the encoding has the thumbnail.
fn without_bulk(mut content: Content) -> Content {
    if let Content::Media { media } = &mut content {
        media.thumbnail = Vec::new();
    }
    content
}

impl From<EncodeError> for SubmitError {
    fn from(error: EncodeError) -> Self {
        match error {
            EncodeError::Recipient => Self::Recipient,
            EncodeError::Unsupported { .. } => Self::Content(error.to_string()),
        }
    }
}

impl From<LookupError> for SubmitError {
    fn from(error: LookupError) -> Self {
        match error {
            LookupError::NotFound { .. } => Self::NotFound,
            LookupError::Store(error) => Self::Store(error),
        }
    }
}
