//! What the runner does for calls: streams that are over with one answer.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::super::consumer::{OperationKind, Outcome, Settled};
use super::super::dispatch::{Ending, Revision, StreamId};
use super::{Command, Runner};

/// Most events that calls may hold of a window of this size: half, so that streams always have the rest.
pub(super) fn most_kept(window: usize) -> usize {
    (window / 2).max(1)
}

/// The port of a call.
#[derive(Debug)]
pub(in crate::delivery) struct CallPort {
    /// Told once when there is nothing to give out at this moment; dropped when there is.
    pub(in crate::delivery) nothing: Option<oneshot::Sender<()>>,
    /// Whether it has asked for its batch.
    pub(in crate::delivery) asked: bool,
}

impl CallPort {
    /// A port that tells `nothing`.
    pub(in crate::delivery) fn new(nothing: oneshot::Sender<()>) -> Self {
        Self {
            nothing: Some(nothing),
            asked: false,
        }
    }
}

/// What a call is told when its leases are its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::delivery) struct Kept {
    /// Calls hold as much as they may.
    pub(in crate::delivery) full: bool,
}

/// A stream on its way to whoever asked for it. If nobody receives it, it is closed again.
#[derive(Debug)]
pub(in crate::delivery) struct Opening {
    stream: StreamId,
    ack_deadline: Duration,
    runner: Option<mpsc::Sender<Command>>,
}

impl Opening {
    pub(super) fn new(
        stream: StreamId,
        ack_deadline: Duration,
        runner: Option<mpsc::Sender<Command>>,
    ) -> Self {
        Self {
            stream,
            ack_deadline,
            runner,
        }
    }

    /// Receives the stream and the subscription's ack deadline.
    pub(in crate::delivery) fn accept(mut self) -> (StreamId, Duration) {
        self.runner = None;
        (self.stream, self.ack_deadline)
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if let Some(runner) = self.runner.take() {
            let command = Command::Close {
                stream: self.stream,
                ending: Ending::Orderly,
                taken: 0,
            };
            Command::send_from_drop(runner, command);
        }
    }
}

impl Command {
    /// Sends where nobody can wait: in a drop.
    pub(in crate::delivery) fn send_from_drop(runner: mpsc::Sender<Self>, command: Self) {
        if let Err(mpsc::error::TrySendError::Full(command)) = runner.try_send(command)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            // The mailbox is full: somebody has to wait, and drop cannot.
            runtime.spawn(async move { runner.send(command).await });
        }
    }
}

impl Runner {
    /// A stream has taken what it was given. A call asks once.
    pub(super) fn ready(&mut self, stream: StreamId, now: Duration) {
        let call = self.call_port(stream);
        if call.is_some_and(|call| std::mem::replace(&mut call.asked, true)) {
            return;
        }
        self.machine.ready(stream, now);
    }

    /// Ends a call: what it has taken stays leased, the rest goes back.
    pub(super) fn keep(
        &mut self,
        stream: StreamId,
        taken: u64,
        kept: oneshot::Sender<Kept>,
        now: Duration,
    ) {
        let port = self.ports.remove(&stream);
        if taken > 0 && port.is_some_and(|port| port.batch == taken) {
            self.machine.handed_over(stream, now);
            self.machine.keep(stream);
        } else {
            self.machine.close(stream, Ending::Orderly, now);
        }
        let full = self.machine.is_full_of_calls();
        // A call that is gone closes what was kept for it.
        let _ = kept.send(Kept { full });
    }

    /// Tells calls that asked and got nothing that there is nothing at this moment: everything was read.
    pub(super) fn tell_calls_of_nothing(&mut self) {
        if self.read.is_some() {
            return;
        }
        for port in self.ports.values_mut() {
            if let Some(call) = &mut port.call
                && call.asked
                && let Some(nothing) = call.nothing.take()
                && port.batch == 0
            {
                // It may be gone.
                let _ = nothing.send(());
            }
        }
    }

    pub(super) fn is_call(&mut self, stream: StreamId) -> bool {
        self.call_port(stream).is_some()
    }

    /// Of acks that were accepted, those that wait for an event nobody has settled: a call is told so, since
    /// it cannot wait for that.
    pub(super) fn held(&self, acked: Vec<(Revision, String)>) -> Vec<Settled> {
        let held = acked
            .into_iter()
            .filter(|(revision, _)| self.machine.is_held(*revision));
        held.map(|(_, ack_id)| Settled {
            ack_id: Arc::from(ack_id),
            kind: OperationKind::Ack,
            outcome: Outcome::Waiting,
        })
        .collect()
    }

    fn call_port(&mut self, stream: StreamId) -> Option<&mut CallPort> {
        self.ports.get_mut(&stream)?.call.as_mut()
    }
}
