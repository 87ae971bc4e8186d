//! Linking a companion: the phone's half of ADV (Advanced Device Verification).
//!
//! The phone signs the companion's identity key with the account key (`06 00`), wraps the result in
//! an HMAC under the secret that the QR (or the exchange in `link_code`) gave both, and later checks
//! the companion's own signature (`06 01`). The same account key signs the list of valid key indexes (`06 02`).
//! Prefixes and layouts as verified by clients (`wacore::pair`, `wacore::adv`).

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use rand_chacha::ChaCha20Rng;
use sha2::Sha256;
use wacore::libsignal::protocol::{KeyPair, PublicKey};
use waproto::buffa::Message as _;
use waproto::whatsapp as wa;

const PREFIX_ACCOUNT: [u8; 2] = [6, 0];
const PREFIX_DEVICE: [u8; 2] = [6, 1];
const PREFIX_KEY_INDEX_LIST: [u8; 2] = [6, 2];
const DEEP_LINK: &str = "https://wa.me/settings/linked_devices#";

/// What the phone sends to the server after scanning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// The server's pairing reference from the QR: it finds the waiting connection.
    pub reference: String,
    /// Encoded `ADVSignedDeviceIdentityHMAC` for `<pair-success><device-identity>`.
    pub device_identity: Vec<u8>,
    /// The companion's key index.
    pub key_index: u32,
    /// The companion's Noise public key from the QR.
    pub noise_pub: [u8; 32],
    /// The companion's identity public key from the QR.
    pub identity_pub: [u8; 32],
    /// The QR's last field: which client shows it.
    pub client_type: String,
}

/// A companion that the phone signed into the account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedLink {
    /// Encoded `ADVSignedDeviceIdentityHMAC` for `<pair-success><device-identity>`.
    pub device_identity: Vec<u8>,
    /// The companion's key index.
    pub key_index: u32,
}

/// Why a QR was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// Not five comma-separated fields after the optional deep-link prefix.
    #[error("not a linking QR: expected 5 comma-separated fields, found {found}")]
    NotALinkingQr {
        /// How many fields there are.
        found: usize,
    },
    /// A field is empty.
    #[error("QR field `{field}` is empty")]
    EmptyField {
        /// Its name.
        field: &'static str,
    },
    /// A key field is not base64.
    #[error("QR field `{field}` is not base64")]
    NotBase64 {
        /// Its name.
        field: &'static str,
    },
    /// A key field has the wrong size.
    #[error("QR field `{field}` has {got} bytes, expected 32")]
    WrongLength {
        /// Its name.
        field: &'static str,
        /// Its size in bytes.
        got: usize,
    },
    /// Device 0 is the phone; companions are numbered from 1.
    #[error("device number 0 is the phone itself")]
    ReservedDevice,
    /// The number belongs to a linked companion.
    #[error("device number {0} is already linked")]
    DeviceInUse(u16),
    /// The account key could not sign.
    #[error("signing failed")]
    Signing,
}

