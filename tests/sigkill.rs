//! Promises 1 and 2 under SIGKILL: the daemon is killed at random moments, under traffic both ways and
//! while pairing, and started again. What was acknowledged must be there, once, nobody may see a message
//! twice, and no message counter may be used twice: the simulator's phones and ledger are the judge.
//!
//! `TRUNKLINE_SIGKILL_ROUNDS` and `TRUNKLINE_SIGKILL_SEED` choose how often and which moments; a failure
//! prints the seed that repeats it.

#![cfg(feature = "simulator")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test that cannot go on should fail"
)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;
use support::core::{self, Paired};
use support::daemon::Daemon;
use support::eventually;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use trunkline::pb;
use trunkline_simulator::{Account, NewAccount, Simulator, SimulatorConfig};

const NUMBER: &str = "+2348030000001";
const CUSTOMERS: [&str; 3] = ["+2348030000002", "+2348030000003", "+2348030000004"];
const PATIENCE: Duration = Duration::from_mins(3);
/// How long everything may take to arrive after the last kill.
const SETTLE: Duration = Duration::from_mins(3);
/// When the daemon is killed, in milliseconds after it came back: from "it has just opened the store" to
/// "it is busy".
const LIFE: Range<u64> = 0..700;
/// Pause between two messages of one sender.
const PACE: Duration = Duration::from_millis(20);
/// Sending as fast as the test does is not what pacing is for.
const UNPACED: &str = "[pacing]\nper_minute = 60000\nburst = 1000\nrecipient_per_minute = 60000\nrecipient_burst = 1000\n";

fn parameter(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is not a number"))
    })
}

fn rounds() -> u64 {
    parameter("TRUNKLINE_SIGKILL_ROUNDS", 50)
}

fn seeded() -> (u64, ChaCha20Rng) {
    let seed = parameter("TRUNKLINE_SIGKILL_SEED", 1);
    println!("TRUNKLINE_SIGKILL_SEED={seed}");
    (seed, ChaCha20Rng::seed_from_u64(seed))
}

async fn simulator(seed: u64) -> Simulator {
    let config = SimulatorConfig {
        seed,
        ..SimulatorConfig::default()
    };
    Simulator::bind(config).await.unwrap()
}

/// Sends to the customers in turn until `stop`; the messages the daemon confirmed.
async fn core_talks(daemon: Arc<Mutex<Daemon>>, stop: CancellationToken) -> Vec<pb::Message> {
    let mut confirmed = Vec::new();
    while !stop.is_cancelled() {
        let text = format!("out {}", confirmed.len());
        let customer = CUSTOMERS[confirmed.len() % CUSTOMERS.len()];
        let request = core::text_to("main", customer, &text);
        let message = core::send_surely(&daemon, &request).await;
        confirmed.push(message);
        tokio::time::sleep(PACE).await;
    }
    confirmed
}

/// Sends to the number until `stop`; the stanza ids.
async fn customer_talks(customer: Account, stop: CancellationToken) -> BTreeSet<String> {
    let mut sent = BTreeSet::new();
    while !stop.is_cancelled() {
        let text = format!("in {}", sent.len());
        sent.insert(customer.send_text(NUMBER, &text).unwrap());
        tokio::time::sleep(PACE * 3).await;
    }
    sent
}

