//! How a message's time on the wire ends: each outcome is one commit of row, event and, where the
//! provider limited us, signal.

use std::sync::Arc;
use std::time::Duration;

use super::sender::Ack;
use crate::domain::clock::Clock;
use crate::domain::event::{NewEvent, Payload};
use crate::domain::ids::MessageId;
use crate::domain::message::{FailureReason, MessageState, OutboundMessage};
use crate::session::holds::Holds;
use crate::store::{
    ApplyError, Change, MessageRef, QueueEntry, SessionStore, Step, StoreError, TransitionError,
};

/// The server refuses a first message to somebody new.
const REACHOUT_TIMELOCK: u32 = 463;
/// The account may not do that; of a message to a group: it is not in it.
const FORBIDDEN: u32 = 403;
/// The server asks for a pause.
const RATE_LIMITED: u32 = 429;

/// What the server decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Accepted,
    Refused,
}

/// Writes outcomes.
pub(crate) struct Settler {
    pub(crate) store: SessionStore,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) holds: Arc<Holds>,
    pub(crate) timelock: Duration,
    pub(crate) slow_down: Duration,
}

impl Settler {
    /// Takes over the server's answer. An answer for a stanza that is not a message of ours, or that
    /// was settled already, changes nothing.
    pub(super) async fn settle(&self, ack: &Ack) -> Result<Verdict, StoreError> {
        let Some(code) = ack.error else {
            let step = Step::to(MessageState::Sent, ack.at);
            self.apply(
                MessageRef::Stanza(ack.stanza_id.clone()),
                step,
                None,
                "sent",
            )
            .await?;
            return Ok(Verdict::Accepted);
        };
        let now = self.clock.now();
        let (reason, signal) = match code {
            REACHOUT_TIMELOCK => {
                let until = now.plus(self.timelock);
                self.holds.hold_new_chats(until);
                ("REACHOUT_TIMELOCK", Some(("REACHOUT_TIMELOCK", until)))
            }
            RATE_LIMITED => {
                let until = now.plus(self.slow_down);
                self.holds.hold_all(until);
                ("RATE_LIMITED", Some(("RATE_LIMITED", until)))
            }
            FORBIDDEN if self.is_to_group(&ack.stanza_id).await? => ("NOT_IN_GROUP", None),
            _ => ("SERVER_REFUSED", None),
        };
        let step = Step {
            to: MessageState::Failed,
            failure: Some(FailureReason {
                reason: reason.into(),
                code: Some(code),
            }),
            at: ack.at,
        };
        if signal.is_some() {
            self.holds.save(&self.store).await?;
        }
        let event = signal.map(|(signal, until)| NewEvent {
            at: now,
            dedup: None,
            payload: Payload::Signal {
                signal: signal.into(),
                code: Some(code),
                until: Some(until),
            },
        });
        tracing::warn!(code, reason, "the server refused a message");
        self.apply(
            MessageRef::Stanza(ack.stanza_id.clone()),
            step,
            event,
            "failed",
        )
        .await?;
        Ok(Verdict::Refused)
    }

    async fn is_to_group(&self, stanza_id: &str) -> Result<bool, StoreError> {
        let message = self.store.outbox().find_by_stanza(stanza_id).await?;
        Ok(message.is_some_and(|message| !message.to.is_individual()))
    }

    /// The message cannot go on the wire at all.
    pub(super) async fn fail(&self, id: MessageId, reason: &str) -> Result<(), StoreError> {
        let step = Step {
            to: MessageState::Failed,
            failure: Some(FailureReason {
                reason: reason.into(),
                code: None,
            }),
            at: self.clock.now(),
        };
        self.apply(MessageRef::Id(id), step, None, "failed").await
    }

    /// It was on the wire, and nobody will know.
    pub(super) async fn unknown(&self, message: &OutboundMessage) -> Result<(), StoreError> {
        let step = Step::to(MessageState::Unknown, self.clock.now());
        self.apply(MessageRef::Id(message.id), step, None, "unknown")
            .await
    }

    /// Its deadline passed before it was acknowledged: EXPIRED if it never touched the wire, UNKNOWN if
    /// it did on an earlier connection.
    pub(super) async fn expire(&self, entry: &QueueEntry) -> Result<(), StoreError> {
        let (to, outcome) = match entry.state {
            MessageState::Sending => (MessageState::Unknown, "unknown"),
            _ => (MessageState::Expired, "expired"),
        };
        let step = Step {
            to,
            failure: Some(FailureReason {
                reason: "EXPIRED".into(),
                code: None,
            }),
            at: self.clock.now(),
        };
        self.apply(MessageRef::Id(entry.id), step, None, outcome)
            .await
    }

    async fn apply(
        &self,
        message: MessageRef,
        step: Step,
        event: Option<NewEvent>,
        outcome: &'static str,
    ) -> Result<(), StoreError> {
        let mut changes = vec![Change::Message { message, step }];
        changes.extend(event.clone().map(Change::Event));
        match self.store.apply(changes).await {
            Ok(_) => {
                metrics::counter!("trunkline_outbound_total", "outcome" => outcome).increment(1);
                Ok(())
            }
            Err(
                ApplyError::Store(error) | ApplyError::Transition(TransitionError::Store(error)),
            ) => Err(error),
            // Somebody was faster: a receipt, a cancellation, an earlier answer. The signal still counts.
            Err(ApplyError::Transition(
                error @ (TransitionError::NotFound { .. } | TransitionError::Illegal { .. }),
            )) => {
                if outcome == "sent" && is_overtaken(&error) {
                    metrics::counter!("trunkline_outbound_total", "outcome" => outcome)
                        .increment(1);
                }
                match event {
                    Some(event) => self.announce(event).await,
                    None => Ok(()),
                }
            }
        }
    }

    async fn announce(&self, event: NewEvent) -> Result<(), StoreError> {
        match self.store.apply(vec![Change::Event(event)]).await {
            Ok(_)
            | Err(ApplyError::Transition(
                TransitionError::NotFound { .. } | TransitionError::Illegal { .. },
            )) => Ok(()),
            Err(
                ApplyError::Store(error) | ApplyError::Transition(TransitionError::Store(error)),
            ) => Err(error),
        }
    }
}

/// Whether a receipt came before the server's answer: the message was sent all the same.
fn is_overtaken(error: &TransitionError) -> bool {
    use MessageState::{Delivered, Played, Read};
    matches!(
        error,
        TransitionError::Illegal {
            from: Delivered | Read | Played,
            ..
        }
    )
}
