//! Sealed access to the rows of one workspace and session, and units of work over them.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::engine::{
    Append, AppendFn, Commit, CommitError, Committed, Engine, Expectation, Fence, RowError, Rows,
    Scan, UpdateFn, Urgency, Version,
};
use super::errors::StoreError;
use super::key::{Hash, KeyBuilder, Kind, kind_prefix};
use super::migrate::Record;
use super::seal::Sealer;

/// Where a handle may read and write: one workspace and one session in it (0: workspace-level rows).
#[derive(Debug, Clone)]
pub(super) struct Scope {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) sealer: Arc<Sealer>,
}

impl Scope {
    /// Starts a key of `kind` in this scope.
    pub(super) fn key(&self, kind: Kind) -> KeyBuilder {
        self.raw_key(kind as u8)
    }

    /// Starts a key of a numbered kind in this scope.
    pub(super) fn raw_key(&self, kind: u8) -> KeyBuilder {
        KeyBuilder::new(self.sealer.workspace(), kind, self.sealer.session())
    }

    /// The prefix of all rows of `kind` in this scope.
    pub(super) fn prefix(&self, kind: Kind) -> Bytes {
        kind_prefix(self.sealer.workspace(), kind as u8, self.sealer.session())
    }

    /// Hashes a name for use in a key.
    pub(super) fn hash(&self, parts: &[&[u8]]) -> Hash {
        self.sealer.index().hash(parts)
    }

    /// Seals a record for its key.
    pub(super) fn seal<R: Record>(&self, key: &[u8], record: &R) -> Result<Bytes, StoreError> {
        Ok(self.sealer.seal(key, R::VERSION, &record.write())?)
    }

    /// Opens a record found under `key`.
    pub(super) fn open<R: Record>(&self, key: &[u8], sealed: &[u8]) -> Result<R, StoreError> {
        let opened = self.sealer.open(key, sealed)?;
        Ok(R::decode(opened.version, &opened.plaintext)?)
    }

    /// Reads a record.
    pub(super) async fn get<R: Record>(&self, key: &[u8]) -> Result<Option<R>, StoreError> {
        match self.engine.get(key).await? {
            Some(sealed) => self.open(key, &sealed).map(Some),
            None => Ok(None),
        }
    }

    /// Reads one page of records.
    pub(super) async fn scan<R: Record>(
        &self,
        scan: Scan,
    ) -> Result<(Vec<(Bytes, R)>, bool), StoreError> {
        let Rows { rows, more } = self.engine.range(scan).await?;
        let mut records = Vec::with_capacity(rows.len());
        for (key, sealed) in rows {
            let record = self.open(&key, &sealed)?;
            records.push((key, record));
        }
        Ok((records, more))
    }

    /// Deletes everything that begins with `prefix`, page by page. Not atomic: a crash leaves a rest,
    /// so the caller keeps a mark that makes it run again.
    pub(super) async fn purge(engine: &dyn Engine, prefix: &[u8]) -> Result<u64, StoreError> {
        let mut removed = 0;
        loop {
            let page = engine.range(Scan::prefix(prefix, 500)).await?;
            let delete: Vec<_> = page.rows.into_iter().map(|(key, _)| key).collect();
            if delete.is_empty() {
                return Ok(removed);
            }
            removed += delete.len() as u64;
            let commit = Commit {
                delete,
                ..Commit::default()
            };
            engine.submit(commit, Urgency::Durable).await?.await?;
        }
    }
}

/// What a transaction came to.
#[derive(Debug)]
pub(super) enum TxnError {
    /// A row read or expected changed meanwhile: build the transaction again.
    Conflict,
    /// It failed for good.
    Store(StoreError),
}

/// How often a transaction is rebuilt before giving up.
pub(super) const ATTEMPTS: usize = 64;

/// A unit of work. Every row it reads must be unchanged when it commits; it sees its own writes.
#[derive(Debug)]
pub(super) struct Txn {
    engine: Arc<dyn Engine>,
    seen: HashMap<Bytes, Option<Bytes>>,
    absent: Vec<Bytes>,
    writes: HashMap<Bytes, Option<Bytes>>,
    rest: Commit,
}

