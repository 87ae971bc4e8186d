//! One connection attempt: opening the line, running it, ending it, and what its end means.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use super::{Actor, Exit};
use crate::domain::session::Cause;
use crate::provider::contract::{Line, Mode, OpenError};
use crate::session::inbound::{Inbound, LineEvent};
use crate::session::state::{Goal, Input, PairMode, cause_name};

/// How long a sink may take to write what is queued when its line is given up.
const DRAIN: Duration = Duration::from_secs(10);

/// How long opening a line may take.
const OPEN: Duration = Duration::from_mins(1);

/// A line and its sink.
pub(super) struct OpenLine {
    pub(super) line: Arc<dyn Line>,
    pub(super) inbound: Arc<Inbound>,
    pub(super) told: mpsc::Receiver<LineEvent>,
    /// Whether `told` has ended.
    pub(super) is_silent: bool,
}

impl Drop for OpenLine {
    fn drop(&mut self) {
        self.inbound.shut();
    }
}

/// An attempt in progress.
pub(super) struct Attempt {
    stop: CancellationToken,
    run: AbortOnDropHandle<Cause>,
    /// When it must be online, or, once told to stop, when its task is dropped.
    deadline: Option<Duration>,
    is_closing: bool,
    /// Why we closed it, if not on request.
    because: Option<Cause>,
}

impl Attempt {
    /// What ends it.
    pub(super) fn stop_token(&self) -> CancellationToken {
        self.stop.clone()
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        self.deadline
    }

    /// Waits for the attempt to end.
    pub(super) async fn ended(&mut self) -> Cause {
        match (&mut self.run).await {
            // Ending is what we asked for; our reason is the cause, unless the server was faster.
            Ok(Cause::Requested) => self.because.take().unwrap_or(Cause::Requested),
            Ok(cause) => cause,
            Err(error) if error.is_panic() => {
                metrics::counter!("trunkline_panics_contained_total", "task" => "line")
                    .increment(1);
                Cause::Internal {
                    detail: "the connection's task panicked".into(),
                }
            }
            Err(_) => self.because.take().unwrap_or(Cause::Requested),
        }
    }

    /// It is logged in: the deadline is met.
    pub(super) fn is_online(&mut self) {
        if !self.is_closing {
            self.deadline = None;
        }
    }
}

impl Actor {
    /// Begins an attempt. A line that cannot be opened is an attempt that ended at once.
    pub(super) async fn run_attempt(&mut self, goal: &Goal) -> Result<(), Exit> {
        if self.line.is_none()
            && let Err(cause) = self.open_line().await?
        {
            self.stillborn = Some(cause);
            return Ok(());
        }
        let Some(open) = &self.line else {
            return Ok(());
        };
        let config = &self.parts.fleet.config;
        let (mode, patience) = match goal {
            Goal::Login => (Mode::Login, config.login_timeout),
            Goal::Pair(PairMode::Qr) => (Mode::PairByQr, config.pairing_timeout),
            Goal::Pair(PairMode::Code { phone }) => (
                Mode::PairByCode {
                    phone: phone.clone(),
                },
                config.pairing_timeout,
            ),
        };
        let (stop, line) = (CancellationToken::new(), Arc::clone(&open.line));
        let token = stop.clone();
        let run = self
            .parts
            .tasks
            .spawn(async move { line.run(mode, token).await }.in_current_span());
        metrics::counter!("trunkline_connects_total").increment(1);
        self.attempt = Some(Attempt {
            stop,
            run: AbortOnDropHandle::new(run),
            deadline: Some(self.elapsed() + patience),
            is_closing: false,
            because: None,
        });
        Ok(())
    }

    /// Opens the line from the stored keys, as the new owner of the session.
    async fn open_line(&mut self) -> Result<Result<(), Cause>, Exit> {
        self.store = self.parts.store.claim().await?;
        let tasks = self.parts.tasks.clone();
        let clock = Arc::clone(&self.parts.fleet.clock);
        let (inbound, told) = Inbound::open(self.store.clone(), clock, &tasks);
        let (provider, store) = (Arc::clone(&self.parts.provider), self.store.clone());
        let sink = Arc::clone(&inbound);
        let opening = async move { provider.open(store.name(), store, sink).await };
        let opening = tasks.spawn(opening.in_current_span());
        let opening = AbortOnDropHandle::new(opening);
        let internal = |detail: String| Cause::Internal { detail };
        let cause = match tokio::time::timeout(OPEN, opening).await {
            Ok(Ok(Ok(line))) => {
                self.parts.cell.show_line(Some(Arc::clone(&line)));
                self.line = Some(OpenLine {
                    line,
                    inbound,
                    told,
                    is_silent: false,
                });
                self.set_stopped_cleanly(false).await?;
                return Ok(Ok(()));
            }
            Ok(Ok(Err(OpenError::Store(detail)))) => Cause::StoreFailed { detail },
            Ok(Ok(Err(OpenError::Damaged(detail)))) => {
                internal(format!("the stored credentials are damaged: {detail}"))
            }
            Ok(Err(_)) => {
                metrics::counter!("trunkline_panics_contained_total", "task" => "open")
                    .increment(1);
                internal("opening the line panicked".into())
            }
            Err(_) => internal("opening the line took too long".into()),
        };
        inbound.shut();
        Ok(Err(cause))
    }

