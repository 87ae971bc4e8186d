//! Events as stored: rows, filter headers, numbers of types.

use crate::domain::clock::Timestamp;
use crate::domain::event::EventType;
use crate::store::engine::Revision;
use crate::store::key::Hash;
use crate::store::migrate::first_version;
use prost::Message;

/// The part of an event that filters look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Its revision.
    pub revision: Revision,
    /// Its type.
    pub event_type: EventType,
    /// The number of its session within the workspace; 0 for workspace-level events.
    pub(in crate::store) session: u64,
    /// The number of the subscription it concerns alone; 0: it concerns all.
    pub(in crate::store) subscription: u64,
    /// Its ordering key, hashed: equal exactly when the ordering keys are equal.
    pub key: Hash,
    /// When it was committed.
    pub at: Timestamp,
    /// Bytes of its rows.
    pub size: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::store) struct EventRow {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) event_id: Vec<u8>,
    #[prost(string, tag = "2")]
    pub(super) session: String,
    #[prost(string, tag = "3")]
    pub(super) ordering_key: String,
    #[prost(uint64, tag = "4")]
    pub(super) at: u64,
    /// The domain's own serialisation of the payload (JSON): it has one schema, not two.
    #[prost(bytes = "vec", tag = "5")]
    pub(super) payload: Vec<u8>,
}
first_version!(EventRow, "event");

#[derive(Clone, PartialEq, Message)]
pub(in crate::store) struct HeaderRow {
    #[prost(uint32, tag = "1")]
    pub(super) event_type: u32,
    #[prost(fixed64, tag = "2")]
    pub(super) session: u64,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) key: Vec<u8>,
    #[prost(uint64, tag = "4")]
    pub(super) at: u64,
    #[prost(uint64, tag = "5")]
    pub(super) size: u64,
    #[prost(uint64, tag = "6")]
    pub(super) subscription: u64,
}
first_version!(HeaderRow, "event header");

/// What the journal holds.
#[derive(Clone, PartialEq, Message)]
pub(in crate::store) struct StateRow {
    /// Everything below was removed.
    #[prost(uint64, tag = "1")]
    pub(in crate::store) removed_below: u64,
    #[prost(uint64, tag = "2")]
    pub(in crate::store) bytes: u64,
    #[prost(uint64, tag = "3")]
    pub(in crate::store) events: u64,
}
first_version!(StateRow, "journal state");

/// The numbers are on disk: never reuse or renumber one.
pub(in crate::store) fn type_number(event_type: EventType) -> u32 {
    match event_type {
        EventType::Message => 1,
        EventType::MessageStatus => 2,
        EventType::Receipt => 3,
        EventType::Edit => 4,
        EventType::Revoke => 5,
        EventType::Reaction => 6,
        EventType::Call => 7,
        EventType::Presence => 8,
        EventType::GroupChange => 9,
        EventType::ContactMapping => 10,
        EventType::Undecryptable => 11,
        EventType::SessionState => 12,
        EventType::Pairing => 13,
        EventType::Signal => 14,
        EventType::History => 15,
        EventType::AccountData => 16,
        EventType::Gap => 17,
    }
}

const TYPES: [EventType; 17] = [
    EventType::Message,
    EventType::MessageStatus,
    EventType::Receipt,
    EventType::Edit,
    EventType::Revoke,
    EventType::Reaction,
    EventType::Call,
    EventType::Presence,
    EventType::GroupChange,
    EventType::ContactMapping,
    EventType::Undecryptable,
    EventType::SessionState,
    EventType::Pairing,
    EventType::Signal,
    EventType::History,
    EventType::AccountData,
    EventType::Gap,
];

pub(in crate::store) fn type_of(number: u32) -> Option<EventType> {
    TYPES
        .into_iter()
        .find(|known| type_number(*known) == number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_a_number_of_its_own() {
        for event_type in TYPES {
            assert_eq!(type_of(type_number(event_type)), Some(event_type));
        }
        assert_eq!(type_of(0), None);
    }
}
