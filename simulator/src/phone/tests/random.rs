//! Random networks: whatever is lost, doubled or overtaken, nothing is shown twice, nothing is
//! shown that was not sent, honest phones never violate, and once the network is kind again
//! everything that was delivered at least once is shown.

use proptest::prelude::*;
use rand::SeedableRng as _;
use rand_chacha::ChaCha20Rng;
use std::collections::{BTreeMap, BTreeSet};

use super::world::World;

/// How unkind the network is, in percent.
#[derive(Debug, Clone)]
struct Weather {
    loss: u32,
    doubling: u32,
    reorder: u32,
    /// Phones that lose their sessions.
    amnesia: u32,
}

fn weather() -> impl Strategy<Value = Weather> {
    (0_u32..40, 0_u32..40, 0_u32..100, 0_u32..4).prop_map(|(loss, doubling, reorder, amnesia)| {
        Weather {
            loss,
            doubling,
            reorder,
            amnesia,
        }
    })
}

fn storm(seed: u64, people: usize, steps: usize, weather: &Weather) -> (World, BTreeSet<String>) {
    let mut world = World::new(people, seed);
    let mut chance = ChaCha20Rng::seed_from_u64(seed);
    let mut reached = BTreeSet::new();
    for step in 0..steps {
        if chance.random_range(0..100) < 40 {
            let from = chance.random_range(0..people);
            let to = (from + chance.random_range(1..people)) % people;
            let name = if chance.random() {
                world.pn(to)
            } else {
                world.lid(to)
            };
            world.text(from, &name, &format!("{from}-{to}-{step}"));
        }
        if chance.random_range(0..100) < weather.amnesia {
            let forgetful = chance.random_range(0..people);
            world.phone_mut(forgetful).0.lose_sessions();
        }
        if world.wire.is_empty() {
            continue;
        }
        let index = if chance.random_range(0..100) < weather.reorder {
            chance.random_range(0..world.wire.len())
        } else {
            0
        };
        let delivery = world.wire.remove(index).expect("in range");
        if chance.random_range(0..100) < weather.doubling {
            let copy = chance.random_range(0..=world.wire.len());
            world.wire.insert(copy, delivery.clone());
        }
        if chance.random_range(0..100) < weather.loss {
            continue;
        }
        if delivery.stanza.tag == "message" {
            let id = delivery
                .stanza
                .attrs()
                .optional_string("id")
                .expect("id")
                .into_owned();
            reached.insert(id);
        }
        world.net.now += 1;
        world.deliver(&delivery);
    }
    world.settle();
    (world, reached)
}

fn check(world: &World, people: usize, reached: &BTreeSet<String>, lossless: bool) {
    world.no_violations();
    let mut sent = BTreeMap::new();
    for account in 0..people {
        for message in world.phone(account).outbox() {
            sent.insert(message.id.clone(), message.text.clone());
        }
    }
    let mut shown = BTreeSet::new();
    for account in 0..people {
        for message in world.phone(account).inbox() {
            assert_eq!(message.displays, 1);
            assert_eq!(sent.get(&message.id), Some(&message.text));
            assert!(
                shown.insert(message.id.clone()),
                "shown twice: {}",
                message.id
            );
        }
    }
    if lossless {
        let sent: BTreeSet<_> = sent.into_keys().collect();
        assert_eq!(shown, sent, "a kind network loses nothing");
    } else {
        let waiting: BTreeSet<_> = (0..people)
            .flat_map(|account| world.phone(account).undecryptable())
            .map(|failed| failed.id.clone())
            .collect();
        for id in reached {
            assert!(shown.contains(id) || waiting.contains(id), "vanished: {id}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn storms_show_nothing_twice_and_accuse_nobody(seed in 0_u64..1_000_000, weather in weather()) {
        let (world, reached) = storm(seed, 3, 120, &weather);
        check(&world, 3, &reached, false);
    }

    #[test]
    fn without_loss_everything_arrives(seed in 0_u64..1_000_000, mut weather in weather()) {
        weather.loss = 0;
        let (world, reached) = storm(seed, 3, 120, &weather);
        check(&world, 3, &reached, true);
    }
}
