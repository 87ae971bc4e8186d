//! Tokens of trusted contacts.

use super::*;

fn tokens(jid: &Jid, kind: &'static str) -> Node {
    let token = NodeBuilder::new("token")
        .attr("jid", jid.clone())
        .attr("t", 1_795_000_000_u64)
        .attr("type", kind)
        .build();
    let tokens = NodeBuilder::new("tokens").children([token]).build();
    iq("privacy", "set", tokens)
}

#[test]
fn a_token_goes_to_who_is_trusted_and_is_good_with_its_giver_alone() {
    let (mut hub, mut alice, mut bob) = pair();
    let lid = hub.address(alice.device, Addressing::Lid).to_non_ad();
    hub.on_wire(bob.connection, &tokens(&lid, "trusted_contact"));
    assert!(wire::attr_is(&bob.received().remove(0), "type", "result"));
    let notice = alice.received().remove(0);
    assert!(wire::attr_is(&notice, "type", "privacy_token"));
    let token = notice.get_optional_child_by_tag(&["tokens", "token"]);
    let token = wire::bytes(token.unwrap()).to_vec();

    let chat = pn(&hub, bob.device).to_non_ad();
    let devices = [chat.with_device(0), pn(&hub, bob.device)];
    let with = |id: &str, token: &[u8]| {
        let mut node = message(id, &chat, &devices);
        let mut children = node.children().unwrap().to_vec();
        children.push(wire::leaf("tctoken", token));
        node.content = Some(wacore_binary::NodeContent::Nodes(children));
        node
    };
    hub.on_wire(alice.connection, &with("m1", &token));
    assert!(!alice.received().remove(0).attrs.contains_key("error"));
    let arrived = bob.received().remove(0);
    assert!(
        arrived.get_optional_child("tctoken").is_none(),
        "for the server"
    );

    hub.on_wire(alice.connection, &with("m2", b"invented"));
    assert!(wire::attr_is(&alice.received().remove(0), "error", "400"));
    assert_eq!(hub.ledger().violations().len(), 1);
    let shown = |fact: &&Fact| matches!(fact, Fact::TokenShown { .. });
    assert_eq!(hub.ledger().facts().filter(shown).count(), 1);
}

#[test]
fn a_locked_account_writes_to_nobody_who_does_not_trust_it_and_to_itself() {
    let (mut hub, mut alice, bob) = pair();
    hub.lock_reach_out(alice.device.account, true);
    let chat = pn(&hub, bob.device).to_non_ad();
    let devices = [chat.with_device(0), pn(&hub, bob.device)];
    hub.on_wire(alice.connection, &message("m1", &chat, &devices));
    assert!(wire::attr_is(&alice.received().remove(0), "error", "463"));
    assert!(hub.ledger().violations().is_empty(), "it could not know");
    let own = pn(&hub, alice.device).to_non_ad();
    hub.on_wire(
        alice.connection,
        &message("m2", &own, std::slice::from_ref(&own)),
    );
    assert!(!alice.received().remove(0).attrs.contains_key("error"));
}

#[test]
fn tokens_for_nobody_or_of_another_kind_are_refused() {
    let (mut hub, mut alice, bob) = pair();
    let known = pn(&hub, bob.device).to_non_ad();
    for (jid, kind, code) in [
        (Jid::pn("15559999999"), "trusted_contact", "404"),
        (known, "friend", "400"),
    ] {
        hub.on_wire(alice.connection, &tokens(&jid, kind));
        let answer = alice.received().remove(0);
        let error = answer.get_optional_child("error").unwrap();
        assert!(wire::attr_is(error, "code", code), "{answer:?}");
    }
}
