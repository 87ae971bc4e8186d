//! A real client on a bad line, people with strict phones: whatever the line does, everything
//! people write arrives, nothing the client sends is shown twice, and nobody is accused.

// The helpers are test code too; clippy only knows the functions marked as tests.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha20Rng;
use support::{Device, PATIENCE, person, simulator};
use trunkline_simulator::{Account, Fact, Fault, FaultSpec, FaultTarget, Simulator};
use wacore_binary::Jid;

const STEPS: usize = 60;
/// A message that could not be opened this often is given up by both sides, as by official clients;
/// in a storm that happens to one in thousands.
const TRIES: usize = 5;

fn order(simulator: &Simulator, owner: &Account, fault: Fault, times: Option<u32>) {
    simulator
        .fault(FaultSpec {
            target: FaultTarget::Account(owner.phone()),
            fault,
            times,
        })
        .unwrap();
}

/// Whether `holds` becomes true in time.
async fn eventually(holds: impl Fn() -> bool) -> bool {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !holds() {
        if tokio::time::Instant::now() > deadline {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    true
}

/// How often a message left for a device.
fn deliveries(simulator: &Simulator, wanted: &str, device: &str) -> usize {
    let ledger = simulator.ledger();
    let of = ledger.facts().filter(
        |fact| matches!(fact, Fact::Delivered { id, to, .. } if id == wanted && to == device),
    );
    of.count()
}

/// Everything the ledger says about a message.
fn about(simulator: &Simulator, id: &str) -> String {
    let ledger = simulator.ledger();
    let facts = ledger.entries().iter().map(|entry| format!("{entry:?}"));
    let facts: Vec<String> = facts.filter(|fact| fact.contains(id)).collect();
    facts.join("\n")
}

async fn storm(seed: u64) {
    let simulator = simulator().await;
    let owner = person(&simulator, 1);
    let people = [person(&simulator, 2), person(&simulator, 3)];
    let device = Device::new(simulator.ws_url()).await;
    device.pair(&owner).await;
    let mut chance = ChaCha20Rng::seed_from_u64(seed);
    let mut written = BTreeSet::new();
    let mut attempted = BTreeSet::new();
    for step in 0..STEPS {
        let who = &people[chance.random_range(0..people.len())];
        match chance.random_range(0..100) {
            0..45 => {
                let text = format!("{seed} in {step}");
                let by_lid = chance.random_range(0..2) == 0;
                let id = if by_lid {
                    who.send_text_by_lid(&owner.phone(), &text)
                } else {
                    who.send_text(&owner.phone(), &text)
                };
                written.insert((id.unwrap(), text));
            }
            45..75 => {
                let text = format!("{seed} out {step}");
                let to = Jid::pn(who.phone());
                // On a closing line it may fail, and may have reached the server all the same.
                let _ = device.client.send_text(to, text.as_str()).await;
                attempted.insert(text);
            }
            75..80 => order(&simulator, &owner, Fault::Duplicate, Some(2)),
            80..85 => order(&simulator, &owner, Fault::Reorder, Some(1)),
            85..90 => who.lose_sessions(),
            90..93 => owner.lose_sessions(),
            _ => {
                order(&simulator, &owner, Fault::Close, None);
                device.ended().await;
                device.connect().await;
            }
        }
    }
    simulator.clear_faults();

    let (phone, number) = (owner.phone(), owner.devices()[0].device);
    let mut given_up = 0;
    for (id, text) in &written {
        let arrived = || device.committed().iter().any(|(_, t)| t == text);
        let over = || {
            let settled = simulator.look(|truth| truth.backlog(&phone, number) == 0);
            settled && deliveries(&simulator, id, &format!("{phone}:{number}")) >= TRIES
        };
        assert!(
            eventually(|| arrived() || over()).await,
            "seed {seed}: {text:?} was lost; {id} in the ledger:\n{}",
            about(&simulator, id)
        );
        given_up += usize::from(!arrived());
    }
    let drained = simulator.wait_until(|truth| truth.backlog(&phone, number) == 0, PATIENCE);
    assert!(drained.await.is_ok(), "the queue drains");
    assert!(given_up <= 1, "seed {seed}: {given_up} messages given up");

    for account in people.iter().chain([&owner]) {
        let violations = account.violations();
        assert!(violations.is_empty(), "{violations:#?}");
        for message in account.inbox() {
            assert_eq!(message.displays, 1);
        }
    }
    let mut shown = BTreeSet::new();
    for account in &people {
        for message in account.inbox() {
            assert!(shown.insert(message.text.clone()), "{} twice", message.text);
        }
    }
    assert!(shown.is_subset(&attempted));
    assert!(!shown.is_empty());
    simulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn storms_lose_nothing_people_write_and_show_nothing_twice() {
    for seed in 1..=12 {
        storm(seed).await;
    }
}

/// For hunting: `cargo test --test phones_storm -- --ignored`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn many_storms() {
    let first = std::env::var("STORM_SEED").map_or(13, |seed| seed.parse().unwrap());
    for seed in first..first + 300 {
        storm(seed).await;
    }
}
