//! Accepting a message: once per request, complete, in one commit.

use bytes::Bytes;

use super::Outbox;
use super::rows::{MessageRow, StanzaRow, StepRow, message_id, priority_number, state_number};
use crate::domain::clock::Timestamp;
use crate::domain::ids::{MediaId, MessageId, RequestId};
use crate::domain::message::{Content, MessageState, OutboundMessage, Priority};
use crate::domain::person::Person;
use crate::store::engine::RowError;
use crate::store::errors::{EnqueueError, LookupError, StoreError};
use crate::store::key::Kind;
use crate::store::person::PersonRow;
use crate::store::requests::{BodyHash, RecallError, Remember};
use crate::store::scope::{ATTEMPTS, Txn, TxnError};
use crate::store::usage::Counters;

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
    /// The file it carries: kept until the message is settled.
    pub media: Option<MediaId>,
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

impl Outbox {
    /// Accepts a message: its row, its queue entry, the remembered answer and the usage count are one
    /// commit, durable on return. A repeated request gets the message it made the first time.
    ///
    /// # Errors
    /// [`EnqueueError::IdempotencyConflict`] when the `request_id` was used for something else;
    /// [`EnqueueError::NoMedia`] when its file is gone.
    pub async fn enqueue(&self, new: NewMessage) -> Result<Enqueued, EnqueueError> {
        if let Some(replayed) = self.recall(new.request_id, new.body).await? {
            return Ok(replayed);
        }
        let content = serde_json::to_vec(&new.content)
            .map_err(|error| StoreError::Damaged(format!("content cannot be encoded: {error}")))?;
        let row = MessageRow {
            stanza_id: new.stanza_id,
            // The session's own at the moment of the commit.
            from: None,
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
            media: new.media.map(|id| id.0.as_bytes().to_vec()),
            awaits_upload: new.media.is_some(),
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
                Err(TxnError::Store(error)) => return Err(self.refused(new.media, error).await),
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

    /// Why a commit that needs a file failed: because the file has gone, or for another reason.
    async fn refused(&self, media: Option<MediaId>, error: StoreError) -> EnqueueError {
        if let (Some(id), Some(store)) = (media, self.session.media())
            && let Err(LookupError::NotFound { what }) = store.get(id).await
        {
            return EnqueueError::NoMedia { what };
        }
        error.into()
    }

    /// One attempt to accept a message.
    async fn try_enqueue(
        &self,
        request_id: RequestId,
        body: BodyHash,
        mut row: MessageRow,
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
        let session = workspace
            .sessions()
            .read_in(&mut txn, self.session.id())
            .await
            .map_err(TxnError::Store)?;
        let session = session.ok_or(TxnError::Store(StoreError::Gone))?;
        row.from = session.account.as_ref().map(PersonRow::from);
        if let Some(id) = row.media_id().map_err(TxnError::Store)?
            && let Some(media) = self.session.media()
        {
            media.use_in(&mut txn, id);
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
}
