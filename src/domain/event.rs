//! What the journal records and the core reads.

use serde::{Deserialize, Serialize};

use super::clock::Timestamp;
use super::ids::{EventId, MessageId, SessionId};
use super::message::{FailureReason, InboundMessage, MessageState};
use super::person::Person;
use super::session::{Cause, Connection, Login};

/// The type of an event: what subscriptions filter by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventType {
    /// A message arrived.
    Message,
    /// An outbound message changed state.
    MessageStatus,
    /// Somebody received, read or played something.
    Receipt,
    /// An edit of an earlier message.
    Edit,
    /// A message deleted for everyone.
    Revoke,
    /// A reaction.
    Reaction,
    /// A call rang, ended or was missed.
    Call,
    /// Somebody came online, went offline or types.
    Presence,
    /// A group changed.
    GroupChange,
    /// A phone number and a LID turned out to be the same person.
    ContactMapping,
    /// A message could not be decrypted (yet).
    Undecryptable,
    /// The session's connection or login changed.
    SessionState,
    /// A pairing progressed.
    Pairing,
    /// The provider warned, limited or banned.
    Signal,
    /// A chunk of history arrived.
    History,
    /// Account data changed on another device (app state: contacts, mutes, labels …).
    AccountData,
    /// Events were dropped by retention, or may have been missed; says which.
    Gap,
}

/// What kind of receipt arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReceiptKind {
    /// It reached a device.
    Delivered,
    /// It was read.
    Read,
    /// It was played.
    Played,
    /// Read by this account on another of its devices.
    ReadSelf,
    /// Anything else the provider reports.
    Other,
}

/// The body of an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum Payload {
    /// A message, edit, revoke or reaction arrived (the content tells which).
    Message {
        /// The message.
        message: InboundMessage,
        /// The undecryptable event this message recovers, if it was reported before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        recovers: Option<EventId>,
    },
    /// An outbound message changed state.
    MessageStatus {
        /// Our id.
        message_id: MessageId,
        /// The id on the wire.
        stanza_id: String,
        /// The recipient.
        to: Person,
        /// The new state.
        state: MessageState,
        /// Why, when it failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failure: Option<FailureReason>,
    },
    /// A receipt.
    Receipt {
        /// The conversation.
        chat: Person,
        /// Who sent the receipt.
        from: Person,
        /// Stanza ids it covers.
        stanza_ids: Vec<String>,
        /// What it says.
        kind: ReceiptKind,
        /// The provider's time of it.
        at: Timestamp,
    },
    /// A message that could not be decrypted.
    Undecryptable {
        /// The conversation.
        chat: Person,
        /// Who wrote it.
        sender: Person,
        /// Its stanza id.
        stanza_id: String,
        /// Why, as the provider library says.
        reason: String,
    },
    /// A call.
    Call {
        /// Who calls.
        from: Person,
        /// The provider's call id.
        call_id: String,
        /// `offer`, `accept`, `reject`, `terminate`, `missed`, …
        action: String,
        /// The provider's time of it.
        at: Timestamp,
    },
    /// Presence or typing.
    Presence {
        /// Who.
        from: Person,
        /// The conversation, for typing.
        chat: Option<Person>,
        /// `available`, `unavailable`, `composing`, `recording`, `paused`.
        state: String,
    },
    /// A group changed.
    GroupChange {
        /// The group.
        group: Person,
        /// Who changed it.
        actor: Option<Person>,
        /// The provider's name of the change.
        change: String,
        /// People concerned; everybody in it when the group is new to this account.
        participants: Vec<Person>,
        /// The group's name, when the change tells it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        subject: Option<String>,
    },
    /// A phone number and a LID turned out to be the same person.
    ContactMapping {
        /// All names known now.
        person: Person,
    },
    /// The session's connection or login changed.
    SessionState {
        /// Where the connection is now.
        connection: Connection,
        /// Whether credentials exist and are good.
        login: Login,
        /// Why it changed, if a connection ended.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cause: Option<Cause>,
    },
    /// A pairing progressed: `started`, `succeeded`, `confirmed`, `expired`, `failed`.
    Pairing {
        /// Which step.
        step: String,
        /// `UPPER_SNAKE` reason for `failed`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// The account, once known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        account: Option<Person>,
    },
    /// The provider warned, limited or banned.
    Signal {
        /// `UPPER_SNAKE`: `REACHOUT_TIMELOCK`, `TEMPORARY_BAN`, `RATE_LIMITED`, `CLIENT_OUTDATED`, …
        signal: String,
        /// The provider's code.
        code: Option<u32>,
        /// When it ends, if known.
        until: Option<Timestamp>,
    },
    /// A part of a chunk of history, in the provider's encoding.
    History {
        /// The provider's name of the chunk.
        kind: String,
        /// The provider's encoding.
        #[serde(with = "super::message::base64_bytes")]
        raw: Vec<u8>,
    },
    /// Account data changed on another device.
    AccountData {
        /// What changed, in the provider's words (`contact`, `mute`, `archive`, `label_edit`, …).
        kind: String,
        /// The change as JSON.
        json: String,
    },
    /// Events were dropped or may have been missed.
    Gap {
        /// `UPPER_SNAKE`: `RETENTION`, `RESYNC`, …
        reason: String,
        /// First revision dropped, when known.
        from_revision: Option<u64>,
        /// Last revision dropped, when known.
        to_revision: Option<u64>,
    },
}

