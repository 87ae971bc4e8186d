//! One group with a number held by Trunkline, Baileys and zapo-js: what reaches the two others when they
//! were away or have lost their state. Needs Node and `scripts/peers`; without them it fails.
#![cfg(feature = "simulator")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a helper of a test fails the test by panicking"
)]

#[allow(dead_code, reason = "this test takes what it needs from the helper")]
#[path = "../support/held.rs"]
mod held;
#[path = "../support/peer.rs"]
mod peer;
#[path = "../support/mod.rs"]
mod support;
#[path = "../support/peer_world.rs"]
mod world;

mod all_ways;
mod lost_state;
mod scene;
