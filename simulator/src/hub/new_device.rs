//! What an unlinked client registers with, checked before it is shown any reference.

use waproto::whatsapp::client_payload::DevicePairingRegistrationData;

use crate::directory::KeyPool;
use crate::phone::SignedPreKeyPart;
use crate::wire;

/// `DevicePairingRegistrationData`, checked.
pub(super) struct NewDevice {
    pub(super) noise_public: [u8; 32],
    registration_id: u32,
    pub(super) identity: [u8; 32],
    signed: SignedPreKeyPart,
}

impl NewDevice {
    pub(super) fn parse(
        data: &DevicePairingRegistrationData,
        noise_public: [u8; 32],
    ) -> Result<Self, String> {
        let number = |bytes: &Option<Vec<u8>>, name: &str| {
            wire::big_endian(bytes.as_deref().unwrap_or_default())
                .ok_or_else(|| format!("{name} is not a number of 1 to 4 bytes"))
        };
        if data.e_keytype.as_deref() != Some(&[5]) {
            return Err("eKeytype is not 5".to_owned());
        }
        if data.build_hash.as_ref().map(Vec::len) != Some(16) {
            return Err("buildHash is not 16 bytes".to_owned());
        }
        let applicant = Self {
            noise_public,
            registration_id: number(&data.e_regid, "eRegid")?,
            identity: array(data.e_ident.as_deref(), "eIdent")?,
            signed: SignedPreKeyPart {
                id: number(&data.e_skey_id, "eSkeyId")?,
                public: array(data.e_skey_val.as_deref(), "eSkeyVal")?,
                signature: array(data.e_skey_sig.as_deref(), "eSkeySig")?,
            },
        };
        applicant.pool()?;
        Ok(applicant)
    }

    pub(super) fn pool(&self) -> Result<KeyPool, String> {
        KeyPool::new(self.registration_id, self.identity, self.signed.clone())
            .map_err(|e| e.to_string())
    }
}

fn array<const N: usize>(bytes: Option<&[u8]>, name: &str) -> Result<[u8; N], String> {
    bytes
        .and_then(|b| b.try_into().ok())
        .ok_or_else(|| format!("{name} is not {N} bytes"))
}
