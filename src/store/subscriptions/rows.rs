//! Subscriptions as stored.

use super::{SubscriptionConfig, SubscriptionRecord};
use crate::domain::clock::Timestamp;
use crate::domain::ids::{SessionId, SubscriptionId};
use crate::store::engine::Version;
use crate::store::errors::StoreError;
use crate::store::journal::{Filter, type_number, type_of};
use crate::store::migrate::first_version;
use crate::store::workspace::{etag, stored_id};
use prost::Message;
use std::time::Duration;

#[derive(Clone, PartialEq, Message)]
pub(in crate::store) struct SubscriptionRow {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(uint32, repeated, tag = "2")]
    pub(super) types: Vec<u32>,
    #[prost(string, repeated, tag = "3")]
    pub(super) sessions: Vec<String>,
    #[prost(uint64, tag = "4")]
    pub(super) ack_deadline_ms: u64,
    #[prost(uint32, tag = "5")]
    pub(super) max_attempts: u32,
    #[prost(uint64, optional, tag = "6")]
    pub(super) retention_ms: Option<u64>,
    #[prost(uint64, tag = "7")]
    pub(super) created_at: u64,
}
first_version!(SubscriptionRow, "subscription");

/// How far a subscription has come.
#[derive(Clone, Copy, PartialEq, Message)]
pub(in crate::store) struct StateRow {
    /// All chunks below are confirmed.
    #[prost(uint64, tag = "1")]
    pub(super) floor_chunk: u64,
    #[prost(uint64, tag = "2")]
    pub(super) epoch: u64,
}
first_version!(StateRow, "subscription state");

#[derive(Clone, PartialEq, Message)]
pub(in crate::store) struct DeadRow {
    #[prost(string, tag = "1")]
    pub(super) reason: String,
    #[prost(uint32, tag = "2")]
    pub(super) attempts: u32,
    #[prost(uint64, tag = "3")]
    pub(super) at: u64,
}
first_version!(DeadRow, "dead letter");

#[derive(Clone, Copy, PartialEq, Message)]
pub(in crate::store) struct AttemptRow {
    #[prost(uint32, tag = "1")]
    pub(super) count: u32,
}
first_version!(AttemptRow, "attempt");

pub(super) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

impl SubscriptionRow {
    pub(super) fn new(
        id: &SubscriptionId,
        config: &SubscriptionConfig,
        created_at: Timestamp,
    ) -> Self {
        Self {
            id: id.as_str().to_owned(),
            types: config
                .filter
                .types
                .iter()
                .map(|t| type_number(*t))
                .collect(),
            sessions: config
                .filter
                .sessions
                .iter()
                .map(ToString::to_string)
                .collect(),
            ack_deadline_ms: millis(config.ack_deadline),
            max_attempts: config.max_attempts,
            retention_ms: config.retention.map(millis),
            created_at: created_at.0,
        }
    }

    pub(super) fn into_record(self, version: Version) -> Result<SubscriptionRecord, StoreError> {
        let mut filter = Filter::default();
        for number in self.types {
            let known = type_of(number).ok_or_else(|| {
                StoreError::Damaged(format!("a subscription filters by unknown type {number}"))
            })?;
            filter.types.insert(known);
        }
        for session in self.sessions {
            filter.sessions.insert(stored_id(SessionId::new(session))?);
        }
        Ok(SubscriptionRecord {
            id: stored_id(SubscriptionId::new(self.id))?,
            config: SubscriptionConfig {
                filter,
                ack_deadline: Duration::from_millis(self.ack_deadline_ms),
                max_attempts: self.max_attempts,
                retention: self.retention_ms.map(Duration::from_millis),
            },
            created_at: Timestamp(self.created_at),
            etag: etag(version),
        })
    }
}
