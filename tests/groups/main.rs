//! Groups, end to end: a number held by Trunkline among people with real sender keys, who judge what it
//! sends: a sender-key iteration used twice, a device that was not told the key, or a message shown twice
//! is an objection of theirs.

#![cfg(feature = "simulator")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on should fail"
)]

#[path = "../support/mod.rs"]
mod support;

mod asking;
mod leaving;
mod talking;
mod trouble;
mod world;
