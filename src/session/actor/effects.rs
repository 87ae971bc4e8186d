//! Performing what the state machine asks for.

use std::sync::Arc;

use super::{Actor, Exit};
use crate::domain::event::{NewEvent, Payload};
use crate::domain::session::{Cause, Connection};
use crate::session::admission::Urgency;
use crate::session::mailbox::{CommandError, PairingUpdate};
use crate::session::state::{Effect, Facts, Goal, PairingStep, Phase};
use crate::session::status::SessionStatus;
use crate::store::{ApplyError, Change, SessionRecord, StoreError, UpdateError};

/// How recent traffic has to be for a session to count as busy.
const BUSY: std::time::Duration = std::time::Duration::from_hours(1);

impl From<&SessionRecord> for Facts {
    fn from(record: &SessionRecord) -> Self {
        Self {
            desired: record.desired,
            login: record.login,
            pairing_unconfirmed: record.pairing_unconfirmed,
            initial_sync_owed: record.initial_sync_owed,
            halt: record.halt,
        }
    }
}

impl Actor {
    /// Performs effects in order. Neighbouring changes of the store are one commit.
    pub(super) async fn perform(&mut self, effects: Vec<Effect>) -> Result<(), Exit> {
        let mut changes = Vec::new();
        for effect in effects {
            match effect {
                Effect::Persist(facts) => changes.push(self.persist(&facts)),
                Effect::Announce(cause) => {
                    changes.push(self.event(Payload::SessionState {
                        connection: self.state.connection(),
                        login: self.state.facts().login,
                        cause: cause.clone(),
                    }));
                    self.log(cause.as_ref());
                }
                Effect::Pairing(step) => {
                    changes.push(self.event(pairing_event(&step, self.account.clone())));
                    // The phone's answer is told when it is on disk.
                    self.commit(&mut changes).await?;
                    self.tell_pairing(&step);
                }
                Effect::Limited {
                    signal,
                    code,
                    until,
                } => changes.push(self.event(Payload::Signal {
                    signal: signal.into(),
                    code,
                    until,
                })),
                other => {
                    self.commit(&mut changes).await?;
                    self.act(other).await?;
                }
            }
        }
        self.commit(&mut changes).await?;
        self.publish();
        Ok(())
    }

    async fn act(&mut self, effect: Effect) -> Result<(), Exit> {
        match effect {
            Effect::Wipe => self.wipe().await?,
            Effect::Rebuild => self.drop_line(self.ended_well()).await?,
            Effect::Admit => {
                let urgency = self.urgency().await?;
                self.ticket = Some(self.parts.fleet.admission.ask(urgency));
            }
            Effect::Withdraw => self.ticket = None,
            Effect::Run(goal) => self.run_attempt(&goal).await?,
            Effect::Unlink => self.unlink(),
            Effect::Close => self.close(None),
            Effect::Report(outcome) => self.parts.fleet.admission.report(&outcome),
            Effect::Persist(_)
            | Effect::Announce(_)
            | Effect::Pairing(_)
            | Effect::Limited { .. } => {}
        }
        Ok(())
    }

    /// Deletes the credentials. The line goes first, and its late writes are fenced off.
    async fn wipe(&mut self) -> Result<(), Exit> {
        self.drop_line(false).await?;
        self.store = self.parts.store.claim().await?;
        self.store.keys().wipe().await?;
        self.parts.cell.holds.clear();
        self.account = None;
        self.linked_at = None;
        tracing::info!("the session's credentials were deleted");
        Ok(())
    }

    /// Tells the provider to forget the device, then closes; does not wait for it.
    fn unlink(&mut self) {
        let line = self.line.as_ref().map(|open| Arc::clone(&open.line));
        let patience = self.parts.fleet.config.close_timeout;
        if let Some(line) = line {
            let stop = self
                .attempt
                .as_ref()
                .map(super::attempt::Attempt::stop_token);
            self.parts.tasks.spawn(async move {
                if tokio::time::timeout(patience, line.logout()).await.is_err() {
                    tracing::warn!("the provider did not answer the logout in time");
                }
                if let Some(stop) = stop {
                    stop.cancel();
                }
            });
        }
        self.close_after(patience * 2);
    }

    fn persist(&mut self, facts: &Facts) -> Change {
        if self.linked_at.is_none() && facts.login == crate::domain::session::Login::Paired {
            self.linked_at = Some(self.now());
        }
        let (facts, account, linked_at) = (facts.clone(), self.account.clone(), self.linked_at);
        Change::Session(Box::new(move |record| {
            record.desired = facts.desired;
            record.login = facts.login;
            record.pairing_unconfirmed = facts.pairing_unconfirmed;
            record.initial_sync_owed = facts.initial_sync_owed;
            record.halt = facts.halt;
            record.account.clone_from(&account);
            record.linked_at = linked_at;
        }))
    }

    /// Remembers whether the line was let go in good order, if that is news.
    pub(super) async fn set_stopped_cleanly(&mut self, cleanly: bool) -> Result<(), Exit> {
        if self.stopped_cleanly == cleanly {
            return Ok(());
        }
        self.stopped_cleanly = cleanly;
        let edit = Change::Session(Box::new(move |record| record.stopped_cleanly = cleanly));
        self.commit(&mut vec![edit]).await
    }

