//! Snapshots of a table that is being written.
//!
//! The reader goes through the table in key order, a piece at a time, while the writer tells its tap of
//! every batch it has applied. Rows are handed on as soon as they are read, so every change that was made
//! after that is handed on after them and overwrites them; and of a row that was changed before it was
//! read, the last change is handed on too. Once the end of the table is reached, the writer makes
//! everything durable and lets the tap go: that moment is what the snapshot shows.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{Job, Queue, Shared, Table, send};
use crate::store::engine::{Change, EngineError, MAX_PAGE, MAX_WAITING, Snapshot, SnapshotError};
use crate::store::snapshot::PIECE_BYTES;
use crate::store::split::{self, Stored};

/// Which tap is meant.
#[derive(Debug, Clone)]
pub(super) struct TapId(Arc<Level>);

/// What both ends know.
#[derive(Debug, Default)]
struct Level {
    waiting: AtomicUsize,
    overrun: AtomicBool,
}

/// The writer's end.
pub(super) struct Tap {
    changes: Sender<(usize, Vec<Change>)>,
    level: Arc<Level>,
    /// Of commits that are accepted and not applied yet.
    pending: Vec<Change>,
}

/// The reader's end.
pub(super) struct Changes {
    queued: Receiver<(usize, Vec<Change>)>,
    level: Arc<Level>,
}

pub(super) fn pair() -> (Tap, Changes) {
    let (changes, queued) = channel();
    let level = Arc::<Level>::default();
    let tap = Tap {
        changes,
        level: Arc::clone(&level),
        pending: Vec::new(),
    };
    (tap, Changes { queued, level })
}

impl Tap {
    /// Notes what an accepted commit writes.
    pub(super) fn note<'a>(
        &mut self,
        writes: impl IntoIterator<Item = (&'a Bytes, &'a Option<Bytes>)>,
    ) {
        let writes = writes.into_iter();
        self.pending
            .extend(writes.map(|(key, value)| (key.clone(), value.clone())));
    }

    /// Hands on what was noted, now that it is in the table. Returns whether the tap is still wanted.
    pub(super) fn applied(&mut self) -> bool {
        if self.pending.is_empty() {
            return self.is_wanted();
        }
        let changes = std::mem::take(&mut self.pending);
        let size = changes.iter().map(size_of_change).sum();
        let waiting = self.level.waiting.fetch_add(size, Ordering::AcqRel) + size;
        if waiting > MAX_WAITING {
            self.level.overrun.store(true, Ordering::Release);
            return false;
        }
        self.changes.send((size, changes)).is_ok()
    }

    /// Whether it is the tap with this id.
    pub(super) fn is(&self, id: &TapId) -> bool {
        Arc::ptr_eq(&self.level, &id.0)
    }

    /// Whether somebody is at the other end.
    pub(super) fn is_wanted(&self) -> bool {
        Arc::strong_count(&self.level) > 1
    }
}

fn size_of_change((key, value): &Change) -> usize {
    key.len() + value.as_ref().map_or(0, Bytes::len)
}

impl Changes {
    /// The changes of one batch, if any wait.
    fn take(&self) -> Result<Option<Vec<Change>>, SnapshotError> {
        if self.level.overrun.load(Ordering::Acquire) {
            return Err(SnapshotError::Behind);
        }
        let Ok((size, changes)) = self.queued.try_recv() else {
            return Ok(None);
        };
        self.level.waiting.fetch_sub(size, Ordering::AcqRel);
        Ok(Some(changes))
    }
}

enum Place {
    /// The table is read from this physical key on.
    At(Bytes),
    /// The table was read to its end.
    End,
    /// The writer let go: what is queued is the rest.
    Rest,
}

/// See the module documentation.
pub(super) struct TapSnapshot<T: Table> {
    shared: Arc<Shared<T>>,
    queue: Arc<Mutex<Queue>>,
    changes: Changes,
    place: Place,
    /// Whether rows come next: neither rows nor changes keep the other waiting.
    rows_next: bool,
}

impl<T: Table> TapSnapshot<T> {
    pub(super) fn new(shared: Arc<Shared<T>>, queue: Arc<Mutex<Queue>>, changes: Changes) -> Self {
        Self {
            shared,
            queue,
            changes,
            place: Place::At(split::all().0),
            rows_next: true,
        }
    }

    /// Reads a piece of the table and moves on.
    fn read(&mut self, from: &Bytes) -> Result<Vec<Change>, EngineError> {
        if self.shared.stats.stopped.load(Ordering::Acquire) {
            return Err(EngineError::Closed);
        }
        let (mut heads, mut bytes, mut more, mut damaged) = (Vec::new(), 0, false, None);
        let range = (&from[..], &split::all().1[..]);
        self.shared.table.scan(range, false, &mut |key, head| {
            match Stored::read(&head) {
                Ok(stored) => bytes += key.len() + stored.len(),
                Err(error) => damaged = Some(error),
            }
            heads.push((key, head));
            more = bytes < PIECE_BYTES && heads.len() < MAX_PAGE && damaged.is_none();
            more
        })?;
        if let Some(error) = damaged {
            return Err(error);
        }
        // The scan stopped early exactly if the last visit said so.
        self.place = match heads.last() {
            Some((last, _)) if !more => {
                let mut next = last.to_vec();
                next.push(0);
                Place::At(next.into())
            }
            _ => Place::End,
        };
        let rows = self.shared.assemble(heads)?;
        let rows = rows.into_iter().map(|(key, value)| (key, Some(value)));
        Ok(rows.collect())
    }
}

impl<T: Table> Snapshot for TapSnapshot<T> {
    fn next(&mut self) -> Result<Option<Vec<Change>>, SnapshotError> {
        loop {
            match &self.place {
                Place::At(from) => {
                    let from = from.clone();
                    let rows_next = std::mem::replace(&mut self.rows_next, true);
                    if !rows_next && let Some(changes) = self.changes.take()? {
                        return Ok(Some(changes));
                    }
                    self.rows_next = false;
                    let rows = self.read(&from)?;
                    if !rows.is_empty() {
                        return Ok(Some(rows));
                    }
                }
                // At once: as long as the tap is there, changes may come faster than they are taken.
                Place::End => {
                    let (reply, done) = oneshot::channel();
                    let id = TapId(Arc::clone(&self.changes.level));
                    send(&self.queue, Job::Untap(id, reply))?;
                    if !done.blocking_recv().map_err(|_| EngineError::Closed)? {
                        return Err(SnapshotError::Behind);
                    }
                    self.place = Place::Rest;
                }
                Place::Rest => return self.changes.take(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_lags_too_far_behind_loses_its_snapshot_and_nobody_waits() {
        let (mut tap, changes) = pair();
        let value = Some(Bytes::from(vec![7; 1 << 20]));
        let note = |tap: &mut Tap| tap.note([(&Bytes::from_static(b"k"), &value)]);
        for _ in 0..MAX_WAITING >> 20 {
            assert!(changes.take().unwrap().is_none());
            note(&mut tap);
            assert!(tap.applied());
            assert_eq!(changes.take().unwrap().unwrap().len(), 1);
        }
        let mut told = 0;
        loop {
            note(&mut tap);
            if !tap.applied() {
                break;
            }
            told += 1;
        }
        assert_eq!(told, (MAX_WAITING >> 20) - 1);
        assert_eq!(changes.take(), Err(SnapshotError::Behind));
    }

    #[test]
    fn a_tap_is_wanted_as_long_as_somebody_reads() {
        let (mut tap, changes) = pair();
        assert!(tap.applied());
        drop(changes);
        assert!(!tap.applied());
    }
}
