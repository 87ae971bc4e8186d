//! The event journal of a workspace: append-only, numbered, deduplicated as it is written.
//!
//! An event is two rows: its payload and a small filter header, so that a consumer that wants few of
//! many events reads few payloads. Whether an event is a repetition is decided inside the commit that
//! appends it (see [`super::dedup`]). Readers see only what is durable.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use tokio::sync::watch;

use super::dedup;
use super::engine::{Commit, MAX_PAGE, Revision, RowError, Scan, Urgency};
use super::errors::{ReadError, StoreError};
use super::key::{Hash, Kind, trailing_u64};
use super::scope::{Scope, Txn};
use super::sweeper;
use super::workspace::{WorkspaceStore, stored_id};
use crate::domain::clock::Timestamp;
use crate::domain::event::{Event, NewEvent, Payload};
use crate::domain::ids::{EventId, SessionId};

mod filter;
mod rows;

pub use filter::{CompiledFilter, Filter};
pub use rows::Header;
use rows::{EventRow, HeaderRow, StateRow};
pub(super) use rows::{type_number, type_of};

/// What became of an event that was to be appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Its revision; for a repetition, that of the first arrival.
    pub revision: Revision,
    /// Its stable id; for a repetition, that of the first arrival.
    pub event_id: EventId,
    /// It was there already; nothing was written.
    pub duplicate: bool,
}

/// What a workspace's journal holds now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalSize {
    /// The oldest revision that is still there (one past the newest when empty).
    pub oldest: Revision,
    /// The newest revision given out; 0 before the first.
    pub newest: Revision,
    /// Events held.
    pub events: u64,
    /// Bytes of their rows, before the engine's own overhead.
    pub bytes: u64,
}

/// A page of events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventPage {
    /// The matching events.
    pub events: Vec<Event>,
    /// Where to read on: everything below was looked at.
    pub next: Revision,
}

/// A page of headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderPage {
    /// All headers in the range, whether or not they match anything.
    pub headers: Vec<Header>,
    /// Where to read on: everything below was looked at.
    pub next: Revision,
}

/// A workspace's journal.
#[derive(Debug, Clone)]
pub struct Journal {
    workspace: WorkspaceStore,
}

/// What an event is about.
#[derive(Debug, Clone, Copy)]
pub(super) enum Subject<'a> {
    /// A session, with its number.
    Session(&'a SessionId, u64),
    /// The workspace.
    Workspace,
    /// One subscription, by number: only it is told.
    Subscription(u64),
}

/// An event waiting in a transaction for its revision.
#[derive(Debug, Clone, Copy)]
pub(super) enum Queued {
    /// Position among the transaction's appends.
    New { append: usize, event_id: EventId },
    /// It was there already, or came earlier in the same transaction.
    Known {
        revision: Revision,
        event_id: EventId,
    },
    /// Repeats an event of this same transaction.
    Repeats { append: usize, event_id: EventId },
}

impl Queued {
    pub(super) fn settle(self, revisions: &[Revision]) -> Appended {
        let at = |append: usize| revisions.get(append).copied().unwrap_or_default();
        match self {
            Self::New { append, event_id } => Appended {
                revision: at(append),
                event_id,
                duplicate: false,
            },
            Self::Known { revision, event_id } => Appended {
                revision,
                event_id,
                duplicate: true,
            },
            Self::Repeats { append, event_id } => Appended {
                revision: at(append),
                event_id,
                duplicate: true,
            },
        }
    }
}

impl Journal {
    pub(super) fn new(workspace: WorkspaceStore) -> Self {
        Self { workspace }
    }

    fn scope(&self) -> &Scope {
        &self.workspace.0.root
    }

    fn row_key(&self, kind: Kind, revision: Revision) -> Bytes {
        self.workspace.key(kind).u64(revision).finish()
    }

    fn state_key(&self) -> Bytes {
        self.workspace.key(Kind::JournalState).finish()
    }

    /// Appends workspace-level events, which belong to no session. One commit; repetitions are
    /// recognised. Events of a session go through [`super::SessionStore::apply`].
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn append(&self, events: Vec<NewEvent>) -> Result<Vec<Appended>, StoreError> {
        super::apply::append_events(&self.workspace, events, 0).await
    }

