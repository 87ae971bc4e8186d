//! Promises 1 and 2, under SIGKILL at random moments: nothing acknowledged is lost, nothing becomes two
//! events, nobody sees a message twice, and no message counter is used twice. The simulator's phones and
//! ledger are the judge.
//!
//! `TRUNKLINE_TEST_ROUNDS` (default 50) and `TRUNKLINE_TEST_SEED` change what is tried.

#![cfg(feature = "simulator")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "helpers of tests may stop the test, and real processes need real time"
)]

#[path = "support/world.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared by several tests")]
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;
use tonic::transport::Channel;
use trunkline::pb;
use trunkline_simulator::{Account, Simulator};
use world::{Daemon, PATIENCE, eventually, send, text_of, text_to};

const OWNER: &str = "+15550000001";
const CUSTOMERS: [&str; 3] = ["+15550000011", "+15550000012", "+15550000013"];

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |value| value.parse().expect(variable))
}

/// A message the core wants sent: retried with the same `request_id` until the daemon says OK.
struct Wanted {
    to: usize,
    text: String,
    request_id: String,
    confirmed: bool,
}

async fn flood(channel: &Channel, wanted: &mut [Wanted]) {
    for message in wanted.iter_mut().filter(|message| !message.confirmed) {
        let request = text_to(
            "line",
            CUSTOMERS[message.to],
            &message.text,
            &message.request_id,
        );
        // A daemon that dies in the middle leaves the caller in doubt; the next round repeats it.
        let answer = tokio::time::timeout(PATIENCE, send(channel, request)).await;
        match answer.expect("a send is answered or refused") {
            Ok(_) => message.confirmed = true,
            Err(_) => return,
        }
    }
}

