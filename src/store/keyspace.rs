//! A session's key space: the sealed rows in which a provider keeps its protocol state.
//!
//! Rows are addressed by a [`KeyKind`] and a [`KeyId`]; names in an id (JIDs, addresses, stanza ids)
//! are hashed under the session's index key before they become part of a key. Three durabilities:
//!
//! | | visible to reads | on disk |
//! |---|---|---|
//! | [`Durability::Durable`] | on return | on return |
//! | [`Durability::Ordered`] | on return | no later than any later durable write, 50 ms at most |
//! | [`Durability::Deferred`] | on return | with this session's next durable or ordered write; rows that are deleted before that never reach the disk |
//!
//! After a crash the surviving writes of a session are always a prefix of what was written.

use std::collections::BTreeMap;

use bytes::Bytes;
use tokio::sync::{Mutex, oneshot};

use super::apply::SealedWrites;
use super::engine::{
    Commit, CommitError, MAX_COMMIT_BYTES, MAX_COMMIT_KEYS, RowError, Scan, Urgency,
};
use super::errors::StoreError;
use super::key::Kind;
use super::scope::Scope;
use super::session::SessionStore;
use super::sweeper;
use crate::domain::clock::Timestamp;

mod deferred;
mod id;

pub(super) use deferred::{Deferred, SharedDeferred};
pub(super) use id::KIND_COUNT;
pub use id::{Durability, KeyBatch, KeyId, KeyKind, RawId};
use id::{Part, Target};

/// Schema version of a plain value.
const PLAIN: u8 = 1;
/// Schema version of a value that begins with its deadline (eight bytes, milliseconds).
const EXPIRING: u8 = 2;

/// One listed row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyEntry {
    /// Its id, as far as it can be read back.
    pub id: RawId,
    /// Its value.
    pub value: Bytes,
}

/// A session's key space. Cheap to clone.
#[derive(Debug, Clone)]
pub struct KeySpace {
    session: SessionStore,
}

impl KeySpace {
    pub(super) fn new(session: SessionStore) -> Self {
        Self { session }
    }

    fn scope(&self) -> &Scope {
        self.session.scope()
    }

    fn deferred(&self) -> &Mutex<Deferred> {
        self.session.deferred()
    }

    fn key(&self, kind: KeyKind, id: &KeyId) -> Bytes {
        self.builder(kind, id).finish()
    }

    fn builder(&self, kind: KeyKind, id: &KeyId) -> super::key::KeyBuilder {
        let start = self.scope().raw_key(raw_kind(kind));
        id.0.iter().fold(start, |key, part| match part {
            Part::Name(name) => key.hash(self.scope().hash(&[&[kind as u8], name])),
            Part::U16(number) => key.u16(*number),
            Part::U32(number) => key.u32(*number),
            Part::U64(number) => key.u64(*number),
        })
    }

    fn seal(
        &self,
        key: &Bytes,
        value: &[u8],
        expires: Option<Timestamp>,
    ) -> Result<Bytes, StoreError> {
        match expires {
            None => Ok(self.scope().sealer.seal(key, PLAIN, value)?),
            Some(at) => {
                let mut body = at.0.to_be_bytes().to_vec();
                body.extend_from_slice(value);
                Ok(self.scope().sealer.seal(key, EXPIRING, &body)?)
            }
        }
    }

    fn open(&self, key: &[u8], sealed: &[u8]) -> Result<Bytes, StoreError> {
        Ok(open_value(self.scope(), key, sealed)?.0)
    }

