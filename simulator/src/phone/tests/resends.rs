use wacore::protocol::retry::build_retry_keys_node;
use wacore_binary::builder::NodeBuilder;
use waproto::whatsapp as wa;

use super::world::{Delivery, World};
use crate::phone::content::shown;
use crate::phone::stanza::{attr, child_uint, number};
use crate::phone::{NewPhone, Phone, ViolationKind};

#[test]
fn a_lost_session_is_repaired_through_retry_receipts() {
    let mut world = World::new(2, 40);
    world.text(0, &world.pn(1), "one");
    world.settle();
    world.text(1, &world.pn(0), "two");
    world.settle();
    world.phone_mut(1).0.lose_sessions();
    world.text(0, &world.pn(1), "three");
    world.settle();
    let texts: Vec<&str> = world
        .phone(1)
        .inbox()
        .iter()
        .map(|shown| shown.text.as_str())
        .collect();
    assert_eq!(texts, ["one", "three"]);
    assert!(world.phone(1).undecryptable().is_empty());
    let retries: Vec<_> = world
        .sent
        .iter()
        .filter(|node| attr(node, "type").as_deref() == Some("retry"))
        .collect();
    // First plain; the same dead session fails again; then with keys.
    assert_eq!(retries.len(), 2);
    assert!(retries[0].get_optional_child("keys").is_none());
    assert!(retries[1].get_optional_child("keys").is_some());
    let retry = retries[1].get_optional_child("retry").expect("retry");
    assert_eq!(number(retry, "count"), Some(2_u8));
    assert_eq!(attr(retry, "error").as_deref(), Some("1"), "no session");
    assert!(child_uint(retries[0], "registration").is_some());
    // The repaired session works on.
    world.text(1, &world.lid(0), "four");
    world.text(0, &world.lid(1), "five");
    world.settle();
    assert_eq!(world.phone(0).inbox().len(), 2);
    assert_eq!(world.phone(1).inbox().len(), 3);
    world.no_violations();
}

#[test]
fn a_companion_that_lost_its_session_gets_the_same_id_and_content() {
    let mut world = World::new(3, 41);
    world.link(1, 1, 42);
    let id = world.text(0, &world.pn(1), "hello");
    world.settle();
    let device = world.pn(1).with_device(1);
    let (companion, _) = world.companion((1, 1));
    let key = companion.signal.private_prekey();
    let keys = companion.signal.publish(0);
    let public = |raw: &[u8; 32]| {
        wacore::libsignal::protocol::PublicKey::from_djb_public_key_bytes(raw).expect("key")
    };
    let keys_node = build_retry_keys_node(
        &public(&keys.identity),
        key.id,
        &public(&key.public),
        keys.signed.id,
        &public(&keys.signed.public),
        keys.signed.signature.to_vec(),
        companion.signed_identity.clone(),
    );
    let receipt = |keys: Option<wacore_binary::Node>, count: u8| {
        let mut children = vec![
            NodeBuilder::new("retry")
                .attr("v", "1")
                .attr("id", id.as_str())
                .attr("count", count)
                .build(),
            NodeBuilder::new("registration")
                .bytes(1_u32.to_be_bytes().to_vec())
                .build(),
        ];
        children.extend(keys);
        NodeBuilder::new("receipt")
            .attr("from", &device)
            .attr("id", id.as_str())
            .attr("type", "retry")
            .children(children)
            .build()
    };
    let stanza = receipt(Some(keys_node.clone()), 2);
    world.deliver(&Delivery { to: (0, 0), stanza });
    world.settle();
    let (companion, _) = world.companion((1, 1));
    assert_eq!(companion.opened.len(), 2, "the first copy and the resend");
    assert_eq!(companion.opened[1].0, id);
    assert_eq!(shown(&companion.opened[1].1).text, "hello");
    let secret = secret_of(&companion.opened[0].1);
    assert_eq!(secret, secret_of(&companion.opened[1].1));
    world.no_violations();

    // A stranger may not have it, nor a device nobody linked; the fifth attempt is refused.
    let before = world.sent.len();
    let mut stranger = receipt(Some(keys_node.clone()), 2);
    stranger.attrs.insert("from", world.pn(2));
    world.deliver(&Delivery {
        to: (0, 0),
        stanza: stranger,
    });
    let mut stranger = receipt(Some(keys_node.clone()), 2);
    stranger.attrs.insert("from", world.pn(1).with_device(9));
    world.deliver(&Delivery {
        to: (0, 0),
        stanza: stranger,
    });
    let stanza = receipt(Some(keys_node), 5);
    world.deliver(&Delivery { to: (0, 0), stanza });
    assert_eq!(world.sent.len(), before);
    let kinds: Vec<_> = world
        .phone(0)
        .violations()
        .iter()
        .map(|violation| violation.kind.clone())
        .collect();
    assert_eq!(
        kinds,
        [ViolationKind::ForeignReceipt, ViolationKind::UnknownDevice]
    );
}

