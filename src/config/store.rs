//! `[store]`: the embedded store.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problem::Problems;
use super::session::within;
use super::{duration, size};

/// The embedded store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Store {
    /// Memory for pages of the store. More helps reads of cold sessions; writes do not need it.
    #[serde(with = "size")]
    #[schemars(with = "size::Text")]
    pub cache: u64,
    /// How long one group commit may take before the store counts as stuck and the daemon is not
    /// alive any more (the watchdog then restarts it).
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub commit_timeout: Duration,
    /// How long events stay in the journal, also those that nobody confirmed (a gap event then says
    /// what went).
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub journal_max_age: Duration,
    /// What the journal of one workspace may take on disk, before the engine's overhead. Beyond, history
    /// that every subscription has confirmed goes first; if that is not enough, the workspace's sessions
    /// are disconnected, so that WhatsApp queues for them until events are confirmed. Looked at once a minute; what
    /// `journal_max_age` takes, it takes here too.
    #[serde(with = "size")]
    #[schemars(with = "size::Text")]
    pub journal_max_size: u64,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            cache: 64 << 20,
            commit_timeout: Duration::from_secs(20),
            journal_max_age: Duration::from_hours(30 * 24),
            journal_max_size: 10 << 30,
        }
    }
}

impl Store {
    pub(super) fn validate(&self, problems: &mut Problems) {
        problems.require(
            ((8 << 20)..=(64 << 30)).contains(&self.cache),
            "store.cache",
            "is outside 8MiB to 64GiB; 64MiB suits most machines",
        );
        problems.require(
            (Duration::from_secs(1)..=Duration::from_mins(2)).contains(&self.commit_timeout),
            "store.commit_timeout",
            "is outside 1s to 2m; 20s suits slow disks",
        );
        within(
            problems,
            "store.journal_max_age",
            self.journal_max_age,
            3600,
            3650 * 86_400,
        );
        problems.require(
            ((1 << 20)..=(1 << 50)).contains(&self.journal_max_size),
            "store.journal_max_size",
            "is outside 1MiB to 1048576GiB; 10GiB hold some ten million events",
        );
    }
}
