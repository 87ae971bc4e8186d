//! Sealing and opening: libsignal over the in-memory stores, plus the memory of spent counters.

use std::collections::HashMap;

use futures::FutureExt as _;
use rand::RngExt as _;
use rand_chacha::ChaCha20Rng;
use sha2::{Digest as _, Sha256};
use wacore::libsignal::protocol::{
    CiphertextMessage, DeviceId, IdentityKey, KeyPair, PreKeyBundle, PreKeySignalMessage,
    ProtocolAddress, PublicKey, SignalMessage, SignalProtocolError, UsePQRatchet, message_decrypt,
    message_encrypt, process_prekey_bundle,
};
use wacore::types::jid::JidExt as _;
use wacore_binary::Jid;

use super::net::{DeviceKeys, OneTimePreKeyPart, PreKeyBundleParts, SignedPreKeyPart};
use super::stores::{Identity, OneTimePreKeys, Sessions, SignedPreKey, raw_public};

/// The pairwise ciphertexts of `<enc type>`. Group ciphertexts (`skmsg`) are opened by the sender keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EncType {
    /// `pkmsg`: starts a session.
    PreKey,
    /// `msg`: within a session.
    Whisper,
}

impl EncType {
    pub(super) fn from_wire(text: &str) -> Option<Self> {
        match text {
            "pkmsg" => Some(Self::PreKey),
            "msg" => Some(Self::Whisper),
            _ => None,
        }
    }

    pub(super) fn wire(self) -> &'static str {
        match self {
            Self::PreKey => "pkmsg",
            Self::Whisper => "msg",
        }
    }
}

/// One ciphertext, ready for an `<enc>`.
pub(super) struct Sealed {
    pub(super) kind: EncType,
    pub(super) bytes: Vec<u8>,
}

/// What opening a ciphertext gave.
pub(super) enum Opened {
    /// Its plaintext, still padded.
    Fresh(Vec<u8>),
    /// The server delivered a ciphertext again that was opened before, under the same id.
    Again,
}

/// Why a ciphertext was not opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error("not a Signal message")]
    Malformed,
    #[error("message counter {counter} was used before")]
    CounterReused { counter: u32 },
    #[error("one-time prekey {id} was used by another session before")]
    PreKeyReused { id: u32 },
    #[error(transparent)]
    Signal(#[from] SignalProtocolError),
}

/// Why a message could not be sealed or a session not started.
#[derive(Debug, thiserror::Error)]
pub(super) enum SealError {
    #[error("a store was not ready")]
    NotReady,
    #[error(transparent)]
    Signal(#[from] SignalProtocolError),
}

/// What is remembered of an opened ciphertext: enough to tell a redelivery from a reuse.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Spent {
    pub(super) id: u32,
    pub(super) ciphertext: u32,
}

/// All Signal state of one device.
pub(super) struct Signal {
    sessions: Sessions,
    identity: Identity,
    one_time: OneTimePreKeys,
    signed: SignedPreKey,
    account: KeyPair,
    /// Keyed by sender device, ratchet key and counter. Only ever looked up, never iterated.
    spent: HashMap<u64, Spent>,
}

impl Signal {
    pub(super) fn generate(rng: &mut ChaCha20Rng) -> Self {
        let account = KeyPair::generate(rng);
        let pair = KeyPair::generate(rng);
        // Signing a well-formed key cannot fail; were it to, nobody would accept a zero signature.
        let signature = account
            .private_key
            .calculate_signature(&pair.public_key.serialize(), rng)
            .unwrap_or([0; 64]);
        let signed = SignedPreKey {
            id: rng.random_range(1..0x00ff_ffff),
            pair,
            signature,
        };
        let one_time = OneTimePreKeys::new(rng.random(), rng.random_range(1..0x000f_ffff));
        Self {
            sessions: Sessions::default(),
            identity: Identity::new(&account, rng.random_range(1..0x3fff)),
            one_time,
            signed,
            account,
            spent: HashMap::new(),
        }
    }

