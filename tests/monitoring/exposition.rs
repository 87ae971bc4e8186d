//! What a daemon really exposes after every kind of work: each metric, with the labels it is listed with.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tonic::Request;
use trunkline::pb;
use trunkline::telemetry::{Kind, METRICS};
use trunkline_simulator::{NewAccount, Simulator, SimulatorConfig};

use crate::names::metric;
use crate::support::daemon::Daemon;
use crate::support::{eventually, http};

const NUMBER: &str = "+2348030000001";
const CUSTOMER: &str = "+2348030000002";
const PATIENCE: Duration = Duration::from_mins(2);

/// `/metrics` of a daemon.
async fn scrape(daemon: &Daemon) -> String {
    let answer = http::get(&daemon.address("ops"), "/metrics").await;
    answer.expect("the daemon answers").1
}

/// The labels seen for each metric.
fn labels(exposition: &str) -> BTreeMap<&'static str, BTreeSet<String>> {
    let mut seen: BTreeMap<&'static str, BTreeSet<String>> = BTreeMap::new();
    for line in exposition
        .lines()
        .filter(|line| line.starts_with("trunkline_"))
    {
        let name = line.split(['{', ' ']).next().unwrap();
        let metric = metric(name).unwrap_or_else(|| panic!("{name} is not listed"));
        let here = seen.entry(metric.name).or_default();
        let Some(inside) = line
            .split_once('{')
            .and_then(|(_, rest)| rest.split_once('}'))
        else {
            continue;
        };
        for pair in inside.0.split(',') {
            let label = pair.split('=').next().unwrap();
            // The bounds of a histogram's buckets are its own.
            if metric.kind != Kind::Histogram || label != "le" {
                here.insert(label.to_owned());
            }
        }
    }
    seen
}

#[track_caller]
fn value(exposition: &str, series: &str) -> f64 {
    let line = exposition
        .lines()
        .find(|line| {
            line.strip_prefix(series)
                .is_some_and(|rest| rest.starts_with(' '))
        })
        .unwrap_or_else(|| panic!("no {series}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_works_exposes_every_metric() {
    let simulator = Simulator::bind(SimulatorConfig::default()).await.unwrap();
    let phone = simulator
        .create_account(NewAccount::new(NUMBER, "Shop"))
        .unwrap();
    let customer = simulator
        .create_account(NewAccount::new(CUSTOMER, "Ada"))
        .unwrap();
    customer.set_auto_reply(Some("got it".to_owned()));
    let mut daemon = Daemon::prepare(&simulator.ws_url(), "");
    daemon.start().await;

    let channel = daemon.channel().await.unwrap();
    let mut sessions = pb::session_service_client::SessionServiceClient::new(channel.clone());
    let created = pb::CreateSessionRequest {
        parent: "workspaces/default".into(),
        session_id: "shop".into(),
        request_id: uuid::Uuid::new_v4().to_string(),
        ..Default::default()
    };
    sessions.create_session(created).await.unwrap();
    let pairing = pb::PairSessionRequest {
        name: "workspaces/default/sessions/shop".into(),
        request_id: uuid::Uuid::new_v4().to_string(),
        ..Default::default()
    };
    let mut steps = sessions.pair_session(pairing).await.unwrap().into_inner();
    while let Some(step) = steps.message().await.unwrap() {
        match step.step {
            Some(pb::pair_session_response::Step::Qr(qr)) => {
                phone.scan_qr(&qr.payload).unwrap();
            }
            Some(pb::pair_session_response::Step::Succeeded(_)) => break,
            _ => {}
        }
    }
    let sent = daemon
        .trunkline()
        .args(["send", CUSTOMER, "hello", "--until", "delivered"])
        .output()
        .unwrap();
    assert!(
        sent.status.success(),
        "{}",
        String::from_utf8_lossy(&sent.stderr)
    );

    // A consumer takes what is there and holds it.
    let mut events = pb::event_service_client::EventServiceClient::new(channel);
    let (ask, asked) = tokio::sync::mpsc::channel(8);
    let open = pb::PullRequest {
        request: Some(pb::pull_request::Request::Open(pb::PullOpen {
            subscription: "workspaces/default/subscriptions/default".into(),
            max_events: 100,
            max_bytes: 1 << 20,
        })),
    };
    ask.send(open).await.unwrap();
    let asked = tokio_stream::wrappers::ReceiverStream::new(asked);
    let mut pulled = events.pull(Request::new(asked)).await.unwrap().into_inner();
    pulled
        .message()
        .await
        .unwrap()
        .expect("something to deliver");

    let mut last = String::new();
    eventually("the events that wait are noticed", PATIENCE, async || {
        last = scrape(&daemon).await;
        value(&last, "trunkline_delivery_oldest_unacked_seconds") > 0.0
            && value(&last, "trunkline_delivery_leases") >= 1.0
            && last.contains("trunkline_sessions{")
    })
    .await;
    let seen = labels(&last);
    let has_tls = |name: &str| name.starts_with("trunkline_tls_");
    for metric in METRICS.iter().filter(|metric| !has_tls(metric.name)) {
        let Some(found) = seen.get(metric.name) else {
            panic!("{} is not exposed:\n{last}", metric.name);
        };
        let listed: BTreeSet<String> = metric
            .labels
            .iter()
            .map(|(label, _)| (*label).to_owned())
            .collect();
        assert_eq!(*found, listed, "labels of {}", metric.name);
    }

    // And they say what happened.
    let said = |series: &str| value(&last, series);
    assert!(said("trunkline_outbound_total{outcome=\"sent\"}") >= 1.0);
    assert!(said("trunkline_inbound_total{outcome=\"new\"}") >= 1.0);
    assert!(said("trunkline_delivery_streams") >= 1.0);
    assert!(said("trunkline_delivery_leases") >= 1.0);
    assert!(said("trunkline_send_to_ack_seconds_count") >= 1.0);
    assert!(said("trunkline_store_commit_seconds_count") >= 1.0);
    assert!(said("trunkline_store_free_bytes") > 0.0);
    assert!(said("trunkline_ready") > 0.0);
    assert_eq!(
        said("trunkline_disconnects_total{cause=\"banned\"}").to_bits(),
        0_f64.to_bits()
    );

    drop(ask);
    drop(pulled);
    assert_eq!(daemon.stop().await, Some(0));
    simulator.shutdown().await;
}
