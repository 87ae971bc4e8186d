//! One session's actor: one task that owns the line and turns what happens into effects.
//!
//! It decides nothing: [`super::state`] does. It performs effects in order, persists facts before what
//! depends on them, and never lets two attempts overlap. Everything it starts (the attempt, the sender,
//! probes, the sink's writer) runs in tasks of its own, so that a panic in any of them is an input and
//! not the end; when the actor itself panics, the keeper builds a new one from what is stored.

mod attempt;
mod effects;
mod online;
mod signals;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::task::TaskTracker;

use self::attempt::{Attempt, OpenLine};
use self::online::Online;
use super::admission::{Permit, Ticket};
use super::fleet::Fleet;
use super::inbound::LineEvent;
use super::mailbox::{CommandError, Message, PairingUpdate, Verb};
use super::state::{Facts, Illegal, Input, Now, State};
use super::status::Cell;
use crate::domain::clock::Timestamp;
use crate::domain::person::Person;
use crate::domain::session::Cause;
use crate::provider::contract::{FetchError, Line, Provider, SendError};
use crate::store::{LookupError, SessionStore, StoreError};

/// What an incarnation of an actor is made of.
pub(super) struct Parts {
    pub(super) fleet: Arc<Fleet>,
    pub(super) cell: Arc<Cell>,
    pub(super) provider: Arc<dyn Provider>,
    /// A handle that owns nothing yet.
    pub(super) store: SessionStore,
    pub(super) tasks: TaskTracker,
    /// The session was made by this process: nothing was announced of it before.
    pub(super) new: bool,
    /// Crashes of earlier incarnations in a row, and the last one's reason.
    pub(super) crashes: (u32, String),
}

/// Why an incarnation ended without panicking.
#[derive(Debug)]
pub(super) enum Exit {
    /// It was told to.
    Shutdown,
    /// The session was deleted, or somebody else owns it now.
    Gone,
    /// The store failed it.
    Failed(StoreError),
}

impl From<StoreError> for Exit {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Fenced { .. } | StoreError::Gone => Self::Gone,
            other => Self::Failed(other),
        }
    }
}

/// One session's actor. See the module documentation.
pub(super) struct Actor {
    parts: Parts,
    /// The handle that owns the session; renewed with each line.
    store: SessionStore,
    state: State,
    account: Option<Person>,
    linked_at: Option<Timestamp>,
    stopped_cleanly: bool,
    /// Why the attempt just begun is over already: its line could not be opened.
    stillborn: Option<Cause>,
    line: Option<OpenLine>,
    attempt: Option<Attempt>,
    ticket: Option<Ticket>,
    permit: Option<Permit>,
    online: Option<Online>,
    pairing: Option<mpsc::Sender<PairingUpdate>>,
    /// Whether the workspace has no room for what would arrive.
    full: watch::Receiver<bool>,
    since: Timestamp,
    last_cause: Option<Cause>,
    last_online: Option<Timestamp>,
    /// When to look after the outbox, in monotonic time, unless a sender does.
    upkeep_at: Duration,
    /// Whether the outbox was looked at since the actor began.
    looked_after: bool,
}

/// What the loop woke up for.
enum Event {
    Told(Option<Message>),
    Line(Option<LineEvent>),
    Admitted(Permit),
    Ended(Cause),
    AttemptOverdue,
    Online(online::Event),
    PairingAbandoned,
    /// The workspace became full, or has room again.
    Full,
    Timer,
    Upkeep,
}

/// How often an outbox that cannot be sent from is looked after.
const UPKEEP: Duration = Duration::from_secs(30);

impl Actor {
    /// Lives until told to shut down, or until something goes wrong.
    pub(super) async fn live(parts: Parts, mailbox: &mut mpsc::Receiver<Message>) -> Exit {
        let mut actor = match Self::load(parts).await {
            Ok(actor) => actor,
            Err(exit) => return exit,
        };
        match actor.serve(mailbox).await {
            Ok(exit) | Err(exit) => exit,
        }
    }

