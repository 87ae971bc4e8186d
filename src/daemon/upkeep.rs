//! Work that nobody asks for: rows that end by time, and events that are too old.

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::store::{LookupError, PageRequest, Retention, Store, StoreError};

/// How often.
const PERIOD: Duration = Duration::from_mins(1);

/// Sweeps and enforces retention until `stop`.
pub(super) async fn run(
    store: Store,
    journal_max_age: watch::Receiver<Duration>,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(PERIOD) => {}
        }
        let retention = Retention {
            max_age: Some(*journal_max_age.borrow()),
            max_bytes: None,
        };
        if let Err(error) = once(&store, &retention).await {
            // The next round tries again; what should be gone stays a little longer.
            tracing::warn!(%error, "upkeep of the store did not finish");
        }
    }
}

async fn once(store: &Store, retention: &Retention) -> Result<(), StoreError> {
    store.sweep().await?;
    let mut request = PageRequest::first(100);
    loop {
        let page = store.list_workspaces(&request).await?;
        for workspace in page.items {
            match store.workspace(&workspace.id).await {
                Ok(workspace) => {
                    let enforced = workspace.enforce(retention).await?;
                    if let Some((from, to)) = enforced.lost {
                        tracing::warn!(
                            workspace = %workspace.id(),
                            from, to, "events that nobody confirmed are too old and were dropped"
                        );
                    }
                }
                // Deleted in between.
                Err(LookupError::NotFound { .. }) => {}
                Err(LookupError::Store(error)) => return Err(error),
            }
        }
        match page.next {
            Some(token) => request.after = Some(token),
            None => return Ok(()),
        }
    }
}
