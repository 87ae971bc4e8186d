//! zapo-js and a number that Trunkline holds: the customer writes with zapo-js.

use serde_json::json;
use trunkline::pb;

use crate::held::{Inbox, delivered_by, hold_number, send_text, subscribe};
use crate::support::daemon::Daemon;
use crate::world::{World, is_status, is_text, jid};

#[tokio::test(flavor = "multi_thread")]
async fn it_talks_with_a_number_held_by_trunkline() {
    let world = World::new().await;
    let mut daemon = Daemon::prepare(&world.simulator.ws_url(), "");
    daemon.start().await;
    let channel = daemon.channel().await.unwrap();
    hold_number(&channel, &world).await;
    subscribe(&channel).await;
    let mut inbox = Inbox::open(&channel).await;
    let mut customer = world.linked_zapo(&world.customer, "customer").await;
    let (shop_phone, customer_phone) = (world.shop.phone(), world.customer.phone());
    let held = format!("{shop_phone}:1");
    for round in 0..3 {
        // In: an event at the core, and a delivery receipt from the held device itself.
        let question = format!("question {round}");
        let asked = json!({ "jid": jid(&shop_phone), "text": question });
        let sent = customer.ask("sendText", asked).await;
        let id = sent["key"]["id"].as_str().unwrap().to_owned();
        let message = inbox.text(&question).await;
        assert_eq!(message.stanza_id, id);
        assert!(!message.from_me);
        let sender = message.sender.unwrap();
        assert_eq!(sender.phone, Some(format!("+{customer_phone}")));
        world
            .until("the held device reports delivery", |truth| {
                delivered_by(truth, &held, &id)
            })
            .await;
        customer
            .event("status", is_status(&id, "DELIVERY_ACK"))
            .await;
        world.shop.mark_read(std::slice::from_ref(&id));
        customer.event("status", is_status(&id, "READ")).await;

        // Out: stored, taken by the server, delivered, read.
        let answer = format!("answer {round}");
        let stored = send_text(&channel, &customer_phone, &answer).await;
        let arrived = customer.event("message", is_text(&answer)).await;
        assert_eq!(arrived["key"]["id"], stored.stanza_id);
        inbox.status(&stored, pb::MessageState::Sent).await;
        inbox.status(&stored, pb::MessageState::Delivered).await;
        customer
            .ask("read", json!({ "keys": [arrived["key"]] }))
            .await;
        inbox.status(&stored, pb::MessageState::Read).await;
        assert_eq!(inbox.events_with(&question), 1);
        assert_eq!(customer.count("message", is_text(&answer)), 1);
    }
    world.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn it_gets_each_answer_once_although_trunkline_was_killed() {
    let world = World::new().await;
    let mut daemon = Daemon::prepare(&world.simulator.ws_url(), "");
    daemon.start().await;
    let mut channel = daemon.channel().await.unwrap();
    hold_number(&channel, &world).await;
    let mut customer = world.linked_zapo(&world.customer, "customer").await;
    let customer_phone = world.customer.phone();
    for round in 0..2 {
        let mut answers = Vec::new();
        for n in 0..4 {
            let answer = format!("answer {round}.{n}");
            answers.push(send_text(&channel, &customer_phone, &answer).await);
        }
        daemon.kill().await;
        daemon.start().await;
        channel = daemon.channel().await.unwrap();
        for answer in &answers {
            let id = answer.stanza_id.as_str();
            customer.event("message", |m| m["key"]["id"] == id).await;
            let shown = customer.count("message", |m| m["key"]["id"] == id);
            assert_eq!(shown, 1, "{answer:?}");
        }
    }
    world.assert_clean_but_cut();
}
