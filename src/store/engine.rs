//! What the store asks of an engine: reads, bounded scans and atomic conditional commits.
//!
//! An engine knows keys and values, nothing of tenants, sealing or records. Two exist: [`super::memory`]
//! and [`super::sled`]; both pass the same conformance suite. A commit is all or nothing:
//!
//! 1. the [`Fence`] and every expectation are checked against everything committed before,
//! 2. deletes, puts, updates and appends are applied, in this order,
//! 3. an awaited commit is durable when it returns.
//!
//! Commits take effect in the order in which [`Engine::submit`] returned. Updates and appends carry
//! functions, because what they write depends on state (a counter, a revision) that is only known while
//! the commit is being evaluated and whose sealing is bound to the final key.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use thiserror::Error;
use tokio::sync::{oneshot, watch};

pub use super::snapshot::{Change, MAX_WAITING, Snapshot, SnapshotError};

/// Position in a stream, from 1; strictly increasing, never reused.
pub type Revision = u64;

/// Longest page a scan may return.
pub const MAX_PAGE: usize = 1_000;

/// Most keys one commit may touch, after large values were split.
pub const MAX_COMMIT_KEYS: usize = 4_096;

/// Most bytes one commit may write.
pub const MAX_COMMIT_BYTES: usize = 32 << 20;

/// What a stored value is right now, without the value: a digest of its bytes. Sealed values carry a
/// random nonce, so every write yields another version even when the content is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Version(pub [u8; 16]);

impl Version {
    /// The version of a stored value.
    pub fn of(value: &[u8]) -> Self {
        let digest = Sha256::digest(value);
        let mut short = [0; 16];
        short.copy_from_slice(&digest[..16]);
        Self(short)
    }
}

/// What must hold for a key before a commit may happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expectation {
    /// The key does not exist.
    Absent,
    /// The key holds exactly these bytes.
    Equals(Bytes),
    /// The key holds a value of this version.
    Version(Version),
}

impl Expectation {
    /// Whether `current` satisfies this.
    pub fn holds(&self, current: Option<&[u8]>) -> bool {
        match (self, current) {
            (Self::Absent, None) => true,
            (Self::Equals(bytes), Some(value)) => bytes == value,
            (Self::Version(version), Some(value)) => *version == Version::of(value),
            _ => false,
        }
    }
}

/// Proof of ownership: the commit is refused unless `key` holds exactly `epoch` (eight bytes, big
/// endian). Whoever takes ownership increments the epoch, which shuts the previous owner out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    /// Where the epoch is stored.
    pub key: Bytes,
    /// The epoch the caller was given.
    pub epoch: u64,
}

/// Why a function inside a commit could not produce what it should write. The commit does not happen.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct RowError(pub String);

/// Computes a key's next value (`None` deletes it) from its current one.
pub type UpdateFn = Box<dyn FnOnce(Option<&[u8]>) -> Result<Option<Bytes>, RowError> + Send>;

/// Makes the rows of one appended entry, now that its revision is known.
pub type AppendFn = Box<dyn FnOnce(Revision) -> Result<Vec<(Bytes, Bytes)>, RowError> + Send>;

/// One entry for a stream.
pub struct Append {
    /// The key that holds the stream's last revision (eight bytes, big endian).
    pub stream: Bytes,
    /// Makes the entry's rows.
    pub rows: AppendFn,
}

/// An atomic, conditional change.
#[derive(Default)]
pub struct Commit {
    /// Refuse the commit unless the caller still owns this.
    pub fence: Option<Fence>,
    /// Refuse the commit unless all of these hold.
    pub expect: Vec<(Bytes, Expectation)>,
    /// Keys to remove; a missing key is no error.
    pub delete: Vec<Bytes>,
    /// Keys to set.
    pub put: Vec<(Bytes, Bytes)>,
    /// Keys to compute from their current values.
    pub update: Vec<(Bytes, UpdateFn)>,
    /// Entries to append, each to its stream, in order.
    pub append: Vec<Append>,
}

