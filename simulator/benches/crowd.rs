//! What a linked device costs the simulator: memory and CPU of its binary, in a process of its own, while N
//! devices pair and come online.
//!
//! `cargo bench --workspace --features simulator --bench crowd -- 200`

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark prints its figures and stops on any fault"
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use serde_json::{Value, json};
use support::{Device, http};
use tokio::sync::Semaphore;
use wacore::types::events::Event;

const PREKEYS: usize = 20;
/// Pairings under way at once.
const AT_ONCE: usize = 8;

#[tokio::main]
async fn main() {
    let crowd: u32 = std::env::args()
        .find_map(|argument| argument.parse().ok())
        .unwrap_or(200);
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
    let at_once = Arc::new(Semaphore::new(AT_ONCE));
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

/// A process that does not outlive the measurement.
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
