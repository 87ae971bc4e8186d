//! The inbound hook: a message is committed to the journal before the library acknowledges it.

use std::sync::Arc;

use async_trait::async_trait;
use tracing::warn;
use whatsapp_rust::Client;
use whatsapp_rust::types::durability_hook::{InboundDurabilityHook, InboundMessage};

use super::backend::{KeyBackend, Shared};
use super::convert::message;
use super::mappings::Mappings;
use super::watch::Watch;
use crate::provider::contract::Sink;

/// See the module documentation.
pub(super) struct Hook {
    pub(super) sink: Arc<dyn Sink>,
    pub(super) watch: Arc<Watch>,
    pub(super) mappings: Arc<Mappings>,
    pub(super) backend: Arc<KeyBackend>,
    pub(super) shared: Arc<Shared>,
}

#[async_trait]
impl InboundDurabilityHook for Hook {
    async fn on_messages(&self, _: Arc<Client>, batch: &[InboundMessage]) -> anyhow::Result<()> {
        for item in batch {
            let source = &item.info.source;
            self.mappings.look_up(&self.backend, source).await;
        }
        let now = self.watch.now();
        let arrivals: Vec<_> = batch
            .iter()
            .filter_map(|item| message::message(item, &self.mappings, now))
            .collect();
        if !arrivals.is_empty()
            && let Err(error) = self.sink.commit(arrivals).await
        {
            warn!(%error, "inbound messages are not durable; closing without acknowledging them");
            self.watch.poison(error.to_string());
            return Err(error.into());
        }
        self.watch.decrypted(batch.len());
        for item in batch {
            self.shared.inflight.concluded(&item.info.id);
        }
        Ok(())
    }
}
