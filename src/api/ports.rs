//! What the API needs from the session layer, and nothing more.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;

use super::status::ApiError;
use crate::domain::clock::Timestamp;
use crate::domain::ids::{MediaId, MessageId, RequestId, SessionName, WorkspaceId};
use crate::domain::message::{Content, OutboundMessage, Priority};
use crate::domain::person::Person;
use crate::domain::session::{Connection, Traffic};
pub use crate::session::{Groups, Verb};
use crate::store::{
    BodyHash, Enqueued, NewSession, Remember, SessionRecord, SessionStore, WorkspaceStore,
};

/// What is going on with a session right now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Live {
    /// Where the connection is.
    pub connection: Connection,
    /// Signs of life.
    pub traffic: Traffic,
}

/// A message to be accepted into the outbox.
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

/// How to delete a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deletion<'a> {
    /// Only if the record still has this etag.
    pub expected: Option<&'a str>,
    /// Log out first.
    pub logout: bool,
}

/// How to link a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PairBy {
    /// Show a QR.
    Qr,
    /// Type a code on the phone with this number (E.164).
    Code(String),
}

/// A step of a pairing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PairingProgress {
    /// Show this QR.
    Qr {
        /// The text to encode.
        payload: String,
        /// When it stops working.
        expires_at: Timestamp,
    },
    /// Show this code.
    Code {
        /// The code.
        code: String,
        /// When it stops working.
        expires_at: Timestamp,
    },
    /// Linked and confirmed; the last step.
    Succeeded {
        /// The account.
        account: Person,
    },
    /// Ended without a link; the last step.
    Failed {
        /// `UPPER_SNAKE`: `EXPIRED`, `CANCELED`, `PASSKEY_REQUIRED`, … or the provider's own.
        reason: String,
    },
}

/// The session layer as the API sees it. Commands return once they are durable, not once they are done,
/// and fail with errors that are ready for the client.
#[async_trait]
pub trait Sessions: Send + Sync + std::fmt::Debug {
    /// The names of the providers this daemon has.
    fn providers(&self) -> Vec<String>;

    /// What is going on with a session; `None` when nothing runs for it.
    fn live(&self, session: &SessionName) -> Option<Live>;

    /// Creates a session, remembers the answer in the same commit, and looks after it from now on.
    async fn create(
        &self,
        workspace: &WorkspaceStore,
        new: NewSession,
        remember: Remember<SessionRecord>,
    ) -> Result<SessionRecord, ApiError>;

    /// Does what `verb` asks; with an etag, only if the record still has it.
    async fn command(
        &self,
        session: &SessionName,
        verb: Verb,
        expected: Option<&str>,
    ) -> Result<(), ApiError>;

    /// Ends its connection and deletes it with its credentials, and remembers the answer in the same
    /// commit. The provider is told only if it shall log out first.
    async fn delete(
        &self,
        workspace: &WorkspaceStore,
        session: &SessionName,
        deletion: Deletion<'_>,
        remember: &Remember<()>,
    ) -> Result<(), ApiError>;

    /// Ends all sessions of a workspace that is about to be deleted.
    async fn release(&self, workspace: &WorkspaceId) -> Result<(), ApiError>;

    /// Links it. Dropping the receiver cancels a pairing that the phone has not accepted yet.
    async fn pair(
        &self,
        session: &SessionName,
        by: PairBy,
    ) -> Result<mpsc::Receiver<PairingProgress>, ApiError>;

    /// Accepts a message: durable on return. A repeated request gets the message it made the first time.
    async fn submit(
        &self,
        session: &SessionStore,
        submission: Submission,
    ) -> Result<Enqueued, ApiError>;

    /// Fetches the file of a message that arrived, by what its description holds: its bytes, in order.
    async fn fetch(
        &self,
        session: &SessionName,
        raw: &[u8],
    ) -> Result<mpsc::Receiver<Bytes>, ApiError>;

    /// The groups that the session's number is in.
    async fn groups(&self, session: &SessionName) -> Result<Arc<Groups>, ApiError>;

    /// Takes back a message that is still QUEUED.
    async fn cancel(
        &self,
        session: &SessionStore,
        message: MessageId,
    ) -> Result<OutboundMessage, ApiError>;
}
