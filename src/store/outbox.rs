//! A session's outbox: what was accepted for sending, and how far each message has come.
//!
//! A message is three rows: the message itself, complete as it goes on the wire; an entry under its
//! stanza id, for receipts and retry requests; and, while there is work to do, an entry in the queue.
//! States move one way, and each step updates the row and appends its event in one commit.

use bytes::Bytes;

use super::apply::{Applied, ApplyError, Change, MessageRef};
use super::engine::{RowError, Urgency};
use super::errors::{LookupError, StoreError, TransitionError};
use super::journal::Appended;
use super::key::{Hash, Kind};
use super::media::MediaStore;
use super::scope::{ATTEMPTS, Scope, Txn, TxnError};
use super::session::SessionStore;
use super::sweeper;
use crate::domain::clock::Timestamp;
use crate::domain::ids::MessageId;
use crate::domain::message::{FailureReason, MessageState, OutboundMessage};
use crate::domain::person::Person;

mod accept;
pub(super) mod ending;
mod listing;
mod rows;

pub use accept::{Enqueued, NewMessage};
pub use listing::{MAX_SCAN, QueueEntry, Range};
use rows::{FailureRow, MessageRow, StanzaRow, StepRow, message_id, state_number, state_of};

/// A step of a message towards its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Where it goes.
    pub to: MessageState,
    /// Why, when it failed.
    pub failure: Option<FailureReason>,
    /// When it happened.
    pub at: Timestamp,
}

impl Step {
    /// A step without a failure.
    pub fn to(to: MessageState, at: Timestamp) -> Self {
        Self {
            to,
            failure: None,
            at,
        }
    }
}

/// A session's outbox.
#[derive(Debug, Clone)]
pub struct Outbox {
    session: SessionStore,
}

impl Outbox {
    pub(super) fn new(session: SessionStore) -> Self {
        Self { session }
    }

    fn scope(&self) -> &Scope {
        self.session.scope()
    }

    fn row_key(&self, id: MessageId) -> Bytes {
        self.scope().key(Kind::Outbox).uuid(id.0).finish()
    }

    fn open_key(&self, seq: u64) -> Bytes {
        self.scope().key(Kind::OutboxOpen).u64(seq).finish()
    }

    fn stanza_key(&self, stanza_id: &str) -> Bytes {
        ending::stanza_key(self.scope(), stanza_id)
    }

    fn chat_hash(&self, to: &Person) -> Hash {
        self.scope().hash(&[b"chat", to.canonical().as_bytes()])
    }

    fn missing(id: MessageId) -> LookupError {
        LookupError::NotFound {
            what: format!("message {id}"),
        }
    }

    /// Reads a message.
    ///
    /// # Errors
    /// [`LookupError::NotFound`] when this session has no such message.
    pub async fn get(&self, id: MessageId) -> Result<OutboundMessage, LookupError> {
        let row: Option<MessageRow> = self.scope().get(&self.row_key(id)).await?;
        let row = row.ok_or_else(|| Self::missing(id))?;
        Ok(row.into_message(id)?)
    }

