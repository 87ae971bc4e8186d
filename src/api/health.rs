//! What `grpc.health.v1` says of the daemon and of each service: the same for all, since one store and one
//! supervisor stand behind them.

use std::sync::Arc;

use tokio::sync::Mutex;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

/// What is shown. Clones share it.
#[derive(Clone)]
pub struct Health {
    reporter: HealthReporter,
    services: &'static [&'static str],
    /// Whether the last word was said.
    ended: Arc<Mutex<bool>>,
}

impl std::fmt::Debug for Health {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Health")
    }
}

impl Health {
    /// Health of these services, which serve.
    pub(super) async fn new(reporter: HealthReporter, services: &'static [&'static str]) -> Self {
        let health = Self {
            reporter,
            services,
            ended: Arc::default(),
        };
        health.set(true).await;
        health
    }

    /// Says from now on whether calls can be served; nothing once the daemon drains.
    pub async fn set(&self, serving: bool) {
        let ended = self.ended.lock().await;
        if !*ended {
            self.show(serving).await;
        }
    }

    /// Says for good that nothing is served any more.
    pub(super) async fn end(&self) {
        let mut ended = self.ended.lock().await;
        *ended = true;
        self.show(false).await;
    }

    async fn show(&self, serving: bool) {
        let status = if serving {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        for service in self.services {
            self.reporter.set_service_status(service, status).await;
        }
    }
}
