//! The writer itself: gather, evaluate, apply, sync, answer.

use super::{CommitJob, Job, OnFatal, Shared, Table, Tap, TapId, WatchReply};
use crate::store::engine::{CommitError, Committed, EngineError, MAX_LAZY, Revision, Urgency};
use crate::store::evaluate::{self, Accepted, View};
use crate::store::split::{self, Stored};
use bytes::Bytes;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// Syncs between two measurements of the size on disk.
const MEASURE_EVERY: u64 = 256;
/// Most bytes in one batch.
const MAX_BATCH_BYTES: usize = 8 << 20;
/// Most keys in one batch; a single larger commit gets a batch of its own.
const MAX_BATCH_KEYS: usize = 1_000;
type Waiter = (
    oneshot::Sender<Result<Committed, CommitError>>,
    Result<Committed, CommitError>,
);

pub(super) struct Writer<T: Table> {
    shared: Arc<Shared<T>>,
    queued: Receiver<Job>,
    /// Answers that are true only once the table is synced.
    waiting: Vec<Waiter>,
    /// Revisions given out since the last sync.
    heads: HashMap<Bytes, Revision>,
    watchers: HashMap<Bytes, watch::Sender<Revision>>,
    /// When the first write since the last sync was applied.
    dirty_since: Option<Duration>,
    /// The snapshot that is told of changes.
    tap: Option<Tap>,
}

/// What one round of the writer has gathered.
#[derive(Default)]
struct Batch {
    writes: HashMap<Bytes, Option<Bytes>>,
    bytes: usize,
    settle: Vec<(u64, Vec<Bytes>)>,
    urgent: bool,
    watches: Vec<(Bytes, WatchReply)>,
    taps: Vec<(Tap, oneshot::Sender<bool>)>,
    untaps: Vec<(TapId, oneshot::Sender<bool>)>,
    close: Vec<oneshot::Sender<()>>,
}

impl Batch {
    fn is_full(&self) -> bool {
        self.writes.len() >= MAX_BATCH_KEYS || self.bytes >= MAX_BATCH_BYTES
    }
}

/// The table as changed by a batch that has not been applied.
struct Ahead<'a, T: Table> {
    shared: &'a Shared<T>,
    writes: &'a HashMap<Bytes, Option<Bytes>>,
}

impl<T: Table> Ahead<'_, T> {
    fn physical(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        match self.writes.get(key) {
            Some(written) => Ok(written.clone()),
            None => self.shared.table.get(key),
        }
    }

    fn stored(&self, key: &[u8]) -> Result<Option<Stored>, EngineError> {
        let head = self.physical(&split::physical(key))?;
        head.map(|head| Stored::read(&head)).transpose()
    }
}

impl<T: Table> View for Ahead<'_, T> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let Some(stored) = self.stored(key)? else {
            return Ok(None);
        };
        let whole = stored.assemble(key, &mut |key| self.physical(key))?;
        // Nobody but this thread writes: a missing piece is damage.
        let missing = || EngineError::Corrupt("pieces of a value are missing".into());
        whole.map(Some).ok_or_else(missing)
    }
}

pub(super) fn run<T: Table>(mut writer: Writer<T>, on_fatal: &OnFatal) {
    let outcome = catch_unwind(AssertUnwindSafe(|| writer.run()));
    writer.shared.stats.stopped.store(true, Ordering::Release);
    match outcome {
        Ok(Ok(())) => {}
        Ok(Err(error)) => on_fatal(&format!("the store cannot be made durable: {error}")),
        Err(_) => on_fatal("the store's writer panicked"),
    }
}

impl<T: Table> Writer<T> {
    pub(super) fn new(shared: Arc<Shared<T>>, queued: Receiver<Job>) -> Self {
        Self {
            shared,
            queued,
            waiting: Vec::new(),
            heads: HashMap::new(),
            watchers: HashMap::new(),
            dirty_since: None,
            tap: None,
        }
    }