    pub(super) fn account(&self) -> &KeyPair {
        &self.account
    }

    pub(super) fn registration_id(&self) -> u32 {
        self.identity.registration_id
    }

    pub(super) fn signed_part(&self) -> SignedPreKeyPart {
        SignedPreKeyPart {
            id: self.signed.id,
            public: raw_public(&self.signed.pair),
            signature: self.signed.signature,
        }
    }

    pub(super) fn publish(&mut self, one_time: usize) -> DeviceKeys {
        DeviceKeys {
            registration_id: self.registration_id(),
            identity: raw_public(&self.account),
            signed: self.signed_part(),
            one_time: self.one_time.issue(one_time),
        }
    }

    /// A copy of every session, as a backup holds it.
    #[cfg(test)]
    pub(super) fn backup(&self) -> Sessions {
        self.sessions.clone()
    }

    /// Puts an older copy back: the mistake that spends counters twice.
    #[cfg(test)]
    pub(super) fn restore(&mut self, backup: Sessions) {
        self.sessions = backup;
    }

    /// A fresh prekey that goes straight to one peer, never to the directory.
    pub(super) fn private_prekey(&mut self) -> OneTimePreKeyPart {
        self.one_time.issue_private()
    }

    /// Whether a session with a usable state exists.
    pub(super) fn has_session(&self, device: &Jid) -> bool {
        self.sessions
            .get(&device.to_protocol_address())
            .is_some_and(|record| record.session_state().is_some())
    }

    /// The registration id the peer had when the session was made.
    pub(super) fn peer_registration(&self, device: &Jid) -> Option<u32> {
        self.sessions
            .get(&device.to_protocol_address())
            .and_then(|record| record.remote_registration_id().ok())
    }

    pub(super) fn drop_session(&mut self, device: &Jid) {
        let address = device.to_protocol_address();
        self.sessions.remove(&address);
        self.identity.forget(&address);
    }

    pub(super) fn lose_sessions(&mut self) {
        self.sessions = Sessions::default();
    }

    /// Starts a session from a bundle, checking its signature; an older one is archived.
    pub(super) fn start(
        &mut self,
        device: &Jid,
        parts: &PreKeyBundleParts,
        rng: &mut ChaCha20Rng,
    ) -> Result<(), SealError> {
        let key = |raw: &[u8; 32]| PublicKey::from_djb_public_key_bytes(raw);
        let one_time = match &parts.one_time {
            Some(part) => Some((
                part.id.into(),
                key(&part.public).map_err(SignalProtocolError::from)?,
            )),
            None => None,
        };
        let bundle = PreKeyBundle::new(
            parts.registration_id,
            DeviceId::new(0),
            one_time,
            parts.signed.id.into(),
            key(&parts.signed.public).map_err(SignalProtocolError::from)?,
            parts.signed.signature.to_vec(),
            IdentityKey::new(key(&parts.identity).map_err(SignalProtocolError::from)?),
        )?;
        process_prekey_bundle(
            &device.to_protocol_address(),
            &mut self.sessions,
            &mut self.identity,
            &bundle,
            rng,
            UsePQRatchet::No,
        )
        .now_or_never()
        .ok_or(SealError::NotReady)??;
        Ok(())
    }

    /// Seals a padded plaintext within the session with `device`.
    pub(super) fn seal(&mut self, device: &Jid, padded: &[u8]) -> Result<Sealed, SealError> {
        let sealed = message_encrypt(
            padded,
            &device.to_protocol_address(),
            &mut self.sessions,
            &mut self.identity,
        )
        .now_or_never()
        .ok_or(SealError::NotReady)??;
        let kind = match sealed {
            CiphertextMessage::PreKeySignalMessage(_) => EncType::PreKey,
            _ => EncType::Whisper,
        };
        Ok(Sealed {
            kind,
            bytes: sealed.serialize().to_vec(),
        })
    }

