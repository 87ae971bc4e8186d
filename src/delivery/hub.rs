//! All subscriptions that are being consumed: starts their tasks and finds them again.

use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use thiserror::Error;
use tokio::sync::{Mutex, Semaphore, mpsc, oneshot};
use tokio_util::task::TaskTracker;

use super::consumer::{Consumer, MAX_UNREAD_RESULTS, Settler};
use super::dispatch::{Credit, Ending};
use super::runner::{CallPort, Command, LiveDelivery, MAILBOX, Runner};
use crate::domain::clock::Clock;
use crate::domain::ids::{SubscriptionId, WorkspaceId};
use crate::store::{LookupError, StoreError, WorkspaceStore};

/// Events of a subscription held in memory at most.
pub const WINDOW: usize = 10_000;

/// How long consumers are given at most, when the daemon stops, to settle what they hold: what they do not
/// is delivered again after the start.
pub const SETTLE: Duration = Duration::from_secs(10);

/// Batches that wait for a consumer. One: that there is room again then says that it was taken.
const BUFFER: usize = 1;

/// Why a stream could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OpenError {
    /// Credit of zero can never be used.
    #[error("credit for events and for bytes must both be greater than zero")]
    NoCredit,
    /// There is no such subscription, or the store failed.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// The daemon is stopping.
    #[error("the daemon is shutting down")]
    Draining,
}

type Name = (WorkspaceId, SubscriptionId);

/// A subscription's place: empty, or where its runner listens.
type Slot = Arc<Mutex<Option<mpsc::Sender<Command>>>>;

/// Finds and starts the tasks of subscriptions. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Hub {
    clock: Arc<dyn Clock>,
    window: usize,
    slots: Arc<DashMap<Name, Slot>>,
    tasks: TaskTracker,
}

impl Hub {
    /// A hub whose runners hold at most `window` events each ([`WINDOW`]).
    pub fn new(clock: Arc<dyn Clock>, window: usize) -> Self {
        Self {
            clock,
            window,
            slots: Arc::default(),
            tasks: TaskTracker::new(),
        }
    }

    /// Opens a stream on a subscription.
    ///
    /// # Errors
    /// [`OpenError`] says whether the credit, the subscription or the daemon is to blame.
    pub async fn open(
        &self,
        workspace: &WorkspaceStore,
        subscription: &SubscriptionId,
        credit: Credit,
    ) -> Result<Consumer, OpenError> {
        if credit.events == 0 || credit.bytes == 0 {
            return Err(OpenError::NoCredit);
        }
        self.open_with(workspace, subscription, credit, || None)
            .await
    }

    /// Opens a stream, or one for a call.
    pub(super) async fn open_with(
        &self,
        workspace: &WorkspaceStore,
        subscription: &SubscriptionId,
        credit: Credit,
        mut call: impl FnMut() -> Option<CallPort>,
    ) -> Result<Consumer, OpenError> {
        // A runner may be at its end just now: then the next one takes the stream.
        for _ in 0..3 {
            let runner = self.runner(workspace, subscription).await?;
            if let Some(consumer) = ask(&runner, credit, call()).await {
                return Ok(consumer);
            }
        }
        Err(OpenError::Draining)
    }

