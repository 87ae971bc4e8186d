//! Sealing of values: AES-256-GCM, bound to where the value lives.
//!
//! A sealed record is `version ‖ key id ‖ nonce ‖ ciphertext ‖ tag`. The version is the schema version
//! of the record inside. The additional data is `workspace ‖ session ‖ key ‖ version`, so a value that
//! is copied to another key, session or workspace, or whose version is changed, does not open.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::hkdf;
use bytes::Bytes;
use thiserror::Error;
use zeroize::Zeroizing;

use super::key::IndexKey;
use super::keyring::WorkspaceKeys;

const KEY_ID: std::ops::Range<usize> = 1..5;
const NONCE: std::ops::Range<usize> = 5..17;
const TAG_LEN: usize = 16;

/// Bytes a sealed value is longer than what is inside.
pub(super) const OVERHEAD: usize = NONCE.end + TAG_LEN;

/// Why a value could not be sealed or opened.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SealError {
    /// Too short to be a sealed value.
    #[error("a sealed value is cut off")]
    Truncated,
    /// Sealed with a key this workspace does not have.
    #[error("a value is sealed with unknown key {0}")]
    UnknownKey(u32),
    /// Altered, moved from another place, or sealed for somebody else.
    #[error("a value does not belong where it was found")]
    Forged,
    /// The cryptographic library failed.
    #[error("the cryptographic library failed")]
    Crypto,
}

/// An opened value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Opened {
    /// Schema version of the record inside.
    pub(super) version: u8,
    /// The record.
    pub(super) plaintext: Bytes,
}

/// Seals and opens the values of one session (0 for workspace-level rows), and hashes its names.
pub(super) struct Sealer {
    workspace: u64,
    session: u64,
    keys: Arc<WorkspaceKeys>,
    current_id: u32,
    current: RandomizedNonceKey,
    index: IndexKey,
}

impl Sealer {
    /// Derives the keys of `session` from those of its workspace.
    pub(super) fn new(
        workspace: u64,
        session: u64,
        keys: Arc<WorkspaceKeys>,
    ) -> Result<Self, SealError> {
        let (current_id, data_key) = keys.current();
        let current = session_key(data_key, session)?;
        let index = derive(keys.index_secret(), b"trunkline index", session)?;
        Ok(Self {
            workspace,
            session,
            current_id,
            current,
            index: IndexKey::new(&*index),
            keys,
        })
    }

    /// The number of the session whose values this seals.
    pub(super) fn session(&self) -> u64 {
        self.session
    }

    /// The workspace's number.
    pub(super) fn workspace(&self) -> u64 {
        self.workspace
    }

    /// Hashes names for keys.
    pub(super) fn index(&self) -> &IndexKey {
        &self.index
    }

    /// Seals `plaintext` for `key`.
    pub(super) fn seal(
        &self,
        key: &[u8],
        version: u8,
        plaintext: &[u8],
    ) -> Result<Bytes, SealError> {
        let mut record = Vec::with_capacity(OVERHEAD + plaintext.len());
        record.push(version);
        record.extend_from_slice(&self.current_id.to_be_bytes());
        record.extend_from_slice(&[0; 12]);
        let body = record.len();
        record.extend_from_slice(plaintext);
        let aad = self.aad(key, version);
        let (nonce, tag) = self
            .current
            .seal_in_place_separate_tag(Aad::from(aad), &mut record[body..])
            .map_err(|_| SealError::Crypto)?;
        record[NONCE].copy_from_slice(nonce.as_ref());
        record.extend_from_slice(tag.as_ref());
        Ok(record.into())
    }

    /// Opens what [`Self::seal`] made for the same `key`.
    pub(super) fn open(&self, key: &[u8], record: &[u8]) -> Result<Opened, SealError> {
        if record.len() < OVERHEAD {
            return Err(SealError::Truncated);
        }
        let version = record[0];
        let mut id = [0; 4];
        id.copy_from_slice(&record[KEY_ID]);
        let id = u32::from_be_bytes(id);
        let mut nonce = [0; 12];
        nonce.copy_from_slice(&record[NONCE]);
        let mut body = record[NONCE.end..].to_vec();
        let aad = Aad::from(self.aad(key, version));
        let nonce = Nonce::assume_unique_for_key(nonce);
        let plain_len = if id == self.current_id {
            open_in_place(&self.current, nonce, aad, &mut body)?
        } else {
            let old = self.keys.by_id(id).ok_or(SealError::UnknownKey(id))?;
            open_in_place(&session_key(old, self.session)?, nonce, aad, &mut body)?
        };
        body.truncate(plain_len);
        Ok(Opened {
            version,
            plaintext: body.into(),
        })
    }

