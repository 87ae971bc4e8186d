//! Trusted contact tokens. Two writers (a notification and the send path) own different fields of the
//! same row, so every change is made under one lock.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use wacore::store::traits::TcTokenEntry;

use super::{KeyBackend, Result, codec, library};
use crate::domain::clock::Timestamp;
use crate::store::{KeyBatch, KeyId, KeyKind};

/// Longer than either window the protocol gives a token (28 days).
const LIFE: Duration = Duration::from_hours(60 * 24);

/// The name is in the value: keys hold only its hash.
#[derive(Serialize, Deserialize)]
struct Row {
    jid: String,
    entry: TcTokenEntry,
}

impl KeyBackend {
    pub(super) async fn token(&self, jid: &str) -> Result<Option<TcTokenEntry>> {
        let row = self.get(KeyKind::TcToken, &KeyId::name(jid)).await?;
        row.map(|row| Ok(codec::from_json::<Row>("a contact token", &row)?.entry))
            .transpose()
    }

    /// Reads, changes and writes a token; `None` leaves it as it is.
    pub(super) async fn change_token(
        &self,
        jid: &str,
        change: impl FnOnce(Option<TcTokenEntry>) -> Option<TcTokenEntry> + Send,
    ) -> Result<()> {
        let _one_at_a_time = self.shared.locks.tokens.lock().await;
        let Some(entry) = change(self.token(jid).await?) else {
            return Ok(());
        };
        let newest = entry
            .token_timestamp
            .max(entry.sender_timestamp.unwrap_or(0));
        let newest = Timestamp::from_secs(u64::try_from(newest).unwrap_or(0));
        let row = Row {
            jid: jid.to_owned(),
            entry,
        };
        let batch = KeyBatch::new().put_expiring(
            KeyKind::TcToken,
            KeyId::name(jid),
            codec::to_json(&row)?,
            newest.max(self.clock.now()).plus(LIFE),
        );
        self.commit_ordered(batch).await
    }

    pub(super) async fn remove_token(&self, jid: &str) -> Result<()> {
        let _one_at_a_time = self.shared.locks.tokens.lock().await;
        self.commit_ordered(KeyBatch::new().delete(KeyKind::TcToken, KeyId::name(jid)))
            .await
    }

    pub(super) async fn token_jids(&self) -> Result<Vec<String>> {
        let rows = self
            .keys
            .list_all(KeyKind::TcToken, &KeyId::single())
            .await
            .map_err(library)?;
        rows.iter()
            .map(|row| Ok(codec::from_json::<Row>("a contact token", &row.value)?.jid))
            .collect()
    }

    /// Only ever forward, so that writers converge in any order.
    pub(super) async fn touch_token(&self, jid: &str, at: i64) -> Result<()> {
        self.change_token(jid, |current| {
            let mut entry = current.unwrap_or(TcTokenEntry {
                token: Vec::new(),
                token_timestamp: at,
                sender_timestamp: None,
            });
            entry.sender_timestamp = Some(entry.sender_timestamp.map_or(at, |old| old.max(at)));
            Some(entry)
        })
        .await
    }

    /// The newer token wins; a placeholder never stands in the way of the first real one.
    pub(super) async fn receive_token(&self, jid: &str, token: &[u8], at: i64) -> Result<()> {
        self.change_token(jid, |current| {
            let stale = current
                .as_ref()
                .is_some_and(|old| !old.token.is_empty() && at < old.token_timestamp);
            (!stale).then(|| TcTokenEntry {
                token: token.to_vec(),
                token_timestamp: at,
                sender_timestamp: current.and_then(|old| old.sender_timestamp),
            })
        })
        .await
    }
}
