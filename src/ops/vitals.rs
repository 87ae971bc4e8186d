//! What readiness, the watchdog and the gauges are read from. Nothing here is remembered: each question
//! looks at the store and the sessions anew.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use metrics::{counter, gauge};
use tokio_util::sync::CancellationToken;

use crate::session::Supervisor;
use crate::store::Store;
use crate::telemetry;

use super::process;

/// One condition of readiness.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What is checked.
    pub name: &'static str,
    /// What is wrong; `None` when nothing is.
    pub problem: Option<String>,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.problem {
            None => write!(f, "[+] {} ok", self.name),
            Some(problem) => write!(f, "[-] {}: {problem}", self.name),
        }
    }
}

/// What [`Vitals`] looks at.
pub struct VitalsParts {
    /// The store.
    pub store: Store,
    /// How long a commit may take before the store counts as stuck.
    pub stuck_after: Duration,
    /// Cancelled when the daemon drains.
    pub draining: CancellationToken,
    /// Cancelled when the API answers.
    pub serving: CancellationToken,
    /// Cancelled when a listener or another part that must run has ended by itself.
    pub broken: CancellationToken,
    /// Where the store is.
    pub state_dir: PathBuf,
    /// The sessions.
    pub supervisor: Supervisor,
}

/// See the module documentation. Clones look at the same daemon.
#[derive(Clone)]
pub struct Vitals(Arc<VitalsParts>);

impl fmt::Debug for Vitals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Vitals")
    }
}

impl Vitals {
    /// Looks at these parts.
    pub fn new(parts: VitalsParts) -> Self {
        Self(Arc::new(parts))
    }

    /// Every condition of readiness.
    pub fn checks(&self) -> Vec<Check> {
        let parts = &self.0;
        vec![
            Check {
                name: "store",
                problem: self.store_problem(),
            },
            Check {
                name: "listeners",
                problem: self.listener_problem(),
            },
            Check {
                name: "accepting",
                problem: parts
                    .draining
                    .is_cancelled()
                    .then(|| "draining before shutdown".to_owned()),
            },
        ]
    }

    /// Whether every condition of readiness holds.
    pub fn is_ready(&self) -> bool {
        self.checks().iter().all(|check| check.problem.is_none())
    }

    fn listener_problem(&self) -> Option<String> {
        if self.0.broken.is_cancelled() {
            Some("a listener ended by itself".to_owned())
        } else if self.0.serving.is_cancelled() {
            None
        } else {
            Some("the API does not answer yet: sessions are being restored".to_owned())
        }
    }

    /// What is wrong with the store, if anything is.
    pub fn store_problem(&self) -> Option<String> {
        let health = self.0.store.health();
        (health.stuck_for >= self.0.stuck_after)
            .then(|| format!("nothing was written for {} s", health.stuck_for.as_secs()))
    }

    /// One line for `systemctl status`.
    pub fn summary(&self) -> String {
        let counts = self.0.supervisor.counts();
        format!(
            "{}/{} connected, backlog {}",
            counts.online, counts.wanted, counts.waiting
        )
    }

    /// Writes the gauges that are read rather than counted.
    #[allow(
        clippy::cast_precision_loss,
        reason = "gauges are floats; these stay far below 2^52"
    )]
    pub fn record(&self) {
        let health = self.0.store.health();
        gauge!("trunkline_store_commits_in_flight").set(health.in_flight as f64);
        gauge!("trunkline_store_stuck_seconds").set(health.stuck_for.as_secs_f64());
        counter!("trunkline_store_commits_total").absolute(health.durable);
        counter!("trunkline_store_syncs_total").absolute(health.syncs);
        gauge!("trunkline_store_disk_bytes").set(health.disk_bytes as f64);
        gauge!("trunkline_store_open_seconds").set(health.open_time.as_secs_f64());
        gauge!("trunkline_draining").set(boolean(self.0.draining.is_cancelled()));
        gauge!("trunkline_ready").set(boolean(self.is_ready()));
        process::record(&self.0.state_dir);
        telemetry::touch();
    }
}

fn boolean(value: bool) -> f64 {
    if value { 1.0 } else { 0.0 }
}
