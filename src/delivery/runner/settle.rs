//! What clients say about their leases, and what they are told became of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::Runner;
use crate::delivery::consumer::{Operation, OperationKind, Outcome, Settled};
use crate::delivery::dispatch::{Acked, LeaseRef, StreamId, Waiter};
use crate::delivery::forward::Forward;

/// When an operation is answered.
enum Answer {
    Now(Outcome),
    Later,
    /// Together with the same operation, which was asked before.
    WithFirst,
}

impl Runner {
    /// Acks, nacks or extends what the tokens name, and says what became of each.
    pub(super) fn settle(
        &mut self,
        stream: StreamId,
        operation: Operation,
        ack_ids: Vec<String>,
        now: Duration,
    ) {
        let mut results = Vec::new();
        let mut later = Vec::new();
        let mut repeated = 0;
        for ack_id in ack_ids {
            let lease = self.tokens.read(&ack_id);
            let answer = match lease {
                None => Answer::Now(Outcome::Invalid),
                Some(lease) => self.settle_one(stream, operation, lease, &ack_id, now),
            };
            match answer {
                Answer::Now(outcome) => results.push(Settled {
                    ack_id: Arc::from(ack_id),
                    kind: operation.kind(),
                    outcome,
                }),
                Answer::Later => later.extend(lease.map(|lease| (lease.revision, ack_id))),
                Answer::WithFirst => repeated += 1,
            }
        }
        if self.is_call(stream) {
            results.extend(self.held(later));
        }
        // No result of theirs will be read that could give these back.
        if let Some(port) = self.ports.get(&stream) {
            port.permits.add_permits(repeated);
        }
        self.tell(stream, results);
    }

    fn settle_one(
        &mut self,
        stream: StreamId,
        operation: Operation,
        lease: LeaseRef,
        ack_id: &str,
        now: Duration,
    ) -> Answer {
        let done = match operation {
            Operation::Ack => {
                if lease.lease.is_none() {
                    if self.reader.confirmed.contains(lease.revision) {
                        return Answer::Now(Outcome::Confirmed);
                    }
                    // Of a journal that was restored from a backup since.
                    if lease.revision > *self.head.borrow() {
                        return Answer::Now(Outcome::Ended);
                    }
                }
                let waiter = Waiter {
                    stream,
                    ack_id: Arc::from(ack_id),
                };
                match self.machine.ack(lease, waiter, now) {
                    Ok(Acked::Confirmed) => Ok(()),
                    Ok(Acked::Accepted) => return Answer::Later,
                    Ok(Acked::Repeated) => return Answer::WithFirst,
                    Err(ended) => Err(ended),
                }
            }
            Operation::Nack { delay } => self.machine.nack(lease, delay, now),
            Operation::Extend { by } => {
                let by = by.unwrap_or(self.record.config.ack_deadline);
                self.machine.extend(lease, now + by)
            }
        };
        Answer::Now(match done {
            Ok(()) => Outcome::Confirmed,
            Err(_) => Outcome::Ended,
        })
    }

    /// Tells clients what became of the acks that had to wait.
    pub(super) fn tell_outcomes(&mut self) {
        let mut by_stream: HashMap<StreamId, Vec<Settled>> = HashMap::new();
        for told in self.machine.take_outcomes() {
            let settled = Settled {
                ack_id: told.waiter.ack_id,
                kind: OperationKind::Ack,
                outcome: if told.confirmed {
                    Outcome::Confirmed
                } else {
                    Outcome::Ended
                },
            };
            by_stream
                .entry(told.waiter.stream)
                .or_default()
                .push(settled);
        }
        for (stream, results) in by_stream {
            self.tell(stream, results);
        }
    }

    fn tell(&mut self, stream: StreamId, results: Vec<Settled>) {
        if let Some(port) = self.ports.get(&stream)
            && !results.is_empty()
        {
            port.hand(Forward::Results(results));
        }
    }
}
