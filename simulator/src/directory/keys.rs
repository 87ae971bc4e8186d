//! One device's published keys, and the rules WhatsApp enforces on them.

use std::collections::{HashMap, HashSet, VecDeque};

use wacore::libsignal::protocol::PublicKey;

use crate::phone::{DeviceKeys, OneTimePreKeyPart, PreKeyBundleParts, SignedPreKeyPart};

/// libsignal's type byte in front of a Curve25519 public key.
const DJB_TYPE: u8 = 5;
/// Ids are three bytes on the wire; 0 is not a key.
const MAX_KEY_ID: u32 = 0x00FF_FFFF;

/// What a device sends to publish keys.
pub(crate) struct Upload {
    pub(crate) registration_id: u32,
    pub(crate) identity: [u8; 32],
    pub(crate) signed: SignedPreKeyPart,
    pub(crate) one_time: Vec<OneTimePreKeyPart>,
}

/// Why keys were refused. Nothing of a refused upload is kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KeyError {
    #[error("the identity key differs from the one the device was linked with")]
    ForeignIdentity,
    #[error("signed prekey {0} is not signed by the identity key")]
    BadSignature(u32),
    #[error("prekey id {0} was uploaded before or twice")]
    ReusedId(u32),
    #[error("prekey id {0} is outside 1..=16777215")]
    IdOutOfRange(u32),
    #[error("prekey {0} repeats an earlier public key")]
    ReusedKey(u32),
}

/// Keys a device has published.
pub(crate) struct KeyPool {
    registration_id: u32,
    identity: [u8; 32],
    signed: SignedPreKeyPart,
    one_time: VecDeque<OneTimePreKeyPart>,
    /// Every id ever uploaded.
    seen_ids: HashSet<u32>,
    seen_keys: HashSet<[u8; 32]>,
}

impl KeyPool {
    /// A pool without one-time prekeys, as right after linking.
    pub(crate) fn new(
        registration_id: u32,
        identity: [u8; 32],
        signed: SignedPreKeyPart,
    ) -> Result<Self, KeyError> {
        verify(&identity, &signed)?;
        Ok(Self {
            registration_id,
            identity,
            signed,
            one_time: VecDeque::new(),
            seen_ids: HashSet::new(),
            seen_keys: HashSet::new(),
        })
    }

    /// A phone's pool.
    pub(crate) fn of_phone(keys: DeviceKeys) -> Result<Self, KeyError> {
        let mut pool = Self::new(keys.registration_id, keys.identity, keys.signed)?;
        pool.add(keys.one_time)?;
        Ok(pool)
    }

    /// Takes a whole upload, or nothing of it. Returns how many one-time prekeys were added.
    pub(crate) fn upload(&mut self, upload: Upload) -> Result<usize, KeyError> {
        if upload.identity != self.identity {
            return Err(KeyError::ForeignIdentity);
        }
        verify(&self.identity, &upload.signed)?;
        let added = self.add(upload.one_time)?;
        self.registration_id = upload.registration_id;
        self.signed = upload.signed;
        Ok(added)
    }

    /// Replaces the signed prekey.
    pub(crate) fn rotate(&mut self, signed: SignedPreKeyPart) -> Result<(), KeyError> {
        verify(&self.identity, &signed)?;
        self.signed = signed;
        Ok(())
    }

    /// Adds one-time prekeys. One that waits here already, id and key alike, is skipped: clients
    /// that did not hear the answer upload it again.
    pub(crate) fn add(&mut self, mut keys: Vec<OneTimePreKeyPart>) -> Result<usize, KeyError> {
        let waiting: HashMap<u32, [u8; 32]> =
            self.one_time.iter().map(|k| (k.id, k.public)).collect();
        keys.retain(|key| waiting.get(&key.id) != Some(&key.public));
        let mut batch_ids = HashSet::with_capacity(keys.len());
        let mut batch_keys = HashSet::with_capacity(keys.len());
        for key in &keys {
            if key.id == 0 || key.id > MAX_KEY_ID {
                return Err(KeyError::IdOutOfRange(key.id));
            }
            if self.seen_ids.contains(&key.id) || !batch_ids.insert(key.id) {
                return Err(KeyError::ReusedId(key.id));
            }
            if self.seen_keys.contains(&key.public) || !batch_keys.insert(key.public) {
                return Err(KeyError::ReusedKey(key.id));
            }
        }
        let added = keys.len();
        self.seen_ids.extend(batch_ids);
        self.seen_keys.extend(batch_keys);
        self.one_time.extend(keys);
        Ok(added)
    }

    /// One-time prekeys left.
    pub(crate) fn remaining(&self) -> usize {
        self.one_time.len()
    }

