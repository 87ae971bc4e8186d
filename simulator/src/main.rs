//! `trunkline-simulator`: a loopback WhatsApp as a process.

use std::io::Write as _;
use std::net::SocketAddr;

use anyhow::Context as _;
use clap::Parser;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;
use trunkline_simulator::{NewAccount, Simulator, SimulatorConfig};

/// A loopback WhatsApp for development and tests. Prints one line of JSON with its addresses when
/// it is ready, and stops cleanly on SIGTERM or SIGINT.
#[derive(Debug, Parser)]
#[command(name = "trunkline-simulator", version)]
struct Arguments {
    /// Source of all keys, ids and LIDs: the same seed gives the same simulator.
    #[arg(long, default_value_t = 1, env = "TRUNKLINE_SIMULATOR_SEED")]
    seed: u64,
    /// Where to serve ws:// (loopback only; port 0 picks a free one).
    #[arg(long, default_value = "127.0.0.1:0")]
    ws: SocketAddr,
    /// Where to serve wss:// under a root certificate of the simulator's own.
    #[arg(long)]
    wss: Option<SocketAddr>,
    /// Where to serve media by HTTPS, under the same root certificate.
    #[arg(long, default_value = "127.0.0.1:0")]
    media: SocketAddr,
    /// Where to serve the HTTP control API.
    #[arg(long, default_value = "127.0.0.1:0")]
    control: SocketAddr,
    /// People to create, with numbers from +15550100001 on.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=9999))]
    people: u32,
    /// Stop when standard input closes: ties the simulator to the process that started it.
    #[arg(long)]
    stop_on_stdin_eof: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into()))
        .with_writer(std::io::stderr)
        .init();
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM handler")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT handler")?;
    let simulator = Simulator::bind(SimulatorConfig {
        seed: arguments.seed,
        ws: arguments.ws,
        wss: arguments.wss,
        media: arguments.media,
        control: Some(arguments.control),
        ..SimulatorConfig::default()
    })
    .await?;
    let mut people = Vec::new();
    for number in 1..=arguments.people {
        let person = NewAccount::new(format!("1555010{number:04}"), format!("Person {number}"));
        people.push(simulator.create_account(person)?.phone());
    }
    announce(&simulator, arguments.seed, &people)?;
    let starter_gone = stdin_eof(arguments.stop_on_stdin_eof);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = starter_gone => {}
    }
    simulator.shutdown().await;
    Ok(())
}

/// Waits for the end of standard input, if `wanted`: the pipe closes when the process that holds its
/// other end is gone, however it ended.
async fn stdin_eof(wanted: bool) {
    if !wanted {
        return std::future::pending().await;
    }
    let (gone, wait) = tokio::sync::oneshot::channel();
    // A thread of its own: a blocked read must not hold the runtime's shutdown up.
    std::thread::spawn(move || {
        // Whether it ended or broke, nobody is there any more.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        let _ = gone.send(());
    });
    let _ = wait.await;
}

/// The line that scripts wait for.
fn announce(simulator: &Simulator, seed: u64, people: &[String]) -> anyhow::Result<()> {
    let line = json!({
        "ready": true,
        "seed": seed,
        "ws": simulator.ws_url(),
        "wss": simulator.wss_url(),
        "media": simulator.media_url(),
        "control": simulator.control_url(),
        "root_key": hex::encode(simulator.root_public_key()),
        "people": people,
        "pid": std::process::id(),
    });
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()?;
    Ok(())
}
