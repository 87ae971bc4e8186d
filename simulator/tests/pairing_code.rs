//! A client nobody here wrote shows a pairing code; a person types it on their phone.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests fail by panicking"
)]

mod support;

use std::sync::Arc;

use serde_json::json;
use support::{Device, PATIENCE, http, person, simulator, simulator_with};
use trunkline_simulator::{
    Account, Clock as _, CodeFailure, Fact, Fault, FaultSpec, FaultTarget, ManualClock, Simulator,
    SimulatorConfig, SystemClock,
};
use wacore::types::events::Event;
use wacore_binary::Jid;
use whatsapp_rust::pair_code::PairCodeOptions;

/// Connects an unlinked client and waits until the server talks to it.
async fn unlinked(simulator: &Simulator) -> Device {
    let device = Device::new(simulator.ws_url()).await;
    device.run();
    device
        .event(|event| matches!(event, Event::PairingQrCode(_)).then_some(()))
        .await;
    device
}

async fn show_code(device: &Device, phone: &str) -> String {
    let options = PairCodeOptions {
        phone_number: phone.to_owned(),
        ..PairCodeOptions::default()
    };
    device.client.pair_with_code(options).await.unwrap()
}

async fn paired(device: &Device) {
    device
        .event(|event| matches!(event, Event::PairSuccess(_)).then_some(()))
        .await;
    device.ended().await;
    device.connect().await;
}

async fn until(simulator: &Simulator, wanted: impl Fn(&Fact) -> bool) {
    simulator
        .wait_until(|truth| truth.ledger().facts().any(&wanted), PATIENCE)
        .await
        .unwrap_or_else(|error| panic!("{error}: {:#?}", simulator.ledger()));
}

/// A code that is not this one.
fn another(code: &str) -> String {
    let last = if code.ends_with('Z') { 'Y' } else { 'Z' };
    format!("{}{last}", &code[..7])
}

