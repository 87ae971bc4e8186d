//! The gRPC API over a real listener and the memory engine; the session layer is a stand-in that obeys.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on should say where"
)]

mod access;
mod administration;
mod contract;
mod deliveries;
mod groups;
mod harness;
mod json;
mod leases;
mod listing;
mod media;
mod messages;
mod pull;
mod redrive;
mod requests;
mod serving;
mod sessions;
mod tls;
mod watch;
