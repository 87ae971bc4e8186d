//! The contract between the session layer and anything that carries messages.
//!
//! A [`Provider`] opens a [`Line`] for a session. A line makes one connection attempt per [`Line::run`]
//! and never reconnects by itself: the supervisor alone decides when to try again. What arrives goes to
//! the session's [`Sink`]; a line acknowledges nothing to the provider before the sink says it is durable.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::domain::clock::Timestamp;
use crate::domain::event::{DedupKey, NewEvent, ReceiptKind};
use crate::domain::group::Group;
use crate::domain::ids::SessionName;
use crate::domain::media::MediaKind;
use crate::domain::message::{Content, OutboundMessage};
use crate::domain::person::Person;
use crate::domain::session::{Cause, Traffic};
use crate::store::SessionStore;
use crate::store::media::MediaFile;

/// What a provider can do, so that the layers above never branch on its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "a capability list is a list of booleans"
)]
pub struct Capabilities {
    /// Links by QR code.
    pub pairs_by_qr: bool,
    /// Links by a code typed on the phone.
    pub pairs_by_code: bool,
    /// A resend of the same stanza id is shown once by the recipient's official clients.
    pub resend_is_idempotent: bool,
    /// Reports read receipts.
    pub read_receipts: bool,
}

/// Opens lines.
#[async_trait]
pub trait Provider: Send + Sync + fmt::Debug {
    /// The name in session records, metrics and logs (`multidevice`).
    fn name(&self) -> &'static str;

    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// Encodes a message once, completely (with its messageSecret where the protocol has one), so that
    /// every retry sends the same bytes under the same stanza id. Of a message with a file only where the
    /// file lies is missing, until [`Line::attach`].
    ///
    /// # Errors
    /// [`EncodeError`] when the content or the recipient cannot be carried.
    fn encode(&self, to: &Person, content: &Content) -> Result<Encoded, EncodeError>;

    /// Builds the line of one session from its stored keys. Does not connect.
    ///
    /// # Errors
    /// [`OpenError`]: the stored keys cannot be read.
    async fn open(
        &self,
        name: SessionName,
        store: SessionStore,
        sink: Arc<dyn Sink>,
    ) -> Result<Arc<dyn Line>, OpenError>;
}

/// A message ready for the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// The stanza id, fixed from here on.
    pub stanza_id: String,
    /// The provider's complete encoding.
    pub bytes: Vec<u8>,
}

/// Why a message cannot be encoded: the caller's fault, never retried.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// This provider cannot carry this kind of content.
    #[error("content `{kind}` is not supported by provider {provider}")]
    Unsupported {
        /// The content's kind.
        kind: &'static str,
        /// The provider.
        provider: &'static str,
    },
    /// The recipient has no form this provider can address.
    #[error("to: the recipient needs a phone number, a phone-number JID, a LID or a group JID")]
    Recipient,
}

/// Why a line could not be built.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The store failed; retry after a backoff.
    #[error("session keys cannot be read: {0}")]
    Store(String),
    /// The stored credentials are damaged; needs an operator.
    #[error("session credentials are damaged: {0}")]
    Damaged(String),
}

/// What a connection attempt is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// Link a new device by QR.
    PairByQr,
    /// Link a new device by a code typed on the phone.
    PairByCode {
        /// The account's number, E.164.
        phone: String,
    },
    /// Log in with stored credentials. Without any, the attempt ends at once, unconnected, with
    /// [`Cause::PairingFailed`] and the reason `NOT_PAIRED`: after a crash during a pairing this tells
    /// whether the phone's acceptance had reached the disk.
    Login,
}

/// One session's connection to its provider.
#[async_trait]
pub trait Line: Send + Sync {
    /// Makes one connection attempt and holds the connection until it ends, returning why. Progress is
    /// reported to the sink as [`Signal`]s. Cancelling `stop` closes the connection and returns
    /// [`Cause::Requested`]. Never called twice at the same time.
    async fn run(&self, mode: Mode, stop: CancellationToken) -> Cause;

    /// Hands a message to the wire under its stored stanza id. `Ok` means written, not accepted: the
    /// server's answer arrives as [`Signal::ServerAck`].
    ///
    /// # Errors
    /// [`SendError`] says whether to retry on this connection, after a reconnect, or never.
    async fn send(&self, message: &OutboundMessage) -> Result<(), SendError>;

    /// Asks the server for any sign of life.
    ///
    /// # Errors
    /// [`ProbeError`] when nothing came back within `patience`.
    async fn probe(&self, patience: Duration) -> Result<(), ProbeError>;

