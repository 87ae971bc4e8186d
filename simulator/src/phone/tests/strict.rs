use wacore_binary::builder::NodeBuilder;

use super::world::{Delivery, World, alter_ciphertext};
use crate::phone::ViolationKind;
use crate::phone::content::text_message;
use crate::phone::net::Net as _;

fn kinds(world: &World, account: usize) -> Vec<ViolationKind> {
    let violations = world.phone(account).violations();
    violations
        .iter()
        .map(|violation| violation.kind.clone())
        .collect()
}

/// The delivery of the newest message to a place, taken off the wire.
fn take(world: &mut World, place: (usize, u16)) -> Delivery {
    let position = world
        .wire
        .iter()
        .rposition(|delivery| delivery.to == place && delivery.stanza.tag == "message")
        .expect("under way");
    world.wire.remove(position).expect("present")
}

#[test]
fn the_same_ciphertext_under_a_new_id_is_a_reused_counter() {
    let mut world = World::new(2, 20);
    world.text(0, &world.pn(1), "once");
    let mut replay = take(&mut world, (1, 0));
    world.deliver(&replay.clone());
    replay.stanza.attrs.insert("id", "ANOTHER");
    world.deliver(&replay);
    assert_eq!(
        kinds(&world, 1),
        [ViolationKind::CounterReused { counter: 0 }]
    );
    assert_eq!(world.phone(1).inbox().len(), 1);
}

#[test]
fn a_sender_that_goes_back_to_an_old_state_reuses_a_counter() {
    let mut world = World::new(2, 21);
    world.text(0, &world.pn(1), "start");
    world.settle();
    world.text(1, &world.pn(0), "answer");
    world.settle();
    let backup = world.phone_mut(0).0.signal.backup();
    world.text(0, &world.pn(1), "before the crash");
    world.settle();
    world.phone_mut(0).0.signal.restore(backup);
    world.text(0, &world.lid(1), "after the crash");
    world.settle();
    assert_eq!(
        kinds(&world, 1),
        [ViolationKind::CounterReused { counter: 0 }]
    );
    let texts: Vec<&str> = world
        .phone(1)
        .inbox()
        .iter()
        .map(|shown| shown.text.as_str())
        .collect();
    assert_eq!(texts, ["start", "before the crash"]);
    // The next counter is a fresh one again.
    world.text(0, &world.lid(1), "later");
    world.settle();
    assert_eq!(world.phone(1).inbox().len(), 3);
    assert_eq!(world.phone(1).violations().len(), 1);
}

#[test]
fn a_redelivery_and_a_second_sending_are_counted_apart_and_never_shown_again() {
    let mut world = World::new(2, 23);
    world.link(0, 1, 24);
    let to = world.pn(1);
    let message = text_message("hello", &[2; 32]);
    let copy = wacore::messages::wrap_device_sent(message.clone(), to.to_string());
    world.companion_message((0, 1), "SAME", &to, &message, &copy);
    let again = world.wire[0].clone();
    world.settle();
    world.deliver(&again);
    world.companion_message((0, 1), "SAME", &to, &message, &copy);
    world.settle();
    let shown = &world.phone(1).inbox()[0];
    assert_eq!(
        (shown.displays, shown.redeliveries, shown.duplicates),
        (1, 1, 1)
    );
    assert_eq!(world.phone(1).inbox().len(), 1);
    assert_eq!(world.phone(0).outbox()[0].duplicates, 1);
    world.no_violations();
    let other = text_message("something else", &[2; 32]);
    let copy = wacore::messages::wrap_device_sent(other.clone(), to.to_string());
    world.companion_message((0, 1), "SAME", &to, &other, &copy);
    world.settle();
    assert_eq!(kinds(&world, 1), [ViolationKind::IdReused]);
    assert_eq!(kinds(&world, 0), [ViolationKind::IdReused]);
}

#[test]
fn gaps_in_the_counter_are_accepted() {
    let mut world = World::new(2, 25);
    for n in 0..30 {
        world.text(0, &world.pn(1), &format!("{n}"));
        if n % 3 != 0 {
            take(&mut world, (1, 0));
        }
    }
    world.settle();
    assert_eq!(world.phone(1).inbox().len(), 10);
    world.no_violations();
}

