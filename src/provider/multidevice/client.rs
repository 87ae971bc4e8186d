//! One protocol client of the library, assembled over a session's keys.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use wacore::types::events::Subscription;
use wacore_binary::Jid;
use waproto::whatsapp::device_props::{AppVersion, PlatformType};
use whatsapp_rust::async_channel::Receiver;
use whatsapp_rust::runtime_impl::TokioRuntime;
use whatsapp_rust::store::persistence_manager::PersistenceManager;
use whatsapp_rust::sync_task::MajorSyncTask;
use whatsapp_rust::wacore::store::DevicePropsOverride;
use whatsapp_rust::{CacheConfig, CacheEntryConfig, CacheStores, Client, RawNodeLease};

use super::backend::{KeyBackend, Shared};
use super::chores::Chores;
use super::config::{MultideviceConfig, Platform};
use super::convert::person::from_users;
use super::gate::AckGate;
use super::handler::{Handler, interest};
use super::hook::Hook;
use super::http::MediaHttp;
use super::mappings::{MappingCache, Mappings};
use super::pairing::DeviceFlush;
use super::spent::Spent;
use super::transport::{Dialer, Factory};
use super::watch::Watch;
use crate::domain::clock::{Clock, Entropy};
use crate::domain::person::Person;
use crate::provider::contract::{OpenError, Sink};
use crate::store::KeySpace;

/// What a client is built from; outlives it.
pub(super) struct Parts {
    pub(super) config: Arc<MultideviceConfig>,
    pub(super) dialer: Arc<Dialer>,
    pub(super) media: MediaHttp,
    pub(super) keys: KeySpace,
    pub(super) sink: Arc<dyn Sink>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) entropy: Entropy,
    pub(super) shared: Arc<Shared>,
    pub(super) mappings: Arc<Mappings>,
}

/// A client and what belongs to it. Dropping it ends the client's tasks.
pub(super) struct Built {
    pub(super) client: Arc<Client>,
    pub(super) backend: Arc<KeyBackend>,
    pub(super) watch: Arc<Watch>,
    pub(super) chores: Arc<Chores>,
    pub(super) device: Arc<DeviceFlush>,
    pub(super) sync_tasks: Receiver<MajorSyncTask>,
    pub(super) show_qr: Arc<AtomicBool>,
    account: Arc<RwLock<Person>>,
    _events: Subscription,
    _stanzas: RawNodeLease,
}

impl Drop for Built {
    fn drop(&mut self) {
        self.client.signal_shutdown_sync();
        self.watch.abort_socket();
    }
}

impl Built {
    /// Whether the client can make another attempt: not after `disconnect`, and not once something
    /// could not be made durable.
    pub(super) fn is_reusable(&self) -> bool {
        !self.client.shutdown_signal().is_fired() && !self.watch.is_poisoned()
    }

    /// This account under all its names, and remembers it for telling own receipts apart.
    pub(super) fn refresh_account(&self) -> Person {
        let account = account_of(self.client.pn().as_ref(), self.client.lid().as_ref());
        let mut known = self
            .account
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        known.clone_from(&account);
        account
    }

    /// Saves the device if it changed.
    pub(super) async fn flush(&self) {
        if let Err(error) = self.device.flush().await {
            tracing::warn!(%error, "the device's credentials could not be saved");
        }
    }
}

fn account_of(pn: Option<&Jid>, lid: Option<&Jid>) -> Person {
    from_users(pn.map(Jid::user_base), lid.map(Jid::user_base))
}

fn open_error(error: wacore::store::error::StoreError) -> OpenError {
    use wacore::store::error::StoreError as E;
    match error {
        E::Validation(detail) => OpenError::Damaged(detail),
        E::Serialization(source) => OpenError::Damaged(source.to_string()),
        E::Database(source) => OpenError::Store(source.to_string()),
        other => OpenError::Store(other.to_string()),
    }
}

