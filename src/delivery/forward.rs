//! A stream's own task: asks for leases when the client takes them, and fetches their payloads.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};

use super::consumer::{Delivered, Delivery, Parcel, Settled};
use super::dispatch::{Revision, StreamId};
use super::path;
use super::runner::Command;
use crate::domain::clock::Clock;
use crate::store::{Journal, StoreError};

/// A lease whose payload is still in the journal.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) ack_id: String,
    pub(super) revision: Revision,
    pub(super) attempt: u32,
}

/// What a stream is given at once.
#[derive(Debug)]
pub(super) struct Batch {
    /// Counts the stream's batches, from 1.
    pub(super) number: u64,
    pub(super) leases: Vec<Lease>,
}

/// What the runner hands over.
#[derive(Debug)]
pub(super) enum Forward {
    Leases(Batch),
    Results(Vec<Settled>),
    /// Nothing follows.
    Last(Delivery),
}

/// The task of one stream.
#[derive(Debug)]
pub(super) struct Forwarder {
    pub(super) stream: StreamId,
    pub(super) of: path::Reader,
    pub(super) journal: Journal,
    pub(super) queue: mpsc::Receiver<Forward>,
    /// Holds one parcel: that there is room means that the last one was taken.
    pub(super) out: mpsc::Sender<Parcel>,
    pub(super) permits: Arc<Semaphore>,
    pub(super) runner: mpsc::WeakSender<Command>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) ack_deadline: Duration,
    /// A call waits for its one batch, also when nothing is left of it.
    pub(super) call: bool,
}

impl Forwarder {
    /// Passes on what the runner hands over, until the client or the runner is gone.
    pub(super) async fn run(mut self) {
        let out = self.out.clone();
        let mut asked = false;
        loop {
            let Ok(room) = out.reserve().await else {
                return;
            };
            if !asked {
                let stream = self.stream;
                self.tell(Command::Ready { stream }).await;
                asked = true;
            }
            let next = tokio::select! {
                next = self.queue.recv() => next,
                () = out.closed() => return,
            };
            match next {
                None => return,
                Some(Forward::Last(delivery)) => {
                    room.send(Parcel { batch: 0, delivery });
                    return;
                }
                Some(Forward::Results(results)) => {
                    let count = results.len();
                    let delivery = Delivery::Results(results);
                    room.send(Parcel { batch: 0, delivery });
                    self.permits.add_permits(count);
                }
                Some(Forward::Leases(batch)) => {
                    asked = false;
                    let number = batch.number;
                    match self.fetch(batch.leases).await {
                        Ok(delivered) if delivered.is_empty() && !self.call => {}
                        Ok(delivered) => room.send(Parcel {
                            batch: number,
                            delivery: Delivery::Leases(delivered),
                        }),
                        Err(error) => {
                            room.send(Parcel {
                                batch: 0,
                                delivery: Delivery::Failed(error),
                            });
                            return;
                        }
                    }
                }
            }
        }
    }

    /// Fetches payloads; what the journal no longer has is reported and left out.
    async fn fetch(&self, leases: Vec<Lease>) -> Result<Vec<Delivered>, StoreError> {
        let revisions: Vec<Revision> = leases.iter().map(|lease| lease.revision).collect();
        let events = self.journal.get_many(&revisions).await?;
        let expires = self.clock.now().plus(self.ack_deadline);
        let mut vanished = Vec::new();
        let mut delivered = Vec::with_capacity(leases.len());
        for (lease, event) in leases.into_iter().zip(events) {
            match event {
                Some(event) => {
                    self.of.leased(&event, lease.attempt);
                    delivered.push(Delivered {
                        ack_id: lease.ack_id,
                        attempt: lease.attempt,
                        expires,
                        event,
                    });
                }
                None => vanished.push(lease.revision),
            }
        }
        if !vanished.is_empty() {
            self.tell(Command::Vanished(vanished)).await;
        }
        Ok(delivered)
    }

    /// Tells the runner something; one that is gone has left a last word in the queue.
    async fn tell(&self, command: Command) {
        if let Some(runner) = self.runner.upgrade() {
            let _ = runner.send(command).await;
        }
    }
}
