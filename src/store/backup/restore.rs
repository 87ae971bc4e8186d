//! Putting an archive into an empty engine.

use std::collections::{HashMap, VecDeque};
use std::io::{BufRead, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use thiserror::Error;
use tokio::sync::mpsc;

use super::format::{Entry, FormatError, Header, Reader};
use super::unlock::{Unlock, UnlockError};
use super::wrapped_by;
use crate::store::engine::{Commit, CommitError, Receipt, Urgency};
use crate::store::errors::StoreError;
use crate::store::keyring::{Keks, WorkspaceKeys};
use crate::store::migrate::FORMAT;
use crate::store::root::{OpenError, Store, StoreOptions};

/// Rows in one commit.
const COMMIT_ROWS: usize = 500;
/// Bytes in one commit, roughly.
const COMMIT_BYTES: usize = 4 << 20;
/// Commits that are on their way to the disk at once.
const UNDER_WAY: usize = 16;
/// Frames that were read and wait to be written.
const READ_AHEAD: usize = 4;

/// Why a backup was not restored. Where it was to go holds nothing that can be used.
#[derive(Debug, Error)]
pub enum RestoreError {
    /// It does not open.
    #[error(transparent)]
    Unlock(#[from] UnlockError),
    /// It cannot be read.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// A newer release made the store in it.
    #[error(
        "the store in this backup has format {found}, of release {release}; this release reads up to {FORMAT}: restore it with that release, or a newer one"
    )]
    NewerStore {
        /// Its format.
        found: u32,
        /// The release that made the backup.
        release: String,
    },
    /// It cannot be stored.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What was restored does not open.
    #[error("what was restored does not open: {0}")]
    Open(#[from] OpenError),
    /// Reading it ended unexpectedly.
    #[error("reading the backup ended unexpectedly")]
    Interrupted,
}

/// An archive that opened: its header was read, its rows follow.
pub struct Archive {
    reader: Reader<Counted>,
    read: Arc<AtomicU64>,
}

impl std::fmt::Debug for Archive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Archive({:?})", self.reader.header())
    }
}

/// Counts what is read.
struct Counted {
    input: Box<dyn Read + Send>,
    read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.input.read(buffer)?;
        self.read.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// A backup that was restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// What the archive said about itself.
    pub header: Header,
    /// Rows and changes that were read.
    pub entries: u64,
    /// How often the store was restored, this time included; the archive's own when it was only checked.
    pub generation: u64,
}

impl Archive {
    /// Opens an archive and reads its header. Blocks.
    ///
    /// # Errors
    /// [`RestoreError`] says what is wrong with it and what to do.
    pub fn open(
        input: impl BufRead + Send + 'static,
        unlock: &Unlock,
    ) -> Result<Self, RestoreError> {
        let read = Arc::<AtomicU64>::default();
        let reader = Reader::open(Counted {
            input: Box::new(unlock.open(input)?),
            read: Arc::clone(&read),
        })?;
        let header = reader.header();
        if header.format > FORMAT {
            return Err(RestoreError::NewerStore {
                found: header.format,
                release: header.release.clone(),
            });
        }
        Ok(Self { reader, read })
    }

    /// What it says about itself.
    pub fn header(&self) -> &Header {
        self.reader.header()
    }

    /// How many bytes of it (decrypted) were read so far; goes on counting while it is restored.
    pub fn progress(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.read)
    }

    /// Reads it to its end and puts it nowhere. Blocks.
    ///
    /// # Errors
    /// [`RestoreError`] says what is wrong with it.
    pub fn check(mut self) -> Result<Restored, RestoreError> {
        let mut entries = 0;
        while let Some(part) = self.reader.next()? {
            for entry in &part {
                entries += 1;
                if let Entry::Keys(key, keys) = entry {
                    workspace_keys(key, keys)?;
                }
            }
        }
        let header = self.header().clone();
        Ok(Restored {
            generation: header.generation,
            header,
            entries,
        })
    }
}

