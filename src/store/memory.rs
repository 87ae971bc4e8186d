//! The engine that forgets: for tests, and the reference the durable engine is checked against.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;

use super::engine::{
    Change, Commit, CommitError, Engine, EngineError, Health, MAX_PAGE, Receipt, Revision, Rows,
    Scan, Snapshot, SnapshotError, Urgency,
};
use super::evaluate::{self, View};

/// Everything in one ordered map behind one lock; every commit is "durable" at once.
#[derive(Debug, Default)]
pub struct MemoryEngine {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    rows: BTreeMap<Bytes, Bytes>,
    heads: HashMap<Bytes, watch::Sender<Revision>>,
    durable: u64,
    closed: bool,
}

impl View for BTreeMap<Bytes, Bytes> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(BTreeMap::get(self, key).cloned())
    }
}

impl MemoryEngine {
    /// An empty engine.
    pub fn new() -> Self {
        Self::default()
    }

    fn open(&self) -> Result<MutexGuard<'_, State>, EngineError> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return Err(EngineError::Closed);
        }
        Ok(state)
    }
}

/// All rows as they were.
struct Copied(std::collections::btree_map::IntoIter<Bytes, Bytes>);

impl Snapshot for Copied {
    fn next(&mut self) -> Result<Option<Vec<Change>>, SnapshotError> {
        let rows = self.0.by_ref().take(MAX_PAGE);
        let piece: Vec<_> = rows.map(|(key, value)| (key, Some(value))).collect();
        Ok((!piece.is_empty()).then_some(piece))
    }
}

#[async_trait]
impl Engine for MemoryEngine {
    async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(self.open()?.rows.get(key).cloned())
    }

    async fn get_many(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, EngineError> {
        let state = self.open()?;
        Ok(keys
            .iter()
            .map(|key| state.rows.get(key).cloned())
            .collect())
    }

    async fn range(&self, scan: Scan) -> Result<Rows, EngineError> {
        let state = self.open()?;
        if scan.start >= scan.end {
            return Ok(Rows::default());
        }
        let limit = scan.rows();
        let range = state
            .rows
            .range::<Bytes, _>((Bound::Included(&scan.start), Bound::Excluded(&scan.end)));
        let clone = |(key, value): (&Bytes, &Bytes)| (key.clone(), value.clone());
        let mut rows: Vec<_> = if scan.reverse {
            range.rev().take(limit + 1).map(clone).collect()
        } else {
            range.take(limit + 1).map(clone).collect()
        };
        let more = rows.len() > limit;
        rows.truncate(limit);
        Ok(Rows { rows, more })
    }

    async fn submit(&self, commit: Commit, _urgency: Urgency) -> Result<Receipt, CommitError> {
        let mut state = self.open()?;
        let (reply, receipt) = Receipt::pair();
        let outcome = evaluate::evaluate(commit, &state.rows).map(|accepted| {
            for (key, value) in accepted.writes {
                match value {
                    Some(value) => state.rows.insert(key, value),
                    None => state.rows.remove(&key),
                };
            }
            state.durable += 1;
            for (stream, revision) in accepted.heads {
                if let Some(head) = state.heads.get(&stream) {
                    head.send_replace(revision);
                }
            }
            accepted.committed
        });
        // A dropped receipt means nobody waits; the commit stands.
        let _ = reply.send(outcome);
        Ok(receipt)
    }

    async fn watch(&self, stream: Bytes) -> Result<watch::Receiver<Revision>, EngineError> {
        let mut state = self.open()?;
        let last = evaluate::counter(state.rows.get(&stream).map(Bytes::as_ref))?;
        let head = state
            .heads
            .entry(stream)
            .or_insert_with(|| watch::channel(last).0);
        Ok(head.subscribe())
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, SnapshotError> {
        let rows = self.open()?.rows.clone();
        Ok(Box::new(Copied(rows.into_iter())))
    }

    fn health(&self) -> Health {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        Health {
            durable: state.durable,
            ..Health::default()
        }
    }

    async fn close(&self) -> Result<(), EngineError> {
        self.open()?.closed = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::conformance;

    conformance::suite!(|| {
        let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new());
        (engine, None::<tempfile::TempDir>)
    });
}