    fn aad(&self, key: &[u8], version: u8) -> Vec<u8> {
        let mut aad = Vec::with_capacity(17 + key.len());
        aad.extend_from_slice(&self.workspace.to_be_bytes());
        aad.extend_from_slice(&self.session.to_be_bytes());
        aad.extend_from_slice(key);
        aad.push(version);
        aad
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealer({}/{})", self.workspace, self.session)
    }
}

fn open_in_place(
    key: &RandomizedNonceKey,
    nonce: Nonce,
    aad: Aad<Vec<u8>>,
    body: &mut [u8],
) -> Result<usize, SealError> {
    key.open_in_place(nonce, aad, body)
        .map(|plain| plain.len())
        .map_err(|_| SealError::Forged)
}

fn session_key(data_key: &[u8; 32], session: u64) -> Result<RandomizedNonceKey, SealError> {
    let key = derive(data_key, b"trunkline session", session)?;
    RandomizedNonceKey::new(&AES_256_GCM, &*key).map_err(|_| SealError::Crypto)
}

/// HKDF-SHA256 of `secret` for one purpose and number.
pub(super) fn derive(
    secret: &[u8; 32],
    purpose: &[u8],
    number: u64,
) -> Result<Zeroizing<[u8; 32]>, SealError> {
    let mut out = Zeroizing::new([0; 32]);
    hkdf::Salt::new(hkdf::HKDF_SHA256, &[])
        .extract(secret)
        .expand(&[purpose, &number.to_be_bytes()], hkdf::HKDF_SHA256)
        .and_then(|okm| okm.fill(&mut *out))
        .map_err(|_| SealError::Crypto)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::clock::Entropy;

    fn keys(seed: u64) -> Arc<WorkspaceKeys> {
        Arc::new(WorkspaceKeys::generate(&Entropy::seeded(seed)))
    }

    #[test]
    fn a_value_opens_only_where_it_was_sealed() {
        let shared = keys(1);
        let here = Sealer::new(1, 5, Arc::clone(&shared)).unwrap();
        let sealed = here.seal(b"key", 3, b"secret").unwrap();
        assert_eq!(sealed.len(), OVERHEAD + 6);
        let opened = here.open(b"key", &sealed).unwrap();
        assert_eq!((opened.version, &opened.plaintext[..]), (3, &b"secret"[..]));

        assert_eq!(here.open(b"other", &sealed), Err(SealError::Forged));
        for (workspace, session) in [(1, 6), (2, 5)] {
            let other = Sealer::new(workspace, session, Arc::clone(&shared)).unwrap();
            assert_eq!(other.open(b"key", &sealed), Err(SealError::Forged));
        }
        let stranger = Sealer::new(1, 5, keys(2)).unwrap();
        assert_eq!(stranger.open(b"key", &sealed), Err(SealError::Forged));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let sealer = Sealer::new(1, 1, keys(1)).unwrap();
        let whole = sealer.seal(b"k", 1, b"payload").unwrap();
        for index in 0..whole.len() {
            let mut bent = whole.to_vec();
            bent[index] ^= 1;
            assert!(sealer.open(b"k", &bent).is_err(), "byte {index}");
        }
        for len in 0..whole.len() {
            assert!(sealer.open(b"k", &whole[..len]).is_err(), "cut to {len}");
        }
    }

    #[test]
    fn values_sealed_before_a_rotation_still_open() {
        let entropy = Entropy::seeded(3);
        let before = WorkspaceKeys::generate(&entropy);
        let old = Sealer::new(1, 1, Arc::new(before.clone())).unwrap();
        let sealed = old.seal(b"k", 1, b"v").unwrap();
        let new = Sealer::new(1, 1, Arc::new(before.rotated(&entropy))).unwrap();
        assert_eq!(&new.open(b"k", &sealed).unwrap().plaintext[..], b"v");
        let resealed = new.seal(b"k", 1, b"v").unwrap();
        assert_eq!(old.open(b"k", &resealed), Err(SealError::UnknownKey(2)));
        assert_eq!(old.index().hash(&[b"n"]), new.index().hash(&[b"n"]));
    }
}
