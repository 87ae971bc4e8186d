//! The library's types into the domain's, one file per kind of thing.

pub(super) mod content;
pub(super) mod event;
pub(super) mod media;
pub(super) mod message;
pub(super) mod outbound;
pub(super) mod person;
pub(super) mod receipt;

use whatsapp_rust::wacore::chrono::{DateTime, Utc};

use crate::domain::clock::Timestamp;

/// A time as the library carries it.
pub(super) fn time(at: DateTime<Utc>) -> Timestamp {
    Timestamp(u64::try_from(at.timestamp_millis()).unwrap_or(0))
}
