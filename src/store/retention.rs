//! Retention: what leaves the journal, in which order, and how readers learn of it.
//!
//! By size, history that every subscription has confirmed goes first; if that is not enough, nothing
//! more is dropped, and the caller is told to stop the inflow. By age, events go whether or not they
//! were confirmed. A subscription that wanted some of them and had not confirmed them has lost
//! something: that is noted with it, and told to it alone, as one gap event when it is consumed again.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::engine::Revision;
use super::errors::{ReadError, StoreError};
use super::journal::HeaderPage;
use super::workspace::WorkspaceStore;
use crate::domain::clock::Timestamp;
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
    /// Events that were removed by age although a subscription that has been consumed wanted and had not
    /// confirmed them: first and last revision. A gap event tells its consumers.
    pub lost: Option<(Revision, Revision)>,
    /// Still above the size limit although all confirmed history is gone: stop the workspace's
    /// sessions, so that the provider queues for them.
    pub over_limit: bool,
}

/// Stamps this far ahead are from a clock that was wrong.
const AHEAD: Duration = Duration::from_hours(1);

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
        let lost = if let Some(limit) = retention.max_bytes {
            self.shrink_and_expire(limit, retention).await?
        } else {
            self.0.full_under.store(0, Ordering::Relaxed);
            self.show_full(false);
            self.expire_due(retention).await?
        };
        let after = self.journal().size().await?;
        let appended = after.newest - before.newest;
        Ok(Enforced {
            removed: (before.events + appended).saturating_sub(after.events),
            lost,
            over_limit: *self.0.full.borrow(),
        })
    }

    /// Looks whether the journal is above the limit, without removing anything: for a start, when nothing
    /// may arrive before that is known.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn look_for_room(&self, retention: &Retention) -> Result<(), StoreError> {
        if let Some(limit) = retention.max_bytes {
            let bytes = self.journal().size().await?.bytes;
            self.show_full(bytes > limit);
        }
        Ok(())
    }

    /// What is full after this is so under this limit: a higher one, or none, lets go at once.
    async fn shrink_and_expire(
        &self,
        limit: u64,
        retention: &Retention,
    ) -> Result<Option<(Revision, Revision)>, StoreError> {
        let was_full = limit <= self.0.full_under.load(Ordering::Relaxed);
        let mut full = self.shrink(limit, was_full).await?;
        let lost = self.expire_due(retention).await;
        // Age may have made the room that size could not. Trouble with it does not hide that there is none.
        if full && lost.is_ok() {
            full = self.shrink(limit, was_full).await.unwrap_or(true);
        }
        let under = if full { limit } else { 0 };
        self.0.full_under.store(under, Ordering::Relaxed);
        self.show_full(full);
        lost
    }

    /// Removes what is too old. By a clock that is in doubt nothing goes.
    async fn expire_due(
        &self,
        retention: &Retention,
    ) -> Result<Option<(Revision, Revision)>, StoreError> {
        match retention.max_age.zip(self.0.context.deleting_now()) {
            Some((max_age, now)) => self.expire(max_age, now).await,
            None => Ok(None),
        }
    }

    fn show_full(&self, full: bool) {
        self.0.full.send_if_modified(|shown| {
            let changed = *shown != full;
            *shown = full;
            changed
        });
    }

    async fn expire(
        &self,
        max_age: Duration,
        now: Timestamp,
    ) -> Result<Option<(Revision, Revision)>, StoreError> {
        let Some(below) = self.first_younger(max_age, now).await? else {
            return Ok(None);
        };
        // First the note, then the deed: a crash between them repeats both.
        let lost = self.note_losses(below).await?;
        while self.journal().remove_below(below).await?.1 {}
        self.forget_below(below).await?;
        Ok(lost)
    }

    /// Notes with each subscription what it loses when everything below `below` goes. Returns the range
    /// that those lose which have ever been consumed.
    async fn note_losses(
        &self,
        below: Revision,
    ) -> Result<Option<(Revision, Revision)>, StoreError> {
        let mut readers = Vec::new();
        for (record, progress) in self.subscriptions().all_progress().await? {
            let confirmed = progress.confirmed().await?;
            if confirmed.floor() < below {
                let filter = progress.compile(&record.config.filter).await?;
                readers.push((progress, confirmed, filter, None::<(Revision, Revision)>));
            }
        }
        let mut from = 0;
        while !readers.is_empty() && from < below {
            let Some(page) = self.headers_from(from).await? else {
                break;
            };
            let headers = page.headers.iter().filter(|header| header.revision < below);
            for header in headers {
                for (_, confirmed, filter, lost) in &mut readers {
                    if filter.matches(header) && !confirmed.contains(header.revision) {
                        let first = lost.map_or(header.revision, |(first, _)| first);
                        *lost = Some((first, header.revision));
                    }
                }
            }
            if page.headers.is_empty() {
                break;
            }
            from = page.next;
        }
        let mut whole: Option<(Revision, Revision)> = None;
        for (progress, _, _, lost) in readers {
            let Some((from, to)) = lost else { continue };
            progress.note_loss(from, to).await?;
            if progress.was_consumed().await? {
                whole =
                    Some(whole.map_or((from, to), |(first, last)| (first.min(from), last.max(to))));
            }
        }
        Ok(whole)
    }

    /// A page of headers; none when there is nothing to read from there.
    async fn headers_from(&self, from: Revision) -> Result<Option<HeaderPage>, StoreError> {
        match self.journal().headers(from, 1_000).await {
            Ok(page) => Ok(Some(page)),
            Err(ReadError::Store(error)) => Err(error),
            Err(ReadError::Compacted { .. } | ReadError::Future { .. }) => Ok(None),
        }
    }

    /// Subscriptions forget what they knew of events that are gone.
    async fn forget_below(&self, below: Revision) -> Result<(), StoreError> {
        for (_, progress) in self.subscriptions().all_progress().await? {
            match progress.forget_below(below).await {
                // Deleted meanwhile.
                Ok(()) | Err(StoreError::Gone) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The first revision that is not older than `max_age`, if anything is. Stamps are made by a clock
    /// that may have been wrong: an event is as young as any before it, and one from the future says
    /// nothing about those behind it.
    async fn first_younger(
        &self,
        max_age: Duration,
        now: Timestamp,
    ) -> Result<Option<Revision>, StoreError> {
        let mut from = 0;
        let mut older = None;
        loop {
            let Some(page) = self.headers_from(from).await? else {
                return Ok(older);
            };
            if page.headers.is_empty() {
                return Ok(older);
            }
            for header in &page.headers {
                if header.at > now.plus(AHEAD) {
                    continue;
                }
                if now.since(header.at) <= max_age {
                    return Ok(older);
                }
                older = Some(header.revision + 1);
            }
            from = page.next;
        }
    }

    /// Removes confirmed history until the target is met; whether there is no room still. What was full
    /// stays so until the target is met: at the limit it would go to and fro with every event.
    async fn shrink(&self, limit: u64, was_full: bool) -> Result<bool, StoreError> {
        if self.journal().size().await?.bytes <= limit && !was_full {
            return Ok(false);
        }
        let target = limit / 100 * TARGET_PERCENT;
        let confirmed_below = self.subscriptions().lowest_unconfirmed().await?;
        loop {
            let size = self.journal().size().await?;
            if size.bytes <= target {
                return Ok(false);
            }
            if size.oldest >= confirmed_below {
                return Ok(was_full || size.bytes > limit);
            }
            // Counted in events: a restore leaves many numbers out.
            let page = match self.journal().headers(size.oldest, 500).await {
                Ok(page) => page,
                Err(ReadError::Store(error)) => return Err(error),
                Err(ReadError::Compacted { .. } | ReadError::Future { .. }) => continue,
            };
            let below = confirmed_below.min(page.next);
            self.note_losses(below).await?;
            self.journal().remove_below(below).await?;
            self.forget_below(below).await?;
        }
    }
}

/// The gap that tells everybody which revisions a restore left out.
pub(super) fn restored_gap(workspace: &WorkspaceStore, from: Revision, to: Revision) -> NewEvent {
    NewEvent {
        at: workspace.now(),
        payload: Payload::Gap {
            reason: "RESTORED".to_owned(),
            from_revision: Some(from),
            to_revision: Some(to),
        },
        dedup: None,
    }
}

/// The gap that tells a subscription what it lost.
pub(super) fn gap(
    workspace: &WorkspaceStore,
    subscription: u64,
    from: Revision,
    to: Revision,
) -> NewEvent {
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
            stanza_id: format!("{subscription}/{from}-{to}"),
            kind: "gap/retention".to_owned(),
        }),
    }
}
