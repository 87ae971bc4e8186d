//! App-state synchronisation: keys, collection versions, mutation MACs.
//!
//! MACs are kept in sixteen rows per collection, chosen by the first four bits of the index MAC (an
//! HMAC, so they fill evenly): a collection of five hundred entries takes sixteen rows of 2 KB instead
//! of five hundred small ones.

use std::collections::{BTreeMap, HashMap};

use async_trait::async_trait;
use wacore::appstate::hash::HashState;
use wacore::store::error::StoreError;
use wacore::store::traits::{AppStateSyncKey, AppSyncStore};
use whatsapp_rust::wacore::appstate::processor::AppStateMutationMAC;

use super::{KeyBackend, Result, codec, library};
use crate::store::{Durability, KeyBatch, KeyId, KeyKind};

/// Rows over which a collection's MACs are spread.
const BUCKETS: u8 = 16;

type Bucket = BTreeMap<Vec<u8>, Vec<u8>>;

fn bucket_of(index_mac: &[u8]) -> u8 {
    index_mac.first().copied().unwrap_or(0) % BUCKETS
}

fn bucket_id(collection: &str, bucket: u8) -> KeyId {
    KeyId::name(collection).and_number(u32::from(bucket))
}

fn decode_bucket(row: &[u8]) -> Result<Bucket> {
    let items = codec::unpack("a row of mutation MACs", row)?;
    if items.len() % 2 != 0 {
        return Err(StoreError::Validation(
            "a row of mutation MACs is damaged".into(),
        ));
    }
    let mut items = items.into_iter();
    let mut bucket = Bucket::new();
    while let (Some(index), Some(value)) = (items.next(), items.next()) {
        bucket.insert(index, value);
    }
    Ok(bucket)
}

fn encode_bucket(bucket: &Bucket) -> Vec<u8> {
    codec::pack(
        bucket
            .iter()
            .flat_map(|(i, v)| [i.as_slice(), v.as_slice()]),
    )
}

impl KeyBackend {
    async fn buckets(
        &self,
        collection: &str,
        macs: impl Iterator<Item = &[u8]> + Send,
    ) -> Result<BTreeMap<u8, Bucket>> {
        let mut wanted: Vec<u8> = macs.map(bucket_of).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let ids: Vec<_> = wanted.iter().map(|b| bucket_id(collection, *b)).collect();
        let rows = self
            .keys
            .get_many(KeyKind::MutationMac, &ids)
            .await
            .map_err(library)?;
        wanted
            .into_iter()
            .zip(rows)
            .map(|(bucket, row)| {
                let row = row.map(|row| decode_bucket(&row)).transpose()?;
                Ok((bucket, row.unwrap_or_default()))
            })
            .collect()
    }

    async fn write_buckets(&self, collection: &str, buckets: BTreeMap<u8, Bucket>) -> Result<()> {
        let batch = buckets
            .into_iter()
            .fold(KeyBatch::new(), |batch, (number, bucket)| {
                let id = bucket_id(collection, number);
                if bucket.is_empty() {
                    batch.delete(KeyKind::MutationMac, id)
                } else {
                    batch.put(KeyKind::MutationMac, id, encode_bucket(&bucket))
                }
            });
        self.commit_ordered(batch).await
    }
}

#[async_trait]
impl AppSyncStore for KeyBackend {
    async fn get_sync_key(&self, key_id: &[u8]) -> Result<Option<AppStateSyncKey>> {
        let row = self.get(KeyKind::SyncKey, &KeyId::name(key_id)).await?;
        row.map(|row| codec::from_json("an app-state key", &row))
            .transpose()
    }

    async fn set_sync_key(&self, key_id: &[u8], key: AppStateSyncKey) -> Result<()> {
        let _one_at_a_time = self.shared.locks.sync_keys.lock().await;
        // Keys come once, in a message that is acknowledged: they must not be lost.
        let batch = KeyBatch::new()
            .put(KeyKind::SyncKey, KeyId::name(key_id), codec::to_json(&key)?)
            .put(KeyKind::Meta, latest_key_id(), key_id.to_vec());
        self.commit_critical(batch, Durability::Durable).await
    }

