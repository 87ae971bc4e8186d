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
use super::engine::{Revision, RowError, Scan, Version};
use super::errors::{CreateError, LookupError, StoreError, UpdateError};
use super::journal::Filter;
use super::key::{Kind, trailing_u64};
use super::page::{Page, PageRequest, PageToken};
use super::scope::{ATTEMPTS, Scope, Txn, TxnError};
use super::sessions::NumberRow;
use super::workspace::{WorkspaceStore, etag, stored_id};
use crate::domain::clock::Timestamp;
use crate::domain::ids::SubscriptionId;

mod progress;
mod rows;

pub use progress::Progress;
use rows::{StateRow, SubscriptionRow};

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
}

impl Subscriptions {
    pub(super) fn new(workspace: WorkspaceStore) -> Self {
        Self { workspace }
    }

    fn scope(&self) -> &Scope {
        &self.workspace.0.root
    }

    fn name_key(&self, id: &SubscriptionId) -> Bytes {
        let hash = self
            .scope()
            .hash(&[b"subscription", id.as_str().as_bytes()]);
        self.workspace
            .key(Kind::SubscriptionName)
            .hash(hash)
            .finish()
    }

    fn row_key(&self, number: u64) -> Bytes {
        self.workspace.key(Kind::Subscription).u64(number).finish()
    }

    fn state_key(&self, number: u64) -> Bytes {
        self.workspace
            .key(Kind::SubscriptionState)
            .u64(number)
            .finish()
    }

    fn resource(&self, id: &SubscriptionId) -> String {
        format!("workspaces/{}/subscriptions/{id}", self.workspace.id())
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
        let size = self.workspace.journal().size().await?;
        let first = match start {
            StartAt::Oldest => size.oldest,
            StartAt::Newest => size.newest + 1,
            StartAt::Revision(revision) => revision.max(1),
        };
        let row = SubscriptionRow::new(id, config, self.workspace.now());
        let name_key = self.name_key(id);
        let mut txn = Txn::new(self.scope().engine.clone());
        txn.expect_absent(name_key.clone());
        let this = self.clone();
        txn.append(
            self.workspace.key(Kind::SubscriptionNumbers).finish(),
            Box::new(move |number| {
                this.new_rows(number, &name_key, &row, first)
                    .map_err(|error| RowError(error.to_string()))
            }),
        );
        match txn.commit().await {
            Ok(_) => match self.get(id).await {
                Ok(record) => Ok(record),
                Err(LookupError::Store(error)) => Err(error.into()),
                Err(LookupError::NotFound { .. }) => Err(StoreError::Contended.into()),
            },
            Err(TxnError::Conflict) => Err(CreateError::AlreadyExists {
                what: self.resource(id),
            }),
            Err(TxnError::Store(error)) => Err(error.into()),
        }
    }

    fn new_rows(
        &self,
        number: u64,
        name_key: &Bytes,
        row: &SubscriptionRow,
        first: Revision,
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let scope = self.scope();
        let (row_key, state_key) = (self.row_key(number), self.state_key(number));
        let state = StateRow {
            floor_chunk: acks::chunk_of(first),
            epoch: 0,
        };
        let mut rows = vec![
            (
                name_key.clone(),
                scope.seal(name_key, &NumberRow { number })?,
            ),
            (row_key.clone(), scope.seal(&row_key, row)?),
            (state_key.clone(), scope.seal(&state_key, &state)?),
        ];
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
        let number = self.number_of(id).await?;
        let key = self.row_key(number);
        let sealed = self
            .scope()
            .engine
            .get(&key)
            .await
            .map_err(StoreError::from)?;
        let sealed = sealed.ok_or_else(|| LookupError::NotFound {
            what: self.resource(id),
        })?;
        let row: SubscriptionRow = self.scope().open(&key, &sealed)?;
        Ok(row.into_record(Version::of(&sealed))?)
    }

    async fn number_of(&self, id: &SubscriptionId) -> Result<u64, LookupError> {
        let row: Option<NumberRow> = self.scope().get(&self.name_key(id)).await?;
        row.map(|row| row.number)
            .ok_or_else(|| LookupError::NotFound {
                what: self.resource(id),
            })
    }

