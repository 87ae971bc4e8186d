//! Linking, the handshakes before it, and coming back.

use serde_json::json;
use trunkline_simulator::{Fact, Fault, FaultSpec, FaultTarget, NoisePattern};

use crate::peer::Peer;
use crate::world::{World, is_text, jid};

/// How the handshakes of the connections so far completed, in order.
fn handshakes(world: &World) -> Vec<NoisePattern> {
    let ledger = world.simulator.ledger();
    let patterns = ledger.facts().filter_map(|fact| match fact {
        Fact::Handshake { pattern, .. } => Some(*pattern),
        _ => None,
    });
    patterns.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_pairs_over_xx_and_comes_back_over_ik() {
    let world = World::new().await;
    let mut zapo = world.linked_zapo(&world.shop, "shop").await;
    let shop = world.shop.phone();
    let me = zapo.ask("status", json!({})).await["me"].clone();
    let device = world.shop.devices()[0].device;
    assert_eq!(me["id"], format!("{shop}:{device}@s.whatsapp.net"));
    assert_eq!(me["lid"], format!("{}:{device}@lid", world.shop.lid()));
    assert_eq!(handshakes(&world), [NoisePattern::Xx, NoisePattern::Ik]);
    zapo.ask("pause", json!({})).await;
    zapo.ask("resume", json!({})).await;
    zapo.event("open", |_| true).await;
    assert_eq!(handshakes(&world)[2..], [NoisePattern::Ik]);
    world.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn it_falls_back_to_xx_when_its_ik_is_declined() {
    let world = World::new().await;
    let mut zapo = world.linked_zapo(&world.shop, "shop").await;
    let declined = FaultSpec {
        target: FaultTarget::Account(world.shop.phone()),
        fault: Fault::DeclineIk,
        times: Some(1),
    };
    world.simulator.fault(declined).unwrap();
    for pattern in [NoisePattern::XxFallback, NoisePattern::Ik] {
        zapo.ask("pause", json!({})).await;
        zapo.ask("resume", json!({})).await;
        zapo.event("open", |_| true).await;
        assert_eq!(handshakes(&world).last(), Some(&pattern));
        let text = format!("by {pattern:?}");
        world
            .customer
            .send_text(&world.shop.phone(), &text)
            .unwrap();
        zapo.event("message", is_text(&text)).await;
    }
    world.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn it_refuses_a_chain_under_another_root() {
    let world = World::new().await;
    let mut root = world.simulator.root_public_key();
    root[0] ^= 1;
    let mut zapo = Peer::spawn("zapo", "stranger").await;
    let url = world.simulator.ws_url();
    let started = json!({
        "wsUrl": url,
        "rootKeyHex": hex::encode(root),
        "authDir": world.files.path().join("stranger"),
        "reconnects": 0,
    });
    let refused = zapo.try_ask("start", started).await;
    assert!(refused.is_err(), "{refused:?}");
    zapo.logged("intermediate certificate signature is invalid")
        .await;
    assert_eq!(handshakes(&world), [], "it never finished a handshake");
    assert_eq!(zapo.count("qr", |_| true), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_pairs_by_code() {
    let world = World::new().await;
    let mut zapo = world.peer("zapo", "shop").await;
    zapo.event("qr", |_| true).await;
    world.type_code(&world.shop, &mut zapo).await;
    zapo.event("open", |_| true).await;
    let (shop, customer) = (world.shop.phone(), world.customer.phone());
    world.customer.send_text(&shop, "welcome").unwrap();
    zapo.event("message", is_text("welcome")).await;
    let answer = json!({ "jid": jid(&customer), "text": "thank you" });
    let sent = zapo.ask("sendText", answer).await;
    let id = sent["key"]["id"].as_str().unwrap().to_owned();
    world
        .until("the customer sees it", |truth| {
            truth.inbox(&customer).iter().any(|m| m.id == id)
        })
        .await;
    world.assert_clean();
}
