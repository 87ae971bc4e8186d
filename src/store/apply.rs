//! Several changes of one session as one commit.
//!
//! What belongs together is written together: a receipt and the messages it moves, a pairing and the
//! event that reports it. [`SessionStore::apply`] takes a list of
//! changes and makes all of them durable, or none.

use bytes::Bytes;
use thiserror::Error;

use super::dedup::Claims;
use super::errors::{StoreError, TransitionError};
use super::journal::{Appended, Queued, Subject};
use super::outbox::{Outbox, Step};
use super::path;
use super::scope::{Txn, TxnError};
use super::session::SessionStore;
use super::sessions::SessionRecord;
use super::usage::Counters;
use super::workspace::WorkspaceStore;
use crate::domain::clock::Timestamp;
use crate::domain::event::{DedupKey, NewEvent, Payload, ReceiptKind};
use crate::domain::ids::MessageId;
use crate::domain::message::{MessageState, OutboundMessage};
use crate::domain::person::Person;

/// Which message is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MessageRef {
    /// By our id.
    Id(MessageId),
    /// By its id on the wire.
    Stanza(String),
}

/// A receipt that arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiptArrival {
    /// The conversation.
    pub chat: Person,
    /// Who sent it.
    pub from: Person,
    /// Stanza ids it covers.
    pub stanza_ids: Vec<String>,
    /// What it says.
    pub kind: ReceiptKind,
    /// The provider's time of it.
    pub at: Timestamp,
    /// How to recognise a repetition.
    pub dedup: Option<DedupKey>,
    /// When it arrived, by our clock.
    pub received_at: Timestamp,
}

/// Edits a session's record; may run more than once, each time on the newest content.
pub type EditSession = Box<dyn FnMut(&mut SessionRecord) + Send>;

/// One of the changes that happen together.
pub enum Change {
    /// Journals an event, unless it is a repetition.
    Event(NewEvent),
    /// Journals a receipt, unless it is a repetition, and moves the messages it covers forward.
    /// Stanza ids that are not ours, and messages that are further already, are left alone.
    Receipt(ReceiptArrival),
    /// Moves a message one step and journals the step.
    Message {
        /// Which one.
        message: MessageRef,
        /// The step.
        step: Step,
    },
    /// Changes the session's record.
    Session(EditSession),
}

impl std::fmt::Debug for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Event(_) => "Event",
            Self::Receipt(_) => "Receipt",
            Self::Message { .. } => "Message",
            Self::Session(_) => "Session",
        })
    }
}

/// What became of a change, in the order of the changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// Of [`Change::Event`].
    Event(Appended),
    /// Of [`Change::Receipt`].
    Receipt {
        /// The receipt's own event.
        event: Appended,
        /// The messages it moved, each with its status event.
        moved: Vec<(OutboundMessage, Appended)>,
    },
    /// Of [`Change::Message`].
    Message {
        /// The message as it is now.
        message: Box<OutboundMessage>,
        /// Its status event.
        event: Appended,
    },
    /// Of [`Change::Session`].
    Session(Box<SessionRecord>),
}

/// Why nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ApplyError {
    /// A message could not take its step.
    #[error(transparent)]
    Transition(TransitionError),
    /// The store failed, or the session is gone or taken over.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<TransitionError> for ApplyError {
    fn from(error: TransitionError) -> Self {
        match error {
            TransitionError::Store(store) => Self::Store(store),
            other => Self::Transition(other),
        }
    }
}

/// A change inside a transaction, waiting for its revisions.
enum Draft {
    Event(Queued),
    Receipt(Queued, Vec<(OutboundMessage, Queued)>),
    Message(Box<OutboundMessage>, Queued),
    Session(Box<SessionRecord>),
}

impl Draft {
    fn settle(self, revisions: &[u64]) -> Applied {
        match self {
            Self::Event(queued) => Applied::Event(queued.settle(revisions)),
            Self::Receipt(event, moved) => Applied::Receipt {
                event: event.settle(revisions),
                moved: moved
                    .into_iter()
                    .map(|(message, queued)| (message, queued.settle(revisions)))
                    .collect(),
            },
            Self::Message(message, queued) => Applied::Message {
                message,
                event: queued.settle(revisions),
            },
            Self::Session(record) => Applied::Session(record),
        }
    }
}

impl SessionStore {
    /// Makes all changes durable, or none, in order. Safe to repeat: repetitions of events are
    /// recognised.
    ///
    /// # Errors
    /// [`ApplyError::Transition`] names a message that could not take its step;
    /// [`StoreError::Fenced`] says that another owner took over.
    pub async fn apply(&self, mut changes: Vec<Change>) -> Result<Vec<Applied>, ApplyError> {
        self.check_owner()?;
        let mut claims = Claims::default();
        for _ in 0..Outbox::ATTEMPTS {
            let mut txn = Txn::new(self.scope().engine.clone());
            txn.fence(self.fence());
            let mut drafts = Vec::with_capacity(changes.len());
            for change in &mut changes {
                drafts.push(self.draft(&mut txn, change, &mut claims).await?);
            }
            match txn.commit().await {
                Ok(committed) => {
                    let settle = |draft: Draft| draft.settle(&committed.revisions);
                    let applied: Vec<Applied> = drafts.into_iter().map(settle).collect();
                    path::tell(self, &changes, &applied);
                    return Ok(applied);
                }
                Err(TxnError::Conflict) => claims = Claims::careful(),
                Err(TxnError::Store(error)) => return Err(error.into()),
            }
        }
        Err(StoreError::Contended.into())
    }

