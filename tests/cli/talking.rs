//! Against a daemon that runs: the errors that come from it, and a whole conversation by command line.

use std::io::{BufRead, BufReader};
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use trunkline_simulator::{NewAccount, Simulator, SimulatorConfig};

use crate::support::daemon::Daemon;
use crate::support::eventually;

const NUMBER: &str = "+2348030000001";
const CUSTOMER: &str = "+2348030000002";
const PATIENCE: Duration = Duration::from_mins(3);

fn run(daemon: &Daemon, arguments: &[&str]) -> Output {
    daemon.trunkline().args(arguments).output().unwrap()
}

#[track_caller]
pub(crate) fn succeeds(daemon: &Daemon, arguments: &[&str]) -> String {
    let output = run(daemon, arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
pub(crate) fn refuses(daemon: &Daemon, arguments: &[&str], code: i32, parts: &[&str]) {
    let output = run(daemon, arguments);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
    assert_eq!(text.lines().count(), 1, "one plain line: {text}");
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in: {text}");
    }
}

#[track_caller]
pub(crate) fn json(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_of_the_daemon_are_one_line_with_reason_and_fix() {
    // Nothing listens there: no session of this test connects.
    let mut daemon = Daemon::prepare("ws://127.0.0.1:9/ws/chat", "");
    daemon.start().await;
    refuses(
        &daemon,
        &["session", "show", "nobody"],
        1,
        &["nobody", "RESOURCE_NOT_FOUND"],
    );
    refuses(
        &daemon,
        &["session", "create", "Not Valid"],
        2,
        &["session_id", "a-z"],
    );
    refuses(
        &daemon,
        &["send", "+15551234567", "hi"],
        1,
        &["trunkline pair"],
    );
    // A phone number that is refused leaves no session behind.
    refuses(
        &daemon,
        &["pair", "--code", "0803"],
        2,
        &["phone", "INVALID_PHONE_NUMBER"],
    );
    let none = succeeds(&daemon, &["session", "list"]);
    assert!(none.contains("no sessions yet"), "{none}");
    let created = succeeds(
        &daemon,
        &["session", "create", "main", "--label", "team=support"],
    );
    assert!(created.contains("UNPAIRED"), "{created}");
    refuses(
        &daemon,
        &["session", "create", "odd", "--label", "a=\u{1b}[31m"],
        2,
        &["labels", "control characters"],
    );
    refuses(
        &daemon,
        &["send", "--to", "x@y", "hi"],
        2,
        &["to:", "INVALID_FIELD"],
    );
    refuses(
        &daemon,
        &["session", "create", "main"],
        1,
        &["RESOURCE_ALREADY_EXISTS"],
    );
    refuses(
        &daemon,
        &["send", "0803 123", "hi"],
        2,
        &["to.phone", "+234", "INVALID_PHONE_NUMBER"],
    );
    refuses(
        &daemon,
        &["session", "list", "--workspace", "other"],
        1,
        &["other", "RESOURCE_NOT_FOUND"],
    );
    refuses(
        &daemon,
        &["events", "--from", "999999"],
        1,
        &["from_revision", "REVISION_OUT_OF_RANGE"],
    );
    // A full name is enough to find a session of another workspace.
    succeeds(&daemon, &["workspace", "create", "acme"]);
    let far = "workspaces/acme/sessions/z";
    succeeds(&daemon, &["session", "create", "z", "--workspace", "acme"]);
    let stored = succeeds(
        &daemon,
        &["send", "--session", far, "+15551234567", "hi", "--no-wait"],
    );
    assert!(stored.contains("QUEUED"), "{stored}");
    succeeds(&daemon, &["events", "--session", far]);

    // A second daemon on the same store.
    let second = run(&daemon, &["serve"]);
    let text = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(75), "{text}");
    assert!(
        text.contains("in use by another trunkline process"),
        "{text}"
    );

    // Tables for people, JSON for scripts.
    let table = succeeds(&daemon, &["session", "list"]);
    assert!(table.starts_with("SESSION"), "{table}");
    assert!(table.contains("UNPAIRED"), "{table}");
    let sessions = json(&succeeds(&daemon, &["session", "list", "--output", "json"]));
    assert_eq!(sessions[0]["name"], "workspaces/default/sessions/main");
    assert_eq!(sessions[0]["labels"]["team"], "support");
    let workspaces = succeeds(&daemon, &["workspace", "list"]);
    assert!(workspaces.contains("default"), "{workspaces}");
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_open_the_network_and_revoked_ones_do_not() {
    let mut daemon = Daemon::prepare("ws://127.0.0.1:9/ws/chat", "");
    daemon.start().await;
    let log = daemon.log();
    let addresses = |which: &str| {
        let mut named = log.lines().rev().filter_map(|line| {
            let line: Value = serde_json::from_str(line).ok()?;
            line[which].as_str().map(str::to_owned)
        });
        named.next().expect("the log names the addresses")
    };
    let endpoint = format!("http://{}", addresses("grpc"));
    // Somebody else's port says what it is not.
    let ops = addresses("ops");
    let mut elsewhere = daemon.trunkline();
    elsewhere.args(["session", "list", "--endpoint", &format!("http://{ops}")]);
    let elsewhere = elsewhere.output().unwrap();
    assert_eq!(elsewhere.status.code(), Some(69));
    assert!(String::from_utf8_lossy(&elsewhere.stderr).contains("listen.ops"));
    let over_network = |token: Option<&str>| {
        let mut command = daemon.trunkline();
        command.args(["session", "list", "--endpoint", &endpoint]);
        if let Some(token) = token {
            command.args(["--token", token]);
        }
        command.output().unwrap()
    };
    let no_token = over_network(None);
    assert_eq!(no_token.status.code(), Some(77));
    assert!(String::from_utf8_lossy(&no_token.stderr).contains("TOKEN_MISSING"));

    succeeds(&daemon, &["workspace", "create", "acme"]);
    let secret = succeeds(&daemon, &["token", "create", "--display-name", "core"]);
    let secret = secret.trim();
    assert!(over_network(Some(secret)).status.success());
    let listed = json(&succeeds(&daemon, &["token", "list", "--output", "json"]));
    assert_eq!(listed[0]["displayName"], "core");
    assert!(!listed[0].to_string().contains(secret));

    // Its workspace need not be named.
    succeeds(
        &daemon,
        &["session", "create", "there", "--workspace", "acme"],
    );
    let acme = [
        "token",
        "create",
        "--display-name",
        "acme",
        "--workspace",
        "acme",
    ];
    let acme = over_network(Some(succeeds(&daemon, &acme).trim()));
    let shown = String::from_utf8_lossy(&acme.stdout);
    assert!(shown.contains("there"), "{shown}");

    // It opens its own workspace only, and does not say whether another exists.
    let mut elsewhere = daemon.trunkline();
    elsewhere.args([
        "session",
        "list",
        "--endpoint",
        &endpoint,
        "--token",
        secret,
    ]);
    elsewhere.args(["--workspace", "acme"]);
    let elsewhere = elsewhere.output().unwrap();
    assert_eq!(elsewhere.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&elsewhere.stderr).contains("RESOURCE_NOT_FOUND"));

    let id = listed[0]["name"].as_str().unwrap().to_owned();
    succeeds(&daemon, &["token", "revoke", &id]);
    let revoked = over_network(Some(secret));
    assert_eq!(revoked.status.code(), Some(77));
    assert!(String::from_utf8_lossy(&revoked.stderr).contains("TOKEN_INVALID"));
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrators_token_opens_every_workspace_and_makes_new_ones() {
    let mut daemon = Daemon::prepare("ws://127.0.0.1:9/ws/chat", "");
    daemon.start().await;
    let endpoint = format!("http://{}", daemon.address("grpc"));
    let administrator = succeeds(&daemon, &["token", "create", "--administrator"]);
    let core = succeeds(&daemon, &["token", "create"]);
    let with = |token: &str, arguments: &[&str]| {
        let mut command = daemon.trunkline();
        command.args(arguments);
        command.args(["--endpoint", &endpoint, "--token", token.trim()]);
        command.output().unwrap()
    };
    let refused = with(&core, &["workspace", "create", "acme"]);
    assert_eq!(refused.status.code(), Some(77), "{refused:?}");
    for arguments in [
        ["workspace", "create", "acme"].as_slice(),
        &["session", "create", "there", "--workspace", "acme"],
        &["session", "create", "here"],
    ] {
        let done = with(&administrator, arguments);
        assert!(done.status.success(), "{arguments:?}: {done:?}");
    }
    let shown = with(&administrator, &["session", "list", "--workspace", "acme"]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("there"));
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_by_command_line() {
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

    // Without a terminal the payload is printed as text; with JSON, as one object per step.
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
    let rest: Vec<Value> = steps
        .map(|line| serde_json::from_str(&line.unwrap()).unwrap())
        .collect();
    assert!(rest.last().unwrap()["succeeded"].is_object(), "{rest:?}");
    assert!(pair.wait().unwrap().success());
    refuses(&daemon, &["pair"], 1, &["SESSION_ALREADY_PAIRED"]);

    // The only session need not be named; `send` follows the message.
    let sent = succeeds(
        &daemon,
        &["send", CUSTOMER, "hello", "--until", "delivered"],
    );
    assert!(sent.lines().last().unwrap().contains("DELIVERED"), "{sent}");
    eventually("the answer is in the journal", PATIENCE, async || {
        succeeds(&daemon, &["events", "--type", "message"]).contains("got it")
    })
    .await;
    let shown = succeeds(&daemon, &["session", "show", "main"]);
    assert!(
        shown.contains("ONLINE") && shown.contains(NUMBER),
        "{shown}"
    );

    // Stopped and started by hand.
    succeeds(&daemon, &["session", "stop", "main"]);
    eventually("it is stopped", PATIENCE, async || {
        succeeds(&daemon, &["session", "list"]).contains("STOPPED")
    })
    .await;
    succeeds(&daemon, &["session", "start", "main"]);
    eventually("it is online again", PATIENCE, async || {
        succeeds(&daemon, &["session", "list"]).contains("ONLINE")
    })
    .await;
    assert_eq!(daemon.stop().await, Some(0));
    simulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_is_linked_by_a_code_on_the_command_line() {
    let simulator = Simulator::bind(SimulatorConfig::default()).await.unwrap();
    let phone = simulator
        .create_account(NewAccount::new(NUMBER, "Shop"))
        .unwrap();
    let mut daemon = Daemon::prepare(&simulator.ws_url(), "");
    daemon.start().await;
    let mut pair = daemon
        .trunkline()
        .args(["pair", "--code", "+234 803 000 0001"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(pair.stdout.take().unwrap()).lines();
    let mut last = String::new();
    for line in lines {
        last = line.unwrap();
        if let Some((_, code)) = last
            .strip_prefix("code, valid for ")
            .and_then(|rest| rest.split_once(": "))
        {
            phone.enter_code(code).unwrap();
        }
    }
    assert!(pair.wait().unwrap().success());
    assert_eq!(last, format!("linked: session main is {NUMBER}"));
    assert_eq!(daemon.stop().await, Some(0));
    simulator.shutdown().await;
}