    /// Marks messages as read towards their sender.
    ///
    /// # Errors
    /// [`SendError`] as for [`Line::send`].
    async fn mark_read(
        &self,
        chat: &Person,
        sender: &Person,
        stanza_ids: &[String],
    ) -> Result<(), SendError>;

    /// Fetches the file of a message, by what [`crate::domain::media::Media::raw`] holds. All of it has
    /// been checked when this returns.
    ///
    /// # Errors
    /// [`FetchError`] says whether to try again.
    async fn fetch(&self, raw: &[u8]) -> Result<Fetched, FetchError>;

    /// Asks for the groups this number is in, as they are now. Traffic that the provider sees: whoever asks
    /// does so one question at a time and not for each of its own clients.
    ///
    /// # Errors
    /// [`GroupsError`] says whether to try again.
    async fn groups(&self) -> Result<Vec<Group>, GroupsError>;

    /// Carries a file to the provider, to be sent as `kind`; the provider's own note of where it lies
    /// there. The note is good for any number of messages.
    ///
    /// # Errors
    /// [`UploadError`] says whether to try again.
    async fn upload(&self, file: MediaFile, kind: MediaKind) -> Result<Vec<u8>, UploadError>;

    /// Completes the encoding of a message with the note of where its file lies.
    ///
    /// # Errors
    /// [`UploadError::Refused`] when the two do not fit together.
    fn attach(&self, encoded: &[u8], reference: &[u8]) -> Result<Vec<u8>, UploadError>;

    /// The signs of life seen so far on this connection.
    fn traffic(&self) -> Traffic;

    /// Ends the link at the provider (the device disappears from the phone's list), best effort.
    async fn logout(&self) -> Result<(), SendError>;
}

/// Why a message did not reach the wire, or may not have.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SendError {
    /// Not connected, or the connection ended on the way: resend the same stanza id after reconnect.
    #[error("not connected")]
    NotConnected,
    /// The recipient does not exist there: never retried.
    #[error("the recipient is not on WhatsApp")]
    NotOnProvider,
    /// This account is not in the group, or there is no such group: never retried.
    #[error("not a member of the group")]
    NotInGroup,
    /// The stored message or its address cannot be used: never retried.
    #[error("message refused before the wire: {0}")]
    Refused(String),
    /// Something passing (a query timed out): retry after a pause.
    #[error("temporarily impossible: {0}")]
    Temporary(String),
}

/// A file on its way to whoever asked for it.
#[derive(Debug)]
pub struct Fetched {
    /// Its length in bytes.
    pub size: u64,
    /// Its bytes, in order. When they end before `size`, the rest could not be read.
    pub chunks: mpsc::Receiver<Bytes>,
}

/// Why a file was not fetched.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FetchError {
    /// Not connected: retry once the session is online.
    #[error("not connected")]
    NotConnected,
    /// The message carries no file.
    #[error("the message carries no file")]
    NoFile,
    /// The provider does not have it any more: never there again, unless it is sent again.
    #[error("the provider does not have the file any more")]
    Gone,
    /// It is longer than this provider allows.
    #[error("the file is longer than {most} bytes")]
    TooLarge {
        /// The longest file, in bytes.
        most: u64,
    },
    /// It is not what the message says.
    #[error("the file is damaged: {0}")]
    Damaged(String),
    /// Something passing: retry after a pause.
    #[error("temporarily impossible: {0}")]
    Temporary(String),
}

/// Why a number's groups are not known.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum GroupsError {
    /// Not connected: retry once the session is online.
    #[error("not connected")]
    NotConnected,
    /// The provider was asked too often and wants to be left alone.
    #[error("the provider was asked too often")]
    TooOften {
        /// For how long, if it said so.
        wait: Option<Duration>,
    },
    /// Something passing: retry after a pause.
    #[error("temporarily impossible: {0}")]
    Temporary(String),
}

/// Why a file was not carried to the provider.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UploadError {
    /// Not connected: retry after the reconnect.
    #[error("not connected")]
    NotConnected,
    /// The file cannot be read, or is not what was stored: never retried.
    #[error("the file cannot be read: {0}")]
    Lost(String),
    /// The provider takes no such file: never retried.
    #[error("the file was refused: {0}")]
    Refused(String),
    /// Something passing: retry after a pause.
    #[error("temporarily impossible: {0}")]
    Temporary(String),
}

/// No sign of life.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ProbeError {
    /// Not connected.
    #[error("not connected")]
    NotConnected,
    /// Connected, but nothing came back in time.
    #[error("no answer in time")]
    Silent,
}

