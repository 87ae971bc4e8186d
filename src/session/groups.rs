//! What a session's number knows of its groups: asked of the provider when somebody wants to know, never
//! stored.
//!
//! A stored view would have to be kept by notifications, which do not tell of groups joined before the
//! number was linked, and which WhatsApp drops after weeks offline: it would be wrong without knowing it.
//! A question costs traffic that WhatsApp sees, so it is asked sparingly, whatever clients do: one at a
//! time, not more often than every [`PAUSE`], and its answer serves everybody for [`REUSE`], unless a
//! change of a group arrives meanwhile.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;

use crate::domain::clock::{Clock, Timestamp};
use crate::domain::group::Group;
use crate::provider::contract::{GroupsError, Line};

/// How long an answer is good for, if no group changes.
pub(super) const REUSE: Duration = Duration::from_secs(10);
/// The shortest time between two questions.
pub(super) const PAUSE: Duration = Duration::from_secs(1);
/// How long a provider that was asked too often is left alone, unless it says for how long.
const ALONE: Duration = Duration::from_mins(1);

/// A number's groups at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Groups {
    /// All of them, in the order of their ids.
    pub groups: Vec<Group>,
    /// When the provider said so.
    pub at: Timestamp,
}

/// What was last heard of the groups, while a session is online.
pub(super) struct GroupBook {
    clock: Arc<dyn Clock>,
    /// Counts the changes of groups that arrived.
    changes: Arc<AtomicU64>,
    /// Held while the provider is asked.
    asking: tokio::sync::Mutex<Asking>,
    heard: Mutex<Option<Heard>>,
}

#[derive(Default)]
struct Asking {
    /// When the provider may be asked next, in monotonic time.
    not_before: Duration,
    /// Until when it wants to be left alone.
    alone_until: Duration,
}

struct Heard {
    answer: Arc<Groups>,
    /// Until when it is good, in monotonic time.
    until: Duration,
    /// Changes that had arrived before the question.
    changes: u64,
    /// Frees the memory when it is not good any more.
    _expiry: AbortOnDropHandle<()>,
}

impl GroupBook {
    pub(super) fn new(clock: Arc<dyn Clock>, changes: Arc<AtomicU64>) -> Arc<Self> {
        Arc::new(Self {
            clock,
            changes,
            asking: tokio::sync::Mutex::default(),
            heard: Mutex::default(),
        })
    }

    /// The groups, from the provider unless it said so just now.
    pub(super) async fn ask(self: &Arc<Self>, line: &dyn Line) -> Result<Arc<Groups>, GroupsError> {
        let mut asking = self.asking.lock().await;
        // Whoever waited for somebody else's question is served by its answer.
        if let Some(answer) = self.known() {
            return Ok(answer);
        }
        let now = self.clock.elapsed();
        if let Some(wait) = asking
            .alone_until
            .checked_sub(now)
            .filter(|it| !it.is_zero())
        {
            return Err(GroupsError::TooOften { wait: Some(wait) });
        }
        tokio::time::sleep(asking.not_before.saturating_sub(now)).await;
        asking.not_before = self.clock.elapsed() + PAUSE;
        let changes = self.changes.load(Ordering::SeqCst);
        match line.groups().await {
            Ok(groups) => Ok(self.keep(groups, changes)),
            Err(GroupsError::TooOften { wait }) => {
                let wait = wait.unwrap_or(ALONE);
                asking.alone_until = self.clock.elapsed() + wait;
                Err(GroupsError::TooOften { wait: Some(wait) })
            }
            Err(error) => Err(error),
        }
    }

    /// What was heard, if it is still good.
    fn known(&self) -> Option<Arc<Groups>> {
        let heard = self.heard();
        let heard = heard.as_ref()?;
        let is_good = self.clock.elapsed() < heard.until
            && heard.changes == self.changes.load(Ordering::SeqCst);
        is_good.then(|| Arc::clone(&heard.answer))
    }

    fn keep(self: &Arc<Self>, mut groups: Vec<Group>, changes: u64) -> Arc<Groups> {
        groups.sort_by(|one, other| one.id.cmp(&other.id));
        let at = self.clock.now();
        let answer = Arc::new(Groups { groups, at });
        let expiry = tokio::spawn(expire(Arc::downgrade(self)));
        *self.heard() = Some(Heard {
            answer: Arc::clone(&answer),
            until: self.clock.elapsed() + REUSE,
            changes,
            _expiry: AbortOnDropHandle::new(expiry),
        });
        answer
    }

    fn heard(&self) -> MutexGuard<'_, Option<Heard>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets go of an answer when it has served.
async fn expire(book: Weak<GroupBook>) {
    tokio::time::sleep(REUSE).await;
    if let Some(book) = book.upgrade() {
        let served = book.heard().take();
        drop(served);
    }
}
