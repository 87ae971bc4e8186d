//! How a commit turns into plain writes: the same rules for every engine.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;

use super::engine::{
    Commit, CommitError, Committed, EngineError, MAX_COMMIT_BYTES, MAX_COMMIT_KEYS, Revision,
    RowError,
};

/// The state a commit is evaluated against: everything that was committed before it.
pub(super) trait View {
    /// The value of a key.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError>;
}

/// A commit that was accepted.
#[derive(Debug, Default)]
pub(super) struct Accepted {
    /// What to write (`None` deletes), one entry per key.
    pub(super) writes: HashMap<Bytes, Option<Bytes>>,
    /// What to answer.
    pub(super) committed: Committed,
    /// The last revision of each stream appended to.
    pub(super) heads: Vec<(Bytes, Revision)>,
}

/// Decodes a counter (a stream's last revision or an epoch); absent is zero.
pub(super) fn counter(value: Option<&[u8]>) -> Result<u64, EngineError> {
    match value {
        None => Ok(0),
        Some(bytes) => bytes
            .try_into()
            .map(u64::from_be_bytes)
            .map_err(|_| EngineError::Corrupt("a counter is not eight bytes".into())),
    }
}

/// Checks a commit against `view` and works out what it writes.
pub(super) fn evaluate(commit: Commit, view: &impl View) -> Result<Accepted, CommitError> {
    if let Some(fence) = &commit.fence {
        let current = counter(view.get(&fence.key)?.as_deref())?;
        if current != fence.epoch {
            return Err(CommitError::Fenced {
                held: fence.epoch,
                current,
            });
        }
    }
    for (index, (key, expectation)) in commit.expect.iter().enumerate() {
        if !expectation.holds(view.get(key)?.as_deref()) {
            return Err(CommitError::ExpectationFailed { index });
        }
    }

    let mut accepted = Accepted::default();
    for key in commit.delete {
        accepted.writes.insert(key, None);
    }
    for (key, value) in commit.put {
        accepted.writes.insert(key, Some(value));
    }
    for (key, update) in commit.update {
        let current = current(&accepted, view, &key)?;
        let next = contained(|| update(current.as_deref()))?;
        accepted.writes.insert(key, next);
    }
    for append in commit.append {
        let last = counter(current(&accepted, view, &append.stream)?.as_deref())?;
        let revision = last
            .checked_add(1)
            .ok_or_else(|| RowError("a stream ran out of revisions".into()))?;
        for (key, value) in contained(|| (append.rows)(revision))? {
            accepted.writes.insert(key, Some(value));
        }
        let bytes = Bytes::copy_from_slice(&revision.to_be_bytes());
        accepted.writes.insert(append.stream.clone(), Some(bytes));
        accepted.committed.revisions.push(revision);
        accepted
            .heads
            .retain(|(stream, _)| *stream != append.stream);
        accepted.heads.push((append.stream, revision));
    }
    within_limits(accepted)
}

/// Runs a function that came with a commit: its panic must not take the engine down.
fn contained<R>(function: impl FnOnce() -> Result<R, RowError>) -> Result<R, RowError> {
    catch_unwind(AssertUnwindSafe(function))
        .unwrap_or_else(|_| Err(RowError("a function inside the commit panicked".into())))
}

fn current(
    accepted: &Accepted,
    view: &impl View,
    key: &Bytes,
) -> Result<Option<Bytes>, EngineError> {
    match accepted.writes.get(key) {
        Some(written) => Ok(written.clone()),
        None => view.get(key),
    }
}

fn within_limits(accepted: Accepted) -> Result<Accepted, CommitError> {
    let keys = accepted.writes.len();
    let bytes = accepted
        .writes
        .iter()
        .map(|(key, value)| key.len() + value.as_ref().map_or(0, Bytes::len))
        .sum();
    if keys > MAX_COMMIT_KEYS || bytes > MAX_COMMIT_BYTES {
        return Err(CommitError::TooLarge { keys, bytes });
    }
    Ok(accepted)
}
