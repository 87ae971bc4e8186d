//! The outbox while nothing can be sent: how much waits, and deadlines that pass all the same.

use super::Depth;
use super::sender::accepted_at;
use super::settle::Settler;
use crate::store::StoreError;

/// Entries read at a time.
const PAGE: usize = 500;

/// Settles what has passed its deadline and counts what is left.
pub(crate) async fn look_after(settler: &Settler) -> Result<Depth, StoreError> {
    let outbox = settler.store.outbox();
    let mut depth = Depth::default();
    let mut after = 0;
    loop {
        let page = outbox.queue(after, PAGE).await?;
        let Some(last) = page.last() else {
            return Ok(depth);
        };
        after = last.seq;
        let now = settler.clock.now();
        for entry in page {
            if entry.expire_at.is_some_and(|at| at <= now) {
                settler.expire(&entry).await?;
                continue;
            }
            depth.waiting += 1;
            depth.oldest.get_or_insert_with(|| accepted_at(entry.id));
        }
    }
}
