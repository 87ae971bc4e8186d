//! How many messages a daemon carries: L numbers, each of which sends N texts to a customer who answers every
//! one; a core takes the answers and confirms them. Everything is on disk before it is acknowledged, as always.
//!
//! `cargo bench --features simulator --bench messages -- 20 200`. The simulator runs in this process, so that
//! the daemon's CPU time is its own. `messages_baileys.mjs` does the same with Baileys.

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

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use tonic::transport::Channel;
use trunkline::pb;
use trunkline::pb::event_service_client::EventServiceClient;
use trunkline_simulator::Simulator;
use world::Daemon;

/// Pairings under way at once.
const PAIRINGS: usize = 8;
/// Calls under way at once for each number.
const AT_ONCE: usize = 8;

/// User and system CPU time used so far, in seconds (at the usual 100 ticks a second).
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after_name = stat.rsplit(')').next().unwrap();
    let fields: Vec<_> = after_name.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    ticks as f64 / 100.0
}

fn customer(line: usize) -> String {
    format!("+1666{line:07}")
}

/// Links the numbers and gives each a customer who answers.
async fn link(sim: &Simulator, channel: &Channel, lines: usize) {
    futures::stream::iter(0..lines)
        .for_each_concurrent(PAIRINGS, |n| async move {
            let owner = world::person(sim, &format!("+1555{n:07}"), "Shop");
            let customer = world::person(sim, &customer(n), "Customer");
            customer.set_auto_reply(Some("Answer to {text}".to_owned()));
            let id = format!("line-{n}");
            world::create_session(channel, &id).await;
            world::pair(channel, &id, &owner).await;
            world::wait_for_state(channel, &id, pb::ConnectionState::Online).await;
        })
        .await;
}

/// Sends `texts` from each number; how long each call took.
async fn send(channel: &Channel, lines: usize, texts: usize) -> Vec<Duration> {
    let calls = (0..texts).flat_map(|text| (0..lines).map(move |line| (line, text)));
    futures::stream::iter(calls)
        .map(|(line, text)| {
            let (session, to) = (format!("line-{line}"), customer(line));
            let id = world::request_id();
            let request = world::text_to(&session, &to, &format!("number {text}"), &id);
            async move {
                let start = Instant::now();
                world::send(channel, request).await.expect("a send");
                start.elapsed()
            }
        })
        .buffer_unordered(AT_ONCE * lines)
        .collect()
        .await
}

/// A core: leases and confirms until it has `wanted` different messages.
async fn consume(channel: &Channel, wanted: usize) {
    let mut events = EventServiceClient::new(channel.clone());
    let mut seen = BTreeSet::new();
    let subscription = format!("{}/subscriptions/default", world::PARENT);
    while seen.len() < wanted {
        let request = pb::LeaseEventsRequest {
            subscription: subscription.clone(),
            max_events: 1_000,
            wait: Some(prost_types::Duration {
                seconds: 10,
                nanos: 0,
            }),
            ..Default::default()
        };
        let leases = events.lease_events(request).await.expect("leases");
        let leases = leases.into_inner().leases;
        let mut ack_ids = Vec::new();
        for lease in leases {
            ack_ids.push(lease.ack_id);
            let payload = lease.event.and_then(|event| event.payload);
            if let Some(pb::event::Payload::Message(message)) = payload {
                seen.insert(message.stanza_id);
            }
        }
        if ack_ids.is_empty() {
            continue;
        }
        let request = pb::SettleLeasesRequest {
            subscription: subscription.clone(),
            ack: Some(pb::PullAck { ack_ids }),
            ..Default::default()
        };
        events.settle_leases(request).await.expect("settled");
    }
}

fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)].as_secs_f64() * 1e3
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let mut numbers = std::env::args().filter_map(|argument| argument.parse::<usize>().ok());
    let (lines, texts) = (numbers.next().unwrap_or(20), numbers.next().unwrap_or(200));
    let wanted = lines * texts;
    let sim = world::simulator(300).await;
    let mut daemon = Daemon::prepare(&sim, "");
    let channel = daemon.start().await;
    link(&sim, &channel, lines).await;
    println!("{lines} numbers, {texts} texts each, every text answered");

    let before = cpu_seconds(daemon.pid());
    let start = Instant::now();
    let shown = async {
        let all_shown = |truth: &trunkline_simulator::Truth<'_>| {
            (0..lines).all(|line| truth.inbox(&customer(line)[1..]).len() >= texts)
        };
        while !sim.look(all_shown) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        start.elapsed()
    };
    let (mut calls, shown, ()) = tokio::join!(
        send(&channel, lines, texts),
        shown,
        consume(&channel, wanted)
    );
    let elapsed = start.elapsed();
    let used = cpu_seconds(daemon.pid()) - before;
    calls.sort_unstable();
    println!(
        "out: all shown on the customers' phones after {:.2} s, {:.0} messages/s; a Send call takes {:.1} ms (p50), {:.1} ms (p99)",
        shown.as_secs_f64(),
        wanted as f64 / shown.as_secs_f64(),
        percentile(&calls, 50),
        percentile(&calls, 99),
    );
    println!(
        "both ways: all answers confirmed by the core after {:.2} s, {:.0} messages/s; {:.2} ms of the daemon's CPU per message",
        elapsed.as_secs_f64(),
        2.0 * wanted as f64 / elapsed.as_secs_f64(),
        used * 1e3 / (2.0 * wanted as f64),
    );
}
