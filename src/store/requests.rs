//! Remembered answers: what makes a mutation with a `request_id` idempotent.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::errors::StoreError;
use super::key::Kind;
use super::migrate::first_version;
use super::scope::{Txn, TxnError};
use super::sweeper;
use super::workspace::WorkspaceStore;
use crate::domain::ids::RequestId;

/// How long an answer is remembered.
pub const REMEMBERED_FOR: Duration = Duration::from_hours(7 * 24);

/// A digest of what a request asked for, so that the same id with another body is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyHash(pub [u8; 32]);

impl BodyHash {
    /// The digest of a request's canonical encoding, together with the name of its method.
    pub fn of(method: &str, body: &[u8]) -> Self {
        let digest = Sha256::new()
            .chain_update((method.len() as u64).to_be_bytes())
            .chain_update(method)
            .chain_update(body)
            .finalize();
        Self(digest.into())
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct AnswerRow {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) body: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) answer: Vec<u8>,
}
first_version!(AnswerRow, "remembered answer");

/// The `request_id` was used before for something else.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RecallError {
    /// Same id, other body.
    #[error("request_id {request_id} was already used for another request: use a fresh UUID")]
    Conflict {
        /// The id in question.
        request_id: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The remembered answers of a workspace.
#[derive(Debug, Clone)]
pub struct Requests {
    workspace: WorkspaceStore,
}

impl Requests {
    pub(super) fn new(workspace: WorkspaceStore) -> Self {
        Self { workspace }
    }

    fn key(&self, id: RequestId) -> Bytes {
        let hash = self.workspace.0.root.hash(&[b"request", id.0.as_bytes()]);
        self.workspace.key(Kind::Idempotency).hash(hash).finish()
    }

    /// The answer given to this request before, if any.
    ///
    /// # Errors
    /// [`RecallError::Conflict`] when the id was used for something else.
    pub async fn recall(
        &self,
        id: RequestId,
        body: BodyHash,
    ) -> Result<Option<Bytes>, RecallError> {
        let row: Option<AnswerRow> = self.workspace.0.root.get(&self.key(id)).await?;
        row.map(|row| check(id, body, row)).transpose()
    }

    /// Remembers an answer. If one was remembered meanwhile, that one is returned and stands.
    ///
    /// # Errors
    /// [`RecallError::Conflict`] when the id was used for something else.
    pub async fn remember(
        &self,
        id: RequestId,
        body: BodyHash,
        answer: Bytes,
    ) -> Result<Bytes, RecallError> {
        let mut txn = Txn::new(self.workspace.0.context.engine.clone());
        self.remember_in(&mut txn, id, body, &answer)?;
        match txn.commit().await {
            Ok(_) => Ok(answer),
            Err(TxnError::Store(error)) => Err(error.into()),
            Err(TxnError::Conflict) => {
                let earlier = self.recall(id, body).await?;
                Ok(earlier.ok_or(StoreError::Contended)?)
            }
        }
    }

    /// Remembers an answer in a transaction, which conflicts if there is one already.
    pub(super) fn remember_in(
        &self,
        txn: &mut Txn,
        id: RequestId,
        body: BodyHash,
        answer: &[u8],
    ) -> Result<(), StoreError> {
        txn.expect_absent(self.key(id));
        for (key, value) in self.rows(id, body, answer)? {
            txn.put_raw(key, value);
        }
        Ok(())
    }

    /// The rows of a remembered answer: the answer and its entry for the sweeper.
    pub(super) fn rows(
        &self,
        id: RequestId,
        body: BodyHash,
        answer: &[u8],
    ) -> Result<[(Bytes, Bytes); 2], StoreError> {
        let key = self.key(id);
        let row = AnswerRow {
            body: body.0.to_vec(),
            answer: answer.to_vec(),
        };
        let at = self.workspace.now().plus(REMEMBERED_FOR);
        let expiry = sweeper::expiry_row(&self.workspace, &key, 0, at)?;
        let sealed = self.workspace.0.root.seal(&key, &row)?;
        Ok([(key, sealed), expiry])
    }
}

/// Makes an answer from what a change came to.
type Encode<T> = dyn Fn(&T) -> Vec<u8> + Send + Sync;

/// An answer that is remembered in the very commit that makes it true: a crash leaves both or neither.
pub struct Remember<T: ?Sized> {
    requests: Requests,
    id: RequestId,
    body: BodyHash,
    encode: Arc<Encode<T>>,
}

impl<T: ?Sized> Clone for Remember<T> {
    fn clone(&self) -> Self {
        Self {
            requests: self.requests.clone(),
            id: self.id,
            body: self.body,
            encode: Arc::clone(&self.encode),
        }
    }
}

impl<T: ?Sized> fmt::Debug for Remember<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Remember({})", self.id)
    }
}

impl<T: ?Sized + 'static> Remember<T> {
    /// The answer to request `id`, kept among `requests`; `encode` makes it from what the change came to.
    pub fn new(
        requests: Requests,
        id: RequestId,
        body: BodyHash,
        encode: impl Fn(&T) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        Self {
            requests,
            id,
            body,
            encode: Arc::new(encode),
        }
    }

    /// The same answer, made from something that contains what it is made of.
    pub(super) fn of<U: ?Sized + 'static>(
        self,
        part: impl Fn(&U, &dyn Fn(&T) -> Vec<u8>) -> Vec<u8> + Send + Sync + 'static,
    ) -> Remember<U> {
        let encode = self.encode;
        Remember {
            requests: self.requests,
            id: self.id,
            body: self.body,
            encode: Arc::new(move |whole| part(whole, &*encode)),
        }
    }

    /// The key that must be absent.
    pub(super) fn key(&self) -> Bytes {
        self.requests.key(self.id)
    }

    /// What to write beside the change.
    pub(super) fn rows(&self, value: &T) -> Result<[(Bytes, Bytes); 2], StoreError> {
        self.requests
            .rows(self.id, self.body, &(self.encode)(value))
    }

    /// Adds it to a transaction, which conflicts if the request was answered already.
    pub(super) fn put_in(&self, txn: &mut Txn, value: &T) -> Result<(), StoreError> {
        let answer = (self.encode)(value);
        self.requests.remember_in(txn, self.id, self.body, &answer)
    }
}

fn check(id: RequestId, body: BodyHash, row: AnswerRow) -> Result<Bytes, RecallError> {
    if row.body == body.0 {
        Ok(row.answer.into())
    } else {
        Err(RecallError::Conflict {
            request_id: id.to_string(),
        })
    }
}
