use wacore::adv::{AdvValidation, decode_key_index_list, validate_adv_with_identity_key};
use wacore::libsignal::protocol::PublicKey;
use wacore::pair::PairUtils;
use waproto::buffa::Message as _;

use super::world::{Companion, World};
use crate::phone::{LinkError, NewPhone, Phone, ScanError};

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

#[test]
fn both_qr_forms_link_and_the_library_accepts_the_signatures() {
    for prefix in ["", "https://wa.me/settings/linked_devices#"] {
        let mut phone = phone();
        let companion = Companion::new(2);
        let qr = format!("{prefix}{}", companion.qr());
        let scan = phone.scan_qr(&qr, 5, 1_700_000_000).expect("scan");
        assert_eq!(scan.reference, "the-ref");
        assert_eq!(scan.key_index, 1);
        assert_eq!(
            scan.noise_pub,
            companion.state.noise_key.public_key.public_key_bytes()
        );
        assert!(phone.companions().is_empty(), "pending until confirmed");
        let (signed, key_index) =
            PairUtils::do_pair_crypto(&companion.state, &scan.device_identity).expect("library");
        assert_eq!(key_index, 1);
        phone.confirm_link(5, &signed).expect("confirmed");
        phone.confirm_link(5, &signed).expect("repeatable");
        assert_eq!(phone.companions()[0].device, 5);
        assert_eq!(
            validate_adv_with_identity_key(&signed, &scan.identity_pub, Some(&phone.identity())),
            AdvValidation::Valid
        );
        // Without the account key in the blob, as Baileys answers.
        let mut stripped = waproto::codec::adv_signed_device_identity_decode(&signed).expect("own");
        stripped.account_signature_key = None;
        phone
            .confirm_link(5, &stripped.encode_to_vec())
            .expect("stripped");
    }
}

#[test]
fn an_answer_with_another_secret_or_a_forged_signature_is_refused() {
    let mut phone = phone();
    let companion = Companion::new(3);
    let scan = phone.scan_qr(&companion.qr(), 1, 1).expect("scan");
    let mut other = Companion::new(3);
    other.state.adv_secret_key = [8; 32];
    assert!(PairUtils::do_pair_crypto(&other.state, &scan.device_identity).is_err());

    let (signed, _) =
        PairUtils::do_pair_crypto(&companion.state, &scan.device_identity).expect("library");
    let alter = |change: &dyn Fn(&mut waproto::whatsapp::ADVSignedDeviceIdentity)| {
        let mut identity = waproto::codec::adv_signed_device_identity_decode(&signed).expect("own");
        change(&mut identity);
        identity.encode_to_vec()
    };
    let cases = [
        (
            alter(&|identity| identity.device_signature = Some(vec![1; 64])),
            LinkError::DeviceSignature,
        ),
        (
            alter(&|identity| identity.device_signature = None),
            LinkError::Malformed("deviceSignature"),
        ),
        (
            alter(&|identity| identity.details.as_mut().expect("details")[1] ^= 1),
            LinkError::Altered("details"),
        ),
        (
            alter(&|identity| identity.account_signature = Some(vec![0; 64])),
            LinkError::Altered("accountSignature"),
        ),
        (
            alter(&|identity| identity.account_signature_key = Some(vec![3; 32])),
            LinkError::Altered("accountSignatureKey"),
        ),
    ];
    for (answer, error) in cases {
        assert_eq!(phone.confirm_link(1, &answer), Err(error));
    }
    assert_eq!(
        phone.confirm_link(2, &signed),
        Err(LinkError::NotPending(2))
    );
    assert!(phone.companions().is_empty());
    phone.confirm_link(1, &signed).expect("the true answer");
}

#[test]
fn bad_qrs_name_the_field() {
    let mut phone = phone();
    let good = Companion::new(4).qr();
    let fields: Vec<&str> = good.split(',').collect();
    let with = |index: usize, text: &str| {
        let mut fields = fields.clone();
        fields[index] = text;
        fields.join(",")
    };
    let cases = [
        ("hello".to_owned(), ScanError::NotALinkingQr { found: 1 }),
        (fields[..4].join(","), ScanError::NotALinkingQr { found: 4 }),
        (with(0, ""), ScanError::EmptyField { field: "ref" }),
        (with(1, "%%%"), ScanError::NotBase64 { field: "noise" }),
        (
            with(2, "AAAA"),
            ScanError::WrongLength {
                field: "identity",
                got: 3,
            },
        ),
        (with(3, ""), ScanError::EmptyField { field: "adv" }),
    ];
    for (qr, error) in cases {
        assert_eq!(phone.scan_qr(&qr, 1, 1), Err(error), "{qr}");
    }
    assert_eq!(phone.scan_qr(&good, 0, 1), Err(ScanError::ReservedDevice));
    assert!(phone.key_index_list(1).is_none(), "nothing was signed");
}

#[test]
fn the_key_index_list_follows_links_and_unlinks_and_is_signed() {
    let mut world = World::new(1, 5);
    world.link(0, 1, 10);
    world.link(0, 2, 11);
    let (phone, _) = world.phone_mut(0);
    let qr = Companion::new(12).qr();
    assert_eq!(phone.scan_qr(&qr, 2, 1), Err(ScanError::DeviceInUse(2)));
    phone.unlink(1);
    let list = phone.key_index_list(99).expect("list");
    assert_eq!(phone.key_index_list(99), Some(list.clone()), "stable");
    let decoded = decode_key_index_list(&list).expect("decoded");
    assert_eq!((decoded.current_index, decoded.timestamp), (2, 99));
    assert_eq!(decoded.valid_indexes, [0, 2]);
    let signed = waproto::codec::adv_signed_key_index_list_decode(&list).expect("signed");
    let account = PublicKey::from_djb_public_key_bytes(&phone.identity()).expect("key");
    let details = signed.details.expect("details");
    assert!(account.verify_signature(
        &[&[6, 2], details.as_slice()].concat(),
        &signed.account_signature.expect("signature")
    ));
    // A number can be used again, under a new key index.
    let scan = phone.scan_qr(&qr, 1, 1).expect("scan");
    assert_eq!(scan.key_index, 3);
}