    /// Works until closed; an error means that durability is lost.
    fn run(&mut self) -> Result<(), EngineError> {
        loop {
            let first = match self.dirty_since {
                None => self
                    .queued
                    .recv()
                    .map_err(|_| RecvTimeoutError::Disconnected),
                Some(since) => {
                    let age = self.shared.clock.elapsed().saturating_sub(since);
                    self.queued.recv_timeout(MAX_LAZY.saturating_sub(age))
                }
            };
            let mut batch = Batch::default();
            match first {
                Ok(job) => self.gather(&mut batch, job)?,
                Err(RecvTimeoutError::Timeout) => batch.urgent = true,
                Err(RecvTimeoutError::Disconnected) => return self.sync(),
            }
            self.apply(&mut batch)?;
            let lazy_is_over = self
                .dirty_since
                .is_some_and(|since| self.shared.clock.elapsed().saturating_sub(since) >= MAX_LAZY);
            // A clean table has nothing to wait for: what was refused or wrote nothing is answered.
            if batch.urgent || lazy_is_over || self.dirty_since.is_none() {
                self.sync()?;
            }
            self.answer_watches(&mut batch);
            self.answer_taps(&mut batch);
            if !batch.close.is_empty() {
                self.shared.stats.stopped.store(true, Ordering::Release);
                for closed in batch.close {
                    // Whoever asked may be gone; closed is closed.
                    let _ = closed.send(());
                }
                return Ok(());
            }
        }
    }

    fn gather(&mut self, batch: &mut Batch, first: Job) -> Result<(), EngineError> {
        let mut next = Some(first);
        while let Some(job) = next {
            match job {
                Job::Commit(job) => self.take(batch, *job)?,
                Job::Watch(stream, reply) => {
                    // The head it starts from has to be durable.
                    batch.urgent = true;
                    batch.watches.push((stream, reply));
                }
                Job::Tap(tap, reply) => batch.taps.push((tap, reply)),
                Job::Untap(id, reply) => {
                    // What the snapshot shows has to be durable.
                    batch.urgent = true;
                    batch.untaps.push((id, reply));
                }
                Job::Close(reply) => {
                    batch.urgent = true;
                    batch.close.push(reply);
                }
            }
            if batch.is_full() || !batch.close.is_empty() {
                break;
            }
            next = self.queued.try_recv().ok();
        }
        Ok(())
    }

    fn take(&mut self, batch: &mut Batch, job: CommitJob) -> Result<(), EngineError> {
        let view = Ahead {
            shared: &self.shared,
            writes: &batch.writes,
        };
        let planned = evaluate::evaluate(job.commit, &view)
            .and_then(|accepted| Ok((plan(&accepted, &view)?, accepted)));
        let outcome = planned.map(|(writes, accepted)| {
            (writes, accepted.writes, accepted.committed, accepted.heads)
        });
        batch.urgent |= job.urgency == Urgency::Durable;
        let answer = match outcome {
            Ok((writes, changed, committed, heads)) => {
                if batch.writes.len() + writes.len() > MAX_BATCH_KEYS && !batch.writes.is_empty() {
                    self.apply(batch)?;
                }
                if let Some(tap) = &mut self.tap {
                    tap.note(&changed);
                }
                for (key, value) in writes {
                    batch.bytes += key.len() + value.as_ref().map_or(0, Bytes::len);
                    batch.writes.insert(key, value);
                }
                self.heads.extend(heads);
                Ok(committed)
            }
            Err(error) => Err(error),
        };
        // Not before: what is applied in between is without this commit.
        batch.settle.push((job.seq, job.shown));
        self.waiting.push((job.reply, answer));
        Ok(())
    }

