//! Subscriptions as stored.

use super::{SubscriptionConfig, SubscriptionRecord};
use crate::domain::clock::Timestamp;
use crate::domain::ids::{SessionId, SubscriptionId};
use crate::store::errors::StoreError;
use crate::store::journal::{Filter, type_number, type_of};
use crate::store::key::Kind;
use crate::store::migrate::first_version;
use crate::store::named::{Family, Resource};
use crate::store::workspace::{WorkspaceStore, stored_id};
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
    /// The first unconfirmed event that retention removed and that nobody was told of; 0: none.
    #[prost(uint64, tag = "3")]
    pub(super) lost_from: u64,
    /// The last one.
    #[prost(uint64, tag = "4")]
    pub(super) lost_to: u64,
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

impl Resource for SubscriptionRecord {
    type Row = SubscriptionRow;
    const FAMILY: Family = Family {
        names: Kind::SubscriptionName,
        rows: Kind::Subscription,
        numbers: Kind::SubscriptionNumbers,
        word: "subscription",
        plural: "subscriptions",
    };

    fn to_row(&self) -> SubscriptionRow {
        let config = &self.config;
        let types = config.filter.types.iter();
        let sessions = config.filter.sessions.iter();
        SubscriptionRow {
            id: self.id.as_str().to_owned(),
            types: types.map(|known| type_number(*known)).collect(),
            sessions: sessions.map(ToString::to_string).collect(),
            ack_deadline_ms: millis(config.ack_deadline),
            max_attempts: config.max_attempts,
            retention_ms: config.retention.map(millis),
            created_at: self.created_at.0,
        }
    }

    fn from_row(row: SubscriptionRow, _: &WorkspaceStore) -> Result<Self, StoreError> {
        let mut filter = Filter::default();
        for number in row.types {
            let known = type_of(number).ok_or_else(|| {
                StoreError::Damaged(format!("a subscription filters by unknown type {number}"))
            })?;
            filter.types.insert(known);
        }
        for session in row.sessions {
            filter.sessions.insert(stored_id(SessionId::new(session))?);
        }
        Ok(Self {
            id: stored_id(SubscriptionId::new(row.id))?,
            config: SubscriptionConfig {
                filter,
                ack_deadline: Duration::from_millis(row.ack_deadline_ms),
                max_attempts: row.max_attempts,
                retention: row.retention_ms.map(Duration::from_millis),
            },
            created_at: Timestamp(row.created_at),
            etag: String::new(),
        })
    }

    fn etag_mut(&mut self) -> &mut String {
        &mut self.etag
    }
}
