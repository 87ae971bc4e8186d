//! Many small values in one record.
//!
//! 812 prekeys as 812 rows per session cost fifteen times the memory and twice the disk of 13 packed
//! rows. A pack holds the values of up to [`PER_PACK`] neighbouring ids; [`PackedKeys`] keeps a whole
//! kind of a key space that way, with atomic changes per pack.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;

use super::errors::StoreError;
use super::keyspace::{KeyId, KeyKind, KeySpace};

/// Ids that share a record.
pub const PER_PACK: u32 = 63;

#[derive(Clone, PartialEq, Message)]
struct PackRow {
    #[prost(message, repeated, tag = "1")]
    items: Vec<ItemRow>,
}

#[derive(Clone, PartialEq, Message)]
struct ItemRow {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
    #[prost(bool, tag = "3")]
    mark: bool,
}

/// One value of a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The value.
    pub value: Bytes,
    /// A mark that can be changed without touching the value (for prekeys: uploaded).
    pub mark: bool,
}

type Pack = BTreeMap<u32, Item>;

fn decode(row: Option<&Bytes>) -> Result<Pack, StoreError> {
    let Some(bytes) = row else {
        return Ok(Pack::new());
    };
    let row = PackRow::decode(bytes.as_ref())
        .map_err(|_| StoreError::Damaged("a pack of keys cannot be decoded".into()))?;
    Ok(row
        .items
        .into_iter()
        .map(|item| {
            let ItemRow { id, value, mark } = item;
            (id, Item { value, mark })
        })
        .collect())
}

fn encode(pack: Pack) -> Option<Bytes> {
    if pack.is_empty() {
        return None;
    }
    let items = pack
        .into_iter()
        .map(|(id, Item { value, mark })| ItemRow { id, value, mark })
        .collect();
    Some(PackRow { items }.encode_to_vec().into())
}

/// A kind of a key space kept in packs. Changes of one pack are atomic; a change of many ids is applied
/// pack by pack, in ascending order.
#[derive(Debug, Clone)]
pub struct PackedKeys {
    keys: KeySpace,
    kind: KeyKind,
}

impl PackedKeys {
    /// The packs of `kind`.
    pub fn new(keys: KeySpace, kind: KeyKind) -> Self {
        Self { keys, kind }
    }

    /// Reads one value.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn get(&self, id: u32) -> Result<Option<Item>, StoreError> {
        let row = self
            .keys
            .get(self.kind, &KeyId::number(id / PER_PACK))
            .await?;
        Ok(decode(row.as_ref())?.remove(&id))
    }

    /// Reads several values: those that exist, by id.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn get_many(&self, ids: &[u32]) -> Result<BTreeMap<u32, Item>, StoreError> {
        let packs: std::collections::BTreeSet<u32> = ids.iter().map(|id| id / PER_PACK).collect();
        let wanted: Vec<_> = packs.into_iter().map(KeyId::number).collect();
        let mut found = BTreeMap::new();
        for row in self.keys.get_many(self.kind, &wanted).await? {
            let mut pack = decode(row.as_ref())?;
            for id in ids {
                if let Some(item) = pack.remove(id) {
                    found.insert(*id, item);
                }
            }
        }
        Ok(found)
    }

    /// Sets values; durable on return.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn put(
        &self,
        items: impl IntoIterator<Item = (u32, Item)>,
    ) -> Result<(), StoreError> {
        let mut by_pack: BTreeMap<u32, Vec<(u32, Item)>> = BTreeMap::new();
        for (id, item) in items {
            by_pack.entry(id / PER_PACK).or_default().push((id, item));
        }
        for (number, items) in by_pack {
            self.change(number, move |pack| pack.extend(items)).await?;
        }
        Ok(())
    }

    /// Sets or clears the mark of values that exist; others stay missing. Durable on return.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn mark(&self, ids: &[u32], mark: bool) -> Result<(), StoreError> {
        let mut by_pack: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for id in ids {
            by_pack.entry(id / PER_PACK).or_default().push(*id);
        }
        for (number, ids) in by_pack {
            self.change(number, move |pack| {
                for id in ids {
                    if let Some(item) = pack.get_mut(&id) {
                        item.mark = mark;
                    }
                }
            })
            .await?;
        }
        Ok(())
    }

    /// Removes a value, durably, after everything written before it; whether it was there.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn remove(&self, id: u32) -> Result<bool, StoreError> {
        self.change(id / PER_PACK, move |pack| pack.remove(&id).is_some())
            .await
    }

    /// The highest id, if there is any value.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn last_id(&self) -> Result<Option<u32>, StoreError> {
        let last = self.keys.last(self.kind, &KeyId::single()).await?;
        let pack = decode(last.map(|entry| entry.value).as_ref())?;
        Ok(pack.last_key_value().map(|(id, _)| *id))
    }

    /// All values, by id.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn all(&self) -> Result<BTreeMap<u32, Item>, StoreError> {
        let mut all = BTreeMap::new();
        for entry in self.keys.list_all(self.kind, &KeyId::single()).await? {
            all.append(&mut decode(Some(&entry.value))?);
        }
        Ok(all)
    }

    async fn change<T: Send + 'static>(
        &self,
        number: u32,
        change: impl FnOnce(&mut Pack) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let changed = self
            .keys
            .update(self.kind, KeyId::number(number), |current| {
                match decode(current.as_ref()) {
                    Ok(mut pack) => {
                        let answer = change(&mut pack);
                        (encode(pack), Ok(answer))
                    }
                    // What cannot be read is left as it is.
                    Err(error) => (current, Err(error)),
                }
            });
        changed.await?
    }
}
