//! A durable engine out of a plain table: one writer thread, group commit, an overlay for readers.
//!
//! The writer takes everything that is queued, evaluates each commit against the table and what the
//! batch holds so far, applies the batch at once, syncs, and only then answers everybody. Commits that
//! nobody waits for do not cause a sync of their own: they ride on the next one, [`MAX_LAZY`] later at
//! most. When the table cannot be made durable the process ends: what was promised could not be kept.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use super::engine::{
    Commit, CommitError, Committed, Engine, EngineError, Health, Receipt, Revision, Rows, Scan,
    Snapshot, SnapshotError, Urgency,
};
use super::overlay::Overlay;
use super::split::{self, Stored};
use crate::domain::clock::Clock;

mod tap;
mod thread;

use tap::{Tap, TapId, TapSnapshot};
use thread::Writer;

/// A store of physical rows. Reads see what was applied; `sync` makes it durable.
pub(super) trait Table: Send + Sync + 'static {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError>;
    /// Visits rows of a range in order until `visit` returns false.
    fn scan(
        &self,
        range: (&[u8], &[u8]),
        reverse: bool,
        visit: &mut dyn FnMut(Bytes, Bytes) -> bool,
    ) -> Result<(), EngineError>;
    /// Applies writes atomically.
    fn apply(&self, writes: HashMap<Bytes, Option<Bytes>>) -> Result<(), EngineError>;
    /// Makes everything applied durable.
    fn sync(&self) -> Result<(), EngineError>;
    /// Bytes on disk.
    fn disk_bytes(&self) -> u64;
}

/// Weight the queue holds before submitters wait; see [`weight_of`].
const QUEUE_WEIGHT: usize = 16_384;
/// Bytes that count as one unit of weight.
const WEIGHT_BYTES: usize = 4 << 10;
/// Reads under way at the same time.
const MAX_READS: usize = 64;

/// Called when durability is lost. Does not return in production.
pub(super) type OnFatal = Box<dyn Fn(&str) + Send>;

type WatchReply = oneshot::Sender<Result<watch::Receiver<Revision>, EngineError>>;

enum Job {
    Commit(Box<CommitJob>),
    Watch(Bytes, WatchReply),
    /// Tells this tap of every change from now on; false if there is another.
    Tap(Tap, oneshot::Sender<bool>),
    /// Lets this tap go once everything it was told is durable; false if it went before.
    Untap(TapId, oneshot::Sender<bool>),
    Close(oneshot::Sender<()>),
}

struct CommitJob {
    seq: u64,
    commit: Commit,
    urgency: Urgency,
    shown: Vec<Bytes>,
    reply: oneshot::Sender<Result<Committed, CommitError>>,
    _room: OwnedSemaphorePermit,
}

struct Queue {
    seq: u64,
    jobs: Option<Sender<Job>>,
}

struct Shared<T> {
    table: T,
    overlay: Overlay,
    clock: Arc<dyn Clock>,
    stats: Stats,
    open_time: Duration,
}

#[derive(Debug, Default)]
struct Stats {
    submitted: AtomicU64,
    settled: AtomicU64,
    durable: AtomicU64,
    syncs: AtomicU64,
    last_sync_us: AtomicU64,
    /// Milliseconds of monotonic time at which the writer last got something done, or was idle.
    progress_ms: AtomicU64,
    disk_bytes: AtomicU64,
    stopped: AtomicBool,
}

/// An engine over a [`Table`].
pub(super) struct WriterEngine<T: Table> {
    shared: Arc<Shared<T>>,
    queue: Arc<Mutex<Queue>>,
    room: Arc<Semaphore>,
    reads: Semaphore,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl<T: Table> Drop for WriterEngine<T> {
    /// No thread outlives its handle: what is queued is made durable, then the files are let go.
    fn drop(&mut self) {
        self.queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .jobs = None;
        self.join();
    }
}

impl<T: Table> fmt::Debug for WriterEngine<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WriterEngine({:?})", self.shared.stats)
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn weight_of(commit: &Commit) -> u32 {
    let weight = 1 + commit.weight() / WEIGHT_BYTES;
    u32::try_from(weight.min(QUEUE_WEIGHT)).unwrap_or(u32::MAX)
}

impl<T: Table> WriterEngine<T> {
    /// Starts the writer. `open_time` is what opening the table took, for [`Health`].
    pub(super) fn start(
        table: T,
        clock: Arc<dyn Clock>,
        open_time: Duration,
        on_fatal: OnFatal,
    ) -> Result<Self, EngineError> {
        let (jobs, queued) = channel();
        let shared = Arc::new(Shared {
            table,
            overlay: Overlay::default(),
            clock,
            stats: Stats::default(),
            open_time,
        });
        let disk = shared.table.disk_bytes();
        shared.stats.disk_bytes.store(disk, Ordering::Relaxed);
        let writer = Writer::new(Arc::clone(&shared), queued);
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || thread::run(writer, &on_fatal))
            .map_err(|error| EngineError::Io(format!("no writer thread: {error}")))?;
        Ok(Self {
            shared,
            queue: Arc::new(Mutex::new(Queue {
                seq: 0,
                jobs: Some(jobs),
            })),
            room: Arc::new(Semaphore::new(QUEUE_WEIGHT)),
            reads: Semaphore::new(MAX_READS),
            thread: Mutex::new(Some(thread)),
        })
    }

