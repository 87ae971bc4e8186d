//! The durable engine: sled 0.34.7. The only file that knows it.
//!
//! What the code has to respect, measured (see `docs/adr/0003-sled-with-our-own-sync.md`):
//! - `flush` is not durable on Linux (it ends in `sync_file_range`): our own `fdatasync` of the `db`
//!   file follows each one. Without it, power cuts left stores that would not open.
//! - `flush_async` hangs with 16 or more callers: never used.
//! - A leaf above 128 KB goes to a file under `blobs/` that `fdatasync` of `db` does not cover. Values
//!   are split so that none should appear; if one does, it is synced as well.
//! - Snapshots and the directory itself are written at open without a sync: everything is synced once
//!   after opening.
//! - Opening a damaged store may panic: the panic is caught and becomes [`OpenError::Damaged`]. More
//!   often it opens without what it could not read: see [`watermark`].

mod watermark;

use std::collections::HashMap;
use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use thiserror::Error;
use tokio::sync::watch;

use self::watermark::{Lost, Watermark};
use super::engine::{
    Commit, CommitError, Engine, EngineError, Health, Receipt, Revision, Rows, Scan, Snapshot,
    SnapshotError, Urgency,
};
use super::writer::{OnFatal, Table, WriterEngine};
use crate::domain::clock::Clock;

/// sled's page cache in bytes, unless told otherwise. Our rows are few and large: more buys little.
pub const CACHE_BYTES: u64 = 64 << 20;

/// How long to wait for another process to let go of the directory.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// How long to wait for a closed instance in this same process to let go of its files.
const LINGER: Duration = Duration::from_secs(5);

