//! What people who run it need: trace, watch, completions and man pages.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use assert_cmd::Command;
use serde_json::Value;
use trunkline::pb;
use trunkline::pb::event_service_client::EventServiceClient;
use trunkline_simulator::{Account, NewAccount, Simulator, SimulatorConfig};

use crate::support::daemon::Daemon;
use crate::support::eventually;

const NUMBER: &str = "+2348030000001";
const CUSTOMER: &str = "+2348030000002";
const PATIENCE: Duration = Duration::from_mins(3);

fn trunkline() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trunkline"));
    command.env_clear();
    command
}

/// Takes and acknowledges everything, as a messaging core does.
async fn consume(daemon: &Daemon) {
    let subscription = "workspaces/default/subscriptions/default";
    let mut events = EventServiceClient::new(daemon.channel().await.unwrap());
    loop {
        let request = pb::LeaseEventsRequest {
            subscription: subscription.to_owned(),
            ..pb::LeaseEventsRequest::default()
        };
        let leases = events.lease_events(request).await.unwrap();
        let ack_ids = leases.into_inner().leases.into_iter();
        let ack_ids: Vec<_> = ack_ids.map(|lease| lease.ack_id).collect();
        if ack_ids.is_empty() {
            return;
        }
        let request = pb::SettleLeasesRequest {
            subscription: subscription.to_owned(),
            ack: Some(pb::PullAck { ack_ids }),
            ..pb::SettleLeasesRequest::default()
        };
        events.settle_leases(request).await.unwrap();
    }
}

/// The steps of a traced message that are done, in their order.
fn steps_of(story: &Value) -> Vec<&str> {
    let steps = story["steps"].as_array().unwrap().iter();
    steps
        .filter(|step| step["time"] != "-" || step["step"] == "committed")
        .map(|step| step["step"].as_str().unwrap())
        .collect()
}

#[test]
fn shells_and_man_get_their_files() {
    for shell in ["bash", "zsh", "fish"] {
        let output = trunkline().args(["completions", shell]).output().unwrap();
        assert!(output.status.success());
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(script.contains("doctor"), "{shell}");
    }
    let dir = tempfile::tempdir().unwrap();
    let pages = dir.path().join("man");
    let output = trunkline().arg("man").arg(&pages).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let page = std::fs::read_to_string(pages.join("trunkline.1")).unwrap();
    assert!(
        page.contains("Exit codes"),
        "the main page has the exit codes"
    );
    assert!(pages.join("trunkline-session-list.1").exists());
}

/// Links the number while `session watch` runs, which shows it.
fn link_under_watch(daemon: &Daemon, phone: &Account) {
    // Watching begins before anything is linked; each change is a line. What is listed first says that it
    // has begun.
    let created = daemon
        .trunkline()
        .args(["session", "create", "main"])
        .output()
        .unwrap();
    assert!(created.status.success(), "{created:?}");
    let mut watch = daemon
        .trunkline()
        .args(["session", "watch", "--output", "json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut seen = BufReader::new(watch.stdout.take().unwrap()).lines();
    let listed = seen.next().unwrap().unwrap();
    assert!(
        listed.contains("workspaces/default/sessions/main"),
        "{listed}"
    );

    let mut pair = daemon
        .trunkline()
        .args(["pair", "--output", "json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut steps = BufReader::new(pair.stdout.take().unwrap()).lines();
    let first: Value = serde_json::from_str(&steps.next().unwrap().unwrap()).unwrap();
    phone
        .scan_qr(first["qr"]["payload"].as_str().unwrap())
        .unwrap();
    steps.for_each(drop);
    assert!(pair.wait().unwrap().success());
    let online = seen.any(|line| line.unwrap().contains("CONNECTION_STATE_ONLINE"));
    assert!(online, "the watch shows it coming online");
    watch.kill().unwrap();
    watch.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_traced_both_ways() {
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
    let run = |arguments: &[&str]| daemon.trunkline().args(arguments).output().unwrap();
    let trace = |what: &str| -> Value {
        let output = run(&["trace", what, "--output", "json"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{what}: {said}");
        serde_json::from_slice(&output.stdout).unwrap()
    };

    link_under_watch(&daemon, &phone);

    // The customer's phone is off for a while: receipts may not overtake the server's answer.
    customer.set_reachable(false);
    let sent = run(&["send", CUSTOMER, "hello", "--until", "sent"]);
    let sent = String::from_utf8(sent.stdout).unwrap();
    let id = sent.split_whitespace().next().unwrap();
    let verdict = |what: &str| trace(what)["verdict"].as_str().unwrap().to_owned();
    assert!(verdict(id).contains("their phone is off"));
    customer.set_reachable(true);
    eventually("it is delivered", PATIENCE, async || {
        verdict(id).contains("on the recipient's phone")
    })
    .await;
    let story = trace(id);
    let steps = steps_of(&story);
    for step in ["accepted", "queued", "sending", "sent", "delivered"] {
        assert!(steps.contains(&step), "{story}");
    }
    assert!(!steps.contains(&"read"), "nobody has opened it: {story}");
    let shown: Vec<_> = customer.inbox().into_iter().map(|seen| seen.id).collect();
    customer.mark_read(&shown);
    eventually("it is read", PATIENCE, async || {
        verdict(id).contains("has seen it")
    })
    .await;
    let story = trace(id);
    assert_eq!(steps_of(&story).last(), Some(&"read"), "{story}");

    eventually("the answer has come", PATIENCE, async || {
        String::from_utf8_lossy(&run(&["events", "--type", "message"]).stdout).contains("got it")
    })
    .await;
    assert!(verdict(CUSTOMER).contains("has not confirmed"));
    consume(&daemon).await;
    let story = trace(CUSTOMER);
    let way = ["written", "received", "committed", "leased", "acknowledged"];
    assert_eq!(steps_of(&story), way, "{story}");
    assert!(verdict(CUSTOMER).contains("took it"));
    let text = run(&["trace", CUSTOMER]);
    let text = String::from_utf8(text.stdout).unwrap();
    for said in way.iter().chain(&["got it", "session main"]) {
        assert!(text.contains(said), "{said}: {text}");
    }

    // Answered meanwhile.
    customer.set_auto_reply(None);
    let sent = run(&["send", CUSTOMER, "you are welcome", "--until", "delivered"]);
    assert!(sent.status.success());
    let story = trace(CUSTOMER);
    assert_eq!(steps_of(&story).last(), Some(&"answer"), "{story}");
    let told = story["verdict"].as_str().unwrap();
    assert!(told.contains("A message went to this chat since"), "{told}");
    assert!(told.contains("on the recipient's phone"), "{told}");

    let unknown = run(&["trace", "+2348030000009"]);
    assert_eq!(unknown.status.code(), Some(1));
    let said = String::from_utf8_lossy(&unknown.stderr);
    assert!(
        said.contains("never came here") && said.contains("ONLINE"),
        "{said}"
    );

    assert_eq!(daemon.stop().await, Some(0));
    simulator.shutdown().await;
}
