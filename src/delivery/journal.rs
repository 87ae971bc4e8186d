//! What a subscription reads from the journal and writes to its progress.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::dispatch::{Load, Revision, Writes};
use crate::domain::clock::{Clock, Timestamp};
use crate::store::{
    Acknowledged, CompiledFilter, Confirmed, FailedDelivery, Journal, LookupError, Progress,
    ReadError, StoreError, SubscriptionRecord,
};

/// Headers read at once.
const PAGE: usize = 1_000;

/// Unwanted events that pile up before they are written off.
const SKIP_AT: u64 = 1_024;

/// How long they wait otherwise.
const SKIP_AFTER: Duration = Duration::from_mins(1);

/// Reads pages of the journal for one run of a subscription.
#[derive(Debug)]
pub(super) struct Reader {
    journal: Journal,
    progress: Progress,
    filter: CompiledFilter,
    /// What was confirmed when the run began. That is all a reader has to know: what is confirmed during
    /// the run was in the window before, and is not read again.
    pub(super) confirmed: Confirmed,
    /// The newest revision when the run began. Of later events none has failed before it is read, unless
    /// it was read before and spilled.
    old_newest: Revision,
}

/// A page of the journal.
#[derive(Debug)]
pub(super) struct Page {
    /// Where it begins.
    pub(super) start: Revision,
    /// The events that are wanted and not settled.
    pub(super) loads: Vec<Load>,
    /// Everything below was looked at.
    pub(super) next: Revision,
}

impl Reader {
    /// A reader that begins now.
    pub(super) async fn open(
        journal: &Journal,
        progress: &Progress,
        record: &SubscriptionRecord,
    ) -> Result<Self, LookupError> {
        let head = journal.watch().await?;
        let old_newest = *head.borrow();
        drop(head);
        Ok(Self {
            old_newest,
            confirmed: progress.confirmed().await?,
            filter: progress.compile(&record.config.filter).await?,
            journal: journal.clone(),
            progress: progress.clone(),
        })
    }

    /// Reads a page. `seen_below`: everything below was read before in this run.
    pub(super) async fn read(
        &self,
        start: Revision,
        seen_below: Revision,
    ) -> Result<Page, ReadError> {
        // Long confirmed stretches need not be read to be passed over.
        let from = self.confirmed.next_unconfirmed(start);
        let page = self.journal.headers(from, PAGE).await?;
        let mut loads: Vec<Load> = page
            .headers
            .iter()
            .filter(|header| self.filter.matches(header))
            .filter(|header| !self.confirmed.contains(header.revision))
            .map(|header| Load {
                revision: header.revision,
                key: header.key,
                size: header.size,
                attempts: 0,
            })
            .collect();
        let known_below = seen_below.max(self.old_newest + 1);
        let asked: Vec<Revision> = loads
            .iter()
            .map(|load| load.revision)
            .take_while(|revision| *revision < known_below)
            .collect();
        if !asked.is_empty() {
            let attempts = self.progress.attempts(&asked).await?;
            for (load, attempts) in loads.iter_mut().zip(attempts) {
                load.attempts = attempts;
            }
        }
        Ok(Page {
            start,
            loads,
            next: page.next,
        })
    }
}

/// Revisions that are passed over: unwanted events, and numbers that no event has. They are written off
/// in bulk, so that the floor moves on.
#[derive(Debug, Default)]
pub(super) struct Skips {
    ranges: Vec<RangeInclusive<Revision>>,
    count: u64,
    /// When the first of them was noted.
    since: Option<Duration>,
}

impl Skips {
    /// Notes what lies in `from..to` besides `loads` (in order).
    pub(super) fn note(&mut self, from: Revision, to: Revision, loads: &[Load], now: Duration) {
        let mut at = from;
        let inside = loads
            .iter()
            .map(|load| load.revision)
            .filter(|revision| (from..to).contains(revision));
        for wanted in inside.chain([to]) {
            if at < wanted {
                self.ranges.push(at..=wanted - 1);
                self.count += wanted - at;
            }
            at = wanted + 1;
        }
        if !self.ranges.is_empty() {
            self.since.get_or_insert(now);
        }
    }

