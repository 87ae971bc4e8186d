//! Recognising repetitions, inside the commit that appends.
//!
//! A provider redelivers what was not acknowledged, so each arrival leaves a mark named by (session,
//! canonical chat, canonical sender, stanza id, event kind), and the commit that appends expects the
//! mark to be absent. The same conversation arrives under a phone number and under a LID, and which of
//! them is known can change between two deliveries; so a mark is left (and expected absent) for every
//! name known.
//!
//! Marks are bucketed by the day of the *provider's* timestamp, which a redelivery repeats: a whole day
//! expires with one range. Arrivals older than [`FRESH_DAYS`], or without such a time, get a mark of
//! their own life span instead; near the boundary both kinds are checked.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;

use super::engine::Revision;
use super::errors::StoreError;
use super::journal::{Appended, Queued};
use super::key::{KeyBuilder, Kind};
use super::migrate::first_version;
use super::scope::{Scope, Txn};
use super::workspace::WorkspaceStore;
use crate::domain::clock::Timestamp;
use crate::domain::event::{DedupKey, NewEvent, Payload};
use crate::domain::ids::EventId;
use crate::domain::person::Person;

/// One day.
const DAY: Duration = Duration::from_hours(24);

/// Arrivals up to this many days old are marked in their day's bucket.
const FRESH_DAYS: u64 = 30;

/// Buckets are kept for this many days: longer than a provider keeps undelivered messages.
pub(super) const KEEP_DAYS: u64 = 60;

/// Marks outside the buckets are kept for this long after arrival.
pub(super) const KEEP_LATE: Duration = Duration::from_hours(60 * 24);

/// What a mark remembers.
#[derive(Clone, PartialEq, Message)]
pub(super) struct MarkRow {
    #[prost(uint64, tag = "1")]
    revision: u64,
    #[prost(bytes = "vec", tag = "2")]
    event_id: Vec<u8>,
}
first_version!(MarkRow, "dedup mark");

pub(super) fn mark(revision: Revision, event_id: EventId) -> MarkRow {
    MarkRow {
        revision,
        event_id: event_id.0.as_bytes().to_vec(),
    }
}

impl MarkRow {
    fn into_known(self) -> Result<(Revision, EventId), StoreError> {
        let id = uuid::Uuid::from_slice(&self.event_id)
            .map_err(|_| StoreError::Damaged("a dedup mark has no event id".into()))?;
        Ok((self.revision, EventId(id)))
    }
}

/// The keys an arrival is recognised by.
#[derive(Debug, Clone, Default)]
pub(super) struct Marks {
    /// Left by this arrival.
    pub(super) leave: Vec<Bytes>,
    /// Also looked at, because an earlier delivery may have left one there.
    also: Vec<Bytes>,
    /// When marks outside the buckets expire.
    pub(super) expire_at: Option<Timestamp>,
}

/// What the events of one transaction have claimed so far.
#[derive(Debug, Default)]
pub(super) struct Claims {
    claimed: HashMap<Bytes, (usize, EventId)>,
    /// An earlier attempt met a repetition: look marks up before claiming them.
    careful: bool,
}

impl Claims {
    /// For another attempt after a conflict.
    pub(super) fn careful() -> Self {
        Self {
            careful: true,
            ..Self::default()
        }
    }

    /// What an arrival repeats, if it does.
    pub(super) async fn look_up(
        &self,
        txn: &mut Txn,
        scope: &Scope,
        marks: &Marks,
    ) -> Result<Option<Queued>, StoreError> {
        for key in marks.leave.iter().chain(&marks.also) {
            if let Some((append, event_id)) = self.claimed.get(key) {
                return Ok(Some(Queued::Repeats {
                    append: *append,
                    event_id: *event_id,
                }));
            }
        }
        for key in marks.leave.iter().chain(&marks.also) {
            if !self.careful {
                // Nearly every arrival is new: let the commit find out.
                txn.expect_absent(key.clone());
            } else if let Some(row) = txn.get::<MarkRow>(scope, key).await? {
                let (revision, event_id) = row.into_known()?;
                return Ok(Some(Queued::Known { revision, event_id }));
            }
        }
        Ok(None)
    }

    /// Remembers what a new event claims.
    pub(super) fn claim(&mut self, marks: &Marks, append: usize, event_id: EventId) {
        for key in &marks.leave {
            self.claimed.insert(key.clone(), (append, event_id));
        }
    }
}

/// The marks of an event; none if it cannot be repeated.
pub(super) fn marks(workspace: &WorkspaceStore, session: u64, event: &NewEvent) -> Marks {
    let Some(key) = &event.dedup else {
        return Marks::default();
    };
    let names = names(key, &event.payload);
    keys(
        workspace,
        session,
        key,
        &names,
        provider_time(&event.payload),
    )
}

