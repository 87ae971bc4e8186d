//! Real time, of which the wall clock can be stepped.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::domain::clock::{Clock, SystemClock, Timestamp};

/// The machine's clock, ahead by as much as the test says: a deadline passes when the test wants it to.
#[derive(Debug)]
pub(in crate::session) struct SteppedClock {
    machine: SystemClock,
    ahead_ms: AtomicU64,
}

impl SteppedClock {
    pub(super) fn new() -> Self {
        Self {
            machine: SystemClock::new(),
            ahead_ms: AtomicU64::new(0),
        }
    }

    /// Steps wall time forward; timers that are asleep do not notice.
    pub(in crate::session) fn step(&self, by: Duration) {
        let ms = u64::try_from(by.as_millis()).unwrap();
        self.ahead_ms.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for SteppedClock {
    fn now(&self) -> Timestamp {
        let ahead = Duration::from_millis(self.ahead_ms.load(Ordering::SeqCst));
        self.machine.now().plus(ahead)
    }

    fn elapsed(&self) -> Duration {
        self.machine.elapsed()
    }
}
