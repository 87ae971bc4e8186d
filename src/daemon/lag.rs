//! Looks after the subscriptions: how old is the oldest event that somebody should have confirmed?

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::delivery;
use crate::domain::clock::{Clock, Timestamp};
use crate::store::{LookupError, PageRequest, Store, StoreError, WorkspaceStore};

/// How often.
const PERIOD: Duration = Duration::from_secs(15);
/// From this age on the log names the subscription.
const WORTH_A_LINE: Duration = Duration::from_mins(5);
/// Names it again after so many rounds.
const ROUNDS_BETWEEN_LINES: u32 = 20;

/// Measures until `stop`.
pub(super) async fn run(store: Store, clock: Arc<dyn Clock>, stop: CancellationToken) {
    for round in 0_u32.. {
        let tell = round.is_multiple_of(ROUNDS_BETWEEN_LINES);
        match measure(&store, &*clock, tell).await {
            Ok(oldest) => {
                metrics::gauge!("trunkline_delivery_oldest_unacked_seconds")
                    .set(oldest.as_secs_f64());
            }
            Err(StoreError::Closed) => return,
            Err(error) => tracing::warn!(%error, "the subscriptions could not be looked after"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(PERIOD) => {}
        }
    }
}

/// The age of the oldest event of any subscription; zero when all is confirmed.
async fn measure(store: &Store, clock: &dyn Clock, tell: bool) -> Result<Duration, StoreError> {
    let mut oldest = Duration::ZERO;
    let mut request = PageRequest::first(100);
    loop {
        let page = store.list_workspaces(&request).await?;
        for workspace in page.items {
            match store.workspace(&workspace.id).await {
                Ok(workspace) => {
                    oldest = oldest.max(of_workspace(&workspace, clock.now(), tell).await?);
                }
                // Deleted in between.
                Err(LookupError::NotFound { .. }) => {}
                Err(LookupError::Store(error)) => return Err(error),
            }
        }
        match page.next {
            Some(token) => request.after = Some(token),
            None => return Ok(oldest),
        }
    }
}

async fn of_workspace(
    workspace: &WorkspaceStore,
    now: Timestamp,
    tell: bool,
) -> Result<Duration, StoreError> {
    let mut oldest = Duration::ZERO;
    let mut request = PageRequest::first(100);
    loop {
        let page = workspace.subscriptions().list(&request).await?;
        for record in &page.items {
            let Some(since) = delivery::oldest_unacked(workspace, record).await? else {
                continue;
            };
            let age = now.since(since);
            if tell && age >= WORTH_A_LINE {
                tracing::warn!(
                    workspace = %workspace.id(),
                    subscription = %record.id,
                    oldest_seconds = age.as_secs(),
                    "events wait for a consumer to confirm them"
                );
            }
            oldest = oldest.max(age);
        }
        match page.next {
            Some(token) => request.after = Some(token),
            None => return Ok(oldest),
        }
    }
}
