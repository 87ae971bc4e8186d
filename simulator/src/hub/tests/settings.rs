//! What an account decides about others.

use super::*;

fn category(name: &'static str, value: &'static str) -> Node {
    let category = NodeBuilder::new("category")
        .attr("name", name)
        .attr("value", value);
    NodeBuilder::new("privacy")
        .children([category.build()])
        .build()
}

/// The value of every setting in an answer, as `name=value`.
fn settings(answer: &Node) -> Vec<String> {
    let privacy = answer.get_optional_child("privacy").unwrap();
    privacy
        .get_children_by_tag("category")
        .map(|c| {
            let attr = |key| wire::attr(c, key).unwrap();
            format!("{}={}", attr("name"), attr("value"))
        })
        .collect()
}

#[test]
fn a_setting_that_was_changed_stays_changed_for_the_account_alone() {
    let (mut hub, mut alice, mut bob) = pair();
    let set = iq("privacy", "set", category("readreceipts", "none"));
    hub.on_wire(alice.connection, &set);
    assert!(settings(&alice.received().remove(0)).contains(&"readreceipts=none".to_owned()));
    let get = iq("privacy", "get", NodeBuilder::new("privacy").build());
    hub.on_wire(alice.connection, &get);
    let hers = settings(&alice.received().remove(0));
    assert!(hers.contains(&"readreceipts=none".to_owned()));
    assert!(hers.contains(&"last=all".to_owned()));
    hub.on_wire(bob.connection, &get);
    assert!(settings(&bob.received().remove(0)).contains(&"readreceipts=all".to_owned()));
    for wrong in [
        category("readreceipts", "contacts"),
        category("mood", "all"),
    ] {
        hub.on_wire(alice.connection, &iq("privacy", "set", wrong));
        assert!(wire::attr_is(&alice.received().remove(0), "type", "error"));
    }
}

#[test]
fn what_somebody_blocked_writes_is_accepted_and_goes_nowhere() {
    let (mut hub, mut alice, mut bob) = pair();
    let lid = hub.address(alice.device, Addressing::Lid).to_non_ad();
    let number = pn(&hub, alice.device).to_non_ad();
    let item = |jid: &Jid, action: &'static str| {
        let item = NodeBuilder::new("item").attr("jid", jid.clone());
        iq("blocklist", "set", item.attr("action", action).build())
    };
    hub.on_wire(bob.connection, &item(&number, "block"));
    assert!(wire::attr_is(&bob.received().remove(0), "type", "error"));
    hub.on_wire(bob.connection, &item(&lid, "block"));
    let list = bob.received().remove(0);
    let listed = list.get_optional_child_by_tag(&["list", "item"]).unwrap();
    assert_eq!(wire::jid_attr(listed, "jid"), Some(lid.clone()));

    let chat = pn(&hub, bob.device).to_non_ad();
    let devices = [chat.with_device(0), pn(&hub, bob.device)];
    hub.on_wire(alice.connection, &message("m1", &chat, &devices));
    assert!(!alice.received().remove(0).attrs.contains_key("error"));
    assert!(bob.received().is_empty());

    hub.on_wire(bob.connection, &item(&lid, "unblock"));
    bob.received();
    hub.on_wire(alice.connection, &message("m2", &chat, &devices));
    assert_eq!(tags(&bob.received()), ["message"]);
}