/// Why the files could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Another process has them.
    #[error(
        "the store in {path} is in use by another trunkline process: stop it first (`systemctl stop trunkline`), or choose another state directory"
    )]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// They are damaged.
    #[error(
        "the store in {path} is damaged ({detail}): move the directory away and restore from a backup"
    )]
    Damaged {
        /// The directory.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// The operating system refused.
    #[error(
        "the store in {path} cannot be opened: {source}; check that the directory exists, is writable and has room"
    )]
    Io {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The durable engine.
#[derive(Debug)]
pub struct SledEngine(WriterEngine<SledTable>);

impl SledEngine {
    /// Opens (or makes) the store in a directory. Blocks while the log is read: call it from a blocking
    /// context. From here on, losing durability ends the process.
    ///
    /// # Errors
    /// [`OpenError`] says what is wrong and what to do.
    pub fn open(path: &Path, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        Self::open_sized(path, CACHE_BYTES, clock)
    }

    /// Like [`Self::open`], with another page cache.
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub fn open_sized(
        path: &Path,
        cache_bytes: u64,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, OpenError> {
        let fatal: OnFatal = Box::new(|what| {
            tracing::error!(what, "ending the process: nothing can be stored any more");
            std::process::abort();
        });
        Self::open_with(path, cache_bytes, clock, fatal)
    }

    fn open_with(
        path: &Path,
        cache_bytes: u64,
        clock: Arc<dyn Clock>,
        fatal: OnFatal,
    ) -> Result<Self, OpenError> {
        let before = clock.elapsed();
        let table = SledTable::open(path, cache_bytes, &*clock)?;
        let took = clock.elapsed().saturating_sub(before);
        let engine = WriterEngine::start(table, clock, took, fatal);
        engine.map(Self).map_err(|error| OpenError::Io {
            path: path.to_owned(),
            source: io::Error::other(error.to_string()),
        })
    }
}

#[async_trait]
impl Engine for SledEngine {
    async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.0.get(key).await
    }

    async fn get_many(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, EngineError> {
        self.0.get_many(keys).await
    }

    async fn range(&self, scan: Scan) -> Result<Rows, EngineError> {
        self.0.range(scan).await
    }

    async fn submit(&self, commit: Commit, urgency: Urgency) -> Result<Receipt, CommitError> {
        self.0.submit(commit, urgency).await
    }

    async fn watch(&self, stream: Bytes) -> Result<watch::Receiver<Revision>, EngineError> {
        self.0.watch(stream).await
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, SnapshotError> {
        self.0.snapshot().await
    }

    fn health(&self) -> Health {
        self.0.health()
    }

    async fn close(&self) -> Result<(), EngineError> {
        self.0.close().await
    }
}

struct SledTable {
    db: sled::Db,
    /// The log, for `fdatasync`.
    log: File,
    watermark: Watermark,
    blobs: PathBuf,
    synced_blobs: Mutex<HashSet<OsString>>,
    /// Held as long as the table lives.
    _lock: File,
}

impl SledTable {
    fn open(path: &Path, cache_bytes: u64, clock: &dyn Clock) -> Result<Self, OpenError> {
        let io = |source| OpenError::Io {
            path: path.to_owned(),
            source,
        };
        let fresh = !path.exists();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(io)?;
        let lock = lock(path, clock)?;
        let damaged = |Lost { stored, found }| OpenError::Damaged {
            path: path.to_owned(),
            detail: format!(
                "its log ends at batch {found}, but batch {stored} had been stored: the end of the log is lost"
            ),
        };
        if never_used(path)
            && let Some(stored) = watermark::read(path).map_err(io)?
        {
            // Before sled makes a new log in its place.
            return Err(damaged(Lost { stored, found: 0 }));
        }
        remove_leftovers(path).map_err(io)?;
        let db = open_db(path, cache_bytes, clock)?;
        let newest = newest_batch(path, &db)?;
        let watermark = Watermark::open(path, newest)
            .map_err(io)?
            .map_err(damaged)?;
        let log = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path.join("db"))
            .map_err(io)?;
        sync_everything(path, fresh).map_err(io)?;
        Ok(Self {
            db,
            log,
            watermark,
            blobs: path.join("blobs"),
            synced_blobs: Mutex::new(HashSet::new()),
            _lock: lock,
        })
    }

    /// Syncs files that sled put beside the log, which must not happen but would be lost otherwise.
    fn sync_blobs(&self) -> io::Result<()> {
        let mut synced = self
            .synced_blobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut current = HashSet::new();
        let mut fresh = false;
        for entry in fs::read_dir(&self.blobs)? {
            let entry = entry?;
            let name = entry.file_name();
            if !synced.contains(&name) {
                tracing::warn!("a page outgrew the log and went to a file of its own");
                File::open(entry.path())?.sync_all()?;
                fresh = true;
            }
            current.insert(name);
        }
        if fresh {
            File::open(&self.blobs)?.sync_all()?;
        }
        *synced = current;
        Ok(())
    }
}

/// Takes the directory for this process. A little patience: the process before may be on its way out.
fn lock(path: &Path, clock: &dyn Clock) -> Result<File, OpenError> {
    let io = |source| OpenError::Io {
        path: path.to_owned(),
        source,
    };
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path.join("lock"))
        .map_err(io)?;
    let deadline = clock.elapsed() + LOCK_PATIENCE;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::WouldBlock) if clock.elapsed() < deadline => {
                std::thread::park_timeout(Duration::from_millis(10));
            }
            Err(TryLockError::WouldBlock) => {
                return Err(OpenError::Locked {
                    path: path.to_owned(),
                });
            }
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
    }
}

/// Removes what a kill during an earlier opening can leave and sled would stumble over: it takes a half
/// written `snap.….generating` for the newest snapshot, and a half written `conf` for a damaged one.
fn remove_leftovers(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            fs::remove_file(entry.path())?;
        }
    }
    if never_used(path) && path.join("conf").exists() {
        fs::remove_file(path.join("conf"))?;
    }
    Ok(())
}

/// Whether there is no log yet.
fn never_used(path: &Path) -> bool {
    fs::metadata(path.join("db")).map_or(true, |log| log.len() == 0)
}

/// The number of the newest batch in the log; 0 for a new one.
fn newest_batch(path: &Path, db: &sled::Db) -> Result<u64, OpenError> {
    let damaged = |detail: String| OpenError::Damaged {
        path: path.to_owned(),
        detail,
    };
    let row = db.get(watermark::ROW);
    let Some(row) = row.map_err(|error| damaged(error.to_string()))? else {
        return Ok(0);
    };
    let number = row[..].try_into();
    let number =
        number.map_err(|_| damaged("the number of its newest batch is unreadable".into()))?;
    Ok(u64::from_be_bytes(number))
}

