//! How calls come to an end before the listeners do: what begins from then on is refused with words, what
//! had begun is waited for. Leases are something that had begun: settling them is let in as long as the
//! subscriptions take it.

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::faults;
use super::status::ApiError;

/// Answers until the listeners are gone, and holds nothing up: balancers watch it.
const HEALTH: &str = "grpc.health.v1.Health";

/// Settles leases.
const SETTLE: (&str, &str) = ("trunkline.v1.EventService", "SettleLeases");

/// Which calls may begin, and which are under way. Clones share both.
#[derive(Debug, Clone)]
pub(super) struct Drain {
    begun: CancellationToken,
    /// No leases are left that could be settled.
    settled: CancellationToken,
    calls: TaskTracker,
}

impl Drain {
    /// Draining begins with `begun`.
    pub(super) fn new(begun: CancellationToken) -> Self {
        Self {
            begun,
            settled: CancellationToken::new(),
            calls: TaskTracker::new(),
        }
    }

    /// Lets a call of `service`'s `method` begin; it is under way until what is returned is dropped.
    ///
    /// # Errors
    /// DRAINING, once that has begun.
    pub(super) fn admit(
        &self,
        service: &str,
        method: &str,
    ) -> Result<Option<TaskTrackerToken>, ApiError> {
        if service == HEALTH {
            return Ok(None);
        }
        // Counted before looking: a call that is let in cannot be overlooked by `ended`.
        let under_way = self.calls.token();
        let may_settle = (service, method) == SETTLE && !self.settled.is_cancelled();
        if self.begun.is_cancelled() && !may_settle {
            return Err(faults::draining());
        }
        Ok(Some(under_way))
    }

    /// Begins, if nobody has yet.
    pub(super) fn begin(&self) {
        self.begun.cancel();
    }

    /// From now on settling is refused like everything else.
    pub(super) fn leases_ended(&self) {
        self.settled.cancel();
    }

    /// Waits until no call is under way.
    pub(super) async fn ended(&self) {
        self.calls.close();
        self.calls.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_began_is_waited_for_and_what_begins_is_refused() {
        let drain = Drain::new(CancellationToken::new());
        let under_way = drain
            .admit("trunkline.v1.MessageService", "SendMessage")
            .unwrap();
        let watched = drain.admit(HEALTH, "Watch").unwrap();
        drain.begin();
        let refused = drain
            .admit("trunkline.v1.MessageService", "SendMessage")
            .unwrap_err();
        assert_eq!(refused.reason(), super::super::status::Reason::Draining);
        assert!(drain.admit(HEALTH, "Watch").is_ok());
        assert!(drain.admit(SETTLE.0, SETTLE.1).is_ok());
        drain.leases_ended();
        let refused = drain.admit(SETTLE.0, SETTLE.1).unwrap_err();
        assert_eq!(refused.reason(), super::super::status::Reason::Draining);
        let ended = tokio::spawn({
            let drain = drain.clone();
            async move { drain.ended().await }
        });
        tokio::task::yield_now().await;
        assert!(!ended.is_finished());
        drop(under_way);
        ended.await.unwrap();
        drop(watched);
    }
}
