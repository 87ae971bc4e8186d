//! Snapshots of app-state collections, as blobs on the media host.
//!
//! The server cannot read a collection, but it can fold one: a snapshot is the records that the patches
//! leave standing, under the MAC that the author of the last patch made over the same sum.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};
use wacore::download::MediaType;
use wacore::upload::encrypt_media_with_key;
use waproto::buffa::{Message as _, MessageField};
use waproto::whatsapp::syncd_mutation::SyncdOperation;
use waproto::whatsapp::{ExternalBlobReference, SyncdPatch, SyncdSnapshot, SyncdVersion};

use super::Hub;
use super::notify::SERVER;
use crate::ledger::Fact;

/// Folds all patches of a collection. `None` when there are none, or when one keeps its mutations
/// elsewhere.
pub(super) fn fold(patches: &[SyncdPatch]) -> Option<SyncdSnapshot> {
    let last = patches.last()?;
    let mut standing = BTreeMap::new();
    for patch in patches {
        if patch.external_mutations.is_set() {
            return None;
        }
        for mutation in &patch.mutations {
            let record = mutation.record.as_option()?;
            let index = record.index.as_option()?.blob.clone()?;
            if mutation
                .operation
                .is_some_and(|operation| operation == SyncdOperation::REMOVE)
            {
                standing.remove(&index);
            } else {
                standing.insert(index, record.clone());
            }
        }
    }
    Some(SyncdSnapshot {
        version: MessageField::some(SyncdVersion {
            version: Some(patches.len() as u64),
        }),
        records: standing.into_values().collect(),
        mac: last.snapshot_mac.clone(),
        key_id: last.key_id.clone(),
    })
}

impl Hub {
    /// Puts a snapshot on the media host; the same snapshot stays where it is. Returns the encoded
    /// reference, or `None` when it cannot be encrypted.
    pub(super) fn shelve_snapshot(&mut self, snapshot: &SyncdSnapshot) -> Option<Vec<u8>> {
        let plain = snapshot.encode_to_vec();
        let key = Sha256::new()
            .chain_update(b"app-state snapshot")
            .chain_update(self.seed.number("snapshots").to_be_bytes())
            .chain_update(&plain)
            .finalize();
        let sealed = encrypt_media_with_key(&plain, MediaType::AppState, Some(&key.into())).ok()?;
        let size = sealed.data_to_upload.len() as u64;
        let kind = MediaType::AppState.mms_type();
        let place = self.shelf.put(kind, sealed.data_to_upload.into());
        self.record(Fact::MediaStored {
            kind: kind.to_owned(),
            path: place.direct_path.clone(),
            size,
            by: SERVER.to_owned(),
        });
        let reference = ExternalBlobReference {
            media_key: Some(sealed.media_key.to_vec()),
            direct_path: Some(place.direct_path),
            file_size_bytes: Some(plain.len() as u64),
            file_sha256: Some(sealed.file_sha256.to_vec()),
            file_enc_sha256: Some(sealed.file_enc_sha256.to_vec()),
            ..Default::default()
        };
        Some(reference.encode_to_vec())
    }
}
