//! Groups without sockets.

use std::borrow::Cow;

use super::*;
use crate::hub::group::{GroupChange, GroupError};
use wacore::messages::MessageUtils;

/// Three accounts with a companion each, all online; the first two are in a group.
struct Scene {
    hub: Hub,
    group: Jid,
    alice: Client,
    bob: Client,
    carol: Client,
}

impl Scene {
    fn new() -> Self {
        let (mut hub, _) = hub();
        let numbers = ["15550100001", "15550100002", "15550100003"];
        let accounts = numbers.map(|pn| person(&mut hub, pn));
        let mut clients = accounts.map(|account| {
            let device = link(&mut hub, account);
            let client = log_in(&mut hub, device, true);
            activate(&mut hub, &client);
            client
        });
        let group = hub
            .create_group(accounts[0], "Shop", &accounts[1..2])
            .unwrap();
        hub.send_notices();
        for client in &mut clients {
            client.received();
        }
        let [alice, bob, carol] = clients;
        Self {
            hub,
            group,
            alice,
            bob,
            carol,
        }
    }

    fn lid(&self, device: DeviceKey) -> Jid {
        self.hub.address(device, Addressing::Lid)
    }

    /// Every device of the two members, as a phash covers them.
    fn devices(&self) -> Vec<Jid> {
        [&self.alice, &self.bob]
            .iter()
            .flat_map(|client| self.hub.directory.devices_of(client.device.account))
            .map(|device| self.lid(device))
            .collect()
    }

    /// A message to the group with a key for these devices.
    fn message(&self, id: &str, keys: &[Jid], phash: Option<&str>) -> Node {
        let enc = |kind: &'static str| {
            NodeBuilder::new("enc")
                .attr("v", 2)
                .attr("type", kind)
                .bytes(vec![1, 2, 3])
                .build()
        };
        let keys: Vec<Node> = keys
            .iter()
            .map(|jid| {
                let to = NodeBuilder::new("to").attr("jid", jid.clone());
                to.children([enc("pkmsg")]).build()
            })
            .collect();
        let mut builder = NodeBuilder::new("message")
            .attr("id", id)
            .attr("to", self.group.clone())
            .attr("type", "text")
            .attr("addressing_mode", "lid");
        if let Some(phash) = phash {
            builder = builder.attr("phash", phash);
        }
        builder
            .children([
                NodeBuilder::new("participants").children(keys).build(),
                enc("skmsg"),
                NodeBuilder::new("device-identity").bytes(vec![9]).build(),
            ])
            .build()
    }

    fn error(&mut self, from: ConnectionId, node: &Node) -> Option<String> {
        self.hub.on_wire(from, node);
        let refused = self.hub.ledger().facts().next_back();
        match refused {
            Some(Fact::MessageRefused { error, .. }) => Some(error.to_string()),
            _ => None,
        }
    }

    fn ask(&mut self, who: fn(&mut Self) -> &mut Client, kind: &'static str, child: Node) -> Node {
        let group = self.group.clone();
        self.ask_at(who, kind, &group, child)
    }

    fn ask_at(
        &mut self,
        who: fn(&mut Self) -> &mut Client,
        kind: &'static str,
        to: &Jid,
        child: Node,
    ) -> Node {
        let mut request = iq("w:g2", kind, child);
        request.attrs.insert("to", to.clone());
        let connection = who(self).connection;
        self.hub.on_wire(connection, &request);
        who(self).received().remove(0)
    }
}

fn named(tag: &'static str, people: &[Jid]) -> Node {
    let participants = people.iter().map(|jid| {
        NodeBuilder::new("participant")
            .attr("jid", jid.clone())
            .build()
    });
    NodeBuilder::new(tag).children(participants).build()
}

fn kinds(node: &Node) -> Vec<Cow<'_, str>> {
    node.get_children_by_tag("enc")
        .map(|enc| wire::attr(enc, "type").unwrap())
        .collect()
}

