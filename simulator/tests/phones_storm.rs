//! A real client on a bad line, people with strict phones: whatever the line does, everything
//! people write arrives, nothing the client sends is shown twice, and nobody is accused.

// The helpers are test code too; clippy only knows the functions marked as tests.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeSet;

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha20Rng;
use support::{Device, PATIENCE, person, simulator};
use trunkline_simulator::{Account, Fault, FaultSpec, FaultTarget, Simulator};
use wacore_binary::Jid;

const STEPS: usize = 60;

fn order(simulator: &Simulator, owner: &Account, fault: Fault, times: Option<u32>) {
    simulator
        .fault(FaultSpec {
            target: FaultTarget::Account(owner.phone()),
            fault,
            times,
        })
        .unwrap();
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

    for (_, text) in &written {
        device.text(text).await;
    }
    let (phone, number) = (owner.phone(), owner.devices()[0].device);
    let drained = simulator.wait_until(|truth| truth.backlog(&phone, number) == 0, PATIENCE);
    assert!(drained.await.is_ok(), "the queue drains");
    let got = device.texts();
    let distinct: BTreeSet<_> = got.iter().cloned().collect();
    assert!(distinct.is_superset(&written));

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
    for seed in 1..=8 {
        storm(seed).await;
    }
}
