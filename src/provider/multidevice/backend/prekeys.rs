//! One-time prekeys, 63 to a row.
//!
//! A session holds about 812 of them. As single rows ten thousand sessions would cost gigabytes of
//! memory when the store is opened; packed they cost a hundredth.

use std::collections::BTreeMap;

use bytes::Bytes;
use wacore::store::error::StoreError;

use super::{KeyBackend, Result, codec, library};
use crate::store::{Durability, KeyBatch, KeyId, KeyKind};

/// Prekeys in one row.
const PER_ROW: u32 = 63;

#[derive(Debug, Clone, PartialEq, Eq)]
struct PreKey {
    uploaded: bool,
    record: Bytes,
}

type Row = BTreeMap<u32, PreKey>;

fn row_of(id: u32) -> u32 {
    id / PER_ROW
}

fn encode(row: &Row) -> Vec<u8> {
    let items: Vec<Vec<u8>> = row
        .iter()
        .map(|(id, key)| {
            let mut item = id.to_be_bytes().to_vec();
            item.push(u8::from(key.uploaded));
            item.extend_from_slice(&key.record);
            item
        })
        .collect();
    codec::pack(items.iter().map(Vec::as_slice))
}

fn decode(row: &[u8]) -> Result<Row> {
    codec::unpack("a row of prekeys", row)?
        .into_iter()
        .map(|item| {
            let (id, rest) = item.split_first_chunk::<4>().ok_or_else(damaged)?;
            let (flag, record) = rest.split_first().ok_or_else(damaged)?;
            let key = PreKey {
                uploaded: *flag == 1,
                record: Bytes::copy_from_slice(record),
            };
            Ok((u32::from_be_bytes(*id), key))
        })
        .collect()
}

fn damaged() -> StoreError {
    StoreError::Validation("a row of prekeys is damaged".into())
}

impl KeyBackend {
    async fn prekey_rows(&self, ids: impl IntoIterator<Item = u32>) -> Result<BTreeMap<u32, Row>> {
        let mut numbers: Vec<u32> = ids.into_iter().map(row_of).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let row_ids: Vec<_> = numbers.iter().map(|n| KeyId::number(*n)).collect();
        let rows = self
            .keys
            .get_many(KeyKind::PreKey, &row_ids)
            .await
            .map_err(library)?;
        numbers
            .into_iter()
            .zip(rows)
            .map(|(number, row)| {
                let row = row.map(|row| decode(&row)).transpose()?;
                Ok((number, row.unwrap_or_default()))
            })
            .collect()
    }

    /// Changes the rows that hold `ids`; rows that `change` leaves alone are not written.
    async fn change_prekeys(
        &self,
        ids: impl IntoIterator<Item = u32>,
        durability: Durability,
        mut change: impl FnMut(&mut BTreeMap<u32, Row>),
    ) -> Result<()> {
        let _one_at_a_time = self.shared.locks.prekeys.lock().await;
        let before = self.prekey_rows(ids).await?;
        let mut after = before.clone();
        change(&mut after);
        let mut batch = KeyBatch::new();
        for (number, row) in after {
            if before.get(&number) == Some(&row) {
                continue;
            }
            let id = KeyId::number(number);
            batch = if row.is_empty() {
                batch.delete(KeyKind::PreKey, id)
            } else {
                batch.put(KeyKind::PreKey, id, encode(&row))
            };
        }
        if batch.is_empty() {
            return Ok(());
        }
        self.commit_critical(batch, durability).await
    }

    /// Durable on return: the server may hand a prekey out as soon as it was uploaded.
    pub(super) async fn put_prekeys(&self, keys: &[(u32, Bytes)], uploaded: bool) -> Result<()> {
        self.change_prekeys(
            keys.iter().map(|(id, _)| *id),
            Durability::Durable,
            |rows| {
                for (id, record) in keys {
                    let key = PreKey {
                        uploaded,
                        record: record.clone(),
                    };
                    rows.entry(row_of(*id)).or_default().insert(*id, key);
                }
            },
        )
        .await
    }

    pub(super) async fn get_prekeys(&self, ids: &[u32]) -> Result<Vec<(u32, Bytes)>> {
        let rows = self.prekey_rows(ids.iter().copied()).await?;
        let find = |id: &u32| Some((*id, rows.get(&row_of(*id))?.get(id)?.record.clone()));
        Ok(ids.iter().filter_map(find).collect())
    }

    /// A prekey that was consumed meanwhile stays gone.
    pub(super) async fn set_prekeys_uploaded(&self, ids: &[u32]) -> Result<()> {
        self.change_prekeys(ids.iter().copied(), Durability::Ordered, |rows| {
            for id in ids {
                let key = rows.get_mut(&row_of(*id)).and_then(|row| row.get_mut(id));
                if let Some(key) = key {
                    key.uploaded = true;
                }
            }
        })
        .await
    }

    /// Ordered: the session that consumed it was durable before, so it cannot outrun it.
    pub(super) async fn drop_prekey(&self, id: u32) -> Result<()> {
        self.change_prekeys([id], Durability::Ordered, |rows| {
            if let Some(row) = rows.get_mut(&row_of(id)) {
                row.remove(&id);
            }
        })
        .await
    }

    pub(super) async fn max_prekey_id(&self) -> Result<u32> {
        let last = self
            .keys
            .last(KeyKind::PreKey, &KeyId::single())
            .await
            .map_err(library)?;
        let Some(last) = last else { return Ok(0) };
        let max = decode(&last.value)?.keys().next_back().copied();
        Ok(max.unwrap_or(0))
    }

    /// How many stored prekeys are marked as uploaded, for tests.
    #[cfg(test)]
    pub(super) async fn uploaded_prekeys(&self, ids: &[u32]) -> Vec<u32> {
        let rows = self.prekey_rows(ids.iter().copied()).await.unwrap();
        rows.values()
            .flatten()
            .filter(|(_, key)| key.uploaded)
            .map(|(id, _)| *id)
            .collect()
    }
}
