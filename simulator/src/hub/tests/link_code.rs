//! What the server refuses of a client that shows a code; the honest way is in `tests/pairing_code.rs`.

use super::linking::{Applicant, apply};
use super::*;

fn register(stage: &'static str, jid: &Jid, children: Vec<Node>) -> Node {
    let child = NodeBuilder::new("link_code_companion_reg")
        .attr("jid", jid.clone())
        .attr("stage", stage)
        .children(children)
        .build();
    iq("md", "set", child)
}

fn hello_parts(applicant: &Applicant) -> Vec<Node> {
    vec![
        wire::leaf(
            "link_code_pairing_wrapped_companion_ephemeral_pub",
            vec![7; 80],
        ),
        wire::leaf("companion_server_auth_key_pub", applicant.noise.to_vec()),
        wire::leaf("companion_platform_id", b"1".to_vec()),
        wire::leaf("companion_platform_display", b"Chrome (Linux)".to_vec()),
        wire::leaf("link_code_pairing_nonce", vec![0]),
    ]
}

/// The error code of the answer, or none when it is a result.
fn answer(hub: &mut Hub, applicant: &mut Applicant, request: &Node) -> Option<String> {
    hub.on_wire(applicant.connection, request);
    let Ok(Outgoing::Stanza { node, .. }) = applicant.rx.try_recv() else {
        panic!("no answer");
    };
    let error = node.get_optional_child("error")?;
    wire::attr(error, "code").map(std::borrow::Cow::into_owned)
}

#[test]
fn a_request_that_is_not_the_connections_own_is_refused() {
    let (mut hub, _) = hub();
    let account = person(&mut hub, "15550100001");
    let jid = Jid::pn("15550100001");
    let mut applicant = apply(&mut hub, |_| {});
    let good = hello_parts(&applicant);
    for (position, bad) in [
        (0, vec![7; 79]),
        (1, vec![9; 32]),
        (2, Vec::new()),
        (3, b"My own brand".to_vec()),
        (4, Vec::new()),
    ] {
        let mut parts = good.clone();
        parts[position].content = Some(wacore_binary::NodeContent::Bytes(bad));
        let request = register("companion_hello", &jid, parts);
        let refused = answer(&mut hub, &mut applicant, &request);
        assert_eq!(refused.as_deref(), Some("400"), "part {position}");
    }
    let unknown = register("companion_hello", &Jid::pn("15559999999"), good.clone());
    let refused = answer(&mut hub, &mut applicant, &unknown);
    assert_eq!(refused.as_deref(), Some("400"));
    assert!(hub.challenge(account).is_err());

    let request = register("companion_hello", &jid, good);
    assert_eq!(answer(&mut hub, &mut applicant, &request), None);
    assert!(hub.challenge(account).is_ok());
}

#[test]
fn a_finish_nobody_asked_for_or_with_foreign_keys_links_nothing() {
    let (mut hub, _) = hub();
    let account = person(&mut hub, "15550100001");
    let jid = Jid::pn("15550100001");
    let mut applicant = apply(&mut hub, |_| {});
    let hello = register("companion_hello", &jid, hello_parts(&applicant));
    hub.on_wire(applicant.connection, &hello);
    let Ok(Outgoing::Stanza { node, .. }) = applicant.rx.try_recv() else {
        panic!("no answer");
    };
    let path = ["link_code_companion_reg", "link_code_pairing_ref"];
    let reference = wire::bytes(node.get_optional_child_by_tag(&path).unwrap()).to_vec();
    let finish = |identity: Vec<u8>| {
        let parts = vec![
            wire::leaf("link_code_pairing_ref", reference.clone()),
            wire::leaf("companion_identity_public", identity),
            wire::leaf("link_code_pairing_wrapped_key_bundle", vec![1; 156]),
        ];
        register("companion_finish", &jid, parts)
    };
    let own = public_bytes(&applicant.identity).to_vec();
    let early = answer(&mut hub, &mut applicant, &finish(own.clone()));
    assert_eq!(early.as_deref(), Some("400"), "no phone said hello");

    let say_hello = |hub: &mut Hub, applicant: &mut Applicant| {
        let (reference, hello) = hub.challenge(account).unwrap().enter("ABCD1234");
        hub.primary_hello(account, &reference, hello).unwrap();
        assert!(applicant.rx.try_recv().is_ok(), "primary_hello");
    };
    say_hello(&mut hub, &mut applicant);
    let foreign = answer(&mut hub, &mut applicant, &finish(vec![9; 32]));
    assert_eq!(foreign.as_deref(), Some("400"));

    // Taken by the server, which cannot read it; refused by the phone, which can not either.
    say_hello(&mut hub, &mut applicant);
    assert_eq!(answer(&mut hub, &mut applicant, &finish(own)), None);
    let refused = hub.ledger().facts().last();
    assert!(
        matches!(refused, Some(Fact::CodeRefused { .. })),
        "{refused:?}"
    );
    assert_eq!(hub.directory.account(account).companions(), 0);
}
