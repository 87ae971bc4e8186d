//! Secrets of messages, which later edits, reactions and poll votes are encrypted with.

use std::collections::HashMap;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use wacore::store::traits::{
    MsgSecretEntry, MsgSecretStore, merge_msg_secret_expiry, merge_msg_secret_message_ts,
};

use super::{KeyBackend, Result, codec, library};
use crate::domain::clock::Timestamp;
use crate::store::{Durability, KeyBatch, KeyId, KeyKind};

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Row {
    secret: Vec<u8>,
    /// Unix seconds; zero means never.
    expires_at: i64,
    /// Unix seconds of the parent message; zero means unknown.
    message_ts: i64,
}

fn row_id(chat: &str, sender: &str, msg_id: &str) -> KeyId {
    KeyId::name(chat).and_name(sender).and_name(msg_id)
}

impl KeyBackend {
    async fn secret(&self, chat: &str, sender: &str, msg_id: &str) -> Result<Option<Row>> {
        let id = row_id(chat, sender, msg_id);
        let row = self.get(KeyKind::MessageSecret, &id).await?;
        row.map(|row| codec::from_json("a message secret", &row))
            .transpose()
    }
}

#[async_trait]
impl MsgSecretStore for KeyBackend {
    /// Deferred: a message's secret goes to disk with the session write that its message causes.
    async fn put_msg_secrets(&self, entries: Vec<MsgSecretEntry>) -> Result<usize> {
        let _one_at_a_time = self.shared.locks.secrets.lock().await;
        let stored = entries.len();
        let ids: Vec<_> = entries
            .iter()
            .map(|e| row_id(&e.chat, &e.sender, &e.msg_id))
            .collect();
        let current = self
            .keys
            .get_many(KeyKind::MessageSecret, &ids)
            .await
            .map_err(library)?;
        // A batch may name the same message twice.
        let mut merged: HashMap<KeyId, Row> = HashMap::new();
        for ((entry, id), row) in entries.into_iter().zip(ids).zip(current) {
            let old: Option<Row> = match merged.get(&id) {
                Some(row) => Some(row.clone()),
                None => row
                    .map(|row| codec::from_json("a message secret", &row))
                    .transpose()?,
            };
            let (expires_at, message_ts) = match &old {
                Some(old) => (
                    merge_msg_secret_expiry(old.expires_at, entry.expires_at),
                    merge_msg_secret_message_ts(old.message_ts, entry.message_ts),
                ),
                None => (entry.expires_at, entry.message_ts),
            };
            merged.insert(
                id,
                Row {
                    secret: entry.secret.to_vec(),
                    expires_at,
                    message_ts,
                },
            );
        }
        let mut batch = KeyBatch::new();
        for (id, row) in merged {
            let value = codec::to_json(&row)?;
            batch = match u64::try_from(row.expires_at) {
                Ok(at) if at > 0 => {
                    batch.put_expiring(KeyKind::MessageSecret, id, value, Timestamp::from_secs(at))
                }
                _ => batch.put(KeyKind::MessageSecret, id, value),
            };
        }
        self.keys
            .commit(batch, Durability::Deferred)
            .await
            .map_err(library)?;
        Ok(stored)
    }

    async fn get_msg_secret(&self, chat: &str, sender: &str, id: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.secret(chat, sender, id).await?.map(|row| row.secret))
    }

    async fn get_msg_secret_with_ts(
        &self,
        chat: &str,
        sender: &str,
        id: &str,
    ) -> Result<Option<(Vec<u8>, i64)>> {
        let row = self.secret(chat, sender, id).await?;
        Ok(row.map(|row| (row.secret, row.message_ts)))
    }

    /// Zero: rows carry their deadline and one sweeper removes them.
    async fn delete_expired_msg_secrets(&self, _cutoff: i64) -> Result<u32> {
        Ok(0)
    }
}
