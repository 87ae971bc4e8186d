//! How far one subscription has come.

use super::DeadLetter;
use super::delivery::{Acknowledged, FailedDelivery};
use super::rows::{AttemptRow, DeadRow, StateRow};
use crate::domain::clock::Timestamp;
use crate::domain::ids::SubscriptionId;
use crate::store::acks::{self, Chunk, Confirmed};
use crate::store::apply::append_events;
use crate::store::engine::{Revision, Scan, Urgency};
use crate::store::errors::{LookupError, StoreError};
use crate::store::journal::{CompiledFilter, Filter};
use crate::store::key::{Kind, trailing_u64};
use crate::store::page::{Page, PageRequest, PageToken};
use crate::store::requests::Remember;
use crate::store::retention;
use crate::store::scope::{Scope, Txn, TxnError};
use crate::store::sweeper::delete_page;
use crate::store::workspace::WorkspaceStore;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// How far one subscription has come. Cheap to clone; changes of one subscription are serialised.
#[derive(Debug, Clone)]
pub struct Progress {
    pub(super) workspace: WorkspaceStore,
    pub(super) id: SubscriptionId,
    pub(super) number: u64,
    pub(super) lock: Arc<tokio::sync::Mutex<()>>,
}

impl Progress {
    /// The subscription's id.
    pub fn id(&self) -> &SubscriptionId {
        &self.id
    }

    pub(super) fn scope(&self) -> &Scope {
        &self.workspace.0.root
    }

    pub(super) fn key(&self, kind: Kind, number: u64) -> Bytes {
        self.workspace
            .key(kind)
            .u64(self.number)
            .u64(number)
            .finish()
    }

    fn state_key(&self) -> Bytes {
        let key = self.workspace.key(Kind::SubscriptionState);
        key.u64(self.number).finish()
    }

    pub(super) async fn state_in(&self, txn: &mut Txn) -> Result<StateRow, StoreError> {
        let state = txn.get(self.scope(), &self.state_key()).await?;
        state.ok_or(StoreError::Gone)
    }

    /// Whether anybody ever consumed it.
    ///
    /// # Errors
    /// [`StoreError::Gone`] when the subscription was deleted, else only when the store fails.
    pub async fn was_consumed(&self) -> Result<bool, StoreError> {
        let state: Option<StateRow> = self.scope().get(&self.state_key()).await?;
        Ok(state.ok_or(StoreError::Gone)?.epoch > 0)
    }