    async fn runner(
        &self,
        workspace: &WorkspaceStore,
        subscription: &SubscriptionId,
    ) -> Result<mpsc::Sender<Command>, OpenError> {
        let name = (workspace.id().clone(), subscription.clone());
        let slot = Arc::clone(&*self.slots.entry(name.clone()).or_default());
        let mut runner = slot.lock().await;
        if let Some(running) = runner.as_ref().filter(|running| !running.is_closed()) {
            return Ok(running.clone());
        }
        if self.tasks.is_closed() {
            return Err(OpenError::Draining);
        }
        let record = match workspace.subscriptions().get(subscription).await {
            Ok(record) => record,
            Err(error) => {
                self.slots
                    .remove_if(&name, |_, known| Arc::ptr_eq(known, &slot));
                return Err(error.into());
            }
        };
        let (tx, commands) = mpsc::channel(MAILBOX);
        let prepared = Runner::prepare(
            workspace,
            record,
            Arc::clone(&self.clock),
            self.window,
            commands,
            tx.downgrade(),
        );
        let prepared = prepared.await.map_err(|error| match error {
            // Deleted since it was looked up.
            LookupError::Store(StoreError::Gone) => LookupError::NotFound {
                what: format!("{}/subscriptions/{subscription}", workspace.id().name()),
            },
            error => error,
        })?;
        let span = tracing::info_span!(
            "subscription",
            workspace = %name.0,
            subscription = %name.1,
        );
        self.tasks.spawn(tracing::Instrument::instrument(
            async move {
                match prepared.run().await {
                    Ok(()) | Err(StoreError::Closed) => {}
                    Err(error) => tracing::error!(%error, "subscription ended"),
                }
            },
            span,
        ));
        *runner = Some(tx.clone());
        Ok(tx)
    }

    /// What is known of an event that is not settled; nothing when the subscription is not consumed, or has
    /// not come so far.
    pub async fn live_delivery(
        &self,
        workspace: &WorkspaceId,
        subscription: &SubscriptionId,
        revision: u64,
    ) -> Option<LiveDelivery> {
        let name = (workspace.clone(), subscription.clone());
        let slot = self.slots.get(&name).map(|slot| Arc::clone(&slot))?;
        let runner = slot.lock().await.clone()?;
        let (seen, answer) = oneshot::channel();
        let command = Command::LookAt { revision, seen };
        runner.send(command).await.ok()?;
        answer.await.ok()?
    }

    /// Ends all streams of a subscription that was deleted.
    pub async fn deleted(&self, workspace: &WorkspaceId, subscription: &SubscriptionId) {
        let removed = self
            .slots
            .remove(&(workspace.clone(), subscription.clone()));
        if let Some((_, slot)) = removed
            && let Some(runner) = slot.lock().await.take()
        {
            // It may have ended by itself.
            let _ = runner.send(Command::Delete).await;
        }
    }

    /// Ends all streams of a workspace that was deleted.
    pub async fn workspace_deleted(&self, workspace: &WorkspaceId) {
        let names: Vec<_> = self.slots.iter().map(|slot| slot.key().clone()).collect();
        for (of, subscription) in names {
            if of == *workspace {
                self.deleted(&of, &subscription).await;
            }
        }
    }

    /// Gives out nothing more, lets consumers settle what they hold for a while ([`SETTLE`] at most), ends
    /// all streams in order and makes their last acks durable. Returns when that is done or `patience` has
    /// passed.
    pub async fn shutdown(&self, patience: Duration) {
        self.tasks.close();
        let until = self.clock.elapsed() + SETTLE.min(patience / 2);
        let slots: Vec<Slot> = self.slots.iter().map(|slot| Arc::clone(&slot)).collect();
        for slot in slots {
            if let Some(runner) = slot.lock().await.as_ref() {
                // It may have ended by itself.
                let _ = runner.send(Command::Drain { until }).await;
            }
        }
        if tokio::time::timeout(patience, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("some subscriptions did not end in time; their events come again");
        }
    }
}

/// Asks a runner for a stream; `None` when it is at its end.
async fn ask(
    runner: &mpsc::Sender<Command>,
    credit: Credit,
    call: Option<CallPort>,
) -> Option<Consumer> {
    let (out, deliveries) = mpsc::channel(BUFFER);
    let (opened, answer) = oneshot::channel();
    let permits = Arc::new(Semaphore::new(MAX_UNREAD_RESULTS));
    let command = Command::Open {
        credit,
        call,
        out,
        permits: Arc::clone(&permits),
        opened,
    };
    runner.send(command).await.ok()?;
    let (stream, ack_deadline) = answer.await.ok()?.accept();
    Some(Consumer {
        settler: Settler {
            stream,
            runner: runner.clone(),
            permits,
        },
        deliveries,
        taken: 0,
        ack_deadline,
        ending: Ending::Broken,
        open: true,
    })
}