/// Progress of a connection, in the order it happened. Signals carry no tenant data that needs
/// durability; whatever does goes through [`Sink::commit`] or [`Sink::enqueue`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signal {
    /// A QR payload to show until `expires_in` has passed.
    Qr {
        /// The text to encode in the QR.
        payload: String,
        /// How long it is valid.
        expires_in: Duration,
    },
    /// A pairing code to type on the phone.
    PairingCode {
        /// The code, as it is shown to people.
        code: String,
        /// How long it is valid.
        expires_in: Duration,
    },
    /// The phone accepted the link; credentials are on disk but not confirmed by a login yet.
    Paired {
        /// The account.
        account: Person,
        /// The phone's platform as it reports it.
        platform: String,
    },
    /// The first successful login after pairing: the link is real.
    Confirmed,
    /// Connected and logged in.
    Online {
        /// The account.
        account: Person,
    },
    /// The server answered for a stanza we sent. `error` present = refused.
    ServerAck {
        /// The stanza.
        stanza_id: String,
        /// The refusal's code (463 = reach-out time-lock).
        error: Option<u32>,
        /// The provider's time of it, or ours.
        at: Timestamp,
    },
    /// The server warned or limited without ending the connection.
    Warning {
        /// `UPPER_SNAKE`, as in [`crate::domain::event::Payload::Signal`].
        signal: String,
        /// The provider's code.
        code: Option<u32>,
        /// When it ends, if known.
        until: Option<Timestamp>,
    },
    /// The initial synchronisation owed since pairing is done.
    InitialSyncDone,
}

/// Something that arrived and must be durable before it is acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arrival {
    /// An event for the journal.
    Event(NewEvent),
    /// A receipt: moves outbound messages forward and is journalled, in one commit.
    Receipt {
        /// The conversation.
        chat: Person,
        /// Who sent it.
        from: Person,
        /// Stanza ids it covers.
        stanza_ids: Vec<String>,
        /// What it says.
        kind: ReceiptKind,
        /// The provider's time of it.
        at: Timestamp,
        /// How to recognise a repetition.
        dedup: DedupKey,
    },
}

/// [`DedupKey::kind`] of [`crate::domain::event::Payload::Message`].
pub const MESSAGE: &str = "message";

/// [`DedupKey::kind`] of [`crate::domain::event::Payload::Undecryptable`]: with the chat, sender and
/// stanza id of the message that is recovered later, it leads from the message to its report.
pub const UNDECRYPTABLE: &str = "undecryptable";

/// [`DedupKey::kind`] of [`crate::domain::event::Payload::ContactMapping`], with the LID as the chat, the
/// phone-number JID as the sender and no stanza id, whoever learned the mapping.
pub const CONTACT_MAPPING: &str = "contact-mapping";

/// Position in the sequence of arrivals of one session, from 1.
pub type Seq = u64;

/// Where a line puts what arrives. One per session; implemented by the session layer.
#[async_trait]
pub trait Sink: Send + Sync {
    /// Makes a batch durable, in order. The line acknowledges only after `Ok`. Safe to repeat: what is
    /// durable already is recognised.
    ///
    /// # Errors
    /// [`CommitError`]: only a beginning of the batch, or nothing, is durable; nothing of the batch may be acknowledged; the line closes the connection.
    async fn commit(&self, batch: Vec<Arrival>) -> Result<(), CommitError>;

    /// Queues an arrival for the writer without blocking and returns its sequence number.
    fn enqueue(&self, arrival: Arrival) -> Seq;

    /// The highest sequence number given out.
    fn dispatched(&self) -> Seq;

    /// The highest sequence number known to be durable.
    fn durable(&self) -> Seq;

    /// Waits until `seq` is durable.
    ///
    /// # Errors
    /// [`CommitError`] when it cannot be made durable.
    async fn wait_durable(&self, seq: Seq) -> Result<(), CommitError>;

    /// Reports progress; never blocks.
    fn signal(&self, signal: Signal);

    /// Whether `event` would be a repetition of one in the journal, by its dedup key, the names in its
    /// payload and the provider's time of it.
    ///
    /// # Errors
    /// [`CommitError`] when the journal cannot be read.
    async fn knows(&self, event: &NewEvent) -> Result<bool, CommitError>;

    /// An earlier send, to answer a retry receipt; `None` when unknown. It goes to whom it was for and to
    /// nobody else, whoever names its id.
    async fn sent_message(&self, stanza_id: &str) -> Result<Option<SentMessage>, CommitError>;
}

/// A message that went out before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentMessage {
    /// The chat it was for.
    pub to: Person,
    /// As [`Provider::encode`] made it.
    pub encoded: Vec<u8>,
}

/// Something could not be made durable (or read back).
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("not durable: {0}")]
pub struct CommitError(pub String);
