//! Tasks that serve one stream: a panic ends that stream with an error and nothing else, and so does the
//! loss of the right to it.

use std::panic::AssertUnwindSafe;

use futures::FutureExt as _;
use tokio::sync::mpsc;
use tonic::Status;
use tracing::Instrument as _;

use super::faults;
use super::gate::Standing;

/// A panic as an error. Not its words, which may quote a message: the process's panic hook logs those at
/// debug, and where it happened in the line before this one.
pub(super) const PANICKED: &str = "panicked";

/// Runs `work` as the task behind a stream. The stream ends when both `work` and its senders are gone, or
/// when `standing` is lost.
pub(super) fn spawn<T: Send + 'static>(
    out: mpsc::Sender<Result<T, Status>>,
    standing: Standing,
    work: impl Future<Output = ()> + Send + 'static,
) {
    let contained = async move {
        let work = AssertUnwindSafe(work).catch_unwind();
        let error = tokio::select! {
            done = work => match done {
                Ok(()) => return,
                Err(_) => faults::internal(&PANICKED),
            },
            lost = standing.lost() => lost,
        };
        // Nobody listens any more: nobody to tell.
        let _ = out.send(Err(error.into())).await;
    };
    tokio::spawn(contained.in_current_span());
}
