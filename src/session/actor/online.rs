//! What exists only while the session is logged in: the sender and the stall watch.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::{Actor, Exit, UPKEEP};
use crate::domain::session::Cause;
use crate::provider::contract::{GroupsError, ProbeError};
use crate::session::groups::{GroupBook, Groups};
use crate::session::outbound::{Ack, Sender, SenderEnd, SenderParts, Settler, look_after};
use crate::session::stall::StallWatch;
use crate::store::{Day, StoreError};

/// Acks the sender may be behind.
const MOST_ACKS: usize = 4_096;

/// How long a sender may take to stop.
const STOP: Duration = Duration::from_secs(15);

/// What exists only while the session is logged in.
pub(super) struct Online {
    sender: Option<AbortOnDropHandle<SenderEnd>>,
    acks: mpsc::Sender<Ack>,
    stop: CancellationToken,
    stall: StallWatch,
    groups: Arc<GroupBook>,
    /// When to look for signs of life, in monotonic time.
    look_at: Duration,
    probe: Option<AbortOnDropHandle<Result<(), ProbeError>>>,
}

/// Something it woke the actor for.
pub(super) enum Event {
    /// The sender ended; `None` when it panicked.
    SenderEnded(Option<SenderEnd>),
    /// Time to look for signs of life.
    Look,
    /// A probe came back; `None` when it panicked.
    Probed(Option<Result<(), ProbeError>>),
}

/// Waits for the next event of the online part, if there is one.
pub(super) async fn next(online: &mut Option<Online>, elapsed: Duration) -> Event {
    let Some(online) = online else {
        return std::future::pending().await;
    };
    tokio::select! {
        end = finished(&mut online.sender) => Event::SenderEnded(end),
        outcome = finished(&mut online.probe) => Event::Probed(outcome),
        () = tokio::time::sleep(online.look_at.saturating_sub(elapsed)) => Event::Look,
    }
}

/// Waits for a task, if there is one, and takes it.
async fn finished<T>(task: &mut Option<AbortOnDropHandle<T>>) -> Option<T> {
    match task {
        Some(handle) => {
            let outcome = handle.await;
            *task = None;
            outcome.ok()
        }
        None => std::future::pending().await,
    }
}

impl Actor {
    /// The session logged in: starts the sender and the stall watch.
    pub(super) async fn start_online(&mut self) -> Result<(), Exit> {
        if self.online.is_some() {
            return Ok(());
        }
        let Some(open) = &self.line else {
            return Ok(());
        };
        let fleet = &self.parts.fleet;
        let name = self.store.name();
        let workspace = self.store.workspace();
        let today = Day::of(fleet.clock.now());
        let used = workspace.usage().of_session(&name.session, today).await?;
        let holds = Arc::clone(&self.parts.cell.holds);
        let limits = Arc::clone(&self.parts.cell.limits);
        let linked_at = self.linked_at.unwrap_or_else(|| fleet.clock.now());
        let (acks, acked) = mpsc::channel(MOST_ACKS);
        let stop = CancellationToken::new();
        let sender = Sender::new(SenderParts {
            config: fleet.config.outbound.clone(),
            clock: Arc::clone(&fleet.clock),
            store: self.store.clone(),
            account: self.account.clone(),
            line: Arc::clone(&open.line),
            capabilities: self.parts.provider.capabilities(),
            pacer: fleet
                .pacing
                .pacer(&name.workspace, limits, Arc::clone(&holds), linked_at, used),
            holds,
            pauses: (fleet.config.pacing.timelock, fleet.config.pacing.slow_down),
            nudge: Arc::clone(&self.parts.cell.nudge),
            acks: acked,
            depth: self.parts.cell.depth.clone(),
            stop: stop.clone(),
        });
        let span = tracing::Span::current();
        let task = tracing::Instrument::instrument(sender.run(), span);
        let stall = StallWatch::new(&fleet.config.stall, fleet.clock.elapsed());
        let elapsed = fleet.clock.elapsed();
        let look_at = elapsed + stall.next_look(elapsed);
        let groups = GroupBook::new(Arc::clone(&fleet.clock), open.inbound.group_changes());
        self.online = Some(Online {
            sender: Some(AbortOnDropHandle::new(self.parts.tasks.spawn(task))),
            acks,
            stop,
            stall,
            groups,
            look_at,
            probe: None,
        });
        Ok(())
    }

