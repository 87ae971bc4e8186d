//! What an idle session costs: memory of a real daemon that holds N linked, online sessions, how long
//! linking, a restart and the loss of every connection at once take, and how many handshakes that means
//! for the server at once.
//!
//! `cargo bench --features simulator --bench idle_sessions -- 1000`. The simulator runs in this process, so
//! that the daemon's figures are its own.

#![cfg(feature = "simulator")]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    reason = "a benchmark prints its figures, stops on any fault, and measures real time"
)]

#[path = "../tests/support/world.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the tests")]
mod world;

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use trunkline_simulator::{Fact, Fault, FaultSpec, FaultTarget, Truth};
use world::Daemon;

/// Pairings under way at once.
const AT_ONCE: usize = 8;
/// Time for buffers of the start to be given back before memory is read.
const SETTLE: Duration = Duration::from_secs(10);

/// A field of `/proc/PID/status`, in KiB.
fn status_kib(pid: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// User and system CPU time used so far, in seconds (at the usual 100 ticks a second).
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after_name = stat.rsplit(')').next().unwrap();
    let fields: Vec<_> = after_name.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    ticks as f64 / 100.0
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let sessions: usize = std::env::args()
        .find_map(|argument| argument.parse().ok())
        .unwrap_or(200);
    let sim = world::simulator(200).await;
    let mut daemon = Daemon::prepare(&sim, "");
    let channel = daemon.start().await;
    let empty = status_kib(daemon.pid(), "VmRSS:");
    println!("daemon without sessions: {empty} KiB resident");

    let start = Instant::now();
    futures::stream::iter(0..sessions)
        .for_each_concurrent(AT_ONCE, |n| {
            let (sim, channel) = (&sim, channel.clone());
            async move {
                let id = format!("line-{n}");
                let owner = world::person(sim, &format!("+1555{n:07}"), "Shop");
                world::create_session(&channel, &id).await;
                world::pair(&channel, &id, &owner).await;
            }
        })
        .await;
    let linking = start.elapsed();
    println!(
        "linked {sessions} sessions in {:.1} s ({:.0} ms each, {AT_ONCE} at once)",
        linking.as_secs_f64(),
        linking.as_secs_f64() * 1e3 * AT_ONCE as f64 / sessions as f64,
    );

    daemon.kill();
    let start = Instant::now();
    let _channel = daemon.start().await;
    let answered = start.elapsed();
    sim.wait_until(
        |truth| truth.connections().online >= sessions,
        Duration::from_mins(5),
    )
    .await
    .expect("every session comes back");
    println!(
        "after SIGKILL: API answers after {:.2} s, all online after {:.1} s, at most {} handshakes at once",
        answered.as_secs_f64(),
        start.elapsed().as_secs_f64(),
        sim.connections().peak_handshaking,
    );

    tokio::time::sleep(SETTLE).await;
    let (held, peak) = (
        status_kib(daemon.pid(), "VmRSS:"),
        status_kib(daemon.pid(), "VmHWM:"),
    );
    println!(
        "holding {sessions} idle sessions: {held} KiB resident (peak {peak}), {:.0} KiB per session",
        held.saturating_sub(empty) as f64 / sessions as f64,
    );
    let (before, start) = (cpu_seconds(daemon.pid()), Instant::now());
    tokio::time::sleep(Duration::from_secs(30)).await;
    let used = cpu_seconds(daemon.pid()) - before;
    println!(
        "idle CPU: {:.3} ms per session per second",
        used * 1e3 / start.elapsed().as_secs_f64() / sessions as f64,
    );

    let logins = |truth: &Truth<'_>| {
        let facts = truth.ledger().facts();
        facts.filter(|f| matches!(f, Fact::Login { .. })).count()
    };
    let before = sim.look(logins);
    let start = Instant::now();
    let struck = sim.fault(FaultSpec {
        target: FaultTarget::All,
        fault: Fault::Close,
        times: None,
    });
    println!("closed {} connections at once", struck.unwrap());
    sim.wait_until(
        |truth| logins(truth) >= before + sessions && truth.connections().online >= sessions,
        Duration::from_mins(5),
    )
    .await
    .expect("every session comes back");
    println!(
        "all online again after {:.1} s, with at most {} handshakes at once since the start; {} KiB resident",
        start.elapsed().as_secs_f64(),
        sim.connections().peak_handshaking,
        status_kib(daemon.pid(), "VmRSS:"),
    );
}
