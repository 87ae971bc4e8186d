//! The unit under a real systemd: a Debian 12 that `scripts/machine` makes once and boots, in a container
//! without a network, for each test. Needs root (or sudo that asks for no password), as `make test`
//! says beforehand; nothing here is skipped.

#![cfg(feature = "simulator")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on should fail"
)]

#[path = "../support/mod.rs"]
mod support;

mod machine;
mod newer;
mod package;
mod service;
mod trouble;
mod unit;