    async fn load(parts: Parts) -> Result<Self, Exit> {
        let store = parts.store.claim().await?;
        let record = match store.record().await {
            Ok(record) => record,
            Err(LookupError::NotFound { .. }) => return Err(Exit::Gone),
            Err(LookupError::Store(error)) => return Err(error.into()),
        };
        let facts = Facts::from(&record);
        let state = if parts.new {
            State::new(facts)
        } else {
            State::restored(facts)
        };
        parts.cell.holds.load(&store).await?;
        let full = store.workspace().full();
        let (now, elapsed) = (parts.fleet.clock.now(), parts.fleet.clock.elapsed());
        Ok(Self {
            parts,
            store,
            state,
            account: record.account,
            linked_at: record.linked_at,
            stopped_cleanly: record.stopped_cleanly,
            stillborn: None,
            line: None,
            attempt: None,
            ticket: None,
            permit: None,
            online: None,
            pairing: None,
            full,
            since: now,
            last_cause: None,
            last_online: None,
            upkeep_at: elapsed,
            looked_after: false,
        })
    }

    async fn serve(&mut self, mailbox: &mut mpsc::Receiver<Message>) -> Result<Exit, Exit> {
        let (crashes, reason) = self.parts.crashes.clone();
        let full = *self.full.borrow_and_update();
        let boot = Input::Boot {
            crashes,
            reason,
            full,
        };
        self.feed(boot).await?;
        loop {
            while let Some(cause) = self.stillborn.take() {
                self.ended(cause).await?;
            }
            match self.next(mailbox).await {
                Event::Told(None) => {
                    self.shut_down().await?;
                    return Ok(Exit::Shutdown);
                }
                Event::Told(Some(Message::Shutdown(done))) => {
                    self.shut_down().await?;
                    // Whoever asked may have given up waiting.
                    let _ = done.send(());
                    return Ok(Exit::Shutdown);
                }
                Event::Told(Some(message)) => self.told(message).await?,
                Event::Line(Some(event)) => self.line_event(event).await?,
                // The line let go of its sink; its attempt will end.
                Event::Line(None) => {}
                Event::Admitted(permit) => {
                    self.ticket = None;
                    self.permit = Some(permit);
                    self.feed(Input::Admitted).await?;
                }
                Event::Ended(cause) => self.ended(cause).await?,
                Event::AttemptOverdue => self.attempt_overdue().await?,
                Event::Online(event) => self.online_event(event)?,
                Event::PairingAbandoned => {
                    self.pairing = None;
                    self.feed(Input::CancelPairing).await?;
                }
                Event::Full => self.room_changed().await?,
                Event::Timer => self.feed(Input::Timer).await?,
                Event::Upkeep => self.upkeep().await?,
            }
        }
    }

    async fn next(&mut self, mailbox: &mut mpsc::Receiver<Message>) -> Event {
        let elapsed = self.parts.fleet.clock.elapsed();
        let timer = self.state.wake_at().map(|at| at.saturating_sub(elapsed));
        let overdue = self
            .attempt
            .as_ref()
            .and_then(Attempt::deadline)
            .map(|at| at.saturating_sub(elapsed));
        let upkeep = (self.online.is_none()).then(|| self.upkeep_at.saturating_sub(elapsed));
        tokio::select! {
            biased;
            // What the line said comes before its end, so that nothing it said is lost.
            event = line_event(&mut self.line) => Event::Line(event),
            cause = ended(&mut self.attempt) => Event::Ended(cause),
            // A command must find it known.
            Ok(()) = self.full.changed() => Event::Full,
            message = mailbox.recv() => Event::Told(message),
            permit = granted(&mut self.ticket) => Event::Admitted(permit),
            event = online::next(&mut self.online, elapsed) => Event::Online(event),
            () = abandoned(self.pairing.as_ref()) => Event::PairingAbandoned,
            () = sleep(overdue) => Event::AttemptOverdue,
            () = sleep(timer) => Event::Timer,
            () = sleep(upkeep) => Event::Upkeep,
        }
    }

    /// The workspace became full, or has room again.
    async fn room_changed(&mut self) -> Result<(), Exit> {
        let full = *self.full.borrow_and_update();
        self.feed(if full { Input::Full } else { Input::Room })
            .await
    }

