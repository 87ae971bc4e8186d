//! Phone numbers and LIDs of the same people: a bounded cache over the stored rows.
//!
//! The library's own cache is unbounded and filled at start with every mapping. This one stands in for
//! it: what is not in memory is read from the rows, so nothing is ever "unknown" merely because it was
//! evicted. It also answers the event handler, which must not wait.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use wacore::store::cache::CacheStore;
use wacore::store::traits::{LidPnMappingEntry, ProtocolStore};
use wacore::types::message::MessageSource;
use wacore::types::{LearningSource, LidPnEntry};

use super::backend::KeyBackend;
use super::convert::message;
use super::lru::Lru;

const BY_LID: &str = "lid_pn_by_lid";
const BY_PN: &str = "lid_pn_by_pn";

#[derive(Debug)]
struct Tables {
    by_lid: Lru<String, Arc<LidPnEntry>>,
    by_pn: Lru<String, Arc<LidPnEntry>>,
}

/// See the module documentation.
pub(super) struct Mappings {
    tables: Mutex<Tables>,
}

impl Mappings {
    pub(super) fn new(capacity: usize) -> Arc<Self> {
        let capacity = NonZeroUsize::new(capacity).unwrap_or(NonZeroUsize::MIN);
        Arc::new(Self {
            tables: Mutex::new(Tables {
                by_lid: Lru::new(capacity),
                by_pn: Lru::new(capacity),
            }),
        })
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, entry: &Arc<LidPnEntry>) {
        let mut tables = self.tables();
        tables
            .by_lid
            .insert(entry.lid.to_string(), Arc::clone(entry));
        tables
            .by_pn
            .insert(entry.phone_number.to_string(), Arc::clone(entry));
    }

    /// Two names of one person, as a stanza stated them; for lookups by the event handler. Does not
    /// replace what is known better.
    pub(super) fn learn(&self, lid: &str, phone: &str) {
        if self.lid_of(phone).is_some() || self.phone_of(lid).is_some() {
            return;
        }
        self.keep(&Arc::new(LidPnEntry::with_timestamp(
            lid,
            phone,
            0,
            LearningSource::Other,
        )));
    }

    /// The LID of a phone number, if it is in memory.
    pub(super) fn lid_of(&self, phone: &str) -> Option<String> {
        let mut tables = self.tables();
        tables.by_pn.get(phone).map(|entry| entry.lid.to_string())
    }

    /// The phone number of a LID, if it is in memory.
    pub(super) fn phone_of(&self, lid: &str) -> Option<String> {
        let mut tables = self.tables();
        let entry = tables.by_lid.get(lid)?;
        Some(entry.phone_number.to_string())
    }

    /// The LID of a phone number, from memory or the rows.
    pub(super) async fn find_lid(&self, backend: &KeyBackend, phone: &str) -> Option<String> {
        if let Some(lid) = self.lid_of(phone) {
            return Some(lid);
        }
        let row = backend.get_pn_mapping(phone).await.ok()??;
        let lid = row.lid.clone();
        self.keep(&Arc::new(entry_of(row)));
        Some(lid)
    }

    /// The phone number of a LID, from memory or the rows.
    pub(super) async fn find_phone(&self, backend: &KeyBackend, lid: &str) -> Option<String> {
        if let Some(phone) = self.phone_of(lid) {
            return Some(phone);
        }
        let row = backend.get_lid_mapping(lid).await.ok()??;
        let phone = row.phone_number.clone();
        self.keep(&Arc::new(entry_of(row)));
        Some(phone)
    }

    /// Brings the other names of a message's chat and sender into memory, so that its dedup key is that
    /// of the canonical names.
    pub(super) async fn look_up(&self, backend: &KeyBackend, source: &MessageSource) {
        for jid in message::addresses(source) {
            if jid.server.is_pn_family() {
                self.find_lid(backend, jid.user_base()).await;
            } else {
                self.find_phone(backend, jid.user_base()).await;
            }
        }
    }
}

fn entry_of(row: LidPnMappingEntry) -> LidPnEntry {
    LidPnEntry::with_timestamp(
        row.lid,
        row.phone_number,
        row.created_at,
        LearningSource::parse(&row.learning_source),
    )
}

/// What the library uses instead of its own cache.
pub(super) struct MappingCache {
    pub(super) mappings: Arc<Mappings>,
    pub(super) backend: Arc<KeyBackend>,
}

impl MappingCache {
    async fn read_through(
        &self,
        namespace: &str,
        key: &str,
    ) -> anyhow::Result<Option<Arc<LidPnEntry>>> {
        let cached = {
            let mut tables = self.mappings.tables();
            match namespace {
                BY_LID => tables.by_lid.get(key).cloned(),
                BY_PN => tables.by_pn.get(key).cloned(),
                other => anyhow::bail!("unknown cache `{other}`"),
            }
        };
        // What a stanza merely stated (time zero) is not good enough for addressing if a row exists.
        if let Some(entry) = cached.as_ref().filter(|entry| entry.created_at > 0) {
            return Ok(Some(Arc::clone(entry)));
        }
        let row = match namespace {
            BY_LID => self.backend.get_lid_mapping(key).await?,
            _ => self.backend.get_pn_mapping(key).await?,
        };
        let Some(row) = row else { return Ok(None) };
        let entry = Arc::new(entry_of(row));
        self.mappings.keep(&entry);
        Ok(Some(entry))
    }
}

#[async_trait]
impl CacheStore for MappingCache {
    async fn get(&self, namespace: &str, key: &str) -> anyhow::Result<Option<Vec<u8>>> {
        let entry = self.read_through(namespace, key).await?;
        entry
            .map(|entry| serde_json::to_vec(&*entry).map_err(Into::into))
            .transpose()
    }

    /// The library writes the row itself; this only keeps it at hand.
    async fn set(
        &self,
        namespace: &str,
        key: &str,
        value: &[u8],
        _ttl: Option<Duration>,
    ) -> anyhow::Result<()> {
        let entry: Arc<LidPnEntry> = Arc::new(serde_json::from_slice(value)?);
        let mut tables = self.mappings.tables();
        match namespace {
            BY_LID => tables.by_lid.insert(key.to_owned(), entry),
            BY_PN => tables.by_pn.insert(key.to_owned(), entry),
            other => anyhow::bail!("unknown cache `{other}`"),
        }
        Ok(())
    }

    async fn delete(&self, namespace: &str, key: &str) -> anyhow::Result<()> {
        let mut tables = self.mappings.tables();
        match namespace {
            BY_LID => tables.by_lid.remove(key),
            BY_PN => tables.by_pn.remove(key),
            other => anyhow::bail!("unknown cache `{other}`"),
        }
        Ok(())
    }

    async fn clear(&self, namespace: &str) -> anyhow::Result<()> {
        let mut tables = self.mappings.tables();
        match namespace {
            BY_LID => tables.by_lid.clear(),
            BY_PN => tables.by_pn.clear(),
            other => anyhow::bail!("unknown cache `{other}`"),
        }
        Ok(())
    }
}
