//! Messages whose key is spent although nobody has seen them.
//!
//! The library takes a message whose key is gone for a redelivery, and acknowledges it. Usually it is
//! one. It is a loss when the ratchet step reached the disk and the message did not (a crash between
//! the two), or when the sender used a counter twice. Nothing in the message tells the three apart; the
//! journal does. So before the library acknowledges a repetition, it is looked up, and if nobody has
//! seen it, it is reported as undecryptable and asked for again: a recipient whose keys are in order
//! gets it a second time under a fresh key.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tracing::{debug, warn};
use wacore_binary::OwnedNodeRef;
use whatsapp_rust::Client;
use whatsapp_rust::features::RetryRequestOptions;

use super::backend::KeyBackend;
use super::convert::message;
use super::mappings::Mappings;
use super::watch::Watch;
use crate::provider::contract::{CommitError, Sink};

/// How long the acknowledgement of a spent message waits for the request to leave, so that a crash in
/// between loses neither.
const REQUEST_PATIENCE: Duration = Duration::from_secs(2);

/// See the module documentation.
pub(super) struct Spent {
    sink: Arc<dyn Sink>,
    watch: Arc<Watch>,
    mappings: Arc<Mappings>,
    client: Weak<Client>,
}

impl Spent {
    pub(super) fn new(
        sink: Arc<dyn Sink>,
        watch: Arc<Watch>,
        mappings: Arc<Mappings>,
        client: &Arc<Client>,
    ) -> Self {
        Self {
            sink,
            watch,
            mappings,
            // The client owns the backend that owns this.
            client: Arc::downgrade(client),
        }
    }

    /// Looks at a delivery that the library takes for a repetition and has no stored copy of. If nobody
    /// has seen the message, reports that, asks the sender again, and answers true.
    ///
    /// # Errors
    /// When the journal cannot be read: the delivery must not be acknowledged then.
    pub(super) async fn reported(
        &self,
        backend: &KeyBackend,
        stanza: &Arc<OwnedNodeRef>,
    ) -> Result<bool, CommitError> {
        let Some(client) = self.client.upgrade() else {
            return Ok(false);
        };
        let Some(own) = client.pn() else {
            return Ok(false);
        };
        let info =
            match wacore::messages::parse_message_info(stanza.get(), &own, client.lid().as_ref()) {
                Ok(info) => info,
                Err(error) => {
                    debug!(%error, "a repeated message has no readable envelope");
                    return Ok(false);
                }
            };
        self.mappings.look_up(backend, &info.source).await;
        let Some((message, report)) = message::spent(&info, &self.mappings, self.watch.now())
        else {
            return Ok(false);
        };
        if self.sink.knows(&message).await? {
            return Ok(false);
        }
        warn!("the key of an unseen message is spent; reporting it and asking the sender again");
        metrics::counter!("trunkline_spent_messages_total").increment(1);
        self.watch.undecryptable();
        self.sink.enqueue(report);
        // On a task of its own: it may need locks that the library holds while it waits for us.
        let asking = tokio::spawn({
            let stanza = Arc::clone(stanza);
            async move {
                let options = RetryRequestOptions::new();
                client.request_message_retry(stanza.get(), options).await
            }
        });
        match tokio::time::timeout(REQUEST_PATIENCE, asking).await {
            Ok(Ok(Ok(_))) => {}
            Ok(Ok(Err(error))) => warn!(%error, "the sender could not be asked again"),
            Ok(Err(error)) => warn!(%error, "asking the sender again failed"),
            Err(_) => warn!("asking the sender again takes long; going on"),
        }
        Ok(true)
    }
}
