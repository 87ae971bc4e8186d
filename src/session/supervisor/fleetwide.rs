//! What concerns all sessions: restore at boot, counts, metrics, shutdown.

use std::collections::BTreeMap;
use std::sync::Weak;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{Handle, Inner, Supervisor};
use crate::domain::ids::SessionName;
use crate::domain::session::{Connection, Desired, Login};
use crate::session::mailbox::Message;
use crate::session::status::SessionStatus;
use crate::store::{Day, LookupError, SessionStore, StoreError};

/// Sessions read at a time.
const PAGE: usize = 200;

/// How often the fleet's gauges are refreshed.
const MEASURE: Duration = Duration::from_secs(5);

/// What [`Supervisor::restore`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Restored {
    /// Sessions that exist.
    pub sessions: usize,
    /// Sessions that will connect.
    pub connecting: usize,
    /// Sessions whose provider this build does not have.
    pub orphaned: usize,
}

/// How the fleet is doing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FleetCounts {
    /// Sessions, by provider and state name.
    pub states: BTreeMap<(String, &'static str), usize>,
    /// All sessions.
    pub sessions: usize,
    /// Sessions that are online.
    pub online: usize,
    /// Sessions that should be online.
    pub wanted: usize,
    /// Messages waiting in the queues of connected sessions.
    pub waiting: usize,
    /// Sessions waiting for admission.
    pub asking: usize,
    /// Whether the fleet-wide breaker holds attempts back.
    pub breaker_tripped: bool,
}

impl Supervisor {
    /// Starts the actors of all sessions in the store; those with work to do or traffic lately first.
    /// Deletes nothing.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn restore(&self) -> Result<Restored, StoreError> {
        let mut restored = Restored::default();
        let mut later = Vec::new();
        let mut cursor = None;
        loop {
            let (page, next) = self.0.store.fleet(cursor, PAGE).await?;
            for store in page {
                let record = match store.record().await {
                    Ok(record) => record,
                    // Deleted in between.
                    Err(LookupError::NotFound { .. }) => continue,
                    Err(LookupError::Store(error)) => return Err(error),
                };
                restored.sessions += 1;
                if !self.0.fleet.providers.contains_key(&record.provider) {
                    restored.orphaned += 1;
                }
                let connects = record.desired == Desired::Running
                    && (record.login == Login::Paired || record.pairing_unconfirmed);
                restored.connecting += usize::from(connects);
                if connects && self.is_busy(&store).await? {
                    self.adopt(store, &record, false);
                } else {
                    later.push((store, record));
                }
            }
            match next {
                Some(next) => cursor = Some(next),
                None => break,
            }
        }
        for (store, record) in later {
            self.adopt(store, &record, false);
        }
        tracing::info!(
            sessions = restored.sessions,
            connecting = restored.connecting,
            "sessions restored"
        );
        Ok(restored)
    }

    async fn is_busy(&self, store: &SessionStore) -> Result<bool, StoreError> {
        if !store.outbox().queue(0, 1).await?.is_empty() {
            return Ok(true);
        }
        let usage = store.workspace().usage();
        let used = usage
            .of_session(&store.name().session, Day::of(self.0.fleet.clock.now()))
            .await?;
        Ok(used.sent > 0 || used.received > 0)
    }

    /// How the fleet is doing.
    pub fn counts(&self) -> FleetCounts {
        self.0.counts()
    }

    /// The statuses of all sessions of this process that pass `wanted`, in the order of their names.
    pub fn statuses(&self, wanted: impl Fn(&SessionName) -> bool) -> Vec<SessionStatus> {
        let now = self.0.fleet.clock.now();
        let mut statuses: Vec<_> = self
            .0
            .sessions
            .iter()
            .filter(|entry| wanted(entry.key()))
            .map(|entry| entry.cell.status(now))
            .collect();
        statuses.sort_by(|a, b| a.name.cmp(&b.name));
        statuses
    }

    /// Ends all sessions in good order: attempts are closed, what arrived is made durable, wishes and
    /// credentials stay. Returns the number of sessions that did not end within `patience`.
    pub async fn shutdown(&self, patience: Duration) -> usize {
        self.0.stop.cancel();
        self.0.keepers.close();
        self.0.services.close();
        let handles: Vec<Handle> = self.0.sessions.iter().map(|entry| entry.clone()).collect();
        for handle in &handles {
            // A full mailbox is emptied soon; a closed one belongs to an actor that has ended.
            let (done, _) = oneshot::channel();
            let mailbox = handle.mailbox.clone();
            self.0.services.spawn(async move {
                let _ = mailbox.send(Message::Shutdown(done)).await;
            });
        }
        let all = async {
            self.0.keepers.wait().await;
            self.0.services.wait().await;
        };
        if tokio::time::timeout(patience, all).await.is_ok() {
            return 0;
        }
        let left = handles
            .iter()
            .filter(|handle| !handle.mailbox.is_closed())
            .count();
        tracing::warn!(left, "sessions did not end in time");
        left
    }
}