    /// Queues an event in a transaction. With `claims` this transaction's own events are deduplicated
    /// among themselves.
    pub(super) async fn append_in(
        &self,
        txn: &mut Txn,
        subject: Subject<'_>,
        event: &NewEvent,
        dedup: &mut dedup::Claims,
    ) -> Result<Queued, StoreError> {
        let (session, number, subscription) = match subject {
            Subject::Session(id, number) => (Some(id), number, 0),
            Subject::Workspace => (None, 0, 0),
            Subject::Subscription(number) => (None, 0, number),
        };
        let marks = dedup::marks(&self.workspace, number, event);
        if let Some(known) = dedup.look_up(txn, self.scope(), &marks).await? {
            return Ok(known);
        }
        let event_id = EventId(self.workspace.0.context.entropy.uuid());
        let ordering_key = ordering_key(session, &event.payload);
        let payload = serde_json::to_vec(&event.payload)
            .map_err(|error| StoreError::Damaged(format!("an event cannot be encoded: {error}")))?;
        let row = EventRow {
            event_id: event_id.0.as_bytes().to_vec(),
            session: session.map_or_else(String::new, |id| id.as_str().to_owned()),
            ordering_key: ordering_key.clone(),
            at: event.at.0,
            payload,
        };
        let mut header = HeaderRow {
            event_type: type_number(event.payload.event_type()),
            session: number,
            key: self.key_hash(&ordering_key).0.to_vec(),
            at: event.at.0,
            size: 0,
            subscription,
        };
        header.size = (row.encoded_len() + header.encoded_len() + ROW_OVERHEAD) as u64;
        let append = self.queue(txn, row, header, event_id, marks.clone());
        dedup.claim(&marks, append, event_id);
        Ok(Queued::New { append, event_id })
    }

    /// Queues a copy of an event for one subscription alone, by number: the same event under the same id, with
    /// a new revision. Returns its id and size, or nothing when the journal no longer has the event.
    pub(super) async fn copy_in(
        &self,
        txn: &mut Txn,
        revision: Revision,
        subscription: u64,
    ) -> Result<Option<(EventId, u64)>, StoreError> {
        let scope = self.scope();
        let row: Option<EventRow> = scope.get(&self.row_key(Kind::Journal, revision)).await?;
        let header_key = self.row_key(Kind::JournalHeader, revision);
        let header: Option<HeaderRow> = scope.get(&header_key).await?;
        let Some((row, mut header)) = row.zip(header) else {
            return Ok(None);
        };
        let event_id = uuid::Uuid::from_slice(&row.event_id)
            .map(EventId)
            .map_err(|_| StoreError::Damaged(format!("event {revision}: bad id")))?;
        header.subscription = subscription;
        // How long it has waited is counted from now; when it happened is in the event.
        header.at = self.workspace.now().0;
        let size = header.size;
        self.queue(txn, row, header, event_id, dedup::Marks::default());
        Ok(Some((event_id, size)))
    }

    /// Queues an event's rows, and counts them.
    fn queue(
        &self,
        txn: &mut Txn,
        row: EventRow,
        header: HeaderRow,
        event_id: EventId,
        leave: dedup::Marks,
    ) -> usize {
        let (journal, size) = (self.clone(), header.size);
        let append = txn.append(
            self.workspace.journal_head(),
            Box::new(move |revision| {
                journal
                    .rows(revision, &row, &header, event_id, &leave)
                    .map_err(|error| RowError(error.to_string()))
            }),
        );
        txn.update(
            self.scope(),
            self.state_key(),
            move |state: &mut StateRow| {
                state.bytes += size;
                state.events += 1;
            },
        );
        append
    }

    fn rows(
        &self,
        revision: Revision,
        row: &EventRow,
        header: &HeaderRow,
        event_id: EventId,
        marks: &dedup::Marks,
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let scope = self.scope();
        let row_key = self.row_key(Kind::Journal, revision);
        let header_key = self.row_key(Kind::JournalHeader, revision);
        let mut rows = vec![
            (row_key.clone(), scope.seal(&row_key, row)?),
            (header_key.clone(), scope.seal(&header_key, header)?),
        ];
        for mark in &marks.leave {
            let value = dedup::mark(revision, event_id);
            rows.push((mark.clone(), scope.seal(mark, &value)?));
            if let Some(at) = marks.expire_at {
                rows.push(sweeper::expiry_row(&self.workspace, mark, 0, at)?);
            }
        }
        Ok(rows)
    }