    /// The connection ended: stops the sender after it has taken note of the last acks.
    pub(super) async fn stop_online(&mut self) -> Result<(), Exit> {
        let Some(online) = self.online.take() else {
            return Ok(());
        };
        self.last_online = Some(self.now());
        online.stop.cancel();
        drop(online.acks);
        let Some(sender) = online.sender else {
            return Ok(());
        };
        match tokio::time::timeout(STOP, sender).await {
            Ok(Ok(SenderEnd::Store(error @ StoreError::Fenced { .. }))) => Err(error.into()),
            Ok(Err(error)) if error.is_panic() => {
                metrics::counter!("trunkline_panics_contained_total", "task" => "sender")
                    .increment(1);
                Ok(())
            }
            // A late store failure shows again at the actor's next commit.
            Ok(_) => Ok(()),
            Err(_) => {
                tracing::warn!("the sender did not stop in time: its task is dropped");
                Ok(())
            }
        }
    }

    /// Looks after the outbox while there is no sender.
    pub(super) async fn upkeep(&mut self) -> Result<(), Exit> {
        self.upkeep_at = self.elapsed() + UPKEEP;
        let cell = &self.parts.cell;
        // Nothing was waiting and nothing was accepted since.
        if self.looked_after && cell.depth.borrow().waiting == 0 {
            return Ok(());
        }
        self.looked_after = true;
        let pacing = &self.parts.fleet.config.pacing;
        let settler = Settler {
            store: self.store.clone(),
            clock: Arc::clone(&self.parts.fleet.clock),
            holds: Arc::clone(&cell.holds),
            timelock: pacing.timelock,
            slow_down: pacing.slow_down,
        };
        let depth = look_after(&settler).await?;
        cell.depth.send_replace(depth);
        Ok(())
    }

    /// Says which groups the number is in, when the provider has answered.
    pub(super) fn tell_groups(&self, mut reply: oneshot::Sender<Result<Arc<Groups>, GroupsError>>) {
        let (Some(online), Some(open)) = (&self.online, &self.line) else {
            let _ = reply.send(Err(GroupsError::NotConnected));
            return;
        };
        let (book, line) = (Arc::clone(&online.groups), Arc::clone(&open.line));
        self.parts.tasks.spawn(async move {
            tokio::select! {
                outcome = book.ask(&*line) => {
                    let _ = reply.send(outcome);
                }
                // Nobody wants to know any more.
                () = reply.closed() => {}
            }
        });
    }

    /// Passes the server's answer on to the sender.
    pub(super) fn pass_ack(&mut self, ack: Ack) {
        let Some(online) = &self.online else {
            return;
        };
        if let Err(mpsc::error::TrySendError::Full(_)) = online.acks.try_send(ack) {
            self.close(Some(Cause::Internal {
                detail: "the sender fell too far behind the server's answers".into(),
            }));
        }
    }

    pub(super) fn online_event(&mut self, event: Event) -> Result<(), Exit> {
        match event {
            Event::SenderEnded(end) => self.sender_ended(end)?,
            Event::Look => self.look(),
            Event::Probed(outcome) => {
                let elapsed = self.elapsed();
                if let (Some(Ok(())), Some(online)) = (&outcome, &mut self.online) {
                    online.stall.heard(elapsed);
                    online.look_at = elapsed + online.stall.next_look(elapsed);
                } else {
                    tracing::warn!("no sign of life from the server: reconnecting");
                    self.close(Some(Cause::Stalled));
                }
            }
        }
        Ok(())
    }

    fn sender_ended(&mut self, end: Option<SenderEnd>) -> Result<(), Exit> {
        let cause = match end {
            Some(SenderEnd::Stopped) => return Ok(()),
            Some(SenderEnd::AckTimeout) => {
                tracing::warn!("the server does not acknowledge: reconnecting");
                Cause::Stalled
            }
            Some(SenderEnd::Store(error @ StoreError::Fenced { .. })) => return Err(error.into()),
            Some(SenderEnd::Store(error)) => Cause::StoreFailed {
                detail: error.to_string(),
            },
            None => {
                metrics::counter!("trunkline_panics_contained_total", "task" => "sender")
                    .increment(1);
                Cause::Internal {
                    detail: "the sender panicked".into(),
                }
            }
        };
        self.close(Some(cause));
        Ok(())
    }

    /// Looks for signs of life; after too long a silence, asks for one.
    fn look(&mut self) {
        let elapsed = self.elapsed();
        let patience = self.parts.fleet.config.stall.patience;
        let (Some(online), Some(open)) = (&mut self.online, &self.line) else {
            return;
        };
        let last_inbound = open.line.traffic().last_inbound;
        if online.stall.is_silent(last_inbound, elapsed) && online.probe.is_none() {
            let line = Arc::clone(&open.line);
            let task = async move {
                // A line that ignores its own patience is silent too.
                tokio::time::timeout(patience * 2, line.probe(patience))
                    .await
                    .unwrap_or(Err(ProbeError::Silent))
            };
            online.probe = Some(AbortOnDropHandle::new(self.parts.tasks.spawn(task)));
        }
        online.look_at = elapsed + online.stall.next_look(elapsed);
        self.publish();
    }
}