impl Txn {
    pub(super) fn new(engine: Arc<dyn Engine>) -> Self {
        Self {
            engine,
            seen: HashMap::new(),
            absent: Vec::new(),
            writes: HashMap::new(),
            rest: Commit::default(),
        }
    }

    /// Refuses the commit unless the fence still holds.
    pub(super) fn fence(&mut self, fence: Option<Fence>) {
        self.rest.fence = fence;
    }

    /// Reads a record; the commit fails if the row changes before.
    pub(super) async fn get<R: Record>(
        &mut self,
        scope: &Scope,
        key: &Bytes,
    ) -> Result<Option<R>, StoreError> {
        match self.raw(key).await? {
            Some(sealed) => scope.open(key, &sealed).map(Some),
            None => Ok(None),
        }
    }

    /// Reads a sealed value; the commit fails if the row changes before.
    pub(super) async fn raw(&mut self, key: &Bytes) -> Result<Option<Bytes>, StoreError> {
        if let Some(written) = self.writes.get(key) {
            return Ok(written.clone());
        }
        if let Some(seen) = self.seen.get(key) {
            return Ok(seen.clone());
        }
        let value = self.engine.get(key).await?;
        self.seen.insert(key.clone(), value.clone());
        Ok(value)
    }

    /// Refuses the commit if `key` exists, without reading it first.
    pub(super) fn expect_absent(&mut self, key: Bytes) {
        if !self.seen.contains_key(&key) {
            self.absent.push(key);
        }
    }

    /// Sets a record and returns its version.
    pub(super) fn put<R: Record>(
        &mut self,
        scope: &Scope,
        key: Bytes,
        record: &R,
    ) -> Result<Version, StoreError> {
        let sealed = scope.seal(&key, record)?;
        let version = Version::of(&sealed);
        self.writes.insert(key, Some(sealed));
        Ok(version)
    }

    /// Sets an already sealed value.
    pub(super) fn put_raw(&mut self, key: Bytes, value: Bytes) {
        self.writes.insert(key, Some(value));
    }

    /// Removes a row.
    pub(super) fn delete(&mut self, key: Bytes) {
        self.writes.insert(key, None);
    }

    /// Computes a record from its value at commit time; does not conflict with others doing the same.
    pub(super) fn update<R, F>(&mut self, scope: &Scope, key: Bytes, change: F)
    where
        R: Record + Default,
        F: FnOnce(&mut R) + Send + 'static,
    {
        let (scope, at) = (scope.clone(), key.clone());
        let update: UpdateFn = Box::new(move |current| {
            let fail = |error: StoreError| RowError(error.to_string());
            let mut record = match current {
                Some(sealed) => scope.open::<R>(&at, sealed).map_err(fail)?,
                None => R::default(),
            };
            change(&mut record);
            scope.seal(&at, &record).map(Some).map_err(fail)
        });
        self.rest.update.push((key, update));
    }

    /// Computes a sealed value from its current one at commit time.
    pub(super) fn update_raw(&mut self, key: Bytes, update: UpdateFn) {
        self.rest.update.push((key, update));
    }

    /// Appends to a stream; returns the entry's position in the answer's revisions.
    pub(super) fn append(&mut self, stream: Bytes, rows: AppendFn) -> usize {
        self.rest.append.push(Append { stream, rows });
        self.rest.append.len() - 1
    }

    /// The commit this amounts to.
    pub(super) fn into_commit(self) -> Commit {
        let mut commit = self.rest;
        for (key, value) in self.seen {
            let expectation = value.map_or(Expectation::Absent, Expectation::Equals);
            commit.expect.push((key, expectation));
        }
        for key in self.absent {
            commit.expect.push((key, Expectation::Absent));
        }
        for (key, value) in self.writes {
            match value {
                Some(value) => commit.put.push((key, value)),
                None => commit.delete.push(key),
            }
        }
        commit
    }

    /// Commits and waits until it is durable.
    pub(super) async fn commit(self) -> Result<Committed, TxnError> {
        let engine = Arc::clone(&self.engine);
        let commit = self.into_commit();
        if commit.is_empty() {
            return Ok(Committed::default());
        }
        match engine.commit(commit).await {
            Ok(committed) => Ok(committed),
            Err(CommitError::ExpectationFailed { .. }) => Err(TxnError::Conflict),
            Err(error) => Err(TxnError::Store(error.into())),
        }
    }
}
