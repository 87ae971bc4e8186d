//! The demo's voice: one short line per step, with the time it took.

use std::time::Duration;

use tokio::time::Instant;

use crate::cli::exit::Failure;
use crate::cli::output::Output;

/// Tells the story.
#[derive(Debug)]
pub(super) struct Story {
    output: Output,
    begun: Instant,
    last: Instant,
}

impl Story {
    /// Begins now.
    pub(super) fn begin(output: Output) -> Self {
        let now = Instant::now();
        Self {
            output,
            begun: now,
            last: now,
        }
    }

    /// What the story is told on.
    pub(super) fn output(&self) -> Output {
        self.output
    }

    /// A step that is done: how long it took and when that was.
    pub(super) fn done(&mut self, text: &str) -> Result<(), Failure> {
        let now = Instant::now();
        let took = now.saturating_duration_since(self.last);
        self.last = now;
        let at = now.saturating_duration_since(self.begun);
        self.output
            .line(&format!("[{:>6}] {text} ({})", seconds(at), seconds(took)))
    }

    /// A remark between steps.
    pub(super) fn say(&self, text: &str) -> Result<(), Failure> {
        self.output.line(&format!("         {text}"))
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
