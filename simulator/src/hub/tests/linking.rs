//! Linking by QR, with the library's own pairing code on the client's side.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use wacore::pair::{DeviceState, PairUtils};
use waproto::buffa::MessageField;
use waproto::whatsapp::client_payload::DevicePairingRegistrationData;

use super::*;

/// A client that asks for pairing, with the keys behind it.
pub(super) struct Applicant {
    pub(super) connection: ConnectionId,
    pub(super) rx: UnboundedReceiver<Outgoing>,
    pub(super) identity: KeyPair,
    pub(super) noise: [u8; 32],
    references: Vec<String>,
}

const ADV_SECRET: [u8; 32] = [7; 32];

pub(super) fn apply(
    hub: &mut Hub,
    spoil: impl FnOnce(&mut DevicePairingRegistrationData),
) -> Applicant {
    let (connection, rx) = hub.open();
    let mut rng = Seed::new(77).stream(&format!("{connection:?}"));
    let identity = KeyPair::generate(&mut rng);
    let signed = KeyPair::generate(&mut rng);
    let noise = public_bytes(&KeyPair::generate(&mut rng));
    let signature = identity
        .private_key
        .calculate_signature(&signed.public_key.serialize(), &mut rng)
        .unwrap();
    let mut data = DevicePairingRegistrationData {
        e_regid: Some(vec![0, 0, 0, 9]),
        e_keytype: Some(vec![5]),
        e_ident: Some(public_bytes(&identity).to_vec()),
        e_skey_id: Some(vec![0, 0, 1]),
        e_skey_val: Some(public_bytes(&signed).to_vec()),
        e_skey_sig: Some(signature.to_vec()),
        build_hash: Some(vec![0; 16]),
        device_props: Some(Vec::new()),
    };
    spoil(&mut data);
    let payload = ClientPayload {
        passive: Some(false),
        device_pairing_data: MessageField::some(data),
        ..Default::default()
    };
    hub.arrive(&Arrival {
        connection,
        client_static: noise,
        payload: &payload.encode_to_vec(),
    });
    let mut applicant = Applicant {
        connection,
        rx,
        identity,
        noise,
        references: Vec::new(),
    };
    if let Some(Outgoing::Stanza { node, .. }) = applicant.rx.try_recv().ok()
        && let Some(offer) = node.get_optional_child("pair-device")
    {
        applicant.references = offer
            .get_children_by_tag("ref")
            .map(|r| String::from_utf8(wire::bytes(r).to_vec()).unwrap())
            .collect();
    }
    applicant
}

impl Applicant {
    fn qr(&self, reference: usize) -> String {
        let encode = |bytes: &[u8]| BASE64_STANDARD.encode(bytes);
        format!(
            "https://wa.me/settings/linked_devices#{},{},{},{},1",
            self.references[reference],
            encode(&self.noise),
            encode(&public_bytes(&self.identity)),
            encode(&ADV_SECRET),
        )
    }

    /// Answers `<pair-success>` through the library's own pairing code.
    fn answer(&mut self, hub: &mut Hub, spoil: impl FnOnce(&mut Vec<u8>)) {
        let Some(Outgoing::Stanza { node, .. }) = self.rx.try_recv().ok() else {
            panic!("no pair-success");
        };
        let container = node
            .get_optional_child_by_tag(&["pair-success", "device-identity"])
            .unwrap();
        let state = DeviceState {
            identity_key: self.identity.clone(),
            noise_key: self.identity.clone(),
            adv_secret_key: ADV_SECRET,
        };
        let (mut signed, index) =
            PairUtils::do_pair_crypto(&state, wire::bytes(container)).unwrap();
        spoil(&mut signed);
        let id = wire::attr(&node, "id").unwrap().into_owned();
        let answer = PairUtils::build_pair_success_response(&id, signed, index);
        hub.on_wire(self.connection, &answer);
    }

    fn last_code(&mut self) -> Option<String> {
        let mut code = None;
        while let Ok(order) = self.rx.try_recv() {
            if let Outgoing::Stanza { node, .. } = order {
                code = wire::attr(&node, "code").map(std::borrow::Cow::into_owned);
            }
        }
        code
    }
}

