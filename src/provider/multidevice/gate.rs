//! The ack gate: nothing leaves before what it may acknowledge is durable.
//!
//! The library dispatches receipts, notifications, undecryptables and calls synchronously, before it
//! queues their acknowledgement. The event handler gives each a sequence number and hands it to the
//! writer without waiting; the transport reads the highest number given out when a frame is handed to
//! it, and writes the frame only when everything up to that number is on disk. Messages are not its
//! business: the inbound hook commits them before the library acknowledges them.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::provider::contract::{Seq, Sink};

/// Undurable arrivals above which the socket is not read.
pub(super) const MAX_BACKLOG: u64 = 256;

/// Why a frame was not let through.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum GateError {
    /// The writer failed.
    #[error("what this frame acknowledges cannot be stored: {0}")]
    Failed(String),
    /// The writer is stuck.
    #[error("what this frame acknowledges was not stored within {0:?}")]
    Late(Duration),
}

/// See the module documentation.
pub(super) struct AckGate {
    sink: Arc<dyn Sink>,
    patience: Duration,
}

impl AckGate {
    pub(super) fn new(sink: Arc<dyn Sink>, patience: Duration) -> Self {
        Self { sink, patience }
    }

    /// The number a frame handed over now has to wait for.
    pub(super) fn ticket(&self) -> Seq {
        self.sink.dispatched()
    }

    /// Waits until everything up to `ticket` is durable. Waits on the writer only, never on a lock.
    pub(super) async fn pass(&self, ticket: Seq) -> Result<(), GateError> {
        if self.sink.durable() >= ticket {
            return Ok(());
        }
        match tokio::time::timeout(self.patience, self.sink.wait_durable(ticket)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(GateError::Failed(error.0)),
            Err(_) => Err(GateError::Late(self.patience)),
        }
    }

    /// Waits until the writer has caught up enough for the socket to be read again.
    pub(super) async fn room(&self) -> Result<(), GateError> {
        let floor = self.sink.dispatched().saturating_sub(MAX_BACKLOG);
        if self.sink.durable() >= floor {
            return Ok(());
        }
        self.sink
            .wait_durable(floor)
            .await
            .map_err(|error| GateError::Failed(error.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::multidevice::testing::PausedSink;

    const SHORT: Duration = Duration::from_millis(30);
    const LONG: Duration = Duration::from_secs(10);

    fn gate(patience: Duration) -> (Arc<PausedSink>, Arc<AckGate>) {
        let sink = Arc::new(PausedSink::default());
        let gate = AckGate::new(sink.clone(), patience);
        (sink, Arc::new(gate))
    }

    #[tokio::test]
    async fn a_frame_waits_for_what_was_dispatched_before_it_and_no_more() {
        let (sink, gate) = gate(LONG);
        sink.dispatch(3);
        let ticket = gate.ticket();
        sink.dispatch(2);
        let waiting = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.pass(ticket).await }
        });
        sink.make_durable(2);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        sink.make_durable(3);
        assert_eq!(waiting.await.unwrap(), Ok(()));
    }

    #[tokio::test]
    async fn a_stuck_writer_ends_in_an_error() {
        let (sink, gate) = gate(SHORT);
        sink.dispatch(1);
        assert_eq!(gate.pass(gate.ticket()).await, Err(GateError::Late(SHORT)));
    }

    #[tokio::test]
    async fn a_failed_writer_ends_in_an_error() {
        let (sink, gate) = gate(LONG);
        sink.dispatch(1);
        sink.fail("disk full");
        assert_eq!(
            gate.pass(gate.ticket()).await,
            Err(GateError::Failed("disk full".into()))
        );
    }

    #[tokio::test]
    async fn the_socket_is_read_only_while_the_backlog_is_bounded() {
        let (sink, gate) = gate(LONG);
        sink.dispatch(MAX_BACKLOG);
        assert_eq!(gate.room().await, Ok(()));
        sink.dispatch(1);
        assert!(tokio::time::timeout(SHORT, gate.room()).await.is_err());
        sink.make_durable(1);
        assert_eq!(gate.room().await, Ok(()));
    }
}
