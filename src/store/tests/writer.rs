//! What readers and waiters see while the writer is busy.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::domain::clock::SystemClock;
use crate::store::conformance::until;
use crate::store::engine::{Commit, CommitError, EngineError, Expectation, Urgency};
use crate::store::writer::{Table, WriterEngine};

/// A table that stands still when it is told to apply a batch.
#[derive(Default)]
pub(super) struct Gate {
    rows: Mutex<BTreeMap<Bytes, Bytes>>,
    /// How many batches may still be applied; none means any number.
    left: Mutex<Option<usize>>,
    moved: Condvar,
    waiting: AtomicUsize,
}

impl Gate {
    /// Lets so many batches pass, then stands still.
    pub(super) fn close_after(&self, batches: usize) {
        *self.left.lock().unwrap() = Some(batches);
    }

    pub(super) fn open(&self) {
        *self.left.lock().unwrap() = None;
        self.moved.notify_all();
    }

    /// Waits until a batch stands before the gate.
    pub(super) async fn stands(&self) {
        until(|| self.waiting.load(Ordering::SeqCst) > 0).await;
    }

    fn pass(&self) {
        let mut left = self.left.lock().unwrap();
        while *left == Some(0) {
            self.waiting.fetch_add(1, Ordering::SeqCst);
            left = self.moved.wait(left).unwrap();
            self.waiting.fetch_sub(1, Ordering::SeqCst);
        }
        *left = left.map(|left| left - 1);
    }
}

#[derive(Clone)]
struct Gated(Arc<Gate>);

impl Table for Gated {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(self.0.rows.lock().unwrap().get(key).cloned())
    }

    fn scan(
        &self,
        (start, end): (&[u8], &[u8]),
        reverse: bool,
        visit: &mut dyn FnMut(Bytes, Bytes) -> bool,
    ) -> Result<(), EngineError> {
        let rows = self.0.rows.lock().unwrap();
        let (start, end) = (Bytes::copy_from_slice(start), Bytes::copy_from_slice(end));
        let mut found: Vec<_> = rows.range(start..end).collect();
        if reverse {
            found.reverse();
        }
        for (key, value) in found {
            if !visit(key.clone(), value.clone()) {
                break;
            }
        }
        Ok(())
    }

    fn apply(&self, writes: HashMap<Bytes, Option<Bytes>>) -> Result<(), EngineError> {
        self.0.pass();
        let mut rows = self.0.rows.lock().unwrap();
        for (key, value) in writes {
            match value {
                Some(value) => rows.insert(key, value),
                None => rows.remove(&key),
            };
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), EngineError> {
        Ok(())
    }

    fn disk_bytes(&self) -> u64 {
        0
    }
}

/// An engine over a table with a gate.
pub(super) fn gated() -> (Arc<dyn Engine>, Arc<Gate>) {
    let gate = Arc::new(Gate::default());
    let table = Gated(Arc::clone(&gate));
    let clock = Arc::new(SystemClock::new());
    let fatal = Box::new(|what: &str| panic!("{what}"));
    let engine = WriterEngine::start(table, clock, Duration::ZERO, fatal).unwrap();
    (Arc::new(engine), gate)
}

fn put(keys: impl Iterator<Item = String>) -> Commit {
    Commit {
        put: keys.map(|key| (key.into(), "v".into())).collect(),
        ..Commit::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_overflows_a_batch_stays_visible() {
    let (engine, gate) = gated();
    gate.close_after(0);
    let first = put(std::iter::once("first".to_owned()));
    let first = engine.submit(first, Urgency::Durable).await.unwrap();
    gate.stands().await;
    // Too much for one batch together: the first is applied before the second joins the next.
    let full = put((0..999).map(|n| format!("full {n}")));
    let over = put((0..2).map(|n| format!("over {n}")));
    engine.submit(full, Urgency::Lazy).await.unwrap();
    let over = engine.submit(over, Urgency::Lazy).await.unwrap();
    gate.close_after(2);
    gate.moved.notify_all();
    first.await.unwrap();
    until(|| gate.rows.lock().unwrap().len() == 1_000).await;
    gate.stands().await;
    assert_eq!(engine.get(b"over 0").await.unwrap(), Some("v".into()));
    gate.open();
    over.await.unwrap();
    assert_eq!(engine.get(b"over 0").await.unwrap(), Some("v".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lazy_write_that_is_refused_is_answered_at_once() {
    let (engine, _gate) = gated();
    let refused = Commit {
        expect: vec![("missing".into(), Expectation::Equals("x".into()))],
        ..Commit::default()
    };
    let receipt = engine.submit(refused, Urgency::Lazy).await.unwrap();
    let answer = tokio::time::timeout(Duration::from_mins(1), receipt).await;
    assert_eq!(
        answer.expect("it was never answered"),
        Err(CommitError::ExpectationFailed { index: 0 })
    );
    until(|| engine.health().in_flight == 0).await;
}
