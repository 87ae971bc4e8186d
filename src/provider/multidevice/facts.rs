//! Facts about a link that must outlive the process: whether it was ever confirmed, whether the last
//! run ended cleanly, which app-state collections still have to be synchronised, and of which generation
//! of the store its keys are.

use wacore::appstate::patch_decode::WAPatchName;

use crate::store::{Durability, KeyBatch, KeyId, KeyKind, KeySpace, StoreError};

/// All app-state collections, the critical ones first.
pub(super) const COLLECTIONS: [WAPatchName; 5] = [
    WAPatchName::CriticalBlock,
    WAPatchName::CriticalUnblockLow,
    WAPatchName::RegularHigh,
    WAPatchName::RegularLow,
    WAPatchName::Regular,
];

/// How much of a collection is owed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Owed {
    /// What changed since the stored version.
    Changes = 1,
    /// All of it, because events may have been lost after the version was stored.
    Snapshot = 2,
}

fn unconfirmed() -> KeyId {
    KeyId::name("pairing-unconfirmed")
}

fn initial_sync() -> KeyId {
    KeyId::name("initial-sync-owed")
}

fn running() -> KeyId {
    KeyId::name("running")
}

fn generation_id() -> KeyId {
    KeyId::name("generation")
}

fn collection(name: WAPatchName) -> KeyId {
    KeyId::name(name.as_str())
}

/// Marks a session's keys as being of this generation of the store.
pub(super) fn of_generation(batch: KeyBatch, generation: u64) -> KeyBatch {
    let number = generation.to_be_bytes().to_vec();
    batch.put(KeyKind::Meta, generation_id(), number)
}

/// Owes every collection from its snapshot.
pub(super) fn all_owed(batch: KeyBatch) -> KeyBatch {
    COLLECTIONS.iter().fold(batch, |batch, name| {
        batch.put(
            KeyKind::SyncOwed,
            collection(*name),
            vec![Owed::Snapshot as u8],
        )
    })
}

/// What has to be true in the same commit that first stores an account: nobody has confirmed the link
/// yet, everything is still to be synchronised, and the keys are of this generation.
pub(super) fn link_begins(batch: KeyBatch, generation: u64) -> KeyBatch {
    let batch = of_generation(batch, generation);
    let batch = batch.put(KeyKind::Meta, unconfirmed(), vec![1]).put(
        KeyKind::Meta,
        initial_sync(),
        vec![1],
    );
    COLLECTIONS.iter().fold(batch, |batch, name| {
        batch.put(
            KeyKind::SyncOwed,
            collection(*name),
            vec![Owed::Changes as u8],
        )
    })
}

/// See the module documentation.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    keys: KeySpace,
}

impl Facts {
    pub(super) fn new(keys: KeySpace) -> Self {
        Self { keys }
    }

    /// Of which generation of the store the keys are; 0 for those of a store that was never restored.
    pub(super) async fn generation(&self) -> Result<u64, StoreError> {
        let row = self.keys.get(KeyKind::Meta, &generation_id()).await?;
        let number = row.as_deref().and_then(|row| row.try_into().ok());
        Ok(number.map_or(0, u64::from_be_bytes))
    }

    /// The link was made but no login has succeeded yet.
    pub(super) async fn is_unconfirmed(&self) -> Result<bool, StoreError> {
        self.keys.contains(KeyKind::Meta, &unconfirmed()).await
    }

    /// A login succeeded: the link is real.
    pub(super) async fn confirm(&self) -> Result<(), StoreError> {
        self.keys
            .delete(KeyKind::Meta, unconfirmed(), Durability::Durable)
            .await
    }

    /// Whether the synchronisation that follows a pairing is still owed.
    pub(super) async fn is_initial_sync_owed(&self) -> Result<bool, StoreError> {
        self.keys.contains(KeyKind::Meta, &initial_sync()).await
    }

    /// The synchronisation that follows a pairing is done.
    pub(super) async fn initial_sync_done(&self) -> Result<(), StoreError> {
        self.keys
            .delete(KeyKind::Meta, initial_sync(), Durability::Ordered)
            .await
    }

    /// The session goes online: until [`Facts::stopped_cleanly`], an end is an unclean one.
    pub(super) async fn started(&self) -> Result<(), StoreError> {
        self.keys
            .put(KeyKind::Meta, running(), vec![1], Durability::Ordered)
            .await
    }

    /// Everything that was dispatched is durable.
    pub(super) async fn stopped_cleanly(&self) -> Result<(), StoreError> {
        self.keys
            .delete(KeyKind::Meta, running(), Durability::Ordered)
            .await
    }

    /// After an unclean end, app-state changes may have been stored without their events: owes every
    /// collection from its snapshot. Returns whether that was so.
    pub(super) async fn settle_unclean_stop(&self) -> Result<bool, StoreError> {
        if !self.keys.contains(KeyKind::Meta, &running()).await? {
            return Ok(false);
        }
        let batch = all_owed(KeyBatch::new().delete(KeyKind::Meta, running()));
        self.keys.commit(batch, Durability::Ordered).await?;
        Ok(true)
    }

    /// Remembers that a collection has to be synchronised. Never lowers what is owed.
    pub(super) async fn owe(&self, name: WAPatchName, what: Owed) -> Result<(), StoreError> {
        if self.owed(name).await? >= Some(what) {
            return Ok(());
        }
        self.keys
            .put(
                KeyKind::SyncOwed,
                collection(name),
                vec![what as u8],
                Durability::Ordered,
            )
            .await
    }

    /// What is owed of a collection.
    pub(super) async fn owed(&self, name: WAPatchName) -> Result<Option<Owed>, StoreError> {
        let row = self.keys.get(KeyKind::SyncOwed, &collection(name)).await?;
        Ok(row.map(|row| match row.first() {
            Some(1) => Owed::Changes,
            _ => Owed::Snapshot,
        }))
    }

    /// A collection was synchronised.
    pub(super) async fn synced(&self, name: WAPatchName) -> Result<(), StoreError> {
        self.keys
            .delete(KeyKind::SyncOwed, collection(name), Durability::Ordered)
            .await
    }
}
