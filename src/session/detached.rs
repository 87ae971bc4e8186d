//! Work that goes on when whoever asked for it goes away.
//!
//! A caller's deadline, or its broken connection, drops the future that serves it. What has begun to
//! change the store and the fleet must not stop half-way then.

use std::panic::resume_unwind;

use tracing::Instrument as _;

/// Runs `work` to its end on a task of its own and returns what it returned; `None` if the runtime ended
/// first. A panic in it goes on in the caller.
pub async fn detached<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> Option<T> {
    match tokio::spawn(work.in_current_span()).await {
        Ok(outcome) => Some(outcome),
        Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_goes_on_without_its_caller() {
        let (start, begun) = tokio::sync::oneshot::channel::<()>();
        let (end, ended) = tokio::sync::oneshot::channel();
        let caller = tokio::spawn(detached(async move {
            let _ = begun.await;
            let _ = end.send("done");
        }));
        tokio::task::yield_now().await;
        caller.abort();
        assert!(caller.await.unwrap_err().is_cancelled());
        start.send(()).unwrap();
        assert_eq!(ended.await.unwrap(), "done");
    }

    #[tokio::test]
    #[should_panic(expected = "as it was")]
    async fn a_panic_reaches_the_caller() {
        detached(async { panic!("as it was") }).await;
    }
}
