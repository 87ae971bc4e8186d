//! What is remembered of each event's delivery, for people who ask what became of a message.
//!
//! It is written with the progress it tells of, in the same commits, and goes with the event. Nothing depends on
//! it: after a crash a failure may be missing, and of an event that nobody settled only its failures are here.

use prost::Message;

use super::Progress;
use crate::domain::clock::Timestamp;
use crate::store::engine::Revision;
use crate::store::errors::StoreError;
use crate::store::key::Kind;
use crate::store::migrate::first_version;
use crate::store::scope::Txn;

/// How a delivery failed. The numbers are on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryFailure {
    /// The consumer refused it.
    Refused,
    /// Nobody settled it in time.
    DeadlinePassed,
    /// The stream it was leased to broke.
    StreamEnded,
}

impl DeliveryFailure {
    const ALL: [Self; 3] = [Self::Refused, Self::DeadlinePassed, Self::StreamEnded];

    fn number(self) -> u32 {
        match self {
            Self::Refused => 1,
            Self::DeadlinePassed => 2,
            Self::StreamEnded => 3,
        }
    }

    fn of(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.number() == number)
    }
}

/// A delivery that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailedDelivery {
    /// The event.
    pub revision: Revision,
    /// When it was first leased, if that is known.
    pub first_leased: Option<Timestamp>,
    /// How it failed.
    pub failure: DeliveryFailure,
    /// When it failed.
    pub at: Timestamp,
}

/// An event that was acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acknowledged {
    /// The event.
    pub revision: Revision,
    /// When it was first leased, if that is known.
    pub first_leased: Option<Timestamp>,
    /// Whether a delivery of it failed before: then something is remembered of it already.
    pub failed_before: bool,
}

/// What is remembered of an event's delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeliveryRecord {
    /// When it was first leased.
    pub first_leased: Option<Timestamp>,
    /// Deliveries that failed.
    pub failures: u32,
    /// The last of them.
    pub last_failure: Option<(DeliveryFailure, Timestamp)>,
    /// When it was acknowledged.
    pub acknowledged: Option<Timestamp>,
    /// When it was given up.
    pub given_up: Option<Timestamp>,
}

/// The same as stored; 0 stands for what is not known.
#[derive(Clone, Copy, PartialEq, Message)]
pub(in crate::store) struct DeliveryRow {
    #[prost(uint64, tag = "1")]
    first_leased: u64,
    #[prost(uint32, tag = "2")]
    failures: u32,
    #[prost(uint32, tag = "3")]
    last_failure: u32,
    #[prost(uint64, tag = "4")]
    failed: u64,
    #[prost(uint64, tag = "5")]
    acknowledged: u64,
    #[prost(uint64, tag = "6")]
    given_up: u64,
}
first_version!(DeliveryRow, "delivery");

impl DeliveryRow {
    fn lease(&mut self, first: Option<Timestamp>) {
        if self.first_leased == 0 {
            self.first_leased = first.map_or(0, |first| first.0);
        }
    }
}

fn known(at: u64) -> Option<Timestamp> {
    (at != 0).then_some(Timestamp(at))
}

impl Progress {
    /// What is remembered of an event's delivery; nothing when it was never settled and never failed.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn delivery(&self, revision: Revision) -> Result<Option<DeliveryRecord>, StoreError> {
        let key = self.key(Kind::Delivery, revision);
        let row: Option<DeliveryRow> = self.scope().get(&key).await?;
        Ok(row.map(|row| DeliveryRecord {
            first_leased: known(row.first_leased),
            failures: row.failures,
            last_failure: DeliveryFailure::of(row.last_failure).zip(known(row.failed)),
            acknowledged: known(row.acknowledged),
            given_up: known(row.given_up),
        }))
    }

    /// Adds failures to a transaction.
    pub(super) fn remember_failure(&self, txn: &mut Txn, failed: FailedDelivery) {
        let key = self.key(Kind::Delivery, failed.revision);
        txn.update(self.scope(), key, move |row: &mut DeliveryRow| {
            row.lease(failed.first_leased);
            row.failures = row.failures.saturating_add(1);
            row.last_failure = failed.failure.number();
            row.failed = failed.at.0;
        });
    }

    /// Adds an ack to a transaction.
    pub(super) fn remember_ack(&self, txn: &mut Txn, ack: Acknowledged) -> Result<(), StoreError> {
        let key = self.key(Kind::Delivery, ack.revision);
        let now = self.workspace.now().0;
        if ack.failed_before {
            txn.update(self.scope(), key, move |row: &mut DeliveryRow| {
                row.lease(ack.first_leased);
                row.acknowledged = now;
            });
            return Ok(());
        }
        // Nothing is there to be kept: spares the writer a look.
        let mut row = DeliveryRow {
            acknowledged: now,
            ..DeliveryRow::default()
        };
        row.lease(ack.first_leased);
        txn.put(self.scope(), key, &row)?;
        Ok(())
    }

    /// Adds to a transaction that an event was given up.
    pub(super) fn remember_end(&self, txn: &mut Txn, revision: Revision) {
        let now = self.workspace.now().0;
        let key = self.key(Kind::Delivery, revision);
        txn.update(self.scope(), key, move |row: &mut DeliveryRow| {
            row.given_up = now;
        });
    }
}
