//! Keeps one session's actor alive: builds it, contains its panics, counts how it ended, builds it again.
//!
//! The mailbox outlives the actor, so a command sent during a crash is answered by the next incarnation
//! (or refused, if it was being handled). Everything an incarnation started has ended before the next
//! one begins, and the next one's claim fences off whatever might not have.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::actor::{Actor, Exit, Parts};
use super::fleet::Fleet;
use super::mailbox::Message;
use super::status::Cell;
use crate::domain::session::{Cause, Connection};
use crate::provider::contract::Provider;
use crate::store::SessionStore;

/// How long the tasks of a crashed incarnation may take to be dropped.
const REAP: Duration = Duration::from_secs(30);

/// What a keeper needs.
pub(super) struct Keeper {
    pub(super) fleet: Arc<Fleet>,
    pub(super) cell: Arc<Cell>,
    pub(super) provider: Arc<dyn Provider>,
    pub(super) store: SessionStore,
    /// See [`Parts::new`].
    pub(super) new: bool,
    /// Ends a keeper that waits between two incarnations.
    pub(super) stop: CancellationToken,
}

impl Keeper {
    /// Keeps the session until it is told to shut down or is gone.
    pub(super) async fn keep(self, mut mailbox: mpsc::Receiver<Message>) {
        let (mut crashes, mut reason) = (0_u32, String::new());
        loop {
            let began = self.fleet.clock.elapsed();
            let tasks = TaskTracker::new();
            let parts = Parts {
                fleet: Arc::clone(&self.fleet),
                cell: Arc::clone(&self.cell),
                provider: Arc::clone(&self.provider),
                store: self.store.clone(),
                tasks: tasks.clone(),
                new: self.new,
                crashes: (crashes, reason.clone()),
            };
            let life = AssertUnwindSafe(Actor::live(parts, &mut mailbox)).catch_unwind();
            let outcome = life.await;
            self.cell.show_line(None);
            tasks.close();
            if tokio::time::timeout(REAP, tasks.wait()).await.is_err() {
                tracing::error!("tasks of a session did not end; the next owner fences them off");
            }
            let kind = match outcome {
                Ok(Exit::Shutdown) => return,
                Ok(Exit::Gone) => {
                    metrics::counter!("trunkline_actor_exits_total", "kind" => "gone").increment(1);
                    tracing::info!("the session was deleted or taken over: its actor ends");
                    return;
                }
                Ok(Exit::Failed(error)) => {
                    reason = error.to_string();
                    "error"
                }
                // Not its words, which may quote a message: the panic hook logs those at debug.
                Err(_) => {
                    metrics::counter!("trunkline_panics_contained_total", "task" => "actor")
                        .increment(1);
                    "panicked".clone_into(&mut reason);
                    "panic"
                }
            };
            metrics::counter!("trunkline_actor_exits_total", "kind" => kind).increment(1);
            tracing::error!(kind, reason, "a session's actor failed: it is built again");
            let lived = self.fleet.clock.elapsed().saturating_sub(began);
            if lived >= self.fleet.config.rules.stable_after {
                crashes = 0;
            }
            crashes = crashes.saturating_add(1);
            let pause = self
                .fleet
                .config
                .rules
                .backoff
                .delay(crashes, &self.fleet.entropy);
            self.show_crash(crashes, &reason, pause);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.stop.cancelled() => return,
            }
        }
    }

    /// Nobody else can say now that the session is not what it was.
    fn show_crash(&self, attempt: u32, reason: &str, pause: Duration) {
        let now = self.fleet.clock.now();
        let cause = Cause::Internal {
            detail: reason.to_owned(),
        };
        self.cell.status.send_modify(|status| {
            status.crashes += 1;
            status.since = now;
            status.last_cause = Some(cause.clone());
            status.connection = Connection::Backoff {
                until: now.plus(pause),
                attempt,
                reason: cause,
            };
        });
    }
}
