//! What is asked of the one task of a subscription.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot};

use super::calls::{CallPort, Kept, Opening};
use crate::delivery::consumer::{Operation, Parcel};
use crate::delivery::dispatch::{Credit, Ending, Revision, StreamId};
use crate::domain::clock::Timestamp;

/// Commands that wait for the runner.
pub(in crate::delivery) const MAILBOX: usize = 256;

/// What streams ask of the runner.
#[derive(Debug)]
pub(in crate::delivery) enum Command {
    /// Open a stream, or one for a call.
    Open {
        credit: Credit,
        call: Option<CallPort>,
        out: mpsc::Sender<Parcel>,
        permits: Arc<Semaphore>,
        opened: oneshot::Sender<Opening>,
    },
    /// A call is over, and its answer leaves with what it has taken up to batch `taken`.
    Keep {
        stream: StreamId,
        taken: u64,
        kept: oneshot::Sender<Kept>,
    },
    /// A stream has taken what it was given: give it more.
    Ready { stream: StreamId },
    /// End a stream, which has taken its batches up to `taken`.
    Close {
        stream: StreamId,
        ending: Ending,
        taken: u64,
    },
    /// Ack, nack or extend.
    Settle {
        stream: StreamId,
        operation: Operation,
        ack_ids: Vec<String>,
    },
    /// The journal no longer has these.
    Vanished(Vec<Revision>),
    /// Say what is known of an event that is not settled.
    LookAt {
        revision: Revision,
        seen: oneshot::Sender<Option<LiveDelivery>>,
    },
    /// The daemon is stopping: give out nothing more, and end all streams once everything they took is
    /// settled, at `until` (monotonic) in any case.
    Drain { until: Duration },
    /// End all streams: the subscription was deleted.
    Delete,
}

/// What is known of an event that is not settled, as long as its subscription is consumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LiveDelivery {
    /// Whether a consumer has it.
    pub leased: bool,
    /// When it was first leased.
    pub first_leased: Option<Timestamp>,
}

/// Why a runner ended all its streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// The subscription was deleted.
    Deleted,
    /// The daemon is stopping.
    Draining,
}
