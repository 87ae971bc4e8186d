//! The multi-device provider against the simulated WhatsApp: pairing, messages both ways, every way a
//! connection can end, and what happens when the store or the process fails.
#![cfg(feature = "simulator")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod durability;
mod endings;
mod messages;
mod pairing;
mod sink;
mod world;
