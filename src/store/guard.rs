//! Wall time that may delete.
//!
//! What goes by age goes for good, so a clock that is wrong for a minute must not be believed at once:
//! a virtual machine that wakes up, a dead battery, a bad time server. Wall time is compared with
//! monotonic time, and across a restart with the wall time of the run before. After a step nothing is
//! deleted by age until the clock has run evenly for [`STEADY`].

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prost::Message;

use super::migrate::first_version;
use crate::domain::clock::{Clock, Timestamp};

/// How far wall time may move against monotonic time between two looks.
const TOLERANCE: Duration = Duration::from_mins(5);

/// How long the clock has to run evenly after a step.
const STEADY: Duration = Duration::from_hours(1);

/// A daemon that was down for longer than this finds out first whether it was.
const MOST_DOWN: Duration = Duration::from_hours(24);

/// How old the stored wall time may become.
const STORE_EVERY: Duration = Duration::from_mins(10);

/// The wall time of the run before.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct ClockRow {
    #[prost(uint64, tag = "1")]
    pub(super) at: u64,
}
first_version!(ClockRow, "clock");

/// Watches the wall clock.
#[derive(Debug)]
pub(super) struct ClockGuard(Mutex<Seen>);

#[derive(Debug)]
struct Seen {
    wall: Timestamp,
    elapsed: Duration,
    /// Since when the clock has to prove itself.
    doubted_since: Option<Duration>,
    stored: Option<Timestamp>,
}

impl ClockGuard {
    /// A guard that begins now; `stored` is the wall time of the run before.
    pub(super) fn new(clock: &dyn Clock, stored: Option<Timestamp>) -> Self {
        let (wall, elapsed) = (clock.now(), clock.elapsed());
        let jumped = stored.is_some_and(|stored| wall.since(stored) > MOST_DOWN);
        if jumped {
            tracing::warn!(
                "the clock is more than a day ahead of the last run: nothing is deleted by age for an hour"
            );
        }
        Self(Mutex::new(Seen {
            wall,
            elapsed,
            doubted_since: jumped.then_some(elapsed),
            stored,
        }))
    }

    /// The wall time, if it may delete.
    pub(super) fn now(&self, clock: &dyn Clock) -> Option<Timestamp> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (wall, elapsed) = (clock.now(), clock.elapsed());
        let expected = seen.wall.plus(elapsed.saturating_sub(seen.elapsed));
        if wall.since(expected).max(expected.since(wall)) > TOLERANCE {
            tracing::warn!("the clock was set: nothing is deleted by age for an hour");
            seen.doubted_since = Some(elapsed);
        }
        (seen.wall, seen.elapsed) = (wall, elapsed);
        let doubted = seen
            .doubted_since
            .is_some_and(|since| elapsed.saturating_sub(since) < STEADY);
        if doubted {
            return None;
        }
        seen.doubted_since = None;
        Some(wall)
    }

    /// Whether `now`, which may delete, is to be stored for the next run.
    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // After a step back, the earlier one is the right one.
        let fresh = seen
            .stored
            .is_some_and(|stored| now >= stored && now.since(stored) < STORE_EVERY);
        if !fresh {
            seen.stored = Some(now);
        }
        !fresh
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::clock::ManualClock;

    const NOW: Timestamp = Timestamp(1_795_262_400_000);
    const DAY: Duration = Duration::from_hours(24);

    #[test]
    fn a_clock_that_runs_evenly_is_believed() {
        let clock = ManualClock::at(NOW);
        let guard = ClockGuard::new(&clock, Some(NOW));
        for span in [Duration::ZERO, Duration::from_mins(1), DAY * 40] {
            clock.advance(span);
            assert_eq!(guard.now(&clock), Some(clock.now()));
        }
    }

    #[test]
    fn a_clock_that_was_set_has_to_prove_itself() {
        let clock = ManualClock::at(NOW);
        let guard = ClockGuard::new(&clock, None);
        for wrong in [NOW.plus(DAY * 40), Timestamp(0)] {
            clock.set_wall(wrong);
            assert_eq!(guard.now(&clock), None);
            clock.advance(Duration::from_mins(59));
            assert_eq!(guard.now(&clock), None);
        }
        clock.advance(Duration::from_mins(1));
        assert_eq!(guard.now(&clock), Some(clock.now()));
    }

    #[test]
    fn a_clock_far_ahead_of_the_last_run_has_to_prove_itself() {
        let clock = ManualClock::at(NOW.plus(DAY * 2));
        let guard = ClockGuard::new(&clock, Some(NOW));
        assert_eq!(guard.now(&clock), None);
        clock.advance(Duration::from_hours(1));
        assert_eq!(guard.now(&clock), Some(clock.now()));
        assert!(guard.is_due(clock.now()));
        assert!(!guard.is_due(clock.now()));
    }
}