    /// The hash of an ordering key as it appears in headers.
    pub fn key_hash(&self, ordering_key: &str) -> Hash {
        self.scope().hash(&[b"ordering", ordering_key.as_bytes()])
    }

    /// Finds the event that `event` would be a repetition of, if that is remembered: by its dedup key,
    /// the names in its payload and the provider's time of it. The rest of it is not looked at.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn find(
        &self,
        session: &SessionId,
        event: &NewEvent,
    ) -> Result<Option<Appended>, StoreError> {
        let number = match self.workspace.sessions().number_of(session).await {
            Ok(number) => number,
            Err(super::errors::LookupError::NotFound { .. }) => return Ok(None),
            Err(super::errors::LookupError::Store(error)) => return Err(error),
        };
        dedup::find(&self.workspace, number, event).await
    }

    /// The newest durable revision, and a notification of every later one.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn watch(&self) -> Result<watch::Receiver<Revision>, StoreError> {
        Ok(self
            .scope()
            .engine
            .watch(self.workspace.journal_head())
            .await?)
    }

    /// What the journal holds.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn size(&self) -> Result<JournalSize, StoreError> {
        let newest = *self.watch().await?.borrow();
        let state: StateRow = self
            .scope()
            .get(&self.state_key())
            .await?
            .unwrap_or_default();
        Ok(JournalSize {
            oldest: state.removed_below.max(1),
            newest,
            events: state.events,
            bytes: state.bytes,
        })
    }

    /// Prepares a filter. Sessions that do not exist match nothing.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn compile(&self, filter: &Filter) -> Result<CompiledFilter, StoreError> {
        let mut numbers = BTreeSet::new();
        for session in &filter.sessions {
            match self.workspace.sessions().number_of(session).await {
                Ok(number) => {
                    numbers.insert(number);
                }
                Err(super::errors::LookupError::NotFound { .. }) => {}
                Err(super::errors::LookupError::Store(error)) => return Err(error),
            }
        }
        Ok(CompiledFilter {
            types: filter.types.clone(),
            sessions: (!filter.sessions.is_empty()).then_some(numbers),
            subscription: 0,
        })
    }

    /// Checks that `from` can be read and returns the newest durable revision. One past the newest is
    /// fine: it reads as empty.
    async fn check_range(&self, from: Revision) -> Result<Revision, ReadError> {
        let size = self.size().await?;
        if from < size.oldest && from != 0 {
            return Err(ReadError::Compacted {
                oldest: size.oldest,
            });
        }
        if from > size.newest + 1 {
            return Err(ReadError::Future {
                newest: size.newest,
            });
        }
        Ok(size.newest)
    }

    /// Reads filter headers from `from` (inclusive; 0 means the oldest), at most `limit` of them.
    ///
    /// # Errors
    /// [`ReadError::Compacted`] with the oldest revision when retention was faster.
    pub async fn headers(&self, from: Revision, limit: usize) -> Result<HeaderPage, ReadError> {
        let newest = self.check_range(from).await?;
        let scan = Scan {
            start: self.row_key(Kind::JournalHeader, from),
            end: self.row_key(Kind::JournalHeader, newest + 1),
            limit,
            reverse: false,
        };
        let (rows, more) = self.scope().scan::<HeaderRow>(scan).await?;
        let mut headers = Vec::with_capacity(rows.len());
        for (key, row) in rows {
            headers.push(header(&key, &row)?);
        }
        let next = match headers.last() {
            Some(last) if more => last.revision + 1,
            _ => newest + 1,
        };
        Ok(HeaderPage {
            headers,
            next: next.max(from),
        })
    }

    /// Reads events from `from` (inclusive; 0 means the oldest) that pass `filter`: at most `limit` of
    /// them, looking at no more than 1,000 headers a call, so that a narrow filter cannot make it
    /// long. Go on at [`EventPage::next`].
    ///
    /// # Errors
    /// [`ReadError::Compacted`] with the oldest revision when retention was faster.
    pub async fn read(
        &self,
        from: Revision,
        limit: usize,
        filter: &CompiledFilter,
    ) -> Result<EventPage, ReadError> {
        let limit = limit.clamp(1, MAX_PAGE);
        let page = self.headers(from, MAX_PAGE).await?;
        let mut wanted: Vec<Revision> = Vec::new();
        let mut next = page.next;
        for header in &page.headers {
            if !filter.matches(header) {
                continue;
            }
            if wanted.len() == limit {
                next = header.revision;
                break;
            }
            wanted.push(header.revision);
        }
        let events = self.get_many(&wanted).await?;
        Ok(EventPage {
            events: events.into_iter().flatten().collect(),
            next,
        })
    }

    /// Reads single events, in the same order; removed ones are `None`.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn get_many(&self, revisions: &[Revision]) -> Result<Vec<Option<Event>>, StoreError> {
        let keys: Vec<_> = revisions
            .iter()
            .map(|revision| self.row_key(Kind::Journal, *revision))
            .collect();
        let rows = self.scope().engine.get_many(&keys).await?;
        let mut events = Vec::with_capacity(rows.len());
        for ((key, revision), sealed) in keys.iter().zip(revisions).zip(rows) {
            events.push(match sealed {
                Some(sealed) => Some(self.event(key, *revision, &sealed)?),
                None => None,
            });
        }
        Ok(events)
    }

    fn event(&self, key: &[u8], revision: Revision, sealed: &[u8]) -> Result<Event, StoreError> {
        let row: EventRow = self.scope().open(key, sealed)?;
        let damaged = |what: &str| StoreError::Damaged(format!("event {revision}: {what}"));
        let id = uuid::Uuid::from_slice(&row.event_id).map_err(|_| damaged("bad id"))?;
        let payload: Payload =
            serde_json::from_slice(&row.payload).map_err(|error| damaged(&error.to_string()))?;
        let session = match row.session.as_str() {
            "" => None,
            text => Some(stored_id(SessionId::new(text))?),
        };
        Ok(Event {
            revision,
            event_id: EventId(id),
            session,
            ordering_key: row.ordering_key,
            at: Timestamp(row.at),
            payload,
        })
    }

    /// Removes events from the oldest up to, not including, `below`; at most one page a call. Returns
    /// the oldest revision left and whether there is more to remove.
    pub(super) async fn remove_below(
        &self,
        below: Revision,
    ) -> Result<(Revision, bool), StoreError> {
        let size = self.size().await?;
        let below = below.min(size.newest + 1);
        if below <= size.oldest {
            return Ok((size.oldest, false));
        }
        let scan = Scan {
            start: self.row_key(Kind::JournalHeader, 0),
            end: self.row_key(Kind::JournalHeader, below),
            limit: 500,
            reverse: false,
        };
        let (rows, more) = self.scope().scan::<HeaderRow>(scan).await?;
        let mut txn = Txn::new(Arc::clone(&self.scope().engine));
        let (mut bytes, mut events) = (0, 0);
        let mut oldest = below;
        for (key, row) in rows {
            let header = header(&key, &row)?;
            txn.delete(key);
            txn.delete(self.row_key(Kind::Journal, header.revision));
            bytes += header.size;
            events += 1;
            if more {
                oldest = header.revision + 1;
            }
        }
        txn.update(
            self.scope(),
            self.state_key(),
            move |state: &mut StateRow| {
                state.removed_below = state.removed_below.max(oldest);
                state.bytes = state.bytes.saturating_sub(bytes);
                state.events = state.events.saturating_sub(events);
            },
        );
        let commit: Commit = txn.into_commit();
        self.scope()
            .engine
            .submit(commit, Urgency::Durable)
            .await?
            .await?;
        Ok((oldest, more))
    }
}

/// Bytes that sealing and keys add to an event's two rows.
const ROW_OVERHEAD: usize = 2 * (super::seal::OVERHEAD + 28);

fn header(key: &[u8], row: &HeaderRow) -> Result<Header, StoreError> {
    let damaged = || StoreError::Damaged("an event header cannot be read".into());
    let hash: [u8; 16] = row.key.as_slice().try_into().map_err(|_| damaged())?;
    Ok(Header {
        revision: trailing_u64(key).ok_or_else(damaged)?,
        event_type: type_of(row.event_type).ok_or_else(damaged)?,
        session: row.session,
        subscription: row.subscription,
        key: Hash(hash),
        at: Timestamp(row.at),
        size: row.size,
    })
}

/// Session and canonical chat: events of one key are delivered in order.
pub(super) fn ordering_key(session: Option<&SessionId>, payload: &Payload) -> String {
    match (session, payload.chat()) {
        (Some(session), Some(chat)) => format!("{session}/{}", chat.canonical()),
        (Some(session), None) => format!("{session}/"),
        (None, _) => "/".to_owned(),
    }
}