/// The event that `event` would be a repetition of, if its mark is still there.
pub(super) async fn find(
    workspace: &WorkspaceStore,
    session: u64,
    event: &NewEvent,
) -> Result<Option<Appended>, StoreError> {
    let marks = marks(workspace, session, event);
    let scope = &workspace.0.root;
    let all: Vec<_> = marks.leave.into_iter().chain(marks.also).collect();
    let found = scope.engine.get_many(&all).await?;
    for (key, sealed) in all.iter().zip(found) {
        if let Some(sealed) = sealed {
            let (revision, event_id) = scope.open::<MarkRow>(key, &sealed)?.into_known()?;
            return Ok(Some(Appended {
                revision,
                event_id,
                duplicate: true,
            }));
        }
    }
    Ok(None)
}

fn keys(
    workspace: &WorkspaceStore,
    session: u64,
    key: &DedupKey,
    names: &[(String, String)],
    sent_at: Option<Timestamp>,
) -> Marks {
    let now = workspace.now();
    let day_number = |at: Timestamp| at.secs() / DAY.as_secs();
    let today = day_number(now);
    let day = sent_at.map(day_number);
    // A time from the future is as unreliable as none.
    let fresh = day.filter(|day| day + FRESH_DAYS >= today && *day <= today + 1);
    // Marked in its bucket once, and looked at as old (or, by a clock that stepped back, as from the
    // future) now: the bucket still holds the mark.
    let bucket = day.filter(|day| day + KEEP_DAYS >= today);
    let mut marks = Marks::default();
    for (chat, sender) in names {
        let parts = [
            chat.as_bytes(),
            sender.as_bytes(),
            key.stanza_id.as_bytes(),
            key.kind.as_bytes(),
        ];
        let session = session.to_be_bytes();
        let mut whole: Vec<&[u8]> = vec![b"dedup", &session];
        whole.extend(parts);
        let hash = workspace.0.root.hash(&whole);
        let late = workspace.key(Kind::DedupLate).hash(hash).finish();
        let in_bucket = |day| bucket_key(workspace, day).hash(hash).finish();
        if let Some(day) = fresh {
            marks.leave.push(in_bucket(day));
            // Left when our clock was ahead, so that this day looked old then.
            marks.also.push(late);
        } else {
            marks.leave.push(late);
            marks.also.extend(bucket.map(in_bucket));
            marks.expire_at = Some(now.plus(KEEP_LATE));
        }
    }
    marks
}

fn bucket_key(workspace: &WorkspaceStore, day: u64) -> KeyBuilder {
    workspace.key(Kind::DedupDay).u64(day)
}

/// All buckets that have expired by `now`, as a range.
pub(super) fn expired(workspace: &WorkspaceStore, now: Timestamp) -> (Bytes, Bytes) {
    let today = now.secs() / DAY.as_secs();
    let first_kept = today.saturating_sub(KEEP_DAYS);
    (
        bucket_key(workspace, 0).prefix(),
        bucket_key(workspace, first_kept).prefix(),
    )
}

/// The time the provider stamped, which a redelivery repeats.
fn provider_time(payload: &Payload) -> Option<Timestamp> {
    match payload {
        Payload::Message { message, .. } => Some(message.sent_at),
        Payload::Receipt { at, .. } | Payload::Call { at, .. } => Some(*at),
        _ => None,
    }
}

/// The (chat, sender) pairs an arrival may be known by, the canonical one first.
fn names(key: &DedupKey, payload: &Payload) -> Vec<(String, String)> {
    let mut names = vec![(key.chat.clone(), key.sender.clone())];
    let people: Option<(&Person, &Person)> = match payload {
        Payload::Message { message, .. } => Some((&message.chat, &message.sender)),
        Payload::Receipt { chat, from, .. } => Some((chat, from)),
        Payload::Undecryptable { chat, sender, .. } => Some((chat, sender)),
        _ => None,
    };
    let Some((chat, sender)) = people else {
        return names;
    };
    // Only pairs of one address space occur on the wire.
    for space in [|p: &Person| p.lid.clone(), |p: &Person| p.pn_jid.clone()] {
        let either = space(chat).is_some() || space(sender).is_some();
        let pair = (
            space(chat).unwrap_or_else(|| chat.canonical().to_owned()),
            space(sender).unwrap_or_else(|| sender.canonical().to_owned()),
        );
        if either && !names.contains(&pair) {
            names.push(pair);
        }
    }
    names
}