    /// The identity key inside a `pkmsg`, before anything is believed about it.
    pub(super) fn claimed_identity(bytes: &[u8]) -> Option<[u8; 32]> {
        let message = PreKeySignalMessage::try_from(bytes).ok()?;
        message
            .identity_key()
            .public_key()
            .public_key_bytes()
            .try_into()
            .ok()
    }

    /// Opens the ciphertext of message `id` from `device`. A counter is spent when it was opened
    /// once: the same ciphertext under the same id is a redelivery, anything else is a reuse.
    pub(super) fn open(
        &mut self,
        device: &Jid,
        id: &str,
        kind: EncType,
        bytes: &[u8],
        rng: &mut ChaCha20Rng,
    ) -> Result<Opened, OpenError> {
        let parsed = match kind {
            EncType::PreKey => {
                PreKeySignalMessage::try_from(bytes).map(CiphertextMessage::PreKeySignalMessage)
            }
            EncType::Whisper => {
                SignalMessage::try_from(bytes).map(CiphertextMessage::SignalMessage)
            }
        }
        .map_err(|_| OpenError::Malformed)?;
        let inner = match &parsed {
            CiphertextMessage::PreKeySignalMessage(message) => message.message(),
            CiphertextMessage::SignalMessage(message) => message,
            _ => return Err(OpenError::Malformed),
        };
        let address = device.to_protocol_address();
        let counter = inner.counter();
        let key = spent_key(&address, inner);
        let spent = Spent {
            id: short_hash(id.as_bytes()),
            ciphertext: short_hash(inner.serialized()),
        };
        match self.spent.get(&key) {
            Some(before) if *before == spent => return Ok(Opened::Again),
            Some(_) => return Err(OpenError::CounterReused { counter }),
            None => {}
        }
        let opened = message_decrypt(
            &parsed,
            &address,
            &mut self.sessions,
            &mut self.identity,
            &mut self.one_time,
            &self.signed,
            rng,
            UsePQRatchet::No,
        )
        .now_or_never()
        .ok_or(OpenError::Malformed)?;
        match opened {
            Ok(opened) => {
                if let Some(id) = opened.consumed_prekey_id
                    && let Some(base_key) = base_key(&parsed)
                {
                    self.one_time.consume(id, base_key);
                }
                self.spent.insert(key, spent);
                Ok(Opened::Fresh(opened.plaintext))
            }
            // The chain has moved past a counter this table never saw: it was skipped so far back
            // that its key was dropped. Still a counter no honest sender comes back to.
            Err(SignalProtocolError::DuplicatedMessage(..)) => {
                Err(OpenError::CounterReused { counter })
            }
            Err(SignalProtocolError::InvalidPreKeyId) => Err(self.bad_prekey(&parsed)),
            Err(error) => Err(error.into()),
        }
    }

    fn bad_prekey(&self, message: &CiphertextMessage) -> OpenError {
        if let CiphertextMessage::PreKeySignalMessage(prekey) = message
            && let (Some(id), Some(base_key)) = (prekey.pre_key_id(), base_key(message))
            && self.one_time.is_spent_elsewhere(id, base_key)
        {
            return OpenError::PreKeyReused { id: id.into() };
        }
        OpenError::Signal(SignalProtocolError::InvalidPreKeyId)
    }
}

/// What tells one session of a sender from another.
fn base_key(message: &CiphertextMessage) -> Option<[u8; 32]> {
    match message {
        CiphertextMessage::PreKeySignalMessage(message) => {
            message.base_key().public_key_bytes().try_into().ok()
        }
        _ => None,
    }
}

fn spent_key(address: &ProtocolAddress, message: &SignalMessage) -> u64 {
    let digest = Sha256::new()
        .chain_update(address.as_str())
        .chain_update([0])
        .chain_update(message.sender_ratchet_key().public_key_bytes())
        .chain_update(message.counter().to_be_bytes())
        .finalize();
    u64::from_be_bytes(std::array::from_fn(|index| digest[index]))
}

pub(super) fn short_hash(bytes: &[u8]) -> u32 {
    let digest = Sha256::digest(bytes);
    u32::from_be_bytes(std::array::from_fn(|index| digest[index]))
}