/// What the simulator's ledger says was put on the customers' screens, by stanza id.
fn displayed(simulator: &Simulator) -> BTreeMap<String, u32> {
    let ledger = simulator.ledger();
    let mut displayed = BTreeMap::new();
    for customer in CUSTOMERS {
        for (id, times) in ledger.displayed_by(customer.trim_start_matches('+')) {
            *displayed.entry(id.to_owned()).or_default() += times;
        }
    }
    displayed
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_or_doubled_under_traffic() {
    let (seed, mut random) = seeded();
    let simulator = simulator(seed).await;
    let phone = simulator
        .create_account(NewAccount::new(NUMBER, "Shop"))
        .unwrap();
    let customers = CUSTOMERS.map(|number| {
        let customer = NewAccount::new(number, "Ada");
        simulator.create_account(customer).unwrap()
    });
    let mut daemon = Daemon::prepare(&simulator.ws_url(), UNPACED);
    daemon.start().await;
    let channel = daemon.channel().await.unwrap();
    core::create_session(&channel, "main").await;
    let paired = core::pair(&channel, "main", |qr| {
        phone.scan_qr(qr).unwrap();
    })
    .await;
    assert!(matches!(paired, Paired::Linked), "{paired:?}");

    let daemon = Arc::new(Mutex::new(daemon));
    let stop = CancellationToken::new();
    let out = tokio::spawn(core_talks(daemon.clone(), stop.clone()));
    let inn = customers
        .clone()
        .map(|customer| tokio::spawn(customer_talks(customer, stop.clone())));
    for _ in 0..rounds() {
        let life = Duration::from_millis(random.random_range(LIFE));
        tokio::time::sleep(life).await;
        let mut daemon = daemon.lock().await;
        daemon.kill().await;
        daemon.start().await;
    }
    stop.cancel();
    let confirmed = out.await.unwrap();
    let mut sent = BTreeSet::new();
    for customer in inn {
        sent.extend(customer.await.unwrap());
    }
    assert!(!confirmed.is_empty() && !sent.is_empty());

    let daemon = daemon.lock().await;
    let channel = daemon.channel().await.unwrap();
    let ids: BTreeSet<String> = confirmed.iter().map(|m| m.stanza_id.clone()).collect();
    assert_eq!(ids.len(), confirmed.len(), "two messages share a stanza id");
    eventually(
        "everything confirmed is on its customer's screen",
        SETTLE,
        async || {
            let shown = displayed(&simulator);
            ids.iter().all(|id| shown.contains_key(id))
        },
    )
    .await;
    eventually(
        "everything the customers sent is in the journal",
        SETTLE,
        async || {
            let journal = core::journal(&channel).await.unwrap();
            let arrivals = core::arrivals(&journal);
            sent.iter().all(|id| arrivals.contains_key(id))
        },
    )
    .await;
    eventually("every message's outcome is known", SETTLE, async || {
        for message in &confirmed {
            let state = core::message(&channel, &message.name)
                .await
                .unwrap()
                .state();
            if !matches!(
                state,
                pb::MessageState::Sent | pb::MessageState::Delivered | pb::MessageState::Read
            ) {
                return false;
            }
        }
        true
    })
    .await;

    let journal = core::journal(&channel).await.unwrap();
    reckon(&simulator, &ids, &sent, &journal);
    for customer in customers {
        assert_eq!(customer.violations(), []);
    }
}

/// Everything once on both sides, and nothing that WhatsApp would have refused.
fn reckon(
    simulator: &Simulator,
    ids: &BTreeSet<String>,
    sent: &BTreeSet<String>,
    journal: &[pb::Event],
) {
    let shown = displayed(simulator);
    let strangers: Vec<_> = shown.keys().filter(|id| !ids.contains(*id)).collect();
    assert!(
        strangers.is_empty(),
        "shown but never confirmed to be ours: {strangers:?}"
    );
    let twice: Vec<_> = shown.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "displayed more than once: {twice:?}");
    let arrivals = core::arrivals(journal);
    let doubled: Vec<_> = arrivals.iter().filter(|(_, ids)| ids.len() > 1).collect();
    assert!(
        doubled.is_empty(),
        "two events for one message: {doubled:?}"
    );
    assert!(
        arrivals.keys().all(|id| sent.contains(id)),
        "an event for nothing"
    );
    let event_ids: BTreeSet<_> = journal.iter().map(|event| &event.event_id).collect();
    assert_eq!(
        event_ids.len(),
        journal.len(),
        "an event_id twice in the journal"
    );
    assert!(
        journal
            .windows(2)
            .all(|pair| pair[0].revision < pair[1].revision)
    );
    let ledger = simulator.ledger();
    assert!(ledger.violations().is_empty(), "{:#?}", ledger.violations());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pairing_that_is_killed_leaves_a_session_that_can_be_used() {
    let (seed, mut random) = seeded();
    let simulator = simulator(seed).await;
    let mut daemon = Daemon::prepare(&simulator.ws_url(), "");
    daemon.start().await;
    for round in 0..rounds().div_ceil(5) {
        let number = format!("+23480300{round:05}");
        let id = format!("p{round}");
        let phone = simulator
            .create_account(NewAccount::new(number, "Shop"))
            .unwrap();
        let channel = daemon.channel().await.unwrap();
        core::create_session(&channel, &id).await;
        let moment = Duration::from_millis(random.random_range(0..250));
        // Whoever pairs is still there when the daemon dies: going away first would call the pairing off.
        let pairing = tokio::spawn({
            let (phone, id) = (phone.clone(), id.clone());
            async move {
                let scan = |qr: &str| {
                    let _ = phone.scan_qr(qr);
                };
                core::pair(&channel, &id, scan).await
            }
        });
        tokio::time::sleep(moment).await;
        daemon.kill().await;
        let succeeded = matches!(pairing.await.unwrap(), Paired::Linked);
        daemon.start().await;

        // Linked or not, it says which; what is not linked can be linked; in the end it is online.
        let channel = daemon.channel().await.unwrap();
        eventually(
            &format!("{id} is online, paired again if need be"),
            PATIENCE,
            async || {
                if core::is_online(&channel, &id).await {
                    return true;
                }
                let session = core::session(&channel, &id).await.unwrap();
                if session.login() == pb::LoginState::Unpaired {
                    assert!(!succeeded, "a pairing that was confirmed is gone");
                    core::pair(&channel, &id, |qr| {
                        let _ = phone.scan_qr(qr);
                    })
                    .await;
                }
                assert_ne!(session.login(), pb::LoginState::LoggedOut, "{session:?}");
                false
            },
        )
        .await;
    }
    let ledger = simulator.ledger();
    assert!(ledger.violations().is_empty(), "{:#?}", ledger.violations());
}
