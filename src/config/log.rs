//! `[log]` and `[metrics]`: what the daemon says about itself.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::duration;
use super::problem::Problems;
use super::session::within;

/// Logging. Message text, phone numbers and keys never appear above debug.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// "error", "warn", "info", "debug", "trace", or directives such as `info,trunkline::session=debug`.
    pub level: String,
    /// "text" for people, "json" for machines, or "auto": text on a terminal, else json.
    pub format: LogFormat,
}

/// The shape of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum LogFormat {
    /// Text on a terminal, else json.
    Auto,
    /// For people.
    Text,
    /// For machines.
    Json,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            format: LogFormat::Auto,
        }
    }
}

impl Log {
    pub(super) fn validate(&self, problems: &mut Problems) {
        if let Err(error) = tracing_subscriber::EnvFilter::try_new(&self.level) {
            problems.add(
                "log.level",
                format!("`{}` is not a level or a list of directives ({error}); use for instance \"info\"", self.level),
            );
        }
        problems.require(
            !self.level.trim().is_empty(),
            "log.level",
            "is empty; use for instance \"info\"",
        );
    }
}

/// Metrics.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// How long a counter or histogram that nothing touches stays in the exposition.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub idle_timeout: Duration,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            idle_timeout: Duration::from_hours(1),
        }
    }
}

impl Metrics {
    pub(super) fn validate(&self, problems: &mut Problems) {
        within(
            problems,
            "metrics.idle_timeout",
            self.idle_timeout,
            60,
            7 * 86_400,
        );
    }
}
