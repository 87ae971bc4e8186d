//! The hub without sockets: raw stanzas in, raw stanzas out.

mod group;
mod keys;
mod link_code;
mod linking;
mod settings;
mod trust;

use std::sync::Arc;

use tokio::sync::mpsc::UnboundedReceiver;
use wacore::libsignal::protocol::KeyPair;
use wacore_binary::builder::NodeBuilder;
use wacore_binary::{Jid, Node};
use waproto::buffa::Message as _;
use waproto::whatsapp::ClientPayload;

use super::*;
use crate::clock::ManualClock;
use crate::directory::{Device, KeyPool};
use crate::faults::{Fault, Scope};
use crate::noise::public_bytes;
use crate::phone::SignedPreKeyPart;

struct Client {
    device: DeviceKey,
    connection: ConnectionId,
    rx: UnboundedReceiver<Outgoing>,
}

impl Client {
    /// Everything sent to the client since the last look.
    fn received(&mut self) -> Vec<Node> {
        let mut nodes = Vec::new();
        while let Ok(order) = self.rx.try_recv() {
            if let Outgoing::Stanza { node, .. } = order {
                nodes.push(*node);
            }
        }
        nodes
    }

    fn closed(&mut self) -> bool {
        let mut closed = false;
        while let Ok(order) = self.rx.try_recv() {
            closed |= matches!(order, Outgoing::Close | Outgoing::Drop);
        }
        closed
    }
}

fn hub() -> (Hub, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(1_795_000_000_000));
    let config = HubConfig {
        media_host: "127.0.0.1:9".into(),
        max_companions: 4,
    };
    (Hub::new(Seed::new(1), clock.clone(), config), clock)
}

fn person(hub: &mut Hub, pn: &str) -> AccountId {
    hub.create_person(&NewPerson {
        pn: pn.into(),
        name: format!("P{pn}"),
    })
    .unwrap()
}

/// A device that was linked without the ceremony.
fn link(hub: &mut Hub, account: AccountId) -> DeviceKey {
    let device = hub.directory.account_mut(account).reserve_device();
    let key = DeviceKey { account, device };
    let (identity, part) = keys_of(key);
    let record = Device {
        key_index: Some(u32::from(device)),
        noise_public: Some(noise_key(key)),
        adv_identity: Some(vec![1]),
        keys: KeyPool::new(1, identity, part).unwrap(),
        linked_at: 0,
        app_state_shared: true,
    };
    let devices = &mut hub.directory.account_mut(account).devices;
    devices.insert(device, record);
    key
}

/// A linked device's identity and signed prekey.
fn keys_of(key: DeviceKey) -> ([u8; 32], SignedPreKeyPart) {
    let mut rng = Seed::new(9).stream(&format!("{key:?}"));
    let identity = KeyPair::generate(&mut rng);
    let signed = KeyPair::generate(&mut rng);
    let signature = identity
        .private_key
        .calculate_signature(&signed.public_key.serialize(), &mut rng)
        .unwrap();
    let part = SignedPreKeyPart {
        id: 1,
        public: public_bytes(&signed),
        signature: signature.as_ref().try_into().unwrap(),
    };
    (public_bytes(&identity), part)
}

fn noise_key(key: DeviceKey) -> [u8; 32] {
    [u8::try_from(key.account.0 * 10).unwrap() + u8::try_from(key.device).unwrap(); 32]
}

fn log_in(hub: &mut Hub, device: DeviceKey, pull: bool) -> Client {
    let (connection, rx) = hub.open();
    let payload = ClientPayload {
        username: hub.directory.account(device.account).pn.parse().ok(),
        device: Some(u32::from(device.device)),
        passive: Some(true),
        pull: Some(pull),
        ..Default::default()
    }
    .encode_to_vec();
    hub.arrive(&Arrival {
        connection,
        client_static: noise_key(device),
        payload: &payload,
    });
    Client {
        device,
        connection,
        rx,
    }
}

fn iq(namespace: &'static str, kind: &'static str, child: Node) -> Node {
    NodeBuilder::new("iq")
        .attr("id", "q1")
        .attr("xmlns", namespace)
        .attr("type", kind)
        .children([child])
        .build()
}

fn activate(hub: &mut Hub, client: &Client) {
    let active = NodeBuilder::new("active").build();
    hub.on_wire(client.connection, &iq("passive", "set", active));
}

fn message(id: &str, to: &Jid, devices: &[Jid]) -> Node {
    let participants = devices.iter().map(|jid| {
        let enc = NodeBuilder::new("enc")
            .attr("v", 2)
            .attr("type", "msg")
            .bytes(vec![1, 2, 3])
            .build();
        NodeBuilder::new("to")
            .attr("jid", jid.clone())
            .children([enc])
            .build()
    });
    NodeBuilder::new("message")
        .attr("id", id)
        .attr("to", to.clone())
        .attr("type", "text")
        .children([NodeBuilder::new("participants")
            .children(participants)
            .build()])
        .build()
}

