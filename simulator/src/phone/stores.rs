//! In-memory libsignal stores: ordered maps, always ready, so that a seed decides every byte.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use rand::SeedableRng as _;
use rand_chacha::ChaCha20Rng;
use sha2::{Digest as _, Sha256};
use wacore::libsignal::protocol::{
    Direction, GenericSignedPreKey as _, IdentityChange, IdentityKey, IdentityKeyPair,
    IdentityKeyStore, KeyPair, PreKeyId, PreKeyRecord, PreKeyStore, ProtocolAddress, SessionRecord,
    SessionStore, SignalProtocolError, SignedPreKeyId, SignedPreKeyRecord, SignedPreKeyStore,
    Timestamp,
};

use super::net::OneTimePreKeyPart;

type Result<T> = std::result::Result<T, SignalProtocolError>;

/// Sessions by Signal address.
#[derive(Default, Clone)]
pub(super) struct Sessions(BTreeMap<String, SessionRecord>);

impl Sessions {
    pub(super) fn get(&self, address: &ProtocolAddress) -> Option<&SessionRecord> {
        self.0.get(address.as_str())
    }

    pub(super) fn remove(&mut self, address: &ProtocolAddress) {
        self.0.remove(address.as_str());
    }
}

#[async_trait]
impl SessionStore for Sessions {
    async fn load_session(&self, address: &ProtocolAddress) -> Result<Option<SessionRecord>> {
        Ok(self.get(address).cloned())
    }

    async fn has_session(&self, address: &ProtocolAddress) -> Result<bool> {
        Ok(self.0.contains_key(address.as_str()))
    }

    async fn store_session(
        &mut self,
        address: &ProtocolAddress,
        record: SessionRecord,
    ) -> Result<()> {
        self.0.insert(address.as_str().to_owned(), record);
        Ok(())
    }
}

/// The phone's own identity. Trust is decided before libsignal is asked: a `pkmsg` or bundle whose
/// identity differs from the directory's never gets this far.
pub(super) struct Identity {
    pub(super) pair: IdentityKeyPair,
    pub(super) registration_id: u32,
    known: BTreeMap<String, IdentityKey>,
}

impl Identity {
    pub(super) fn new(pair: &KeyPair, registration_id: u32) -> Self {
        Self {
            pair: IdentityKeyPair::new(IdentityKey::new(pair.public_key), pair.private_key.clone()),
            registration_id,
            known: BTreeMap::new(),
        }
    }

    pub(super) fn forget(&mut self, address: &ProtocolAddress) {
        self.known.remove(address.as_str());
    }
}

#[async_trait]
impl IdentityKeyStore for Identity {
    async fn get_identity_key_pair(&self) -> Result<IdentityKeyPair> {
        Ok(self.pair.clone())
    }

    async fn get_local_registration_id(&self) -> Result<u32> {
        Ok(self.registration_id)
    }

    async fn save_identity(
        &mut self,
        address: &ProtocolAddress,
        identity: &IdentityKey,
    ) -> Result<IdentityChange> {
        let before = self.known.insert(address.as_str().to_owned(), *identity);
        Ok(IdentityChange::from_changed(
            before.is_some_and(|known| known != *identity),
        ))
    }

    async fn is_trusted_identity(
        &self,
        _address: &ProtocolAddress,
        _identity: &IdentityKey,
        _direction: Direction,
    ) -> Result<bool> {
        Ok(true)
    }

    async fn get_identity(&self, address: &ProtocolAddress) -> Result<Option<IdentityKey>> {
        Ok(self.known.get(address.as_str()).copied())
    }
}

/// One-time prekeys. Only the ids that are still good are kept: each key pair is derived from a
/// secret, which keeps a phone with hundreds of published prekeys small.
pub(super) struct OneTimePreKeys {
    secret: [u8; 32],
    next: u32,
    live: BTreeSet<u32>,
    /// Live keys that went to one peer in a retry receipt and never to the directory.
    private: BTreeSet<u32>,
    /// Published keys that a session has used up, with the base key of that session.
    spent: BTreeMap<u32, [u8; 32]>,
}

/// Prekey ids travel in three bytes.
const PREKEY_ID_LIMIT: u32 = 1 << 24;

