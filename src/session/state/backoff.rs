//! How long to wait between attempts.

use std::time::Duration;

use crate::domain::clock::Entropy;

/// Exponential backoff with full jitter above a floor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Shortest wait.
    pub base: Duration,
    /// Longest wait.
    pub cap: Duration,
}

impl Backoff {
    /// The wait after `attempt` failures in a row (from 1): uniform between the base and
    /// `base × 2^attempt`, never above the cap.
    pub fn delay(&self, attempt: u32, entropy: &Entropy) -> Duration {
        let base = millis(self.base);
        let cap = millis(self.cap).max(base);
        let ceiling = base
            .saturating_mul(1_u64.checked_shl(attempt).unwrap_or(u64::MAX))
            .clamp(base, cap);
        Duration::from_millis(base + entropy.up_to(ceiling - base))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn waits_stay_within_the_bounds(attempt: u32, seed: u64, base in 1_u64..5_000, extra in 0_u64..900_000) {
            let backoff = Backoff {
                base: Duration::from_millis(base),
                cap: Duration::from_millis(base + extra),
            };
            let delay = backoff.delay(attempt, &Entropy::seeded(seed));
            prop_assert!(delay >= backoff.base && delay <= backoff.cap);
        }
    }

    #[test]
    fn the_ceiling_doubles_until_the_cap_and_the_whole_span_is_used() {
        let backoff = Backoff {
            base: Duration::from_secs(1),
            cap: Duration::from_mins(15),
        };
        let entropy = Entropy::seeded(3);
        for (attempt, ceiling) in [
            (1, 2),
            (2, 4),
            (5, 32),
            (9, 512),
            (10, 900),
            (60, 900),
            (64, 900),
        ] {
            let ceiling = Duration::from_secs(ceiling);
            let drawn: Vec<_> = (0..500).map(|_| backoff.delay(attempt, &entropy)).collect();
            assert!(drawn.iter().all(|d| *d <= ceiling), "{attempt}");
            assert!(drawn.iter().any(|d| *d > ceiling.mul_f64(0.9)), "{attempt}");
            assert!(
                drawn
                    .iter()
                    .any(|d| *d < ceiling.mul_f64(0.5).max(backoff.base.mul_f64(1.1))),
                "{attempt}"
            );
        }
    }
}