    fn apply(&mut self, batch: &mut Batch) -> Result<(), EngineError> {
        batch.bytes = 0;
        if !batch.writes.is_empty() {
            self.shared.table.apply(std::mem::take(&mut batch.writes))?;
            let now = self.shared.clock.elapsed();
            self.dirty_since.get_or_insert(now);
        }
        if self.tap.as_mut().is_some_and(|tap| !tap.applied()) {
            self.tap = None;
        }
        for (seq, keys) in batch.settle.drain(..) {
            self.shared.overlay.settle(seq, &keys);
        }
        Ok(())
    }

    /// Makes everything durable and tells everybody.
    fn sync(&mut self) -> Result<(), EngineError> {
        let stats = &self.shared.stats;
        if self.dirty_since.take().is_some() {
            let before = self.shared.clock.elapsed();
            self.shared.table.sync()?;
            let took = self.shared.clock.elapsed().saturating_sub(before);
            metrics::histogram!("trunkline_store_commit_seconds").record(took.as_secs_f64());
            let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            stats.last_sync_us.store(took, Ordering::Relaxed);
            let syncs = stats.syncs.fetch_add(1, Ordering::Relaxed);
            if syncs.is_multiple_of(MEASURE_EVERY) {
                let bytes = self.shared.table.disk_bytes();
                stats.disk_bytes.store(bytes, Ordering::Relaxed);
            }
        }
        for (stream, revision) in self.heads.drain() {
            if let Some(head) = self.watchers.get(&stream) {
                head.send_replace(revision);
            }
        }
        let answered = self.waiting.len() as u64;
        for (reply, answer) in self.waiting.drain(..) {
            if answer.is_ok() {
                stats.durable.fetch_add(1, Ordering::Relaxed);
            }
            // A dropped receipt means nobody waits; the commit stands.
            let _ = reply.send(answer);
        }
        stats.settled.fetch_add(answered, Ordering::AcqRel);
        stats
            .progress_ms
            .store(self.shared.elapsed_ms(), Ordering::Release);
        Ok(())
    }

    fn answer_watches(&mut self, batch: &mut Batch) {
        for (stream, reply) in batch.watches.drain(..) {
            // Its place is free again once the last reader of a stream is gone.
            self.watchers.retain(|_, head| head.receiver_count() > 0);
            let answer = match self.watchers.get(&stream) {
                Some(head) => Ok(head.subscribe()),
                None => self.start_watch(stream),
            };
            // Whoever asked may have gone away.
            let _ = reply.send(answer);
        }
    }

    /// After everything gathered is in the table: a snapshot that begins now finds it there, one that
    /// ends now was told of it.
    fn answer_taps(&mut self, batch: &mut Batch) {
        for (id, done) in batch.untaps.drain(..) {
            let held = self.tap.as_ref().is_some_and(|tap| tap.is(&id));
            if held {
                self.tap = None;
            }
            // Whoever asked may have gone away.
            let _ = done.send(held);
        }
        for (tap, reply) in batch.taps.drain(..) {
            let free = self.tap.as_ref().is_none_or(|tap| !tap.is_wanted());
            if free {
                self.tap = Some(tap);
            }
            let _ = reply.send(free);
        }
    }

    fn start_watch(&mut self, stream: Bytes) -> Result<watch::Receiver<Revision>, EngineError> {
        let last = evaluate::counter(self.shared.read(&stream)?.as_deref())?;
        let (head, receiver) = watch::channel(last);
        self.watchers.insert(stream, head);
        Ok(receiver)
    }
}

/// The physical writes of an accepted commit.
fn plan<T: Table>(
    accepted: &Accepted,
    view: &Ahead<'_, T>,
) -> Result<HashMap<Bytes, Option<Bytes>>, EngineError> {
    let mut writes = HashMap::with_capacity(accepted.writes.len());
    for (key, value) in &accepted.writes {
        let old = view.stored(key)?;
        split::plan(key, value.as_ref(), old.as_ref(), |key, value| {
            writes.insert(key, value);
        });
    }
    Ok(writes)
}
