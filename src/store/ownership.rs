//! Who the store belongs to: how often it was restored, and whether it was handed over.
//!
//! Two daemons must never use the same Signal state, and WhatsApp tells neither of them that there is a
//! copy. So a store knows its *generation*, which every restore counts up: state that may only be used
//! once is renewed when it is found to be of an earlier generation (see
//! [`SessionStore::generation`](super::SessionStore::generation)). And a store that was handed over says
//! so, and no daemon runs its sessions any more.

use std::sync::Arc;

use prost::Message;

use super::engine::Commit;
use super::errors::StoreError;
use super::evaluate::counter;
use super::key::Kind;
use super::migrate::first_version;
use super::retention::restored_gap;
use super::root::{Store, system_key};
use super::scope::{Scope, Txn, TxnError};
use super::workspace::WorkspaceStore;
use crate::domain::clock::Timestamp;

/// Revisions that a restore leaves free in every journal: as many events may have been journalled after
/// the backup was made without a number being given out twice.
pub const ROOM: u64 = 1 << 22;

/// See the module documentation. Missing in a store that was never restored or handed over.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct OwnershipRow {
    /// How often it was restored.
    #[prost(uint64, tag = "1")]
    pub(super) generation: u64,
    /// When it was handed over.
    #[prost(uint64, optional, tag = "2")]
    pub(super) handed_over_at: Option<u64>,
}
first_version!(OwnershipRow, "ownership");

fn key() -> bytes::Bytes {
    system_key(Kind::Ownership).finish()
}

/// Reads the row.
pub(super) async fn read(system: &Scope) -> Result<OwnershipRow, StoreError> {
    Ok(system.get(&key()).await?.unwrap_or_default())
}

impl Store {
    /// When this store was handed over, if it was.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn handed_over_at(&self) -> Result<Option<Timestamp>, StoreError> {
        Ok(read(&self.0.system).await?.handed_over_at.map(Timestamp))
    }

    /// From now on no daemon runs the sessions of this store: whoever restores the backup that was made
    /// before does. Repeating it changes nothing.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn hand_over(&self) -> Result<(), StoreError> {
        let now = self.0.context.clock.now();
        self.change_ownership(|row| {
            row.handed_over_at.get_or_insert(now.0);
        })
        .await
        .map(drop)
    }

    /// Undoes [`Self::hand_over`]. A new generation begins, in case the backup was restored after all.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn take_back(&self) -> Result<(), StoreError> {
        self.change_ownership(|row| {
            row.handed_over_at = None;
            row.generation += 1;
        })
        .await
        .map(drop)
    }

    /// Begins a new generation of a store that was restored: nothing of what may be used only once is
    /// used again, and no journal gives a number out that it gave out after the backup was made; a gap
    /// event tells the readers. Returns the generation.
    ///
    /// # Errors
    /// Only when the store fails.
    pub(super) async fn begin_generation(&self) -> Result<u64, StoreError> {
        let row = self
            .change_ownership(|row| {
                row.handed_over_at = None;
                row.generation += 1;
            })
            .await?;
        for row in self.all_workspaces().await? {
            let id = super::workspace::stored_id(crate::domain::ids::WorkspaceId::new(row.id))?;
            match self.open_workspace(&id, row.number).await {
                Ok(workspace) => leave_room(&workspace).await?,
                // As when the store is opened: the others go on without it.
                Err(error @ StoreError::Damaged(_)) => {
                    tracing::error!(workspace = %id, %error, "a workspace cannot be opened");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(row.generation)
    }

    async fn change_ownership(
        &self,
        change: impl FnOnce(&mut OwnershipRow),
    ) -> Result<OwnershipRow, StoreError> {
        let mut txn = Txn::new(Arc::clone(&self.0.context.engine));
        let row: Option<OwnershipRow> = txn.get(&self.0.system, &key()).await?;
        let mut row = row.unwrap_or_default();
        change(&mut row);
        txn.put(&self.0.system, key(), &row)?;
        match txn.commit().await {
            Ok(_) => Ok(row),
            Err(TxnError::Conflict) => Err(StoreError::Contended),
            Err(TxnError::Store(error)) => Err(error),
        }
    }
}

/// Moves a journal's numbers on and says so in it.
async fn leave_room(workspace: &WorkspaceStore) -> Result<(), StoreError> {
    let (tell, told) = tokio::sync::oneshot::channel();
    let commit = Commit {
        update: vec![(
            workspace.journal_head(),
            Box::new(move |head| {
                let head =
                    counter(head).map_err(|error| super::engine::RowError(error.to_string()))?;
                // The receiver lives until the commit is answered.
                let _ = tell.send(head);
                Ok(Some((head + ROOM).to_be_bytes().to_vec().into()))
            }),
        )],
        ..Commit::default()
    };
    workspace.0.context.engine.commit(commit).await?;
    let head = told.await.map_err(|_| StoreError::Closed)?;
    let gap = restored_gap(workspace, head + 1, head + ROOM);
    workspace.journal().append(vec![gap]).await?;
    Ok(())
}
