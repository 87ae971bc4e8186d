//! Baileys and the phones of simulated people: the simulator itself is judged.

use serde_json::json;
use trunkline_simulator::{Fact, NewAccount, Outbound, Simulator, SimulatorConfig, Truth};

use crate::calls;
use crate::peer::Peer;
use crate::trust;
use crate::world::{World, is_status, is_text, jid};

#[tokio::test(flavor = "multi_thread")]
async fn it_pairs_by_qr_and_talks_to_a_phone() {
    let world = World::new().await;
    let mut baileys = world.linked_baileys(&world.shop, "shop").await;
    let shop = world.shop.phone();
    let customer = world.customer.phone();

    let me = baileys.ask("status", json!({})).await["me"].clone();
    let device = world.shop.devices()[0].device;
    assert_eq!(me["id"], format!("{shop}:{device}@s.whatsapp.net"));
    assert_eq!(me["lid"], format!("{}:{device}@lid", world.shop.lid()));

    // Out: the phone shows it, and both receipts come back.
    let sent = baileys
        .ask(
            "sendText",
            json!({ "jid": jid(&customer), "text": "We are open." }),
        )
        .await;
    let id = sent["key"]["id"].as_str().unwrap().to_owned();
    world
        .until("the customer sees it", |truth| {
            truth
                .inbox(&customer)
                .iter()
                .any(|m| m.id == id && m.text == "We are open.")
        })
        .await;
    baileys
        .event("status", is_status(&id, "DELIVERY_ACK"))
        .await;
    world.customer.mark_read(std::slice::from_ref(&id));
    baileys.event("status", is_status(&id, "READ")).await;

    // In: Baileys shows it, and the phone gets both receipts.
    let reply = world.customer.send_text(&shop, "Until when?").unwrap();
    let message = baileys.event("message", is_text("Until when?")).await;
    assert_eq!(message["key"]["id"], reply);
    assert_eq!(message["key"]["fromMe"], false);
    assert_eq!(message["pushName"], "Ada Customer");
    let outbound = |truth: &Truth<'_>, check: fn(&Outbound) -> bool| {
        truth
            .sent(&customer)
            .iter()
            .any(|m| m.id == reply && check(m))
    };
    world
        .until("the customer sees two ticks", |truth| {
            outbound(truth, |m| m.delivered.is_some())
        })
        .await;
    baileys
        .ask("read", json!({ "keys": [message["key"]] }))
        .await;
    world
        .until("the customer sees them turn blue", |truth| {
            outbound(truth, |m| m.read.is_some())
        })
        .await;

    // A conversation, both ways, on the session that now exists.
    for round in 0..5 {
        let text = format!("shop {round}");
        let sent = baileys
            .ask("sendText", json!({ "jid": jid(&customer), "text": text }))
            .await;
        let id = sent["key"]["id"].as_str().unwrap().to_owned();
        let text = format!("customer {round}");
        world.customer.send_text(&shop, &text).unwrap();
        baileys.event("message", is_text(&text)).await;
        world
            .until("the round arrives", |truth| {
                truth.inbox(&customer).iter().any(|m| m.id == id)
            })
            .await;
    }
    assert_eq!(baileys.count("message", |m| m["key"]["fromMe"] == false), 6);
    assert!(
        world
            .customer
            .inbox()
            .iter()
            .all(|m| m.displays == 1 && m.duplicates == 0)
    );
    world.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn it_comes_back_with_its_credentials_and_gets_what_it_missed() {
    let world = World::new().await;
    let mut first = world.linked_baileys(&world.shop, "shop").await;
    let shop = world.shop.phone();
    let device = world.shop.devices()[0].device;
    world.customer.send_text(&shop, "before").unwrap();
    first.event("message", is_text("before")).await;
    first.ask("stop", json!({})).await;
    world
        .until("the server noticed", |truth| {
            !truth.is_online(&shop, device)
        })
        .await;

    for missed in 0..12 {
        world
            .customer
            .send_text(&shop, &format!("missed {missed}"))
            .unwrap();
    }
    let mut second = world.baileys("shop").await;
    second.event("open", |_| true).await;
    for missed in 0..12 {
        second
            .event("message", is_text(&format!("missed {missed}")))
            .await;
    }
    assert_eq!(second.count("qr", |_| true), 0, "it must not pair again");
    assert_eq!(second.count("message", |m| m["key"]["fromMe"] == false), 12);
    world
        .until("the queue is empty", |truth| {
            truth.backlog(&shop, device) == 0
        })
        .await;
    world.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_of_them_talk_and_every_device_of_both_people_sees_it() {
    let world = World::new().await;
    let mut shop = world.linked_baileys(&world.shop, "shop").await;
    let mut customer = world.linked_baileys(&world.customer, "customer").await;
    let (shop_phone, customer_phone) = (world.shop.phone(), world.customer.phone());
    let (shop_jid, customer_jid) = (jid(&shop_phone), jid(&customer_phone));

    for round in 0..3 {
        let offer = format!("offer {round}");
        let sent = shop
            .ask("sendText", json!({ "jid": customer_jid, "text": offer }))
            .await;
        let id = sent["key"]["id"].as_str().unwrap().to_owned();
        let arrived = customer.event("message", is_text(&offer)).await;
        assert_eq!(arrived["key"]["id"], id);
        shop.event("status", is_status(&id, "DELIVERY_ACK")).await;
        customer
            .ask("read", json!({ "keys": [arrived["key"]] }))
            .await;
        shop.event("status", is_status(&id, "READ")).await;
        world
            .until("both phones have it", |truth| {
                let shown = truth.inbox(&customer_phone).iter();
                let copied = truth.sent(&shop_phone).iter();
                shown.filter(|m| m.id == id).count() == 1
                    && copied.filter(|m| m.id == id).count() == 1
            })
            .await;

        let answer = format!("answer {round}");
        customer
            .ask("sendText", json!({ "jid": shop_jid, "text": answer }))
            .await;
        shop.event("message", is_text(&answer)).await;
    }

    // What the phone itself sends shows up on its companion as sent from here.
    let id = world
        .shop
        .send_text(&customer_phone, "from the phone")
        .unwrap();
    let copy = shop.event("message", is_text("from the phone")).await;
    assert_eq!(copy["key"]["id"], id);
    assert_eq!(copy["key"]["fromMe"], true);
    customer.event("message", is_text("from the phone")).await;
    world.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn it_pairs_over_tls_as_with_the_real_server() {
    let simulator = Simulator::bind(SimulatorConfig {
        wss: Some(([127, 0, 0, 1], 0).into()),
        ..SimulatorConfig::default()
    })
    .await
    .unwrap();
    let account = simulator
        .create_account(NewAccount::new("+15550100001", "Corner Shop"))
        .unwrap();
    let files = tempfile::tempdir().unwrap();
    let root = files.path().join("root.pem");
    std::fs::write(&root, simulator.tls_root_pem()).unwrap();

    let media = simulator.media_url();
    let trusted = (&*root, media.trim_start_matches("https://"));
    let mut baileys = Peer::spawn_trusting("baileys", "shop", Some(trusted)).await;
    let url = simulator.wss_url().unwrap();
    let root_key = hex::encode(simulator.root_public_key());
    baileys.start(&url, &root_key, files.path()).await;
    let qr = baileys.event("qr", |_| true).await;
    account.scan_qr(qr["payload"].as_str().unwrap()).unwrap();
    baileys.event("open", |_| true).await;

    let mut wary = Peer::spawn("baileys", "wary").await;
    wary.start(&url, &root_key, files.path()).await;
    let close = wary.event("close", |_| true).await;
    let message = close["message"].as_str().unwrap();
    assert!(
        message.contains("certificate"),
        "an unknown TLS root was accepted: {close}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn another_root_key_ends_the_handshake() {
    let world = World::new().await;
    let mut baileys = Peer::spawn("baileys", "stranger").await;
    let other = hex::encode([7u8; 32]);
    let url = world.simulator.ws_url();
    baileys.start(&url, &other, world.files.path()).await;
    let close = baileys.event("close", |_| true).await;
    let message = close["message"].as_str().unwrap();
    assert!(message.contains("certificate signature"), "{close}");
    assert_eq!(baileys.count("qr", |_| true), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn unlinking_on_the_phone_logs_it_out_and_logging_out_unlinks_it() {
    let world = World::new().await;
    let mut unlinked = world.linked_baileys(&world.shop, "unlinked").await;
    let device = world.shop.devices()[0].device;
    world.shop.unlink(device).unwrap();
    let close = unlinked.event("close", |e| e["restarts"] == false).await;
    assert_eq!(close["code"], 401, "{close}");

    let mut leaving = world.linked_baileys(&world.shop, "leaving").await;
    leaving.ask("logout", json!({})).await;
    world
        .until("both are gone", |truth| {
            let unlinked = |fact: &&Fact| matches!(fact, Fact::Unlinked { .. });
            truth.ledger().facts().filter(unlinked).count() == 2
        })
        .await;
    assert!(world.shop.devices().is_empty());
    world.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn it_hears_calls_refuses_them_and_shows_the_token_of_who_trusts_it() {
    let world = World::new().await;
    world.shop.set_prop(trust::SHOW_TOKENS, "true");
    let mut baileys = world.linked_baileys(&world.shop, "shop").await;
    calls::rings_and_ends(&world, &mut baileys).await;
    let number = world.shop.phone();
    world
        .until("everything is confirmed", |truth| {
            truth.backlog(&number, 1) == 0
        })
        .await;
    let id = calls::ring(&world, &mut baileys).await;
    let from = format!("{}@lid", world.customer.lid());
    baileys
        .ask("reject", json!({ "call": id, "from": from }))
        .await;
    let shop = format!("{}:1", world.shop.phone());
    world
        .until("the call was refused", |truth| {
            truth.ledger().facts().any(|fact| {
                matches!(fact, Fact::Call { id: refused, what, by, .. }
                    if *refused == id && what == "reject" && *by == shop)
            })
        })
        .await;
    trust::is_shown(&world, &mut baileys).await;
    world.assert_clean();
}
