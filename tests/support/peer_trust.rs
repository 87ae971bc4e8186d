//! A peer that somebody trusts shows so. The same for every peer.

use serde_json::json;
use trunkline_simulator::{Fact, Truth};

use crate::peer::Peer;
use crate::world::{World, is_text, jid};

/// `privacy_token_sending_on_all_1_on_1_messages`: to be set before the peer is linked.
pub(crate) const SHOW_TOKENS: u32 = 10_518;

/// The customer gives the shop a token and then lets only those write who have one.
pub(crate) async fn is_shown(world: &World, shop: &mut Peer) {
    let (number, customer) = (world.shop.phone(), world.customer.phone());
    let device = format!("{number}:{}", world.shop.devices()[0].device);
    let notified = |truth: &Truth<'_>| {
        let confirmed = truth.ledger().facts().filter(|fact| {
            matches!(fact, Fact::Confirmed { class, by, .. }
                if class == "notification" && *by == device)
        });
        confirmed.count()
    };
    world.customer.send_text(&number, "I trust you").unwrap();
    shop.event("message", is_text("I trust you")).await;
    let before = world.simulator.look(notified);
    world.customer.trust(&number).unwrap();
    world
        .until("the token is taken", |truth| notified(truth) > before)
        .await;
    world.shop.lock_reach_out(true);
    let text = json!({ "jid": jid(&customer), "text": "thank you" });
    let sent = shop.ask("sendText", text).await;
    let sent = sent["key"]["id"].as_str().unwrap().to_owned();
    world
        .until("the customer reads it, with the token", |truth| {
            let shown = truth
                .ledger()
                .facts()
                .any(|fact| matches!(fact, Fact::TokenShown { id, .. } if *id == sent));
            shown && truth.inbox(&customer).iter().any(|m| m.id == sent)
        })
        .await;
}
