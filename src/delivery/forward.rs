//! A stream's own task: fetches payloads just ahead of what the client takes.

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};

use super::consumer::{Delivered, Delivery, Settled};
use super::dispatch::Revision;
use super::runner::Command;
use crate::domain::clock::Timestamp;
use crate::store::Journal;

/// Events fetched at once, at most.
const MOST_EVENTS: usize = 64;

/// Bytes fetched at once, at most, unless one event is larger.
const MOST_BYTES: u64 = 256 << 10;

/// A lease whose payload is still in the journal.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) ack_id: String,
    pub(super) revision: Revision,
    pub(super) attempt: u32,
    pub(super) size: u64,
    pub(super) expires: Timestamp,
}

/// What the runner hands over.
#[derive(Debug)]
pub(super) enum Forward {
    Leases(Vec<Lease>),
    Results(Vec<Settled>),
    /// Nothing follows.
    Last(Delivery),
}

/// Passes on what the runner hands over, until the client or the runner is gone.
pub(super) async fn run(
    journal: Journal,
    mut queue: mpsc::UnboundedReceiver<Forward>,
    out: mpsc::Sender<Delivery>,
    permits: Arc<Semaphore>,
    runner: mpsc::WeakSender<Command>,
) {
    loop {
        let next = tokio::select! {
            next = queue.recv() => next,
            () = out.closed() => return,
        };
        let sent = match next {
            None => return,
            Some(Forward::Last(last)) => {
                // A client that has left needs no last word.
                let _ = out.send(last).await;
                return;
            }
            Some(Forward::Results(results)) => {
                let count = results.len();
                let sent = out.send(Delivery::Results(results)).await.is_ok();
                permits.add_permits(count);
                sent
            }
            Some(Forward::Leases(leases)) => forward_leases(&journal, leases, &out, &runner).await,
        };
        if !sent {
            return;
        }
    }
}

/// Whether the client is still there.
async fn forward_leases(
    journal: &Journal,
    leases: Vec<Lease>,
    out: &mpsc::Sender<Delivery>,
    runner: &mpsc::WeakSender<Command>,
) -> bool {
    let mut leases = leases.into_iter().peekable();
    while leases.peek().is_some() {
        // Room first: what is fetched is held in memory.
        let Ok(room) = out.reserve().await else {
            return false;
        };
        let mut chunk = Vec::new();
        let mut bytes = 0;
        while let Some(lease) = leases.next_if(|lease| {
            chunk.is_empty() || chunk.len() < MOST_EVENTS && bytes + lease.size <= MOST_BYTES
        }) {
            bytes += lease.size;
            chunk.push(lease);
        }
        let revisions: Vec<Revision> = chunk.iter().map(|lease| lease.revision).collect();
        let events = match journal.get_many(&revisions).await {
            Ok(events) => events,
            Err(error) => {
                room.send(Delivery::Failed(error));
                return false;
            }
        };
        let mut vanished = Vec::new();
        let mut delivered = Vec::with_capacity(chunk.len());
        for (lease, event) in chunk.into_iter().zip(events) {
            match event {
                Some(event) => delivered.push(Delivered {
                    ack_id: lease.ack_id,
                    attempt: lease.attempt,
                    expires: lease.expires,
                    event,
                }),
                None => vanished.push(lease.revision),
            }
        }
        if !vanished.is_empty()
            && let Some(runner) = runner.upgrade()
            && runner.send(Command::Vanished(vanished)).await.is_err()
        {
            return false;
        }
        if !delivered.is_empty() {
            room.send(Delivery::Leases(delivered));
        }
    }
    true
}
