//! Dead letters that are put back.
//!
//! What is put back is a copy at the end of the journal, which its subscription alone receives: the same
//! event under the same `event_id`, with a new revision. So it comes after everything of its ordering key that
//! is out already, counts its attempts anew, and its delivery is like any other. The copy, the end of the
//! dead letter and the answer to the request are one commit.

use super::Progress;
use super::progress::finish;
use super::rows::DeadRow;
use crate::domain::ids::EventId;
use crate::store::engine::{Revision, Scan};
use crate::store::errors::StoreError;
use crate::store::key::{Kind, trailing_u64};
use crate::store::requests::Remember;
use crate::store::scope::Txn;

/// Most dead letters put back by one request.
pub const MAX_REDRIVEN: usize = 100;

/// Bytes of events after which one request stops.
const MAX_BYTES: u64 = 4 << 20;

/// What became of a dead letter that was to be put back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Redriven {
    /// It will be delivered again.
    Back(EventId),
    /// There is no such dead letter, or not any more.
    NotFound,
    /// Its event has left the journal, and the dead letter with it.
    EventGone,
}

/// What a request to put dead letters back came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Redrive {
    /// Each dead letter that was looked at.
    pub letters: Vec<(Revision, Redriven)>,
    /// There are others, which were not.
    pub more: bool,
}

impl Progress {
    /// Puts dead letters back: these, or the oldest of all; at most [`MAX_REDRIVEN`]. Remembers the answer in
    /// the same commit.
    ///
    /// # Errors
    /// [`StoreError::Gone`] when the subscription was deleted, [`StoreError::Contended`] when retention
    /// removed some of them just now (repeat it), else only when the store fails.
    pub async fn redrive_once(
        &self,
        which: Option<&[Revision]>,
        remember: &Remember<Redrive>,
    ) -> Result<Redrive, StoreError> {
        let _guard = self.lock.lock().await;
        let mut txn = Txn::new(self.scope().engine.clone());
        // The commit fails if the subscription is deleted meanwhile.
        self.state_in(&mut txn).await?;
        let (revisions, more) = match which {
            Some(revisions) => (revisions.to_vec(), false),
            None => self.oldest_dead().await?,
        };
        let mut redrive = Redrive {
            letters: Vec::with_capacity(revisions.len()),
            more,
        };
        let mut bytes = 0;
        for revision in revisions {
            if bytes >= MAX_BYTES || redrive.letters.len() == MAX_REDRIVEN {
                redrive.more = true;
                break;
            }
            let key = self.key(Kind::Dead, revision);
            let dead: Option<DeadRow> = txn.get(self.scope(), &key).await?;
            let mut outcome = Redriven::NotFound;
            if dead.is_some() {
                txn.delete(key);
                let journal = self.workspace.journal();
                let copied = journal.copy_in(&mut txn, revision, self.number).await?;
                bytes += copied.map_or(0, |(_, size)| size);
                outcome = copied.map_or(Redriven::EventGone, |(id, _)| Redriven::Back(id));
            }
            redrive.letters.push((revision, outcome));
        }
        remember.put_in(&mut txn, &redrive)?;
        finish(txn).await?;
        Ok(redrive)
    }

    /// The dead letters to begin with, and whether there are more.
    async fn oldest_dead(&self) -> Result<(Vec<Revision>, bool), StoreError> {
        let prefix = self.workspace.key(Kind::Dead).u64(self.number).prefix();
        let scan = Scan::prefix(&prefix, MAX_REDRIVEN);
        let (rows, more) = self.scope().scan::<DeadRow>(scan).await?;
        let revisions = rows.iter().filter_map(|(key, _)| trailing_u64(key));
        Ok((revisions.collect(), more))
    }
}
