use rand::SeedableRng as _;
use rand_chacha::ChaCha20Rng;
use wacore::libsignal::protocol::KeyPair;
use wacore::pair::PairUtils;
use wacore::pair_code::PairCodeUtils;

use super::world::Companion;
use crate::phone::stores::raw_public;
use crate::phone::{CodeError, KeyBundle, NewPhone, Phone, PrimaryHello};

const CODE: &str = "ABCD1234";

fn phone() -> Phone {
    Phone::new(
        NewPhone {
            pn: "491511234567".to_owned(),
            lid: "200000000000001".to_owned(),
            name: "Ada".to_owned(),
        },
        1,
    )
}

/// The library's half: the ephemeral key behind a shown code, and what it says to a phone's hello.
struct Shown {
    ephemeral: KeyPair,
    identity: KeyPair,
}

impl Shown {
    fn new(companion: &Companion) -> Self {
        Self {
            ephemeral: KeyPair::generate(&mut ChaCha20Rng::seed_from_u64(7)),
            identity: companion.state.identity_key.clone(),
        }
    }

    fn wrapped(&self) -> [u8; 80] {
        PairCodeUtils::encrypt_ephemeral_pub(&raw_public(&self.ephemeral), CODE)
    }

    /// The sealed bundle and the ADV secret.
    fn finish(&self, hello: &PrimaryHello) -> (Vec<u8>, [u8; 32]) {
        let primary =
            PairCodeUtils::decrypt_primary_ephemeral_pub(&hello.wrapped_ephemeral, CODE).unwrap();
        PairCodeUtils::prepare_key_bundle(
            &self.ephemeral,
            &primary,
            &hello.identity,
            &self.identity,
        )
        .unwrap()
    }
}

#[test]
fn the_right_code_links_and_the_library_accepts_the_signatures() {
    let mut phone = phone();
    let mut companion = Companion::new(2);
    let shown = Shown::new(&companion);
    let hello = phone.type_code().enter(CODE, &shown.wrapped());
    let (wrapped, adv_secret) = shown.finish(&hello);
    let identity = raw_public(&shown.identity);
    let bundle = KeyBundle {
        wrapped: &wrapped,
        companion_identity: &identity,
    };
    let link = phone.finish_code(&hello, &bundle, 3, 1).unwrap();
    companion.state.adv_secret_key = adv_secret;
    let (signed, key_index) =
        PairUtils::do_pair_crypto(&companion.state, &link.device_identity).unwrap();
    assert_eq!(key_index, link.key_index);
    assert!(phone.companions().is_empty(), "pending until confirmed");
    phone.confirm_link(3, &signed).unwrap();
    assert_eq!(phone.companions()[0].device, 3);
}

#[test]
fn a_wrong_code_and_a_swapped_identity_link_nothing() {
    let mut phone = phone();
    let shown = Shown::new(&Companion::new(2));
    let identity = raw_public(&shown.identity);

    let hello = phone.type_code().enter("ABCD1235", &shown.wrapped());
    let (wrapped, _) = shown.finish(&hello);
    let bundle = KeyBundle {
        wrapped: &wrapped,
        companion_identity: &identity,
    };
    let linked = phone.finish_code(&hello, &bundle, 3, 1);
    assert_eq!(linked, Err(CodeError::WrongCode));

    let hello = phone.type_code().enter(CODE, &shown.wrapped());
    let (wrapped, _) = shown.finish(&hello);
    let foreign = KeyBundle {
        wrapped: &wrapped,
        companion_identity: &[9; 32],
    };
    let linked = phone.finish_code(&hello, &foreign, 3, 1);
    assert_eq!(linked, Err(CodeError::Altered("companion identity")));
    let short = KeyBundle {
        wrapped: &wrapped[..44],
        companion_identity: &identity,
    };
    let linked = phone.finish_code(&hello, &short, 3, 1);
    assert_eq!(linked, Err(CodeError::Malformed));
    assert!(phone.companions().is_empty());
    assert!(phone.key_index_list(1).is_none(), "nothing was signed");
}
