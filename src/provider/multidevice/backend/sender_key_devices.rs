//! Which devices of a group have our sender key: one row per group.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};

use super::{KeyBackend, Result, codec, library};
use crate::store::{KeyBatch, KeyId, KeyKind};

type Devices = BTreeMap<String, bool>;

/// The name is in the value: keys hold only its hash.
#[derive(Serialize, Deserialize)]
struct Row {
    group: String,
    devices: Devices,
}

fn decode(row: &[u8]) -> Result<Row> {
    codec::from_json("a group's sender-key devices", row)
}

fn put(batch: KeyBatch, row: &Row) -> Result<KeyBatch> {
    let id = KeyId::name(&row.group);
    Ok(batch.put(KeyKind::SenderKeyDevice, id, codec::to_json(row)?))
}

impl KeyBackend {
    async fn devices_of(&self, group: &str) -> Result<Devices> {
        let row = self
            .get(KeyKind::SenderKeyDevice, &KeyId::name(group))
            .await?;
        let row = row.map(|row| decode(&row)).transpose()?;
        Ok(row.map(|row| row.devices).unwrap_or_default())
    }

    pub(super) async fn group_devices(&self, group: &str) -> Result<Vec<(String, bool)>> {
        Ok(self.devices_of(group).await?.into_iter().collect())
    }

    pub(super) async fn set_group_devices(
        &self,
        group: &str,
        entries: &[(&str, bool)],
    ) -> Result<()> {
        let _one_at_a_time = self.shared.locks.sender_key_devices.lock().await;
        let mut devices = self.devices_of(group).await?;
        devices.extend(entries.iter().map(|(jid, has)| ((*jid).to_owned(), *has)));
        let row = Row {
            group: group.to_owned(),
            devices,
        };
        self.commit_ordered(put(KeyBatch::new(), &row)?).await
    }

    /// Forgets devices in every group.
    pub(super) async fn forget_devices(&self, jids: &[&str]) -> Result<()> {
        if jids.is_empty() {
            return Ok(());
        }
        let gone: HashSet<&str> = jids.iter().copied().collect();
        let _one_at_a_time = self.shared.locks.sender_key_devices.lock().await;
        let rows = self
            .keys
            .list_all(KeyKind::SenderKeyDevice, &KeyId::single())
            .await
            .map_err(library)?;
        let mut batch = KeyBatch::new();
        for row in rows {
            let mut row = decode(&row.value)?;
            let before = row.devices.len();
            row.devices.retain(|jid, _| !gone.contains(jid.as_str()));
            if row.devices.len() != before {
                batch = put(batch, &row)?;
            }
        }
        self.commit_ordered(batch).await
    }
}
