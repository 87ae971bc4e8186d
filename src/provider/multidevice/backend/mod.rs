//! The protocol library's storage over the session's key space, one file per trait of the library.
//!
//! What waits for the disk and what does not follows the library's needs:
//!
//! | rows | durability |
//! |---|---|
//! | device, sessions, sender keys, new prekeys | durable on return |
//! | pending inbound rows | deferred: they join the session write that follows, and rows deleted before it never reach the disk |
//! | removed prekeys | ordered: never before the session that consumed them |
//! | everything else | ordered |
//!
//! A failed write of the first two kinds poisons the client (see [`Watch::poison`]): it may write no
//! further Signal state and is rebuilt.

mod appsync;
pub(super) mod codec;
mod device;
mod inflight;
mod pending;
mod prekeys;
mod protocol;
mod secrets;
mod sender_key_devices;
mod signal;
mod tokens;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex as SyncMutex, OnceLock, PoisonError};

use tokio::sync::Mutex;
use wacore::store::error::StoreError as LibraryError;

pub(super) use self::inflight::Inflight;
use super::retries::Retries;
use super::spent::Spent;
use super::watch::Watch;
use crate::domain::clock::Clock;
use crate::provider::contract::Sink;
use crate::store::{Durability, KeyBatch, KeyId, KeyKind, KeySpace, StoreError};

/// Rows written at once where more would be refused.
const MOST_ROWS: usize = 1_000;

type Result<T> = std::result::Result<T, LibraryError>;

/// One at a time for rows that are read, changed and written. The session has a single owner, so a lock
/// in memory is enough and spares the wait for the disk that an atomic update would cost.
#[derive(Debug, Default)]
struct Locks {
    prekeys: Mutex<()>,
    sender_key_devices: Mutex<()>,
    mappings: Mutex<()>,
    tokens: Mutex<()>,
    secrets: Mutex<()>,
    macs: Mutex<()>,
    sync_keys: Mutex<()>,
    saves: Mutex<()>,
}

/// State that outlives a client: a rebuilt client continues with it.
#[derive(Debug, Default)]
pub(super) struct Shared {
    locks: Locks,
    /// Whether the stored device is registered; see [`KeyBackend::is_registered`].
    registered: AtomicBool,
    /// Stanzas whose message the outbox holds, so that no copy is kept here. Bounded by being cleared:
    /// a forgotten id costs a row that expires, nothing else.
    outbox: SyncMutex<std::collections::HashSet<String>>,
    /// How often each app-state collection's version was written.
    versions: SyncMutex<HashMap<String, u64>>,
    /// Messages that arrived and have not been concluded.
    pub(super) inflight: Inflight,
    /// Requests for another copy of what was sent.
    pub(super) retries: Arc<Retries>,
}

/// Stanza ids remembered as held by the outbox.
const MAX_OUTBOX_IDS: usize = 4096;

impl Shared {
    /// Empty, but for requests that an earlier line of the session left.
    pub(super) fn new(retries: Arc<Retries>) -> Self {
        Self {
            retries,
            ..Self::default()
        }
    }

    /// Tells that the outbox holds this stanza's message.
    pub(super) fn held_by_outbox(&self, stanza_id: &str) {
        let mut ids = self.outbox.lock().unwrap_or_else(PoisonError::into_inner);
        if ids.len() >= MAX_OUTBOX_IDS {
            ids.clear();
        }
        ids.insert(stanza_id.to_owned());
    }

    fn is_held_by_outbox(&self, stanza_id: &str) -> bool {
        self.outbox
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(stanza_id)
    }

    /// How often the version of an app-state collection has been written so far.
    pub(super) fn version_writes(&self, collection: &str) -> u64 {
        self.versions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(collection)
            .copied()
            .unwrap_or(0)
    }

    fn version_written(&self, collection: &str) {
        *self
            .versions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(collection.to_owned())
            .or_default() += 1;
    }
}

/// See the module documentation.
pub(super) struct KeyBackend {
    keys: KeySpace,
    shared: Arc<Shared>,
    watch: Arc<Watch>,
    sink: Arc<dyn Sink>,
    clock: Arc<dyn Clock>,
    spent: OnceLock<Spent>,
}

impl KeyBackend {
    pub(super) fn new(
        keys: KeySpace,
        shared: Arc<Shared>,
        watch: Arc<Watch>,
        sink: Arc<dyn Sink>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            keys,
            shared,
            watch,
            sink,
            clock,
            spent: OnceLock::new(),
        }
    }

    /// Has repetitions looked at from here on.
    pub(super) fn look_at_repetitions(&self, spent: Spent) {
        // Only the client's builder calls this, once.
        let _ = self.spent.set(spent);
    }

    /// Refuses writes of Signal state after something could not be made durable.
    fn check_poison(&self) -> Result<()> {
        if self.watch.is_poisoned() {
            return Err(LibraryError::Validation(
                "an earlier write failed; this client writes no more Signal state".into(),
            ));
        }
        Ok(())
    }

    /// A write whose failure the connection must not survive.
    async fn commit_critical(&self, batch: KeyBatch, durability: Durability) -> Result<()> {
        self.check_poison()?;
        self.keys.commit(batch, durability).await.map_err(|error| {
            self.watch.poison(error.to_string());
            library(error)
        })
    }

    /// Writes in order; a batch that is larger than a commit may be is several.
    async fn commit_ordered(&self, batch: KeyBatch) -> Result<()> {
        for part in batch.into_parts(MOST_ROWS) {
            self.keys
                .commit(part, Durability::Ordered)
                .await
                .map_err(library)?;
        }
        Ok(())
    }

    async fn get(&self, kind: KeyKind, id: &KeyId) -> Result<Option<bytes::Bytes>> {
        self.keys.get(kind, id).await.map_err(library)
    }
}

fn library(error: StoreError) -> LibraryError {
    LibraryError::Database(Box::new(error))
}

/// The id of a row about a Signal address (`user@server`, `user:device@server`): all addresses of a
/// user are neighbours.
fn address_id(address: &str) -> KeyId {
    let split = address.find([':', '@']).unwrap_or(address.len());
    let (user, rest) = address.split_at(split);
    KeyId::name(user).and_name(rest)
}
