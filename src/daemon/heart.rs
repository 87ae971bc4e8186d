//! The question behind the watchdog: do supervisor and store still answer?

use crate::ops::Vitals;
use crate::session::Supervisor;

/// See the module documentation.
#[derive(Debug, Clone)]
pub struct Heart {
    vitals: Vitals,
    supervisor: Supervisor,
}

impl Heart {
    pub(super) fn new(vitals: Vitals, supervisor: Supervisor) -> Self {
        Self { vitals, supervisor }
    }

    /// Whether the store writes what it is given and the supervisor's registry can be walked. The walk
    /// takes every lock of the registry, on a thread of the runtime: a deadlock there, or a runtime that
    /// no longer turns, means that no answer comes at all.
    pub async fn beats(&self) -> bool {
        if let Some(problem) = self.vitals.store_problem() {
            tracing::error!(problem, "the store does not answer");
            return false;
        }
        let supervisor = self.supervisor.clone();
        tokio::spawn(async move { supervisor.counts().sessions })
            .await
            .is_ok()
    }
}

#[cfg(test)]
mod tests;