    /// A bundle for a stranger; its one-time prekey is never handed out again.
    pub(crate) fn take_bundle(&mut self, device_identity: Option<Vec<u8>>) -> PreKeyBundleParts {
        PreKeyBundleParts {
            registration_id: self.registration_id,
            identity: self.identity,
            signed: self.signed.clone(),
            one_time: self.one_time.pop_front(),
            device_identity,
        }
    }

    pub(crate) fn identity(&self) -> &[u8; 32] {
        &self.identity
    }

    pub(crate) fn registration_id(&self) -> u32 {
        self.registration_id
    }

    pub(crate) fn signed(&self) -> &SignedPreKeyPart {
        &self.signed
    }

    pub(crate) fn one_time(&self) -> impl Iterator<Item = &OneTimePreKeyPart> {
        self.one_time.iter()
    }
}

fn verify(identity: &[u8; 32], signed: &SignedPreKeyPart) -> Result<(), KeyError> {
    let refused = KeyError::BadSignature(signed.id);
    let key = PublicKey::from_djb_public_key_bytes(identity).map_err(|_| refused.clone())?;
    let mut message = [0u8; 33];
    message[0] = DJB_TYPE;
    message[1..].copy_from_slice(&signed.public);
    if key.verify_signature(&message, &signed.signature) {
        Ok(())
    } else {
        Err(refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::public_bytes;
    use crate::seed::Seed;
    use wacore::libsignal::protocol::KeyPair;

    struct Owner {
        identity: KeyPair,
        rng: rand_chacha::ChaCha20Rng,
    }

    impl Owner {
        fn new() -> Self {
            let mut rng = Seed::new(1).stream("keys");
            Self {
                identity: KeyPair::generate(&mut rng),
                rng,
            }
        }

        fn signed(&mut self, id: u32) -> SignedPreKeyPart {
            let pair = KeyPair::generate(&mut self.rng);
            let signature = self
                .identity
                .private_key
                .calculate_signature(&pair.public_key.serialize(), &mut self.rng)
                .unwrap();
            SignedPreKeyPart {
                id,
                public: public_bytes(&pair),
                signature: signature.as_ref().try_into().unwrap(),
            }
        }

        fn upload(&mut self, ids: &[u32]) -> Upload {
            Upload {
                registration_id: 9,
                identity: public_bytes(&self.identity),
                signed: self.signed(1),
                one_time: ids
                    .iter()
                    .map(|&id| OneTimePreKeyPart {
                        id,
                        public: public_bytes(&KeyPair::generate(&mut self.rng)),
                    })
                    .collect(),
            }
        }

        fn pool(&mut self) -> KeyPool {
            let signed = self.signed(1);
            KeyPool::new(9, public_bytes(&self.identity), signed).unwrap()
        }
    }

    #[test]
    fn each_one_time_prekey_leaves_once() {
        let mut owner = Owner::new();
        let mut pool = owner.pool();
        pool.upload(owner.upload(&[1, 2])).unwrap();
        let ids: Vec<Option<u32>> = (0..3)
            .map(|_| pool.take_bundle(None).one_time.map(|k| k.id))
            .collect();
        assert_eq!(ids, [Some(1), Some(2), None]);
    }

    #[test]
    fn a_used_or_repeated_id_refuses_the_whole_upload() {
        let mut owner = Owner::new();
        let mut pool = owner.pool();
        pool.upload(owner.upload(&[1])).unwrap();
        pool.take_bundle(None);
        assert_eq!(
            pool.upload(owner.upload(&[2, 1])),
            Err(KeyError::ReusedId(1))
        );
        assert_eq!(
            pool.upload(owner.upload(&[3, 3])),
            Err(KeyError::ReusedId(3))
        );
        assert_eq!(
            pool.upload(owner.upload(&[0])),
            Err(KeyError::IdOutOfRange(0))
        );
        assert_eq!(pool.remaining(), 0);
    }

    #[test]
    fn a_repeated_upload_adds_nothing_but_another_key_under_the_same_id_is_refused() {
        let mut owner = Owner::new();
        let mut pool = owner.pool();
        let first = owner.upload(&[1, 2]).one_time;
        assert_eq!(pool.add(first.clone()), Ok(2));
        assert_eq!(pool.add(first.clone()), Ok(0));
        let other = owner.upload(&[2]).one_time;
        assert_eq!(pool.add(other), Err(KeyError::ReusedId(2)));
        pool.take_bundle(None);
        assert_eq!(pool.add(first), Err(KeyError::ReusedId(1)));
    }

    #[test]
    fn a_signed_prekey_must_be_signed_by_the_linked_identity() {
        let mut owner = Owner::new();
        let mut pool = owner.pool();
        let mut forged = owner.signed(2);
        forged.signature[0] ^= 1;
        assert_eq!(pool.rotate(forged), Err(KeyError::BadSignature(2)));
        let mut foreign = owner.upload(&[]);
        foreign.identity[0] ^= 1;
        assert_eq!(pool.upload(foreign), Err(KeyError::ForeignIdentity));
    }
}
