//! Prekeys: uploaded, counted, checked by digest, and handed out once each.

use sha1::{Digest as _, Sha1};

use super::*;
use crate::directory::Upload;
use crate::phone::OneTimePreKeyPart;

const REGISTRATION: u32 = 0x0102_0304;

/// One-time prekeys from `first` on. To the server they are bytes.
fn one_time(first: u8, count: u8) -> Vec<OneTimePreKeyPart> {
    (first..first + count)
        .map(|n| OneTimePreKeyPart {
            id: 0x0001_0000 + u32::from(n),
            public: [n; 32],
        })
        .collect()
}

fn leaf(tag: &'static str, bytes: impl Into<Vec<u8>>) -> Node {
    NodeBuilder::new(tag).bytes(bytes.into()).build()
}

/// An id as it travels: three bytes, the highest first.
fn id(id: u32) -> Node {
    leaf("id", id.to_be_bytes()[1..].to_vec())
}

fn upload(keys: &Upload) -> Node {
    let list = keys.one_time.iter().map(|key| {
        NodeBuilder::new("key")
            .children([id(key.id), leaf("value", key.public)])
            .build()
    });
    let signed = NodeBuilder::new("skey").children([
        id(keys.signed.id),
        leaf("value", keys.signed.public),
        leaf("signature", keys.signed.signature),
    ]);
    NodeBuilder::new("iq")
        .attr("id", "q1")
        .attr("xmlns", "encrypt")
        .attr("type", "set")
        .children([
            leaf("registration", keys.registration_id.to_be_bytes()),
            leaf("type", [5]),
            leaf("identity", keys.identity),
            NodeBuilder::new("list").children(list).build(),
            signed.build(),
        ])
        .build()
}

/// Asks in the `encrypt` namespace; the answer's only child.
fn asked(hub: &mut Hub, client: &mut Client, child: Node) -> Node {
    hub.on_wire(client.connection, &iq("encrypt", "get", child));
    let answer = client.received().remove(0);
    assert!(wire::attr_is(&answer, "type", "result"), "{answer:?}");
    let children = answer.children().unwrap();
    assert_eq!(children.len(), 1, "{answer:?}");
    children[0].clone()
}

fn bytes<'a>(node: &'a Node, path: &[&str]) -> &'a [u8] {
    let leaf = node.get_optional_child_by_tag(path);
    wire::bytes(leaf.unwrap_or_else(|| panic!("no {path:?} in {node:?}")))
}

/// Alice, and Bob with three one-time prekeys at the server.
fn uploaded() -> (Hub, Client, Client, Upload) {
    let (mut hub, alice, mut bob) = pair();
    let (identity, signed) = keys_of(bob.device);
    let keys = Upload {
        registration_id: REGISTRATION,
        identity,
        signed,
        one_time: one_time(1, 3),
    };
    hub.on_wire(bob.connection, &upload(&keys));
    let answer = bob.received().remove(0);
    assert!(wire::attr_is(&answer, "type", "result"), "{answer:?}");
    (hub, alice, bob, keys)
}

#[test]
fn the_digest_is_of_what_was_uploaded_and_is_left() {
    let (mut hub, mut alice, mut bob, keys) = uploaded();
    let taken = NodeBuilder::new("user").attr("jid", pn(&hub, bob.device));
    let request = NodeBuilder::new("key").children([taken.build()]).build();
    for left in [&keys.one_time[..], &keys.one_time[1..]] {
        let digest = asked(&mut hub, &mut bob, NodeBuilder::new("digest").build());
        assert_eq!(digest.tag, "digest");
        assert_eq!(
            bytes(&digest, &["registration"]),
            REGISTRATION.to_be_bytes()
        );
        assert_eq!(bytes(&digest, &["type"]), [5]);
        assert_eq!(bytes(&digest, &["identity"]), keys.identity);
        assert_eq!(bytes(&digest, &["skey", "id"]), [0, 0, 1]);
        assert_eq!(bytes(&digest, &["skey", "value"]), keys.signed.public);
        assert_eq!(
            bytes(&digest, &["skey", "signature"]),
            keys.signed.signature
        );
        let list = digest.get_optional_child("list").unwrap();
        let ids: Vec<_> = list
            .get_children_by_tag("id")
            .map(|id| wire::bytes(id).to_vec())
            .collect();
        let expected: Vec<_> = left
            .iter()
            .map(|key| key.id.to_be_bytes()[1..].to_vec())
            .collect();
        assert_eq!(ids, expected);
        let mut hash = Sha1::new();
        hash.update(keys.identity);
        hash.update(keys.signed.public);
        hash.update(keys.signed.signature);
        for key in left {
            hash.update(key.public);
        }
        assert_eq!(bytes(&digest, &["hash"]), hash.finalize().as_slice());
        asked(&mut hub, &mut alice, request.clone());
    }
}

#[test]
fn prekeys_are_counted_and_handed_out_once() {
    let (mut hub, mut alice, mut bob, keys) = uploaded();
    let user = |jid: Jid| NodeBuilder::new("user").attr("jid", jid).build();
    let request = NodeBuilder::new("key")
        .children([
            user(pn(&hub, bob.device)),
            user("15550109999@s.whatsapp.net".parse().unwrap()),
            user(pn(&hub, bob.device).with_device(9)),
        ])
        .build();
    for left in (0..=3_usize).rev() {
        let count = asked(&mut hub, &mut bob, NodeBuilder::new("count").build());
        assert!(
            wire::attr_is(&count, "value", &left.to_string()),
            "{count:?}"
        );
        let list = asked(&mut hub, &mut alice, request.clone());
        let users: Vec<&Node> = list.get_children_by_tag("user").collect();
        assert_eq!(
            bytes(users[0], &["registration"]),
            REGISTRATION.to_be_bytes()
        );
        assert_eq!(bytes(users[0], &["identity"]), keys.identity);
        let one_time = users[0].get_optional_child_by_tag(&["key", "value"]);
        let handed_out = one_time.map(wire::bytes);
        let next = keys.one_time.iter().rev().nth(left.wrapping_sub(1));
        assert_eq!(handed_out, next.map(|key| key.public.as_slice()), "{left}");
        // A number nobody has, and a device that is not linked.
        for (user, code) in [(users[1], "404"), (users[2], "406")] {
            let error = user.get_optional_child("error").unwrap();
            assert!(wire::attr_is(error, "code", code), "{error:?}");
        }
    }
    assert!(hub.ledger.violations().is_empty());
}

#[test]
fn what_cannot_be_right_is_refused_whole() {
    let (mut hub, _alice, mut bob, keys) = uploaded();
    let with = |change: &dyn Fn(&mut Upload)| {
        let mut changed = Upload {
            registration_id: keys.registration_id,
            identity: keys.identity,
            signed: keys.signed.clone(),
            one_time: one_time(10, 2),
        };
        change(&mut changed);
        upload(&changed)
    };
    let wrong: [&dyn Fn(&mut Upload); 4] = [
        &|upload| upload.identity = [9; 32],
        &|upload| upload.signed.signature[3] ^= 1,
        &|upload| upload.one_time[1].id = 0x0001_0001,
        &|upload| upload.one_time[1].public = [1; 32],
    ];
    for change in wrong {
        hub.on_wire(bob.connection, &with(change));
        let answer = bob.received().remove(0);
        assert!(wire::attr_is(&answer, "type", "error"), "{answer:?}");
        let count = asked(&mut hub, &mut bob, NodeBuilder::new("count").build());
        assert!(wire::attr_is(&count, "value", "3"), "{count:?}");
    }
    assert_eq!(hub.ledger.violations().len(), wrong.len());
}
