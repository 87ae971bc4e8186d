//! Daily usage counters of a workspace: for quotas that must survive a restart.

use bytes::Bytes;
use prost::Message;

use super::engine::{Scan, Urgency};
use super::errors::StoreError;
use super::key::{Hash, Kind};
use super::migrate::first_version;
use super::scope::Txn;
use super::workspace::WorkspaceStore;
use crate::domain::clock::Timestamp;
use crate::domain::ids::SessionId;

/// Days since the Unix epoch, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(pub u32);

impl Day {
    /// The day a moment falls on.
    pub fn of(at: Timestamp) -> Self {
        Self(u32::try_from(at.secs() / 86_400).unwrap_or(u32::MAX))
    }
}

/// What was counted for one subject on one day.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Counters {
    /// Messages accepted into the outbox.
    #[prost(uint64, tag = "1")]
    pub enqueued: u64,
    /// Messages the server accepted.
    #[prost(uint64, tag = "2")]
    pub sent: u64,
    /// Messages that failed, expired or were canceled.
    #[prost(uint64, tag = "3")]
    pub failed: u64,
    /// Messages that arrived.
    #[prost(uint64, tag = "4")]
    pub received: u64,
    /// Conversations opened with somebody never written to before.
    #[prost(uint64, tag = "5")]
    pub new_contacts: u64,
}
first_version!(Counters, "usage");

impl Counters {
    fn add(&mut self, other: &Self) {
        self.enqueued += other.enqueued;
        self.sent += other.sent;
        self.failed += other.failed;
        self.received += other.received;
        self.new_contacts += other.new_contacts;
    }

    pub(super) fn is_zero(&self) -> bool {
        *self == Self::default()
    }
}

/// The usage counters of a workspace. Days end at midnight UTC.
#[derive(Debug, Clone)]
pub struct Usage {
    workspace: WorkspaceStore,
}

impl Usage {
    pub(super) fn new(workspace: WorkspaceStore) -> Self {
        Self { workspace }
    }

    fn key(&self, day: Day, subject: Hash) -> Bytes {
        let key = self.workspace.key(Kind::Usage).u32(day.0);
        key.hash(subject).finish()
    }

    fn session(&self, session: &SessionId) -> Hash {
        let parts: [&[u8]; 2] = [b"usage session", session.as_str().as_bytes()];
        self.workspace.0.root.hash(&parts)
    }

    fn whole(&self) -> Hash {
        self.workspace.0.root.hash(&[b"usage workspace"])
    }

    /// Counts in a transaction, for the session and for the workspace.
    pub(super) fn add_in(&self, txn: &mut Txn, session: &SessionId, counters: Counters) {
        if counters.is_zero() {
            return;
        }
        let day = Day::of(self.workspace.now());
        for subject in [self.session(session), self.whole()] {
            let key = self.key(day, subject);
            txn.update(&self.workspace.0.root, key, move |row: &mut Counters| {
                row.add(&counters);
            });
        }
    }

    /// Counts by itself, without waiting for the disk.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn add(&self, session: &SessionId, counters: Counters) -> Result<(), StoreError> {
        let mut txn = Txn::new(self.workspace.0.context.engine.clone());
        self.add_in(&mut txn, session, counters);
        let engine = &self.workspace.0.context.engine;
        engine.submit(txn.into_commit(), Urgency::Lazy).await?;
        Ok(())
    }

    /// What a session used on a day.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn of_session(&self, session: &SessionId, day: Day) -> Result<Counters, StoreError> {
        let key = self.key(day, self.session(session));
        Ok(self.workspace.0.root.get(&key).await?.unwrap_or_default())
    }

    /// What the whole workspace used on a day.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn of_workspace(&self, day: Day) -> Result<Counters, StoreError> {
        let key = self.key(day, self.whole());
        Ok(self.workspace.0.root.get(&key).await?.unwrap_or_default())
    }

    /// Removes the counters of all days before `day`, at most one page a call; whether there is more.
    pub(super) async fn remove_before(&self, day: Day) -> Result<bool, StoreError> {
        let scan = Scan {
            start: self.workspace.0.root.prefix(Kind::Usage),
            end: self.workspace.key(Kind::Usage).u32(day.0).prefix(),
            limit: 500,
            reverse: false,
        };
        super::sweeper::delete_page(&*self.workspace.0.context.engine, scan).await
    }
}
