//! `[session]`, `[admission]`, `[backoff]` and `[stall]`: how sessions are held.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::duration;
use super::problem::Problems;

/// Every session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Session {
    /// How long a login may take from the first byte.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub login_timeout: Duration,
    /// How long the server may take to acknowledge a message before the connection is renewed and the
    /// same message id is sent again.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub ack_timeout: Duration,
}

impl Default for Session {
    fn default() -> Self {
        Self {
            login_timeout: Duration::from_secs(90),
            ack_timeout: Duration::from_secs(30),
        }
    }
}

impl Session {
    pub(super) fn validate(&self, problems: &mut Problems) {
        within(
            problems,
            "session.login_timeout",
            self.login_timeout,
            5,
            600,
        );
        within(problems, "session.ack_timeout", self.ack_timeout, 1, 600);
    }
}

/// How many sessions connect at once, over the whole fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Admission {
    /// Connection attempts started per second.
    pub per_second: u32,
    /// Connection attempts that may start at once after a quiet time.
    pub burst: u32,
    /// Attempts under way at the same time.
    pub simultaneous: u32,
}

impl Default for Admission {
    fn default() -> Self {
        Self {
            per_second: 20,
            burst: 20,
            simultaneous: 100,
        }
    }
}

impl Admission {
    pub(super) fn validate(&self, problems: &mut Problems) {
        for (key, value) in [
            ("admission.per_second", self.per_second),
            ("admission.burst", self.burst),
            ("admission.simultaneous", self.simultaneous),
        ] {
            problems.require((1..=10_000).contains(&value), key, "is outside 1 to 10000");
        }
    }
}

/// Pauses between connection attempts: exponential with full jitter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Backoff {
    /// The longest pause after the first failure.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub first: Duration,
    /// The longest pause ever.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub max: Duration,
    /// How long a connection must hold before failures are forgotten.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub stable_after: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            max: Duration::from_mins(15),
            stable_after: Duration::from_mins(1),
        }
    }
}

impl Backoff {
    pub(super) fn validate(&self, problems: &mut Problems) {
        problems.require(
            !self.first.is_zero(),
            "backoff.first",
            "must not be zero: a dead server would be hammered",
        );
        problems.require(
            self.max >= self.first && self.max <= Duration::from_hours(24),
            "backoff.max",
            "must lie between backoff.first and 1d",
        );
        within(problems, "backoff.stable_after", self.stable_after, 1, 3600);
    }
}

/// Detecting connections that look alive and are not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Stall {
    /// Silence after which the server is asked for a sign of life.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub silence: Duration,
    /// How long the answer may take before the connection is renewed.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub patience: Duration,
}

impl Default for Stall {
    fn default() -> Self {
        Self {
            silence: Duration::from_mins(1),
            patience: Duration::from_secs(15),
        }
    }
}

impl Stall {
    pub(super) fn validate(&self, problems: &mut Problems) {
        within(problems, "stall.silence", self.silence, 1, 3600);
        within(problems, "stall.patience", self.patience, 1, 600);
    }
}

/// Requires a duration between two bounds in seconds.
pub(super) fn within(problems: &mut Problems, key: &str, value: Duration, least: u64, most: u64) {
    let (least, most) = (Duration::from_secs(least), Duration::from_secs(most));
    problems.require(
        (least..=most).contains(&value),
        key,
        &format!(
            "is {}, outside {} to {}",
            duration::format(value),
            duration::format(least),
            duration::format(most)
        ),
    );
}
