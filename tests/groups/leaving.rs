//! Whoever is not in a group any more.

use trunkline::pb;
use trunkline::pb::event::Payload;
use trunkline_simulator::Fact;

use crate::support::core;
use crate::world::{World, e164, phone_of};

#[tokio::test(flavor = "multi_thread")]
async fn whoever_was_removed_gets_nothing_further() {
    let world = World::new().await;
    let group = world.group();
    world.send(&group, "for all").await;
    world.shown(&world.ana, "for all").await;

    // Ana goes: what follows is under a key she was never given.
    world
        .ben
        .remove_from_group(&group, &[&world.ana.phone()])
        .unwrap();
    let ana = e164(&world.ana);
    world
        .event("she is gone", "shop", |payload| {
            matches!(payload, Payload::GroupChange(it) if it.change == "remove"
                && it.participants.iter().any(|p| phone_of(Some(p)) == ana))
        })
        .await;
    let sent = world.send(&group, "without ana").await;
    world.shown(&world.ben, "without ana").await;
    let ledger = world.simulator.ledger();
    let recipients = ledger.facts().find_map(|fact| match fact {
        Fact::MessageAccepted { id, recipients, .. } if *id == sent.stanza_id => Some(recipients),
        _ => None,
    });
    let hers = format!("{}:", world.ana.phone());
    assert!(
        recipients
            .unwrap()
            .iter()
            .all(|device| !device.starts_with(&hers))
    );

    // The shop goes: nothing reaches it, and what it sends is refused, once and for all.
    world
        .ben
        .remove_from_group(&group, &[&world.shop.phone()])
        .unwrap();
    let shop = e164(&world.shop);
    world
        .event("so is the shop", "shop", |payload| {
            matches!(payload, Payload::GroupChange(it) if it.change == "remove"
                && it.participants.iter().any(|p| phone_of(Some(p)) == shop))
        })
        .await;
    let unheard = world.ben.send_to_group(&group, "alone at last").unwrap();
    let refused = world.send(&group, "still there?").await;
    world.reaches(&refused, pb::MessageState::Failed).await;
    let refused = core::message(&world.channel().await, &refused.name)
        .await
        .unwrap();
    assert_eq!(refused.failure.unwrap().reason, "NOT_IN_GROUP");
    // A message between two is behind whatever was sent to the group.
    world.ben.send_text(&world.shop.phone(), "goodbye").unwrap();
    world.text("shop", "goodbye").await;
    let arrivals = core::arrivals(&world.journal().await);
    assert!(!arrivals.contains_key(&unheard));
    world.assert_clean();
}
