//! What was said before the client was linked.

use std::time::Duration;

use serde_json::Value;
use trunkline_simulator::Fact;

use crate::support::eventually;
use crate::world::{World, is_text};

const PATIENCE: Duration = Duration::from_mins(3);
/// More than the first chunk has: the rest comes from the media host.
const SAID: usize = 13;

fn old(n: usize) -> String {
    format!("old words no {n:03}")
}

fn has(kind: &'static str, text: &str, from_me: bool) -> impl Fn(&Value) -> bool {
    let text = text.to_owned();
    move |event| {
        let texts = event["texts"].as_array();
        event["type"] == kind
            && texts.is_some_and(|texts| {
                texts
                    .iter()
                    .any(|it| it["text"] == *text && it["key"]["fromMe"] == from_me)
            })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn old_conversations_come_as_history_and_none_as_a_message() {
    let world = World::new().await;
    let said: Vec<(String, bool)> = (0..SAID).map(|n| (old(n), n % 3 == 0)).collect();
    for (text, from_me) in &said {
        let (by, to) = if *from_me {
            (&world.customer, &world.shop)
        } else {
            (&world.shop, &world.customer)
        };
        by.send_text(&to.phone(), text).unwrap();
    }
    let shop = world.shop.phone();
    let group = world.customer.create_group("Old friends", &[&shop]);
    world
        .shop
        .send_to_group(&group.unwrap(), "old words for all")
        .unwrap();
    let mut baileys = world.linked_baileys(&world.customer, "customer").await;
    eventually("the chats have their names", PATIENCE, async || {
        let has = |event: &Value, chat: &str| {
            let chats = event["names"].as_array();
            chats.is_some_and(|chats| chats.iter().any(|name| name == chat))
        };
        baileys.count("history", |event| {
            has(event, "Old friends") && has(event, "Corner Shop")
        }) > 0
    })
    .await;
    for (n, (text, from_me)) in said.iter().enumerate() {
        let kind = if n + 10 >= SAID {
            "INITIAL_BOOTSTRAP"
        } else {
            "RECENT"
        };
        eventually("it is in the history", PATIENCE, async || {
            baileys.count("history", has(kind, text, *from_me)) == 1
        })
        .await;
    }
    let ledger = world.simulator.ledger();
    let fetched = ledger
        .facts()
        .any(|fact| matches!(fact, Fact::MediaFetched { kind, .. } if kind == "md-msg-hist"));
    assert!(fetched, "the older part came from the media host");

    world
        .shop
        .send_text(&world.customer.phone(), "new words")
        .unwrap();
    baileys.event("message", is_text("new words")).await;
    assert_eq!(baileys.count("message", |_| true), 1, "nothing old is new");
    world.assert_clean();
}
