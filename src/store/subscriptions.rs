//! Subscriptions: durable consumer groups over a workspace's journal.
//!
//! Here is what survives a restart: the configuration, how far the group has come, attempts and dead
//! letters. Leases live in memory elsewhere and die with the daemon; an acknowledgement that arrives
//! after a restart is accepted all the same, because it names a revision.
//!
//! Confirmed revisions are kept as bitmaps of 4,096 ([`super::acks`]). A bitmap that is full at the
//! floor is deleted and the floor moves on; a full one above the floor shrinks to a mark.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::acks::{self, Chunk};
use super::engine::Revision;
use super::errors::{CreateError, LookupError, StoreError, UpdateError};
use super::journal::Filter;
use super::key::Kind;
use super::named::Named;
use super::page::{Page, PageRequest};
use super::requests::Remember;
use super::scope::Scope;
use super::workspace::{WorkspaceStore, stored_id};
use crate::domain::clock::Timestamp;
use crate::domain::ids::SubscriptionId;

mod delivery;
mod progress;
mod redrive;
mod rows;

pub use delivery::{Acknowledged, DeliveryFailure, DeliveryRecord, FailedDelivery};
pub use progress::Progress;
pub use redrive::{MAX_REDRIVEN, Redrive, Redriven};
use rows::StateRow;

/// The subscription every workspace has.
pub const DEFAULT_SUBSCRIPTION: &str = "default";

/// Where a new subscription begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAt {
    /// At the oldest event that is still there.
    Oldest,
    /// After the newest event.
    Newest,
    /// At this revision, inclusive.
    Revision(Revision),
}

/// How a subscription delivers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionConfig {
    /// Which events it wants.
    pub filter: Filter,
    /// How long a consumer may hold an event without a word.
    pub ack_deadline: Duration,
    /// After so many deliveries an event goes to the dead letters (0: never).
    pub max_attempts: u32,
    /// Undelivered events older than this are given up (`None`: as long as the journal holds them).
    pub retention: Option<Duration>,
}

impl Default for SubscriptionConfig {
    /// Every event, 60 seconds, 20 attempts, no retention of its own.
    fn default() -> Self {
        Self {
            filter: Filter::default(),
            ack_deadline: Duration::from_mins(1),
            max_attempts: 20,
            retention: None,
        }
    }
}

/// A subscription as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionRecord {
    /// Its id.
    pub id: SubscriptionId,
    /// How it delivers.
    pub config: SubscriptionConfig,
    /// When it was created.
    pub created_at: Timestamp,
    /// Changes with every update of the configuration.
    pub etag: String,
}

/// An event that was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Which one; readable from the journal while retention keeps it.
    pub revision: Revision,
    /// `UPPER_SNAKE`: `MAX_ATTEMPTS`, `REJECTED`, …
    pub reason: String,
    /// How often it was delivered.
    pub attempts: u32,
    /// When it was given up.
    pub at: Timestamp,
}

/// The subscriptions of a workspace.
#[derive(Debug, Clone)]
pub struct Subscriptions {
    workspace: WorkspaceStore,
    named: Named<SubscriptionRecord>,
}

impl Subscriptions {
    pub(super) fn new(workspace: WorkspaceStore) -> Self {
        Self {
            named: Named::new(workspace.clone()),
            workspace,
        }
    }

    fn scope(&self) -> &Scope {
        &self.workspace.0.root
    }

    fn state_key(&self, number: u64) -> Bytes {
        self.workspace
            .key(Kind::SubscriptionState)
            .u64(number)
            .finish()
    }

    /// Creates a subscription.
    ///
    /// # Errors
    /// [`CreateError::AlreadyExists`] when the id is taken in this workspace.
    pub async fn create(
        &self,
        id: &SubscriptionId,
        config: &SubscriptionConfig,
        start: StartAt,
    ) -> Result<SubscriptionRecord, CreateError> {
        let first = self.first(start).await?;
        self.create_at(id, config, first, None).await
    }