fn open_db(path: &Path, cache_bytes: u64, clock: &dyn Clock) -> Result<sled::Db, OpenError> {
    let damaged = |detail: String| OpenError::Damaged {
        path: path.to_owned(),
        detail,
    };
    let deadline = clock.elapsed() + LINGER;
    loop {
        let config = sled::Config::new()
            .path(path)
            .cache_capacity(cache_bytes)
            .mode(sled::Mode::HighThroughput)
            .flush_every_ms(None);
        let opened = catch_unwind(AssertUnwindSafe(|| config.open()))
            .map_err(|panic| damaged(format!("opening panicked: {}", panic_text(&*panic))))?;
        match opened {
            Ok(db) => return Ok(db),
            Err(sled::Error::Io(error)) if is_lock(&error) => {
                // Our own lock is held, so no other process has the store: an instance of this
                // process is still letting go.
                if clock.elapsed() >= deadline {
                    return Err(OpenError::Locked {
                        path: path.to_owned(),
                    });
                }
                std::thread::park_timeout(Duration::from_millis(10));
            }
            Err(sled::Error::Io(source)) => {
                return Err(OpenError::Io {
                    path: path.to_owned(),
                    source,
                });
            }
            Err(error) => return Err(damaged(error.to_string())),
        }
    }
}

fn is_lock(error: &io::Error) -> bool {
    error.to_string().contains("could not acquire lock")
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("no message").chars().take(200).collect()
}

/// Syncs what opening wrote: the log, the configuration, a snapshot, and the directories that name them.
fn sync_everything(path: &Path, fresh: bool) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            File::open(entry.path())?.sync_all()?;
        }
    }
    File::open(path.join("blobs"))?.sync_all()?;
    File::open(path)?.sync_all()?;
    if fresh {
        let parent = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or_else(|| Path::new(".")))?.sync_all()?;
    }
    Ok(())
}

fn engine_error(error: &sled::Error) -> EngineError {
    match error {
        sled::Error::Io(error) => EngineError::Io(error.to_string()),
        other => EngineError::Corrupt(other.to_string()),
    }
}

fn to_bytes(value: &sled::IVec) -> Bytes {
    Bytes::copy_from_slice(value)
}

impl Table for SledTable {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let value = self.db.get(key).map_err(|error| engine_error(&error))?;
        Ok(value.as_ref().map(to_bytes))
    }

    fn scan(
        &self,
        (start, end): (&[u8], &[u8]),
        reverse: bool,
        visit: &mut dyn FnMut(Bytes, Bytes) -> bool,
    ) -> Result<(), EngineError> {
        let mut rows = self.db.range(start..end);
        loop {
            let row = if reverse {
                rows.next_back()
            } else {
                rows.next()
            };
            let Some(row) = row else { return Ok(()) };
            let (key, value) = row.map_err(|error| engine_error(&error))?;
            if !visit(to_bytes(&key), to_bytes(&value)) {
                return Ok(());
            }
        }
    }

    fn apply(&self, writes: HashMap<Bytes, Option<Bytes>>) -> Result<(), EngineError> {
        let mut batch = sled::Batch::default();
        for (key, value) in writes {
            match value {
                Some(value) => batch.insert(&*key, &*value),
                None => batch.remove(&*key),
            }
        }
        batch.insert(watermark::ROW, &self.watermark.next());
        let applied = self.db.apply_batch(batch);
        applied.map_err(|error| engine_error(&error))
    }

    fn sync(&self) -> Result<(), EngineError> {
        self.db.flush().map_err(|error| engine_error(&error))?;
        let io = |error: io::Error| EngineError::Io(error.to_string());
        self.log.sync_data().map_err(io)?;
        self.sync_blobs().map_err(io)?;
        self.watermark.synced().map_err(io)
    }

    fn disk_bytes(&self) -> u64 {
        self.db.size_on_disk().unwrap_or_default()
    }
}

impl std::fmt::Debug for SledTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SledTable")
    }
}

#[cfg(test)]
mod tests;
