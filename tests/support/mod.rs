//! What tests of the whole share.

#![allow(
    dead_code,
    reason = "each test binary takes what it needs from this module"
)]

pub(crate) mod core;
pub(crate) mod daemon;
pub(crate) mod http;
pub(crate) mod log;
pub(crate) mod terminal;

use std::time::Duration;

use tokio::time::Instant;

/// Pause between two looks at a condition.
const POLL: Duration = Duration::from_millis(10);

/// Waits until `holds`, and fails with `what` when patience ends.
pub(crate) async fn eventually(
    what: &str,
    patience: Duration,
    mut holds: impl AsyncFnMut() -> bool,
) {
    let deadline = Instant::now() + patience;
    while !holds().await {
        assert!(Instant::now() < deadline, "not within {patience:?}: {what}");
        tokio::time::sleep(POLL).await;
    }
}