    async fn draft(
        &self,
        txn: &mut Txn,
        change: &mut Change,
        claims: &mut Claims,
    ) -> Result<Draft, ApplyError> {
        match change {
            Change::Event(event) => {
                let queued = self.journal_in(txn, event, claims).await?;
                if is_new_arrival(&queued, &event.payload) {
                    self.count(
                        txn,
                        Counters {
                            received: 1,
                            ..Counters::default()
                        },
                    );
                }
                Ok(Draft::Event(queued))
            }
            Change::Receipt(receipt) => self.receipt(txn, receipt, claims).await,
            Change::Message { message, step } => {
                let outbox = self.outbox();
                let Some(id) = outbox.resolve_in(txn, message).await? else {
                    return Err(ApplyError::Transition(TransitionError::NotFound {
                        what: format!("{message:?}"),
                    }));
                };
                let (message, queued) = self.step(txn, id, step, claims).await?;
                Ok(Draft::Message(Box::new(message), queued))
            }
            Change::Session(edit) => {
                let sessions = self.workspace().sessions();
                let Some(mut record) = sessions.read_in(txn, self.id()).await? else {
                    return Err(StoreError::Gone.into());
                };
                edit(&mut record);
                sessions.write_in(txn, self.id(), &mut record).await?;
                Ok(Draft::Session(Box::new(record)))
            }
        }
    }

    async fn journal_in(
        &self,
        txn: &mut Txn,
        event: &NewEvent,
        claims: &mut Claims,
    ) -> Result<Queued, StoreError> {
        let session = Subject::Session(self.id(), self.number());
        self.workspace()
            .journal()
            .append_in(txn, session, event, claims)
            .await
    }

    async fn receipt(
        &self,
        txn: &mut Txn,
        receipt: &ReceiptArrival,
        claims: &mut Claims,
    ) -> Result<Draft, ApplyError> {
        let event = NewEvent {
            at: receipt.received_at,
            payload: Payload::Receipt {
                chat: receipt.chat.clone(),
                from: receipt.from.clone(),
                stanza_ids: receipt.stanza_ids.clone(),
                kind: receipt.kind,
                at: receipt.at,
            },
            dedup: receipt.dedup.clone(),
        };
        let queued = self.journal_in(txn, &event, claims).await?;
        let mut moved = Vec::new();
        // A repetition changes nothing: what it moved was moved with the first.
        let state = reached(receipt.kind).filter(|_| matches!(queued, Queued::New { .. }));
        if let Some(state) = state {
            for stanza_id in &receipt.stanza_ids {
                let message = MessageRef::Stanza(stanza_id.clone());
                let Some(id) = self.outbox().resolve_in(txn, &message).await? else {
                    continue;
                };
                let step = Step::to(state, receipt.at);
                match self.step(txn, id, &step, claims).await {
                    Ok(step) => moved.push(step),
                    Err(ApplyError::Transition(_)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(Draft::Receipt(queued, moved))
    }

    async fn step(
        &self,
        txn: &mut Txn,
        id: MessageId,
        step: &Step,
        claims: &mut Claims,
    ) -> Result<(OutboundMessage, Queued), ApplyError> {
        let message = self.outbox().step_in(txn, id, step).await?;
        let event = NewEvent {
            at: self.workspace().now(),
            payload: Payload::MessageStatus {
                message_id: id,
                stanza_id: message.stanza_id.clone(),
                to: message.to.clone(),
                state: step.to,
                failure: step.failure.clone(),
            },
            dedup: None,
        };
        let queued = self.journal_in(txn, &event, claims).await?;
        self.count(txn, counted(step.to));
        Ok((message, queued))
    }

    fn count(&self, txn: &mut Txn, counters: Counters) {
        self.workspace().usage().add_in(txn, self.id(), counters);
    }
}

/// Appends events that belong to no session: for all, or for one subscription by its number.
pub(super) async fn append_events(
    workspace: &WorkspaceStore,
    events: Vec<NewEvent>,
    subscription: u64,
) -> Result<Vec<Appended>, StoreError> {
    let subject = match subscription {
        0 => Subject::Workspace,
        number => Subject::Subscription(number),
    };
    let mut claims = Claims::default();
    for _ in 0..Outbox::ATTEMPTS {
        let mut txn = Txn::new(workspace.0.context.engine.clone());
        let mut drafts = Vec::with_capacity(events.len());
        for event in &events {
            let queued = workspace
                .journal()
                .append_in(&mut txn, subject, event, &mut claims)
                .await?;
            drafts.push(queued);
        }
        match txn.commit().await {
            Ok(committed) => {
                let settle = |queued: Queued| queued.settle(&committed.revisions);
                return Ok(drafts.into_iter().map(settle).collect());
            }
            Err(TxnError::Conflict) => claims = Claims::careful(),
            Err(TxnError::Store(error)) => return Err(error),
        }
    }
    Err(StoreError::Contended)
}

fn is_new_arrival(queued: &Queued, payload: &Payload) -> bool {
    let from_others = matches!(payload, Payload::Message { message, .. } if !message.from_me);
    from_others && matches!(queued, Queued::New { .. })
}

/// The state a receipt proves.
fn reached(kind: ReceiptKind) -> Option<MessageState> {
    match kind {
        ReceiptKind::Delivered => Some(MessageState::Delivered),
        ReceiptKind::Read => Some(MessageState::Read),
        ReceiptKind::Played => Some(MessageState::Played),
        ReceiptKind::ReadSelf | ReceiptKind::Other => None,
    }
}

fn counted(state: MessageState) -> Counters {
    let mut counters = Counters::default();
    match state {
        MessageState::Sent => counters.sent = 1,
        MessageState::Failed | MessageState::Expired | MessageState::Canceled => {
            counters.failed = 1;
        }
        _ => {}
    }
    counters
}

/// Sealed writes of a transaction.
pub(super) type SealedWrites = Vec<(Bytes, Option<Bytes>)>;
