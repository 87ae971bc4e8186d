//! Devices that come back without their Signal state, or after a while: what they cannot open they ask
//! for again, in the group and in a chat of two, and Trunkline answers from its outbox.

use serde_json::json;
use trunkline_simulator::{Account, Fact};

use crate::held::{send_text, send_to_group};
use crate::peer::Peer;
use crate::scene::{Scene, write};
use crate::world::{World, is_text};

/// Waits until the account's companion has gone.
async fn gone(world: &World, account: &Account) {
    let phone = account.phone();
    world
        .until("it is gone", |truth| !truth.is_online(&phone, 1))
        .await;
}

/// How often this account's companion asked for another copy of a message.
fn asked_again(world: &World, account: &Account, id: &str) -> usize {
    let device = format!("{}:1", account.phone());
    let ledger = world.simulator.ledger();
    let retries = ledger.facts().filter(|fact| {
        matches!(fact, Fact::Receipt { from, kind, ids, .. }
            if *from == device && kind == "retry" && ids.iter().any(|it| it == id))
    });
    retries.count()
}

/// Takes a Baileys' sessions and sender keys away; it keeps its identity and its prekeys.
fn forget_sessions(world: &World, name: &str) {
    let mut forgotten = 0;
    for file in std::fs::read_dir(world.files.path().join(name)).unwrap() {
        let file = file.unwrap();
        let name = file.file_name().into_string().unwrap();
        if name.starts_with("session-") || name.starts_with("sender-key") {
            std::fs::remove_file(file.path()).unwrap();
            forgotten += 1;
        }
    }
    assert!(forgotten > 0, "it had sessions to lose");
}

async fn hears(peer: &mut Peer, text: &str, id: &str) {
    let heard = peer.event("message", is_text(text)).await;
    assert_eq!(heard["key"]["id"], id);
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_that_lost_their_state_get_what_they_ask_for_in_group_and_chat() {
    let mut scene = Scene::new().await;
    let jid = scene.group.jid();
    let (customer, friend) = (scene.world.customer.phone(), scene.friend.phone());
    let before = send_to_group(&scene.channel, &jid, "before").await;
    for (peer, phone) in [(&mut scene.baileys, &customer), (&mut scene.zapo, &friend)] {
        hears(peer, "before", &before.stanza_id).await;
        let chat = format!("before to {phone}");
        let sent = send_text(&scene.channel, phone, &chat).await;
        hears(peer, &chat, &sent.stanza_id).await;
    }

    // Both go away and lose their sessions; meanwhile they are written to.
    scene.baileys.ask("stop", json!({})).await;
    scene.zapo.ask("stop", json!({})).await;
    gone(&scene.world, &scene.world.customer).await;
    gone(&scene.world, &scene.friend).await;
    forget_sessions(&scene.world, "customer");
    let to_group = send_to_group(&scene.channel, &jid, "after").await;
    let to_customer = send_text(&scene.channel, &customer, "after to ada").await;
    let to_friend = send_text(&scene.channel, &friend, "after to ben").await;

    scene.baileys = scene.world.baileys("customer").await;
    scene.zapo = scene.world.peer("zapo", "friend").await;
    hears(&mut scene.baileys, "after", &to_group.stanza_id).await;
    hears(&mut scene.baileys, "after to ada", &to_customer.stanza_id).await;
    hears(&mut scene.zapo, "after", &to_group.stanza_id).await;
    hears(&mut scene.zapo, "after to ben", &to_friend.stanza_id).await;
    for (account, id) in [
        (&scene.world.customer, &to_group.stanza_id),
        (&scene.world.customer, &to_customer.stanza_id),
        (&scene.friend, &to_group.stanza_id),
    ] {
        if asked_again(&scene.world, account, id) == 0 {
            let name = account.name();
            scene.world.fail(&format!("{name} did not ask for {id}"));
        }
    }

    // And the conversation goes on, without another request.
    let next = send_to_group(&scene.channel, &jid, "next").await;
    hears(&mut scene.baileys, "next", &next.stanza_id).await;
    hears(&mut scene.zapo, "next", &next.stanza_id).await;
    assert_eq!(
        asked_again(&scene.world, &scene.world.customer, &next.stanza_id),
        0
    );
    assert_eq!(asked_again(&scene.world, &scene.friend, &next.stanza_id), 0);
    write(&mut scene.baileys, &jid, "back again").await;
    scene.inbox.text("back again").await;
    // A zapo-js without its store publishes its first prekeys again, which no server takes.
    let device = format!("{friend}:1");
    let ledger = scene.world.simulator.ledger();
    let violations: Vec<&Fact> = ledger
        .facts()
        .filter(|fact| {
            matches!(fact, Fact::Violation { device: by, what, .. }
                if *by != device || !what.starts_with("prekeys:"))
        })
        .collect();
    assert!(violations.is_empty(), "{violations:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_to_the_group_meanwhile_arrives_once() {
    const WAITING: usize = 6;
    let mut scene = Scene::new().await;
    let jid = scene.group.jid();
    let before = send_to_group(&scene.channel, &jid, "before").await;
    hears(&mut scene.baileys, "before", &before.stanza_id).await;
    hears(&mut scene.zapo, "before", &before.stanza_id).await;
    scene.baileys.ask("stop", json!({})).await;
    scene.zapo.ask("pause", json!({})).await;
    gone(&scene.world, &scene.world.customer).await;
    gone(&scene.world, &scene.friend).await;
    let mut waiting = Vec::new();
    for n in 0..WAITING {
        let text = format!("waiting {n}");
        let sent = send_to_group(&scene.channel, &jid, &text).await;
        waiting.push((text, sent.stanza_id));
    }
    let last = &waiting[WAITING - 1].1;
    scene.on_every_phone(last).await;
    scene.baileys = scene.world.baileys("customer").await;
    scene.zapo.ask("resume", json!({})).await;
    for (text, id) in &waiting {
        hears(&mut scene.baileys, text, id).await;
        hears(&mut scene.zapo, text, id).await;
    }
    for account in [&scene.world.customer, &scene.friend] {
        let phone = account.phone();
        scene
            .world
            .until("nothing waits any more", |truth| {
                truth.backlog(&phone, 1) == 0
            })
            .await;
    }
    for (text, _) in &waiting {
        for peer in [&scene.baileys, &scene.zapo] {
            assert_eq!(peer.count("message", is_text(text)), 1, "{text}");
        }
    }
    scene.world.assert_clean();
}