    /// Reads the message with this id on the wire, if it is one of ours.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn find_by_stanza(
        &self,
        stanza_id: &str,
    ) -> Result<Option<OutboundMessage>, StoreError> {
        let stanza: Option<StanzaRow> = self.scope().get(&self.stanza_key(stanza_id)).await?;
        let Some(stanza) = stanza else {
            return Ok(None);
        };
        let id = message_id(&stanza.id)?;
        match self.get(id).await {
            Ok(message) => Ok(Some(message)),
            Err(LookupError::NotFound { .. }) => Ok(None),
            Err(LookupError::Store(error)) => Err(error),
        }
    }

    /// Moves a message one step forward: the row and the status event are one commit.
    ///
    /// # Errors
    /// [`TransitionError::Illegal`] when it is not a step forward.
    pub async fn transition(
        &self,
        id: MessageId,
        step: Step,
    ) -> Result<(OutboundMessage, Appended), TransitionError> {
        let change = Change::Message {
            message: MessageRef::Id(id),
            step,
        };
        match self.session.apply(vec![change]).await {
            Ok(mut applied) => match applied.pop() {
                Some(Applied::Message { message, event }) => Ok((*message, event)),
                _ => Err(StoreError::Damaged("a transition had no outcome".into()).into()),
            },
            Err(ApplyError::Transition(error)) => Err(error),
            Err(ApplyError::Store(error)) => Err(error.into()),
        }
    }

    /// Completes a message whose file the provider has now: `encoded` is what goes on the wire, on every
    /// try. Durable on return. Whether it was still QUEUED;
    /// otherwise nothing changes.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn complete(&self, id: MessageId, encoded: Vec<u8>) -> Result<bool, StoreError> {
        let key = self.row_key(id);
        for _ in 0..ATTEMPTS {
            let mut txn = Txn::new(self.scope().engine.clone());
            let row: Option<MessageRow> = txn.get(self.scope(), &key).await?;
            let Some(mut row) = row else {
                return Ok(false);
            };
            if state_of(row.state)? != MessageState::Queued {
                return Ok(false);
            }
            row.encoded.clone_from(&encoded);
            row.awaits_upload = false;
            txn.put(self.scope(), key.clone(), &row)?;
            let to = row.to.clone().map(Person::from).unwrap_or_default();
            let open = row.open_row(id, self.chat_hash(&to));
            txn.put(self.scope(), self.open_key(row.seq), &open)?;
            match txn.commit().await {
                Ok(_) => return Ok(true),
                Err(TxnError::Conflict) => {}
                Err(TxnError::Store(error)) => return Err(error),
            }
        }
        Err(StoreError::Contended)
    }

    /// Counts one more hand-over to the wire, without waiting for the disk.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn count_attempt(&self, id: MessageId) -> Result<(), StoreError> {
        let key = self.row_key(id);
        let mut txn = Txn::new(self.scope().engine.clone());
        let (scope, at) = (self.scope().clone(), key.clone());
        txn.update_raw(
            key,
            Box::new(move |current| {
                let fail = |error: StoreError| RowError(error.to_string());
                let Some(sealed) = current else {
                    return Ok(None);
                };
                let mut row: MessageRow = scope.open(&at, sealed).map_err(fail)?;
                row.attempts = row.attempts.saturating_add(1);
                scope.seal(&at, &row).map(Some).map_err(fail)
            }),
        );
        self.scope()
            .engine
            .submit(txn.into_commit(), Urgency::Lazy)
            .await?;
        Ok(())
    }

    /// Resolves a reference inside a transaction.
    pub(super) async fn resolve_in(
        &self,
        txn: &mut Txn,
        message: &MessageRef,
    ) -> Result<Option<MessageId>, StoreError> {
        match message {
            MessageRef::Id(id) => Ok(Some(*id)),
            MessageRef::Stanza(stanza_id) => {
                let key = self.stanza_key(stanza_id);
                let row: Option<StanzaRow> = txn.get(self.scope(), &key).await?;
                row.map(|row| message_id(&row.id)).transpose()
            }
        }
    }

    /// Takes a step inside a transaction, if it is one.
    pub(super) async fn step_in(
        &self,
        txn: &mut Txn,
        id: MessageId,
        step: &Step,
    ) -> Result<OutboundMessage, TransitionError> {
        let key = self.row_key(id);
        let row: Option<MessageRow> = txn.get(self.scope(), &key).await?;
        let Some(mut row) = row else {
            return Err(TransitionError::NotFound {
                what: id.to_string(),
            });
        };
        let from = state_of(row.state)?;
        if !from.may_become(step.to) {
            return Err(TransitionError::Illegal { from, to: step.to });
        }
        row.state = state_number(step.to);
        row.history.push(StepRow {
            state: row.state,
            at: step.at.0,
        });
        if step.to == MessageState::Sending {
            row.attempts = row.attempts.saturating_add(1);
        }
        if let Some(failure) = &step.failure {
            row.failure = Some(FailureRow {
                reason: failure.reason.clone(),
                code: failure.code,
            });
        }
        if step.to.is_settled()
            && !from.is_settled()
            && let Some(media) = row.media_id()?
        {
            MediaStore::release_in(self.scope(), txn, media);
        }
        txn.put(self.scope(), key.clone(), &row)?;
        let open_key = self.open_key(row.seq);
        if step.to.is_settled() {
            txn.delete(open_key);
            if !from.is_settled() {
                let until = step.at.plus(ending::KEPT);
                let workspace = self.session.workspace();
                let (entry, value) =
                    sweeper::expiry_row(workspace, &key, self.session.number(), until)?;
                txn.put_raw(entry, value);
            }
        } else {
            let to = row.to.clone().map(Person::from).unwrap_or_default();
            let open = row.open_row(id, self.chat_hash(&to));
            txn.put(self.scope(), open_key, &open)?;
        }
        Ok(row.into_message(id)?)
    }

    /// Tries again while others change the same rows. For callers that build commits in a loop.
    pub(super) const ATTEMPTS: usize = ATTEMPTS;
}
