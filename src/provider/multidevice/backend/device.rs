//! The device's own credentials.

use std::sync::atomic::Ordering;

use async_trait::async_trait;
use wacore::store::Device;
use wacore::store::traits::DeviceStore;

use super::{KeyBackend, Result, codec, library};
use crate::provider::multidevice::facts;
use crate::store::{Durability, KeyBatch, KeyId, KeyKind};

impl KeyBackend {
    /// Whether the device as stored is linked to an account.
    pub(in super::super) fn is_registered(&self) -> bool {
        self.shared.registered.load(Ordering::SeqCst)
    }

    /// Waits until saves that have begun are durable. The library's own flush returns early while
    /// another save is under way, so what leaves the machine asks here as well.
    pub(in super::super) async fn saves_settled(&self) {
        drop(self.shared.locks.saves.lock().await);
    }
}

#[async_trait]
impl DeviceStore for KeyBackend {
    /// Durable on return. The save that first names an account also records, in the same commit, that
    /// the link is unconfirmed and that the initial synchronisation is owed.
    async fn save(&self, device: &Device) -> Result<()> {
        let _one_at_a_time = self.shared.locks.saves.lock().await;
        let mut batch =
            KeyBatch::new().put(KeyKind::Device, KeyId::single(), codec::to_json(device)?);
        let registered = device.is_registered();
        if registered && !self.is_registered() {
            batch = facts::link_begins(batch, self.keys.session().generation());
        }
        self.commit_critical(batch, Durability::Durable).await?;
        self.shared.registered.store(registered, Ordering::SeqCst);
        Ok(())
    }

    async fn load(&self) -> Result<Option<Device>> {
        let row = self.get(KeyKind::Device, &KeyId::single()).await?;
        let device: Option<Device> = row
            .map(|row| codec::from_json("the device's credentials", &row))
            .transpose()?;
        let registered = device.as_ref().is_some_and(Device::is_registered);
        self.shared.registered.store(registered, Ordering::SeqCst);
        Ok(device)
    }

    async fn exists(&self) -> Result<bool> {
        self.keys
            .contains(KeyKind::Device, &KeyId::single())
            .await
            .map_err(library)
    }

    /// A key space belongs to one device, so there is only one number.
    async fn create(&self) -> Result<i32> {
        if !self.exists().await? {
            self.save(&Device::new()).await?;
        }
        Ok(1)
    }

    /// Nothing: a copy of every key on disk is not a debugging aid.
    async fn snapshot_db(&self, _name: &str, _extra_content: Option<&[u8]>) -> Result<()> {
        Ok(())
    }

    /// The store's memory is shared by all sessions; what one session adds is its deferred rows, which
    /// the store bounds.
    async fn resource_report(&self) -> wacore::stats::StorageResourceReport {
        wacore::stats::StorageResourceReport::default()
    }
}