#[test]
fn unknown_devices_are_refused() {
    let mut world = World::new(2, 26);
    world.link(0, 4, 27);
    let (to, message) = (world.pn(1), text_message("hi", &[0; 32]));
    let copy = wacore::messages::wrap_device_sent(message.clone(), to.to_string());
    world.companion_message((0, 4), "GONE", &to, &message, &copy);
    world.net.remove((0, 4));
    world.phone_mut(0).0.unlink(4);
    world.settle();
    assert_eq!(kinds(&world, 1), [ViolationKind::UnknownDevice]);
    assert_eq!(kinds(&world, 0), [ViolationKind::UnknownDevice]);
    assert!(world.phone(1).inbox().is_empty());
}

#[test]
fn a_companions_first_message_must_prove_its_device() {
    let mut world = World::new(2, 28);
    world.link(0, 1, 29);
    let (to, message) = (world.pn(1), text_message("hi", &[0; 32]));
    let copy = wacore::messages::wrap_device_sent(message.clone(), to.to_string());
    world.companion_message((0, 1), "A", &to, &message, &copy);
    let delivery = take(&mut world, (1, 0));
    let strip = |keep: Option<Vec<u8>>| {
        let mut delivery = delivery.clone();
        if let Some(wacore_binary::NodeContent::Nodes(children)) = &mut delivery.stanza.content {
            children.truncate(1);
            children
                .extend(keep.map(|bytes| NodeBuilder::new("device-identity").bytes(bytes).build()));
        }
        delivery
    };
    world.deliver(&strip(None));
    let mut forged = world.companion((0, 1)).0.signed_identity.clone();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    world.deliver(&strip(Some(forged)));
    assert_eq!(
        kinds(&world, 1),
        [
            ViolationKind::MissingDeviceIdentity,
            ViolationKind::WrongAdv {
                detail: "signatures do not hold".to_owned()
            }
        ]
    );
    world.deliver(&delivery);
    assert_eq!(world.phone(1).inbox().len(), 1);
}

#[test]
fn identities_and_bundles_are_checked_against_the_directory() {
    let mut world = World::new(3, 30);
    world.text(0, &world.pn(1), "hi");
    let delivery = take(&mut world, (1, 0));
    let sender = world.pn(0);
    world.net.tamper(&sender, |keys| keys.identity = [9; 32]);
    world.deliver(&delivery);
    assert_eq!(kinds(&world, 1), [ViolationKind::WrongIdentity]);

    let victim = world.pn(2);
    world
        .net
        .tamper(&victim, |keys| keys.signed.signature[0] ^= 1);
    let (phone, net) = world.phone_mut(1);
    assert!(phone.send_text(&victim, "x", net).is_err());
    assert_eq!(kinds(&world, 1)[1], ViolationKind::BadSignature);
}

#[test]
fn bad_envelopes_are_refused() {
    let mut world = World::new(2, 31);
    world.text(0, &world.pn(1), "hi");
    let good = take(&mut world, (1, 0));
    let enc_with = |version: &str, kind: &str, bytes: Vec<u8>| {
        let mut delivery = good.clone();
        delivery.stanza.content = Some(wacore_binary::NodeContent::Nodes(vec![
            NodeBuilder::new("enc")
                .attr("v", version)
                .attr("type", kind)
                .bytes(bytes)
                .build(),
        ]));
        delivery
    };
    world.deliver(&enc_with("1", "msg", vec![1]));
    world.deliver(&enc_with("2", "weird", vec![1]));
    world.deliver(&enc_with("2", "msg", vec![1, 2, 3]));
    let mut empty = good.clone();
    empty.stanza.content = None;
    world.deliver(&empty);
    let mut nameless = good.clone();
    nameless.stanza.attrs.0.retain(|(name, _)| name != "id");
    world.deliver(&nameless);
    let bad = |detail: &str| ViolationKind::BadEnc {
        detail: detail.to_owned(),
    };
    let stanza = |detail: &str| ViolationKind::BadStanza {
        detail: detail.to_owned(),
    };
    assert_eq!(
        kinds(&world, 1),
        [
            bad("version 1"),
            bad("type weird"),
            ViolationKind::BadCiphertext,
            stanza("message without enc"),
            stanza("message without id"),
        ]
    );
    world.deliver(&good);
    assert_eq!(world.phone(1).inbox().len(), 1);
}