#[test]
fn an_own_companion_gets_the_copy_again() {
    let mut world = World::new(2, 43);
    world.link(0, 1, 44);
    let id = world.text(0, &world.pn(1), "hello");
    world.settle();
    let receipt = NodeBuilder::new("receipt")
        .attr("from", world.pn(0).with_device(1))
        .attr("id", id.as_str())
        .attr("type", "retry")
        .attr("recipient", world.pn(1))
        .children([
            NodeBuilder::new("retry")
                .attr("id", id.as_str())
                .attr("count", 1_u8)
                .build(),
            NodeBuilder::new("registration")
                .bytes(vec![0, 0, 0, 9])
                .build(),
        ])
        .build();
    world.deliver(&Delivery {
        to: (0, 0),
        stanza: receipt,
    });
    world.settle();
    let (companion, _) = world.companion((0, 1));
    assert_eq!(companion.opened.len(), 2);
    assert!(companion.opened[1].1.device_sent_message.is_set());
}

#[test]
fn a_lost_key_share_is_sent_again() {
    let mut world = World::new(1, 45);
    world.link(0, 1, 46);
    let (phone, net) = world.phone_mut(0);
    let (id, _lost) = phone.share_app_state_key(1, net).expect("share");
    let receipt = NodeBuilder::new("receipt")
        .attr("from", world.pn(0).with_device(1))
        .attr("id", id.as_str())
        .attr("type", "retry")
        .attr("category", "peer")
        .children([
            NodeBuilder::new("retry")
                .attr("id", id.as_str())
                .attr("count", 1_u8)
                .build(),
            NodeBuilder::new("registration")
                .bytes(vec![0, 0, 0, 9])
                .build(),
        ])
        .build();
    world.deliver(&Delivery {
        to: (0, 0),
        stanza: receipt,
    });
    world.settle();
    let (companion, _) = world.companion((0, 1));
    let protocol = companion.opened[0]
        .1
        .protocol_message
        .as_option()
        .expect("protocol");
    assert!(protocol.app_state_sync_key_share.is_set());
}

#[test]
fn a_message_that_never_opens_is_given_up_after_five_requests() {
    let mut world = World::new(2, 47);
    world.text(0, &world.pn(1), "one");
    world.settle();
    world.text(1, &world.pn(0), "two");
    world.settle();
    world.text(0, &world.pn(1), "three");
    let delivery = world.wire.pop_front().expect("under way");
    world.phone_mut(1).0.lose_sessions();
    for _ in 0..8 {
        world.deliver(&delivery);
        // The sender never hears of it.
        world.wire.clear();
    }
    assert_eq!(world.phone(1).undecryptable()[0].attempts, 5);
    let retries = world
        .sent
        .iter()
        .filter(|node| attr(node, "type").as_deref() == Some("retry"));
    assert_eq!(retries.count(), 5);
}

#[test]
fn a_thousand_phones_are_small_and_quick() {
    let phones: Vec<Phone> = (0..1000_u64)
        .map(|index| {
            let spec = NewPhone {
                pn: format!("49{index:09}"),
                lid: format!("3{index:014}"),
                name: String::new(),
            };
            let mut phone = Phone::new(spec, 7);
            phone.publish(2);
            phone
        })
        .collect();
    assert!(std::mem::size_of::<Phone>() < 4096);
    let identities: std::collections::BTreeSet<_> = phones.iter().map(Phone::identity).collect();
    assert_eq!(identities.len(), 1000);
}

fn secret_of(message: &wa::Message) -> Option<&[u8]> {
    let context = message.message_context_info.as_option()?;
    context.message_secret.as_deref()
}
