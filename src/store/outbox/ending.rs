//! How long settled messages are kept.

use super::rows::{MessageRow, state_of};
use crate::domain::clock::Timestamp;
use crate::store::errors::StoreError;
use crate::store::key::Kind;
use crate::store::scope::Scope;
use bytes::Bytes;
use std::time::Duration;

/// A settled message is kept this long after its last step: for receipts that come late, for listings,
/// and longer than requests are remembered, so that a repeated request finds what it made.
pub(in crate::store) const KEPT: Duration = Duration::from_hours(30 * 24);

/// When a message goes, and what goes with it.
pub(in crate::store) struct Ending {
    /// Not before this.
    pub(in crate::store) until: Timestamp,
    /// The entry under its stanza id.
    pub(in crate::store) stanza: Bytes,
}

/// The ending of a stored message.
pub(in crate::store) fn of(scope: &Scope, key: &[u8], sealed: &[u8]) -> Result<Ending, StoreError> {
    let row: MessageRow = scope.open(key, sealed)?;
    let last = row.history.iter().map(|step| step.at).max();
    let until = if state_of(row.state)?.is_settled() {
        Timestamp(last.unwrap_or(row.created_at)).plus(KEPT)
    } else {
        Timestamp(u64::MAX)
    };
    Ok(Ending {
        until,
        stanza: stanza_key(scope, &row.stanza_id),
    })
}

/// The key of the entry under a stanza id.
pub(super) fn stanza_key(scope: &Scope, stanza_id: &str) -> Bytes {
    let hash = scope.hash(&[b"stanza", stanza_id.as_bytes()]);
    scope.key(Kind::OutboxStanza).hash(hash).finish()
}
