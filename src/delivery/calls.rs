//! Leases without a stream: one call takes them, later calls settle them.
//!
//! A call opens a stream on the subscription's task, takes one batch and leaves; what it took stays leased
//! ([`super::dispatch`]). Until the answer is on its way the call is undone by dropping it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::oneshot;

use super::consumer::{Consumer, Delivered, Delivery, Gone, Operation, Outcome};
use super::dispatch::{Credit, Ending};
use super::hub::{Hub, OpenError};
use super::runner::{CallPort, Stopped};
use crate::domain::ids::SubscriptionId;
use crate::store::{LookupError, WorkspaceStore};

/// How long an ack is given to become durable before its call is told that it waits.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a call for leases failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LeaseError {
    /// The subscription cannot be consumed.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Calls hold as many events of the subscription as they may, none of them settled.
    #[error("too many events of the subscription are leased and not settled")]
    Full,
}

/// What an ack, nack or extend came to, by `ack_id`.
pub type Outcomes = HashMap<Arc<str>, Outcome>;

impl Hub {
    /// Leases what there is, `credit` at most, for good: the leases outlive the call. If there is nothing,
    /// waits for something until `wait` has passed, and answers with nothing then. A call that is dropped
    /// before it has answered holds nothing, and nothing is charged an attempt.
    ///
    /// # Errors
    /// [`LeaseError`] says whether the credit, the subscription, the daemon or what other calls hold is to
    /// blame.
    pub async fn lease(
        &self,
        workspace: &WorkspaceStore,
        subscription: &SubscriptionId,
        credit: Credit,
        wait: Duration,
    ) -> Result<Vec<Delivered>, LeaseError> {
        if credit.events == 0 || credit.bytes == 0 {
            return Err(OpenError::NoCredit.into());
        }
        let (mut consumer, nothing) = self.call(workspace, subscription, credit).await?;
        let patience = async {
            // Dropped instead of told: there is something, and it is on its way.
            if nothing.await.is_err() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(wait).await;
        };
        let delivered = tokio::select! {
            biased;
            delivered = leases(subscription, &mut consumer) => delivered?,
            () = patience => Vec::new(),
        };
        match consumer.keep().await {
            Ok(kept) if kept.full && delivered.is_empty() => Err(LeaseError::Full),
            Ok(_) => Ok(delivered),
            Err(Gone) => Err(the_end(subscription, &mut consumer).await.into()),
        }
    }

    /// Settles leases, whoever holds them. Each `ack_id` may be there once.
    ///
    /// # Errors
    /// [`OpenError`] says whether the subscription or the daemon is to blame. What was asked may be done or
    /// not; it can be repeated.
    pub async fn settle(
        &self,
        workspace: &WorkspaceStore,
        subscription: &SubscriptionId,
        operations: Vec<(Operation, Vec<String>)>,
    ) -> Result<Outcomes, OpenError> {
        let nothing = Credit {
            events: 0,
            bytes: 0,
        };
        let (mut consumer, _) = self.call(workspace, subscription, nothing).await?;
        let settler = consumer.settler();
        let mut missing = 0;
        for (operation, ack_ids) in operations {
            missing += ack_ids.len();
            if settler.settle(operation, ack_ids).await.is_err() {
                return Err(the_end(subscription, &mut consumer).await);
            }
        }
        let mut outcomes = Outcomes::new();
        let patience = tokio::time::sleep(PATIENCE);
        tokio::pin!(patience);
        while outcomes.len() < missing {
            let delivery = tokio::select! {
                biased;
                delivery = consumer.next() => delivery,
                // The others are accepted, and follow events that nobody has settled or read.
                () = &mut patience => break,
            };
            match delivery {
                Some(Delivery::Results(results)) => {
                    let results = results.into_iter();
                    outcomes.extend(results.map(|settled| (settled.ack_id, settled.outcome)));
                }
                Some(Delivery::Leases(_)) => {}
                last => return Err(end(subscription, last)),
            }
        }
        Ok(outcomes)
    }

    /// A stream for one call, and what is told when it is given nothing.
    async fn call(
        &self,
        workspace: &WorkspaceStore,
        subscription: &SubscriptionId,
        credit: Credit,
    ) -> Result<(Consumer, oneshot::Receiver<()>), OpenError> {
        let (_, mut nothing) = oneshot::channel();
        let port = || {
            let (told, listen) = oneshot::channel();
            nothing = listen;
            Some(CallPort::new(told))
        };
        let mut consumer = self
            .open_with(workspace, subscription, credit, port)
            .await?;
        consumer.ending = Ending::Orderly;
        Ok((consumer, nothing))
    }
}

/// The first leases that arrive.
async fn leases(
    subscription: &SubscriptionId,
    consumer: &mut Consumer,
) -> Result<Vec<Delivered>, OpenError> {
    match consumer.next().await {
        Some(Delivery::Leases(leases)) => Ok(leases),
        last => Err(end(subscription, last)),
    }
}

/// Why a stream is at its end.
async fn the_end(subscription: &SubscriptionId, consumer: &mut Consumer) -> OpenError {
    loop {
        match consumer.next().await {
            Some(Delivery::Leases(_) | Delivery::Results(_)) => {}
            last => return end(subscription, last),
        }
    }
}

/// What the last word on a stream means.
fn end(subscription: &SubscriptionId, last: Option<Delivery>) -> OpenError {
    match last {
        Some(Delivery::Stopped(Stopped::Deleted)) => OpenError::Lookup(LookupError::NotFound {
            what: format!("subscriptions/{subscription}"),
        }),
        Some(Delivery::Failed(error)) => OpenError::Lookup(LookupError::Store(error)),
        _ => OpenError::Draining,
    }
}
