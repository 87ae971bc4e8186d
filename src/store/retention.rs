//! Retention: what leaves the journal, in which order, and how readers learn of it.
//!
//! By size, history that every subscription has confirmed goes first; if that is not enough, nothing
//! more is dropped, and the caller is told to stop the inflow. By age, events go whether or not they
//! were confirmed, and a gap event says which unconfirmed ones went.

use std::time::Duration;

use super::engine::Revision;
use super::errors::{ReadError, StoreError};
use super::workspace::WorkspaceStore;
use crate::domain::event::{DedupKey, NewEvent, Payload};

/// What a workspace's journal may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    /// Events older than this go. `None`: never by age.
    pub max_age: Option<Duration>,
    /// Rows together may be this large, in bytes before the engine's overhead. `None`: no limit.
    pub max_bytes: Option<u64>,
}

/// What enforcing came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Enforced {
    /// Events removed.
    pub removed: u64,
    /// Unconfirmed events that were removed by age: first and last revision. A gap event says so.
    pub lost: Option<(Revision, Revision)>,
    /// Still above the size limit although all confirmed history is gone: stop the workspace's
    /// sessions, so that the provider queues for them.
    pub over_limit: bool,
}

/// When size is what makes history go, it goes until this share of the limit is left, so that it does
/// not go one event at a time.
const TARGET_PERCENT: u64 = 90;

impl WorkspaceStore {
    /// Enforces retention. Safe to repeat and to interrupt.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn enforce(&self, retention: &Retention) -> Result<Enforced, StoreError> {
        let before = self.journal().size().await?;
        let lost = match retention.max_age {
            Some(max_age) => self.expire(max_age).await?,
            None => None,
        };
        let mut over_limit = false;
        if let Some(limit) = retention.max_bytes {
            over_limit = self.shrink(limit).await?;
        }
        let after = self.journal().size().await?;
        let appended = after.newest - before.newest;
        Ok(Enforced {
            removed: (before.events + appended).saturating_sub(after.events),
            lost,
            over_limit,
        })
    }

    async fn expire(&self, max_age: Duration) -> Result<Option<(Revision, Revision)>, StoreError> {
        let Some(below) = self.first_younger(max_age).await? else {
            return Ok(None);
        };
        let unconfirmed = self.subscriptions().lowest_unconfirmed().await?;
        let lost = (unconfirmed < below).then_some((unconfirmed, below - 1));
        if let Some((from, to)) = lost {
            // First the news, then the deed: a crash between them repeats both, and the news is
            // recognised as a repetition.
            self.journal().append(vec![gap(self, from, to)]).await?;
        }
        while self.journal().remove_below(below).await?.1 {}
        Ok(lost)
    }

    /// The first revision that is not older than `max_age`, if anything is.
    async fn first_younger(&self, max_age: Duration) -> Result<Option<Revision>, StoreError> {
        let now = self.now();
        let mut from = 0;
        let mut older = None;
        loop {
            let page = match self.journal().headers(from, 1_000).await {
                Ok(page) => page,
                Err(ReadError::Store(error)) => return Err(error),
                Err(ReadError::Compacted { .. } | ReadError::Future { .. }) => return Ok(older),
            };
            if page.headers.is_empty() {
                return Ok(older);
            }
            for header in &page.headers {
                if now.since(header.at) <= max_age {
                    return Ok(older);
                }
                older = Some(header.revision + 1);
            }
            from = page.next;
        }
    }

    /// Removes confirmed history until the target is met; whether the limit is still exceeded.
    async fn shrink(&self, limit: u64) -> Result<bool, StoreError> {
        if self.journal().size().await?.bytes <= limit {
            return Ok(false);
        }
        let target = limit / 100 * TARGET_PERCENT;
        let confirmed_below = self.subscriptions().lowest_unconfirmed().await?;
        loop {
            let size = self.journal().size().await?;
            if size.bytes <= target || size.oldest >= confirmed_below {
                return Ok(size.bytes > limit);
            }
            let below = confirmed_below.min(size.oldest + 500);
            self.journal().remove_below(below).await?;
        }
    }
}

fn gap(workspace: &WorkspaceStore, from: Revision, to: Revision) -> NewEvent {
    NewEvent {
        at: workspace.now(),
        payload: Payload::Gap {
            reason: "RETENTION".to_owned(),
            from_revision: Some(from),
            to_revision: Some(to),
        },
        dedup: Some(DedupKey {
            chat: String::new(),
            sender: String::new(),
            stanza_id: format!("{from}-{to}"),
            kind: "gap/retention".to_owned(),
        }),
    }
}
