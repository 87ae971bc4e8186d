//! What is said in groups, by every member.

use trunkline::pb;
use trunkline::pb::event::Payload;

use crate::world::{PATIENCE, World, e164, is_change, phone_of};

#[tokio::test(flavor = "multi_thread")]
async fn texts_go_both_ways_and_reach_every_device_of_a_member() {
    let world = World::new().await;
    // Ana's second device is held by the same daemon.
    world.hold("ana", &world.ana).await;
    let group = world.group();
    let created = world
        .event("the group is announced", "shop", |p| is_change(p, "create"))
        .await;
    let Some(Payload::GroupChange(change)) = &created.payload else {
        unreachable!();
    };
    assert_eq!(change.subject.as_deref(), Some("Team"));
    assert_eq!(phone_of(change.actor.as_ref()), e164(&world.ben));
    assert_eq!(change.participants.len(), 3);

    // In: the same chat for everybody's messages, the sender under every name.
    world.ben.send_to_group(&group, "from ben").unwrap();
    let (event, message) = world.text("shop", "from ben").await;
    assert_eq!(
        message.chat.as_ref().unwrap().provider_id,
        Some(group.jid())
    );
    let sender = message.sender.as_ref();
    assert_eq!(phone_of(sender), e164(&world.ben));
    assert_eq!(
        sender.and_then(|s| s.lid.clone()),
        Some(format!("{}@lid", world.ben.lid()))
    );
    assert!(!message.from_me);
    world.ana.send_to_group(&group, "from ana").unwrap();
    let (other, message) = world.text("shop", "from ana").await;
    assert_eq!(phone_of(message.sender.as_ref()), e164(&world.ana));
    assert_eq!(other.ordering_key, event.ordering_key);
    assert_eq!(created.ordering_key, event.ordering_key);
    let (_, own) = world.text("ana", "from ana").await;
    assert!(own.from_me, "written on ana's phone");

    // Out: every member's phone, Ana's other device, and the shop's own phone.
    let sent = world.send(&group, "from the shop").await;
    world.shown(&world.ana, "from the shop").await;
    world.shown(&world.ben, "from the shop").await;
    let (_, received) = world.text("ana", "from the shop").await;
    assert_eq!(received.stanza_id, sent.stanza_id);
    assert_eq!(phone_of(received.sender.as_ref()), e164(&world.shop));
    let shop = world.shop.phone();
    world
        .simulator
        .wait_until(
            |truth| truth.sent(&shop).iter().any(|m| m.id == sent.stanza_id),
            PATIENCE,
        )
        .await
        .unwrap();

    // The first member's receipt moves the message; each member's is an event.
    world.reaches(&sent, pb::MessageState::Delivered).await;
    for member in [&world.ana, &world.ben] {
        let phone = e164(member);
        world
            .event("each member's delivery", "shop", |payload| {
                matches!(payload, Payload::Receipt(receipt)
                    if receipt.kind() == pb::ReceiptKind::Delivered
                        && receipt.stanza_ids.contains(&sent.stanza_id)
                        && phone_of(receipt.from.as_ref()) == phone)
            })
            .await;
    }
    world.ben.mark_read(std::slice::from_ref(&sent.stanza_id));
    world.reaches(&sent, pb::MessageState::Read).await;
    let read = world
        .event("who read it", "shop", |payload| {
            matches!(payload, Payload::Receipt(receipt)
                if receipt.kind() == pb::ReceiptKind::Read
                    && receipt.stanza_ids.contains(&sent.stanza_id))
        })
        .await;
    let Some(Payload::Receipt(receipt)) = read.payload else {
        unreachable!();
    };
    assert_eq!(phone_of(receipt.from.as_ref()), e164(&world.ben));
    assert_eq!(receipt.chat.unwrap().provider_id, Some(group.jid()));

    world.ben.set_group_subject(&group, "The team").unwrap();
    world
        .event("the new name", "shop", |payload| {
            matches!(payload, Payload::GroupChange(it)
                if it.change == "subject" && it.subject.as_deref() == Some("The team"))
        })
        .await;
    world.assert_clean();
}
