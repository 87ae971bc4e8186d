//! Privacy settings, server properties, and tokens of trusted contacts, asked for by a real client.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests fail by panicking"
)]

mod support;

use serde_json::json;
use support::{Device, PATIENCE, http, person, simulator_with};
use trunkline_simulator::{Account, Fact, Simulator, SimulatorConfig};
use wacore::iq::props::PropsSpec;
use wacore::iq::tctoken::IssuePrivacyTokensSpec;
use wacore::types::events::Event;
use wacore_binary::Jid;

/// `privacy_token_sending_on_all_1_on_1_messages`
const SHOW_TOKENS: u32 = 10_518;
/// `tctoken_duration`
const DURATION: u32 = 865;

async fn simulator() -> Simulator {
    simulator_with(SimulatorConfig {
        control: Some(([127, 0, 0, 1], 0).into()),
        ..SimulatorConfig::default()
    })
    .await
}

async fn linked(simulator: &Simulator, owner: &Account) -> Device {
    let device = Device::new(simulator.ws_url()).await;
    device.pair(owner).await;
    device
}

#[tokio::test(flavor = "multi_thread")]
async fn properties_are_an_accounts_own_and_come_as_changes() {
    let simulator = simulator().await;
    let (owner, other) = (person(&simulator, 1), person(&simulator, 2));
    owner.set_prop(SHOW_TOKENS, "true");
    let device = linked(&simulator, &owner).await;
    let stranger = linked(&simulator, &other).await;
    let codes = |answer: &wacore::iq::props::PropsResponse| -> Vec<u32> {
        answer
            .experiment_props
            .iter()
            .map(|(code, _)| *code)
            .collect()
    };

    let all = device.client.execute(PropsSpec::new()).await.unwrap();
    assert_eq!(codes(&all), [SHOW_TOKENS]);
    assert!(!all.delta_update);
    let known = all.hash.unwrap();
    let base = simulator.control_url().unwrap();
    let path = format!("/accounts/{}/props", owner.phone());
    let prop = json!({ "code": DURATION, "value": "3600" });
    assert_eq!(http::json(&base, "POST", &path, Some(prop)).await.0, 200);
    let changed = PropsSpec::with_hash(&known);
    let changed = device.client.execute(changed).await.unwrap();
    assert_eq!(codes(&changed), [DURATION]);
    assert!(changed.delta_update);
    let same = PropsSpec::with_hash(changed.hash.unwrap());
    let same = device.client.execute(same).await.unwrap();
    assert_eq!(codes(&same), [] as [u32; 0]);

    let none = stranger.client.execute(PropsSpec::new()).await.unwrap();
    assert_eq!(codes(&none), [] as [u32; 0]);
    assert_ne!(none.hash.unwrap(), known);
    simulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_trusted_may_write_while_strangers_are_locked_out() {
    let simulator = simulator().await;
    let (owner, customer, stranger) = (
        person(&simulator, 1),
        person(&simulator, 2),
        person(&simulator, 3),
    );
    owner.set_prop(SHOW_TOKENS, "true");
    let device = linked(&simulator, &owner).await;
    let theirs = linked(&simulator, &customer).await;
    let base = simulator.control_url().unwrap();
    let lock = json!({ "locked": true });
    let path = format!("/accounts/{}/lock", owner.phone());
    assert_eq!(http::json(&base, "POST", &path, Some(lock)).await.0, 200);

    let send = async |to: &Account, text: &str| {
        let sent = device.client.send_text(Jid::pn(to.phone()), text).await;
        let id = sent.unwrap().message_id;
        device
            .event(|event| match event {
                Event::ServerAck(ack) if ack.id == id => Some(ack.error.clone()),
                _ => None,
            })
            .await
    };
    assert_eq!(send(&customer, "too soon").await.as_deref(), Some("463"));
    // A companion of the customer's gives the token, and the owner's shows it.
    let me = Jid::lid(owner.lid());
    let issue = IssuePrivacyTokensSpec::new(std::slice::from_ref(&me));
    theirs.client.execute(issue).await.unwrap();
    let phone = owner.phone();
    simulator
        .wait_until(|truth| truth.backlog(&phone, 1) == 0, PATIENCE)
        .await
        .unwrap();
    assert_eq!(send(&customer, "at last").await, None);
    assert_eq!(send(&stranger, "hello?").await.as_deref(), Some("463"));
    // What a phone gives is as good.
    let trust = json!({ "phone": owner.phone() });
    let path = format!("/accounts/{}/trust", stranger.phone());
    assert_eq!(http::json(&base, "POST", &path, Some(trust)).await.0, 200);
    simulator
        .wait_until(|truth| truth.backlog(&phone, 1) == 0, PATIENCE)
        .await
        .unwrap();
    assert_eq!(send(&stranger, "hello!").await, None);

    let ledger = simulator.ledger();
    let shown = ledger.facts().filter_map(|fact| match fact {
        Fact::TokenShown { to, .. } => Some(to.clone()),
        _ => None,
    });
    let shown: Vec<_> = shown.collect();
    assert_eq!(shown, [customer.phone(), stranger.phone()]);
    assert!(ledger.violations().is_empty(), "{:?}", ledger.violations());
    simulator.shutdown().await;
}
