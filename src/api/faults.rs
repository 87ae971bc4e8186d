//! What the store's errors mean to a client.

use std::time::Duration;

use super::status::{ApiError, Reason};
use crate::store::{
    CreateError, EnqueueError, LookupError, ReadError, RecallError, StoreError, TransitionError,
    UpdateError,
};

/// How long a client should wait before repeating what met contention.
const BUSY: Duration = Duration::from_millis(200);

/// How long a client should wait before trying another daemon, or this one after its restart.
pub(super) const DRAINING: Duration = Duration::from_secs(2);

/// How long a client should wait before it asks for a backup again.
pub(super) const BACKUP_BUSY: Duration = Duration::from_secs(30);

/// The daemon is stopping.
pub(super) fn draining() -> ApiError {
    ApiError::new(Reason::Draining, "the daemon is shutting down").retry_after(DRAINING)
}

/// A fault of ours: logged in full under an incident number, which is all the client gets.
pub(super) fn internal(error: &dyn std::fmt::Display) -> ApiError {
    let incident = uuid::Uuid::new_v4();
    tracing::error!(%incident, %error, "internal error while answering a call");
    ApiError::internal(&incident)
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Closed => draining(),
            StoreError::Gone => Self::not_found("the session or subscription"),
            StoreError::Contended => {
                Self::new(Reason::StoreBusy, error.to_string()).retry_after(BUSY)
            }
            StoreError::Fenced { .. } => {
                Self::new(Reason::SessionBusy, "the session is being restarted").retry_after(BUSY)
            }
            StoreError::TooLarge(_) => Self::new(
                Reason::MessageTooLarge,
                "the request is too large to be stored",
            ),
            StoreError::Damaged(_) | StoreError::Newer { .. } => {
                let incident = uuid::Uuid::new_v4();
                tracing::error!(%incident, %error, "a stored record cannot be read");
                Self::new(
                    Reason::RecordDamaged,
                    "a stored record cannot be read; an operator must look into the daemon's log",
                )
                .with("incident", incident.to_string())
            }
            StoreError::Io(_) => internal(&error),
        }
    }
}

impl From<LookupError> for ApiError {
    fn from(error: LookupError) -> Self {
        match error {
            LookupError::NotFound { what } => Self::not_found(&what),
            LookupError::Store(store) => store.into(),
        }
    }
}

impl From<CreateError> for ApiError {
    fn from(error: CreateError) -> Self {
        match error {
            CreateError::AlreadyExists { ref what } => {
                let what = what.clone();
                Self::new(Reason::ResourceAlreadyExists, error.to_string()).with("resource", what)
            }
            CreateError::Store(store) => store.into(),
        }
    }
}

impl From<UpdateError> for ApiError {
    fn from(error: UpdateError) -> Self {
        let text = error.to_string();
        match error {
            UpdateError::NotFound { what } => Self::not_found(&what),
            UpdateError::EtagMismatch { what, .. } => {
                Self::new(Reason::EtagMismatch, text).with("resource", what)
            }
            UpdateError::BuiltIn { what } => {
                Self::precondition(Reason::ResourceBuiltIn, what, text)
            }
            UpdateError::Store(store) => store.into(),
        }
    }
}

/// The `request_id` was used before for something else.
fn conflict(request_id: String) -> ApiError {
    ApiError::new(
        Reason::IdempotencyConflict,
        "request_id was used before with other parameters: use a fresh UUID for each new request",
    )
    .with("request_id", request_id)
}

impl From<RecallError> for ApiError {
    fn from(error: RecallError) -> Self {
        match error {
            RecallError::Conflict { request_id } => conflict(request_id),
            RecallError::Store(store) => store.into(),
        }
    }
}

impl From<EnqueueError> for ApiError {
    fn from(error: EnqueueError) -> Self {
        match error {
            EnqueueError::IdempotencyConflict { request_id } => conflict(request_id),
            EnqueueError::NoMedia { what } => Self::not_found(&what),
            EnqueueError::Store(store) => store.into(),
        }
    }
}

impl From<TransitionError> for ApiError {
    fn from(error: TransitionError) -> Self {
        let text = error.to_string();
        match error {
            TransitionError::NotFound { what } => Self::not_found(&what),
            TransitionError::Illegal { from, .. } => {
                Self::precondition(Reason::IllegalTransition, from.name(), text)
                    .with("state", from.name())
            }
            TransitionError::Store(store) => store.into(),
        }
    }
}

impl From<ReadError> for ApiError {
    fn from(error: ReadError) -> Self {
        let text = error.to_string();
        match error {
            ReadError::Compacted { oldest } => Self::new(
                Reason::RevisionOutOfRange,
                format!("from_revision: {text}: watch from there, and expect that events in between are gone"),
            )
            .with("oldest_revision", oldest.to_string()),
            ReadError::Future { newest } => Self::new(
                Reason::RevisionOutOfRange,
                format!(
                    "from_revision: {text}: watch from there or earlier, or without it from now on"
                ),
            )
            .with("newest_revision", newest.to_string()),
            ReadError::Store(store) => store.into(),
        }
    }
}
