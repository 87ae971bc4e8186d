//! Work that nobody asks for: rows that end by time, and events that are too old.

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::domain::ids::WorkspaceId;
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
    if let Err(error) = store.finish_rotation().await {
        tracing::warn!(%error, "a new key encryption key is owed since a workspace was deleted");
    }
    let mut request = PageRequest::first(100);
    loop {
        let page = store.list_workspaces(&request).await?;
        for workspace in page.items {
            match enforce(store, &workspace.id, retention).await {
                // Deleted in between.
                Ok(()) | Err(LookupError::NotFound { .. }) => {}
                Err(LookupError::Store(StoreError::Closed)) => return Err(StoreError::Closed),
                // The others go on.
                Err(LookupError::Store(error)) => tracing::error!(
                    workspace = %workspace.id,
                    %error,
                    "retention of a workspace's journal failed"
                ),
            }
        }
        match page.next {
            Some(token) => request.after = Some(token),
            None => return Ok(()),
        }
    }
}

async fn enforce(
    store: &Store,
    id: &WorkspaceId,
    retention: &Retention,
) -> Result<(), LookupError> {
    let workspace = store.workspace(id).await?;
    let enforced = workspace.enforce(retention).await?;
    if let Some((from, to)) = enforced.lost {
        tracing::warn!(
            workspace = %id,
            from, to, "events that a subscription had not confirmed are too old and were dropped"
        );
    }
    Ok(())
}
