//! Writes of a session that wait for its next one.

use crate::store::engine::Commit;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::Mutex;

/// Deferred rows a session may hold before they are written anyway.
const MAX_DEFERRED_ROWS: usize = 256;
/// Bytes of deferred rows a session may hold before they are written anyway.
const MAX_DEFERRED_BYTES: usize = 1 << 20;

/// Rows that wait for the session's next write. A deleted row stays as a tombstone, because an older
/// value of it may be on disk; deleting what is not there costs the engine no write.
#[derive(Debug, Default)]
pub(in crate::store) struct Deferred {
    pub(super) rows: BTreeMap<Bytes, Option<Bytes>>,
    bytes: usize,
}

impl Deferred {
    #[expect(clippy::needless_pass_by_value, reason = "the key moves into the map")]
    pub(super) fn put(&mut self, key: Bytes, value: Option<Bytes>) {
        let size =
            |key: &Bytes, value: &Option<Bytes>| key.len() + value.as_ref().map_or(0, Bytes::len);
        self.bytes += size(&key, &value);
        if let Some(old) = self.rows.insert(key.clone(), value) {
            self.bytes -= size(&key, &old);
        }
    }

    pub(in crate::store) fn rows(&self) -> impl Iterator<Item = (&Bytes, &Option<Bytes>)> {
        self.rows.iter()
    }

    pub(in crate::store) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn is_full(&self) -> bool {
        self.rows.len() >= MAX_DEFERRED_ROWS || self.bytes >= MAX_DEFERRED_BYTES
    }

    pub(in crate::store) fn drain_into(&mut self, commit: &mut Commit) {
        for (key, value) in std::mem::take(self).rows {
            match value {
                Some(value) => commit.put.push((key, value)),
                None => commit.delete.push(key),
            }
        }
    }
}

/// Shared by all handles of a session.
pub(in crate::store) type SharedDeferred = Arc<Mutex<Deferred>>;