fn tags(nodes: &[Node]) -> Vec<String> {
    nodes
        .iter()
        .map(|node| {
            let child = node.children().and_then(<[Node]>::first);
            match child.filter(|_| node.tag == "ib") {
                Some(child) => child.tag.to_string(),
                None => node.tag.to_string(),
            }
        })
        .collect()
}

/// Two accounts with one companion each, both online and live.
fn pair() -> (Hub, Client, Client) {
    let (mut hub, _) = hub();
    let a = person(&mut hub, "15550100001");
    let b = person(&mut hub, "15550100002");
    let (a1, b1) = (link(&mut hub, a), link(&mut hub, b));
    let mut clients = [a1, b1].map(|device| log_in(&mut hub, device, true));
    for client in &mut clients {
        activate(&mut hub, client);
        client.received();
    }
    let [alice, bob] = clients;
    (hub, alice, bob)
}

fn pn(hub: &Hub, key: DeviceKey) -> Jid {
    hub.address(key, Addressing::Pn)
}

#[test]
fn the_backlog_comes_in_a_primer_and_batches_and_unconfirmed_stanzas_come_again() {
    let (mut hub, alice, bob) = pair();
    let chat = pn(&hub, bob.device).to_non_ad();
    let to = pn(&hub, bob.device);
    hub.closed(bob.connection);
    for n in 0..12 {
        hub.on_wire(
            alice.connection,
            &message(&format!("m{n}"), &chat, std::slice::from_ref(&to)),
        );
    }
    let mut bob = log_in(&mut hub, bob.device, true);
    bob.received();
    activate(&mut hub, &bob);
    let first = bob.received();
    let mut expected = vec!["iq", "offline_preview"];
    expected.extend(["message"; 5]);
    assert_eq!(tags(&first), expected);
    assert!(first[2].attrs.contains_key("offline"));
    let batch = NodeBuilder::new("offline_batch").attr("count", 4).build();
    hub.on_wire(bob.connection, &wire::ib(batch));
    assert_eq!(bob.received().len(), 4);
    let batch = NodeBuilder::new("offline_batch").attr("count", 200).build();
    hub.on_wire(bob.connection, &wire::ib(batch));
    let last = bob.received();
    assert_eq!(tags(&last), ["message", "message", "message", "offline"]);
    // Confirm two of them, by ack and by receipt.
    let ack = NodeBuilder::new("ack")
        .attr("class", "message")
        .attr("id", "m0")
        .build();
    hub.on_wire(bob.connection, &ack);
    let receipt = NodeBuilder::new("receipt")
        .attr("id", "m1")
        .attr("to", pn(&hub, alice.device))
        .build();
    hub.on_wire(bob.connection, &receipt);
    assert_eq!(hub.backlog(bob.device), 10);
    hub.closed(bob.connection);
    let mut bob = log_in(&mut hub, bob.device, false);
    bob.received();
    activate(&mut hub, &bob);
    let again = bob.received();
    let ids: Vec<String> = again
        .iter()
        .filter(|node| node.tag == "message")
        .map(|node| wire::attr(node, "id").unwrap().into_owned())
        .collect();
    let wanted: Vec<String> = (2..12).map(|n| format!("m{n}")).collect();
    assert_eq!(ids, wanted);
}

#[test]
fn invented_devices_are_refused_and_unlinked_ones_corrected() {
    let (mut hub, mut alice, bob) = pair();
    let chat = pn(&hub, bob.device).to_non_ad();
    let refusal = |hub: &mut Hub, alice: &mut Client, devices: &[Jid]| {
        hub.on_wire(alice.connection, &message("x", &chat, devices));
        let ack = alice.received().remove(0);
        wire::attr(&ack, "error").map(std::borrow::Cow::into_owned)
    };
    let phone = chat.with_device(0);
    let invented = chat.with_device(77);
    assert_eq!(
        refusal(&mut hub, &mut alice, &[phone.clone(), invented]).as_deref(),
        Some("400")
    );
    let stranger = Jid::pn("15550109999");
    assert_eq!(
        refusal(&mut hub, &mut alice, &[stranger]).as_deref(),
        Some("404")
    );
    let own = pn(&hub, alice.device);
    assert_eq!(
        refusal(&mut hub, &mut alice, &[own]).as_deref(),
        Some("400")
    );
    hub.unlink(bob.device).unwrap();
    alice.received();
    let stale = pn(&hub, bob.device);
    let own_phone = pn(&hub, DeviceKey::phone(alice.device.account));
    let devices = [phone, stale, own_phone];
    hub.on_wire(alice.connection, &message("y", &chat, &devices));
    let ack = alice.received().remove(0);
    assert!(!ack.attrs.contains_key("error"));
    assert!(ack.attrs.contains_key("phash"));
}

