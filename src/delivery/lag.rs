//! How far behind the journal a subscription is, whether or not somebody consumes it right now.

use crate::domain::clock::Timestamp;
use crate::store::{LookupError, ReadError, StoreError, SubscriptionRecord, WorkspaceStore};

/// Headers read at once.
const PAGE: usize = 1_000;
/// Pages read at most: a narrow filter on a long journal must not keep the store busy. What lies beyond is
/// found once the pages before it are written off.
const PAGES: usize = 10;

/// When the oldest event was committed that the subscription wants and has not confirmed; `None` when
/// there is none, or when nobody ever consumed the subscription: then nobody waits for it either.
///
/// # Errors
/// Only when the store fails.
pub async fn oldest_unacked(
    workspace: &WorkspaceStore,
    record: &SubscriptionRecord,
) -> Result<Option<Timestamp>, StoreError> {
    let progress = match workspace.subscriptions().progress(&record.id).await {
        Ok(progress) => progress,
        // Deleted in between.
        Err(LookupError::NotFound { .. }) => return Ok(None),
        Err(LookupError::Store(error)) => return Err(error),
    };
    if !progress.was_consumed().await? {
        return Ok(None);
    }
    let confirmed = progress.confirmed().await?;
    let journal = workspace.journal();
    let filter = journal.compile(&record.config.filter).await?;
    let mut start = confirmed.floor();
    for _ in 0..PAGES {
        start = confirmed.next_unconfirmed(start);
        let page = match journal.headers(start, PAGE).await {
            Ok(page) => page,
            // Retention was faster, or everything is confirmed.
            Err(ReadError::Compacted { .. } | ReadError::Future { .. }) => return Ok(None),
            Err(ReadError::Store(error)) => return Err(error),
        };
        let found = page
            .headers
            .iter()
            .find(|header| filter.matches(header) && !confirmed.contains(header.revision));
        if let Some(header) = found {
            return Ok(Some(header.at));
        }
        if page.next <= start {
            return Ok(None);
        }
        start = page.next;
    }
    Ok(None)
}
