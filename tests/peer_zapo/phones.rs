//! zapo-js and the phones of simulated people.

use serde_json::json;
use trunkline_simulator::{Fact, Outbound, Truth};

use crate::calls;
use crate::peer::Peer;
use crate::trust;
use crate::world::{World, is_status, is_text, jid};

/// Writes a text and returns its id.
async fn write(zapo: &mut Peer, phone: &str, text: &str) -> String {
    let sent = zapo
        .ask("sendText", json!({ "jid": jid(phone), "text": text }))
        .await;
    sent["key"]["id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_talks_to_a_phone_with_receipts_both_ways() {
    let world = World::new().await;
    let mut zapo = world.linked_zapo(&world.shop, "shop").await;
    let (shop, customer) = (world.shop.phone(), world.customer.phone());
    for round in 0..3 {
        let offer = format!("offer {round}");
        let id = write(&mut zapo, &customer, &offer).await;
        world
            .until("the customer sees it", |truth| {
                truth.inbox(&customer).iter().any(|m| m.text == offer)
            })
            .await;
        zapo.event("status", is_status(&id, "DELIVERY_ACK")).await;
        world.customer.mark_read(std::slice::from_ref(&id));
        zapo.event("status", is_status(&id, "READ")).await;

        // By phone number and by LID, as official phones write now.
        let question = format!("question {round}");
        let asked = if round == 1 {
            world.customer.send_text_by_lid(&shop, &question).unwrap()
        } else {
            world.customer.send_text(&shop, &question).unwrap()
        };
        let message = zapo.event("message", is_text(&question)).await;
        assert_eq!(message["key"]["id"], asked);
        assert_eq!(message["key"]["fromMe"], false);
        assert_eq!(message["pushName"], "Ada Customer");
        let reached = |truth: &Truth<'_>, check: fn(&Outbound) -> bool| {
            let sent = truth.sent(&customer);
            sent.iter().any(|m| m.id == asked && check(m))
        };
        world
            .until("the customer sees two ticks", |truth| {
                reached(truth, |m| m.delivered.is_some())
            })
            .await;
        zapo.ask("read", json!({ "keys": [message["key"]] })).await;
        world
            .until("the customer sees them turn blue", |truth| {
                reached(truth, |m| m.read.is_some())
            })
            .await;
    }
    let inbox = world.customer.inbox();
    assert!(inbox.iter().all(|m| m.displays == 1), "{inbox:#?}");
    // The shop's own phone has what its companion sent.
    let texts: Vec<String> = world.shop.sent().into_iter().map(|m| m.text).collect();
    assert_eq!(texts, ["offer 0", "offer 1", "offer 2"]);
    world.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn it_gets_what_came_while_it_was_away_once_and_in_order() {
    const WAITING: usize = 12;
    let world = World::new().await;
    let mut zapo = world.linked_zapo(&world.shop, "shop").await;
    let shop = world.shop.phone();
    world.customer.send_text(&shop, "before").unwrap();
    zapo.event("message", is_text("before")).await;

    zapo.ask("pause", json!({})).await;
    world
        .until("it is gone", |truth| !truth.is_online(&shop, 1))
        .await;
    let waiting: Vec<String> = (0..WAITING).map(|n| format!("waiting {n}")).collect();
    for text in &waiting {
        world.customer.send_text(&shop, text).unwrap();
    }
    zapo.ask("resume", json!({})).await;
    for text in &waiting {
        zapo.event("message", is_text(text)).await;
    }
    world
        .until("nothing waits any more", |truth| {
            truth.backlog(&shop, 1) == 0
        })
        .await;
    for text in &waiting {
        assert_eq!(zapo.count("message", is_text(text)), 1, "{text}");
    }
    world.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn it_asks_again_for_what_it_cannot_open_after_it_lost_its_state() {
    let world = World::new().await;
    let mut zapo = world.linked_zapo(&world.shop, "shop").await;
    let (shop, customer) = (world.shop.phone(), world.customer.phone());
    world.customer.send_text(&shop, "before").unwrap();
    zapo.event("message", is_text("before")).await;
    write(&mut zapo, &customer, "answer before").await;
    // Its credentials are in a file; sessions and prekeys are gone with the process.
    drop(zapo);
    world
        .until("it is gone", |truth| !truth.is_online(&shop, 1))
        .await;
    let id = world.customer.send_text(&shop, "after").unwrap();
    let mut zapo = world.peer("zapo", "shop").await;
    let message = zapo.event("message", is_text("after")).await;
    assert_eq!(message["key"]["id"], id);
    let ledger = world.simulator.ledger();
    let device = format!("{shop}:1");
    let retries = ledger.facts().filter(|fact| {
        matches!(fact, Fact::Receipt { from, kind, ids, .. }
            if *from == device && kind == "retry" && ids.contains(&id))
    });
    assert!(retries.count() > 0, "it asked for another copy");
    let sent = world.customer.sent();
    let resent = sent.iter().find(|m| m.id == id).unwrap();
    assert!(resent.resends > 0);

    // And the conversation goes on.
    let id = write(&mut zapo, &customer, "answer after").await;
    world
        .until("the customer sees it", |truth| {
            truth.inbox(&customer).iter().any(|m| m.id == id)
        })
        .await;
    world.assert_clean_but_cut();
}

#[tokio::test(flavor = "multi_thread")]
async fn it_hears_calls_and_shows_the_token_of_who_trusts_it() {
    let world = World::new().await;
    world.shop.set_prop(trust::SHOW_TOKENS, "true");
    let mut zapo = world.linked_zapo(&world.shop, "shop").await;
    calls::rings_and_ends(&world, &mut zapo).await;
    trust::is_shown(&world, &mut zapo).await;
    world.assert_clean();
}