#[test]
fn a_complete_device_list_is_not_corrected() {
    let (mut hub, mut alice, bob) = pair();
    let chat = pn(&hub, bob.device).to_non_ad();
    let own_phone = pn(&hub, DeviceKey::phone(alice.device.account));
    let devices = [chat.with_device(0), pn(&hub, bob.device), own_phone];
    hub.on_wire(alice.connection, &message("z", &chat, &devices));
    let ack = alice.received().remove(0);
    assert_eq!(ack.tag, "ack");
    assert!(!ack.attrs.contains_key("phash"));
}

#[test]
fn copies_carry_both_addresses_and_own_copies_the_recipient() {
    let (mut hub, alice, mut bob) = pair();
    let own = link(&mut hub, alice.device.account);
    let mut own = log_in(&mut hub, own, true);
    activate(&mut hub, &own);
    own.received();
    let by_lid = |hub: &Hub, key| hub.address(key, Addressing::Lid);
    let chat = by_lid(&hub, bob.device).to_non_ad();
    let devices = [by_lid(&hub, bob.device), by_lid(&hub, own.device)];
    hub.on_wire(alice.connection, &message("l", &chat, &devices));
    let copy = bob.received().remove(0);
    assert_eq!(
        wire::jid_attr(&copy, "from"),
        Some(by_lid(&hub, alice.device))
    );
    assert!(wire::attr_is(&copy, "addressing_mode", "lid"));
    let sender_pn = wire::jid_attr(&copy, "sender_pn").unwrap();
    assert_eq!(sender_pn, pn(&hub, alice.device).to_non_ad());
    assert!(!copy.attrs.contains_key("recipient"));
    let copy = own.received().remove(0);
    assert_eq!(wire::jid_attr(&copy, "recipient"), Some(chat));
    assert!(copy.attrs.contains_key("peer_recipient_pn"));
}

#[test]
fn a_second_login_replaces_the_first() {
    let (mut hub, mut alice, _bob) = pair();
    let again = log_in(&mut hub, alice.device, true);
    let last = alice.received();
    assert_eq!(tags(&last), ["stream:error"]);
    let conflict = last[0].get_optional_child("conflict").unwrap();
    assert!(wire::attr_is(conflict, "type", "replaced"));
    hub.closed(alice.connection);
    assert_eq!(hub.online.get(&again.device), Some(&again.connection));
}

#[test]
fn unknown_devices_and_wrong_keys_are_logged_out() {
    let (mut hub, _) = hub();
    let account = person(&mut hub, "15550100001");
    let device = link(&mut hub, account);
    let ghost = DeviceKey { account, device: 9 };
    let mut client = log_in(&mut hub, ghost, true);
    let failure = client.received().remove(0);
    assert_eq!(failure.tag, "failure");
    assert!(wire::attr_is(&failure, "reason", "401"));
    if let Some(record) = hub.directory.device_mut(device) {
        record.noise_public = Some([99; 32]);
    }
    let mut client = log_in(&mut hub, device, true);
    assert!(wire::attr_is(&client.received()[0], "reason", "401"));
}

#[test]
fn events_left_over_strike_at_later_logins() {
    let (mut hub, mut alice, _bob) = pair();
    let scope = Scope::Device(alice.device);
    assert_eq!(hub.order(scope, Fault::Close, Some(2)), 1);
    assert!(alice.closed());
    hub.closed(alice.connection);
    let mut again = log_in(&mut hub, alice.device, true);
    assert!(again.closed());
    hub.closed(again.connection);
    let mut third = log_in(&mut hub, alice.device, true);
    assert!(!third.closed());
}

#[test]
fn read_receipts_reach_the_author_and_the_readers_other_devices() {
    let (mut hub, mut alice, bob) = pair();
    let other = link(&mut hub, bob.device.account);
    let mut other = log_in(&mut hub, other, true);
    activate(&mut hub, &other);
    other.received();
    alice.received();
    let receipt = NodeBuilder::new("receipt")
        .attr("id", "m1")
        .attr("type", "read")
        .attr("to", pn(&hub, alice.device).to_non_ad())
        .build();
    hub.on_wire(bob.connection, &receipt);
    let seen = alice.received().remove(0);
    assert!(wire::attr_is(&seen, "type", "read"));
    assert_eq!(wire::jid_attr(&seen, "from"), Some(pn(&hub, bob.device)));
    let own = other.received().remove(0);
    assert!(wire::attr_is(&own, "type", "read-self"));
    assert!(own.attrs.contains_key("recipient"));
}

