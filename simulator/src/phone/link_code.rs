//! Linking by code: the phone's half of the exchange behind the eight characters.
//!
//! Both sides wrap an ephemeral X25519 key under the code (PBKDF2, AES-CTR): nothing in a wrapping
//! tells whether the code was right. The companion then seals its identity key under the agreement
//! of the two ephemeral keys, and only there does a wrong code show: the seal does not open. The
//! ADV secret comes out of both agreements, so that a server that knows neither learns nothing.
//! Labels and layouts as in `wacore::pair_code`, which is the companion's half.

use rand::Rng as _;
use rand_chacha::ChaCha20Rng;
use wacore::crypto::hkdf_sha256_into;
use wacore::libsignal::crypto::aes_256_gcm_decrypt;
use wacore::libsignal::protocol::{KeyPair, PublicKey};
use wacore::pair_code::PairCodeUtils;

use super::link::ScanError;
use super::stores::raw_public;

/// Salt, initialisation vector and key of a wrapped ephemeral key, in bytes.
const SALT: usize = 32;
const IV: usize = 16;
const KEY: usize = 32;
/// Bytes of a wrapped ephemeral key.
pub const WRAPPED: usize = SALT + IV + KEY;
/// Salt and nonce before the ciphertext of a key bundle.
const BUNDLE_SALT: usize = 32;
const BUNDLE_NONCE: usize = 12;
/// Companion identity, phone identity, random.
const BUNDLE_CONTENT: usize = 96;

/// What a phone contributes to one attempt at a code.
pub struct CodeEntry {
    identity: [u8; 32],
    ephemeral: KeyPair,
    salt: [u8; SALT],
    iv: [u8; IV],
}

/// An attempt that waits for the companion's answer.
pub struct PrimaryHello {
    /// `primary_identity_pub`
    pub identity: [u8; 32],
    /// `link_code_pairing_wrapped_primary_ephemeral_pub`
    pub wrapped_ephemeral: [u8; WRAPPED],
    ephemeral: KeyPair,
    /// What the companion's wrapping gives under the code; any 32 bytes if the code is wrong.
    companion_ephemeral: [u8; 32],
}

/// What `companion_finish` brought.
#[derive(Debug, Clone, Copy)]
pub struct KeyBundle<'a> {
    /// `link_code_pairing_wrapped_key_bundle`
    pub wrapped: &'a [u8],
    /// `companion_identity_public`
    pub companion_identity: &'a [u8; 32],
}

/// Why a companion was not linked by code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodeError {
    /// The bundle is sealed under another key: person and client do not have the same code.
    #[error("the code is not the one that the client shows")]
    WrongCode,
    /// The bundle opens and names other keys than were exchanged.
    #[error("the key bundle names another {0}")]
    Altered(&'static str),
    /// A key that is not a point, or a bundle of another size.
    #[error("the key bundle is malformed")]
    Malformed,
    /// The account could not sign the companion.
    #[error(transparent)]
    Signing(#[from] ScanError),
}

impl CodeEntry {
    pub(super) fn generate(identity: [u8; 32], rng: &mut ChaCha20Rng) -> Self {
        let ephemeral = KeyPair::generate(rng);
        let (mut salt, mut iv) = ([0; SALT], [0; IV]);
        rng.fill_bytes(&mut salt);
        rng.fill_bytes(&mut iv);
        Self {
            identity,
            ephemeral,
            salt,
            iv,
        }
    }

    /// Opens the companion's wrapped key with the code and wraps the phone's. `code` is eight
    /// characters without separators. Derives two keys from it, which takes a good part of a second
    /// in an unoptimised build.
    pub fn enter(self, code: &str, companion: &[u8; WRAPPED]) -> PrimaryHello {
        let mut wrapped_ephemeral = [0; WRAPPED];
        wrapped_ephemeral[..SALT].copy_from_slice(&self.salt);
        wrapped_ephemeral[SALT..SALT + IV].copy_from_slice(&self.iv);
        wrapped_ephemeral[SALT + IV..].copy_from_slice(&raw_public(&self.ephemeral));
        // The cipher is a key stream: taking it off and putting it on are the same operation.
        let own = apply_code(&wrapped_ephemeral, code);
        wrapped_ephemeral[SALT + IV..].copy_from_slice(&own);
        PrimaryHello {
            identity: self.identity,
            wrapped_ephemeral,
            companion_ephemeral: apply_code(companion, code),
            ephemeral: self.ephemeral,
        }
    }
}

fn apply_code(wrapped: &[u8; WRAPPED], code: &str) -> [u8; 32] {
    // The only error is a length other than `WRAPPED`.
    PairCodeUtils::decrypt_primary_ephemeral_pub(wrapped, code).unwrap_or_default()
}

impl PrimaryHello {
    /// The ADV secret, if the bundle was sealed by somebody with the same code.
    pub(super) fn open(
        &self,
        bundle: &KeyBundle<'_>,
        account: &KeyPair,
    ) -> Result<[u8; 32], CodeError> {
        let sealed = bundle.wrapped;
        if sealed.len() <= BUNDLE_SALT + BUNDLE_NONCE {
            return Err(CodeError::Malformed);
        }
        let (salt, sealed) = sealed.split_at(BUNDLE_SALT);
        let (nonce, sealed) = sealed.split_at(BUNDLE_NONCE);
        let nonce: [u8; BUNDLE_NONCE] = nonce.try_into().map_err(|_| CodeError::Malformed)?;
        let shared = agree(&self.ephemeral, &self.companion_ephemeral)?;
        let mut key = [0; 32];
        hkdf_sha256_into(
            &shared,
            Some(salt),
            b"link_code_pairing_key_bundle_encryption_key",
            &mut key,
        )
        .map_err(|_| CodeError::Malformed)?;
        let mut content = Vec::with_capacity(BUNDLE_CONTENT);
        aes_256_gcm_decrypt(&key, &nonce, b"", sealed, &mut content)
            .map_err(|_| CodeError::WrongCode)?;
        let [companion, primary, random] = parts(&content).ok_or(CodeError::Malformed)?;
        if &companion != bundle.companion_identity {
            return Err(CodeError::Altered("companion identity"));
        }
        if primary != self.identity {
            return Err(CodeError::Altered("phone identity"));
        }
        let identity_shared = agree(account, &companion)?;
        let secret = [shared, identity_shared, random].concat();
        let mut adv_secret = [0; 32];
        hkdf_sha256_into(&secret, None, b"adv_secret", &mut adv_secret)
            .map_err(|_| CodeError::Malformed)?;
        Ok(adv_secret)
    }
}

fn agree(own: &KeyPair, their: &[u8; 32]) -> Result<[u8; 32], CodeError> {
    PublicKey::from_djb_public_key_bytes(their)
        .and_then(|their| own.calculate_agreement(&their))
        .map_err(|_| CodeError::Malformed)
}

fn parts(content: &[u8]) -> Option<[[u8; 32]; 3]> {
    let [a, b, c] = [content.get(..32)?, content.get(32..64)?, content.get(64..)?];
    Some([a.try_into().ok()?, b.try_into().ok()?, c.try_into().ok()?])
}