    /// Lets go of the line, after what it queued is durable.
    pub(super) async fn drop_line(&mut self, in_good_order: bool) -> Result<(), Exit> {
        let Some(open) = self.line.take() else {
            return Ok(());
        };
        self.parts.cell.show_line(None);
        let drained = tokio::time::timeout(DRAIN, open.inbound.close())
            .await
            .is_ok();
        drop(open);
        if drained && in_good_order {
            self.set_stopped_cleanly(true).await?;
        }
        Ok(())
    }

    /// Tells the attempt to end. `because` becomes the cause if the server does not give another.
    pub(super) fn close(&mut self, because: Option<Cause>) {
        let deadline = self.elapsed() + self.parts.fleet.config.close_timeout;
        if let Some(attempt) = &mut self.attempt {
            attempt.stop.cancel();
            if !attempt.is_closing {
                attempt.is_closing = true;
                attempt.deadline = Some(deadline);
                attempt.because = because;
            }
        }
    }

    /// The attempt will be told to end by another task; it has this long to do so.
    pub(super) fn close_after(&mut self, patience: Duration) {
        let deadline = self.elapsed() + patience;
        if let Some(attempt) = &mut self.attempt {
            attempt.is_closing = true;
            attempt.deadline = Some(deadline);
        }
    }

    /// The attempt's time is up: to log in, or to end.
    pub(super) async fn attempt_overdue(&mut self) -> Result<(), Exit> {
        let Some(attempt) = &mut self.attempt else {
            return Ok(());
        };
        if !attempt.is_closing {
            self.close(Some(Cause::LoginTimeout));
            return Ok(());
        }
        tracing::warn!("the connection did not end in time: its task is dropped");
        attempt.run.abort();
        attempt.deadline = None;
        // Whatever that line still does, also if it cannot be dropped, is fenced off by the next claim.
        let ended = tokio::time::timeout(DRAIN, attempt.ended()).await;
        let cause = ended.unwrap_or(Cause::Requested);
        self.ended(cause).await
    }

    /// The attempt is over: everything it said is heard, everything that hung on it is let go.
    pub(super) async fn ended(&mut self, cause: Cause) -> Result<(), Exit> {
        while let Some(event) = self
            .line
            .as_mut()
            .and_then(|open| open.told.try_recv().ok())
        {
            self.line_event(event).await?;
        }
        self.attempt = None;
        let was_online = self.online.is_some();
        self.stop_online().await?;
        self.permit = None;
        let cause = match cause {
            // Our own reason, given while the line was on its way out already.
            Cause::Requested if self.state.is_running() => Cause::Transient {
                code: None,
                detail: "the connection ended without a reason".into(),
            },
            cause => cause,
        };
        metrics::counter!("trunkline_disconnects_total", "cause" => cause_name(&cause))
            .increment(1);
        tracing::info!(
            cause = cause_name(&cause),
            was_online,
            "the connection ended"
        );
        self.last_cause = Some(cause.clone());
        self.feed(Input::Ended(cause)).await
    }

    /// Ends everything in good order; what is wanted of the session stays.
    pub(super) async fn shut_down(&mut self) -> Result<(), Exit> {
        self.ticket = None;
        self.close(None);
        if let Some(attempt) = &mut self.attempt {
            let patience = self.parts.fleet.config.close_timeout;
            let in_time = tokio::time::timeout(patience, attempt.ended())
                .await
                .is_ok();
            while let Some(event) = self
                .line
                .as_mut()
                .and_then(|open| open.told.try_recv().ok())
            {
                self.line_event(event).await?;
            }
            self.attempt = None;
            self.stop_online().await?;
            self.permit = None;
            return self.drop_line(in_time).await;
        }
        self.drop_line(true).await
    }
}
