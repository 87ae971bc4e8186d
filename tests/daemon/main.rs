//! The daemon from start to stop: in this process through `bind`, `join` and `shutdown`, and as a service
//! of a service manager.

#![cfg(feature = "simulator")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test that cannot go on should fail"
)]

#[path = "../support/mod.rs"]
mod support;

mod drain;
mod in_process;
mod service;
mod store;
mod unit;
