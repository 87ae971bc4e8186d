use wacore_binary::Node;

use super::world::{World, group_jid};
use crate::phone::{PhoneError, ReceiptKind, ViolationKind};

/// Four people, the first three in the group.
fn group(seed: u64) -> World {
    let mut world = World::new(4, seed);
    world.net.group = vec![0, 1, 2];
    world
}

fn texts(world: &World, account: usize) -> Vec<&str> {
    let inbox = world.phone(account).inbox().iter();
    inbox.map(|shown| shown.text.as_str()).collect()
}

/// How many devices the newest message to the group carried the key for.
fn keys_sent(world: &World) -> usize {
    let newest = |node: &&Node| node.tag == "message" && node.attrs.contains_key("phash");
    let stanza = world.sent.iter().rev().find(newest).expect("sent");
    stanza
        .get_optional_child("participants")
        .map_or(0, |list| list.get_children_by_tag("to").count())
}

#[test]
fn a_text_reaches_everybody_and_the_key_travels_once() {
    let mut world = group(60);
    let id = world.group_text(0, "first");
    assert_eq!(keys_sent(&world), 2);
    world.settle();
    world.group_text(0, "second");
    assert_eq!(keys_sent(&world), 0);
    world.settle();
    for member in [1, 2] {
        assert_eq!(texts(&world, member), ["first", "second"]);
        let shown = &world.phone(member).inbox()[0];
        assert_eq!(shown.group, Some(group_jid()));
        assert_eq!(shown.lid, Some(world.lid(0)));
        assert_eq!(shown.pn, Some(world.pn(0)));
    }
    // Each reader is told apart.
    let (phone, net) = world.phone_mut(1);
    let read = phone.mark_read(std::slice::from_ref(&id), net);
    for receipt in read {
        world.post((1, 0), &receipt);
    }
    world.settle();
    let sent = &world.phone(0).outbox()[0];
    assert_eq!(sent.to, group_jid());
    let by = |kind: ReceiptKind| -> Vec<_> {
        let matching = sent.receipts.iter().filter(|receipt| receipt.kind == kind);
        matching.map(|receipt| receipt.from.clone()).collect()
    };
    assert_eq!(by(ReceiptKind::Delivered), [world.lid(1), world.lid(2)]);
    assert_eq!(by(ReceiptKind::Read), [world.lid(1)]);
    world.no_violations();
}

#[test]
fn whoever_has_left_cannot_read_on_and_newcomers_read_from_then_on() {
    let mut world = group(61);
    world.group_text(0, "for three");
    world.settle();
    world.net.group = vec![0, 1, 3];
    world.group_text(0, "without the third");
    assert_eq!(keys_sent(&world), 2, "a new key for everybody who is left");
    // A server that goes on delivering to whoever left shows them nothing.
    let mut leaked = world.wire.front().expect("under way").clone();
    leaked.to = (2, 0);
    world.settle();
    world.deliver(&leaked);
    assert_eq!(texts(&world, 1), ["for three", "without the third"]);
    assert_eq!(texts(&world, 3), ["without the third"]);
    assert_eq!(texts(&world, 2), ["for three"]);
    let (phone, net) = world.phone_mut(2);
    let refused = phone.send_group_text(&group_jid(), "still here?", net);
    assert!(matches!(refused, Err(PhoneError::NotInGroup(_))));
}

#[test]
fn a_phone_that_lost_its_keys_gets_the_message_by_asking() {
    let mut world = group(62);
    world.group_text(0, "one");
    world.settle();
    world.phone_mut(1).0.lose_sessions();
    world.group_text(0, "two");
    world.settle();
    world.group_text(0, "three");
    assert_eq!(keys_sent(&world), 1, "the key again for the one that asked");
    world.settle();
    assert_eq!(texts(&world, 1), ["one", "two", "three"]);
    assert!(world.phone(1).undecryptable().is_empty());
    assert!(world.phone(0).outbox()[1].resends > 0);
    assert_eq!(texts(&world, 2), ["one", "two", "three"]);
    assert!(
        world
            .phone(2)
            .inbox()
            .iter()
            .all(|shown| shown.duplicates == 0)
    );
    world.no_violations();
}

#[test]
fn gaps_are_accepted_and_a_redelivery_is_told_from_a_reuse() {
    let mut world = group(63);
    world.group_text(0, "one");
    world.settle();
    world.group_text(0, "lost on the way");
    world.wire.clear();
    world.group_text(0, "three");
    let again = world.wire.front().expect("under way").clone();
    world.settle();
    world.deliver(&again);
    world.settle();
    assert_eq!(texts(&world, 1), ["one", "three"]);
    assert_eq!(world.phone(1).inbox()[1].redeliveries, 1);
    world.no_violations();

    let mut replay = again;
    replay.stanza.attrs.insert("id", "ANOTHER");
    world.deliver(&replay);
    let violations = world.phone(1).violations();
    assert_eq!(
        violations[0].kind,
        ViolationKind::CounterReused { counter: 2 }
    );
    assert_eq!(texts(&world, 1), ["one", "three"]);
}

#[test]
fn a_sender_that_goes_back_to_an_old_key_reuses_an_iteration() {
    let mut world = group(64);
    world.group_text(0, "one");
    world.settle();
    let backup = world.phone_mut(0).0.sender_keys.backup();
    world.group_text(0, "before the crash");
    world.settle();
    world.phone_mut(0).0.sender_keys.restore(backup);
    world.group_text(0, "after the crash");
    world.settle();
    for member in [1, 2] {
        let violations = world.phone(member).violations();
        let kinds: Vec<_> = violations.iter().map(|v| v.kind.clone()).collect();
        assert_eq!(kinds, [ViolationKind::CounterReused { counter: 1 }]);
        assert_eq!(texts(&world, member), ["one", "before the crash"]);
    }
}

#[test]
fn a_key_for_another_group_is_refused() {
    let mut world = group(65);
    world.group_text(0, "one");
    for delivery in &mut world.wire {
        if delivery.stanza.tag == "message" {
            delivery
                .stanza
                .attrs
                .insert("from", "120363000000000002@g.us");
        }
    }
    let delivery = world.wire.pop_front().expect("under way");
    world.deliver(&delivery);
    let violations = world.phone(1).violations();
    assert_eq!(violations[0].kind, ViolationKind::BadDistribution);
    assert!(world.phone(1).inbox().is_empty());
}

#[test]
fn the_same_seed_makes_the_same_messages() {
    let run = || {
        let mut world = group(66);
        world.group_text(0, "one");
        world.group_text(1, "two");
        world.settle();
        world.sent
    };
    assert_eq!(run(), run());
}
