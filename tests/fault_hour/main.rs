//! Mixed faults, one after the other, on a fleet under traffic. While each lasts, and when it is over, what
//! the daemon says of itself (sessions, command line, metrics, readiness, health of each service) is compared
//! with what the simulator knows; whom a fault did not strike must not notice. In the end every message of
//! both directions is accounted for.
//!
//! By default each kind of fault comes once. `TRUNKLINE_FAULT_MINUTES=60` goes on for an hour;
//! `TRUNKLINE_FAULT_SEED` gives another order.

#![cfg(feature = "simulator")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a test that cannot go on should fail, and its length is real time"
)]

#[path = "../support/mod.rs"]
mod support;

mod away;
mod during;
mod fleet;
mod script;
mod strike;
mod truth;
mod voices;

use std::time::{Duration, Instant};

use fleet::{Fleet, LINES};
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use script::Step;

fn variable(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name} is not a number: {value}")),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_daemon_says_is_true_through_every_fault() {
    let minutes = variable("TRUNKLINE_FAULT_MINUTES").unwrap_or(0);
    let seed = variable("TRUNKLINE_FAULT_SEED").unwrap_or(1);
    eprintln!("TRUNKLINE_FAULT_SEED={seed}");
    let mut rng = rand_chacha::ChaCha20Rng::seed_from_u64(seed);
    let until = Instant::now() + Duration::from_secs(60 * minutes);
    let mut fleet = Fleet::new(seed).await;
    let mut steps = 0;
    loop {
        let mut round = Step::ALL.to_vec();
        round.shuffle(&mut rng);
        for step in round {
            steps += 1;
            let line = rng.random_range(0..LINES);
            eprintln!("step {steps}: {step:?} on line {line}");
            fleet.take(step, line).await;
        }
        if Instant::now() >= until {
            break;
        }
    }
    fleet.account_for_everything().await;
    eprintln!(
        "{steps} steps, {} messages in, {} out",
        fleet.written(),
        fleet.sent()
    );
}