    async fn told(&mut self, message: Message) -> Result<(), Exit> {
        match message {
            Message::Command {
                verb,
                expected,
                reply,
            } => {
                let input = match verb {
                    Verb::Start => Input::Start,
                    Verb::Stop => Input::Stop,
                    Verb::Restart => Input::Restart,
                    Verb::Logout => Input::Logout,
                };
                let outcome = self.command(input, expected.as_deref()).await?;
                // Whoever asked may have gone; the command stands.
                let _ = reply.send(outcome.map(|()| self.snapshot()));
            }
            Message::Pair {
                mode,
                updates,
                reply,
            } => {
                let before = self.pairing.replace(updates);
                let outcome = self.command(Input::Pair(mode), None).await?;
                if outcome.is_err() {
                    self.pairing = before;
                }
                let _ = reply.send(outcome.map(|()| self.snapshot()));
            }
            Message::MarkRead {
                chat,
                sender,
                stanza_ids,
                reply,
            } => {
                let Some(line) = self.online_line() else {
                    let _ = reply.send(Err(SendError::NotConnected));
                    return Ok(());
                };
                self.parts.tasks.spawn(async move {
                    let outcome = line.mark_read(&chat, &sender, &stanza_ids).await;
                    let _ = reply.send(outcome);
                });
            }
            Message::Fetch { raw, mut reply } => {
                let Some(line) = self.online_line() else {
                    let _ = reply.send(Err(FetchError::NotConnected));
                    return Ok(());
                };
                self.parts.tasks.spawn(async move {
                    tokio::select! {
                        outcome = line.fetch(&raw) => {
                            let _ = reply.send(outcome);
                        }
                        // Nobody wants it any more.
                        () = reply.closed() => {}
                    }
                });
            }
            Message::Groups { reply } => self.tell_groups(reply),
            Message::Shutdown(done) => {
                let _ = done.send(());
            }
        }
        Ok(())
    }

    /// The line, while the session is online.
    fn online_line(&self) -> Option<Arc<dyn Line>> {
        let open = self.line.as_ref().filter(|_| self.online.is_some())?;
        Some(Arc::clone(&open.line))
    }

    /// Does what a command asks. With an etag, the wish is first committed against it: whoever changed the
    /// record before wins, and nothing has been done yet.
    async fn command(
        &mut self,
        input: Input,
        expected: Option<&str>,
    ) -> Result<Result<(), CommandError>, Exit> {
        let (before, since) = (self.state.clone(), self.since);
        let effects = match self.step(input) {
            Ok(effects) => effects,
            Err(illegal) => return Ok(Err(CommandError::Illegal(illegal))),
        };
        if let Some(expected) = expected
            && let Err(refused) = self.commit_wish(expected).await?
        {
            (self.state, self.since) = (before, since);
            return Ok(Err(refused));
        }
        self.perform(effects).await?;
        Ok(Ok(()))
    }

    /// Feeds an input that cannot be illegal.
    async fn feed(&mut self, input: Input) -> Result<(), Exit> {
        match self.step(input) {
            Ok(effects) => self.perform(effects).await,
            Err(illegal) => {
                tracing::error!(%illegal, "an input that is not a command was refused");
                Ok(())
            }
        }
    }

    fn step(&mut self, input: Input) -> Result<Vec<super::state::Effect>, Illegal> {
        let fleet = &self.parts.fleet;
        let now = Now {
            wall: fleet.clock.now(),
            elapsed: fleet.clock.elapsed(),
        };
        let before = self.state.connection();
        let (next, effects) = self
            .state
            .step(input, now, &fleet.config.rules, &fleet.entropy)?;
        self.state = next;
        if self.state.connection() != before {
            self.since = now.wall;
        }
        Ok(effects)
    }

    fn now(&self) -> Timestamp {
        self.parts.fleet.clock.now()
    }

    fn elapsed(&self) -> Duration {
        self.parts.fleet.clock.elapsed()
    }
}

async fn line_event(line: &mut Option<OpenLine>) -> Option<LineEvent> {
    match line {
        Some(open) if !open.is_silent => {
            let event = open.told.recv().await;
            open.is_silent = event.is_none();
            event
        }
        _ => std::future::pending().await,
    }
}

async fn ended(attempt: &mut Option<Attempt>) -> Cause {
    match attempt {
        Some(attempt) => attempt.ended().await,
        None => std::future::pending().await,
    }
}

async fn granted(ticket: &mut Option<Ticket>) -> Permit {
    match ticket {
        Some(ticket) => ticket.granted().await,
        None => std::future::pending().await,
    }
}

async fn abandoned(pairing: Option<&mpsc::Sender<PairingUpdate>>) {
    match pairing {
        Some(updates) => updates.closed().await,
        None => std::future::pending().await,
    }
}

async fn sleep(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}