    async fn get_version(&self, name: &str) -> Result<HashState> {
        let row = self.get(KeyKind::SyncVersion, &KeyId::name(name)).await?;
        let state = row.map(|row| codec::from_json("an app-state version", &row));
        Ok(state.transpose()?.unwrap_or_default())
    }

    async fn set_version(&self, name: &str, state: HashState) -> Result<()> {
        let row = codec::to_json(&state)?;
        self.commit_ordered(KeyBatch::new().put(KeyKind::SyncVersion, KeyId::name(name), row))
            .await?;
        self.shared.version_written(name);
        Ok(())
    }

    async fn put_mutation_macs(
        &self,
        name: &str,
        _version: u64,
        mutations: &[AppStateMutationMAC],
    ) -> Result<()> {
        let _one_at_a_time = self.shared.locks.macs.lock().await;
        let macs = mutations.iter().map(|m| m.index_mac.as_slice());
        let mut buckets = self.buckets(name, macs).await?;
        for mutation in mutations {
            buckets
                .entry(bucket_of(&mutation.index_mac))
                .or_default()
                .insert(mutation.index_mac.clone(), mutation.value_mac.clone());
        }
        self.write_buckets(name, buckets).await
    }

    async fn get_mutation_mac(&self, name: &str, index_mac: &[u8]) -> Result<Option<Vec<u8>>> {
        let mut buckets = self.buckets(name, std::iter::once(index_mac)).await?;
        Ok(buckets
            .get_mut(&bucket_of(index_mac))
            .and_then(|bucket| bucket.remove(index_mac)))
    }

    async fn get_mutation_macs(
        &self,
        name: &str,
        index_macs: &[[u8; 32]],
    ) -> Result<HashMap<[u8; 32], Vec<u8>>> {
        let buckets = self
            .buckets(name, index_macs.iter().map(<[u8; 32]>::as_slice))
            .await?;
        Ok(index_macs
            .iter()
            .filter_map(|mac| {
                let value = buckets.get(&bucket_of(mac))?.get(mac.as_slice())?;
                Some((*mac, value.clone()))
            })
            .collect())
    }

    async fn delete_mutation_macs(&self, name: &str, index_macs: &[Vec<u8>]) -> Result<()> {
        let _one_at_a_time = self.shared.locks.macs.lock().await;
        let macs = index_macs.iter().map(Vec::as_slice);
        let mut buckets = self.buckets(name, macs).await?;
        for mac in index_macs {
            if let Some(bucket) = buckets.get_mut(&bucket_of(mac)) {
                bucket.remove(mac);
            }
        }
        self.write_buckets(name, buckets).await
    }

    async fn clear_mutation_macs(&self, name: &str) -> Result<()> {
        let _one_at_a_time = self.shared.locks.macs.lock().await;
        let batch = (0..BUCKETS).fold(KeyBatch::new(), |batch, bucket| {
            batch.delete(KeyKind::MutationMac, bucket_id(name, bucket))
        });
        self.commit_ordered(batch).await
    }

    async fn get_latest_sync_key_id(&self) -> Result<Option<Vec<u8>>> {
        let row = self.get(KeyKind::Meta, &latest_key_id()).await?;
        Ok(row.map(Into::into))
    }
}

impl KeyBackend {
    /// Forgets how far a collection was read, so that its snapshot is taken in as if it were new: the
    /// library skips a snapshot that is no newer than what it knows.
    pub(in super::super) async fn forget_collection(&self, name: &str) -> Result<()> {
        let _one_at_a_time = self.shared.locks.macs.lock().await;
        let version = KeyBatch::new().delete(KeyKind::SyncVersion, KeyId::name(name));
        let batch = (0..BUCKETS).fold(version, |batch, bucket| {
            batch.delete(KeyKind::MutationMac, bucket_id(name, bucket))
        });
        self.commit_ordered(batch).await
    }
}

fn latest_key_id() -> KeyId {
    KeyId::name("latest-sync-key")
}