    fn join(&self) {
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            // A panic of the writer was reported when it happened.
            let _ = thread.join();
        }
    }

    async fn blocking<R: Send + 'static>(
        &self,
        read: impl FnOnce(&Shared<T>) -> Result<R, EngineError> + Send + 'static,
    ) -> Result<R, EngineError> {
        if self.shared.stats.stopped.load(Ordering::Acquire) {
            return Err(EngineError::Closed);
        }
        let _permit = self
            .reads
            .acquire()
            .await
            .map_err(|_| EngineError::Closed)?;
        let shared = Arc::clone(&self.shared);
        match tokio::task::spawn_blocking(move || read(&shared)).await {
            Ok(result) => result,
            Err(error) if error.is_panic() => {
                Err(EngineError::Corrupt("reading a row panicked".into()))
            }
            Err(_) => Err(EngineError::Closed),
        }
    }

    fn send(&self, job: Job) -> Result<(), EngineError> {
        send(&self.queue, job)
    }
}

fn send(queue: &Mutex<Queue>, job: Job) -> Result<(), EngineError> {
    let queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
    let jobs = queue.jobs.as_ref().ok_or(EngineError::Closed)?;
    jobs.send(job).map_err(|_| EngineError::Closed)
}

impl<T: Table> Shared<T> {
    fn elapsed_ms(&self) -> u64 {
        millis(self.clock.elapsed())
    }

    /// Reads a value, again if it is overwritten in the middle.
    fn read(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        for _ in 0..16 {
            let Some(head) = self.table.get(&split::physical(key))? else {
                return Ok(None);
            };
            let mut get = |key: &[u8]| self.table.get(key);
            if let Some(value) = Stored::read(&head)?.assemble(key, &mut get)? {
                return Ok(Some(value));
            }
        }
        Err(EngineError::Corrupt("pieces of a value are missing".into()))
    }

    fn scan(&self, scan: &Scan, queued: usize) -> Result<(Vec<(Bytes, Bytes)>, bool), EngineError> {
        // Queued removals can hide as many rows as are queued.
        let enough = scan.rows() + 1 + queued;
        let mut heads = Vec::new();
        let (start, end) = (split::physical(&scan.start), split::physical(&scan.end));
        self.table
            .scan((&start, &end), scan.reverse, &mut |key, value| {
                heads.push((key, value));
                heads.len() < enough
            })?;
        let cut = heads.len() == enough;
        Ok((self.assemble(heads)?, cut))
    }

    /// Keys and whole values from what the table has; without those that went meanwhile.
    fn assemble(&self, heads: Vec<(Bytes, Bytes)>) -> Result<Vec<(Bytes, Bytes)>, EngineError> {
        let mut rows = Vec::with_capacity(heads.len());
        for (physical, head) in heads {
            let key = split::logical(&physical);
            match Stored::read(&head)? {
                Stored::Inline(value) => rows.push((key, value)),
                Stored::Split { .. } => {
                    if let Some(value) = self.read(&key)? {
                        rows.push((key, value));
                    }
                }
            }
        }
        Ok(rows)
    }
}