async fn try_wrong(simulator: &Simulator, owner: &Account, code: &str, times: usize) {
    owner.enter_code(&another(code)).unwrap();
    simulator
        .wait_until(
            |truth| {
                let refused = truth.ledger().facts().filter(
                    |fact| matches!(fact, Fact::CodeRefused { reason, .. } if reason.contains("not the one")),
                );
                refused.count() == times
            },
            PATIENCE,
        )
        .await
        .unwrap_or_else(|error| panic!("{error}: {:#?}", simulator.ledger()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_links_and_messages_flow() {
    let simulator = simulator().await;
    let owner = person(&simulator, 1);
    let customer = person(&simulator, 2);
    let device = unlinked(&simulator).await;
    assert_eq!(
        owner.enter_code("ABCD-1234"),
        Err(CodeFailure::NotRequested)
    );
    assert_eq!(owner.enter_code("ABCD-123O"), Err(CodeFailure::Malformed));

    let code = show_code(&device, &owner.phone()).await;
    let with_hyphen = format!("{}-{}", &code[..4], code[4..].to_lowercase());
    owner.enter_code(&with_hyphen).unwrap();
    paired(&device).await;
    assert!(owner.devices()[0].online);

    let id = customer.send_text(&owner.phone(), "hello").unwrap();
    assert_eq!(device.text("hello").await, id);
    device
        .client
        .send_text(Jid::pn(customer.phone()), "hi there")
        .await
        .unwrap();
    let from_customer = customer.phone();
    simulator
        .wait_until(
            |truth| {
                let inbox = truth.inbox(&from_customer);
                inbox.iter().any(|m| m.text == "hi there")
            },
            PATIENCE,
        )
        .await
        .unwrap();
    let ledger = simulator.ledger();
    assert!(ledger.violations().is_empty(), "{:#?}", ledger.violations());
    simulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_wrong_code_the_right_one_still_links() {
    let simulator = simulator().await;
    let owner = person(&simulator, 1);
    let device = unlinked(&simulator).await;
    let code = show_code(&device, &owner.phone()).await;
    try_wrong(&simulator, &owner, &code, 1).await;
    try_wrong(&simulator, &owner, &code, 2).await;
    assert!(owner.devices().is_empty());
    owner.enter_code(&code).unwrap();
    paired(&device).await;
    simulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_wrong_codes_void_the_code() {
    let simulator = simulator().await;
    let owner = person(&simulator, 1);
    let device = unlinked(&simulator).await;
    let code = show_code(&device, &owner.phone()).await;
    for times in 1..=3 {
        try_wrong(&simulator, &owner, &code, times).await;
    }
    device
        .event(|event| matches!(event, Event::PairingCodeRefresh(_)).then_some(()))
        .await;
    assert_eq!(owner.enter_code(&code), Err(CodeFailure::NotRequested));
    let code = show_code(&device, &owner.phone()).await;
    owner.enter_code(&code).unwrap();
    paired(&device).await;
    simulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_code_is_refused_and_the_client_told_to_show_another() {
    let clock = Arc::new(ManualClock::at(SystemClock.now_millis()));
    let simulator = simulator_with(SimulatorConfig {
        clock: clock.clone(),
        ..SimulatorConfig::default()
    })
    .await;
    let owner = person(&simulator, 1);
    let device = unlinked(&simulator).await;
    let code = show_code(&device, &owner.phone()).await;
    clock.advance(180_000);
    assert_eq!(owner.enter_code(&code), Err(CodeFailure::Expired));
    device
        .event(|event| matches!(event, Event::PairingCodeRefresh(_)).then_some(()))
        .await;
    let code = show_code(&device, &owner.phone()).await;
    owner.enter_code(&code).unwrap();
    paired(&device).await;
    simulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn codes_for_nobody_and_codes_too_often_are_refused_and_a_client_that_leaves_takes_its_code_along()
 {
    let simulator = simulator().await;
    let owner = person(&simulator, 1);
    let device = unlinked(&simulator).await;
    let ask = |phone: &str| {
        let options = PairCodeOptions {
            phone_number: phone.to_owned(),
            ..PairCodeOptions::default()
        };
        device.client.pair_with_code(options)
    };
    let nobody = ask("15559999999").await.unwrap_err();
    assert_eq!(nobody.rejection().map(|r| r.code()), Some(400));
    simulator
        .fault(FaultSpec {
            target: FaultTarget::All,
            fault: Fault::RefuseCode { error: 429 },
            times: Some(1),
        })
        .unwrap();
    let throttled = ask(&owner.phone()).await.unwrap_err();
    assert_eq!(throttled.rejection().map(|r| r.code()), Some(429));

    let code = ask(&owner.phone()).await.unwrap();
    device.client.disconnect().await;
    until(&simulator, |fact| matches!(fact, Fact::Closed { .. })).await;
    assert_eq!(owner.enter_code(&code), Err(CodeFailure::NotRequested));
    simulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_is_typed_over_http() {
    let simulator = simulator_with(SimulatorConfig {
        control: Some(([127, 0, 0, 1], 0).into()),
        ..SimulatorConfig::default()
    })
    .await;
    let base = simulator.control_url().unwrap();
    let owner = person(&simulator, 1);
    let path = format!("/accounts/{}/code", owner.phone());
    let device = unlinked(&simulator).await;
    let (status, answer) = http::json(&base, "POST", &path, Some(json!({ "code": "no" }))).await;
    assert_eq!((status, &answer["error"]["field"]), (400, &json!("code")));
    let (status, _) = http::json(&base, "POST", &path, Some(json!({ "code": "ABCD1234" }))).await;
    assert_eq!(status, 409);
    let code = show_code(&device, &owner.phone()).await;
    let (status, _) = http::json(&base, "POST", &path, Some(json!({ "code": code }))).await;
    assert_eq!(status, 200);
    paired(&device).await;
    simulator.shutdown().await;
}