#[test]
fn a_message_reaches_every_other_device_of_every_member_with_its_own_key_first() {
    let mut scene = Scene::new();
    let own = link(&mut scene.hub, scene.alice.device.account);
    let mut own = log_in(&mut scene.hub, own, true);
    activate(&mut scene.hub, &own);
    own.received();
    scene.bob.received();
    // Some clients name even themselves.
    let keys = [scene.bob.device, scene.alice.device].map(|device| scene.lid(device));
    let devices = scene.devices();
    let phash = MessageUtils::participant_list_hash(&devices).unwrap();
    let node = scene.message("g1", &keys, Some(&phash));
    scene.hub.on_wire(scene.alice.connection, &node);

    let copy = scene.bob.received().remove(0);
    assert_eq!(wire::jid_attr(&copy, "from"), Some(scene.group.clone()));
    let author = wire::jid_attr(&copy, "participant");
    assert_eq!(author, Some(scene.lid(scene.alice.device)));
    let pn = wire::jid_attr(&copy, "participant_pn").unwrap();
    assert_eq!(pn, pn_of(&scene, scene.alice.device));
    assert!(wire::attr_is(&copy, "addressing_mode", "lid"));
    assert_eq!(kinds(&copy), ["pkmsg", "skmsg"]);
    assert!(copy.get_optional_child("device-identity").is_some());

    let copy = own.received().remove(0);
    assert_eq!(kinds(&copy), ["skmsg"], "no key was sealed for it");
    assert!(copy.get_optional_child("device-identity").is_none());

    let ack = scene.alice.received().remove(0);
    assert!(!ack.attrs.contains_key("error"));
    assert!(
        !ack.attrs.contains_key("phash"),
        "the sender knew everybody"
    );
    assert_eq!(tags(&scene.carol.received()), Vec::<String>::new());
    let Some(Fact::MessageAccepted { recipients, .. }) = scene
        .hub
        .ledger()
        .facts()
        .find(|fact| matches!(fact, Fact::MessageAccepted { .. }))
    else {
        panic!("not accepted");
    };
    let expected = [
        "15550100001:0",
        "15550100001:2",
        "15550100002:0",
        "15550100002:1",
    ];
    assert_eq!(recipients, &expected);
}

fn pn_of(scene: &Scene, device: DeviceKey) -> Jid {
    pn(&scene.hub, device).to_non_ad()
}

#[test]
fn a_sender_with_an_old_device_list_is_told_the_right_hash() {
    let mut scene = Scene::new();
    let stale = scene.devices();
    let stale = MessageUtils::participant_list_hash(&stale[1..]).unwrap();
    let node = scene.message("g1", &[], Some(&stale));
    scene.hub.on_wire(scene.alice.connection, &node);
    let ack = scene.alice.received().remove(0);
    let expected = MessageUtils::participant_list_hash(&scene.devices()).unwrap();
    assert!(wire::attr_is(&ack, "phash", &expected));
    assert_eq!(tags(&scene.bob.received()), ["message"], "it is delivered");
}

#[test]
fn strangers_and_wrong_addressing_are_refused_without_offence() {
    let mut scene = Scene::new();
    let node = scene.message("g1", &[], None);
    let carol = scene.carol.connection;
    assert_eq!(scene.error(carol, &node).as_deref(), Some("403"));
    let alice = scene.alice.connection;
    let mut by_number = node.clone();
    by_number.attrs.insert("addressing_mode", "pn");
    assert_eq!(scene.error(alice, &by_number).as_deref(), Some("421"));
    assert!(scene.hub.ledger().violations().is_empty());
    let mut nowhere = node;
    nowhere.attrs.insert("to", "120363000000000000@g.us");
    assert_eq!(scene.error(alice, &nowhere).as_deref(), Some("404"));
    let invented = [scene.lid(scene.bob.device).with_device(77)];
    let node = scene.message("g2", &invented, None);
    assert_eq!(scene.error(alice, &node).as_deref(), Some("400"));
    assert_eq!(scene.hub.ledger().violations().len(), 2);
}