#[test]
fn padding_must_be_official() {
    use crate::phone::content::decode_padded;
    let good = [0x0a, 1, b'x', 2, 2];
    assert_eq!(
        decode_padded(&good).expect("good").conversation.as_deref(),
        Some("x")
    );
    for bad in [&[][..], &[0], &[0x0a, 1, b'x', 1, 2], &[3, 3], &[17; 17]] {
        assert_eq!(
            decode_padded(bad).err(),
            Some(ViolationKind::BadPadding),
            "{bad:?}"
        );
    }
    assert_eq!(
        decode_padded(&[0x0a, 9, 1]).err(),
        Some(ViolationKind::BadProtobuf)
    );
}

#[test]
fn forged_copies_and_foreign_receipts_are_refused() {
    let mut world = World::new(3, 32);
    world.link(0, 1, 33);
    let (to, message) = (world.pn(1), text_message("hi", &[0; 32]));
    // The copy names another destination than the stanza.
    let copy = wacore::messages::wrap_device_sent(message.clone(), world.pn(2).to_string());
    world.companion_message((0, 1), "A", &to, &message, &copy);
    // A stranger sends something as if it were this account's.
    let forged = wacore::messages::wrap_device_sent(message.clone(), to.to_string());
    world.companion_message((0, 1), "B", &to, &forged, &forged);
    world.settle();
    assert_eq!(kinds(&world, 0), [ViolationKind::ForgedDeviceSent]);
    assert_eq!(kinds(&world, 1), [ViolationKind::ForgedDeviceSent]);
    let id = world.text(1, &world.pn(0), "mine");
    world.settle();
    let receipt = NodeBuilder::new("receipt")
        .attr("from", world.pn(2))
        .attr("id", id)
        .attr("type", "read")
        .build();
    world.deliver(&Delivery {
        to: (1, 0),
        stanza: receipt,
    });
    assert_eq!(kinds(&world, 1)[1], ViolationKind::ForeignReceipt);
    let sent = world.phone(1).outbox();
    assert_eq!(sent[0].read, None);
}

#[test]
fn a_damaged_ciphertext_is_asked_for_again_and_shown_once() {
    let mut world = World::new(2, 34);
    world.text(0, &world.pn(1), "start");
    world.settle();
    world.text(1, &world.pn(0), "answer");
    world.settle();
    world.text(0, &world.pn(1), "damaged");
    let mut delivery = take(&mut world, (1, 0));
    alter_ciphertext(&mut delivery, |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x40;
    });
    world.deliver(&delivery);
    assert_eq!(world.phone(1).undecryptable().len(), 1);
    world.settle();
    assert_eq!(world.phone(1).inbox().len(), 2);
    assert!(world.phone(1).undecryptable().is_empty());
    assert_eq!(world.phone(0).outbox()[1].resends, 1);
    world.no_violations();
}

#[test]
fn one_time_prekeys_are_good_once() {
    let mut world = World::new(3, 35);
    let target = world.pn(2);
    let keys = world.net.take_bundle(&target).expect("bundle");
    // Two people get the same one-time prekey from a broken server.
    for account in [0, 1] {
        let (phone, net) = world.phone_mut(account);
        phone.start_session(&target, &keys, net).expect("session");
    }
    world.text(0, &target, "first");
    world.text(1, &target, "second");
    world.settle();
    let inbox = world.phone(2).inbox();
    assert_eq!(
        inbox.len(),
        2,
        "the second was recovered through a retry with keys"
    );
    let resends: u32 = world
        .phone(1)
        .outbox()
        .iter()
        .map(|sent| sent.resends)
        .sum();
    assert!(resends >= 1);
    let ViolationKind::PrekeyReused { prekey } = kinds(&world, 2)[0] else {
        panic!("{:?}", kinds(&world, 2));
    };
    assert_eq!(Some(prekey), keys.one_time.map(|key| key.id));
}