#[async_trait]
impl<T: Table> Engine for WriterEngine<T> {
    async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        if let Some(queued) = self.shared.overlay.get(key) {
            return Ok(queued);
        }
        let key = Bytes::copy_from_slice(key);
        self.blocking(move |shared| shared.read(&key)).await
    }

    async fn get_many(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, EngineError> {
        let mut values = Vec::with_capacity(keys.len());
        let mut missing = Vec::new();
        for (place, key) in keys.iter().enumerate() {
            let queued = self.shared.overlay.get(key);
            if queued.is_none() {
                missing.push((place, key.clone()));
            }
            values.push(queued.flatten());
        }
        if missing.is_empty() {
            return Ok(values);
        }
        let found = self.blocking(move |shared| {
            let read = |(place, key): (usize, Bytes)| Ok((place, shared.read(&key)?));
            missing.into_iter().map(read).collect::<Result<Vec<_>, _>>()
        });
        for (place, value) in found.await? {
            values[place] = value;
        }
        Ok(values)
    }

    async fn range(&self, scan: Scan) -> Result<Rows, EngineError> {
        if scan.start >= scan.end {
            return Ok(Rows::default());
        }
        // The overlay first: what leaves it before the table is read is in the table by then.
        let queued = self.shared.overlay.range(&scan.start, &scan.end);
        let (limit, reverse, count) = (scan.rows(), scan.reverse, queued.len());
        let read = self.blocking(move |shared| shared.scan(&scan, count));
        let (stored, cut) = read.await?;
        // Beyond the last row read, the table may hold rows that were not read.
        let last = stored.last().map(|(key, _)| key.clone()).filter(|_| cut);
        let mut merged: std::collections::BTreeMap<_, _> = stored
            .into_iter()
            .map(|(key, value)| (key, Some(value)))
            .collect();
        for (key, value) in queued {
            let beyond = last
                .as_ref()
                .is_some_and(|last| if reverse { key < *last } else { key > *last });
            if !beyond {
                merged.insert(key, value);
            }
        }
        let present = merged
            .into_iter()
            .filter_map(|(key, value)| value.map(|value| (key, value)));
        let mut rows: Vec<_> = if reverse {
            present.rev().take(limit + 1).collect()
        } else {
            present.take(limit + 1).collect()
        };
        let more = rows.len() > limit;
        rows.truncate(limit);
        Ok(Rows { rows, more })
    }

    async fn submit(&self, commit: Commit, urgency: Urgency) -> Result<Receipt, CommitError> {
        let room = Arc::clone(&self.room);
        let room = room.acquire_many_owned(weight_of(&commit)).await;
        let room = room.map_err(|_| EngineError::Closed)?;
        let (reply, receipt) = Receipt::pair();
        let visible = urgency == Urgency::Lazy && commit.is_visible_early();

        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.seq += 1;
        let seq = queue.seq;
        let jobs = queue.jobs.as_ref().ok_or(EngineError::Closed)?;
        let mut shown = Vec::new();
        if visible {
            let deleted = commit.delete.iter().map(|key| (key.clone(), None));
            let put = commit.put.iter();
            let put = put.map(|(key, value)| (key.clone(), Some(value.clone())));
            let writes: Vec<_> = deleted.chain(put).collect();
            shown.extend(writes.iter().map(|(key, _)| key.clone()));
            self.shared.overlay.show(seq, writes);
        }
        let stats = &self.shared.stats;
        if stats.submitted.fetch_add(1, Ordering::AcqRel) == stats.settled.load(Ordering::Acquire) {
            stats
                .progress_ms
                .store(self.shared.elapsed_ms(), Ordering::Release);
        }
        let job = CommitJob {
            seq,
            commit,
            urgency,
            shown,
            reply,
            _room: room,
        };
        jobs.send(Job::Commit(Box::new(job)))
            .map_err(|_| EngineError::Closed)?;
        Ok(receipt)
    }

    async fn watch(&self, stream: Bytes) -> Result<watch::Receiver<Revision>, EngineError> {
        let (reply, answer) = oneshot::channel();
        self.send(Job::Watch(stream, reply))?;
        answer.await.map_err(|_| EngineError::Closed)?
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, SnapshotError> {
        let (tap, changes) = tap::pair();
        let (reply, answer) = oneshot::channel();
        self.send(Job::Tap(tap, reply))?;
        if !answer.await.map_err(|_| EngineError::Closed)? {
            return Err(SnapshotError::Busy);
        }
        let (shared, queue) = (Arc::clone(&self.shared), Arc::clone(&self.queue));
        Ok(Box::new(TapSnapshot::new(shared, queue, changes)))
    }

    fn health(&self) -> Health {
        let stats = &self.shared.stats;
        let settled = stats.settled.load(Ordering::Acquire);
        let in_flight = stats
            .submitted
            .load(Ordering::Acquire)
            .saturating_sub(settled);
        let since = stats.progress_ms.load(Ordering::Acquire);
        let stuck_ms = match in_flight {
            0 => 0,
            _ => self.shared.elapsed_ms().saturating_sub(since),
        };
        Health {
            in_flight,
            stuck_for: Duration::from_millis(stuck_ms),
            durable: stats.durable.load(Ordering::Relaxed),
            syncs: stats.syncs.load(Ordering::Relaxed),
            last_sync: Duration::from_micros(stats.last_sync_us.load(Ordering::Relaxed)),
            disk_bytes: stats.disk_bytes.load(Ordering::Relaxed),
            open_time: self.shared.open_time,
        }
    }

    async fn close(&self) -> Result<(), EngineError> {
        let (reply, closed) = oneshot::channel();
        self.send(Job::Close(reply))?;
        self.queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .jobs = None;
        closed.await.map_err(|_| EngineError::Closed)?;
        // The writer has nothing left to do but return.
        self.join();
        Ok(())
    }
}
