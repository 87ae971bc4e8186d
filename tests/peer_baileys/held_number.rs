//! Baileys and a number that Trunkline holds: the customer writes with Baileys.

use serde_json::json;
use trunkline::pb;

use crate::held::{Inbox, delivered_by, hold_number, send_text, subscribe};
use crate::peer::Peer;
use crate::support::daemon::Daemon;
use crate::world::{World, is_status, is_text, jid};

/// The customer writes with Baileys; returns the stanza id.
async fn write(customer: &mut Peer, phone: &str, text: &str) -> String {
    let sent = customer
        .ask("sendText", json!({ "jid": jid(phone), "text": text }))
        .await;
    sent["key"]["id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_talks_with_a_number_held_by_trunkline() {
    let world = World::new().await;
    let mut daemon = Daemon::prepare(&world.simulator.ws_url(), "");
    daemon.start().await;
    let channel = daemon.channel().await.unwrap();
    hold_number(&channel, &world).await;
    subscribe(&channel).await;
    let mut inbox = Inbox::open(&channel).await;
    let mut customer = world.linked_baileys(&world.customer, "customer").await;
    let (shop_phone, customer_phone) = (world.shop.phone(), world.customer.phone());
    let held = format!("{shop_phone}:1");

    for round in 0..3 {
        // In: an event at the core, a delivery receipt from the held device itself, and a read
        // receipt once the owner has opened the chat on the phone.
        let question = format!("question {round}");
        let id = write(&mut customer, &shop_phone, &question).await;
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
        assert_eq!(arrived["key"]["fromMe"], false);
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

/// Texts written in one burst.
const BURST: usize = 6;

/// Each burst goes one way and is over before the next begins: Baileys, when it sends and receives
/// at once, can use a message counter twice (`tests/peers/README.md`), and such a message is lost
/// to any recipient.
#[tokio::test(flavor = "multi_thread")]
async fn it_sees_nothing_lost_or_doubled_when_trunkline_is_killed() {
    let world = World::new().await;
    let mut daemon = Daemon::prepare(&world.simulator.ws_url(), "");
    daemon.start().await;
    let mut channel = daemon.channel().await.unwrap();
    hold_number(&channel, &world).await;
    subscribe(&channel).await;
    let mut customer = world.linked_baileys(&world.customer, "customer").await;
    let (shop_phone, customer_phone) = (world.shop.phone(), world.customer.phone());

    let mut questions = Vec::new();
    let mut answers = Vec::new();
    for round in 0..3 {
        for n in 0..BURST {
            let question = format!("question {round}.{n}");
            write(&mut customer, &shop_phone, &question).await;
            questions.push(question);
        }
        daemon.kill().await;
        daemon.start().await;
        channel = daemon.channel().await.unwrap();

        let already = answers.len();
        for n in 0..BURST {
            let answer = format!("answer {round}.{n}");
            answers.push(send_text(&channel, &customer_phone, &answer).await);
        }
        daemon.kill().await;
        daemon.start().await;
        channel = daemon.channel().await.unwrap();
        for answer in &answers[already..] {
            let id = answer.stanza_id.as_str();
            customer.event("message", |m| m["key"]["id"] == id).await;
        }
    }

    let mut inbox = Inbox::open(&channel).await;
    for question in &questions {
        inbox.text(question).await;
    }
    for answer in &answers {
        inbox.status(answer, pb::MessageState::Delivered).await;
    }
    for question in &questions {
        assert_eq!(inbox.events_with(question), 1, "{question}");
    }
    let ledger = world.simulator.ledger();
    let shown = ledger.displayed_by(&customer_phone);
    for answer in &answers {
        assert_eq!(shown.get(answer.stanza_id.as_str()), Some(&1), "{answer:?}");
    }
    world.assert_clean_but_cut();
}
