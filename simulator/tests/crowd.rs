//! Many devices at once: correctness for a few dozen, and a measurement for many.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests fail by panicking"
)]

mod support;

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use serde_json::{Value, json};
use support::http;
use support::{Device, PATIENCE, person, simulator};
use tokio::sync::Semaphore;
use wacore::types::events::Event;
use wacore_binary::Jid;

const PREKEYS: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn forty_devices_each_send_and_receive_exactly_once() {
    const CROWD: u32 = 40;
    let simulator = Arc::new(simulator().await);
    let customer = person(&simulator, 9999);
    let mut pairing = tokio::task::JoinSet::new();
    for number in 1..=CROWD {
        let owner = person(&simulator, number);
        let url = simulator.ws_url();
        pairing.spawn(async move {
            let device = Device::with_prekeys(url, PREKEYS).await;
            device.pair(&owner).await;
            (owner, device)
        });
    }
    let crowd = pairing.join_all().await;
    assert_eq!(simulator.connections().online, CROWD as usize);
    for (owner, device) in &crowd {
        let text = format!("to {}", owner.phone());
        customer.send_text(&owner.phone(), &text).unwrap();
        let to = Jid::pn(customer.phone());
        device.client.send_text(to, owner.phone()).await.unwrap();
    }
    for (owner, device) in &crowd {
        device.text(&format!("to {}", owner.phone())).await;
        assert_eq!(device.texts().len(), 1);
    }
    let phone = customer.phone();
    simulator
        .wait_until(
            |truth| truth.inbox(&phone).len() == CROWD as usize,
            PATIENCE,
        )
        .await
        .unwrap();
    let ledger = simulator.ledger();
    assert!(ledger.displayed_by(&phone).values().all(|&n| n == 1));
    assert!(ledger.violations().is_empty(), "{:#?}", ledger.violations());
}

/// Pairs `CROWD` (default 200) devices with the binary in a process of its own and prints what
/// that process costs:
/// `cargo test -p trunkline-simulator --test crowd -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, run by hand"]
#[expect(clippy::print_stdout, reason = "prints its measurement")]
async fn cost_per_session() {
    let crowd: u32 = std::env::var("CROWD").map_or(200, |n| n.parse().unwrap());
    let mut child = Killed(
        Command::new(env!("CARGO_BIN_EXE_trunkline-simulator"))
            .args(["--people", &crowd.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut line = String::new();
    BufReader::new(child.0.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let ready: Value = serde_json::from_str(&line).unwrap();
    let base = ready["control"].as_str().unwrap().to_owned();
    let url = ready["ws"].as_str().unwrap().to_owned();
    let before = (resident_kb(child.0.id()), cpu_ticks(child.0.id()));
    let at_once = Arc::new(Semaphore::new(8));
    let mut pairing = tokio::task::JoinSet::new();
    for person in ready["people"].as_array().unwrap() {
        let phone = person.as_str().unwrap().to_owned();
        let (base, url, at_once) = (base.clone(), url.clone(), Arc::clone(&at_once));
        pairing.spawn(async move {
            let _permit = at_once.acquire_owned().await.unwrap();
            let device = Device::with_prekeys(url, PREKEYS).await;
            device.run();
            let qr = device
                .event(|event| match event {
                    Event::PairingQrCode(code) => Some(code.code.clone()),
                    _ => None,
                })
                .await;
            let path = format!("/accounts/{phone}/scan");
            let (status, _) = http::json(&base, "POST", &path, Some(json!({ "qr": qr }))).await;
            assert_eq!(status, 200);
            device.ended().await;
            device.connect().await;
            device
        });
    }
    let devices = pairing.join_all().await;
    let (_, census) = http::json(&base, "GET", "/connections", None).await;
    assert_eq!(census["online"], crowd);
    let after = (resident_kb(child.0.id()), cpu_ticks(child.0.id()));
    println!(
        "{crowd} sessions: {} KB resident before, {} KB after, {} KB per session; {} ms CPU per \
         pairing and login (100 Hz clock)",
        before.0,
        after.0,
        (after.0 - before.0) / u64::from(crowd),
        (after.1 - before.1) * 10 / u64::from(crowd),
    );
    drop(devices);
}

/// A process that does not outlive the test, pass or fail.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn resident_kb(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// User and system time in clock ticks.
fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}
