//! Work that nobody asks for: rows that end by time, events that are too old or too many.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::domain::ids::WorkspaceId;
use crate::store::{LookupError, PageRequest, Retention, Store, StoreError, WorkspaceStore};

/// How often.
const PERIOD: Duration = Duration::from_mins(1);
/// How often while a workspace is full: its sessions wait for events to be confirmed.
const HASTE: Duration = Duration::from_secs(5);

/// Looks which workspaces have no room, before any session connects. One that cannot be read holds up no
/// other.
///
/// # Errors
/// Only when the store fails as a whole.
pub(super) async fn look(store: &Store, retention: &Retention) -> Result<(), StoreError> {
    for id in every_workspace(store).await? {
        match look_at(store, &id, retention).await {
            // What is confirmed may make room at the first pass, which tells what it does not.
            Ok(true) => tracing::info!(
                workspace = %id,
                "the journal is above its size limit: looked at before the workspace's sessions connect"
            ),
            Ok(false) => {}
            Err(error @ (StoreError::Closed | StoreError::Io(_))) => return Err(error),
            Err(error) => {
                tracing::error!(workspace = %id, %error, "a workspace's journal cannot be looked at");
            }
        }
    }
    Ok(())
}

async fn look_at(
    store: &Store,
    id: &WorkspaceId,
    retention: &Retention,
) -> Result<bool, StoreError> {
    match store.workspace(id).await {
        Ok(workspace) => {
            workspace.look_for_room(retention).await?;
            Ok(*workspace.full().borrow())
        }
        Err(LookupError::NotFound { .. }) => Ok(false),
        Err(LookupError::Store(error)) => Err(error),
    }
}

/// Sweeps and enforces retention, at once and then until `stop`.
pub(super) async fn run(
    store: Store,
    mut retention: watch::Receiver<Retention>,
    stop: CancellationToken,
) {
    let mut full: Vec<WorkspaceId> = Vec::new();
    let mut due = Instant::now();
    loop {
        let limits = *retention.borrow_and_update();
        if Instant::now() >= due {
            due = Instant::now() + PERIOD;
            sweep(&store).await;
            match every_workspace(&store).await {
                Ok(all) => full = enforce_all(&store, all, &full, &limits).await,
                // The next round tries again; what should be gone stays a little longer.
                Err(error) => tracing::warn!(%error, "upkeep of the store did not finish"),
            }
        } else {
            full = enforce_all(&store, full.clone(), &full, &limits).await;
        }
        let count = u32::try_from(full.len()).unwrap_or(u32::MAX);
        metrics::gauge!("trunkline_workspaces_full").set(f64::from(count));
        let next = if full.is_empty() {
            due
        } else {
            due.min(Instant::now() + HASTE)
        };
        tokio::select! {
            () = stop.cancelled() => return,
            // Nobody changes it any more once the daemon stops.
            Ok(()) = retention.changed() => due = Instant::now(),
            () = tokio::time::sleep_until(next) => {}
        }
    }
}

async fn sweep(store: &Store) {
    if let Err(error) = store.sweep().await {
        tracing::warn!(%error, "rows whose time is over could not be removed");
    }
    if let Err(error) = store.finish_rotation().await {
        tracing::warn!(%error, "a new key encryption key is owed since a workspace was deleted");
    }
}

async fn every_workspace(store: &Store) -> Result<Vec<WorkspaceId>, StoreError> {
    let mut all = Vec::new();
    let mut request = PageRequest::first(100);
    loop {
        let page = store.list_workspaces(&request).await?;
        all.extend(page.items.into_iter().map(|workspace| workspace.id));
        match page.next {
            Some(token) => request.after = Some(token),
            None => return Ok(all),
        }
    }
}

/// Returns the workspaces that are full; those that were so before are in `told`.
async fn enforce_all(
    store: &Store,
    workspaces: Vec<WorkspaceId>,
    told: &[WorkspaceId],
    retention: &Retention,
) -> Vec<WorkspaceId> {
    let mut full = Vec::new();
    for id in workspaces {
        let workspace = match store.workspace(&id).await {
            Ok(workspace) => workspace,
            // Deleted in between, or the daemon stops.
            Err(LookupError::NotFound { .. } | LookupError::Store(StoreError::Closed)) => continue,
            Err(LookupError::Store(error)) => {
                tell_failure(&id, &error);
                continue;
            }
        };
        if let Err(error) = enforce(&workspace, retention).await {
            // The others go on.
            tell_failure(&id, &error);
        }
        let is_full = *workspace.full().borrow();
        match (told.contains(&id), is_full) {
            (false, true) => tell_full(&id),
            (true, false) => tracing::info!(
                workspace = %id,
                "the journal has room again: the workspace's sessions connect"
            ),
            _ => {}
        }
        if is_full {
            full.push(id);
        }
    }
    full
}

async fn enforce(workspace: &WorkspaceStore, retention: &Retention) -> Result<(), StoreError> {
    let enforced = workspace.enforce(retention).await?;
    if let Some((from, to)) = enforced.lost {
        tracing::warn!(
            workspace = %workspace.id(),
            from, to, "events that a subscription had not confirmed are too old and were dropped"
        );
    }
    Ok(())
}

fn tell_failure(workspace: &WorkspaceId, error: &StoreError) {
    tracing::error!(%workspace, %error, "retention of a workspace's journal failed");
}

fn tell_full(workspace: &WorkspaceId) {
    tracing::warn!(
        %workspace,
        "the journal is at its size limit and nobody confirms events: the workspace's sessions are disconnected"
    );
}
