//! A session's outbox: what was accepted for sending, and how far each message has come.
//!
//! A message is three rows: the message itself, complete as it goes on the wire; an entry under its
//! stanza id, for receipts and retry requests; and, while there is work to do, an entry in the queue.
//! States move one way, and each step updates the row and appends its event in one commit.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::apply::{Applied, ApplyError, Change, MessageRef};
use super::engine::{RowError, Scan, Urgency};
use super::errors::{EnqueueError, LookupError, StoreError, TransitionError};
use super::journal::Appended;
use super::key::{Hash, Kind, trailing_u64};
use super::page::{Page, PageRequest, PageToken};
use super::person::PersonRow;
use super::requests::{BodyHash, RecallError, Remember};
use super::scope::{ATTEMPTS, Scope, Txn, TxnError};
use super::session::SessionStore;
use super::sweeper;
use super::usage::Counters;
use crate::domain::clock::Timestamp;
use crate::domain::ids::{MessageId, RequestId};
use crate::domain::message::{Content, FailureReason, MessageState, OutboundMessage, Priority};
use crate::domain::person::Person;

pub(super) mod ending;
mod rows;

use rows::{
    FailureRow, MessageRow, OpenRow, StanzaRow, StepRow, message_id, priority_number, priority_of,
    state_number, state_of,
};

/// A message to be accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMessage {
    /// What makes the request idempotent.
    pub request_id: RequestId,
    /// A digest of what the client asked for.
    pub body: BodyHash,
    /// The recipient.
    pub to: Person,
    /// What it says.
    pub content: Content,
    /// The id on the wire; fixed from here on.
    pub stanza_id: String,
    /// The provider's complete encoding, reused on every retry.
    pub encoded: Vec<u8>,
    /// How urgent it is.
    pub priority: Priority,
    /// Not before this.
    pub send_after: Option<Timestamp>,
    /// Not after this.
    pub expire_at: Option<Timestamp>,
}

/// An accepted message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enqueued {
    /// The message as stored.
    pub message: OutboundMessage,
    /// The request had been answered before; this is the message it made then, as it is now.
    pub replayed: bool,
}

/// An entry of the queue: what has to be known to choose the next message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueEntry {
    /// Position in the order of acceptance; FIFO within a chat.
    pub seq: u64,
    /// The message.
    pub id: MessageId,
    /// The recipient, hashed: equal exactly for equal canonical recipients.
    pub chat: Hash,
    /// How urgent it is.
    pub priority: Priority,
    /// Not before this.
    pub send_after: Option<Timestamp>,
    /// Not after this.
    pub expire_at: Option<Timestamp>,
    /// [`MessageState::Queued`] or [`MessageState::Sending`].
    pub state: MessageState,
}

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

/// Which messages a listing goes through, and in which direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Range {
    /// Only those accepted then or later.
    pub from: Option<Timestamp>,
    /// Only those accepted before.
    pub until: Option<Timestamp>,
    /// The newest first.
    pub newest_first: bool,
}

/// Messages read at once.
const CHUNK: usize = 200;

