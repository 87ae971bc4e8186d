//! Bringing app-state collections up to date when they are owed.
//!
//! The library synchronises by itself after a pairing and when the server says that something changed,
//! but forgets what it still owes when a connection ends (with its own reconnecting off, it takes every
//! end for the last). So what is owed is a stored fact: set when a link begins, when the server
//! announces a change, when the library reports a failure, and for everything after an unclean stop;
//! cleared when the library has written the collection's version on a connection that is still up.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, warn};
use wacore::appstate::patch_decode::WAPatchName;
use whatsapp_rust::Client;
use whatsapp_rust::async_channel::Receiver;
use whatsapp_rust::sync_task::MajorSyncTask;

use super::backend::{KeyBackend, Shared};
use super::chores::Chores;
use super::facts::{COLLECTIONS, Facts, Owed};
use super::history::{self, Announcement};
use crate::domain::clock::{Clock, Entropy};
use crate::provider::contract::{Signal, Sink};
use crate::store::StoreError;

/// How long the library gets to do what the server announced before it is asked for.
const LIBRARY_FIRST: Duration = Duration::from_secs(5);
/// How long until what could not be synchronised is tried again on the same connection, at first; twice
/// as long each time after that.
const TRY_AGAIN: Duration = Duration::from_mins(1);
/// How long until somebody looks whether something is owed again.
const LOOK_AGAIN: Duration = Duration::from_mins(10);
/// The longest such pause.
const TRY_LAST: Duration = Duration::from_hours(6);

/// Works off what is owed while a connection is up.
pub(super) struct Resync {
    pub(super) client: Arc<Client>,
    pub(super) backend: Arc<KeyBackend>,
    pub(super) shared: Arc<Shared>,
    pub(super) entropy: Entropy,
    pub(super) facts: Facts,
    pub(super) sink: Arc<dyn Sink>,
    pub(super) chores: Arc<Chores>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) tasks: Receiver<MajorSyncTask>,
}

impl Resync {
    /// Runs until the connection ends; the caller aborts it then.
    pub(super) async fn run(self) {
        let mut pauses = Pauses::default();
        loop {
            let open = self.settle().await.unwrap_or_else(|error| {
                warn!(%error, "what is owed of the app state cannot be read");
                true
            });
            if !open {
                pauses = Pauses::default();
            }
            let pause = if open {
                pauses.next(&self.entropy)
            } else {
                LOOK_AGAIN
            };
            let pause = tokio::time::sleep(pause);
            tokio::pin!(pause);
            loop {
                tokio::select! {
                    task = self.tasks.recv() => match task {
                        Ok(task) => self.take(task).await,
                        Err(_) => return,
                    },
                    () = &mut pause => break,
                }
            }
        }
    }

    async fn take(&self, task: MajorSyncTask) {
        if let MajorSyncTask::AppStateSync { name, full_sync } = &task {
            let what = if *full_sync {
                Owed::Snapshot
            } else {
                Owed::Changes
            };
            if let Err(error) = self.facts.owe(*name, what).await {
                warn!(%error, "what is owed of the app state cannot be stored");
            }
            self.sync(*name, what).await;
        } else {
            self.receive_history(task).await;
        }
    }

    /// Fetches a chunk of history and journals it. It is a gap when the connection ends meanwhile, too.
    async fn receive_history(&self, task: MajorSyncTask) {
        let now = self.clock.now();
        let announced = Announcement::of(&self.sink, now);
        self.client.process_sync_task(task).await;
        if let Some(chunk) = self.chores.take_history() {
            history::journal(chunk, &self.sink, now).await;
            announced.settle();
        }
    }

    /// Synchronises everything owed, the critical collections first. Returns whether something is still
    /// owed.
    async fn settle(&self) -> Result<bool, StoreError> {
        let mut open = false;
        for name in COLLECTIONS {
            if let Some(what) = self.facts.owed(name).await? {
                open |= !self.sync(name, what).await;
            }
        }
        if !open && self.facts.is_initial_sync_owed().await? {
            self.facts.initial_sync_done().await?;
            self.sink.signal(Signal::InitialSyncDone);
        }
        Ok(open)
    }

    /// Returns whether the collection is up to date now.
    async fn sync(&self, name: WAPatchName, what: Owed) -> bool {
        let before = self.shared.version_writes(name.as_str());
        let full_sync = what == Owed::Snapshot;
        if full_sync && let Err(error) = self.backend.forget_collection(name.as_str()).await {
            warn!(%error, "an app-state collection cannot be read anew");
            return false;
        }
        self.client
            .process_sync_task(MajorSyncTask::AppStateSync { name, full_sync })
            .await;
        let synced =
            self.client.is_connected() && self.shared.version_writes(name.as_str()) > before;
        debug!(collection = name.as_str(), full_sync, synced, "app state");
        synced && self.facts.synced(name).await.is_ok()
    }
}

/// The pauses between attempts: doubling, each somewhere in its upper half.
#[derive(Debug, Default)]
struct Pauses {
    tried: u32,
}

impl Pauses {
    fn next(&mut self, entropy: &Entropy) -> Duration {
        let doubled = TRY_AGAIN.saturating_mul(2_u32.saturating_pow(self.tried));
        self.tried = self.tried.saturating_add(1);
        let half = doubled.min(TRY_LAST) / 2;
        let spread = u64::try_from(half.as_millis()).unwrap_or(u64::MAX);
        half + Duration::from_millis(entropy.up_to(spread))
    }
}

/// What the server announced: owed at once, and settled by the library or, failing that, by us.
pub(super) struct Announced {
    pub(super) client: Arc<Client>,
    pub(super) shared: Arc<Shared>,
    pub(super) facts: Facts,
}

impl Announced {
    /// How often each collection's version was written before; taken when the announcement arrives.
    pub(super) fn mark(&self, names: &[WAPatchName]) -> HashMap<&'static str, u64> {
        names
            .iter()
            .map(|name| (name.as_str(), self.shared.version_writes(name.as_str())))
            .collect()
    }

    /// Remembers the debt, waits for the library, and asks for what it left.
    pub(super) async fn settle(self, names: Vec<WAPatchName>, before: HashMap<&'static str, u64>) {
        for name in &names {
            if let Err(error) = self.facts.owe(*name, Owed::Changes).await {
                warn!(%error, "what is owed of the app state cannot be stored");
            }
        }
        tokio::time::sleep(LIBRARY_FIRST).await;
        for name in names {
            let written = |before: u64| self.shared.version_writes(name.as_str()) > before;
            let mark = before.get(name.as_str()).copied().unwrap_or(0);
            if !written(mark) {
                let task = MajorSyncTask::AppStateSync {
                    name,
                    full_sync: false,
                };
                self.client.process_sync_task(task).await;
            }
            let owed = self.facts.owed(name).await;
            if self.client.is_connected() && written(mark) && owed == Ok(Some(Owed::Changes)) {
                let _ = self.facts.synced(name).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_are_bounded() {
        let entropy = Entropy::seeded(1);
        let mut pauses = Pauses::default();
        let taken: Vec<_> = (0..40).map(|_| pauses.next(&entropy)).collect();
        assert!(taken[0] >= TRY_AGAIN / 2 && taken[0] <= TRY_AGAIN);
        for (n, pause) in taken.iter().enumerate().take(8) {
            assert!(*pause >= TRY_AGAIN * 2_u32.pow(u32::try_from(n).unwrap()) / 2);
        }
        assert!(taken.iter().all(|pause| *pause <= TRY_LAST));
        assert!(taken[39] >= TRY_LAST / 2);
    }
}
