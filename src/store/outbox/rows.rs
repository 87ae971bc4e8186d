//! Messages as stored.

use crate::domain::clock::Timestamp;
use crate::domain::ids::{MediaId, MessageId};
use crate::domain::message::{FailureReason, MessageState, OutboundMessage, Priority};
use crate::domain::person::Person;
use crate::store::errors::StoreError;
use crate::store::key::Hash;
use crate::store::migrate::first_version;
use crate::store::person::PersonRow;
use prost::Message;

#[derive(Clone, PartialEq, Message)]
pub(in crate::store) struct MessageRow {
    #[prost(string, tag = "1")]
    pub(super) stanza_id: String,
    #[prost(message, optional, tag = "2")]
    pub(super) to: Option<PersonRow>,
    /// The domain's own serialisation of the content (JSON): it has one schema, not two.
    #[prost(bytes = "vec", tag = "3")]
    pub(super) content: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    pub(super) encoded: Vec<u8>,
    #[prost(uint32, tag = "5")]
    pub(super) state: u32,
    #[prost(uint32, tag = "6")]
    pub(super) priority: u32,
    #[prost(uint64, tag = "7")]
    pub(super) created_at: u64,
    #[prost(uint64, optional, tag = "8")]
    pub(super) send_after: Option<u64>,
    #[prost(uint64, optional, tag = "9")]
    pub(super) expire_at: Option<u64>,
    #[prost(message, repeated, tag = "10")]
    pub(super) history: Vec<StepRow>,
    #[prost(uint32, tag = "11")]
    pub(super) attempts: u32,
    #[prost(message, optional, tag = "12")]
    pub(super) failure: Option<FailureRow>,
    #[prost(uint64, tag = "13")]
    pub(super) seq: u64,
    #[prost(message, optional, tag = "14")]
    pub(super) from: Option<PersonRow>,
    #[prost(bytes = "vec", optional, tag = "15")]
    pub(super) media: Option<Vec<u8>>,
    /// `encoded` does not say yet where the file lies.
    #[prost(bool, tag = "16")]
    pub(super) awaits_upload: bool,
}
first_version!(MessageRow, "message");

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct StepRow {
    #[prost(uint32, tag = "1")]
    pub(super) state: u32,
    #[prost(uint64, tag = "2")]
    pub(super) at: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct FailureRow {
    #[prost(string, tag = "1")]
    pub(super) reason: String,
    #[prost(uint32, optional, tag = "2")]
    pub(super) code: Option<u32>,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::store) struct OpenRow {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) chat: Vec<u8>,
    #[prost(uint32, tag = "3")]
    pub(super) priority: u32,
    #[prost(uint64, optional, tag = "4")]
    pub(super) send_after: Option<u64>,
    #[prost(uint64, optional, tag = "5")]
    pub(super) expire_at: Option<u64>,
    #[prost(uint32, tag = "6")]
    pub(super) state: u32,
    #[prost(bool, tag = "7")]
    pub(super) awaits_upload: bool,
}
first_version!(OpenRow, "queue entry");

#[derive(Clone, PartialEq, Message)]
pub(in crate::store) struct StanzaRow {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) id: Vec<u8>,
}
first_version!(StanzaRow, "stanza entry");

/// The numbers are on disk: never reuse or renumber one.
const STATES: [(u32, MessageState); 10] = [
    (1, MessageState::Queued),
    (2, MessageState::Sending),
    (3, MessageState::Sent),
    (4, MessageState::Delivered),
    (5, MessageState::Read),
    (6, MessageState::Played),
    (7, MessageState::Failed),
    (8, MessageState::Expired),
    (9, MessageState::Canceled),
    (10, MessageState::Unknown),
];

pub(super) fn state_number(state: MessageState) -> u32 {
    let found = STATES.iter().find(|(_, known)| *known == state);
    found.map_or(0, |(number, _)| *number)
}

pub(super) fn state_of(number: u32) -> Result<MessageState, StoreError> {
    let found = STATES.iter().find(|(known, _)| *known == number);
    found
        .map(|(_, state)| *state)
        .ok_or_else(|| StoreError::Damaged(format!("message state {number} is unknown")))
}

pub(super) fn priority_number(priority: Priority) -> u32 {
    match priority {
        Priority::Bulk => 1,
        Priority::Transactional => 2,
        Priority::Reply => 3,
    }
}

pub(super) fn priority_of(number: u32) -> Result<Priority, StoreError> {
    match number {
        1 => Ok(Priority::Bulk),
        2 => Ok(Priority::Transactional),
        3 => Ok(Priority::Reply),
        _ => Err(StoreError::Damaged(format!("priority {number} is unknown"))),
    }
}

pub(super) fn message_id(bytes: &[u8]) -> Result<MessageId, StoreError> {
    uuid::Uuid::from_slice(bytes)
        .map(MessageId)
        .map_err(|_| StoreError::Damaged("a message id is not a UUID".into()))
}

impl MessageRow {
    /// The file it carries.
    pub(super) fn media_id(&self) -> Result<Option<MediaId>, StoreError> {
        let damaged = |_| StoreError::Damaged("a file's id is not a UUID".into());
        let id = self.media.as_deref().map(uuid::Uuid::from_slice);
        Ok(id.transpose().map_err(damaged)?.map(MediaId))
    }

    pub(super) fn into_message(self, id: MessageId) -> Result<OutboundMessage, StoreError> {
        let media = self.media_id()?;
        let content = serde_json::from_slice(&self.content)
            .map_err(|error| StoreError::Damaged(format!("message {id}: {error}")))?;
        let mut history = Vec::with_capacity(self.history.len());
        for step in self.history {
            history.push((state_of(step.state)?, Timestamp(step.at)));
        }
        Ok(OutboundMessage {
            id,
            stanza_id: self.stanza_id,
            from: self.from.map(Person::from),
            to: self.to.map(Person::from).unwrap_or_default(),
            content,
            encoded: self.encoded,
            media,
            state: state_of(self.state)?,
            priority: priority_of(self.priority)?,
            created_at: Timestamp(self.created_at),
            send_after: self.send_after.map(Timestamp),
            expire_at: self.expire_at.map(Timestamp),
            history,
            attempts: self.attempts,
            failure: self.failure.map(|failure| FailureReason {
                reason: failure.reason,
                code: failure.code,
            }),
        })
    }

    pub(super) fn open_row(&self, id: MessageId, chat: Hash) -> OpenRow {
        OpenRow {
            id: id.0.as_bytes().to_vec(),
            chat: chat.0.to_vec(),
            priority: self.priority,
            send_after: self.send_after,
            expire_at: self.expire_at,
            state: self.state,
            awaits_upload: self.awaits_upload,
        }
    }
}
