//! An account that demands a passkey to link devices: the pairing fails at once with a reason programs
//! can tell from others, instead of running out.

#![cfg(feature = "simulator")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on should fail"
)]

mod support;

use support::core::{self, Paired};
use support::daemon::Daemon;
use trunkline::pb;
use trunkline_simulator::{Fact, NewAccount, ScanFailure, Simulator, SimulatorConfig};

const NUMBER: &str = "+2348030000001";
const SESSION: &str = "main";

fn assert_passkey(paired: &Paired) {
    let Paired::Failed(failed) = paired else {
        panic!("{paired:?}");
    };
    assert_eq!(failed.reason(), pb::PairingFailureReason::PasskeyRequired);
    assert_eq!(failed.detail, "PASSKEY_REQUIRED");
    assert!(failed.message.contains("passkey"), "{}", failed.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demand_for_a_passkey_ends_the_pairing_and_says_so() {
    let simulator = Simulator::bind(SimulatorConfig::default()).await.unwrap();
    let phone = simulator
        .create_account(NewAccount::new(NUMBER, "Shop"))
        .unwrap();
    let mut daemon = Daemon::prepare(&simulator.ws_url(), "");
    daemon.start().await;
    let channel = daemon.channel().await.unwrap();
    core::create_session(&channel, SESSION).await;

    phone.demand_passkey(true);
    // Each ends on the first QR or code: nothing had to expire.
    let mut shown = 0;
    let paired = core::pair(&channel, SESSION, |qr| {
        shown += 1;
        let scan = phone.scan_qr(qr);
        assert!(
            matches!(scan, Err(ScanFailure::PasskeyDemanded)),
            "{scan:?}"
        );
    })
    .await;
    assert_passkey(&paired);
    let paired = core::pair_by_code(&channel, SESSION, NUMBER, |code| {
        shown += 1;
        phone.enter_code(code).unwrap();
    })
    .await;
    assert_passkey(&paired);
    assert_eq!(shown, 2);
    let ledger = simulator.ledger();
    let demands = ledger
        .facts()
        .filter(|fact| matches!(fact, Fact::PasskeyDemanded { .. }));
    assert_eq!(demands.count(), 2);
    let session = core::session(&channel, SESSION).await.unwrap();
    assert_eq!(session.login(), pb::LoginState::Unpaired);

    // With the demand off, the same session links.
    phone.demand_passkey(false);
    let paired = core::pair(&channel, SESSION, |qr| {
        phone.scan_qr(qr).unwrap();
    })
    .await;
    assert!(matches!(paired, Paired::Linked), "{paired:?}");
    assert_eq!(daemon.stop().await, Some(0));
    simulator.shutdown().await;
}
