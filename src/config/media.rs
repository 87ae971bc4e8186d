//! `[media]`: files that were uploaded to be sent.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problem::Problems;
use super::session::within;
use super::{duration, size};

/// Files that were uploaded to be sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Media {
    /// The longest file. WhatsApp takes up to 2GiB, and less of some kinds.
    #[serde(with = "size")]
    #[schemars(with = "size::Text")]
    pub max_file: u64,
    /// What the files of one workspace may take on disk.
    #[serde(with = "size")]
    #[schemars(with = "size::Text")]
    pub max_workspace: u64,
    /// How long a file is kept that no waiting message needs.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub keep: Duration,
}

impl Default for Media {
    fn default() -> Self {
        Self {
            max_file: 100 << 20,
            max_workspace: 5 << 30,
            keep: Duration::from_hours(7 * 24),
        }
    }
}

impl Media {
    pub(super) fn validate(&self, problems: &mut Problems) {
        problems.require(
            (1..=(2 << 30)).contains(&self.max_file),
            "media.max_file",
            "is outside 1 byte to 2GiB",
        );
        problems.require(
            (self.max_file..=(1 << 50)).contains(&self.max_workspace),
            "media.max_workspace",
            "is smaller than media.max_file, or larger than 1048576GiB",
        );
        within(problems, "media.keep", self.keep, 3600, 365 * 86_400);
    }
}
