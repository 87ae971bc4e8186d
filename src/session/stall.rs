//! Noticing a connection that looks alive and is not: silence, then a question, then a verdict.
//!
//! Pure: time is passed in. Silence is measured by changes of the line's own counters on our monotonic
//! clock, so that a step of the wall clock neither hides nor invents it.

use std::time::Duration;

use crate::domain::clock::Timestamp;

/// When to ask and how long to wait for the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StallConfig {
    /// Silence after which the server is asked for a sign of life.
    pub silence: Duration,
    /// How long the answer may take.
    pub patience: Duration,
}

impl Default for StallConfig {
    fn default() -> Self {
        Self {
            silence: Duration::from_mins(1),
            patience: Duration::from_secs(15),
        }
    }
}

/// Watches one connection.
#[derive(Debug)]
pub(super) struct StallWatch {
    silence: Duration,
    last_inbound: Option<Timestamp>,
    heard_at: Duration,
}

impl StallWatch {
    /// A connection that came up `now`.
    pub(super) fn new(config: &StallConfig, now: Duration) -> Self {
        Self {
            silence: config.silence,
            last_inbound: None,
            heard_at: now,
        }
    }

    /// Takes note of the line's last inbound frame; whether it has been silent for too long.
    pub(super) fn is_silent(&mut self, last_inbound: Option<Timestamp>, now: Duration) -> bool {
        if last_inbound != self.last_inbound {
            self.last_inbound = last_inbound;
            self.heard_at = now;
        }
        now.saturating_sub(self.heard_at) >= self.silence
    }

    /// A sign of life came by another way (the answer to a probe).
    pub(super) fn heard(&mut self, now: Duration) {
        self.heard_at = now;
    }

    /// How long until it is worth looking again.
    pub(super) fn next_look(&self, now: Duration) -> Duration {
        let due = self.heard_at.saturating_add(self.silence);
        due.saturating_sub(now).max(self.silence / 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn silence_is_measured_on_the_monotonic_clock() {
        let config = StallConfig {
            silence: 10 * SECOND,
            patience: SECOND,
        };
        let mut watch = StallWatch::new(&config, Duration::ZERO);
        assert!(!watch.is_silent(Some(Timestamp(5)), 9 * SECOND));
        // The wall clock stepped back an hour, and a frame arrived.
        assert!(!watch.is_silent(Some(Timestamp(1)), 15 * SECOND));
        assert!(!watch.is_silent(Some(Timestamp(1)), 24 * SECOND));
        assert!(watch.is_silent(Some(Timestamp(1)), 25 * SECOND));
        watch.heard(25 * SECOND);
        assert!(!watch.is_silent(Some(Timestamp(1)), 26 * SECOND));
        assert_eq!(watch.next_look(26 * SECOND), 9 * SECOND);
        assert_eq!(watch.next_look(99 * SECOND), SECOND);
    }
}
