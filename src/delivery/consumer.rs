//! A stream of leases, as its consumer holds it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot};

use super::dispatch::{Ending, StreamId};
use super::runner::{Command, Kept, Stopped};
use crate::domain::clock::Timestamp;
use crate::domain::event::Event;
use crate::store::StoreError;

/// Results a consumer may leave unread before its acks are no longer accepted. More than it can have
/// leases, so that only a client that never reads is ever held up.
pub(super) const MAX_UNREAD_RESULTS: usize = 20_000;

/// What arrives on a stream.
#[derive(Debug, Clone)]
pub enum Delivery {
    /// Events leased to this stream, in order within each key.
    Leases(Vec<Delivered>),
    /// What became of acks, nacks and extends.
    Results(Vec<Settled>),
    /// The subscription's streams were ended. Last.
    Stopped(Stopped),
    /// The store failed. Last.
    Failed(StoreError),
}

/// A delivery on its way to the consumer.
#[derive(Debug)]
pub(super) struct Parcel {
    /// The number of the batch, if these are leases; 0 otherwise.
    pub(super) batch: u64,
    pub(super) delivery: Delivery,
}

/// An event leased to a stream.
#[derive(Debug, Clone)]
pub struct Delivered {
    /// Names the lease.
    pub ack_id: String,
    /// Which delivery this is, from 1, not counting ones that were taken back unharmed.
    pub attempt: u32,
    /// When the lease ends at the earliest.
    pub expires: Timestamp,
    /// The event.
    pub event: Event,
}

/// What a consumer asks for leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// The events are done.
    Ack,
    /// The events come again, after `delay` or a backoff.
    Nack {
        /// How long to wait.
        delay: Option<Duration>,
    },
    /// The leases last longer: `by` from now, or the subscription's deadline.
    Extend {
        /// How long from now.
        by: Option<Duration>,
    },
}

/// An operation without its parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperationKind {
    /// [`Operation::Ack`].
    Ack,
    /// [`Operation::Nack`].
    Nack,
    /// [`Operation::Extend`].
    Extend,
}

impl Operation {
    /// Which operation this is.
    pub fn kind(self) -> OperationKind {
        match self {
            Self::Ack => OperationKind::Ack,
            Self::Nack { .. } => OperationKind::Nack,
            Self::Extend { .. } => OperationKind::Extend,
        }
    }
}

/// What became of an operation on one lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Done; an ack is durable.
    Confirmed,
    /// The lease had ended, or an earlier event of the key failed first.
    Ended,
    /// The token was not made for this subscription.
    Invalid,
    /// The ack is accepted and not durable: an earlier event of the key is not settled, or was not read
    /// yet. Only calls are told.
    Waiting,
}

/// What became of an operation on one lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// The lease.
    pub ack_id: Arc<str>,
    /// What was asked.
    pub kind: OperationKind,
    /// What became of it.
    pub outcome: Outcome,
}

/// The subscription's task has ended; [`Consumer::next`] says why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

/// The asking side of a stream; clones share it.
#[derive(Debug, Clone)]
pub struct Settler {
    pub(super) stream: StreamId,
    pub(super) runner: mpsc::Sender<Command>,
    pub(super) permits: Arc<Semaphore>,
}

impl Settler {
    /// Asks something for leases; what becomes of it arrives on the stream. An ack that is repeated
    /// before its result has come is answered once. Waits when the client has left too many results
    /// unread.
    ///
    /// # Errors
    /// [`Gone`] when the stream is at its end.
    pub async fn settle(&self, operation: Operation, ack_ids: Vec<String>) -> Result<(), Gone> {
        let count = u32::try_from(ack_ids.len()).map_err(|_| Gone)?;
        let permits = self.permits.acquire_many(count).await.map_err(|_| Gone)?;
        // Given back when the results have been read.
        permits.forget();
        let command = Command::Settle {
            stream: self.stream,
            operation,
            ack_ids,
        };
        self.runner.send(command).await.map_err(|_| Gone)
    }
}

/// An open stream. Dropping it ends it as if the connection had broken; see [`Self::close`].
#[derive(Debug)]
pub struct Consumer {
    pub(super) settler: Settler,
    pub(super) deliveries: mpsc::Receiver<Parcel>,
    /// The last batch of leases that was taken.
    pub(super) taken: u64,
    pub(super) ack_deadline: Duration,
    pub(super) ending: Ending,
    /// Whether the runner is to be told of the end.
    pub(super) open: bool,
}

impl Consumer {
    /// How long a lease lasts without a word.
    pub fn ack_deadline(&self) -> Duration {
        self.ack_deadline
    }

    /// What to ack, nack and extend with.
    pub fn settler(&self) -> Settler {
        self.settler.clone()
    }

    /// The next thing that arrives; `None` at the end. The clocks of leases begin when they are taken
    /// here, and more are given out only then: take no more than can be passed on.
    pub async fn next(&mut self) -> Option<Delivery> {
        let parcel = self.deliveries.recv().await?;
        self.taken = self.taken.max(parcel.batch);
        Some(parcel.delivery)
    }

    /// Of a call: what was taken stays leased when the consumer is gone. Dropping this before it is done
    /// gives everything back.
    ///
    /// # Errors
    /// [`Gone`] when the stream is at its end.
    pub(super) async fn keep(&mut self) -> Result<Kept, Gone> {
        let (kept, answer) = oneshot::channel();
        let command = Command::Keep {
            stream: self.settler.stream,
            taken: self.taken,
            kept,
        };
        let sent = self.settler.runner.send(command).await;
        sent.map_err(|_| Gone)?;
        let kept = answer.await.map_err(|_| Gone)?;
        self.open = false;
        Ok(kept)
    }

    /// The consumer finished in order: what it holds goes back without being charged an attempt.
    pub fn close(mut self) {
        self.ending = Ending::Orderly;
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        if !self.open {
            return;
        }
        let command = Command::Close {
            stream: self.settler.stream,
            ending: self.ending,
            taken: self.taken,
        };
        Command::send_from_drop(self.settler.runner.clone(), command);
    }
}