#[test]
fn linking_registers_the_device_and_ends_in_515() {
    let (mut hub, _) = hub();
    let account = person(&mut hub, "15550100001");
    let mut applicant = apply(&mut hub, |_| {});
    assert_eq!(applicant.references.len(), 6);
    let number = hub.scan(account, &applicant.qr(0)).unwrap();
    assert_eq!(hub.directory.account(account).companions(), 0);
    applicant.answer(&mut hub, |_| {});
    assert_eq!(hub.directory.account(account).companions(), 1);
    assert_eq!(applicant.last_code().as_deref(), Some("515"));
    let key = DeviceKey {
        account,
        device: number,
    };
    assert!(hub.directory.by_noise_key(&applicant.noise).is_some());
    assert!(hub.directory.account(account).key_index_list.is_some());
    // A reference works once.
    let again = hub.scan(account, &applicant.qr(1));
    assert!(matches!(again, Err(ScanFailure::UnknownReference)));
    hub.unlink(key).unwrap();
    assert!(hub.directory.by_noise_key(&applicant.noise).is_none());
}

#[test]
fn a_forged_device_signature_links_nothing() {
    let (mut hub, _) = hub();
    let account = person(&mut hub, "15550100001");
    let mut applicant = apply(&mut hub, |_| {});
    hub.scan(account, &applicant.qr(0)).unwrap();
    applicant.answer(&mut hub, |signed| {
        let last = signed.len() - 1;
        signed[last] ^= 1;
    });
    assert_eq!(hub.directory.account(account).companions(), 0);
    assert_eq!(applicant.last_code().as_deref(), Some("401"));
    let refused = hub.ledger().facts().last();
    assert!(
        matches!(refused, Some(Fact::PairingRefused { .. })),
        "{refused:?}"
    );
}

#[test]
fn a_client_that_leaves_before_confirming_was_never_linked() {
    let (mut hub, _) = hub();
    let account = person(&mut hub, "15550100001");
    let applicant = apply(&mut hub, |_| {});
    hub.scan(account, &applicant.qr(0)).unwrap();
    hub.closed(applicant.connection);
    assert_eq!(hub.directory.account(account).companions(), 0);
    assert!(hub.phone(account).companions().is_empty());
    assert_eq!(hub.census().open, 0);
}

#[test]
fn references_expire_after_60_then_20_seconds_each() {
    let (mut hub, clock) = hub();
    let account = person(&mut hub, "15550100001");
    let applicant = apply(&mut hub, |_| {});
    clock.advance(60_000);
    let scan = hub.scan(account, &applicant.qr(0));
    assert!(matches!(scan, Err(ScanFailure::ExpiredReference)));
    clock.advance(99_000);
    assert!(hub.scan(account, &applicant.qr(5)).is_ok());
}

#[test]
fn a_qr_with_foreign_keys_and_a_fifth_device_are_refused() {
    let (mut hub, _) = hub();
    let account = person(&mut hub, "15550100001");
    let first = apply(&mut hub, |_| {});
    let mut second = apply(&mut hub, |_| {});
    second.references.clone_from(&first.references);
    let scan = hub.scan(account, &second.qr(0));
    assert!(matches!(scan, Err(ScanFailure::ForeignKeys)));
    for _ in 0..4 {
        link(&mut hub, account);
    }
    let scan = hub.scan(account, &first.qr(1));
    assert!(matches!(scan, Err(ScanFailure::TooManyDevices(4))));
}

#[test]
fn a_bad_registration_is_refused_before_any_reference() {
    let (mut hub, _) = hub();
    for spoil in [
        (|data| data.e_skey_sig = Some(vec![0; 64])) as fn(&mut DevicePairingRegistrationData),
        |data| data.e_ident = Some(vec![1; 31]),
        |data| data.e_keytype = None,
        |data| data.build_hash = None,
    ] {
        let applicant = apply(&mut hub, spoil);
        assert!(applicant.references.is_empty());
    }
    let refusals = hub
        .ledger()
        .facts()
        .filter(|fact| matches!(fact, Fact::LoginRefused { reason: 400, .. }));
    assert_eq!(refusals.count(), 4);
}
