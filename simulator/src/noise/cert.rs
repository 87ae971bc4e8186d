//! The simulator's own root of trust and the certificate chain signed under it.

use rand_chacha::ChaCha20Rng;
use wacore::libsignal::protocol::{CurveError, KeyPair};
use waproto::buffa::{Message as _, MessageField};
use waproto::whatsapp::CertChain;
use waproto::whatsapp::cert_chain::{NoiseCertificate, noise_certificate::Details};

use crate::seed::Seed;

const DAY: u64 = 24 * 60 * 60;
/// Validity before and after the moment the simulator starts, in seconds.
const VALID_BEFORE: u64 = 2 * DAY;
const VALID_AFTER: u64 = 365 * DAY;
/// WhatsApp's root has serial 0; verifiers insist on it as the intermediate's issuer.
const ROOT_SERIAL: u32 = 0;
const INTERMEDIATE_SERIAL: u32 = 1;
const LEAF_SERIAL: u32 = 2;

/// Long-lived keys of the simulated server: the root clients are told to trust, and the Noise
/// static key that the chain vouches for.
pub(crate) struct ServerIdentity {
    root_public: [u8; 32],
    static_key: KeyPair,
    chain: Vec<u8>,
}

impl ServerIdentity {
    /// Derives all keys from `seed`; `now` (Unix seconds) only sets the validity window.
    pub(crate) fn derive(seed: Seed, now: u64) -> Result<Self, CurveError> {
        let mut rng = seed.stream("server-identity");
        let root = KeyPair::generate(&mut rng);
        let intermediate = KeyPair::generate(&mut rng);
        let static_key = KeyPair::generate(&mut rng);
        let window = (now.saturating_sub(VALID_BEFORE), now + VALID_AFTER);
        let chain = CertChain {
            intermediate: MessageField::some(certify(
                &root,
                ROOT_SERIAL,
                &intermediate,
                INTERMEDIATE_SERIAL,
                window,
                &mut rng,
            )?),
            leaf: MessageField::some(certify(
                &intermediate,
                INTERMEDIATE_SERIAL,
                &static_key,
                LEAF_SERIAL,
                window,
                &mut rng,
            )?),
        };
        Ok(Self {
            root_public: public_bytes(&root),
            static_key,
            chain: chain.encode_to_vec(),
        })
    }

    /// The key a verifier must be given in place of WhatsApp's root.
    pub(crate) fn root_public(&self) -> [u8; 32] {
        self.root_public
    }

    /// The encoded `CertChain` that is sent, encrypted, in every `ServerHello`.
    pub(crate) fn chain(&self) -> &[u8] {
        &self.chain
    }

    pub(super) fn static_private(&self) -> &[u8; 32] {
        self.static_key.private_key.serialize()
    }

    /// The Noise static key, equal to the leaf certificate's key.
    pub(crate) fn static_public(&self) -> [u8; 32] {
        public_bytes(&self.static_key)
    }
}

fn certify(
    issuer: &KeyPair,
    issuer_serial: u32,
    subject: &KeyPair,
    serial: u32,
    (not_before, not_after): (u64, u64),
    rng: &mut ChaCha20Rng,
) -> Result<NoiseCertificate, CurveError> {
    let details = Details {
        serial: Some(serial),
        issuer_serial: Some(issuer_serial),
        key: Some(public_bytes(subject).to_vec()),
        not_before: Some(not_before),
        not_after: Some(not_after),
    }
    .encode_to_vec();
    let signature = issuer.private_key.calculate_signature(&details, rng)?;
    Ok(NoiseCertificate {
        details: Some(details),
        signature: Some(signature.to_vec()),
    })
}

/// The 32 bytes of a public key, without libsignal's type prefix.
pub(crate) fn public_bytes(pair: &KeyPair) -> [u8; 32] {
    let mut bytes = [0u8; 32];
    bytes.copy_from_slice(pair.public_key.public_key_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use wacore::handshake::HandshakeUtils;
    use wacore::libsignal::protocol::PublicKey;

    const NOW: u64 = 1_795_000_000;

    #[test]
    fn every_step_of_the_chain_is_signed_by_its_issuer() {
        let identity = ServerIdentity::derive(Seed::new(1), NOW).unwrap();
        let chain = CertChain::decode_from_slice(identity.chain()).unwrap();
        let intermediate = chain.intermediate.into_option().unwrap();
        let leaf = chain.leaf.into_option().unwrap();
        let root = PublicKey::from_djb_public_key_bytes(&identity.root_public()).unwrap();
        let intermediate_details = intermediate.details.unwrap();
        assert!(root.verify_signature(&intermediate_details, &intermediate.signature.unwrap()));
        let intermediate_key = Details::decode_from_slice(&intermediate_details)
            .unwrap()
            .key
            .unwrap();
        let issuer = PublicKey::from_djb_public_key_bytes(&intermediate_key).unwrap();
        let leaf_details = leaf.details.unwrap();
        let leaf_signature = leaf.signature.unwrap();
        assert!(issuer.verify_signature(&leaf_details, &leaf_signature));
        assert!(!root.verify_signature(&leaf_details, &leaf_signature));
    }

    #[test]
    fn the_library_accepts_serials_keys_and_validity() {
        let identity = ServerIdentity::derive(Seed::new(1), NOW).unwrap();
        let verified =
            HandshakeUtils::verify_server_cert(identity.chain(), &identity.static_public());
        // Without the library's chain-skip feature it insists on WhatsApp's own root,
        // which is the proof that a normal build refuses this chain.
        if let Ok(chain) = verified {
            assert_eq!(chain.leaf_key, identity.static_public());
            assert!(chain.leaf_not_before < i64::try_from(NOW).unwrap());
            assert!(chain.leaf_not_after > i64::try_from(NOW).unwrap());
        } else {
            let error = verified.unwrap_err().to_string();
            assert!(error.contains("intermediate signature"), "{error}");
        }
    }

    #[test]
    fn keys_come_from_the_seed() {
        let derive = |seed| ServerIdentity::derive(Seed::new(seed), NOW).unwrap();
        assert_eq!(derive(5).root_public(), derive(5).root_public());
        assert_eq!(derive(5).chain(), derive(5).chain());
        assert_ne!(derive(5).static_public(), derive(6).static_public());
    }
}
