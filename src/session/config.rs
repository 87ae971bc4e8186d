//! The numbers the session layer runs by. The daemon fills them from its configuration file.

use std::time::Duration;

use thiserror::Error;

use super::admission::AdmissionConfig;
use super::breaker::BreakerConfig;
use super::outbound::OutboundConfig;
use super::pacing::PacingConfig;
use super::stall::StallConfig;
use super::state::Rules;

/// Everything an operator may set about sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionConfig {
    /// Backoff and crash limits.
    pub rules: Rules,
    /// Fleet-wide limits on connecting.
    pub admission: AdmissionConfig,
    /// When the fleet stops trying and probes instead.
    pub breaker: BreakerConfig,
    /// Detecting connections that look alive and are not.
    pub stall: StallConfig,
    /// Sending.
    pub outbound: OutboundConfig,
    /// How fast a session sends.
    pub pacing: PacingConfig,
    /// How long a login may take, from the start of the attempt.
    pub login_timeout: Duration,
    /// How long a pairing may take, from the start of the attempt.
    pub pairing_timeout: Duration,
    /// How long a line may take to end after it was told to, before its task is dropped.
    pub close_timeout: Duration,
    /// Commands a session's mailbox holds; more are refused until it has caught up.
    pub mailbox: usize,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            rules: Rules::default(),
            admission: AdmissionConfig::default(),
            breaker: BreakerConfig::default(),
            stall: StallConfig::default(),
            outbound: OutboundConfig::default(),
            pacing: PacingConfig::default(),
            login_timeout: Duration::from_secs(90),
            pairing_timeout: Duration::from_mins(5),
            close_timeout: Duration::from_secs(20),
            mailbox: 64,
        }
    }
}

/// A value that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{key} {problem}")]
pub struct ConfigProblem {
    /// The key at fault.
    pub key: &'static str,
    /// What is wrong with it and what would be right.
    pub problem: &'static str,
}

impl SessionConfig {
    /// Checks the values against each other.
    ///
    /// # Errors
    /// The first [`ConfigProblem`].
    pub fn validate(&self) -> Result<(), ConfigProblem> {
        let rules = &self.rules;
        let checks = [
            (
                !rules.backoff.base.is_zero() && rules.backoff.base <= rules.backoff.cap,
                "backoff.first",
                "must be above zero and not above backoff.max",
            ),
            (
                !rules.slow.base.is_zero() && rules.slow.base <= rules.slow.cap,
                "backoff.slow",
                "must be above zero and not above its longest wait",
            ),
            (
                !rules.stable_after.is_zero(),
                "backoff.stable_after",
                "must be above zero",
            ),
            (
                rules.crash_limit > 0,
                "session.crash_limit",
                "must be at least 1",
            ),
            (
                self.admission.per_second > 0 && self.admission.burst > 0,
                "admission.per_second",
                "and admission.burst must be at least 1",
            ),
            (
                self.admission.simultaneous > 0,
                "admission.simultaneous",
                "must be at least 1",
            ),
            (
                self.breaker.probes > 0 && self.breaker.failures > 0,
                "breaker.probes",
                "and breaker.failures must be at least 1",
            ),
            (
                !self.stall.silence.is_zero() && !self.stall.patience.is_zero(),
                "stall.silence",
                "and stall.patience must be above zero",
            ),
            (
                self.outbound.window > 0 && self.outbound.backlog > 0,
                "outbound.window",
                "and outbound.backlog must be at least 1",
            ),
            (
                !self.outbound.ack_timeout.is_zero() && self.outbound.max_attempts > 0,
                "session.ack_timeout",
                "must be above zero, and outbound.max_attempts at least 1",
            ),
            (
                !self.login_timeout.is_zero(),
                "session.login_timeout",
                "must be above zero",
            ),
            (self.mailbox > 0, "session.mailbox", "must be at least 1"),
        ];
        for (holds, key, problem) in checks {
            if !holds {
                return Err(ConfigProblem { key, problem });
            }
        }
        self.pacing.validate()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_nonsense_names_its_key() {
        assert_eq!(SessionConfig::default().validate(), Ok(()));
        let mut config = SessionConfig::default();
        config.admission.simultaneous = 0;
        assert_eq!(config.validate().unwrap_err().key, "admission.simultaneous");
        let mut config = SessionConfig::default();
        config.pacing.session.per_minute = 0;
        assert!(config.validate().is_err());
    }
}
