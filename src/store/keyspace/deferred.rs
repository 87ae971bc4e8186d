//! Writes of a session that wait for its next one, and what became of those nobody waits for.

use crate::store::engine::{Commit, CommitError, Engine, Fence, Receipt, Urgency};
use crate::store::errors::StoreError;
use bytes::Bytes;
use futures::FutureExt as _;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use tokio::sync::Mutex;

/// Deferred rows a session may hold before they are written anyway.
const MAX_DEFERRED_ROWS: usize = 256;
/// Bytes of deferred rows a session may hold before they are written anyway.
const MAX_DEFERRED_BYTES: usize = 1 << 20;
/// Rows written at once: one batch may defer many more than may wait.
const FLUSH_ROWS: usize = 1_000;

/// Rows that wait for the session's next write. A deleted row stays as a tombstone, because an older
/// value of it may be on disk; deleting what is not there costs the engine no write.
#[derive(Debug, Default)]
pub(in crate::store) struct Deferred {
    pub(super) rows: BTreeMap<Bytes, Option<Bytes>>,
    bytes: usize,
    /// Writes that nobody waits for and that are not on disk yet.
    underway: VecDeque<Receipt>,
    /// Why one of them failed, until somebody is told.
    failure: Option<StoreError>,
}

fn size(key: &Bytes, value: Option<&Bytes>) -> usize {
    key.len() + value.map_or(0, Bytes::len)
}

impl Deferred {
    #[expect(clippy::needless_pass_by_value, reason = "the key moves into the map")]
    pub(super) fn put(&mut self, key: Bytes, value: Option<Bytes>) {
        self.bytes += size(&key, value.as_ref());
        if let Some(old) = self.rows.insert(key.clone(), value) {
            self.bytes -= size(&key, old.as_ref());
        }
    }

    /// Forgets all rows.
    pub(in crate::store) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn is_full(&self) -> bool {
        self.rows.len() >= MAX_DEFERRED_ROWS || self.bytes >= MAX_DEFERRED_BYTES
    }

    /// Writes all rows, as lazy commits of their own: readers see them all the while. Safe to cancel:
    /// a row is let go only when its commit has its place in the order.
    pub(in crate::store) async fn flush(
        &mut self,
        engine: &dyn Engine,
        fence: Option<Fence>,
    ) -> Result<(), StoreError> {
        while !self.rows.is_empty() {
            let mut commit = Commit {
                fence: fence.clone(),
                ..Commit::default()
            };
            for (key, value) in self.rows.iter().take(FLUSH_ROWS) {
                match value {
                    Some(value) => commit.put.push((key.clone(), value.clone())),
                    None => commit.delete.push(key.clone()),
                }
            }
            let count = commit.put.len() + commit.delete.len();
            let receipt = engine.submit(commit, Urgency::Lazy).await?;
            for _ in 0..count {
                if let Some((key, value)) = self.rows.pop_first() {
                    self.bytes -= size(&key, value.as_ref());
                }
            }
            self.watch(receipt);
        }
        Ok(())
    }

    /// Remembers a write that nobody waits for, so that its failure is told to somebody.
    pub(in crate::store) fn watch(&mut self, receipt: Receipt) {
        self.underway.push_back(receipt);
        self.look();
    }

    fn look(&mut self) {
        while let Some(receipt) = self.underway.front_mut()
            && let Some(outcome) = receipt.now_or_never()
        {
            self.underway.pop_front();
            match outcome {
                // Whoever lost the session learns that from its own next write.
                Ok(_) | Err(CommitError::Fenced { .. }) => {}
                Err(error) => self.failure = Some(error.into()),
            }
        }
    }

    /// Why a write that nobody waited for failed, once.
    pub(super) fn take_failure(&mut self) -> Result<(), StoreError> {
        self.look();
        self.failure.take().map_or(Ok(()), Err)
    }
}

/// Shared by all handles of a session.
pub(in crate::store) type SharedDeferred = Arc<Mutex<Deferred>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_failure_of_a_write_that_nobody_waits_for_is_told_once() {
        let mut deferred = Deferred::default();
        let (reply, receipt) = Receipt::pair();
        deferred.watch(receipt);
        assert_eq!(deferred.take_failure(), Ok(()));
        let refused = CommitError::TooLarge { keys: 9, bytes: 9 };
        reply.send(Err(refused.clone())).unwrap();
        assert_eq!(deferred.take_failure(), Err(refused.into()));
        assert_eq!(deferred.take_failure(), Ok(()));
        let (reply, receipt) = Receipt::pair();
        deferred.watch(receipt);
        let fenced = CommitError::Fenced {
            held: 1,
            current: 2,
        };
        reply.send(Err(fenced)).unwrap();
        assert_eq!(deferred.take_failure(), Ok(()), "that is another owner's");
    }
}