impl OneTimePreKeys {
    pub(super) fn new(secret: [u8; 32], first: u32) -> Self {
        Self {
            secret,
            next: first.clamp(1, PREKEY_ID_LIMIT - 1),
            live: BTreeSet::new(),
            private: BTreeSet::new(),
            spent: BTreeMap::new(),
        }
    }

    /// Issues `count` fresh keys for the directory.
    pub(super) fn issue(&mut self, count: usize) -> Vec<OneTimePreKeyPart> {
        (0..count).map(|_| self.issue_one()).collect()
    }

    /// Issues one key for a single peer.
    pub(super) fn issue_private(&mut self) -> OneTimePreKeyPart {
        let key = self.issue_one();
        self.private.insert(key.id);
        key
    }

    fn issue_one(&mut self) -> OneTimePreKeyPart {
        let id = self.next;
        self.next = if id + 1 == PREKEY_ID_LIMIT { 1 } else { id + 1 };
        self.live.insert(id);
        OneTimePreKeyPart {
            id,
            public: raw_public(&self.pair(id)),
        }
    }

    /// A key consumed by the session with this base key is gone for good.
    pub(super) fn consume(&mut self, id: PreKeyId, base_key: [u8; 32]) {
        let id = u32::from(id);
        let was_live = self.live.remove(&id);
        if was_live && !self.private.remove(&id) {
            self.spent.insert(id, base_key);
        }
    }

    /// Whether the directory handed this key out and *another* session used it up. A peer that
    /// goes on in the session this phone has lost is honest, and so is one whom a retry receipt
    /// reached twice: private keys do not count.
    pub(super) fn is_spent_elsewhere(&self, id: PreKeyId, base_key: [u8; 32]) -> bool {
        self.spent
            .get(&u32::from(id))
            .is_some_and(|spent_by| *spent_by != base_key)
    }

    fn pair(&self, id: u32) -> KeyPair {
        let seed = Sha256::new()
            .chain_update(self.secret)
            .chain_update(id.to_be_bytes())
            .finalize();
        KeyPair::generate(&mut ChaCha20Rng::from_seed(seed.into()))
    }
}

#[async_trait]
impl PreKeyStore for OneTimePreKeys {
    async fn get_pre_key(&self, id: PreKeyId) -> Result<PreKeyRecord> {
        if !self.live.contains(&u32::from(id)) {
            return Err(SignalProtocolError::InvalidPreKeyId);
        }
        Ok(PreKeyRecord::new(id, &self.pair(id.into())))
    }

    async fn save_pre_key(&mut self, id: PreKeyId, _record: &PreKeyRecord) -> Result<()> {
        self.live.insert(id.into());
        Ok(())
    }

    async fn remove_pre_key(&mut self, id: PreKeyId) -> Result<()> {
        self.live.remove(&u32::from(id));
        Ok(())
    }
}

/// The one signed prekey of a phone.
pub(super) struct SignedPreKey {
    pub(super) id: u32,
    pub(super) pair: KeyPair,
    pub(super) signature: [u8; 64],
}

#[async_trait]
impl SignedPreKeyStore for SignedPreKey {
    async fn get_signed_pre_key(&self, id: SignedPreKeyId) -> Result<SignedPreKeyRecord> {
        if u32::from(id) != self.id {
            return Err(SignalProtocolError::InvalidSignedPreKeyId);
        }
        Ok(SignedPreKeyRecord::new(
            id,
            Timestamp::from_epoch_millis(0),
            &self.pair,
            &self.signature,
        ))
    }

    async fn save_signed_pre_key(
        &mut self,
        _id: SignedPreKeyId,
        _record: &SignedPreKeyRecord,
    ) -> Result<()> {
        Err(SignalProtocolError::InvalidState(
            "save_signed_pre_key",
            "a simulated phone keeps the signed prekey it was made with".to_owned(),
        ))
    }
}

/// A public key without its type byte.
pub(super) fn raw_public(pair: &KeyPair) -> [u8; 32] {
    let mut raw = [0; 32];
    raw.copy_from_slice(pair.public_key.public_key_bytes());
    raw
}