#[test]
fn a_resend_goes_to_the_one_device_that_asked() {
    let mut scene = Scene::new();
    let other = link(&mut scene.hub, scene.bob.device.account);
    let mut other = log_in(&mut scene.hub, other, true);
    activate(&mut scene.hub, &other);
    other.received();
    scene.bob.received();
    let retry = NodeBuilder::new("receipt")
        .attr("id", "g1")
        .attr("type", "retry")
        .attr("to", scene.group.clone())
        .attr("participant", scene.lid(scene.alice.device))
        .build();
    scene.alice.received();
    scene.hub.on_wire(scene.bob.connection, &retry);
    let asked = scene.alice.received().remove(0);
    assert!(wire::attr_is(&asked, "type", "retry"));
    let by = wire::jid_attr(&asked, "participant");
    assert_eq!(by, Some(scene.lid(scene.bob.device)));
    scene.bob.received();

    let mut resend = scene.message("g1", &[], None);
    resend
        .attrs
        .insert("participant", scene.lid(scene.bob.device));
    scene.hub.on_wire(scene.alice.connection, &resend);
    assert_eq!(tags(&scene.bob.received()), ["message"]);
    assert_eq!(tags(&other.received()), Vec::<String>::new());
}

#[test]
fn receipts_name_the_reader_and_reads_reach_the_readers_other_devices() {
    let mut scene = Scene::new();
    let other = link(&mut scene.hub, scene.bob.device.account);
    let mut other = log_in(&mut scene.hub, other, true);
    activate(&mut scene.hub, &other);
    other.received();
    scene.alice.received();
    let receipt = NodeBuilder::new("receipt")
        .attr("id", "g1")
        .attr("type", "read")
        .attr("to", scene.group.clone())
        .attr("participant", scene.lid(scene.alice.device).to_non_ad())
        .build();
    scene.hub.on_wire(scene.bob.connection, &receipt);
    let seen = scene.alice.received().remove(0);
    assert_eq!(wire::jid_attr(&seen, "from"), Some(scene.group.clone()));
    let reader = wire::jid_attr(&seen, "participant");
    assert_eq!(reader, Some(scene.lid(scene.bob.device)));
    let own = other.received().remove(0);
    assert!(wire::attr_is(&own, "type", "read-self"));
    assert_eq!(wire::jid_attr(&own, "from"), Some(scene.group.clone()));
    // Nobody reports on a group it is not in.
    scene.hub.on_wire(scene.carol.connection, &receipt);
    assert!(scene.alice.received().is_empty());
}

#[test]
fn members_ask_about_their_group_and_nobody_else_does() {
    let mut scene = Scene::new();
    let query = || {
        NodeBuilder::new("query")
            .attr("request", "interactive")
            .build()
    };
    let answer = scene.ask(|s| &mut s.bob, "get", query());
    let group = answer.get_optional_child("group").unwrap();
    assert!(wire::attr_is(group, "id", &scene.group.user));
    assert!(wire::attr_is(group, "subject", "Shop"));
    let members: Vec<&Node> = group.get_children_by_tag("participant").collect();
    assert_eq!(members.len(), 2);
    assert!(wire::attr_is(members[0], "type", "superadmin"));
    let pn = wire::jid_attr(members[1], "phone_number").unwrap();
    assert_eq!(pn, pn_of(&scene, scene.bob.device));

    // Whoever knows the members is told nothing.
    let known: Vec<Jid> = members
        .iter()
        .map(|member| wire::jid_attr(member, "jid").unwrap())
        .collect();
    let mut again = query();
    let phash = MessageUtils::participant_list_hash(&known).unwrap();
    again.attrs.insert("phash", phash);
    let answer = scene.ask(|s| &mut s.bob, "get", again);
    assert!(wire::attr_is(&answer, "type", "result"));
    assert!(answer.get_optional_child("group").is_none());

    let refused = scene.ask(|s| &mut s.carol, "get", query());
    let error = refused.get_optional_child("error").unwrap();
    assert!(wire::attr_is(error, "code", "403"));
    let participating = NodeBuilder::new("participating").build();
    let everywhere = Jid::group("");
    for (who, count) in [(0, 1), (1, 0)] {
        let who: fn(&mut Scene) -> &mut Client = match who {
            0 => |s| &mut s.alice,
            _ => |s| &mut s.carol,
        };
        let answer = scene.ask_at(who, "get", &everywhere, participating.clone());
        let groups = answer.get_optional_child("groups").unwrap();
        assert_eq!(groups.get_children_by_tag("group").count(), count);
    }
}

