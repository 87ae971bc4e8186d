//! Baileys and the Signal sessions it holds with people: one per chat, mended when lost.

use serde_json::json;
use trunkline_simulator::{Fact, Inbound};

use crate::world::{World, is_text, jid};

#[tokio::test(flavor = "multi_thread")]
async fn it_knows_one_chat_under_both_names() {
    let world = World::new().await;
    let mut baileys = world.linked_baileys(&world.shop, "shop").await;
    let shop = world.shop.phone();
    for round in 0..3 {
        let text = format!("by number {round}");
        world.customer.send_text(&shop, &text).unwrap();
        baileys.event("message", is_text(&text)).await;
        let text = format!("by LID {round}");
        let id = world.customer.send_text_by_lid(&shop, &text).unwrap();
        let message = baileys.event("message", is_text(&text)).await;
        assert_eq!(message["key"]["id"], id);
        baileys
            .ask("read", json!({ "keys": [message["key"]] }))
            .await;
    }
    let customer = world.customer.phone();
    world
        .until("the customer sees what was read", |truth| {
            let read = truth.sent(&customer).iter().filter(|m| m.read.is_some());
            read.count() == 3
        })
        .await;
    // One session, whatever the name: one of Baileys' prekeys was used.
    let device = format!("{shop}:{}", world.shop.devices()[0].device);
    let ledger = world.simulator.ledger();
    let by_customer = format!("{customer}:0");
    let used = ledger.facts().filter(|fact| {
        matches!(fact, Fact::PrekeyTaken { device: of, by, .. } if *of == device && *by == by_customer)
    });
    assert_eq!(used.count(), 1);
    world.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn it_sends_again_to_phones_that_lost_their_sessions() {
    let world = World::new().await;
    let mut baileys = world.linked_baileys(&world.shop, "shop").await;
    let (shop, customer) = (world.shop.phone(), world.customer.phone());
    for text in ["one", "two", "three"] {
        let sent = baileys
            .ask("sendText", json!({ "jid": jid(&customer), "text": text }))
            .await;
        let id = sent["key"]["id"].as_str().unwrap().to_owned();
        let has = |messages: &[Inbound]| messages.iter().any(|m| m.id == id && m.text == text);
        world
            .until("the customer sees it", |truth| has(truth.inbox(&customer)))
            .await;
        // Its copy on the shop's own phone takes the same way.
        world
            .until("the shop's phone knows it", |truth| {
                truth
                    .sent(&shop)
                    .iter()
                    .any(|m| m.id == id && m.text == text)
            })
            .await;
        world.customer.lose_sessions();
        world.shop.lose_sessions();
    }
    let inbox = world.customer.inbox();
    assert!(inbox.iter().all(|m| m.displays == 1), "{inbox:#?}");
    let ledger = world.simulator.ledger();
    let retries = |by: &str| {
        let phone = format!("{by}:0");
        let of = ledger.facts().filter(
            |fact| matches!(fact, Fact::Receipt { from, kind, .. } if *from == phone && kind == "retry"),
        );
        of.count()
    };
    assert!(retries(&customer) > 0 && retries(&shop) > 0);
    world.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn it_pairs_by_code_and_talks_to_a_phone() {
    let world = World::new().await;
    let mut baileys = world.baileys_linked_by_code(&world.shop, "shop").await;
    let (shop, customer) = (world.shop.phone(), world.customer.phone());
    let sent = baileys
        .ask(
            "sendText",
            json!({ "jid": jid(&customer), "text": "linked by code" }),
        )
        .await;
    let id = sent["key"]["id"].as_str().unwrap().to_owned();
    world
        .until("the customer sees it", |truth| {
            truth.inbox(&customer).iter().any(|m| m.id == id)
        })
        .await;
    world.customer.send_text(&shop, "well done").unwrap();
    baileys.event("message", is_text("well done")).await;
    world.assert_clean();
}
