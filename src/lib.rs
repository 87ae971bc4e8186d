//! Trunkline: the connection manager between a messaging core and WhatsApp.
//!
//! One daemon keeps many sessions alive and turns them into an event log that the core reads and
//! acknowledges, and an outbox that it writes to. Read the modules in this order:
//!
//! | module | its one job |
//! |---|---|
//! | [`domain`] | the vocabulary: ids, people, messages, events, states; no I/O |
//! | [`store`] | durable state, sealed per workspace; the only way in carries the workspace |
//! | [`provider`] | what carries messages, behind one contract; `multidevice` speaks WhatsApp |
//! | [`session`] | holds sessions: state machine, actor, supervisor, admission, inbound, outbound |
//! | [`delivery`] | leases of events to the consumers of a subscription |
//! | [`api`] | gRPC and JSON: authentication, workspace scope, services |
//! | [`ops`] | liveness, readiness and metrics for machines |
//! | [`daemon`] | the composition root: alone names concrete engines and providers |
//! | [`config`], [`lifecycle`], [`telemetry`] | settings, signals and systemd, logs and metrics |
//! | [`cli`] | the commands; talks to a daemon through [`pb`] like any other client |
//!
//! ```text
//! cli → pb, config        daemon → everything but cli and pb
//! api → delivery, session, store, domain, pb   ops → session, store, domain, telemetry
//! session → provider::contract, store, domain
//! provider::* → provider::contract, store, domain
//! store → config, domain  domain → nothing of ours
//! ```
//!
//! `tests/layers` enforces these edges; `docs/reliability.md` lists the promises and the tests that try
//! to break them.

pub mod api;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod delivery;
pub mod domain;
pub mod lifecycle;
pub mod ops;
pub mod pb;
pub mod provider;
pub mod session;
pub mod store;
pub mod telemetry;
