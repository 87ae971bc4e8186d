//! What an idle session costs: memory of a real daemon that holds N linked, online sessions, how long
//! linking, a restart and the loss of every connection at once take, and how many handshakes that means
//! for the server at once.
//!
//! `cargo bench --features simulator --bench idle_sessions -- 1000`. The simulator runs in this process, so
//! that the daemon's figures are its own. It fails when a session does not come back, or when there were
//! more handshakes at once than the daemon was told.

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

use std::process::ExitCode;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use trunkline_simulator::{Fact, Fault, FaultSpec, FaultTarget, Simulator, Truth};
use world::Daemon;

/// Pairings under way at once.
const AT_ONCE: usize = 8;
/// `admission.simultaneous` of the daemon, which the server must never see exceeded.
const HANDSHAKES: usize = 16;
/// How long the sessions may take to come back.
const RETURN: Duration = Duration::from_mins(5);
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

/// Waits until `sessions` devices are online and `holds`.
///
/// # Errors
/// How many never came back, and which.
async fn all_return(
    sim: &Simulator,
    sessions: usize,
    holds: impl Fn(&Truth<'_>) -> bool,
) -> Result<(), String> {
    let back = |truth: &Truth<'_>| truth.connections().online >= sessions && holds(truth);
    if sim.wait_until(back, RETURN).await.is_ok() {
        return Ok(());
    }
    let devices = sim.devices();
    let away = devices.iter().filter(|device| !device.online);
    let away: Vec<_> = away.map(|device| device.phone.as_str()).collect();
    Err(format!(
        "{} of {sessions} sessions are not back after {RETURN:?}: {}",
        away.len(),
        away.join(" "),
    ))
}

/// Logins so far.
fn logins(truth: &Truth<'_>) -> usize {
    let facts = truth.ledger().facts();
    facts
        .filter(|fact| matches!(fact, Fact::Login { .. }))
        .count()
}

/// The most handshakes the server has seen at once.
///
/// # Errors
/// When that is more than the daemon was told.
fn handshakes(sim: &Simulator) -> Result<usize, String> {
    let peak = sim.connections().peak_handshaking;
    if peak > HANDSHAKES {
        return Err(format!(
            "{peak} handshakes at once; admission.simultaneous is {HANDSHAKES}"
        ));
    }
    Ok(peak)
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let sessions: usize = std::env::args()
        .find_map(|argument| argument.parse().ok())
        .unwrap_or(200);
    match measure(sessions).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("FAILED: {problem}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(sessions: usize) -> Result<(), String> {
    let sim = world::simulator(200).await;
    let bound = format!("[admission]\nsimultaneous = {HANDSHAKES}");
    let mut daemon = Daemon::prepare(&sim, &bound);
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
    all_return(&sim, sessions, |_| true).await?;
    println!(
        "after SIGKILL: API answers after {:.2} s, all online after {:.1} s, at most {} handshakes at once",
        answered.as_secs_f64(),
        start.elapsed().as_secs_f64(),
        handshakes(&sim)?,
    );

    let logged_in = sim.look(logins);
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

    if sim.look(logins) != logged_in || sim.connections().online < sessions {
        return Err("a session lost its connection while it was idle".to_owned());
    }

    let start = Instant::now();
    let struck = sim.fault(FaultSpec {
        target: FaultTarget::All,
        fault: Fault::Close,
        times: None,
    });
    println!("closed {} connections at once", struck.unwrap());
    all_return(&sim, sessions, |truth| {
        logins(truth) >= logged_in + sessions
    })
    .await?;
    println!(
        "all online again after {:.1} s, with at most {} handshakes at once since the start; {} KiB resident",
        start.elapsed().as_secs_f64(),
        handshakes(&sim)?,
        status_kib(daemon.pid(), "VmRSS:"),
    );
    Ok(())
}