impl Commit {
    /// Whether it changes nothing and demands nothing.
    pub fn is_empty(&self) -> bool {
        self.fence.is_none() && self.expect.is_empty() && self.is_read_only()
    }

    /// Whether it only checks.
    pub fn is_read_only(&self) -> bool {
        self.delete.is_empty()
            && self.put.is_empty()
            && self.update.is_empty()
            && self.append.is_empty()
    }

    /// Whether its effect is known without looking at stored state, so that readers may see it while it
    /// is still queued. (A fence does not count: a handle that lost ownership is refused before it
    /// submits anything.)
    pub fn is_visible_early(&self) -> bool {
        self.expect.is_empty() && self.update.is_empty() && self.append.is_empty()
    }

    /// Roughly how many bytes it holds, for back-pressure.
    pub fn weight(&self) -> usize {
        let puts: usize = self.put.iter().map(|(k, v)| k.len() + v.len()).sum();
        let deletes: usize = self.delete.iter().map(Bytes::len).sum();
        puts + deletes + 256 * (self.update.len() + self.append.len() + self.expect.len())
    }
}

impl fmt::Debug for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Commit")
            .field("fence", &self.fence)
            .field("expect", &self.expect.len())
            .field("delete", &self.delete.len())
            .field("put", &self.put.len())
            .field("update", &self.update.len())
            .field("append", &self.append.len())
            .finish()
    }
}

/// What a commit yielded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Committed {
    /// The revisions given to [`Commit::append`], in the same order.
    pub revisions: Vec<Revision>,
}

/// Why a read failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EngineError {
    /// The engine was closed; nothing can be read or written until a restart.
    #[error("the store is closed")]
    Closed,
    /// The files are damaged.
    #[error("the store is damaged ({0}): stop the daemon and restore from a backup")]
    Corrupt(String),
    /// The operating system refused.
    #[error("the store cannot be read: {0}")]
    Io(String),
}

/// Why a commit did not happen. None of its changes were made.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CommitError {
    /// An expectation did not hold: read again and decide anew.
    #[error("expectation {index} does not hold")]
    ExpectationFailed {
        /// Position in [`Commit::expect`] of the first one that failed.
        index: usize,
    },
    /// Somebody else took ownership: the caller must stop.
    #[error("ownership was lost: the current epoch is {current}, not {held}")]
    Fenced {
        /// The caller's epoch.
        held: u64,
        /// The stored epoch (0 when there is none).
        current: u64,
    },
    /// More keys or bytes than one commit may carry: split it.
    #[error(
        "commit too large: {keys} keys and {bytes} bytes; at most {MAX_COMMIT_KEYS} keys and {MAX_COMMIT_BYTES} bytes are allowed"
    )]
    TooLarge {
        /// Keys it would write.
        keys: usize,
        /// Bytes it would write.
        bytes: usize,
    },
    /// A function inside the commit failed.
    #[error("commit refused: {0}")]
    Row(#[from] RowError),
    /// The engine itself failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// When a submitted commit must be on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Urgency {
    /// As soon as possible: somebody waits for it.
    Durable,
    /// No later than any later durable commit, and within [`MAX_LAZY`] at the latest.
    Lazy,
}

/// Longest time an unawaited commit stays off the disk.
pub const MAX_LAZY: Duration = Duration::from_millis(50);

/// The outcome of a submitted commit, once it is durable or refused. Dropping it cancels nothing.
#[derive(Debug)]
pub struct Receipt(oneshot::Receiver<Result<Committed, CommitError>>);

impl Receipt {
    /// A receipt and the side that fulfils it.
    pub(super) fn pair() -> (oneshot::Sender<Result<Committed, CommitError>>, Self) {
        let (tx, rx) = oneshot::channel();
        (tx, Self(rx))
    }
}

