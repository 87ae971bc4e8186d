//! Pins, mutes and contacts: from the phone to a companion and back, as patches and as a snapshot that
//! is fetched over HTTPS.

// The helpers are test code too; clippy only knows the functions marked as tests.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use serde_json::json;
use support::{Device, PATIENCE, http, person, simulator, simulator_with};
use trunkline_simulator::{ChatChange, Fact, Simulator, SimulatorConfig};
use wacore::types::events::Event;

/// Who was saved under which name, from a snapshot or from a patch.
fn saved(event: &Event) -> Option<(String, bool)> {
    let Event::ContactUpdate(contact) = event else {
        return None;
    };
    Some((contact.action.full_name.clone()?, contact.from_full_sync))
}

fn pinned(event: &Event) -> Option<bool> {
    match event {
        Event::PinUpdate(pin) => pin.action.pinned,
        _ => None,
    }
}

fn snapshots_fetched(simulator: &Simulator) -> usize {
    let ledger = simulator.ledger();
    let fetched = ledger.facts().filter(|fact| {
        matches!(fact, Fact::MediaFetched { kind, by: Some(_), .. } if kind == "md-app-state")
    });
    fetched.count()
}

/// Makes a change and waits until the device tells of it. The library does nothing about one that it hears
/// of while it still reads the same collection: then it takes another to have it look again.
async fn heard<T>(
    device: &Device,
    from: usize,
    change: impl Fn(),
    tells: impl Fn(&Event) -> Option<T>,
) -> T {
    let told = device.event_from(from, tells);
    tokio::pin!(told);
    loop {
        let mark = device.mark();
        change();
        let passed_over = device.event_from(mark, |event| {
            matches!(event, Event::AppStateSyncFailed(_)).then_some(())
        });
        tokio::select! {
            told = &mut told => return told,
            () = passed_over => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_companion_fetches_the_snapshot_and_hears_of_changes() {
    let simulator = simulator().await;
    let (owner, customer) = (person(&simulator, 1), person(&simulator, 2));
    let contact = |name: &str| ChatChange::Contact(name.to_owned());
    let change = |change: &ChatChange| owner.change_chat(&customer.phone(), change).unwrap();
    change(&contact("Old Name"));
    change(&contact("Ada Customer"));
    change(&ChatChange::Pin(true));

    let device = Device::with_media(&simulator).await;
    device.pair(&owner).await;
    let (name, from_snapshot) = device.event(saved).await;
    assert_eq!((name.as_str(), from_snapshot), ("Ada Customer", true));
    assert!(device.event(pinned).await);
    assert_eq!(snapshots_fetched(&simulator), 2);

    let from = device.mark();
    let unpin = || change(&ChatChange::Pin(false));
    assert!(!heard(&device, from, unpin, pinned).await);
    change(&ChatChange::ForgetContact);
    let save = || change(&contact("Ada Again"));
    let (name, from_snapshot) = heard(&device, from, save, saved).await;
    assert_eq!((name.as_str(), from_snapshot), ("Ada Again", false));
    let ledger = simulator.ledger();
    assert!(ledger.violations().is_empty(), "{:#?}", ledger.violations());
    simulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_companions_change_reaches_the_next_companion() {
    let simulator = simulator().await;
    let (owner, customer) = (person(&simulator, 1), person(&simulator, 2));
    owner
        .change_chat(&customer.phone(), &ChatChange::Archive(true))
        .unwrap();
    let first = Device::with_media(&simulator).await;
    first.pair(&owner).await;
    let chat = wacore_binary::Jid::pn(customer.phone());
    first.client.chat_actions().pin_chat(&chat).await.unwrap();
    let phone = owner.phone();
    let ledger = simulator.ledger();
    assert!(ledger.violations().is_empty(), "{:#?}", ledger.violations());

    // The phone builds on what its companion added, and a snapshot holds both.
    owner
        .change_chat("+15550109999", &ChatChange::Pin(true))
        .unwrap();
    let second = Device::with_media(&simulator).await;
    second.pair(&owner).await;
    second
        .event(|event| match event {
            Event::PinUpdate(pin) => (pin.jid == chat).then_some(()),
            _ => None,
        })
        .await;
    simulator
        .wait_until(|truth| truth.is_online(&phone, 2), PATIENCE)
        .await
        .unwrap();
    let ledger = simulator.ledger();
    assert!(ledger.violations().is_empty(), "{:#?}", ledger.violations());
    simulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chats_are_changed_over_the_control_api() {
    let config = SimulatorConfig {
        control: Some(([127, 0, 0, 1], 0).into()),
        ..SimulatorConfig::default()
    };
    let simulator = simulator_with(config).await;
    let owner = person(&simulator, 1);
    let base = simulator.control_url().unwrap();
    let path = format!("/accounts/{}/chats", owner.phone());
    for change in [
        json!({ "pin": true }),
        json!({ "mute": true }),
        json!({ "archive": false }),
        json!({ "contact": "Ana" }),
        json!("forget_contact"),
    ] {
        let body = json!({ "with": "15550100002", "change": change });
        let (status, answer) = http::json(&base, "POST", &path, Some(body)).await;
        assert_eq!(status, 200, "{answer}");
    }
    let wrong = json!({ "with": "15550100002", "change": "explode" });
    assert_eq!(http::json(&base, "POST", &path, Some(wrong)).await.0, 400);
    let device = Device::with_media(&simulator).await;
    device.pair(&owner).await;
    assert!(device.event(pinned).await);
    assert_eq!(device.count(|event| saved(event).is_some()), 0);
    simulator.shutdown().await;
}
