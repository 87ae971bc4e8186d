//! An account that demands a passkey to link devices: the pairing fails at once with a reason programs
//! can tell from others, instead of running out.

#![cfg(feature = "simulator")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on should fail"
)]

mod support;

use std::time::{Duration, SystemTime};

use support::core::{self, Paired};
use support::daemon::Daemon;
use tonic::transport::Channel;
use trunkline::pb;
use trunkline_simulator::{Account, Fact, NewAccount, ScanFailure, Simulator, SimulatorConfig};

const NUMBER: &str = "+2348030000001";
const SESSION: &str = "main";
/// A demand is to be known this soon after the server made it.
const SOON: Duration = Duration::from_secs(2);
/// How often that may be shown: a machine can be busy with something else.
const ROUNDS: usize = 3;

fn assert_passkey(paired: &Paired) {
    let Paired::Failed(failed) = paired else {
        panic!("{paired:?}");
    };
    assert_eq!(failed.reason(), pb::PairingFailureReason::PasskeyRequired);
    assert_eq!(failed.detail, "PASSKEY_REQUIRED");
    assert!(failed.message.contains("passkey"), "{}", failed.message);
}

/// When the simulator sent each demand, by this machine's clock.
fn demanded(simulator: &Simulator) -> Vec<SystemTime> {
    let ledger = simulator.ledger();
    let demands = ledger.entries().iter();
    demands
        .filter(|entry| matches!(entry.fact, Fact::PasskeyDemanded { .. }))
        .map(|entry| SystemTime::UNIX_EPOCH + Duration::from_millis(entry.at))
        .collect()
}

/// When the daemon recorded each pairing that failed by a demand, by the same clock.
fn told(journal: &[pb::Event]) -> Vec<SystemTime> {
    let failed = |event: &&pb::Event| {
        matches!(&event.payload, Some(pb::event::Payload::Pairing(pairing))
            if pairing.step == "failed" && pairing.reason.as_deref() == Some("PASSKEY_REQUIRED"))
    };
    let times = journal.iter().filter(failed);
    times
        .map(|event| SystemTime::try_from(event.time.unwrap()).unwrap())
        .collect()
}

/// Pairs by QR and by code, and is refused. Each ends on the first QR or code: nothing had to expire. When
/// the caller's stream had ended.
#[allow(
    clippy::disallowed_methods,
    reason = "how long it takes is what is being measured"
)]
async fn refused_twice(channel: &Channel, phone: &Account) -> [SystemTime; 2] {
    let mut shown = 0;
    let paired = core::pair(channel, SESSION, |qr| {
        shown += 1;
        let scan = phone.scan_qr(qr);
        assert!(
            matches!(scan, Err(ScanFailure::PasskeyDemanded)),
            "{scan:?}"
        );
    })
    .await;
    let by_qr = SystemTime::now();
    assert_passkey(&paired);
    let paired = core::pair_by_code(channel, SESSION, NUMBER, |code| {
        shown += 1;
        phone.enter_code(code).unwrap();
    })
    .await;
    let by_code = SystemTime::now();
    assert_passkey(&paired);
    assert_eq!(shown, 2);
    [by_qr, by_code]
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
    let mut slowest = Duration::MAX;
    let mut rounds = 0;
    while slowest >= SOON && rounds < ROUNDS {
        rounds += 1;
        let answered = refused_twice(&channel, &phone).await;
        let demanded = demanded(&simulator);
        let told = told(&core::journal(&channel).await.unwrap());
        assert_eq!((demanded.len(), told.len()), (2 * rounds, 2 * rounds));
        let heard = told.into_iter().skip(2 * (rounds - 1)).chain(answered);
        let demanded = demanded.into_iter().skip(2 * (rounds - 1));
        let demanded: Vec<_> = demanded.collect();
        let took = heard.zip(demanded.iter().cycle()).map(|(heard, demanded)| {
            // The ledger counts in milliseconds, so an answer may seem to precede its demand by less than one.
            heard.duration_since(*demanded).unwrap_or_default()
        });
        slowest = took.max().unwrap();
    }
    assert!(
        slowest < SOON,
        "{slowest:?} from a demand to the event, or to the caller"
    );
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
