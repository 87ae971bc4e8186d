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
use super::key::{Kind, is_of, session_of};
use super::keyspace::open_value;
use super::media;
use super::migrate::first_version;
use super::outbox::ending;
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
    /// Entries passed over because they or their rows cannot be read.
    pub unreadable: u64,
}

impl Swept {
    pub(super) fn add(&mut self, other: Self) {
        self.expired += other.expired;
        self.renewed += other.renewed;
        self.unreadable += other.unreadable;
    }
}

/// Removes what has expired in one workspace by `now`.
pub(super) async fn sweep(workspace: &WorkspaceStore, now: Timestamp) -> Result<Swept, StoreError> {
    let mut swept = Swept::default();
    let hour = now.secs() / HOUR.as_secs();
    let mut scan = Scan {
        start: workspace.0.root.prefix(Kind::Expiry),
        end: workspace.key(Kind::Expiry).u64(hour).prefix(),
        limit: 250,
        reverse: false,
    };
    loop {
        match sweep_page(workspace, scan.clone(), now).await? {
            Page::Done(page, last) => {
                swept.add(page);
                match last {
                    Some(last) => scan = scan.after(&last),
                    None => break,
                }
            }
            Page::Changed => {}
        }
    }
    if swept.unreadable > 0 {
        tracing::error!(
            workspace = %workspace.id(),
            entries = swept.unreadable,
            "rows whose time may have come cannot be read and stay"
        );
    }

    let engine = &*workspace.0.context.engine;
    let (start, end) = dedup::expired(workspace, now);
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

/// What became of a page of entries.
enum Page {
    /// Worked off, up to this key if there may be more.
    Done(Swept, Option<Bytes>),
    /// Somebody renewed a row meanwhile: look at it again.
    Changed,
}

/// Works off one page of entries.
async fn sweep_page(
    workspace: &WorkspaceStore,
    scan: Scan,
    now: Timestamp,
) -> Result<Page, StoreError> {
    let root = &workspace.0.root;
    let page = root.engine.range(scan).await?;
    let last = page.rows.last().map(|(key, _)| key.clone());
    let last = last.filter(|_| page.more);
    let mut swept = Swept::default();
    let mut entries = Vec::new();
    for (entry, sealed) in page.rows {
        match root.open::<ExpiryRow>(&entry, &sealed) {
            Ok(row) => entries.push((entry, row)),
            Err(_) => swept.unreadable += 1,
        }
    }
    if entries.is_empty() {
        return Ok(Page::Done(swept, last));
    }
    let targets: Vec<Bytes> = entries.iter().map(|(_, row)| row.key.clone()).collect();
    let values = root.engine.get_many(&targets).await?;
    let mut commit = Commit::default();
    let mut files = Vec::new();
    for ((entry, row), value) in entries.into_iter().zip(values) {
        let Some(value) = value else {
            commit.delete.push(entry);
            continue;
        };
        let Ok(life) = life(workspace, &row, &value, now) else {
            swept.unreadable += 1;
            continue;
        };
        commit.delete.push(entry);
        if life.until <= now {
            // Only what was looked at: a row renewed this very moment must stay.
            commit
                .expect
                .push((row.key.clone(), Expectation::Equals(value)));
            if life.is_file {
                files.push(row.key.clone());
            }
            commit.delete.push(row.key);
            commit.delete.extend(life.with);
            swept.expired += 1;
        } else {
            if life.one_entry {
                let session = session_of(&row.key).unwrap_or_default();
                let next = expiry_row(workspace, &row.key, session, life.until)?;
                commit.put.push(next);
            }
            swept.renewed += 1;
        }
    }
    match root.engine.commit(commit).await {
        Ok(_) => {
            remove_files(workspace, files).await;
            Ok(Page::Done(swept, last))
        }
        Err(super::engine::CommitError::ExpectationFailed { .. }) => Ok(Page::Changed),
        Err(error) => Err(error.into()),
    }
}

/// How long a row lasts.
struct Life {
    until: Timestamp,
    /// Rows that go with it.
    with: Option<Bytes>,
    /// It has one entry, which moves when its deadline does.
    one_entry: bool,
    /// A file on disk goes with it.
    is_file: bool,
}

/// How long a row lasts by now: key-space rows carry their deadline, messages are kept for a while after
/// their last step, the others have the deadline of their entry.
fn life(
    workspace: &WorkspaceStore,
    row: &ExpiryRow,
    value: &[u8],
    now: Timestamp,
) -> Result<Life, StoreError> {
    let session = session_of(&row.key).unwrap_or_default();
    let mut life = Life {
        until: Timestamp(row.at),
        with: None,
        one_entry: false,
        is_file: false,
    };
    if session == 0 {
        return Ok(life);
    }
    let inner = &workspace.0;
    let scope = Scope {
        engine: inner.context.engine.clone(),
        sealer: std::sync::Arc::new(Sealer::new(inner.number, session, inner.keys.clone())?),
    };
    if is_of(&row.key, Kind::Outbox) {
        let ending = ending::of(&scope, &row.key, value)?;
        life.until = ending.until;
        life.with = Some(ending.stanza);
        life.one_entry = true;
        return Ok(life);
    }
    if is_of(&row.key, Kind::Media) {
        life.until = media::ending(&scope, &row.key, value, now)?;
        life.one_entry = true;
        life.is_file = true;
        return Ok(life);
    }
    let (_, at) = open_value(&scope, &row.key, value)?;
    // Written again without a deadline: it stays.
    life.until = at.unwrap_or(Timestamp(u64::MAX));
    Ok(life)
}

/// Removes the files whose rows are gone; what stays goes at the next open.
async fn remove_files(workspace: &WorkspaceStore, keys: Vec<Bytes>) {
    let Some(shelf) = workspace.0.context.media.clone() else {
        return;
    };
    let number = workspace.0.number;
    let files: Vec<_> = keys
        .iter()
        .filter_map(|key| media::found(number, key))
        .collect();
    if files.is_empty() {
        return;
    }
    let removed = tokio::task::spawn_blocking(move || {
        let removed: Vec<_> = files.iter().map(|file| shelf.remove(file)).collect();
        removed.into_iter().find_map(Result::err)
    });
    if let Ok(Some(error)) = removed.await {
        tracing::warn!(workspace = %workspace.id(), %error, "an uploaded file cannot be removed");
    }
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
