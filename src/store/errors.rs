//! Errors of the store: one shared type for what no caller can fix by asking differently, and one type
//! per operation for the rest.

use thiserror::Error;

use super::engine::{CommitError, EngineError};
use super::keyring::UnwrapError;
use super::migrate::RecordError;
use super::seal::SealError;
use crate::domain::message::MessageState;

/// The store itself failed. [`StoreError::is_transient`] says whether trying again can help.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StoreError {
    /// The store was closed (the daemon is stopping).
    #[error("the store is closed")]
    Closed,
    /// Rows cannot be read: the files are damaged or were altered.
    #[error("the store is damaged ({0}): stop the daemon and restore from a backup")]
    Damaged(String),
    /// A newer release wrote this.
    #[error(
        "{what} was written by a newer release (version {found}; this release supports {supported}): upgrade, or restore a backup made before the upgrade"
    )]
    Newer {
        /// What was written.
        what: &'static str,
        /// The version found.
        found: u32,
        /// The newest version this release reads.
        supported: u32,
    },
    /// Another owner took over; stop using this handle.
    #[error("ownership of the session was taken over (epoch {current}, held {held})")]
    Fenced {
        /// The epoch this handle holds.
        held: u64,
        /// The epoch that is current.
        current: u64,
    },
    /// The session or subscription this handle belongs to was deleted.
    #[error("it was deleted meanwhile")]
    Gone,
    /// Too many others changed the same rows at the same time; try again.
    #[error("too much contention on the same rows; try again")]
    Contended,
    /// One change is larger than a commit may be.
    #[error("the change is too large to be stored at once: {0}")]
    TooLarge(String),
    /// The operating system refused.
    #[error("the store cannot be read: {0}")]
    Io(String),
}

impl StoreError {
    /// Whether the same call may succeed later without anybody's help.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Contended)
    }
}

impl From<EngineError> for StoreError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Closed => Self::Closed,
            EngineError::Corrupt(detail) => Self::Damaged(detail),
            EngineError::Io(detail) => Self::Io(detail),
        }
    }
}

impl From<CommitError> for StoreError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::ExpectationFailed { .. } => Self::Contended,
            CommitError::Fenced { held, current } => Self::Fenced { held, current },
            CommitError::TooLarge { .. } => Self::TooLarge(error.to_string()),
            CommitError::Row(row) => Self::Damaged(row.to_string()),
            CommitError::Engine(engine) => engine.into(),
        }
    }
}

impl From<SealError> for StoreError {
    fn from(error: SealError) -> Self {
        Self::Damaged(error.to_string())
    }
}

impl From<UnwrapError> for StoreError {
    fn from(error: UnwrapError) -> Self {
        Self::Damaged(error.to_string())
    }
}

impl From<RecordError> for StoreError {
    fn from(error: RecordError) -> Self {
        match error {
            RecordError::Newer {
                what,
                found,
                supported,
            } => Self::Newer {
                what,
                found,
                supported,
            },
            RecordError::Damaged { .. } => Self::Damaged(error.to_string()),
        }
    }
}

/// What was asked for does not exist, or the store failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LookupError {
    /// There is no such thing (in this workspace).
    #[error("{what} does not exist")]
    NotFound {
        /// Its resource name or id.
        what: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Something could not be created.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CreateError {
    /// The id is taken.
    #[error("{what} already exists")]
    AlreadyExists {
        /// Its resource name or id.
        what: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Something could not be changed or deleted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UpdateError {
    /// There is no such thing (in this workspace).
    #[error("{what} does not exist")]
    NotFound {
        /// Its resource name or id.
        what: String,
    },
    /// It changed since the caller read it.
    #[error(
        "{what} was changed by somebody else (etag is {current}): read it again and repeat the change"
    )]
    EtagMismatch {
        /// Its resource name or id.
        what: String,
        /// The etag now.
        current: String,
    },
    /// It is built in.
    #[error("{what} is built in and cannot be deleted")]
    BuiltIn {
        /// Its resource name or id.
        what: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A message was not accepted into the outbox.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EnqueueError {
    /// The `request_id` was used before for something else.
    #[error("request_id {request_id} was already used for another request: use a fresh UUID")]
    IdempotencyConflict {
        /// The id in question.
        request_id: String,
    },
    /// The file it carries does not exist, or no longer.
    #[error("{what} does not exist: upload the file again")]
    NoMedia {
        /// Its resource name.
        what: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A message could not change state.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TransitionError {
    /// There is no such message in this session.
    #[error("message {what} does not exist")]
    NotFound {
        /// The message or stanza id.
        what: String,
    },
    /// The step is not a step forward.
    #[error("message is {}; it cannot become {}", from.name(), to.name())]
    Illegal {
        /// Where it is.
        from: MessageState,
        /// Where it was to go.
        to: MessageState,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Journal rows could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReadError {
    /// The revision was removed by retention: continue from `oldest`.
    #[error("revision is no longer available; the oldest is {oldest}")]
    Compacted {
        /// The oldest revision still there.
        oldest: u64,
    },
    /// The revision has not been given out.
    #[error("revision does not exist yet; the newest is {newest}")]
    Future {
        /// The newest revision.
        newest: u64,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