    /// Reads a row.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn get(&self, kind: KeyKind, id: &KeyId) -> Result<Option<Bytes>, StoreError> {
        let key = self.key(kind, id);
        let waiting = self.deferred().lock().await.rows.get(&key).cloned();
        let sealed = match waiting {
            Some(value) => value,
            None => self.scope().engine.get(&key).await?,
        };
        sealed.map(|sealed| self.open(&key, &sealed)).transpose()
    }

    /// Reads several rows, in the same order.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn get_many(
        &self,
        kind: KeyKind,
        ids: &[KeyId],
    ) -> Result<Vec<Option<Bytes>>, StoreError> {
        let keys: Vec<_> = ids.iter().map(|id| self.key(kind, id)).collect();
        let waiting: Vec<_> = {
            let deferred = self.deferred().lock().await;
            keys.iter()
                .map(|key| deferred.rows.get(key).cloned())
                .collect()
        };
        let stored = self.scope().engine.get_many(&keys).await?;
        keys.iter()
            .zip(waiting)
            .zip(stored)
            .map(|((key, waiting), stored)| {
                let sealed = waiting.unwrap_or(stored);
                sealed.map(|sealed| self.open(key, &sealed)).transpose()
            })
            .collect()
    }

    /// Whether a row exists.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn contains(&self, kind: KeyKind, id: &KeyId) -> Result<bool, StoreError> {
        Ok(self.get(kind, id).await?.is_some())
    }

    /// Lists rows of a kind whose ids begin with `under` ([`KeyId::single`]: all of them), in key
    /// order: numbers ascend, hashed names have no meaningful order. Deferred rows are written first.
    /// Returns at most `limit` rows (1,000 at most); pass the last id as `after` to go on.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn list(
        &self,
        kind: KeyKind,
        under: &KeyId,
        after: Option<&RawId>,
        limit: usize,
    ) -> Result<Vec<KeyEntry>, StoreError> {
        self.flush_deferred().await?;
        let mut scan = Scan::prefix(&self.builder(kind, under).prefix(), limit);
        if let Some(after) = after {
            scan = scan.after(&after.key);
        }
        self.collect(scan).await
    }

    /// The last row of a kind in key order (the highest number).
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn last(&self, kind: KeyKind, under: &KeyId) -> Result<Option<KeyEntry>, StoreError> {
        self.flush_deferred().await?;
        let scan = Scan::prefix(&self.builder(kind, under).prefix(), 1).reversed();
        Ok(self.collect(scan).await?.pop())
    }

    async fn collect(&self, scan: Scan) -> Result<Vec<KeyEntry>, StoreError> {
        let page = self.scope().engine.range(scan).await?;
        page.rows
            .into_iter()
            .map(|(key, sealed)| {
                let value = self.open(&key, &sealed)?;
                let id = RawId { key };
                Ok(KeyEntry { id, value })
            })
            .collect()
    }

    /// Lists all rows of a kind below `under`, however many: for kinds that are known to be few.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn list_all(
        &self,
        kind: KeyKind,
        under: &KeyId,
    ) -> Result<Vec<KeyEntry>, StoreError> {
        let mut all: Vec<KeyEntry> = Vec::new();
        loop {
            let after = all.last().map(|entry| entry.id.clone());
            let page = self
                .list(kind, under, after.as_ref(), super::engine::MAX_PAGE)
                .await?;
            let last = page.len() < super::engine::MAX_PAGE;
            all.extend(page);
            if last {
                return Ok(all);
            }
        }
    }

    /// Sets one row.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn put(
        &self,
        kind: KeyKind,
        id: KeyId,
        value: impl Into<Bytes> + Send,
        durability: Durability,
    ) -> Result<(), StoreError> {
        self.commit(KeyBatch::new().put(kind, id, value), durability)
            .await
    }

    /// Removes one row; a missing one is no error.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn delete(
        &self,
        kind: KeyKind,
        id: KeyId,
        durability: Durability,
    ) -> Result<(), StoreError> {
        self.commit(KeyBatch::new().delete(kind, id), durability)
            .await
    }

    /// Applies a batch, all or nothing.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when another owner took the session over; [`StoreError::TooLarge`] when a
    /// commit cannot hold it (see [`KeyBatch::into_parts`]); otherwise only when the store fails. Of
    /// writes that are not awaited, later failures show in the session's next awaited one.
    pub async fn commit(&self, batch: KeyBatch, durability: Durability) -> Result<(), StoreError> {
        if batch.is_empty() && durability != Durability::Durable {
            return Ok(());
        }
        let writes = self.sealed(batch)?;
        within_limits(&writes)?;
        if durability == Durability::Deferred {
            let mut deferred = self.deferred().lock().await;
            self.session.check_owner()?;
            for (key, value) in writes {
                deferred.put(key, value);
            }
            if deferred.is_full() {
                self.flush(&mut deferred).await?;
            }
            return Ok(());
        }
        let mut commit = Commit::default();
        // The last write to a key wins.
        let last: BTreeMap<_, _> = writes.into_iter().collect();
        for (key, value) in last {
            match value {
                Some(value) => commit.put.push((key, value)),
                None => commit.delete.push(key),
            }
        }
        self.write(commit, durability).await
    }

    /// A batch as sealed writes, with the entries that make expiring rows expire.
    pub(super) fn sealed(&self, batch: KeyBatch) -> Result<SealedWrites, StoreError> {
        let session = self.scope().sealer.session();
        let mut writes = Vec::with_capacity(batch.writes.len());
        for (kind, target, value, expires) in batch.writes {
            let key = match target {
                Target::Id(id) => self.key(kind, &id),
                Target::Raw(raw) => raw.key,
            };
            if let Some(at) = expires {
                let workspace = self.session.workspace();
                let (entry, row) = sweeper::expiry_row(workspace, &key, session, at)?;
                writes.push((entry, Some(row)));
            }
            let sealed = value
                .map(|value| self.seal(&key, &value, expires))
                .transpose()?;
            writes.push((key, sealed));
        }
        Ok(writes)
    }

    async fn write(&self, mut commit: Commit, durability: Durability) -> Result<(), StoreError> {
        // Held until the commit has its place in the order: a deferred row must never end up behind a
        // later write of the same session.
        let mut deferred = self.deferred().lock().await;
        self.session.check_owner()?;
        let engine = &self.scope().engine;
        deferred.flush(&**engine, self.session.fence()).await?;
        commit.fence = self.session.fence();
        if durability != Durability::Durable {
            deferred.watch(engine.submit(commit, Urgency::Lazy).await?);
            return Ok(());
        }
        let receipt = engine.submit(commit, Urgency::Durable).await?;
        drop(deferred);
        receipt.await?;
        // Earlier writes were answered before this one.
        self.deferred().lock().await.take_failure()
    }

    /// Writes what is deferred, in order, without waiting for the disk.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn flush_deferred(&self) -> Result<(), StoreError> {
        let mut deferred = self.deferred().lock().await;
        self.flush(&mut deferred).await
    }

    async fn flush(&self, deferred: &mut Deferred) -> Result<(), StoreError> {
        if deferred.rows.is_empty() {
            return Ok(());
        }
        self.session.check_owner()?;
        let engine = &self.scope().engine;
        deferred.flush(&**engine, self.session.fence()).await
    }

    /// Waits until everything written so far is on disk.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn sync(&self) -> Result<(), StoreError> {
        self.write(Commit::default(), Durability::Durable).await
    }

    /// Reads, changes and writes a row in one atomic step; nothing else can come between. `change` gets
    /// the current value and returns the next one (`None` removes the row) and an answer. It must be
    /// quick: it runs on the writer.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when another owner took the session over; otherwise only when the store
    /// fails.
    pub async fn update<T, F>(&self, kind: KeyKind, id: KeyId, change: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(Option<Bytes>) -> (Option<Bytes>, T) + Send + 'static,
    {
        let key = self.key(kind, &id);
        let (answer, answered) = oneshot::channel();
        let (space, at) = (self.clone(), key.clone());
        let update: super::engine::UpdateFn = Box::new(move |current| {
            let fail = |error: StoreError| RowError(error.to_string());
            let current = current
                .map(|sealed| space.open(&at, sealed))
                .transpose()
                .map_err(fail)?;
            let (next, result) = change(current);
            let sealed = next
                .map(|value| space.seal(&at, &value, None))
                .transpose()
                .map_err(fail)?;
            // Nobody listens any more only if the caller was cancelled; the change stands.
            let _ = answer.send(result);
            Ok(sealed)
        });
        let commit = Commit {
            update: vec![(key, update)],
            ..Commit::default()
        };
        self.write(commit, Durability::Durable).await?;
        answered.await.map_err(|_| StoreError::Closed)
    }

    /// Reads and removes a row in one atomic step.
    ///
    /// # Errors
    /// As [`Self::update`].
    pub async fn take(&self, kind: KeyKind, id: KeyId) -> Result<Option<Bytes>, StoreError> {
        self.update(kind, id, |current| (None, current)).await
    }

    /// Removes all rows of a kind whose ids begin with `under`, page by page.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn clear(&self, kind: KeyKind, under: &KeyId) -> Result<u64, StoreError> {
        self.flush_deferred().await?;
        let prefix = self.builder(kind, under).prefix();
        Scope::purge(&*self.scope().engine, &prefix).await
    }

    /// Removes everything: credentials, sessions, mappings. For an explicit logout or delete, and for a
    /// pairing that was never confirmed. The credentials go first, so that a crash half-way leaves an
    /// unpaired session.
    ///
    /// # Errors
    /// Only when the store fails; call again to finish.
    pub async fn wipe(&self) -> Result<(), StoreError> {
        *self.deferred().lock().await = Deferred::default();
        for kind in 0..KIND_COUNT {
            let prefix = self.scope().raw_key(Kind::Keys as u8 | kind).prefix();
            Scope::purge(&*self.scope().engine, &prefix).await?;
        }
        Ok(())
    }

    /// The session this belongs to.
    pub fn session(&self) -> &SessionStore {
        &self.session
    }
}

