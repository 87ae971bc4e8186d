//! Work that nobody asks for: rows that end by time, events that are too old or too many.

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::domain::ids::WorkspaceId;
use crate::store::{LookupError, PageRequest, Retention, Store, StoreError};

/// How often.
const PERIOD: Duration = Duration::from_mins(1);
/// How often while a workspace is full: its sessions wait for events to be confirmed.
const HASTE: Duration = Duration::from_secs(5);

/// Sweeps and enforces retention, at once and then until `stop`.
pub(super) async fn run(
    store: Store,
    mut retention: watch::Receiver<Retention>,
    stop: CancellationToken,
) {
    loop {
        let limits = *retention.borrow_and_update();
        let full = once(&store, &limits).await.unwrap_or_else(|error| {
            // The next round tries again; what should be gone stays a little longer.
            tracing::warn!(%error, "upkeep of the store did not finish");
            0
        });
        metrics::gauge!("trunkline_workspaces_full").set(f64::from(full));
        let pause = if full == 0 { PERIOD } else { HASTE };
        tokio::select! {
            () = stop.cancelled() => return,
            // Nobody changes it any more once the daemon stops.
            Ok(()) = retention.changed() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Returns how many workspaces are full.
async fn once(store: &Store, retention: &Retention) -> Result<u32, StoreError> {
    store.sweep().await?;
    if let Err(error) = store.finish_rotation().await {
        tracing::warn!(%error, "a new key encryption key is owed since a workspace was deleted");
    }
    let mut full = 0;
    let mut request = PageRequest::first(100);
    loop {
        let page = store.list_workspaces(&request).await?;
        for workspace in page.items {
            match enforce(store, &workspace.id, retention).await {
                Ok(is_full) => full += u32::from(is_full),
                // Deleted in between.
                Err(LookupError::NotFound { .. }) => {}
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
            None => return Ok(full),
        }
    }
}

/// Returns whether the workspace is full.
async fn enforce(
    store: &Store,
    id: &WorkspaceId,
    retention: &Retention,
) -> Result<bool, LookupError> {
    let workspace = store.workspace(id).await?;
    let was_full = *workspace.full().borrow();
    let enforced = workspace.enforce(retention).await?;
    if let Some((from, to)) = enforced.lost {
        tracing::warn!(
            workspace = %id,
            from, to, "events that a subscription had not confirmed are too old and were dropped"
        );
    }
    match (was_full, enforced.over_limit) {
        (false, true) => tracing::warn!(
            workspace = %id,
            "the journal is at its size limit and nobody confirms events: the workspace's sessions are disconnected"
        ),
        (true, false) => tracing::info!(
            workspace = %id,
            "the journal has room again: the workspace's sessions connect"
        ),
        _ => {}
    }
    Ok(enforced.over_limit)
}
