//! The sweeper: the one place where rows end by time.
//!
//! Rows with a deadline have an entry `expiry ‖ hour ‖ key hash` that names them; the sweeper walks the
//! entries of hours that have passed. A row that was written again with a later deadline has a later
//! entry too and stays until then. What is organised by day (dedup marks, usage) goes by range.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;

use super::dedup;
use super::engine::{Commit, Engine, Expectation, Scan, Urgency};
use super::errors::StoreError;
use super::key::{Kind, session_of};
use super::keyspace::open_value;
use super::migrate::first_version;
use super::scope::Scope;
use super::seal::Sealer;
use super::usage::Day;
use super::workspace::WorkspaceStore;
use crate::domain::clock::Timestamp;

/// Usage counters are kept this many days.
const KEEP_USAGE_DAYS: u32 = 400;

const HOUR: Duration = Duration::from_hours(1);

#[derive(Clone, PartialEq, Message)]
pub(super) struct ExpiryRow {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(uint64, tag = "2")]
    at: u64,
}
first_version!(ExpiryRow, "expiry");

/// The entry that makes the sweeper remove `key` some time after `at`. `session` is the number of the
/// session whose key space holds the row; 0 for workspace-level rows.
pub(super) fn expiry_row(
    workspace: &WorkspaceStore,
    key: &Bytes,
    session: u64,
    at: Timestamp,
) -> Result<(Bytes, Bytes), StoreError> {
    debug_assert_eq!(session_of(key), Some(session));
    let root = &workspace.0.root;
    let hour = at.secs() / HOUR.as_secs();
    let hash = root.hash(&[b"expiry", key]);
    let entry = workspace.key(Kind::Expiry).u64(hour).hash(hash).finish();
    let row = ExpiryRow {
        key: key.clone(),
        at: at.0,
    };
    let sealed = root.seal(&entry, &row)?;
    Ok((entry, sealed))
}

/// What a sweep did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Rows removed because their time had come.
    pub expired: u64,
    /// Entries whose row had been written again with a later deadline.
    pub renewed: u64,
}

/// Removes what has expired in one workspace.
pub(super) async fn sweep(workspace: &WorkspaceStore) -> Result<Swept, StoreError> {
    let mut swept = Swept::default();
    let now = workspace.now();
    while sweep_page(workspace, now, &mut swept).await? {}

    let engine = &*workspace.0.context.engine;
    let (start, end) = dedup::expired(workspace);
    let days = Scan {
        start,
        end,
        limit: 500,
        reverse: false,
    };
    while delete_page(engine, days.clone()).await? {}
    let first_kept = Day(Day::of(now).0.saturating_sub(KEEP_USAGE_DAYS));
    while workspace.usage().remove_before(first_kept).await? {}
    Ok(swept)
}

/// Works off one page of entries; whether there may be more.
async fn sweep_page(
    workspace: &WorkspaceStore,
    now: Timestamp,
    swept: &mut Swept,
) -> Result<bool, StoreError> {
    let root = &workspace.0.root;
    let hour = now.secs() / HOUR.as_secs();
    let scan = Scan {
        start: root.prefix(Kind::Expiry),
        end: workspace.key(Kind::Expiry).u64(hour).prefix(),
        limit: 250,
        reverse: false,
    };
    let (entries, more) = root.scan::<ExpiryRow>(scan).await?;
    if entries.is_empty() {
        return Ok(false);
    }
    let targets: Vec<Bytes> = entries.iter().map(|(_, row)| row.key.clone()).collect();
    let values = workspace.0.context.engine.get_many(&targets).await?;
    let mut commit = Commit::default();
    for ((entry, row), value) in entries.into_iter().zip(values) {
        commit.delete.push(entry);
        let Some(value) = value else { continue };
        if deadline(workspace, &row, &value)? <= now {
            // Only what was looked at: a row renewed this very moment must stay.
            commit
                .expect
                .push((row.key.clone(), Expectation::Equals(value)));
            commit.delete.push(row.key);
            swept.expired += 1;
        } else {
            swept.renewed += 1;
        }
    }
    match root.engine.commit(commit).await {
        Ok(_) => Ok(more),
        // Somebody renewed a row meanwhile: look at this page again.
        Err(super::engine::CommitError::ExpectationFailed { .. }) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// The deadline a row has now: key-space rows carry theirs, the others have that of their entry.
fn deadline(
    workspace: &WorkspaceStore,
    row: &ExpiryRow,
    value: &[u8],
) -> Result<Timestamp, StoreError> {
    let session = session_of(&row.key).unwrap_or_default();
    if session == 0 {
        return Ok(Timestamp(row.at));
    }
    let inner = &workspace.0;
    let scope = Scope {
        engine: inner.context.engine.clone(),
        sealer: std::sync::Arc::new(Sealer::new(inner.number, session, inner.keys.clone())?),
    };
    let (_, at) = open_value(&scope, &row.key, value)?;
    // Written again without a deadline: it stays.
    Ok(at.unwrap_or(Timestamp(u64::MAX)))
}

/// Deletes one page of a range without looking at the values; whether there may be more.
pub(super) async fn delete_page(engine: &dyn Engine, scan: Scan) -> Result<bool, StoreError> {
    let page = engine.range(scan).await?;
    if page.rows.is_empty() {
        return Ok(false);
    }
    let commit = Commit {
        delete: page.rows.into_iter().map(|(key, _)| key).collect(),
        ..Commit::default()
    };
    engine.submit(commit, Urgency::Durable).await?.await?;
    Ok(page.more)
}