    /// Journals a payload of this session.
    pub(super) fn event(&self, payload: Payload) -> Change {
        Change::Event(NewEvent {
            at: self.now(),
            payload,
            dedup: None,
        })
    }

    /// Makes changes durable, and empties the list.
    pub(super) async fn commit(&mut self, changes: &mut Vec<Change>) -> Result<(), Exit> {
        if changes.is_empty() {
            return Ok(());
        }
        match self.store.apply(std::mem::take(changes)).await {
            Ok(_) => Ok(()),
            Err(ApplyError::Store(error)) => Err(error.into()),
            Err(ApplyError::Transition(error)) => {
                Err(Exit::Failed(StoreError::Damaged(error.to_string())))
            }
        }
    }

    /// Makes what is wanted durable, provided that the record still has the etag `expected`.
    pub(super) async fn commit_wish(
        &mut self,
        expected: &str,
    ) -> Result<Result<(), CommandError>, Exit> {
        let desired = self.state.facts().desired;
        let name = self.store.name();
        let sessions = self.store.workspace().sessions();
        let wish = sessions.update(&name.session, Some(expected), |record| {
            record.desired = desired;
        });
        match wish.await {
            Ok(_) => Ok(Ok(())),
            Err(UpdateError::EtagMismatch { .. }) => Ok(Err(CommandError::EtagMismatch)),
            Err(UpdateError::Store(error)) => Err(error.into()),
            Err(UpdateError::NotFound { .. } | UpdateError::BuiltIn { .. }) => Err(Exit::Gone),
        }
    }

    async fn urgency(&self) -> Result<Urgency, Exit> {
        if matches!(self.state.phase(), Phase::Asking(Goal::Pair(_))) || self.pairing.is_some() {
            return Ok(Urgency::Interactive);
        }
        let recent = self
            .last_online
            .is_some_and(|at| self.now().since(at) < BUSY);
        if recent || !self.store.outbox().queue(0, 1).await?.is_empty() {
            return Ok(Urgency::Busy);
        }
        Ok(Urgency::Idle)
    }

    fn tell_pairing(&mut self, step: &PairingStep) {
        let account = self.account.clone();
        let (update, is_last) = match step {
            PairingStep::Started => return,
            PairingStep::Succeeded => (PairingUpdate::Paired { account }, false),
            PairingStep::Confirmed => (PairingUpdate::Confirmed { account }, true),
            PairingStep::Expired => (PairingUpdate::Expired, true),
            PairingStep::Failed { reason } => (
                PairingUpdate::Failed {
                    reason: reason.clone(),
                },
                true,
            ),
        };
        self.update_pairing(update);
        if is_last {
            self.pairing = None;
        }
    }

    /// Tells whoever pairs. One who does not listen any more has gone away.
    pub(super) fn update_pairing(&mut self, update: PairingUpdate) {
        if let Some(updates) = &self.pairing
            && updates.try_send(update).is_err()
        {
            tracing::debug!("whoever asked for the pairing does not listen");
        }
    }

    fn ended_well(&self) -> bool {
        !matches!(
            self.last_cause,
            Some(Cause::StoreFailed { .. } | Cause::Internal { .. })
        )
    }

    fn log(&self, cause: Option<&Cause>) {
        let connection = self.state.connection();
        let cause = cause.map_or("", |cause| crate::session::state::cause_name(cause));
        match connection {
            Connection::Failed { .. }
            | Connection::Banned { .. }
            | Connection::Replaced
            | Connection::LoggedOut
            | Connection::Outdated => {
                tracing::warn!(state = connection.name(), cause, "session state");
            }
            _ => tracing::info!(state = connection.name(), cause, "session state"),
        }
    }

    /// The session as it is seen from outside.
    pub(super) fn snapshot(&self) -> SessionStatus {
        self.parts.cell.status(self.now())
    }

    /// Shows the present state to everybody.
    pub(super) fn publish(&self) {
        let now = self.now();
        let elapsed = self.elapsed();
        let next_attempt = self
            .state
            .wake_at()
            .map(|at| now.plus(at.saturating_sub(elapsed)));
        let traffic = self.line.as_ref().map(|open| open.line.traffic());
        self.parts.cell.status.send_modify(|status| {
            let facts = self.state.facts();
            status.desired = facts.desired;
            status.connection = self.state.connection();
            status.login = facts.login;
            status.account.clone_from(&self.account);
            status.pairing_unconfirmed = facts.pairing_unconfirmed;
            status.since = self.since;
            status.last_cause.clone_from(&self.last_cause);
            status.last_online = self.last_online.or(status.last_online);
            status.next_attempt = next_attempt;
            if let Some(traffic) = traffic {
                status.traffic = traffic;
            }
        });
    }
}

fn pairing_event(step: &PairingStep, account: Option<crate::domain::person::Person>) -> Payload {
    let (name, reason) = match step {
        PairingStep::Started => ("started", None),
        PairingStep::Succeeded => ("succeeded", None),
        PairingStep::Confirmed => ("confirmed", None),
        PairingStep::Expired => ("expired", None),
        PairingStep::Failed { reason } => ("failed", Some(reason.clone())),
    };
    Payload::Pairing {
        step: name.into(),
        reason,
        account,
    }
}