/// Puts an archive into the engine in `options`, which must be empty, and begins a new generation. The
/// engine is closed in the end: everything is durable.
///
/// # Errors
/// [`RestoreError`]; the engine then holds nothing that can be used.
pub async fn restore(archive: Archive, options: StoreOptions) -> Result<Restored, RestoreError> {
    let header = archive.header().clone();
    let (parts, mut read) = mpsc::channel(READ_AHEAD);
    let reading = tokio::task::spawn_blocking(move || {
        let mut reader = archive.reader;
        while let Some(part) = reader.next()? {
            if parts.blocking_send(part).is_err() {
                break;
            }
        }
        Ok::<_, FormatError>(())
    });
    let mut rows = Rows {
        options: &options,
        writes: HashMap::new(),
        bytes: 0,
        under_way: VecDeque::new(),
    };
    let mut entries = 0;
    while let Some(part) = read.recv().await {
        for entry in part {
            entries += 1;
            rows.apply(entry).await?;
        }
    }
    reading.await.map_err(|_| RestoreError::Interrupted)??;
    rows.finish().await?;
    let store = Store::open_at_rest(options).await?;
    let generation = store.begin_generation().await?;
    store.close().await?;
    Ok(Restored {
        header,
        entries,
        generation,
    })
}

/// Rows on their way into the engine.
struct Rows<'a> {
    options: &'a StoreOptions,
    writes: HashMap<Bytes, Option<Bytes>>,
    bytes: usize,
    under_way: VecDeque<Receipt>,
}

impl Rows<'_> {
    async fn apply(&mut self, entry: Entry) -> Result<(), RestoreError> {
        let (key, value) = match entry {
            Entry::Put(key, value) => (key, Some(value)),
            Entry::Removed(key) => (key, None),
            Entry::Keys(key, keys) => {
                let wrapped = rewrap(&self.options.keks, &key, &keys)?;
                (key, Some(wrapped))
            }
        };
        self.bytes += key.len() + value.as_ref().map_or(0, Bytes::len);
        self.writes.insert(key, value);
        if self.bytes >= COMMIT_BYTES || self.writes.len() >= COMMIT_ROWS {
            self.submit().await?;
        }
        Ok(())
    }

    async fn submit(&mut self) -> Result<(), RestoreError> {
        if self.writes.is_empty() {
            return Ok(());
        }
        self.bytes = 0;
        let mut commit = Commit::default();
        for (key, value) in self.writes.drain() {
            match value {
                Some(value) => commit.put.push((key, value)),
                None => commit.delete.push(key),
            }
        }
        let receipt = self.options.engine.submit(commit, Urgency::Lazy).await;
        self.under_way.push_back(receipt.map_err(stored)?);
        while self.under_way.len() > UNDER_WAY {
            if let Some(receipt) = self.under_way.pop_front() {
                receipt.await.map_err(stored)?;
            }
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<(), RestoreError> {
        self.submit().await?;
        for receipt in self.under_way {
            receipt.await.map_err(stored)?;
        }
        Ok(())
    }
}

fn stored(error: CommitError) -> RestoreError {
    RestoreError::Store(error.into())
}

fn workspace_keys(key: &[u8], plain: &[u8]) -> Result<(u64, WorkspaceKeys), FormatError> {
    let damaged = FormatError::Damaged("keys in it cannot be read");
    match (wrapped_by(key), WorkspaceKeys::from_plain(plain)) {
        (Some(workspace), Some(keys)) => Ok((workspace, keys)),
        _ => Err(damaged),
    }
}

fn rewrap(keks: &Keks, key: &[u8], plain: &[u8]) -> Result<Bytes, RestoreError> {
    let (workspace, opened) = workspace_keys(key, plain)?;
    let wrapped = keks.wrap(workspace, &opened).map_err(StoreError::from)?;
    Ok(wrapped)
}