/// Most messages one filtered page looks at.
pub const MAX_SCAN: usize = 5_000;

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

    /// Accepts a message: its row, its queue entry, the remembered answer and the usage count are one
    /// commit, durable on return. A repeated request gets the message it made the first time.
    ///
    /// # Errors
    /// [`EnqueueError::IdempotencyConflict`] when the `request_id` was used for something else.
    pub async fn enqueue(&self, new: NewMessage) -> Result<Enqueued, EnqueueError> {
        if let Some(replayed) = self.recall(new.request_id, new.body).await? {
            return Ok(replayed);
        }
        let content = serde_json::to_vec(&new.content)
            .map_err(|error| StoreError::Damaged(format!("content cannot be encoded: {error}")))?;
        let row = MessageRow {
            stanza_id: new.stanza_id,
            to: Some(PersonRow::from(&new.to)),
            content,
            encoded: new.encoded,
            state: state_number(MessageState::Queued),
            priority: priority_number(new.priority),
            created_at: 0,
            send_after: new.send_after.map(|at| at.0),
            expire_at: new.expire_at.map(|at| at.0),
            history: Vec::new(),
            attempts: 0,
            failure: None,
            seq: 0,
        };
        for _ in 0..ATTEMPTS {
            match self
                .try_enqueue(new.request_id, new.body, row.clone())
                .await
            {
                Ok(message) => {
                    return Ok(Enqueued {
                        message,
                        replayed: false,
                    });
                }
                Err(TxnError::Store(error)) => return Err(error.into()),
                // The same request from elsewhere, or the session's record changed meanwhile.
                Err(TxnError::Conflict) => {
                    if let Some(replayed) = self.recall(new.request_id, new.body).await? {
                        return Ok(replayed);
                    }
                }
            }
        }
        Err(StoreError::Contended.into())
    }

    /// One attempt to accept a message.
    async fn try_enqueue(
        &self,
        request_id: RequestId,
        body: BodyHash,
        row: MessageRow,
    ) -> Result<OutboundMessage, TxnError> {
        let mut txn = Txn::new(self.scope().engine.clone());
        let workspace = self.session.workspace();
        let outbox = self.clone();
        let remember = Remember::new(
            workspace.requests(),
            request_id,
            body,
            move |id: &MessageId| outbox.answer(*id),
        );
        txn.expect_absent(remember.key());
        let enqueued = Counters {
            enqueued: 1,
            ..Counters::default()
        };
        workspace
            .usage()
            .add_in(&mut txn, self.session.id(), enqueued);
        // Ties the commit to the session: one that is being deleted takes no messages.
        if workspace
            .sessions()
            .read_in(&mut txn, self.session.id())
            .await
            .map_err(TxnError::Store)?
            .is_none()
        {
            return Err(TxnError::Store(StoreError::Gone));
        }
        let outbox = self.clone();
        let (accepted, receiver) = tokio::sync::oneshot::channel();
        let rows = move |seq| {
            let (message, mut rows) = outbox.new_rows(seq, row)?;
            rows.extend(remember.rows(&message.id)?);
            // The receiver lives until the commit is answered.
            let _ = accepted.send(message);
            Ok(rows)
        };
        txn.append(
            self.scope().key(Kind::OutboxNumbers).finish(),
            Box::new(move |seq| rows(seq).map_err(|error: StoreError| RowError(error.to_string()))),
        );
        txn.commit().await?;
        receiver
            .await
            .map_err(|_| TxnError::Store(StoreError::Closed))
    }

    /// The message an earlier request made, if that request was answered. Ask before encoding.
    ///
    /// # Errors
    /// [`EnqueueError::IdempotencyConflict`] when the `request_id` was used for something else.
    pub async fn recall(
        &self,
        request_id: RequestId,
        body: BodyHash,
    ) -> Result<Option<Enqueued>, EnqueueError> {
        let conflict = || EnqueueError::IdempotencyConflict {
            request_id: request_id.to_string(),
        };
        let answer = match self
            .session
            .workspace()
            .requests()
            .recall(request_id, body)
            .await
        {
            Ok(Some(answer)) => answer,
            Ok(None) => return Ok(None),
            Err(RecallError::Conflict { .. }) => return Err(conflict()),
            Err(RecallError::Store(error)) => return Err(error.into()),
        };
        // The same id for another session is another request.
        let ours = self.session.number().to_be_bytes();
        let id = answer.strip_prefix(&ours).ok_or_else(conflict)?;
        let id = message_id(id)?;
        match self.get(id).await {
            Ok(message) => Ok(Some(Enqueued {
                message,
                replayed: true,
            })),
            Err(LookupError::NotFound { .. }) => Ok(None),
            Err(LookupError::Store(error)) => Err(error.into()),
        }
    }

    fn answer(&self, id: MessageId) -> Vec<u8> {
        let mut answer = self.session.number().to_be_bytes().to_vec();
        answer.extend_from_slice(id.0.as_bytes());
        answer
    }

    /// A UUID that sorts by time (version 7), and within a millisecond by the order of acceptance: the
    /// bits a generator would fill with a counter (RFC 9562, 6.2) hold the position in the session.
    fn fresh_id(&self, now: Timestamp, seq: u64) -> MessageId {
        let mut rest = [0; 10];
        self.session.workspace().0.context.entropy.fill(&mut rest);
        // 12 bits lie before the variant, 22 of the counter's after it.
        let counter = seq.to_be_bytes();
        let high = ((seq >> 22) & 0x0fff).to_be_bytes();
        rest[..2].copy_from_slice(&high[6..]);
        rest[2] = counter[5] & 0x3f;
        rest[3..5].copy_from_slice(&counter[6..]);
        MessageId(uuid::Builder::from_unix_timestamp_millis(now.0, &rest).into_uuid())
    }

    /// What a new message consists of. Its id and time are given here, where commits happen one after the
    /// other: the order of ids is the order of acceptance.
    fn new_rows(
        &self,
        seq: u64,
        mut row: MessageRow,
    ) -> Result<(OutboundMessage, Vec<(Bytes, Bytes)>), StoreError> {
        let now = self.session.workspace().now();
        let id = self.fresh_id(now, seq);
        row.seq = seq;
        row.created_at = now.0;
        row.history = vec![StepRow {
            state: row.state,
            at: now.0,
        }];
        let to = row.to.clone().map(Person::from).unwrap_or_default();
        let open = row.open_row(id, self.chat_hash(&to));
        let stanza = StanzaRow {
            id: id.0.as_bytes().to_vec(),
        };
        let (row_key, open_key) = (self.row_key(id), self.open_key(seq));
        let stanza_key = self.stanza_key(&row.stanza_id);
        let scope = self.scope();
        let rows = vec![
            (row_key.clone(), scope.seal(&row_key, &row)?),
            (open_key.clone(), scope.seal(&open_key, &open)?),
            (stanza_key.clone(), scope.seal(&stanza_key, &stanza)?),
        ];
        Ok((row.into_message(id)?, rows))
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

    /// Lists messages in the order of acceptance.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn list(&self, request: &PageRequest) -> Result<Page<OutboundMessage>, StoreError> {
        self.list_where(&Range::default(), request, |_| true).await
    }

    /// Lists the messages of `range` that are `wanted`. A page may hold fewer than asked for and yet not be
    /// the last: at most [`MAX_SCAN`] messages are looked at.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn list_where(
        &self,
        range: &Range,
        request: &PageRequest,
        wanted: impl Fn(&OutboundMessage) -> bool + Send,
    ) -> Result<Page<OutboundMessage>, StoreError> {
        let mut scan = self.scan_of(range);
        let place = |id: MessageId| PageToken::new(id.0.as_bytes().to_vec());
        let after = request.after.as_ref();
        if let Some(id) = after.and_then(|token| uuid::Uuid::from_slice(token.bytes()).ok()) {
            scan = scan.after(&self.row_key(MessageId(id)));
        }
        let mut items = Vec::new();
        let mut seen = 0;
        while seen < MAX_SCAN {
            let (rows, more) = self.scope().scan::<MessageRow>(scan.clone()).await?;
            let end = rows.len();
            seen += end;
            let mut last = None;
            for (index, (key, row)) in rows.into_iter().enumerate() {
                let id = key.get(key.len().saturating_sub(17)..key.len() - 1);
                let message = row.into_message(message_id(id.unwrap_or_default())?)?;
                let at = message.id;
                last = Some((key, at));
                if !wanted(&message) {
                    continue;
                }
                items.push(message);
                if items.len() == request.rows() {
                    let next = (more || index + 1 < end).then(|| place(at));
                    return Ok(Page { items, next });
                }
            }
            match last {
                Some((key, at)) if more => {
                    scan = scan.after(&key);
                    if seen >= MAX_SCAN {
                        let next = Some(place(at));
                        return Ok(Page { items, next });
                    }
                }
                _ => break,
            }
        }
        Ok(Page { items, next: None })
    }

    /// The keys of a range: ids begin with the time of acceptance.
    fn scan_of(&self, range: &Range) -> Scan {
        let first = |at: Timestamp| {
            let millis = u128::from(at.0 & 0x0000_ffff_ffff_ffff);
            self.row_key(MessageId(uuid::Uuid::from_u128(millis << 80)))
        };
        let mut scan = Scan::prefix(&self.scope().prefix(Kind::Outbox), CHUNK);
        if let Some(from) = range.from {
            scan.start = first(from);
        }
        if let Some(until) = range.until {
            scan.end = first(until);
        }
        if range.newest_first {
            scan = scan.reversed();
        }
        scan
    }

    /// Reads the queue: messages that are QUEUED or SENDING, in the order of acceptance, after `seq`
    /// (0 for the start), at most `limit` (1,000 at most).
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn queue(&self, after: u64, limit: usize) -> Result<Vec<QueueEntry>, StoreError> {
        let mut scan = Scan::prefix(&self.scope().prefix(Kind::OutboxOpen), limit);
        scan = scan.after(&self.open_key(after));
        let (rows, _) = self.scope().scan::<OpenRow>(scan).await?;
        let mut entries = Vec::with_capacity(rows.len());
        for (key, row) in rows {
            let damaged = || StoreError::Damaged("a queue entry cannot be read".into());
            entries.push(QueueEntry {
                seq: trailing_u64(&key).ok_or_else(damaged)?,
                id: message_id(&row.id)?,
                chat: Hash(row.chat.as_slice().try_into().map_err(|_| damaged())?),
                priority: priority_of(row.priority)?,
                send_after: row.send_after.map(Timestamp),
                expire_at: row.expire_at.map(Timestamp),
                state: state_of(row.state)?,
            });
        }
        Ok(entries)
    }

    /// The messages that were on the wire when the daemon stopped, in the order of acceptance: each has
    /// to be resent under its stanza id, or settled as UNKNOWN past its deadline.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn sending(&self) -> Result<Vec<QueueEntry>, StoreError> {
        let mut found = Vec::new();
        let mut after = 0;
        loop {
            let page = self.queue(after, 1_000).await?;
            let Some(last) = page.last() else {
                return Ok(found);
            };
            after = last.seq;
            found.extend(
                page.into_iter()
                    .filter(|entry| entry.state == MessageState::Sending),
            );
        }
    }

    /// How many messages are QUEUED or SENDING, by state; counts at most `limit` of them.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn depth(&self, limit: usize) -> Result<BTreeMap<&'static str, usize>, StoreError> {
        let mut counts = BTreeMap::new();
        let (mut after, mut seen) = (0, 0);
        while seen < limit {
            let page = self.queue(after, (limit - seen).min(1_000)).await?;
            let Some(last) = page.last() else { break };
            after = last.seq;
            seen += page.len();
            for entry in page {
                *counts.entry(entry.state.name()).or_default() += 1;
            }
        }
        Ok(counts)
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
