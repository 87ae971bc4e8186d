//! Sending: from the outbox to the wire, once, and honestly accounted for.
//!
//! One [`Sender`] per connection. It marks a message SENDING on disk before it touches the wire, hands
//! over the bytes made at enqueue under the stanza id made then, and believes only the server's ack:
//! SENT or FAILED comes from nothing else. Without an ack in time the connection is given up; what was
//! on the wire is sent again under the same id on the next one, or settles as UNKNOWN past its deadline.

mod backlog;
mod offline;
mod sender;
mod settle;
mod upload;

use std::time::Duration;

pub(super) use offline::look_after;
pub use sender::Depth;
pub(super) use sender::{Ack, Sender, SenderEnd, SenderParts};
pub(super) use settle::Settler;

/// How a session sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboundConfig {
    /// Messages on the wire at the same time, each to another chat.
    pub window: usize,
    /// How long the server may take to acknowledge before the connection is renewed.
    pub ack_timeout: Duration,
    /// Times a message goes on the wire before its outcome is declared unknown.
    pub max_attempts: u32,
    /// Longest pause after something passing (a query that timed out) kept a message off the wire.
    pub retry_cap: Duration,
    /// How long a message waits for its file to be taken before it fails.
    pub upload_patience: Duration,
    /// Waiting messages whose order is worked out in memory; the rest stays on disk until there is room.
    pub backlog: usize,
}

impl Default for OutboundConfig {
    fn default() -> Self {
        Self {
            window: 16,
            ack_timeout: Duration::from_secs(30),
            max_attempts: 10,
            retry_cap: Duration::from_mins(1),
            upload_patience: Duration::from_hours(24),
            backlog: 20_000,
        }
    }
}