#[test]
fn usync_answers_as_clients_need_it() {
    let (mut hub, mut alice, bob) = pair();
    // The phone signs it when it links a device, which these did without.
    let account = hub.directory.account_mut(bob.device.account);
    account.key_index_list = Some(vec![1, 2, 3]);
    let by_pn = pn(&hub, bob.device).to_non_ad();
    let by_lid = hub.address(bob.device, Addressing::Lid).to_non_ad();
    let user = |jid: &Jid| NodeBuilder::new("user").attr("jid", jid.clone()).build();
    let unknown = NodeBuilder::new("user")
        .children([NodeBuilder::new("contact")
            .string_content("+15550109999")
            .build()])
        .build();
    let query = ["devices", "lid", "contact"].map(|tag| NodeBuilder::new(tag).build());
    let request = NodeBuilder::new("usync")
        .attr("sid", "s")
        .children([
            NodeBuilder::new("query").children(query).build(),
            NodeBuilder::new("list")
                .children([user(&by_pn), user(&by_lid)])
                .build(),
        ])
        .build();
    hub.on_wire(alice.connection, &iq("usync", "get", request));
    let answer = alice.received().remove(0);
    let list = answer
        .get_optional_child_by_tag(&["usync", "list"])
        .unwrap();
    let users: Vec<&Node> = list.get_children_by_tag("user").collect();
    assert!(users[0].get_optional_child("lid").is_some());
    assert!(users[1].get_optional_child("lid").is_none());
    let devices = users[0]
        .get_optional_child_by_tag(&["devices", "device-list"])
        .unwrap();
    let listed: Vec<&Node> = devices.get_children_by_tag("device").collect();
    assert_eq!(listed.len(), 2);
    for device in listed {
        // The phone has none; a companion without one would not be written to.
        let is_phone = wire::attr_is(device, "id", "0");
        assert_eq!(
            is_phone,
            !device.attrs.contains_key("key-index"),
            "{device:?}"
        );
    }
    let signed_list = users[0].get_optional_child_by_tag(&["devices", "key-index-list"]);
    assert_eq!(wire::bytes(signed_list.unwrap()), [1, 2, 3]);

    let contact = [NodeBuilder::new("contact").build()];
    let request = NodeBuilder::new("usync")
        .children([
            NodeBuilder::new("query").children(contact).build(),
            NodeBuilder::new("list").children([unknown]).build(),
        ])
        .build();
    hub.on_wire(alice.connection, &iq("usync", "get", request));
    let answer = alice.received().remove(0);
    let contact = answer
        .get_optional_child_by_tag(&["usync", "list", "user", "contact"])
        .unwrap();
    assert!(wire::attr_is(contact, "type", "out"));

    // `onWhatsApp`: a number that is there is told with its name on the server.
    let known = NodeBuilder::new("user")
        .children([NodeBuilder::new("contact")
            .string_content(format!("+{}", by_pn.user))
            .build()])
        .build();
    let contact = [NodeBuilder::new("contact").build()];
    let request = NodeBuilder::new("usync")
        .children([
            NodeBuilder::new("query").children(contact).build(),
            NodeBuilder::new("list").children([known]).build(),
        ])
        .build();
    hub.on_wire(alice.connection, &iq("usync", "get", request));
    let answer = alice.received().remove(0);
    let user = answer
        .get_optional_child_by_tag(&["usync", "list", "user"])
        .unwrap();
    assert_eq!(wire::jid_attr(user, "jid"), Some(by_pn));
    let contact = user.get_optional_child("contact").unwrap();
    assert!(wire::attr_is(contact, "type", "in"));
}

#[test]
fn a_ping_is_answered() {
    let (mut hub, mut alice, _bob) = pair();
    let ping = NodeBuilder::new("ping").build();
    hub.on_wire(alice.connection, &iq("w:p", "get", ping));
    let answer = alice.received().remove(0);
    assert!(wire::attr_is(&answer, "type", "result") && wire::attr_is(&answer, "id", "q1"));
    assert!(answer.children().is_none_or(<[Node]>::is_empty));
}

#[test]
fn unknown_queries_get_an_error_and_are_recorded() {
    let (mut hub, mut alice, _bob) = pair();
    let child = NodeBuilder::new("thing").build();
    hub.on_wire(alice.connection, &iq("w:unheard", "get", child));
    let answer = alice.received().remove(0);
    assert!(wire::attr_is(&answer, "type", "error"));
    let recorded = hub
        .ledger()
        .facts()
        .any(|fact| matches!(fact, Fact::Unknown { what, .. } if what.contains("w:unheard")));
    assert!(recorded);
}