/// Why a companion's answer was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// No scan waits for this device.
    #[error("no scan waits for device {0}")]
    NotPending(u16),
    /// Not an `ADVSignedDeviceIdentity`, or a part is missing.
    #[error("signed device identity lacks {0}")]
    Malformed(&'static str),
    /// The details, account signature or account key differ from what the phone signed.
    #[error("signed device identity has another {0} than the phone issued")]
    Altered(&'static str),
    /// The device signature does not verify.
    #[error("device signature does not verify under the companion's identity key")]
    DeviceSignature,
}

/// The readable content of a linking QR.
pub(super) struct Qr {
    pub(super) reference: String,
    pub(super) noise: [u8; 32],
    pub(super) identity: [u8; 32],
    pub(super) adv_secret: [u8; 32],
    pub(super) client_type: String,
}

impl Qr {
    /// Reads the deep-link form or the bare comma form.
    pub(super) fn parse(text: &str) -> Result<Self, ScanError> {
        let body = text.trim();
        let body = body.strip_prefix(DEEP_LINK).unwrap_or(body);
        let fields: Vec<&str> = body.split(',').collect();
        let [reference, noise, identity, adv, client_type] = fields.as_slice() else {
            return Err(ScanError::NotALinkingQr {
                found: fields.len(),
            });
        };
        Ok(Self {
            reference: text_field("ref", reference)?,
            noise: key_field("noise", noise)?,
            identity: key_field("identity", identity)?,
            adv_secret: key_field("adv", adv)?,
            client_type: text_field("client type", client_type)?,
        })
    }
}

fn text_field(field: &'static str, text: &str) -> Result<String, ScanError> {
    if text.is_empty() {
        return Err(ScanError::EmptyField { field });
    }
    Ok(text.to_owned())
}

fn key_field(field: &'static str, text: &str) -> Result<[u8; 32], ScanError> {
    let bytes = BASE64_STANDARD
        .decode(text_field(field, text)?)
        .map_err(|_| ScanError::NotBase64 { field })?;
    let got = bytes.len();
    bytes
        .try_into()
        .map_err(|_| ScanError::WrongLength { field, got })
}

/// A companion of the account, from the scan on.
pub(super) struct Companion {
    pub(super) key_index: u32,
    pub(super) identity: [u8; 32],
    /// The `ADVDeviceIdentity` the account signed.
    details: Vec<u8>,
    account_signature: [u8; 64],
    /// Set once the companion's own signature has been checked.
    pub(super) confirmed: bool,
}

impl Companion {
    /// Signs the companion with this identity key into the account; returns it with the encoded
    /// HMAC container under the secret it shares with the phone.
    pub(super) fn sign(
        identity: &[u8; 32],
        adv_secret: &[u8; 32],
        account: &KeyPair,
        raw_id: u32,
        key_index: u32,
        now: u64,
        rng: &mut ChaCha20Rng,
    ) -> Result<(Self, Vec<u8>), ScanError> {
        let details = wa::ADVDeviceIdentity {
            raw_id: Some(raw_id),
            timestamp: Some(now),
            key_index: Some(key_index),
            account_type: Some(wa::ADVEncryptionType::E2EE),
            device_type: Some(wa::ADVEncryptionType::E2EE),
        }
        .encode_to_vec();
        let account_signature = account
            .private_key
            .calculate_signature_for_multipart_message(&[&PREFIX_ACCOUNT, &details, identity], rng)
            .map_err(|_| ScanError::Signing)?;
        let signed = wa::ADVSignedDeviceIdentity {
            details: Some(details.clone()),
            account_signature_key: Some(account.public_key.public_key_bytes().to_vec()),
            account_signature: Some(account_signature.to_vec()),
            device_signature: None,
        }
        .encode_to_vec();
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(adv_secret)
            .map_err(|_| ScanError::Signing)?;
        mac.update(&signed);
        let container = wa::ADVSignedDeviceIdentityHMAC {
            hmac: Some(mac.finalize().into_bytes().to_vec()),
            details: Some(signed),
            account_type: Some(wa::ADVEncryptionType::E2EE),
        }
        .encode_to_vec();
        let companion = Self {
            key_index,
            identity: *identity,
            details,
            account_signature,
            confirmed: false,
        };
        Ok((companion, container))
    }

    /// Checks what `pair-device-sign` brought: nothing the phone signed has changed, and the
    /// companion's identity key signed `06 01 ‖ details ‖ identity ‖ account key`. The account key
    /// may be left out (Baileys strips it), but not be another one.
    pub(super) fn check(&self, signed: &[u8], account: &PublicKey) -> Result<(), LinkError> {
        let signed = waproto::codec::adv_signed_device_identity_decode(signed)
            .map_err(|_| LinkError::Malformed("a valid encoding"))?;
        let present = |field: Option<Vec<u8>>, name| field.ok_or(LinkError::Malformed(name));
        if present(signed.details, "details")? != self.details {
            return Err(LinkError::Altered("details"));
        }
        if present(signed.account_signature, "accountSignature")? != self.account_signature {
            return Err(LinkError::Altered("accountSignature"));
        }
        match signed.account_signature_key.as_deref() {
            None | Some([]) => {}
            Some(key) if key == account.public_key_bytes() => {}
            Some(_) => return Err(LinkError::Altered("accountSignatureKey")),
        }
        let signature = present(signed.device_signature, "deviceSignature")?;
        let identity = PublicKey::from_djb_public_key_bytes(&self.identity)
            .map_err(|_| LinkError::DeviceSignature)?;
        let holds = identity.verify_signature_for_multipart_message(
            &[
                &PREFIX_DEVICE,
                &self.details,
                &self.identity,
                account.public_key_bytes(),
            ],
            &signature,
        );
        if holds {
            Ok(())
        } else {
            Err(LinkError::DeviceSignature)
        }
    }
}

/// Encodes the signed list of key indexes that are still valid, for `usync`.
pub(super) fn signed_key_index_list(
    account: &KeyPair,
    raw_id: u32,
    current_index: u32,
    valid_indexes: Vec<u32>,
    now: u64,
    rng: &mut ChaCha20Rng,
) -> Option<Vec<u8>> {
    let details = wa::ADVKeyIndexList {
        raw_id: Some(raw_id),
        timestamp: Some(now),
        current_index: Some(current_index),
        valid_indexes,
        account_type: Some(wa::ADVEncryptionType::E2EE),
    }
    .encode_to_vec();
    let signature = account
        .private_key
        .calculate_signature_for_multipart_message(&[&PREFIX_KEY_INDEX_LIST, &details], rng)
        .ok()?;
    Some(
        wa::ADVSignedKeyIndexList {
            details: Some(details),
            account_signature: Some(signature.to_vec()),
            account_signature_key: Some(account.public_key.public_key_bytes().to_vec()),
        }
        .encode_to_vec(),
    )
}