/// Builds a client. Reads the device's credentials; does not connect.
pub(super) async fn build(parts: &Parts) -> Result<Built, OpenError> {
    let watch = Watch::new(Arc::clone(&parts.clock));
    let backend = Arc::new(KeyBackend::new(
        parts.keys.clone(),
        Arc::clone(&parts.shared),
        Arc::clone(&watch),
        Arc::clone(&parts.sink),
        Arc::clone(&parts.clock),
    ));
    backend.drop_abandoned().await.map_err(open_error)?;
    let manager = PersistenceManager::new(backend.clone())
        .await
        .map_err(open_error)?;
    let manager = Arc::new(manager);
    let device = Arc::new(DeviceFlush::default());
    device.attach(&manager, Arc::clone(&backend));
    let factory = Factory {
        dialer: Arc::clone(&parts.dialer),
        watch: Arc::clone(&watch),
        gate: Arc::new(AckGate::new(
            Arc::clone(&parts.sink),
            parts.config.gate_patience,
        )),
        device: Arc::clone(&device),
        shared: Arc::clone(&parts.shared),
    };
    let hook = Hook {
        sink: Arc::clone(&parts.sink),
        watch: Arc::clone(&watch),
        mappings: Arc::clone(&parts.mappings),
        backend: Arc::clone(&backend),
        shared: Arc::clone(&parts.shared),
    };
    let (client, sync_tasks) = Client::builder()
        .with_runtime(TokioRuntime)
        .with_persistence_manager(manager)
        .with_transport_factory(factory)
        .with_http_client(parts.media.clone())
        .with_version_override(parts.config.version)
        .with_cache_config(cache_config(parts, &backend))
        .with_inbound_durability_hook(hook)
        .with_skip_history_sync(!parts.config.history)
        .build()
        .await
        .map_err(|error| OpenError::Store(error.to_string()))?
        .into_parts();
    // The supervisor alone decides when to try again.
    client.enable_auto_reconnect.store(false, Ordering::SeqCst);
    client.set_device_props(device_props(&parts.config)).await;

    let account = Arc::new(RwLock::new(account_of(
        client.pn().as_ref(),
        client.lid().as_ref(),
    )));
    let chores = Arc::new(Chores::default());
    let show_qr = Arc::new(AtomicBool::new(true));
    let handler = Handler {
        sink: Arc::clone(&parts.sink),
        watch: Arc::clone(&watch),
        mappings: Arc::clone(&parts.mappings),
        shared: Arc::clone(&parts.shared),
        chores: Arc::clone(&chores),
        account: Arc::clone(&account),
        presence: parts.config.presence,
        show_qr: Arc::clone(&show_qr),
    };
    backend.look_at_repetitions(Spent::new(
        Arc::clone(&parts.sink),
        Arc::clone(&watch),
        Arc::clone(&parts.mappings),
        &client,
    ));
    let events = client.subscribe(interest(), Arc::new(handler));
    let stanzas = client.acquire_raw_node_forwarding();
    Ok(Built {
        client,
        backend,
        watch,
        chores,
        device,
        sync_tasks,
        show_qr,
        account,
        _events: events,
        _stanzas: stanzas,
    })
}

fn device_props(config: &MultideviceConfig) -> DevicePropsOverride {
    let platform = match config.platform {
        Platform::Desktop => PlatformType::DESKTOP,
        Platform::Chrome => PlatformType::CHROME,
        Platform::Firefox => PlatformType::FIREFOX,
        Platform::Safari => PlatformType::SAFARI,
        Platform::Edge => PlatformType::EDGE,
    };
    let part = |text: &str| text.parse().ok();
    let version = AppVersion {
        primary: part(env!("CARGO_PKG_VERSION_MAJOR")),
        secondary: part(env!("CARGO_PKG_VERSION_MINOR")),
        tertiary: part(env!("CARGO_PKG_VERSION_PATCH")),
        ..AppVersion::default()
    };
    DevicePropsOverride::new()
        .with_os(config.device_name.clone())
        .with_platform_type(platform)
        .with_version(version)
}

/// Bounds for everything a client keeps, so that thousands of them fit a process.
fn cache_config(parts: &Parts, backend: &Arc<KeyBackend>) -> CacheConfig {
    const HOUR: Option<Duration> = Some(Duration::from_hours(1));
    let mappings = MappingCache {
        mappings: Arc::clone(&parts.mappings),
        backend: Arc::clone(backend),
    };
    CacheConfig {
        group_cache: CacheEntryConfig::new(HOUR, 64),
        device_registry_cache: CacheEntryConfig::new(HOUR, 512),
        // Also bounds the library's own notes about mappings.
        lid_pn_cache: CacheEntryConfig::new(None, parts.config.mapping_cache as u64),
        // Retries are answered from the outbox; with this cache on, the library detaches its writes.
        recent_messages: CacheEntryConfig::new(None, 0),
        message_retry_counts: CacheEntryConfig::new(HOUR, 256),
        undecryptable_dispatched: CacheEntryConfig::new(Some(Duration::from_mins(5)), 256),
        pdo_pending_requests: CacheEntryConfig::new(Some(Duration::from_secs(30)), 64),
        pdo_requested: CacheEntryConfig::new(Some(Duration::from_hours(24)), 256),
        sender_key_devices_cache: CacheEntryConfig::new(HOUR, 64),
        session_recreate_history: CacheEntryConfig::new(HOUR, 128),
        session_locks_capacity: 1024,
        // One task and about 11 KB each, freed only when the connection ends.
        chat_lanes_capacity: 16,
        group_distribution_locks_capacity: 64,
        resend_rate_limiter_capacity: 256,
        // Rows carry their own deadline.
        sent_message_ttl_secs: 0,
        cache_stores: CacheStores {
            lid_pn_cache: Some(Arc::new(mappings)),
            ..CacheStores::default()
        },
        ..CacheConfig::default()
    }
}