#[cfg(test)]
impl Supervisor {
    /// Locks the part of the registry that this session is in, until what is returned is dropped.
    pub(crate) fn hold(&self, name: SessionName) -> impl Sized + '_ {
        self.0.sessions.entry(name)
    }
}

impl Inner {
    fn counts(&self) -> FleetCounts {
        let mut counts = FleetCounts::default();
        for entry in &self.sessions {
            let status = entry.cell.status.borrow();
            counts.sessions += 1;
            counts.online += usize::from(status.connection == Connection::Online);
            let wanted = status.desired == Desired::Running && status.login == Login::Paired;
            counts.wanted += usize::from(wanted);
            counts.waiting += entry.cell.depth.borrow().waiting;
            let state = (status.provider.clone(), status.connection.name());
            *counts.states.entry(state).or_default() += 1;
        }
        counts.asking = self.fleet.admission.load().0;
        counts.breaker_tripped = self.fleet.admission.is_tripped();
        counts
    }

    fn oldest_waiting(&self) -> Option<Duration> {
        let now = self.fleet.clock.now();
        let oldest = |entry: dashmap::mapref::multiple::RefMulti<'_, SessionName, Handle>| {
            entry.cell.depth.borrow().oldest
        };
        self.sessions
            .iter()
            .filter_map(oldest)
            .min()
            .map(|at| now.since(at))
    }
}

/// Every state there is, so that a gauge that was set is also cleared.
const STATES: [&str; 11] = [
    "UNPAIRED",
    "PAIRING",
    "CONNECTING",
    "ONLINE",
    "BACKOFF",
    "REPLACED",
    "LOGGED_OUT",
    "BANNED",
    "OUTDATED",
    "FAILED",
    "STOPPED",
];

/// Refreshes the fleet's gauges until `stop`.
pub(super) async fn measure(inner: Weak<Inner>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(MEASURE) => {}
        }
        let Some(inner) = inner.upgrade() else {
            return;
        };
        let counts = inner.counts();
        for provider in inner.fleet.providers.keys() {
            for state in STATES {
                let key = (provider.clone(), state);
                let sessions = counts.states.get(&key).copied().unwrap_or_default();
                metrics::gauge!(
                    "trunkline_sessions", "state" => state, "provider" => provider.clone()
                )
                .set(gauge(sessions));
            }
        }
        metrics::gauge!("trunkline_admission_waiting").set(gauge(counts.asking));
        let tripped = usize::from(inner.fleet.admission.is_tripped());
        metrics::gauge!("trunkline_breaker_tripped").set(gauge(tripped));
        metrics::gauge!("trunkline_outbound_waiting").set(gauge(counts.waiting));
        let oldest = inner.oldest_waiting().unwrap_or_default();
        metrics::gauge!("trunkline_outbound_oldest_seconds").set(oldest.as_secs_f64());
    }
}

fn gauge(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

// Used by the tests of this module's siblings.
#[cfg(test)]
impl Supervisor {
    pub(in crate::session) fn admission(
        &self,
    ) -> std::sync::Arc<crate::session::admission::Admission> {
        std::sync::Arc::clone(&self.0.fleet.admission)
    }
}
