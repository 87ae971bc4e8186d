//! Identities, sessions, prekeys and sender keys.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use wacore::store::error::StoreError;
use wacore::store::traits::SignalStore;

use super::{KeyBackend, Result, address_id, library};
use crate::store::{Durability, KeyBatch, KeyId, KeyKind};

#[async_trait]
impl SignalStore for KeyBackend {
    async fn put_identity(&self, address: &str, key: [u8; 32]) -> Result<()> {
        self.put_identities_batch(&[(Arc::from(address), key)])
            .await
    }

    async fn put_identities_batch(&self, identities: &[(Arc<str>, [u8; 32])]) -> Result<()> {
        let batch = identities.iter().fold(KeyBatch::new(), |batch, (at, key)| {
            batch.put(KeyKind::Identity, address_id(at), key.to_vec())
        });
        self.commit_critical(batch, Durability::Ordered).await
    }

    async fn load_identity(&self, address: &str) -> Result<Option<[u8; 32]>> {
        let Some(row) = self.get(KeyKind::Identity, &address_id(address)).await? else {
            return Ok(None);
        };
        let key = row[..].try_into().map_err(|_| {
            StoreError::Validation(format!("an identity key has {} bytes", row.len()))
        })?;
        Ok(Some(key))
    }

    async fn delete_identity(&self, address: &str) -> Result<()> {
        let batch = KeyBatch::new().delete(KeyKind::Identity, address_id(address));
        self.commit_critical(batch, Durability::Ordered).await
    }

    async fn get_session(&self, address: &str) -> Result<Option<Bytes>> {
        self.get(KeyKind::Session, &address_id(address)).await
    }

    async fn put_session(&self, address: &str, session: &[u8]) -> Result<()> {
        let session = Bytes::copy_from_slice(session);
        self.put_sessions_batch(&[(Arc::from(address), session)])
            .await
    }

    async fn put_sessions_batch(&self, sessions: &[(Arc<str>, Bytes)]) -> Result<()> {
        // A ratchet step must never be on disk without the row of the message that took it.
        self.shared
            .inflight
            .wait_for_rows(sessions.iter().map(|(address, _)| &**address))
            .await;
        let batch = sessions.iter().fold(KeyBatch::new(), |batch, (at, row)| {
            batch.put(KeyKind::Session, address_id(at), row.clone())
        });
        self.commit_critical(batch, Durability::Durable).await
    }

    async fn delete_session(&self, address: &str) -> Result<()> {
        let batch = KeyBatch::new().delete(KeyKind::Session, address_id(address));
        self.commit_critical(batch, Durability::Durable).await
    }

    async fn has_session(&self, address: &str) -> Result<bool> {
        self.keys
            .contains(KeyKind::Session, &address_id(address))
            .await
            .map_err(library)
    }

    async fn has_signal_state_for_user(&self, user: &str) -> Result<bool> {
        let under = KeyId::name(user);
        for kind in [KeyKind::Session, KeyKind::Identity] {
            let found = self
                .keys
                .list(kind, &under, None, 1)
                .await
                .map_err(library)?;
            if !found.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn store_prekey(&self, id: u32, record: &[u8], uploaded: bool) -> Result<()> {
        self.put_prekeys(&[(id, Bytes::copy_from_slice(record))], uploaded)
            .await
    }

    async fn store_prekeys_batch(&self, keys: &[(u32, Bytes)], uploaded: bool) -> Result<()> {
        self.put_prekeys(keys, uploaded).await
    }

    async fn load_prekey(&self, id: u32) -> Result<Option<Bytes>> {
        let found = self.get_prekeys(&[id]).await?.pop();
        Ok(found.map(|(_, record)| record))
    }

    async fn load_prekeys_batch(&self, ids: &[u32]) -> Result<Vec<(u32, Bytes)>> {
        self.get_prekeys(ids).await
    }

    async fn mark_prekeys_uploaded(&self, ids: &[u32]) -> Result<()> {
        self.set_prekeys_uploaded(ids).await
    }

    async fn remove_prekey(&self, id: u32) -> Result<()> {
        self.drop_prekey(id).await
    }

    async fn get_max_prekey_id(&self) -> Result<u32> {
        self.max_prekey_id().await
    }

    async fn store_signed_prekey(&self, id: u32, record: &[u8]) -> Result<()> {
        let batch = KeyBatch::new().put(KeyKind::SignedPreKey, KeyId::number(id), record.to_vec());
        self.commit_critical(batch, Durability::Durable).await
    }

    async fn load_signed_prekey(&self, id: u32) -> Result<Option<Vec<u8>>> {
        let row = self.get(KeyKind::SignedPreKey, &KeyId::number(id)).await?;
        Ok(row.map(Into::into))
    }

    async fn load_all_signed_prekeys(&self) -> Result<Vec<(u32, Vec<u8>)>> {
        let rows = self
            .keys
            .list_all(KeyKind::SignedPreKey, &KeyId::single())
            .await
            .map_err(library)?;
        Ok(rows
            .into_iter()
            .filter_map(|row| Some((row.id.last_number()?, row.value.into())))
            .collect())
    }

    async fn remove_signed_prekey(&self, id: u32) -> Result<()> {
        let batch = KeyBatch::new().delete(KeyKind::SignedPreKey, KeyId::number(id));
        self.commit_critical(batch, Durability::Ordered).await
    }

    async fn put_sender_key(&self, address: &str, record: &[u8]) -> Result<()> {
        let record = Bytes::copy_from_slice(record);
        self.put_sender_keys_batch(&[(Arc::from(address), record)])
            .await
    }

    async fn put_sender_keys_batch(&self, sender_keys: &[(Arc<str>, Bytes)]) -> Result<()> {
        self.shared
            .inflight
            .wait_for_rows(sender_keys.iter().map(|(address, _)| &**address))
            .await;
        let batch = sender_keys
            .iter()
            .fold(KeyBatch::new(), |batch, (at, row)| {
                batch.put(KeyKind::SenderKey, KeyId::name(&**at), row.clone())
            });
        self.commit_critical(batch, Durability::Durable).await
    }

    async fn get_sender_key(&self, address: &str) -> Result<Option<Vec<u8>>> {
        let row = self.get(KeyKind::SenderKey, &KeyId::name(address)).await?;
        Ok(row.map(Into::into))
    }

    async fn delete_sender_key(&self, address: &str) -> Result<()> {
        let batch = KeyBatch::new().delete(KeyKind::SenderKey, KeyId::name(address));
        self.commit_critical(batch, Durability::Durable).await
    }
}