    /// Creates a subscription and remembers the answer to the request, in one commit. The answer is made
    /// of the record and its first revision.
    ///
    /// # Errors
    /// [`CreateError::AlreadyExists`] when the id is taken in this workspace.
    pub async fn create_once(
        &self,
        id: &SubscriptionId,
        config: &SubscriptionConfig,
        start: StartAt,
        remember: Remember<(SubscriptionRecord, Revision)>,
    ) -> Result<(SubscriptionRecord, Revision), CreateError> {
        let first = self.first(start).await?;
        let remember = remember
            .of(move |record: &SubscriptionRecord, encode| encode(&(record.clone(), first)));
        let record = self.create_at(id, config, first, Some(remember)).await?;
        Ok((record, first))
    }

    async fn first(&self, start: StartAt) -> Result<Revision, StoreError> {
        let size = self.workspace.journal().size().await?;
        Ok(match start {
            StartAt::Oldest => size.oldest,
            StartAt::Newest => size.newest + 1,
            StartAt::Revision(revision) => revision.max(1),
        })
    }

    async fn create_at(
        &self,
        id: &SubscriptionId,
        config: &SubscriptionConfig,
        first: Revision,
        remember: Option<Remember<SubscriptionRecord>>,
    ) -> Result<SubscriptionRecord, CreateError> {
        let record = SubscriptionRecord {
            id: id.clone(),
            config: config.clone(),
            created_at: self.workspace.now(),
            etag: String::new(),
        };
        let this = self.clone();
        let progress = move |number| this.new_progress(number, first);
        self.named
            .create(id.as_str(), record, progress, remember)
            .await
    }

    /// The rows that say where a new subscription begins.
    fn new_progress(
        &self,
        number: u64,
        first: Revision,
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let scope = self.scope();
        let state_key = self.state_key(number);
        let state = StateRow {
            floor_chunk: acks::chunk_of(first),
            ..StateRow::default()
        };
        let mut rows = vec![(state_key.clone(), scope.seal(&state_key, &state)?)];
        let chunk = Chunk::confirmed_below(first);
        if !chunk.is_empty() {
            let key = ack_key(&self.workspace, number, state.floor_chunk);
            rows.push((key.clone(), scope.seal(&key, &chunk.to_row())?));
        }
        Ok(rows)
    }

    /// Reads a subscription's record.
    ///
    /// # Errors
    /// [`LookupError::NotFound`] when this workspace has no such subscription.
    pub async fn get(&self, id: &SubscriptionId) -> Result<SubscriptionRecord, LookupError> {
        self.named.get(id.as_str()).await
    }

