//! The command line as scripts and people meet it: exit codes, one plain line for each refusal, and what
//! is printed.

#![cfg(feature = "simulator")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on should fail"
)]

#[path = "../support/mod.rs"]
mod support;

mod administering;
mod consuming;
mod doctor;
mod groups;
mod network;
mod operators;
mod progress;
mod refusals;
mod talking;
