//! While WhatsApp lets a number write to no strangers, it may answer those who trust it: their tokens are
//! kept, over a crash too, and shown.

#![cfg(feature = "simulator")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on should fail"
)]

mod support;

use std::time::Duration;

use support::core::{self, Paired};
use support::daemon::Daemon;
use support::eventually;
use tonic::transport::Channel;
use trunkline::pb;
use trunkline::pb::MessageState;
use trunkline_simulator::{Fact, NewAccount, Simulator, SimulatorConfig};

const NUMBER: &str = "+2348030000001";
const CUSTOMER: &str = "+2348030000002";
const SESSION: &str = "main";
const PATIENCE: Duration = Duration::from_mins(3);
/// `privacy_token_sending_on_all_1_on_1_messages`
const SHOW_TOKENS: u32 = 10_518;

/// Sends a text to the customer and waits for its end.
async fn answer(channel: &Channel, text: &str, wanted: MessageState) -> pb::Message {
    let request = core::text_to(SESSION, CUSTOMER, text);
    let mut message = core::send(channel, &request).await.unwrap();
    eventually(&format!("{text:?} is {wanted:?}"), PATIENCE, async || {
        message = core::message(channel, &message.name).await.unwrap();
        message.state() == wanted
    })
    .await;
    message
}

fn shown(simulator: &Simulator, message: &pb::Message) -> bool {
    let ledger = simulator.ledger();
    ledger
        .facts()
        .any(|fact| matches!(fact, Fact::TokenShown { id, .. } if *id == message.stanza_id))
}

#[tokio::test(flavor = "multi_thread")]
async fn who_trusts_a_locked_number_is_answered_before_and_after_a_crash() {
    let simulator = Simulator::bind(SimulatorConfig::default()).await.unwrap();
    let person = |number, name| {
        let person = NewAccount::new(number, name);
        simulator.create_account(person).unwrap()
    };
    let (owner, customer) = (person(NUMBER, "Shop"), person(CUSTOMER, "Ada"));
    owner.set_prop(SHOW_TOKENS, "true");
    let mut daemon = Daemon::prepare(&simulator.ws_url(), "");
    daemon.start().await;
    let channel = daemon.channel().await.unwrap();
    core::create_session(&channel, SESSION).await;
    let mut device = None;
    let paired = core::pair(&channel, SESSION, |qr| {
        device = Some(owner.scan_qr(qr).unwrap());
    })
    .await;
    assert!(matches!(paired, Paired::Linked), "{paired:?}");

    owner.lock_reach_out(true);
    let refused = answer(&channel, "dear customer", MessageState::Failed).await;
    assert_eq!(refused.failure.unwrap().reason, "REACHOUT_TIMELOCK");

    customer.send_text(NUMBER, "are you open?").unwrap();
    customer.trust(NUMBER).unwrap();
    let phone = owner.phone();
    simulator
        .wait_until(
            |truth| truth.backlog(&phone, device.unwrap()) == 0,
            PATIENCE,
        )
        .await
        .unwrap();
    let first = answer(&channel, "we are", MessageState::Delivered).await;
    assert!(shown(&simulator, &first));

    daemon.kill().await;
    daemon.start().await;
    let channel = daemon.channel().await.unwrap();
    let second = answer(&channel, "until six", MessageState::Delivered).await;
    assert!(shown(&simulator, &second), "the token outlived the daemon");
    assert!(simulator.ledger().violations().is_empty());
    assert_eq!(daemon.stop().await, Some(0));
    simulator.shutdown().await;
}
