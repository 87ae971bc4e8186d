//! Calls: leases that outlive what they were asked for with.
//!
//! A call is a stream that is given one batch. When its answer leaves, what it was given is kept: the call
//! remains as the holder of its leases and their keys, takes nothing more, and is forgotten with the last of
//! them. Until then it can be undone like any stream, by closing it.

use std::time::Duration;

use super::entry::{State, Stream};
use super::{Credit, Dispatch, Revision, StreamId};

impl Dispatch {
    /// Opens a call.
    pub(in crate::delivery) fn open_call(&mut self, credit: Credit) -> StreamId {
        self.insert_stream(Stream::new(credit, true))
    }

    /// A call's answer leaves: its leases stay in force without it. What it has not taken
    /// ([`Self::handed_over`]) must have been given back before.
    pub(in crate::delivery) fn keep(&mut self, id: StreamId) {
        if let Some(call) = self.streams.remove(&id)
            && !call.leases.is_empty()
        {
            self.kept.insert(id, call);
        }
    }

    /// Whether calls hold as much as they may.
    pub(in crate::delivery) fn is_full_of_calls(&self) -> bool {
        self.call_leases >= self.rules.most_kept
    }

    /// Whether an event is acked and waits for an earlier one of its key.
    pub(in crate::delivery) fn is_held(&self, revision: Revision) -> bool {
        let entry = self.entries.get(&revision);
        entry.is_some_and(|entry| entry.state == State::Held && !entry.dead)
    }

    /// Whether an event in memory is leased, and when it first was.
    pub(in crate::delivery) fn look_at(
        &self,
        revision: Revision,
    ) -> Option<(bool, Option<Duration>)> {
        let entry = self.entries.get(&revision)?;
        let leased = matches!(entry.state, State::Leased { .. });
        Some((leased, entry.first_leased))
    }

    /// Nobody sees the process behind a call die: a deadline that passes may be all there is to see of an
    /// event that kills whoever takes it. Like one that was lost with a stream, it is then tried apart from
    /// others.
    pub(super) fn suspect_if_kept(&mut self, revision: Revision, holder: StreamId) {
        if self.kept.contains_key(&holder)
            && let Some(entry) = self.entries.get_mut(&revision)
        {
            entry.drops = entry.drops.saturating_add(1);
        }
    }
}
