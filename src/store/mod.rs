//! Durable state: sealed, per workspace, and reachable only through handles that carry the workspace.
//!
//! ```text
//!  Store ─ workspace(id) ─▶ WorkspaceStore ─ session(id) ─▶ SessionStore ─ keys()   KeySpace
//!    │                        │ sessions() journal()          │ outbox()  apply()
//!    │ tokens() audit()       │ subscriptions() usage()       ▼
//!    │ fleet() sweep()        ▼ requests()              Scope + Txn: sealed records
//!    ▼                                                        │
//!  Engine (trait): get · range · commit(fence, expect, put, delete, update, append)
//!    ├─ sled    one writer thread, group commit, our own fdatasync
//!    └─ memory  for tests, and the model sled is checked against
//! ```
//!
//! Where things are: [`engine`] says what an engine promises, `evaluate` holds the rules of a commit,
//! `writer`, `overlay` and `split` make a durable engine of a plain table, [`sled`] is the only file
//! that names that crate. `key` lays out keys, `seal` seals values, [`keyring`] wraps keys, `migrate`
//! marks versions. `scope` is sealed access plus optimistic transactions. On top, one file per concept.
//!
//! Invariants, for reviewers:
//! - A value is written only through `Scope::seal`; nothing readable enters a key (`key`).
//! - Nothing outside this module can name an engine key: tenant rows are reached through handles only.
//! - What belongs together is one commit: an event and its dedup mark, a message and its status event,
//!   a receipt and what it moves ([`SessionStore::apply`]).
//! - A reader of the journal never sees a revision that is not durable: a crash would give the number
//!   to another event.
//! - Writes of one session take effect in the order they were made; what a crash leaves is a prefix.
//! - Every row that ends by time has an entry for the [`sweeper`] or lies in a range that is dropped.
//! - Uploaded files ([`media`]) are the one thing outside the engine; a row is committed after its file.
//! - Rows are protobuf with a version byte; numbers of kinds, states and types are never reused.
//!
//! Unsealed are only counters (last revision, epoch) and the format mark.

mod acks;
mod apply;
mod audit;
pub mod backup;
#[cfg(test)]
mod conformance;
mod dedup;
pub mod engine;
mod errors;
mod evaluate;
mod guard;
mod journal;
mod key;
pub mod keyring;
mod keyspace;
pub mod media;
pub mod memory;
mod migrate;
mod named;
mod outbox;
mod overlay;
mod ownership;
mod page;
mod path;
mod person;
mod requests;
mod retention;
mod root;
mod rotation;
mod scope;
mod seal;
mod session;
mod sessions;
pub mod sled;
mod snapshot;
mod split;
mod subscriptions;
mod sweeper;
#[cfg(test)]
mod tests;
mod tokens;
mod usage;
mod workspace;
mod workspaces;
mod writer;

pub use acks::Confirmed;
pub use apply::{Applied, ApplyError, Change, EditSession, MessageRef, ReceiptArrival};
pub use audit::{Audit, AuditEntry};
pub use errors::{
    CreateError, EnqueueError, LookupError, ReadError, StoreError, TransitionError, UpdateError,
};
pub use journal::{
    Appended, CompiledFilter, EventPage, Filter, Header, HeaderPage, Journal, JournalSize,
};
pub use key::Hash;
pub use keyspace::{Durability, KeyBatch, KeyEntry, KeyId, KeyKind, KeySpace, RawId};
pub use migrate::{FORMAT, RecordError};
pub use outbox::{Enqueued, MAX_SCAN, NewMessage, Outbox, QueueEntry, Range, Step};
pub use ownership::ROOM;
pub use page::{BadPageToken, DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE, Page, PageRequest, PageToken};
pub use path::PATH;
pub use requests::{BodyHash, REMEMBERED_FOR, RecallError, Remember, Requests};
pub use retention::{Enforced, Retention};
pub use root::{FleetCursor, OpenError, Store, StoreOptions};
pub use rotation::RotateError;
pub use seal::SealError;
pub use session::SessionStore;
pub use sessions::{NewSession, SessionRecord, Sessions};
pub use subscriptions::{
    Acknowledged, DEFAULT_SUBSCRIPTION, DeadLetter, DeliveryFailure, DeliveryRecord,
    FailedDelivery, MAX_REDRIVEN, Progress, Redrive, Redriven, StartAt, SubscriptionConfig,
    SubscriptionRecord, Subscriptions,
};
pub use sweeper::Swept;
pub use tokens::{NewToken, TOKEN_PREFIX, TokenInfo, TokenKind, Tokens, Verified};
pub use usage::{Counters, Day, Usage};
pub use workspace::WorkspaceStore;
