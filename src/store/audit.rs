//! The audit log: what operators and clients did, append-only.

use std::fmt;

use prost::Message;

use super::engine::{RowError, Scan};
use super::errors::StoreError;
use super::key::{Kind, trailing_u64};
use super::migrate::first_version;
use super::page::{Page, PageRequest, PageToken};
use super::scope::{Scope, Txn, TxnError};
use super::workspace::Context;
use crate::domain::clock::Timestamp;

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    /// Position in the log, from 1.
    pub revision: u64,
    /// When.
    pub at: Timestamp,
    /// Who: a token's id, or `operator` for the local socket.
    pub actor: String,
    /// What, as the method is called (`Sessions.Delete`).
    pub action: String,
    /// To what, as a resource name.
    pub target: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct AuditRow {
    #[prost(uint64, tag = "1")]
    at: u64,
    #[prost(string, tag = "2")]
    actor: String,
    #[prost(string, tag = "3")]
    action: String,
    #[prost(string, tag = "4")]
    target: String,
}
first_version!(AuditRow, "audit entry");

/// The audit log of the store.
#[derive(Clone)]
pub struct Audit {
    context: Context,
    scope: Scope,
}

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Audit")
    }
}

impl Audit {
    pub(super) fn new(context: Context, scope: Scope) -> Self {
        Self { context, scope }
    }

    /// Writes an entry; durable on return.
    ///
    /// # Errors
    /// Only when the store fails: an action that cannot be recorded should not be taken.
    pub async fn record(&self, actor: &str, action: &str, target: &str) -> Result<u64, StoreError> {
        let row = AuditRow {
            at: self.context.clock.now().0,
            actor: actor.to_owned(),
            action: action.to_owned(),
            target: target.to_owned(),
        };
        let mut txn = Txn::new(self.scope.engine.clone());
        let scope = self.scope.clone();
        txn.append(
            self.scope.key(Kind::AuditHead).finish(),
            Box::new(move |revision| {
                let key = scope.key(Kind::Audit).u64(revision).finish();
                let sealed = scope.seal(&key, &row);
                let sealed = sealed.map_err(|error| RowError(error.to_string()))?;
                Ok(vec![(key, sealed)])
            }),
        );
        match txn.commit().await {
            Ok(committed) => Ok(committed.revisions.first().copied().unwrap_or_default()),
            Err(TxnError::Conflict) => Err(StoreError::Contended),
            Err(TxnError::Store(error)) => Err(error),
        }
    }

    /// Lists entries, newest first.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn list(&self, request: &PageRequest) -> Result<Page<AuditEntry>, StoreError> {
        let prefix = self.scope.prefix(Kind::Audit);
        let mut scan = Scan::prefix(&prefix, request.rows()).reversed();
        if let Some(revision) = request.after.as_ref().and_then(PageToken::number) {
            scan = scan.after(&self.scope.key(Kind::Audit).u64(revision).finish());
        }
        let (rows, more) = self.scope.scan::<AuditRow>(scan).await?;
        let items: Vec<_> = rows
            .into_iter()
            .map(|(key, row)| AuditEntry {
                revision: trailing_u64(&key).unwrap_or_default(),
                at: Timestamp(row.at),
                actor: row.actor,
                action: row.action,
                target: row.target,
            })
            .collect();
        let last = items.last().filter(|_| more);
        let next = last.map(|entry| PageToken::new(entry.revision.to_be_bytes()));
        Ok(Page { items, next })
    }
}