impl Payload {
    /// The type subscriptions filter by.
    pub fn event_type(&self) -> EventType {
        use super::message::Content;
        match self {
            Self::Message { message, .. } => match message.content {
                Content::Reaction { .. } => EventType::Reaction,
                Content::Edit { .. } => EventType::Edit,
                Content::Revoke { .. } => EventType::Revoke,
                Content::Text { .. } | Content::Media { .. } | Content::Other { .. } => {
                    EventType::Message
                }
            },
            Self::MessageStatus { .. } => EventType::MessageStatus,
            Self::Receipt { .. } => EventType::Receipt,
            Self::Undecryptable { .. } => EventType::Undecryptable,
            Self::Call { .. } => EventType::Call,
            Self::Presence { .. } => EventType::Presence,
            Self::GroupChange { .. } => EventType::GroupChange,
            Self::ContactMapping { .. } => EventType::ContactMapping,
            Self::SessionState { .. } => EventType::SessionState,
            Self::Pairing { .. } => EventType::Pairing,
            Self::Signal { .. } => EventType::Signal,
            Self::History { .. } => EventType::History,
            Self::AccountData { .. } => EventType::AccountData,
            Self::Gap { .. } => EventType::Gap,
        }
    }

    /// The conversation the event belongs to, for ordering; `None` orders by session.
    pub fn chat(&self) -> Option<&Person> {
        match self {
            Self::Message { message, .. } => Some(&message.chat),
            Self::MessageStatus { to, .. } => Some(to),
            Self::Receipt { chat, .. } | Self::Undecryptable { chat, .. } => Some(chat),
            Self::Call { from, .. } => Some(from),
            Self::Presence { chat, from, .. } => Some(chat.as_ref().unwrap_or(from)),
            Self::GroupChange { group, .. } => Some(group),
            _ => None,
        }
    }
}

/// What makes two arrivals the same event: with the session, the key of in-commit dedup.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DedupKey {
    /// Canonical chat.
    pub chat: String,
    /// Canonical sender.
    pub sender: String,
    /// The provider's stanza id.
    pub stanza_id: String,
    /// Event kind, finer than the type where needed (`receipt/read`).
    pub kind: String,
}

/// An event on its way into the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// When it happened, by our clock.
    pub at: Timestamp,
    /// The body.
    pub payload: Payload,
    /// Present where the provider may deliver it more than once.
    pub dedup: Option<DedupKey>,
}

/// An event as the journal holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Position in the workspace's journal; strictly increasing.
    pub revision: u64,
    /// Stable id; redeliveries carry the same one.
    pub event_id: EventId,
    /// The session it belongs to; absent for workspace-level events such as a retention gap.
    pub session: Option<SessionId>,
    /// Session and canonical chat: events of one key are delivered in order.
    pub ordering_key: String,
    /// When it was committed.
    pub at: Timestamp,
    /// The body.
    pub payload: Payload,
}
