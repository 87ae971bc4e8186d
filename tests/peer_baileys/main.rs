//! Baileys, a client nobody here wrote, against the simulator and against a number held by Trunkline.
//!
//! Its signature check is strict (`tests/peers/baileys/strict.mjs`), so what passes here is what a
//! client that really verifies would accept. Needs Node and `scripts/peers`; without them it fails.
#![cfg(feature = "simulator")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a helper of a test fails the test by panicking"
)]

#[path = "../support/peer_calls.rs"]
mod calls;
#[path = "../support/held.rs"]
mod held;
#[path = "../support/peer.rs"]
mod peer;
#[path = "../support/peer_pictures.rs"]
mod pictures;
#[path = "../support/mod.rs"]
mod support;
#[path = "../support/peer_trust.rs"]
mod trust;
#[path = "../support/peer_world.rs"]
mod world;

mod held_number;
mod history;
mod media;
mod phones;
mod sessions;
