//! Metrics, alerts, dashboard and documentation agree with one another, and with what a daemon really says.

#![cfg(feature = "simulator")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on should fail"
)]

#[path = "../support/mod.rs"]
mod support;

mod documents;
mod exposition;
mod names;
mod rules;
