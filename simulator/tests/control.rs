//! The HTTP control API, and the binary that serves it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests fail by panicking"
)]

mod support;

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use support::http::{json, request};
use support::{Device, PATIENCE};
use trunkline_simulator::{Simulator, SimulatorConfig};
use wacore::types::events::Event;
use wacore_binary::Jid;

async fn served() -> (Simulator, String) {
    let simulator = support::simulator_with(SimulatorConfig {
        control: Some(([127, 0, 0, 1], 0).into()),
        wss: Some(([127, 0, 0, 1], 0).into()),
        ..SimulatorConfig::default()
    })
    .await;
    let base = simulator.control_url().unwrap();
    (simulator, base)
}

async fn create(base: &str, phone: &str, name: &str) -> Value {
    let body = json!({ "phone": phone, "name": name });
    let (status, account) = json(base, "POST", "/accounts", Some(body)).await;
    assert_eq!(status, 201, "{account}");
    account
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_over_http() {
    let (simulator, base) = served().await;
    create(&base, "+1 555 010 0001", "Owner").await;
    create(&base, "15550100002", "Customer").await;
    let device = Device::new(simulator.ws_url()).await;
    device.run();
    let qr = device
        .event(|event| match event {
            Event::PairingQrCode(code) => Some(code.code.clone()),
            _ => None,
        })
        .await;
    let (status, scanned) = json(
        &base,
        "POST",
        "/accounts/15550100001/scan",
        Some(json!({ "qr": qr })),
    )
    .await;
    assert_eq!((status, &scanned["device"]), (200, &json!(1)));
    device.ended().await;
    device.connect().await;
    let (_, devices) = json(&base, "GET", "/devices", None).await;
    assert_eq!(devices["devices"][0]["online"], true);

    let reply = json!({ "enabled": true, "template": "echo {text}" });
    let (status, _) = json(&base, "POST", "/accounts/15550100002/reply", Some(reply)).await;
    assert_eq!(status, 200);
    let customer = Jid::pn("15550100002");
    device.client.send_text(customer, "ping").await.unwrap();
    device.text("echo ping").await;

    let message = json!({ "to": "+15550100001", "text": "by hand" });
    let (status, sent) = json(
        &base,
        "POST",
        "/accounts/15550100002/messages",
        Some(message),
    )
    .await;
    assert_eq!(status, 200);
    assert_eq!(sent["id"], device.text("by hand").await);
    let (_, inbox) = json(&base, "GET", "/accounts/15550100002/messages", None).await;
    assert_eq!(inbox["messages"][0]["text"], "ping");
    let ids = json!({ "ids": [inbox["messages"][0]["id"]] });
    json(&base, "POST", "/accounts/15550100002/read", Some(ids)).await;
    device
        .event(|event| match event {
            Event::Receipt(receipt) => {
                (receipt.r#type == wacore::types::presence::ReceiptType::Read).then_some(())
            }
            _ => None,
        })
        .await;
    let (_, outbox) = json(&base, "GET", "/accounts/15550100002/sent", None).await;
    assert_eq!(outbox["messages"].as_array().unwrap().len(), 2);

    let fault = json!({ "target": { "account": "15550100001" }, "fault": { "kind": "close" } });
    let (_, struck) = json(&base, "POST", "/faults", Some(fault)).await;
    assert_eq!(struck["struck"], 1);
    device.ended().await;
    let (_, ledger) = json(&base, "GET", "/ledger?since=3", None).await;
    let entries = ledger["entries"].as_array().unwrap();
    assert_eq!(entries[0]["seq"], 3);
    assert!(entries.iter().any(|entry| entry["event"] == "fault"));
    simulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_name_the_field() {
    let (simulator, base) = served().await;
    create(&base, "15550100001", "Owner").await;
    let cases = [
        (
            "POST",
            "/accounts",
            json!({ "phone": "12", "name": "X" }),
            400,
            "phone",
        ),
        (
            "POST",
            "/accounts",
            json!({ "phone": "15550100003", "name": " " }),
            400,
            "name",
        ),
        (
            "POST",
            "/accounts",
            json!({ "phone": "15550100001", "name": "X" }),
            409,
            "phone",
        ),
        ("POST", "/accounts", json!({ "name": "X" }), 400, "phone"),
        (
            "POST",
            "/accounts",
            json!({ "phone": "1", "name": "X", "age": 3 }),
            400,
            "age",
        ),
        (
            "POST",
            "/accounts/999999999/scan",
            json!({ "qr": "x" }),
            404,
            "phone",
        ),
        (
            "POST",
            "/accounts/15550100001/scan",
            json!({ "qr": "x" }),
            400,
            "qr",
        ),
        ("POST", "/accounts/15550100001/scan", json!({}), 400, "qr"),
        (
            "POST",
            "/accounts/15550100001/scan",
            json!({ "qr": "2@none,AA==,AA==,AA==,1" }),
            409,
            "qr",
        ),
        (
            "POST",
            "/accounts/15550100001/messages",
            json!({ "to": "15550109999", "text": "x" }),
            400,
            "to",
        ),
        (
            "DELETE",
            "/accounts/15550100001/devices/7",
            json!({}),
            404,
            "device",
        ),
        (
            "POST",
            "/faults",
            json!({ "target": { "account": "1" }, "fault": { "kind": "close" } }),
            404,
            "target",
        ),
        (
            "POST",
            "/faults",
            json!({ "target": "all", "fault": { "kind": "close" }, "times": 0 }),
            400,
            "times",
        ),
        (
            "POST",
            "/faults",
            json!({ "target": { "account": "15550100001" }, "fault": { "kind": "refuse_tcp" } }),
            400,
            "target",
        ),
    ];
    for (method, path, body, status, field) in cases {
        let (got, answer) = json(&base, method, path, Some(body.clone())).await;
        assert_eq!(got, status, "{method} {path} {body}: {answer}");
        assert_eq!(answer["error"]["field"], field, "{path} {body}: {answer}");
    }
    let (status, _) = request(&base, "GET", "/ledger?since=x", None).await;
    assert_eq!(status, 400);
    let (status, _) = request(&base, "GET", "/nowhere", None).await;
    assert_eq!(status, 404);
    simulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trust_anchors_are_served() {
    let (simulator, base) = served().await;
    let (_, key) = json(&base, "GET", "/root-key", None).await;
    assert_eq!(key["hex"], hex::encode(simulator.root_public_key()));
    let (status, pem) = request(&base, "GET", "/tls-root", None).await;
    assert_eq!(status, 200);
    assert_eq!(pem, simulator.tls_root_pem());
    let (status, body) = request(&base, "GET", "/healthz", None).await;
    assert_eq!((status, body.as_str()), (200, "ok"));
    simulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_binary_announces_itself_and_stops_on_sigterm() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_trunkline-simulator"))
        .args(["--seed", "5", "--people", "2"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let ready: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(ready["people"][1], "15550100002");
    let base = ready["control"].as_str().unwrap();
    let (_, accounts) = json(base, "GET", "/accounts", None).await;
    assert_eq!(accounts["accounts"].as_array().unwrap().len(), 2);
    let killed = Command::new("kill")
        .args(["-TERM", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(killed.success());
    let status = tokio::time::timeout(
        PATIENCE,
        tokio::task::spawn_blocking(move || child.wait().unwrap()),
    )
    .await
    .expect("stops in time")
    .unwrap();
    assert!(status.success(), "{status}");
}

#[test]
fn the_binary_stays_on_loopback() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_trunkline-simulator"))
        .args(["--ws", "0.0.0.0:0"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut message = String::new();
    let mut stderr = child.stderr.take().unwrap();
    stderr.read_to_string(&mut message).unwrap();
    assert!(!child.wait().unwrap().success());
    assert!(
        message.contains("ws: 0.0.0.0:0 is not a loopback address"),
        "{message}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_over_http() {
    let (simulator, base) = served().await;
    for (phone, name) in [
        ("15550100001", "Owner"),
        ("15550100002", "Ana"),
        ("15550100003", "Ben"),
    ] {
        create(&base, phone, name).await;
    }
    let new = json!({ "subject": "Friends", "members": ["15550100002"] });
    let (status, group) = json(&base, "POST", "/accounts/15550100001/groups", Some(new)).await;
    assert_eq!(status, 201, "{group}");
    let jid = group["jid"].as_str().unwrap().to_owned();
    let change = json!({ "add": ["15550100003"], "promote": ["15550100002"], "subject": "Family" });
    let path = format!("/accounts/15550100001/groups/{jid}");
    let (status, group) = json(&base, "POST", &path, Some(change)).await;
    assert_eq!(status, 200, "{group}");
    assert_eq!(group["subject"], "Family");
    let roles: Vec<&str> = group["members"]
        .as_array()
        .unwrap()
        .iter()
        .map(|member| member["role"].as_str().unwrap())
        .collect();
    assert_eq!(roles, ["superadmin", "admin", "member"]);

    let hello = json!({ "to": jid, "text": "hello all" });
    let (status, _) = json(&base, "POST", "/accounts/15550100003/messages", Some(hello)).await;
    assert_eq!(status, 200);
    let (_, inbox) = json(&base, "GET", "/accounts/15550100001/messages", None).await;
    assert_eq!(inbox["messages"][0]["text"], "hello all");
    assert_eq!(inbox["messages"][0]["group"], jid);

    let refused = json!({ "remove": ["15550100001"] });
    let path = format!("/accounts/15550100003/groups/{jid}");
    let (status, error) = json(&base, "POST", &path, Some(refused)).await;
    assert_eq!((status, &error["error"]["field"]), (409, &json!("group")));
    let (status, error) = json(&base, "GET", "/groups/1@g.us", None).await;
    assert_eq!((status, &error["error"]["field"]), (404, &json!("group")));
    simulator.shutdown().await;
}
