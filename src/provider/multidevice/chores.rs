//! What the event handler noticed and must not do itself, because it must not wait.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;
use wacore::appstate::patch_decode::WAPatchName;
use wacore::types::events::LazyHistorySync;

use super::facts::COLLECTIONS;

/// Flags for the line's run loop; setting one wakes it.
#[derive(Debug, Default)]
pub(super) struct Chores {
    owed: AtomicU8,
    logged_in: AtomicBool,
    online: AtomicBool,
    new_code: AtomicBool,
    history: Mutex<Option<LazyHistorySync>>,
    wake: Notify,
}

fn bit(name: WAPatchName) -> u8 {
    COLLECTIONS
        .iter()
        .position(|it| *it == name)
        .map_or(0, |position| 1 << position)
}

impl Chores {
    /// The server says a collection changed.
    pub(super) fn owe(&self, name: WAPatchName) {
        self.owed.fetch_or(bit(name), Ordering::SeqCst);
        self.wake.notify_one();
    }

    /// A chunk of history was fetched, by whoever does the library's work.
    pub(super) fn history(&self, chunk: LazyHistorySync) {
        *self.history.lock().unwrap_or_else(PoisonError::into_inner) = Some(chunk);
    }

    /// The chunk that was fetched last.
    pub(super) fn take_history(&self) -> Option<LazyHistorySync> {
        self.history
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// The server accepted the login.
    pub(super) fn logged_in(&self) {
        self.logged_in.store(true, Ordering::SeqCst);
        self.wake.notify_one();
    }

    /// The library is ready.
    pub(super) fn online(&self) {
        self.online.store(true, Ordering::SeqCst);
        self.wake.notify_one();
    }

    /// The pairing code on screen is no longer valid.
    pub(super) fn new_code(&self) {
        self.new_code.store(true, Ordering::SeqCst);
        self.wake.notify_one();
    }

    /// Waits for something to do.
    pub(super) async fn wait(&self) {
        self.wake.notified().await;
    }

    pub(super) fn take_owed(&self) -> Vec<WAPatchName> {
        let owed = self.owed.swap(0, Ordering::SeqCst);
        let is_owed = |name: &WAPatchName| owed & bit(*name) != 0;
        COLLECTIONS.into_iter().filter(is_owed).collect()
    }

    pub(super) fn take_logged_in(&self) -> bool {
        self.logged_in.swap(false, Ordering::SeqCst)
    }

    pub(super) fn take_online(&self) -> bool {
        self.online.swap(false, Ordering::SeqCst)
    }

    pub(super) fn take_new_code(&self) -> bool {
        self.new_code.swap(false, Ordering::SeqCst)
    }

    /// Forgets what belonged to an earlier connection. What is owed stays owed.
    pub(super) fn reset(&self) {
        self.take_logged_in();
        self.take_online();
        self.take_new_code();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_chore_wakes_and_is_done_once() {
        let chores = Chores::default();
        chores.owe(WAPatchName::Regular);
        chores.owe(WAPatchName::CriticalBlock);
        chores.owe(WAPatchName::Unknown);
        chores.wait().await;
        assert_eq!(
            chores.take_owed(),
            [WAPatchName::CriticalBlock, WAPatchName::Regular]
        );
        assert!(chores.take_owed().is_empty());
        chores.online();
        chores.reset();
        assert!(!chores.take_online());
    }
}