#[test]
fn changes_by_a_client_are_answered_and_told_to_everybody_concerned() {
    let mut scene = Scene::new();
    let carol = scene.lid(scene.carol.device).to_non_ad();
    let refused = scene.ask(
        |s| &mut s.bob,
        "set",
        named("add", std::slice::from_ref(&carol)),
    );
    let error = refused.get_optional_child("error").unwrap();
    assert!(wire::attr_is(error, "code", "403"), "not an admin");

    let add = named(
        "add",
        &[carol.clone(), scene.lid(scene.bob.device).to_non_ad()],
    );
    let answer = scene.ask(|s| &mut s.alice, "set", add);
    let told: Vec<Option<String>> = answer
        .get_optional_child("add")
        .unwrap()
        .get_children_by_tag("participant")
        .map(|person| wire::attr(person, "error").map(Cow::into_owned))
        .collect();
    assert_eq!(told, [None, Some("409".to_owned())]);
    let heard = scene.bob.received().remove(0);
    assert!(wire::attr_is(&heard, "type", "w:gp2"));
    let added = heard.get_optional_child("add").unwrap();
    assert_eq!(added.get_children_by_tag("participant").count(), 1);
    // A newcomer is told of the whole group.
    let welcome = scene.carol.received().remove(0);
    let group = welcome
        .get_optional_child_by_tag(&["create", "group"])
        .unwrap();
    assert_eq!(group.get_children_by_tag("participant").count(), 3);

    let leave = NodeBuilder::new("leave")
        .children([NodeBuilder::new("group")
            .attr("id", scene.group.clone())
            .build()])
        .build();
    let everywhere = Jid::group("");
    scene.ask_at(|s| &mut s.carol, "set", &everywhere, leave);
    let heard = scene.bob.received().remove(0);
    assert!(heard.get_optional_child("remove").is_some());
    let node = scene.message("g9", &[], None);
    let carol = scene.carol.connection;
    assert_eq!(scene.error(carol, &node).as_deref(), Some("403"));

    let subject = NodeBuilder::new("subject")
        .string_content("Back room")
        .build();
    scene.ask(|s| &mut s.alice, "set", subject);
    let heard = scene.bob.received().remove(0);
    let renamed = heard.get_optional_child("subject").unwrap();
    assert!(wire::attr_is(renamed, "subject", "Back room"));
}

#[test]
fn admins_are_made_and_unmade_but_the_founder_stays() {
    let mut scene = Scene::new();
    let (alice, bob) = (scene.alice.device.account, scene.bob.device.account);
    let group = scene.group.clone();
    let change = |scene: &mut Scene, by, change| scene.hub.change_group(by, &group, &change);
    let promoted = change(&mut scene, alice, GroupChange::Promote(vec![bob]));
    assert_eq!(promoted, Ok(vec![(bob, 200)]));
    let removed = change(&mut scene, bob, GroupChange::Remove(vec![alice]));
    assert_eq!(removed, Ok(vec![(alice, 406)]));
    let demoted = change(&mut scene, alice, GroupChange::Demote(vec![bob]));
    assert_eq!(demoted, Ok(vec![(bob, 200)]));
    let refused = change(&mut scene, bob, GroupChange::Remove(vec![alice]));
    assert!(matches!(refused, Err(GroupError::NotAnAdmin(..))));
    let refused = change(&mut scene, alice, GroupChange::Subject(" ".into()));
    assert_eq!(refused, Err(GroupError::BadSubject));
}
