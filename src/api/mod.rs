//! The API, in gRPC and in JSON. It writes the store and nudges sessions; it never calls a provider.
//!
//! A call passes [`layer`] (span, metrics, containment, one shape for errors), then its service: one
//! file each. Services reach the store only through [`gate`], which authenticates the call and opens
//! its workspace in one step. [`status`] is the catalogue of errors, [`fields`] and [`names`] read
//! requests, [`convert`] shows domain values, [`once`] makes mutations idempotent, [`ports`] is what is
//! needed from the session layer, [`json`] translates from and to HTTP/JSON, [`server`] binds listeners and drains them.

mod backup;
mod contain;
mod convert;
mod deliveries;
mod drain;
mod events;
mod faults;
mod fields;
mod gate;
mod groups;
pub mod health;
pub mod json;
mod layer;
mod leases;
mod media;
mod messages;
mod names;
mod once;
mod outgoing;
mod pairing;
pub mod ports;
mod pull;
mod redrive;
pub mod server;
mod sessions;
pub mod status;
mod subscriptions;
pub mod supervisor;
pub mod tls;
mod tokens;
mod watch;
mod workspaces;