    /// When they are to be written, however few.
    pub(super) fn due(&self) -> Option<Duration> {
        self.since.map(|since| since + SKIP_AFTER)
    }

    /// Takes them if there are enough to be worth a commit, or if their time has come.
    pub(super) fn take_if_due(&mut self, now: Duration) -> Vec<RangeInclusive<Revision>> {
        if self.count < SKIP_AT && self.due().is_none_or(|due| now < due) {
            return Vec::new();
        }
        self.take()
    }

    /// Takes them.
    pub(super) fn take(&mut self) -> Vec<RangeInclusive<Revision>> {
        self.count = 0;
        self.since = None;
        std::mem::take(&mut self.ranges)
    }
}

/// The moment something was decided, by both clocks: tells when earlier things were, for the record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    now: Timestamp,
    elapsed: Duration,
}

impl Moment {
    /// This moment.
    pub(super) fn of(clock: &dyn Clock) -> Self {
        Self {
            now: clock.now(),
            elapsed: clock.elapsed(),
        }
    }

    /// The wall time of something that happened before.
    pub(super) fn of_earlier(self, at: Duration) -> Timestamp {
        let ago = self.elapsed.saturating_sub(at).as_millis();
        let ago = u64::try_from(ago).unwrap_or(u64::MAX);
        Timestamp(self.now.0.saturating_sub(ago))
    }
}

/// Makes what was decided durable.
pub(super) async fn write(
    progress: &Progress,
    writes: &Writes,
    skips: &[RangeInclusive<Revision>],
    moment: Moment,
) -> Result<(), StoreError> {
    let at = |at| moment.of_earlier(at);
    // Attempts before dead letters: burying an event also clears its count.
    if !writes.charges.is_empty() {
        let failures: Vec<_> = writes
            .charges
            .iter()
            .map(|charge| FailedDelivery {
                revision: charge.revision,
                first_leased: charge.first_leased.map(at),
                failure: charge.failure,
                at: at(charge.at),
            })
            .collect();
        progress.count_failures(&failures).await?;
    }
    if !writes.acks.is_empty() {
        let acks: Vec<_> = writes
            .acks
            .iter()
            .map(|ack| Acknowledged {
                revision: ack.revision,
                first_leased: ack.first_leased.map(at),
                failed_before: ack.failures > 0,
            })
            .collect();
        progress.ack(&acks).await?;
        metrics::counter!("trunkline_delivery_acked_total").increment(writes.acks.len() as u64);
    }
    for (revision, attempts) in &writes.dead {
        progress.bury(*revision, "MAX_ATTEMPTS", *attempts).await?;
        metrics::counter!("trunkline_delivery_dead_letters_total").increment(1);
    }
    if !skips.is_empty() {
        progress.skip(skips).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Hash;

    #[test]
    fn everything_that_is_not_wanted_is_skipped() {
        let load = |revision| Load {
            revision,
            key: Hash([0; 16]),
            size: 1,
            attempts: 0,
        };
        let mut skips = Skips::default();
        let now = Duration::from_secs(5);
        let loads = [load(4), load(6), load(7), load(10), load(12)];
        skips.note(5, 12, &loads, now);
        assert_eq!(skips.take_if_due(now), vec![]);
        assert_eq!(skips.due(), Some(now + SKIP_AFTER));
        assert_eq!(
            skips.take_if_due(now + SKIP_AFTER),
            vec![5..=5, 8..=9, 11..=11]
        );
        assert_eq!(skips.due(), None);
        skips.note(12, 12, &[], now);
        assert_eq!(skips.take(), vec![]);
    }
}