    /// Prepares this subscription's filter: also gaps that concern it alone pass.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn compile(&self, filter: &Filter) -> Result<CompiledFilter, StoreError> {
        let compiled = self.workspace.journal().compile(filter).await?;
        Ok(compiled.for_subscription(self.number))
    }

    /// Notes that retention is about to remove events in this range that the subscription wanted and
    /// had not confirmed. [`Self::report_loss`] tells its consumers.
    pub(in crate::store) async fn note_loss(
        &self,
        from: Revision,
        to: Revision,
    ) -> Result<(), StoreError> {
        let _guard = self.lock.lock().await;
        let mut txn = Txn::new(self.scope().engine.clone());
        let mut state = self.state_in(&mut txn).await?;
        if state.lost_to == 0 {
            state.lost_from = from;
        }
        state.lost_from = state.lost_from.min(from);
        state.lost_to = state.lost_to.max(to);
        txn.put(self.scope(), self.state_key(), &state)?;
        finish(txn).await
    }

    /// Journals a gap for this subscription alone if retention removed events that it wanted and had not
    /// confirmed. One gap tells of all that was lost since the last.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn report_loss(&self) -> Result<(), StoreError> {
        let state: Option<StateRow> = self.scope().get(&self.state_key()).await?;
        let told = state.ok_or(StoreError::Gone)?;
        if told.lost_to == 0 {
            return Ok(());
        }
        // First the news: a crash after it repeats it, which is recognised.
        let gap = retention::gap(&self.workspace, self.number, told.lost_from, told.lost_to);
        append_events(&self.workspace, vec![gap], self.number).await?;
        let _guard = self.lock.lock().await;
        let mut txn = Txn::new(self.scope().engine.clone());
        let mut state = self.state_in(&mut txn).await?;
        if state.lost_to > told.lost_to {
            state.lost_from = told.lost_to + 1;
        } else {
            (state.lost_from, state.lost_to) = (0, 0);
        }
        txn.put(self.scope(), self.state_key(), &state)?;
        finish(txn).await
    }

    /// Forgets what is known of events below `oldest`, which the journal no longer has: which were
    /// confirmed, their attempts and deliveries, and dead letters. Safe to repeat and to interrupt.
    pub(in crate::store) async fn forget_below(&self, oldest: Revision) -> Result<(), StoreError> {
        let chunk = acks::chunk_of(oldest);
        let guard = self.lock.lock().await;
        let mut txn = Txn::new(self.scope().engine.clone());
        let mut state = self.state_in(&mut txn).await?;
        if state.floor_chunk < chunk {
            state.floor_chunk = chunk;
            txn.put(self.scope(), self.state_key(), &state)?;
            finish(txn).await?;
        }
        drop(guard);
        let ends = [
            (Kind::Ack, chunk),
            (Kind::Attempt, oldest),
            (Kind::Dead, oldest),
            (Kind::Delivery, oldest),
        ];
        for (kind, end) in ends {
            let scan = Scan {
                start: self.workspace.key(kind).u64(self.number).prefix(),
                end: self.key(kind, end),
                limit: 500,
                reverse: false,
            };
            while delete_page(&*self.scope().engine, scan.clone()).await? {}
        }
        Ok(())
    }

    /// Counts up the epoch and returns it: part of the lease tokens a dispatcher gives out, so that
    /// tokens of different runs are never equal.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn next_epoch(&self) -> Result<u64, StoreError> {
        let _guard = self.lock.lock().await;
        let mut txn = Txn::new(self.scope().engine.clone());
        let mut state = self.state_in(&mut txn).await?;
        state.epoch += 1;
        txn.put(self.scope(), self.state_key(), &state)?;
        finish(txn).await?;
        Ok(state.epoch)
    }

    /// What is confirmed: everything below the floor, and single revisions above it. Revisions that
    /// retention removed count as confirmed.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn confirmed(&self) -> Result<Confirmed, StoreError> {
        let oldest = self.workspace.journal().size().await?.oldest;
        let _guard = self.lock.lock().await;
        let state: Option<StateRow> = self.scope().get(&self.state_key()).await?;
        let state = state.ok_or(StoreError::Gone)?;
        let prefix = self.workspace.key(Kind::Ack).u64(self.number).prefix();
        let mut scan = Scan::prefix(&prefix, crate::store::engine::MAX_PAGE);
        let mut confirmed = Confirmed::new(state.floor_chunk, oldest);
        loop {
            let (rows, more) = self.scope().scan::<acks::ChunkRow>(scan.clone()).await?;
            let Some((last, _)) = rows.last() else { break };
            scan = scan.after(last);
            for (key, row) in rows {
                let chunk = trailing_u64(&key).unwrap_or_default();
                confirmed.insert(chunk, Chunk::from_row(&row)?);
            }
            if !more {
                break;
            }
        }
        Ok(confirmed)
    }

    /// Confirms revisions, in one durable commit; repeating it changes nothing. Their attempts are
    /// forgotten.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn ack(&self, acks: &[Acknowledged]) -> Result<(), StoreError> {
        let sorted: BTreeMap<Revision, Acknowledged> =
            acks.iter().map(|ack| (ack.revision, *ack)).collect();
        let sorted: Vec<_> = sorted.into_values().collect();
        for part in sorted.chunks(MAX_ACKS) {
            let ranges: Vec<_> = part.iter().map(|ack| ack.revision..=ack.revision).collect();
            self.confirm_with(&ranges, |txn| {
                for ack in part {
                    txn.delete(self.key(Kind::Attempt, ack.revision));
                    self.remember_ack(txn, *ack)?;
                }
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// Confirms whole ranges: events that the filter does not want, and history that is given up.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn skip(&self, ranges: &[RangeInclusive<Revision>]) -> Result<(), StoreError> {
        for part in ranges.chunks(MAX_ACKS) {
            self.confirm_with(part, |_| Ok(())).await?;
        }
        Ok(())
    }

    async fn confirm_with(
        &self,
        ranges: &[RangeInclusive<Revision>],
        also: impl FnOnce(&mut Txn) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let _guard = self.lock.lock().await;
        let mut txn = Txn::new(self.scope().engine.clone());
        let state_key = self.state_key();
        let mut state = self.state_in(&mut txn).await?;
        let before = state.floor_chunk;
        for range in ranges {
            let first = acks::chunk_of(*range.start()).max(state.floor_chunk);
            for number in first..=acks::chunk_of(*range.end()) {
                let key = self.key(Kind::Ack, number);
                let row: Option<acks::ChunkRow> = txn.get(self.scope(), &key).await?;
                let mut chunk = row.map_or(Ok(Chunk::default()), |row| Chunk::from_row(&row))?;
                if chunk.confirm(number, range) {
                    txn.put(self.scope(), key, &chunk.to_row())?;
                }
            }
        }
        loop {
            let key = self.key(Kind::Ack, state.floor_chunk);
            let row: Option<acks::ChunkRow> = txn.get(self.scope(), &key).await?;
            let Some(row) = row else { break };
            if !Chunk::from_row(&row)?.is_full() {
                break;
            }
            txn.delete(key);
            state.floor_chunk += 1;
        }
        if state.floor_chunk != before {
            txn.put(self.scope(), state_key, &state)?;
        }
        also(&mut txn)?;
        finish(txn).await
    }

    /// Counts deliveries that failed, without waiting for the disk: after a crash a count may be one too
    /// low.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn count_failures(&self, failures: &[FailedDelivery]) -> Result<(), StoreError> {
        let mut txn = Txn::new(self.scope().engine.clone());
        for failed in failures {
            let key = self.key(Kind::Attempt, failed.revision);
            txn.update(self.scope(), key, |row: &mut AttemptRow| {
                row.count = row.count.saturating_add(1);
            });
            self.remember_failure(&mut txn, *failed);
        }
        let engine = &self.scope().engine;
        engine.submit(txn.into_commit(), Urgency::Lazy).await?;
        Ok(())
    }

    /// How often a delivery of each of these revisions failed, in the same order.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn attempts(&self, revisions: &[Revision]) -> Result<Vec<u32>, StoreError> {
        let keys: Vec<_> = revisions
            .iter()
            .map(|r| self.key(Kind::Attempt, *r))
            .collect();
        let rows = self.scope().engine.get_many(&keys).await?;
        keys.iter()
            .zip(rows)
            .map(|(key, sealed)| match sealed {
                Some(sealed) => Ok(self.scope().open::<AttemptRow>(key, &sealed)?.count),
                None => Ok(0),
            })
            .collect()
    }

    /// Gives an event up: it becomes a dead letter and counts as confirmed, in one commit, so that its
    /// ordering key moves on.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn bury(
        &self,
        revision: Revision,
        reason: &str,
        attempts: u32,
    ) -> Result<(), StoreError> {
        let dead = DeadRow {
            reason: reason.to_owned(),
            attempts,
            at: self.workspace.now().0,
        };
        let (dead_key, attempt_key) = (
            self.key(Kind::Dead, revision),
            self.key(Kind::Attempt, revision),
        );
        self.confirm_with(&[revision..=revision], |txn| {
            txn.put(self.scope(), dead_key, &dead)?;
            txn.delete(attempt_key);
            self.remember_end(txn, revision);
            Ok(())
        })
        .await
    }

    /// Lists dead letters by revision. They go with their events, when retention removes those.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn dead_letters(
        &self,
        request: &PageRequest,
    ) -> Result<Page<DeadLetter>, StoreError> {
        let prefix = self.workspace.key(Kind::Dead).u64(self.number).prefix();
        let mut scan = Scan::prefix(&prefix, request.rows());
        if let Some(revision) = request.after.as_ref().and_then(PageToken::number) {
            scan = scan.after(&self.key(Kind::Dead, revision));
        }
        let (rows, more) = self.scope().scan::<DeadRow>(scan).await?;
        let items: Vec<_> = rows
            .into_iter()
            .map(|(key, row)| DeadLetter {
                revision: trailing_u64(&key).unwrap_or_default(),
                reason: row.reason,
                attempts: row.attempts,
                at: Timestamp(row.at),
            })
            .collect();
        let last = items.last().filter(|_| more);
        let next = last.map(|letter| PageToken::new(letter.revision.to_be_bytes()));
        Ok(Page { items, next })
    }

    /// Forgets a dead letter; a missing one is no error.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn discard_dead_letter(&self, revision: Revision) -> Result<(), StoreError> {
        let mut txn = Txn::new(self.scope().engine.clone());
        txn.delete(self.key(Kind::Dead, revision));
        finish(txn).await
    }

    /// Forgets a dead letter and remembers the answer to the request, in one commit.
    ///
    /// # Errors
    /// [`LookupError::NotFound`] when there is no such dead letter.
    pub async fn discard_dead_letter_once(
        &self,
        revision: Revision,
        remember: &Remember<()>,
    ) -> Result<(), LookupError> {
        let _guard = self.lock.lock().await;
        let mut txn = Txn::new(self.scope().engine.clone());
        let key = self.key(Kind::Dead, revision);
        if txn.raw(&key).await?.is_none() {
            return Err(LookupError::NotFound {
                what: format!("dead letter {revision}"),
            });
        }
        txn.delete(key);
        remember.put_in(&mut txn, &())?;
        Ok(finish(txn).await?)
    }
}

/// Revisions confirmed in one commit at most.
const MAX_ACKS: usize = 1_000;

pub(super) async fn finish(txn: Txn) -> Result<(), StoreError> {
    match txn.commit().await {
        Ok(_) => Ok(()),
        // The lock keeps others away: only a deletion can come between.
        Err(TxnError::Conflict) => Err(StoreError::Contended),
        Err(TxnError::Store(error)) => Err(error),
    }
}
