//! What holds a session back by the server's word: kept in memory for the sender and the API, and in the
//! store, because a restart of the daemon is no reason to ask the server again.

use std::sync::{Mutex, PoisonError};

use crate::domain::clock::Timestamp;
use crate::store::{Durability, KeyId, KeyKind, SessionStore, StoreError};

/// What holds a session back by the server's word.
#[derive(Debug, Default)]
pub struct Holds(Mutex<Until>);

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Until {
    /// Nothing may be sent before this.
    all: Timestamp,
    /// No conversation may be opened before this.
    new_chats: Timestamp,
}

fn id() -> KeyId {
    KeyId::name("session/holds")
}

impl Holds {
    fn get(&self) -> Until {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until when nothing may be sent, and until when no conversation may be opened.
    pub fn until(&self, now: Timestamp) -> (Option<Timestamp>, Option<Timestamp>) {
        let until = self.get();
        let ahead = |at: Timestamp| (at > now).then_some(at);
        (ahead(until.all), ahead(until.new_chats))
    }

    /// The server asked for a pause: nothing is sent before `until`.
    pub(super) fn hold_all(&self, until: Timestamp) {
        let mut holds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        holds.all = holds.all.max(until);
    }

    /// The server locked new conversations: none is opened before `until`.
    pub(super) fn hold_new_chats(&self, until: Timestamp) {
        let mut holds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        holds.new_chats = holds.new_chats.max(until);
    }

    /// Takes over what was stored.
    pub(super) async fn load(&self, store: &SessionStore) -> Result<(), StoreError> {
        let Some(row) = store.keys().get(KeyKind::Meta, &id()).await? else {
            return Ok(());
        };
        let number = |at: usize| row.get(at..at + 8)?.try_into().ok().map(u64::from_be_bytes);
        if let (Some(all), Some(new_chats)) = (number(0), number(8)) {
            self.hold_all(Timestamp(all));
            self.hold_new_chats(Timestamp(new_chats));
        }
        Ok(())
    }

    /// Stores what holds now. It goes with the credentials: a new link starts without it.
    pub(super) async fn save(&self, store: &SessionStore) -> Result<(), StoreError> {
        let until = self.get();
        let mut row = until.all.0.to_be_bytes().to_vec();
        row.extend_from_slice(&until.new_chats.0.to_be_bytes());
        let keys = store.keys();
        keys.put(KeyKind::Meta, id(), row, Durability::Ordered)
            .await
    }

    /// Forgets everything: the credentials are gone.
    pub(super) fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Until::default();
    }
}
