//! Sessions: what keeps every line alive and moves its messages.
//!
//! ```text
//!  Supervisor ── mailbox ──▶ Keeper ▶ Actor ──▶ state (pure): what next?
//!   │ restore, verbs,         (restarts)  │
//!   │ submit, shutdown                    ├─ attempt: opens and runs the provider's Line
//!   │                                     ├─ Inbound (the line's Sink): durable, then acknowledged
//!   ├─ Admission ◀─── asks to connect ────┤
//!   │   └─ Breaker                        └─ online: Sender (outbox → wire) and stall watch
//!   └─ Pacing ◀────────────────────────────── Pacer
//! ```
//!
//! Where things are: why and when a session connects is decided in [`state`] and nowhere else; who may
//! connect right now in [`admission`]; what is sent next in `outbound::backlog`; how fast in [`pacing`].
//!
//! Invariants, for reviewers:
//! - Only the supervisor's actors run a line; at most one attempt per session is in progress, and each
//!   line is opened under a fresh claim, so that a forgotten one can write nothing.
//! - A sink's first failure is its last word: nothing of it is acknowledged afterwards.
//! - SENT and FAILED after the wire come from the server's ack alone.
//! - Every queue here is bounded, and what happens at the bound is said where it is declared.

mod actor;
pub mod admission;
pub mod breaker;
pub mod config;
pub mod detached;
mod fleet;
mod groups;
mod holds;
mod inbound;
mod keeper;
mod mailbox;
mod memory;
pub mod outbound;
pub mod pacing;
pub mod stall;
pub mod state;
mod status;
mod supervisor;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use crate::provider::contract::{FetchError, GroupsError};
pub use config::{ConfigProblem, SessionConfig};
pub use groups::Groups;
pub use holds::Holds;
pub use mailbox::{CommandError, PairingUpdate, Verb};
pub use pacing::PacingRefused;
pub use state::{Illegal, PairMode};
pub use status::SessionStatus;
pub use supervisor::{
    CancelError, CreateSessionError, DeleteSessionError, FleetCounts, Restored, Submission,
    SubmitError, Supervisor, SupervisorOptions,
};
