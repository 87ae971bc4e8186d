//! WhatsApp multi-device: a linked device of a phone, through the library `whatsapp-rust`.
//!
//! Nothing of the library leaves this folder. Reading order: [`line`] (one attempt after another),
//! `attempt` (one connection), [`client`] (how the library is put together), then what it is given: `transport`
//! and `gate` below it, `backend` for its keys, `hook` and `handler` for what it reports.
//!
//! What is at-least-once and what is not:
//!
//! | what | how |
//! |---|---|
//! | messages, 1:1 and groups | at-least-once: committed by the hook before the library acknowledges |
//! | receipts, notifications, undecryptables, calls | at-least-once: held back by the ack gate |
//! | newsletter posts | at-least-once: taken from the stanza, held back by the ack gate |
//! | messages the phone sends again for us (placeholder resend) | at-least-once, as arrivals of the gate |
//! | status updates | at-most-once: the library acknowledges some of them before they are decrypted |
//! | app-state changes | at-most-once while running; after an unclean stop resynchronised, and what was not journalled becomes events |
//! | history | off unless configured; HISTORY events, or a GAP if it cannot be had; acknowledged before it is fetched, so at-most-once |
//! | presence and typing | at-most-once by nature, off unless configured |

mod attempt;
mod backend;
mod chores;
mod classify;
mod client;
pub mod config;
mod convert;
mod encode;
pub mod endpoint;
mod facts;
mod fetch;
mod gate;
mod groups;
mod handler;
mod history;
mod hook;
mod http;
mod line;
mod lru;
mod mappings;
mod pairing;
mod renewal;
mod resync;
mod retries;
mod send;
mod spent;
#[cfg(test)]
mod testing;
mod tls;
mod transport;
mod upload;
mod watch;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

pub use self::config::{ConfigError, MultideviceConfig, Platform};
pub use self::endpoint::{Endpoint, EndpointError, SIMULATOR_BUILD};
use self::http::MediaHttp;
use self::line::MultideviceLine;
use self::retries::Retries;
use self::transport::Dialer;
use super::contract::{Capabilities, EncodeError, Encoded, Line, OpenError, Provider, Sink};
use crate::domain::clock::{Clock, Entropy};
use crate::domain::ids::SessionName;
use crate::domain::message::Content;
use crate::domain::person::Person;
use crate::store::SessionStore;

/// The provider's name in session records, metrics and logs.
pub const NAME: &str = "multidevice";

/// See the module documentation.
pub struct MultideviceProvider {
    config: Arc<MultideviceConfig>,
    dialer: Arc<Dialer>,
    media: MediaHttp,
    clock: Arc<dyn Clock>,
    entropy: Entropy,
    /// By session, so that a line that is built anew goes on with them.
    retries: Mutex<HashMap<SessionName, Arc<Retries>>>,
}

impl fmt::Debug for MultideviceProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MultideviceProvider")
            .field("endpoint", &self.config.endpoint)
            .finish_non_exhaustive()
    }
}

impl MultideviceProvider {
    /// Checks the settings and prepares TLS. A build with feature `simulator` refuses an endpoint that
    /// is not loopback here, so call it when the daemon starts.
    ///
    /// # Errors
    /// [`ConfigError`] names the key and the fix.
    pub fn new(
        config: MultideviceConfig,
        clock: Arc<dyn Clock>,
        entropy: Entropy,
    ) -> Result<Self, ConfigError> {
        let endpoint = config.validate()?;
        let tls = tls::client_config(&config.extra_roots)?;
        let media = MediaHttp::new(&tls);
        let dialer = Dialer {
            endpoint,
            tls,
            timeout: config.connect_timeout,
        };
        Ok(Self {
            config: Arc::new(config),
            dialer: Arc::new(dialer),
            media,
            clock,
            entropy,
            retries: Mutex::default(),
        })
    }

    fn retries(&self, name: &SessionName) -> Arc<Retries> {
        let mut known = self.retries.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.elapsed();
        known.retain(|_, notes| Arc::strong_count(notes) > 1 || !notes.is_forgotten(now));
        Arc::clone(known.entry(name.clone()).or_default())
    }
}

#[async_trait]
impl Provider for MultideviceProvider {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            pairs_by_qr: true,
            pairs_by_code: true,
            // Official clients drop a second message with the same id.
            resend_is_idempotent: true,
            read_receipts: true,
        }
    }

    fn encode(&self, to: &Person, content: &Content) -> Result<Encoded, EncodeError> {
        encode::encode(to, content, &*self.clock, &self.entropy)
    }

    async fn open(
        &self,
        name: SessionName,
        store: SessionStore,
        sink: Arc<dyn Sink>,
    ) -> Result<Arc<dyn Line>, OpenError> {
        let parts = client::Parts {
            config: Arc::clone(&self.config),
            dialer: Arc::clone(&self.dialer),
            media: self.media.clone(),
            keys: store.keys(),
            sink,
            clock: Arc::clone(&self.clock),
            entropy: self.entropy.clone(),
            shared: Arc::new(backend::Shared::new(self.retries(&name))),
            mappings: mappings::Mappings::new(self.config.mapping_cache),
        };
        Ok(Arc::new(MultideviceLine::open(name, parts).await?))
    }
}
