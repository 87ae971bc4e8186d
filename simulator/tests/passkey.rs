//! An account that links no device without its passkey: clients are asked for it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests fail by panicking"
)]

mod support;

use serde_json::{Value, json};
use support::{Device, http, person, simulator_with};
use trunkline_simulator::{Account, Fact, ScanFailure, Simulator, SimulatorConfig};
use wacore::types::events::Event;
use whatsapp_rust::pair_code::PairCodeOptions;

async fn world() -> (Simulator, Account, Device, String) {
    let simulator = simulator_with(SimulatorConfig {
        control: Some(([127, 0, 0, 1], 0).into()),
        ..SimulatorConfig::default()
    })
    .await;
    let owner = person(&simulator, 1);
    let device = Device::new(simulator.ws_url()).await;
    device.run();
    let qr = device
        .event(|event| match event {
            Event::PairingQrCode(code) => Some(code.code.clone()),
            _ => None,
        })
        .await;
    (simulator, owner, device, qr)
}

/// The options of a demand are what the library hands to an authenticator.
async fn is_asked(device: &Device) {
    let options = device
        .event(|event| match event {
            Event::PairPasskeyRequest(request) => Some(request.request_options_json.clone()),
            _ => None,
        })
        .await;
    let request = whatsapp_rust::passkey::parse_request_options(&options).unwrap();
    assert_eq!(request.challenge.len(), 32);
    let options: Value = serde_json::from_str(&options).unwrap();
    assert_eq!(options["rpId"], "web.whatsapp.com");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_asks_for_the_passkey_and_links_once_it_is_off() {
    let (simulator, owner, device, qr) = world().await;
    let base = simulator.control_url().unwrap();
    let path = format!("/accounts/{}/passkey", owner.phone());
    let demand =
        |demanded: bool| http::json(&base, "POST", &path, Some(json!({ "demanded": demanded })));
    assert_eq!(demand(true).await.0, 200);
    let scan = owner.scan_qr(&qr);
    assert!(
        matches!(scan, Err(ScanFailure::PasskeyDemanded)),
        "{scan:?}"
    );
    is_asked(&device).await;
    assert!(owner.devices().is_empty());

    assert_eq!(demand(false).await.0, 200);
    owner.scan_qr(&qr).unwrap();
    device
        .event(|event| matches!(event, Event::PairSuccess(_)).then_some(()))
        .await;
    simulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_code_asks_for_the_passkey_too() {
    let (simulator, owner, device, _) = world().await;
    owner.demand_passkey(true);
    let options = PairCodeOptions {
        phone_number: owner.phone(),
        ..PairCodeOptions::default()
    };
    let code = device.client.pair_with_code(options).await.unwrap();
    owner.enter_code(&code).unwrap();
    is_asked(&device).await;
    assert!(owner.devices().is_empty());
    let ledger = simulator.ledger();
    let demanded = ledger
        .facts()
        .any(|fact| matches!(fact, Fact::PasskeyDemanded { phone, .. } if *phone == owner.phone()));
    assert!(demanded);
    simulator.shutdown().await;
}
