//! App state: a line with contacts and pinned chats goes online with their snapshots fetched over HTTPS,
//! and after SIGKILL it reads the snapshots again and journals what it had not journaled before.

#![cfg(feature = "simulator")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on should fail"
)]

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use support::core::{self, Paired};
use support::daemon::Daemon;
use support::eventually;
use tonic::transport::Channel;
use trunkline::pb::event::Payload;
use trunkline_simulator::{ChatChange, Fact, NewAccount, Simulator, SimulatorConfig};

const NUMBER: &str = "+2348030000001";
const CUSTOMER: &str = "+2348030000002";
const PATIENCE: Duration = Duration::from_mins(3);

/// How often each kind of account data about the customer was journaled, by what it said.
async fn journaled(channel: &Channel) -> BTreeMap<(String, String), usize> {
    let mut found = BTreeMap::new();
    for event in core::journal(channel).await.unwrap() {
        if let Some(Payload::AccountData(data)) = event.payload
            && data.json.contains(CUSTOMER.trim_start_matches('+'))
        {
            let said: serde_json::Value = serde_json::from_str(&data.json).unwrap();
            let said = said["action"].to_string();
            *found.entry((data.kind, said)).or_default() += 1;
        }
    }
    found
}

fn times(found: &BTreeMap<(String, String), usize>, kind: &str, words: &str) -> usize {
    found
        .iter()
        .filter(|((of, said), _)| of == kind && said.contains(words))
        .map(|(_, times)| times)
        .sum()
}

fn snapshots_fetched(simulator: &Simulator) -> usize {
    let ledger = simulator.ledger();
    let fetched = ledger
        .facts()
        .filter(|fact| matches!(fact, Fact::MediaFetched { kind, .. } if kind == "md-app-state"));
    fetched.count()
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_come_over_https_and_after_a_kill_the_differences_are_journaled() {
    let simulator = Simulator::bind(SimulatorConfig::default()).await.unwrap();
    let person = |number, name| {
        let person = NewAccount::new(number, name);
        simulator.create_account(person).unwrap()
    };
    let owner = person(NUMBER, "Shop");
    person(CUSTOMER, "Ada");
    let change = |change: ChatChange| owner.change_chat(CUSTOMER, &change).unwrap();
    change(ChatChange::Contact("Ada Customer".to_owned()));
    change(ChatChange::Pin(true));

    let root = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(root.path(), simulator.tls_root_pem()).unwrap();
    let trust = format!("tls_root = \"{}\"\n", root.path().display());
    let mut daemon = Daemon::prepare(&simulator.ws_url(), &trust);
    daemon.start().await;
    let channel = daemon.channel().await.unwrap();
    core::create_session(&channel, "main").await;
    let paired = core::pair(&channel, "main", |qr| {
        owner.scan_qr(qr).unwrap();
    })
    .await;
    assert!(matches!(paired, Paired::Linked), "{paired:?}");
    eventually("the line is online", PATIENCE, async || {
        core::is_online(&channel, "main").await
    })
    .await;
    eventually("what the phone knows is journaled", PATIENCE, async || {
        let found = journaled(&channel).await;
        times(&found, "contact", "Ada Customer") == 1 && times(&found, "pin", "true") == 1
    })
    .await;
    let before = snapshots_fetched(&simulator);
    assert!(before >= 2, "{before} snapshots were fetched");

    // Changes that nobody is there to hear, on top of a stop that was not clean.
    daemon.kill().await;
    change(ChatChange::Contact("Ada Lovelace".to_owned()));
    change(ChatChange::Mute(true));
    daemon.start().await;
    let channel = daemon.channel().await.unwrap();
    eventually("the differences are journaled", PATIENCE, async || {
        let found = journaled(&channel).await;
        times(&found, "contact", "Ada Lovelace") == 1 && times(&found, "mute", "true") == 1
    })
    .await;
    eventually("every collection was read anew", PATIENCE, async || {
        snapshots_fetched(&simulator) >= before + 3
    })
    .await;
    let found = journaled(&channel).await;
    for (kind, words) in [
        ("contact", "Ada Customer"),
        ("contact", "Ada Lovelace"),
        ("pin", "true"),
        ("mute", "true"),
    ] {
        assert_eq!(times(&found, kind, words), 1, "{kind} {words}: {found:?}");
    }
    assert_eq!(simulator.ledger().violations().len(), 0);
    assert_eq!(daemon.stop().await, Some(0));
    simulator.shutdown().await;
}