    /// Lists subscriptions in the order of their creation.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn list(
        &self,
        request: &PageRequest,
    ) -> Result<Page<SubscriptionRecord>, StoreError> {
        let mut scan = Scan::prefix(&self.scope().prefix(Kind::Subscription), request.rows());
        if let Some(number) = request.after.as_ref().and_then(PageToken::number) {
            scan = scan.after(&self.row_key(number));
        }
        let page = self.scope().engine.range(scan).await?;
        let mut items = Vec::with_capacity(page.rows.len());
        let mut last = None;
        for (key, sealed) in &page.rows {
            let row: SubscriptionRow = self.scope().open(key, sealed)?;
            items.push(row.into_record(Version::of(sealed))?);
            last = trailing_u64(key);
        }
        let next = last
            .filter(|_| page.more)
            .map(|number| PageToken::new(number.to_be_bytes()));
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
        for _ in 0..ATTEMPTS {
            let mut txn = Txn::new(self.scope().engine.clone());
            let (number, mut record) = self.read_in(&mut txn, id, expected).await?;
            change(&mut record.config);
            let row = SubscriptionRow::new(id, &record.config, record.created_at);
            record.etag = etag(txn.put(self.scope(), self.row_key(number), &row)?);
            match txn.commit().await {
                Ok(_) => return Ok(record),
                Err(TxnError::Conflict) => {}
                Err(TxnError::Store(error)) => return Err(error.into()),
            }
        }
        Err(StoreError::Contended.into())
    }

    async fn read_in(
        &self,
        txn: &mut Txn,
        id: &SubscriptionId,
        expected: Option<&str>,
    ) -> Result<(u64, SubscriptionRecord), UpdateError> {
        let missing = || UpdateError::NotFound {
            what: self.resource(id),
        };
        let name: Option<NumberRow> = txn.get(self.scope(), &self.name_key(id)).await?;
        let number = name.ok_or_else(missing)?.number;
        let key = self.row_key(number);
        let sealed = txn.raw(&key).await?.ok_or_else(missing)?;
        let row: SubscriptionRow = self.scope().open(&key, &sealed)?;
        let record = row.into_record(Version::of(&sealed))?;
        match expected {
            Some(expected) if expected != record.etag => Err(UpdateError::EtagMismatch {
                what: self.resource(id),
                current: record.etag,
            }),
            _ => Ok((number, record)),
        }
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
        if id.as_str() == DEFAULT_SUBSCRIPTION {
            return Err(UpdateError::BuiltIn {
                what: self.resource(id),
            });
        }
        for _ in 0..ATTEMPTS {
            let mut txn = Txn::new(self.scope().engine.clone());
            let (number, _) = self.read_in(&mut txn, id, expected).await?;
            txn.delete(self.name_key(id));
            txn.delete(self.row_key(number));
            txn.delete(self.state_key(number));
            match txn.commit().await {
                Ok(_) => {
                    self.workspace.0.subscription_locks.remove(id);
                    // Numbers are never reused, so a rest left by a crash here is only unreachable
                    // space that goes with the workspace.
                    for kind in [Kind::Ack, Kind::Attempt, Kind::Dead] {
                        let prefix = self.workspace.key(kind).u64(number).prefix();
                        Scope::purge(&*self.scope().engine, &prefix).await?;
                    }
                    return Ok(());
                }
                Err(TxnError::Conflict) => {}
                Err(TxnError::Store(error)) => return Err(error.into()),
            }
        }
        Err(StoreError::Contended.into())
    }

    /// One subscription's progress.
    ///
    /// # Errors
    /// [`LookupError::NotFound`] when this workspace has no such subscription.
    pub async fn progress(&self, id: &SubscriptionId) -> Result<Progress, LookupError> {
        let number = self.number_of(id).await?;
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
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn lowest_unconfirmed(&self) -> Result<Revision, StoreError> {
        let mut lowest = self.workspace.journal().size().await?.newest + 1;
        let mut request = PageRequest::first(super::page::MAX_PAGE_SIZE);
        loop {
            let page = self.list(&request).await?;
            for record in &page.items {
                match self.progress(&record.id).await {
                    Ok(progress) => lowest = lowest.min(progress.confirmed().await?.floor()),
                    Err(LookupError::NotFound { .. }) => {}
                    Err(LookupError::Store(error)) => return Err(error),
                }
            }
            match page.next {
                Some(next) => request.after = Some(next),
                None => return Ok(lowest),
            }
        }
    }

    /// Makes sure `default` exists.
    pub(super) async fn ensure_default(&self) -> Result<(), StoreError> {
        let id = stored_id(SubscriptionId::new(DEFAULT_SUBSCRIPTION))?;
        if self
            .scope()
            .get::<NumberRow>(&self.name_key(&id))
            .await?
            .is_some()
        {
            return Ok(());
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
