//! How many durable commits the sled engine makes per second, and how long each takes.
//!
//! `cargo bench --features simulator --bench commits`. A commit is five keys of 600 bytes, as a live
//! inbound message writes; every commit is awaited, so every figure includes an `fdatasync`.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    reason = "a benchmark prints its figures, stops on any fault, and measures real time"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use trunkline::domain::clock::{Clock, Entropy, SystemClock};
use trunkline::store::engine::{Commit, Engine};
use trunkline::store::memory::MemoryEngine;
use trunkline::store::sled::SledEngine;

const KEYS: usize = 5;
const VALUE: usize = 600;
const SPAN: Duration = Duration::from_secs(5);

fn commit(entropy: &Entropy) -> Commit {
    let put = (0..KEYS)
        .map(|_| {
            let (mut key, mut value) = ([0_u8; 33], vec![0_u8; VALUE]);
            entropy.fill(&mut key);
            entropy.fill(&mut value);
            (Bytes::copy_from_slice(&key), Bytes::from(value))
        })
        .collect();
    Commit {
        put,
        ..Commit::default()
    }
}

async fn worker(engine: Arc<dyn Engine>, seed: u64, end: Instant) -> Vec<Duration> {
    let entropy = Entropy::seeded(seed);
    let mut took = Vec::new();
    while Instant::now() < end {
        let commit = commit(&entropy);
        let start = Instant::now();
        engine.commit(commit).await.unwrap();
        took.push(start.elapsed());
    }
    took
}

async fn measure(name: &str, engine: Arc<dyn Engine>, tasks: u64) {
    let start = Instant::now();
    let workers: Vec<_> = (0..tasks)
        .map(|task| tokio::spawn(worker(Arc::clone(&engine), task, start + SPAN)))
        .collect();
    let mut took = Vec::new();
    for worker in workers {
        took.extend(worker.await.unwrap());
    }
    let seconds = start.elapsed().as_secs_f64();
    took.sort_unstable();
    let at = |share: usize| took[(took.len() - 1) * share / 100].as_secs_f64() * 1e3;
    println!(
        "{name:<8} {tasks:>5} tasks {:>9.0} commits/s   p50 {:>7.2} ms   p99 {:>7.2} ms",
        took.len() as f64 / seconds,
        at(50),
        at(99),
    );
}

#[tokio::main]
async fn main() {
    println!(
        "commit = {KEYS} keys x {VALUE} B, {} s each",
        SPAN.as_secs()
    );
    for tasks in [1, 16, 64, 256] {
        let folder = tempfile::tempdir().unwrap();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let engine = SledEngine::open(folder.path(), clock).unwrap();
        let engine: Arc<dyn Engine> = Arc::new(engine);
        measure("sled", Arc::clone(&engine), tasks).await;
        engine.close().await.unwrap();
    }
    measure("memory", Arc::new(MemoryEngine::new()), 64).await;
}
