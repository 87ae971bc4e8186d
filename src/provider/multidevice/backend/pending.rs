//! Messages that are decrypted but not yet committed by the inbound hook.
//!
//! Rows are deferred: they are visible at once and join the session write that follows, so that a
//! ratchet step is never on disk without the message that took it, and a row whose message the hook
//! commits first costs no write at all.

use std::time::Duration;

use wacore::store::error::StoreError;
use wacore::store::traits::{PendingInboundKey, PendingInboundRow};

use super::inflight::Repeated;
use super::{KeyBackend, LibraryError, Result, library};
use crate::domain::clock::Timestamp;
use crate::store::{Durability, KeyBatch, KeyId, KeyKind};

/// Rows of messages that the server has stopped redelivering are dropped after this.
const ABANDONED_AFTER: Duration = Duration::from_hours(7 * 24);

fn row_id(chat: &str, sender: &str, id: &str) -> KeyId {
    KeyId::name(chat).and_name(sender).and_name(id)
}

impl KeyBackend {
    pub(super) async fn put_pending(&self, rows: &[PendingInboundRow<'_>]) -> Result<()> {
        let now = self.clock.now().0.to_be_bytes();
        let batch = rows.iter().fold(KeyBatch::new(), |batch, row| {
            let mut value = now.to_vec();
            value.extend_from_slice(row.message);
            batch.put(
                KeyKind::PendingInbound,
                row_id(row.chat, row.sender, row.id),
                value,
            )
        });
        self.commit_critical(batch, Durability::Deferred).await?;
        for row in rows {
            self.shared.inflight.row_written(row.id);
        }
        Ok(())
    }

    pub(super) async fn pending(
        &self,
        chat: &str,
        sender: &str,
        id: &str,
    ) -> Result<Option<Vec<u8>>> {
        // The library asks when it meets a message whose key it has used before.
        let row = self
            .get(KeyKind::PendingInbound, &row_id(chat, sender, id))
            .await?;
        match self.shared.inflight.repeated(id) {
            // The other delivery will be acknowledged when it is durable, and this one with it.
            Repeated::Underway if row.is_none() => {
                return Err(LibraryError::Validation(
                    "another delivery of this message is still on its way".into(),
                ));
            }
            // With a row, the hook commits it and concludes it.
            Repeated::Unknown(stanza) if row.is_none() => {
                if let Some(spent) = self.spent.get()
                    && spent
                        .reported(self, &stanza)
                        .await
                        .map_err(|error| LibraryError::Database(Box::new(error)))?
                {
                    self.shared.inflight.given_up(id);
                } else {
                    self.shared.inflight.concluded(id);
                }
            }
            Repeated::Underway | Repeated::Known | Repeated::Unknown(_) => {}
        }
        row.map(|row| {
            let (_, message) = row
                .split_first_chunk::<8>()
                .ok_or_else(|| StoreError::Validation("a pending inbound row is damaged".into()))?;
            Ok(message.to_vec())
        })
        .transpose()
    }

    pub(super) async fn remove_pending(&self, keys: &[PendingInboundKey<'_>]) -> Result<()> {
        let batch = keys.iter().fold(KeyBatch::new(), |batch, key| {
            batch.delete(
                KeyKind::PendingInbound,
                row_id(key.chat, key.sender, key.id),
            )
        });
        self.keys
            .commit(batch, Durability::Deferred)
            .await
            .map_err(library)
    }

    /// Drops rows of messages that were never delivered again. Called when a client is built.
    pub(in super::super) async fn drop_abandoned(&self) -> Result<()> {
        let rows = self
            .keys
            .list_all(KeyKind::PendingInbound, &KeyId::single())
            .await
            .map_err(library)?;
        let now = self.clock.now();
        let mut batch = KeyBatch::new();
        for row in rows {
            let written = row.value.split_first_chunk::<8>();
            let written = written.map(|(at, _)| Timestamp(u64::from_be_bytes(*at)));
            if written.is_none_or(|at| now.since(at) > ABANDONED_AFTER) {
                batch = batch.delete_raw(KeyKind::PendingInbound, row.id);
            }
        }
        self.commit_ordered(batch).await
    }
}