impl Future for Receipt {
    type Output = Result<Committed, CommitError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0)
            .poll(cx)
            .map(|outcome| outcome.unwrap_or(Err(EngineError::Closed.into())))
    }
}

/// A bounded scan in key order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// First key, inclusive.
    pub start: Bytes,
    /// End, exclusive.
    pub end: Bytes,
    /// At most this many rows (coerced into 1..=[`MAX_PAGE`]).
    pub limit: usize,
    /// From the end towards the start.
    pub reverse: bool,
}

impl Scan {
    /// All keys that begin with `prefix`, ascending.
    pub fn prefix(prefix: &[u8], limit: usize) -> Self {
        Self {
            start: Bytes::copy_from_slice(prefix),
            end: after_prefix(prefix),
            limit,
            reverse: false,
        }
    }

    /// The same range, descending.
    #[must_use]
    pub fn reversed(mut self) -> Self {
        self.reverse = true;
        self
    }

    /// The row limit after coercion.
    pub fn rows(&self) -> usize {
        self.limit.clamp(1, MAX_PAGE)
    }

    /// The scan that continues after a page ending with `last`.
    #[must_use]
    pub fn after(mut self, last: &[u8]) -> Self {
        if self.reverse {
            self.end = Bytes::copy_from_slice(last);
        } else {
            let mut next = Vec::with_capacity(last.len() + 1);
            next.extend_from_slice(last);
            next.push(0);
            self.start = next.into();
        }
        self
    }
}

/// The smallest key greater than every key that begins with `prefix`.
pub fn after_prefix(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end.into();
        }
    }
    // Only for a prefix of nothing but 0xff, which no key of ours has.
    Bytes::from_static(&[u8::MAX; 64])
}

/// One page of a scan.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rows {
    /// Keys and values in scan order.
    pub rows: Vec<(Bytes, Bytes)>,
    /// Whether the range may hold more: continue with [`Scan::after`] the last key.
    pub more: bool,
}

/// What an engine says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Health {
    /// Commits that are queued or being made durable.
    pub in_flight: u64,
    /// How long the oldest of them has been waiting without any progress; zero when idle.
    pub stuck_for: Duration,
    /// Commits made durable since the engine was opened.
    pub durable: u64,
    /// Disk syncs since the engine was opened.
    pub syncs: u64,
    /// How long the last write and sync took together.
    pub last_sync: Duration,
    /// Bytes on disk, as last measured; zero for memory.
    pub disk_bytes: u64,
    /// How long opening took.
    pub open_time: Duration,
}

/// A store of keys and values; see the module documentation for what it promises.
#[async_trait]
pub trait Engine: Send + Sync + fmt::Debug {
    /// The value of a key.
    async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// The values of several keys, in the same order; cheaper than asking one by one.
    async fn get_many(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, EngineError>;

    /// One page of keys and values.
    async fn range(&self, scan: Scan) -> Result<Rows, EngineError>;

    /// Queues a commit and returns once its place in the order is fixed, waiting only for room in the
    /// queue. A lazy commit without expectations,
    /// updates and appends is visible to reads from then on. The receipt says how it ended.
    async fn submit(&self, commit: Commit, urgency: Urgency) -> Result<Receipt, CommitError>;

    /// Commits and waits until it is durable.
    async fn commit(&self, commit: Commit) -> Result<Committed, CommitError> {
        self.submit(commit, Urgency::Durable).await?.await
    }

    /// The last *durable* revision of a stream (0 before the first), and every later one as it becomes
    /// durable.
    async fn watch(&self, stream: Bytes) -> Result<watch::Receiver<Revision>, EngineError>;

    /// Begins a copy of everything that is committed; see [`super::snapshot`]. One at a time.
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, SnapshotError>;

    /// How it is doing; cheap.
    fn health(&self) -> Health;

    /// Makes everything submitted so far durable and stops. Later calls fail with
    /// [`EngineError::Closed`].
    async fn close(&self) -> Result<(), EngineError>;
}
