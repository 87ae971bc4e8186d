//! What a session's actor can be told.

use std::sync::Arc;

use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use super::groups::Groups;
use super::state::{Illegal, PairMode};
use super::status::SessionStatus;
use crate::domain::clock::Timestamp;
use crate::domain::person::Person;
use crate::provider::contract::{FetchError, Fetched, GroupsError, SendError};
use crate::store::StoreError;

/// A state change somebody asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Keep it connected.
    Start,
    /// Keep it disconnected; credentials stay.
    Stop,
    /// Disconnect if connected, then connect anew.
    Restart,
    /// End the link and delete the credentials.
    Logout,
}

/// How a pairing goes, for whoever pairs. The stream ends after [`PairingUpdate::Confirmed`],
/// [`PairingUpdate::Failed`] or [`PairingUpdate::Expired`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PairingUpdate {
    /// Show this QR until it expires; the next one follows by itself.
    Qr {
        /// The text to encode.
        payload: String,
        /// When it stops being valid.
        expires_at: Timestamp,
    },
    /// Type this code on the phone.
    Code {
        /// The code as it is shown to people.
        code: String,
        /// When it stops being valid.
        expires_at: Timestamp,
    },
    /// The phone accepted; the first login follows.
    Paired {
        /// The account.
        account: Option<Person>,
    },
    /// The first login succeeded: the link is real.
    Confirmed {
        /// The account.
        account: Option<Person>,
    },
    /// Nobody scanned or typed in time.
    Expired,
    /// It came to nothing.
    Failed {
        /// `UPPER_SNAKE`: `LINK_REFUSED`, `CONNECTION_LOST`, `CANCELED`, `CLIENT_OUTDATED`, `BANNED`,
        /// `PASSKEY_REQUIRED`, `INTERNAL`, …
        reason: String,
    },
}

/// Why a command had no effect.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CommandError {
    /// It makes no sense now: `FAILED_PRECONDITION`.
    #[error(transparent)]
    Illegal(#[from] Illegal),
    /// The record is not the one the caller had read: ABORTED.
    #[error("the session was changed by somebody else: read it again and decide anew")]
    EtagMismatch,
    /// There is no such session: `NOT_FOUND`.
    #[error("session does not exist")]
    NotFound,
    /// Too many commands wait for this session: UNAVAILABLE, retry.
    #[error("the session is busy: try again")]
    Busy,
    /// The daemon is stopping: UNAVAILABLE, retry elsewhere or later.
    #[error("the daemon is stopping")]
    Stopping,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The answer to a command.
pub(super) type Reply = oneshot::Sender<Result<SessionStatus, CommandError>>;

/// What a session's actor can be told.
pub(super) enum Message {
    Command {
        verb: Verb,
        /// Only if the record still has this etag.
        expected: Option<String>,
        reply: Reply,
    },
    Pair {
        mode: PairMode,
        updates: mpsc::Sender<PairingUpdate>,
        reply: Reply,
    },
    MarkRead {
        chat: Box<Person>,
        sender: Box<Person>,
        stanza_ids: Arc<[String]>,
        reply: oneshot::Sender<Result<(), SendError>>,
    },
    Fetch {
        raw: Arc<[u8]>,
        reply: oneshot::Sender<Result<Fetched, FetchError>>,
    },
    Groups {
        reply: oneshot::Sender<Result<Arc<Groups>, GroupsError>>,
    },
    /// End in good order; credentials and wishes stay.
    Shutdown(oneshot::Sender<()>),
}
