//! What a restored session must not use again.
//!
//! A backup is older than what happened after it was made: the store it was made of may have gone on
//! sending with the same Signal sessions, and may have used prekey ids that the copy takes for free. Using
//! a message key a second time would give messages away, and recipients refuse them. So when the store is
//! of a later generation than the session's keys:
//!
//! - Signal sessions go, all of them: the next message to a device begins a new one from its prekeys. A
//!   message that was encrypted to the old one, and waits at the server, cannot be read; its sender is
//!   asked for it again.
//! - Sender keys of our own go, and with them who has them: groups get a new one. Those of others stay:
//!   they only read.
//! - One-time prekeys stay, for messages that use them may be waiting; but new ones get ids that nobody
//!   has used. The signed prekey stays.
//! - Lists of devices and of group members are asked for again, and the app state is read from its
//!   snapshots: the news about them went to the other owner.
//!
//! All of it is one mark away from being done again, so a crash in the middle does no harm.

use wacore::store::Device;

use super::backend::codec;
use super::facts::{self, Facts};
use crate::domain::clock::Entropy;
use crate::store::{Durability, KeyBatch, KeyId, KeyKind, KeySpace, StoreError};

/// Prekey ids that are passed over at least: more than were ever given out between two backups.
const PREKEYS_PASSED: u32 = 1 << 19;
/// The highest prekey id to go on from: they have 24 bits, and a batch has to fit.
const LAST_START: u32 = (1 << 24) - (1 << 16);
/// Rows read at once.
const PAGE: usize = 200;

/// Renews what has to be renewed. Returns whether anything had to be.
pub(super) async fn settle(keys: &KeySpace, entropy: &Entropy) -> Result<bool, StoreError> {
    let current = keys.session().generation();
    let facts = Facts::new(keys.clone());
    if facts.generation().await? == current {
        return Ok(false);
    }
    for kind in [
        KeyKind::Session,
        KeyKind::SenderKeyDevice,
        KeyKind::DeviceList,
        KeyKind::GroupMetadata,
    ] {
        keys.clear(kind, &KeyId::single()).await?;
    }
    drop_own_sender_keys(keys).await?;
    let mut batch = facts::all_owed(KeyBatch::new());
    if let Some(device) = device_with_free_prekeys(keys, entropy).await? {
        batch = batch.put(KeyKind::Device, KeyId::single(), device);
    }
    // With the mark, last: until then all of this is done again.
    let batch = facts::of_generation(batch, current);
    keys.commit(batch, Durability::Durable).await?;
    Ok(true)
}

/// Removes the sender keys that encrypt, whose names cannot be read: they hold a private key.
async fn drop_own_sender_keys(keys: &KeySpace) -> Result<(), StoreError> {
    let mut after = None;
    loop {
        let page = keys
            .list(KeyKind::SenderKey, &KeyId::single(), after.as_ref(), PAGE)
            .await?;
        let mut batch = KeyBatch::new();
        for entry in &page {
            if encrypts(&entry.value) {
                batch = batch.delete_raw(KeyKind::SenderKey, entry.id.clone());
            }
        }
        keys.commit(batch, Durability::Ordered).await?;
        match page.last() {
            Some(last) if page.len() == PAGE => after = Some(last.id.clone()),
            _ => return Ok(()),
        }
    }
}

/// Whether a sender key can encrypt. One that cannot be read is taken for one that can.
fn encrypts(record: &[u8]) -> bool {
    let Ok(record) = waproto::codec::sender_key_record_decode(record) else {
        return true;
    };
    record.sender_key_states.iter().any(|state| {
        let key = state.sender_signing_key.as_option();
        key.and_then(|key| key.private.as_ref())
            .is_some_and(|private| !private.is_empty())
    })
}

/// The stored device, its prekey ids moved on; `None` when there is none, or when it cannot be read,
/// which whoever builds the client reports.
async fn device_with_free_prekeys(
    keys: &KeySpace,
    entropy: &Entropy,
) -> Result<Option<Vec<u8>>, StoreError> {
    let Some(row) = keys.get(KeyKind::Device, &KeyId::single()).await? else {
        return Ok(None);
    };
    let Ok(mut device) = codec::from_json::<Device>("the device's credentials", &row) else {
        return Ok(None);
    };
    // Two copies of one backup must not agree on where they go on.
    let spread = u32::try_from(entropy.up_to(u64::from(PREKEYS_PASSED))).unwrap_or(0);
    let mut next = device
        .next_pre_key_id
        .saturating_add(PREKEYS_PASSED + spread);
    if next > LAST_START {
        // Round once: what is left of the first round would be in the way.
        keys.clear(KeyKind::PreKey, &KeyId::single()).await?;
        next = 1 + spread;
    }
    device.next_pre_key_id = next;
    device.first_unupload_pre_key_id = next;
    Ok(codec::to_json(&device).ok())
}

#[cfg(test)]
mod tests;