fn judge(sim: &Simulator, owner: &Account, customers: &[Account], wanted: &[Wanted]) {
    for (index, customer) in customers.iter().enumerate() {
        let mut shown: BTreeMap<&str, u32> = BTreeMap::new();
        let inbox = customer.inbox();
        for message in &inbox {
            *shown.entry(message.text.as_str()).or_default() += message.displays;
        }
        for message in wanted.iter().filter(|message| message.to == index) {
            assert_eq!(
                shown.remove(message.text.as_str()),
                Some(1),
                "{} was not shown exactly once to customer {index}",
                message.text
            );
        }
        assert!(shown.is_empty(), "customer {index} saw {shown:?} as well");
        assert_eq!(customer.violations(), [], "by customer {index}");
    }
    assert_eq!(owner.violations(), []);
    sim.look(|truth| assert_eq!(truth.ledger().violations(), Vec::<&_>::new()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_when_the_daemon_is_killed_at_random_moments() {
    let rounds = number("TRUNKLINE_TEST_ROUNDS", 50);
    let mut rng = ChaCha20Rng::seed_from_u64(number("TRUNKLINE_TEST_SEED", 1));
    let sim = world::simulator(11).await;
    let owner = world::person(&sim, OWNER, "Shop");
    let customers: Vec<_> = CUSTOMERS
        .iter()
        .map(|phone| world::person(&sim, phone, "Customer"))
        .collect();
    let mut daemon = Daemon::prepare(&sim, "");
    let mut channel = daemon.start().await;
    world::create_session(&channel, "line").await;
    world::pair(&channel, "line", &owner).await;

    let mut wanted: Vec<Wanted> = Vec::new();
    let mut inbound: BTreeSet<String> = BTreeSet::new();
    for round in 0..rounds {
        for n in 0..3 {
            wanted.push(Wanted {
                to: rng.random_range(0..CUSTOMERS.len()),
                text: format!("out {round}.{n}"),
                request_id: world::request_id(),
                confirmed: false,
            });
            let text = format!("in {round}.{n}");
            customers[rng.random_range(0..CUSTOMERS.len())]
                .send_text(OWNER, &text)
                .expect("people can always write");
            inbound.insert(text);
        }
        let moment = Duration::from_millis(rng.random_range(0..600));
        let _ = tokio::time::timeout(moment, flood(&channel, &mut wanted)).await;
        daemon.kill();
        channel = daemon.start().await;
    }

    flood(&channel, &mut wanted).await;
    assert!(wanted.iter().all(|message| message.confirmed));
    eventually("every customer has every message", async || {
        let shown: usize = customers
            .iter()
            .map(|customer| customer.inbox().len())
            .sum();
        (shown >= wanted.len()).then_some(())
    })
    .await;
    let mut events = Vec::new();
    eventually("every inbound message is an event", async || {
        let from = events
            .last()
            .map_or(1, |event: &pb::Event| event.revision + 1);
        events.extend(world::events_from(&channel, from).await);
        let seen: BTreeSet<_> = events
            .iter()
            .filter_map(text_of)
            .map(|(_, text)| text)
            .collect();
        inbound
            .iter()
            .all(|text| seen.contains(text.as_str()))
            .then_some(())
    })
    .await;

    let ids: BTreeSet<_> = events.iter().map(|event| event.event_id.as_str()).collect();
    assert_eq!(ids.len(), events.len(), "an event_id was used twice");
    let texts: Vec<_> = events
        .iter()
        .filter_map(text_of)
        .filter(|(message, _)| !message.from_me)
        .map(|(_, text)| text.to_owned())
        .collect();
    assert_eq!(
        texts.len(),
        inbound.len(),
        "an inbound message became two events"
    );
    judge(&sim, &owner, &customers, &wanted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pairing_that_is_killed_at_random_moments_ends_linked_or_can_be_repeated() {
    let rounds = number("TRUNKLINE_TEST_ROUNDS", 50).div_ceil(5);
    let mut rng = ChaCha20Rng::seed_from_u64(number("TRUNKLINE_TEST_SEED", 2));
    let sim = world::simulator(12).await;
    let customer = world::person(&sim, CUSTOMERS[0], "Customer");
    let mut daemon = Daemon::prepare(&sim, "");
    for round in 0..rounds {
        let id = format!("line-{round}");
        let owner = world::person(&sim, &format!("+1555100{round:04}"), "Shop");
        let channel = daemon.start().await;
        world::create_session(&channel, &id).await;
        let moment = Duration::from_millis(rng.random_range(0..400));
        // Killed while (or just before, or just after) the phone and the server do their part.
        let pairing = tokio::spawn({
            let (channel, id, owner) = (channel.clone(), id.clone(), owner.clone());
            async move {
                tokio::time::timeout(moment, world::pair(&channel, &id, &owner))
                    .await
                    .is_ok()
            }
        });
        let succeeded = pairing.await.expect("no pairing fails for another reason");
        daemon.kill();

        let channel = daemon.start().await;
        let settled = eventually("the session settles", async || {
            let session = world::get_session(&channel, &id).await;
            match session.connection.unwrap_or_default().state() {
                state @ (pb::ConnectionState::Online | pb::ConnectionState::Unpaired) => {
                    Some(state)
                }
                pb::ConnectionState::LoggedOut => {
                    panic!("an unconfirmed pairing must not count as logged out")
                }
                _ => None,
            }
        })
        .await;
        if settled == pb::ConnectionState::Unpaired {
            assert!(!succeeded, "a pairing that was confirmed is gone");
            world::pair(&channel, &id, &owner).await;
            world::wait_for_state(&channel, &id, pb::ConnectionState::Online).await;
        }
        let text = format!("hello from {id}");
        send(
            &channel,
            text_to(&id, CUSTOMERS[0], &text, &world::request_id()),
        )
        .await
        .expect("the line sends");
        eventually("the message arrives", async || {
            customer
                .inbox()
                .iter()
                .any(|message| message.text == text)
                .then_some(())
        })
        .await;
        daemon.kill();
    }
    assert_eq!(customer.violations(), []);
}