    /// Lists subscriptions in the order of their creation.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn list(
        &self,
        request: &PageRequest,
    ) -> Result<Page<SubscriptionRecord>, StoreError> {
        let (rows, next) = self.named.page(request).await?;
        let items = rows.into_iter().map(|(_, record)| record).collect();
        Ok(Page { items, next })
    }

    /// Changes a subscription's configuration: `change` edits what was read.
    ///
    /// # Errors
    /// [`UpdateError`] says whether it is missing or was changed by somebody else.
    pub async fn update(
        &self,
        id: &SubscriptionId,
        expected: Option<&str>,
        mut change: impl FnMut(&mut SubscriptionConfig) + Send,
    ) -> Result<SubscriptionRecord, UpdateError> {
        self.named
            .update(id.as_str(), expected, None, |record| {
                change(&mut record.config);
            })
            .await
    }

    /// Deletes a subscription with its progress. `default` cannot be deleted.
    ///
    /// # Errors
    /// [`UpdateError`] says whether it is missing, built in, or was changed by somebody else.
    pub async fn delete(
        &self,
        id: &SubscriptionId,
        expected: Option<&str>,
    ) -> Result<(), UpdateError> {
        self.delete_with(id, expected, None).await
    }

    /// Deletes a subscription and remembers the answer to the request, in one commit.
    ///
    /// # Errors
    /// [`UpdateError`] says whether it is missing, built in, or was changed by somebody else.
    pub async fn delete_once(
        &self,
        id: &SubscriptionId,
        expected: Option<&str>,
        remember: &Remember<()>,
    ) -> Result<(), UpdateError> {
        self.delete_with(id, expected, Some(remember)).await
    }

    async fn delete_with(
        &self,
        id: &SubscriptionId,
        expected: Option<&str>,
        remember: Option<&Remember<()>>,
    ) -> Result<(), UpdateError> {
        if id.as_str() == DEFAULT_SUBSCRIPTION {
            return Err(UpdateError::BuiltIn {
                what: self.named.resource_name(id.as_str()),
            });
        }
        let number = self
            .named
            .remove(id.as_str(), expected, remember, |txn, number| {
                txn.delete(self.state_key(number));
            })
            .await?;
        self.workspace.0.subscription_locks.remove(id);
        // Numbers are never reused, so a rest left by a crash here is only unreachable space that goes
        // with the workspace.
        for kind in [Kind::Ack, Kind::Attempt, Kind::Dead, Kind::Delivery] {
            let prefix = self.workspace.key(kind).u64(number).prefix();
            Scope::purge(&*self.scope().engine, &prefix).await?;
        }
        Ok(())
    }

    /// One subscription's progress.
    ///
    /// # Errors
    /// [`LookupError::NotFound`] when this workspace has no such subscription.
    pub async fn progress(&self, id: &SubscriptionId) -> Result<Progress, LookupError> {
        let number = self.named.number_of(id.as_str()).await?;
        let locks = &self.workspace.0.subscription_locks;
        let lock = Arc::clone(&*locks.entry(id.clone()).or_default());
        Ok(Progress {
            workspace: self.workspace.clone(),
            id: id.clone(),
            number,
            lock,
        })
    }

    /// The lowest revision that some subscription has not confirmed: everything below may go first.
    /// `default` counts when it was ever consumed, or when there is no other.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn lowest_unconfirmed(&self) -> Result<Revision, StoreError> {
        let mut lowest = self.workspace.journal().size().await?.newest + 1;
        let all = self.all_progress().await?;
        let alone = all.len() == 1;
        for (record, progress) in all {
            let untouched = record.id.as_str() == DEFAULT_SUBSCRIPTION && !alone;
            if untouched && !progress.was_consumed().await? {
                continue;
            }
            lowest = lowest.min(progress.confirmed().await?.floor());
        }
        Ok(lowest)
    }

    /// Every subscription with its progress.
    pub(super) async fn all_progress(
        &self,
    ) -> Result<Vec<(SubscriptionRecord, Progress)>, StoreError> {
        let mut all = Vec::new();
        let mut request = PageRequest::first(super::page::MAX_PAGE_SIZE);
        loop {
            let page = self.list(&request).await?;
            for record in page.items {
                match self.progress(&record.id).await {
                    Ok(progress) => all.push((record, progress)),
                    // Deleted meanwhile.
                    Err(LookupError::NotFound { .. }) => {}
                    Err(LookupError::Store(error)) => return Err(error),
                }
            }
            match page.next {
                Some(next) => request.after = Some(next),
                None => return Ok(all),
            }
        }
    }

    /// Makes sure `default` exists.
    pub(super) async fn ensure_default(&self) -> Result<(), StoreError> {
        let id = stored_id(SubscriptionId::new(DEFAULT_SUBSCRIPTION))?;
        match self.named.number_of(id.as_str()).await {
            Ok(_) => return Ok(()),
            Err(LookupError::NotFound { .. }) => {}
            Err(LookupError::Store(error)) => return Err(error),
        }
        match self
            .create(&id, &SubscriptionConfig::default(), StartAt::Oldest)
            .await
        {
            Ok(_) | Err(CreateError::AlreadyExists { .. }) => Ok(()),
            Err(CreateError::Store(error)) => Err(error),
        }
    }
}

fn ack_key(workspace: &WorkspaceStore, number: u64, chunk: u64) -> Bytes {
    workspace.key(Kind::Ack).u64(number).u64(chunk).finish()
}
