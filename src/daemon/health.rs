//! Health on the API's listeners follows readiness: balancers that ask in gRPC hear what others read over HTTP.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::ops::Vitals;

/// How often readiness is looked at.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Shows readiness when it changes, until `stop`. It begins as shown: ready.
pub(super) async fn follow(
    vitals: Vitals,
    every: Duration,
    mut show: impl AsyncFnMut(bool),
    stop: CancellationToken,
) {
    let mut shown = true;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(every) => {}
        }
        let ready = vitals.is_ready();
        if ready != shown {
            show(ready).await;
            shown = ready;
        }
    }
}
