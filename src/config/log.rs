//! `[log]` and `[metrics]`: what the daemon says about itself.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

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

/// What libraries may say unless a directive opens them up: errors only, and nothing from the Signal
/// library, which prints keys and what it could not decrypt (we report that as events and metrics).
const QUIET: &str = "error,wacore_libsignal=off";

impl Log {
    /// The filter that [`Self::level`] stands for. A plain level is ours alone and leaves the libraries
    /// quiet; directives come on top of that.
    ///
    /// # Errors
    /// When it is neither a level nor a list of directives.
    pub fn filter(&self) -> Result<EnvFilter, ParseError> {
        let level = self.level.trim();
        EnvFilter::try_new(if level.contains(['=', ',']) {
            format!("{QUIET},trunkline=info,{level}")
        } else {
            format!("{QUIET},trunkline={level}")
        })
    }

    pub(super) fn validate(&self, problems: &mut Problems) {
        if let Err(error) = self.filter() {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(level: &str) -> Result<String, ParseError> {
        let log = Log {
            level: level.to_owned(),
            ..Log::default()
        };
        log.filter().map(|filter| filter.to_string())
    }

    #[test]
    fn a_plain_level_leaves_the_libraries_quiet() {
        let plain = filter("debug").unwrap();
        assert!(plain.contains("trunkline=debug"), "{plain}");
        assert!(plain.contains("wacore_libsignal=off"), "{plain}");
        assert!(!plain.contains("=info"), "{plain}");
        let opened = filter("trunkline::session=trace,whatsapp_rust=debug").unwrap();
        assert!(opened.contains("trunkline=info"), "{opened}");
        assert!(opened.contains("whatsapp_rust=debug"), "{opened}");
        assert!(filter("banana").is_err());
    }
}
