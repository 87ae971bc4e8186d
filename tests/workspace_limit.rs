//! A workspace whose core confirms nothing: at the size limit of its journal its numbers go offline, WhatsApp
//! keeps what is written to them, and everything arrives once the core is back.

#![cfg(feature = "simulator")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on should fail"
)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::Duration;

use support::core::{
    Paired, arrivals, create_session, is_online, journal, pair, request_id, session, session_name,
};
use support::daemon::Daemon;
use support::eventually;
use tonic::transport::Channel;
use trunkline::pb;
use trunkline::pb::event_service_client::EventServiceClient;
use trunkline::pb::session_service_client::SessionServiceClient;
use trunkline::pb::workspace_service_client::WorkspaceServiceClient;
use trunkline_simulator::{Account, Fact, NewAccount, Simulator, SimulatorConfig};

const PATIENCE: Duration = Duration::from_mins(3);
const SUBSCRIPTION: &str = "workspaces/default/subscriptions/default";
/// Together above the limit of 1 MiB.
const TEXTS: usize = 24;
const LENGTH: usize = 50_000;

async fn is_full(channel: &Channel) -> bool {
    let name = "workspaces/default".into();
    let answer = WorkspaceServiceClient::new(channel.clone())
        .get_workspace(pb::GetWorkspaceRequest { name })
        .await
        .unwrap();
    answer.into_inner().workspace.unwrap().full
}

/// Makes the daemon look at its journals now: a reload does.
fn look(daemon: &Daemon) {
    let pid = daemon.pid().unwrap().to_string();
    let status = Command::new("kill").args(["-HUP", &pid]).status();
    assert!(status.unwrap().success());
}

/// What the core has been told of, by stanza id: how many events.
type Told = BTreeMap<String, usize>;

/// Leases and confirms until there is nothing more for now.
async fn confirm_everything(channel: &Channel, told: &mut Told) {
    let mut events = EventServiceClient::new(channel.clone());
    loop {
        let request = pb::LeaseEventsRequest {
            subscription: SUBSCRIPTION.into(),
            ..Default::default()
        };
        let leases = events.lease_events(request).await.unwrap();
        let leases = leases.into_inner().leases;
        if leases.is_empty() {
            return;
        }
        for event in leases.iter().filter_map(|lease| lease.event.as_ref()) {
            if let Some(pb::event::Payload::Message(message)) = &event.payload {
                *told.entry(message.stanza_id.clone()).or_default() += 1;
            }
        }
        let ack_ids = leases.into_iter().map(|lease| lease.ack_id).collect();
        let request = pb::SettleLeasesRequest {
            subscription: SUBSCRIPTION.into(),
            ack: Some(pb::PullAck { ack_ids }),
            ..Default::default()
        };
        events.settle_leases(request).await.unwrap();
    }
}

fn write(customer: &Account, shop: &Account, count: usize, length: usize) -> BTreeSet<String> {
    let sent = (0..count).map(|n| {
        let text = format!("{n} {}", "x".repeat(length));
        customer.send_text(&shop.phone(), &text).unwrap()
    });
    sent.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn at_its_size_limit_a_workspace_goes_offline_and_loses_nothing() {
    let simulator = Simulator::bind(SimulatorConfig::default()).await.unwrap();
    let account = |phone: &str| {
        let new = NewAccount::new(phone, "Somebody");
        simulator.create_account(new).unwrap()
    };
    let (shop, customer) = (account("+2348030000001"), account("+2348030000100"));
    let mut daemon = Daemon::prepare(
        &simulator.ws_url(),
        "[store]\njournal_max_size = \"1MiB\"\n",
    );
    daemon.start().await;
    let channel = daemon.channel().await.unwrap();
    create_session(&channel, "main").await;
    let paired = pair(&channel, "main", |qr| {
        shop.scan_qr(qr).unwrap();
    })
    .await;
    assert!(matches!(paired, Paired::Linked), "{paired:?}");
    assert!(!is_full(&channel).await);

    let mut written = write(&customer, &shop, TEXTS, LENGTH);
    let received = async || arrivals(&journal(&channel).await.unwrap());
    eventually("every text is in the journal", PATIENCE, async || {
        received().await.len() == TEXTS
    })
    .await;
    look(&daemon);
    eventually("the number is offline, and why", PATIENCE, async || {
        let session = session(&channel, "main").await.unwrap();
        let connection = session.connection.unwrap_or_default();
        connection.state() == pb::ConnectionState::Backoff
            && connection.cause.unwrap_or_default().kind() == pb::CauseKind::WorkspaceFull
    })
    .await;
    assert!(is_full(&channel).await);
    let listed = daemon.trunkline().args(["workspace", "list"]).output();
    let listed = String::from_utf8(listed.unwrap().stdout).unwrap();
    assert!(listed.contains("full"), "{listed}");
    let listed = daemon.trunkline().args(["session", "list"]).output();
    let listed = String::from_utf8(listed.unwrap().stdout).unwrap();
    assert!(listed.contains("workspace full"), "{listed}");

    // What is written meanwhile waits at WhatsApp, also while the daemon is killed and started again.
    written.extend(write(&customer, &shop, 5, 10));
    let logins = || {
        let ledger = simulator.ledger();
        let logins = ledger.facts().filter(|it| matches!(it, Fact::Login { .. }));
        logins.count()
    };
    let before = logins();
    daemon.kill().await;
    daemon.start().await;
    let channel = daemon.channel().await.unwrap();
    assert!(is_full(&channel).await, "known before anything connects");
    let restart = pb::RestartSessionRequest {
        name: session_name("main"),
        request_id: request_id(),
        ..Default::default()
    };
    let mut sessions = SessionServiceClient::new(channel.clone());
    sessions.restart_session(restart).await.unwrap();
    let connection = session(&channel, "main").await.unwrap().connection;
    assert_eq!(connection.unwrap().state(), pb::ConnectionState::Backoff);
    assert_eq!(logins(), before, "it does not even try");

    let mut told = Told::new();
    confirm_everything(&channel, &mut told).await;
    eventually("the number is back", PATIENCE, async || {
        is_online(&channel, "main").await
    })
    .await;
    assert!(!is_full(&channel).await);
    eventually("the core has everything", PATIENCE, async || {
        confirm_everything(&channel, &mut told).await;
        written.iter().all(|id| told.contains_key(id))
    })
    .await;
    let once = written.into_iter().map(|id| (id, 1)).collect::<Told>();
    assert_eq!(told, once, "each once");
    assert!(daemon.log().contains("has room again"));
}