/// Refuses what no commit can hold: nobody waits for a lazy one, so it would fail unheard.
fn within_limits(writes: &SealedWrites) -> Result<(), StoreError> {
    let keys = writes.len();
    let bytes = writes
        .iter()
        .map(|(key, value)| key.len() + value.as_ref().map_or(0, Bytes::len))
        .sum();
    if keys > MAX_COMMIT_KEYS || bytes > MAX_COMMIT_BYTES {
        return Err(CommitError::TooLarge { keys, bytes }.into());
    }
    Ok(())
}

fn raw_kind(kind: KeyKind) -> u8 {
    Kind::Keys as u8 | kind as u8
}

/// Opens a key-space value: the value and its deadline, if it has one.
pub(super) fn open_value(
    scope: &Scope,
    key: &[u8],
    sealed: &[u8],
) -> Result<(Bytes, Option<Timestamp>), StoreError> {
    let opened = scope.sealer.open(key, sealed)?;
    match opened.version {
        PLAIN => Ok((opened.plaintext, None)),
        EXPIRING => {
            let Some((at, _)) = opened.plaintext.split_first_chunk::<8>() else {
                return Err(StoreError::Damaged("a deadline is cut off".into()));
            };
            let at = Timestamp(u64::from_be_bytes(*at));
            Ok((opened.plaintext.slice(8..), Some(at)))
        }
        found => Err(StoreError::Newer {
            what: "a key",
            found: u32::from(found),
            supported: u32::from(EXPIRING),
        }),
    }
}
