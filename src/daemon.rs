//! The composition root: puts the parts together, in order, and takes them apart again. The only file
//! tree that names concrete engines and providers.
//!
//! `bind` opens the store and takes every address, so that everything that can be wrong is wrong before
//! the service counts as started; `join` waits; `shutdown` drains. Tests run a whole daemon in their own
//! process through the same three calls.

mod error;
mod health;
mod heart;
mod lag;
mod offline;
mod reload;
mod settings;
mod upkeep;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::api::server::{self, ApiServer, Listeners, ServerOptions};
use crate::api::supervisor::Supervised;
use crate::api::tls::Certificate;
use crate::config::{Config, Sources};
use crate::domain::clock::{Clock, Entropy, SystemClock, Timestamp};
use crate::lifecycle::Shutdown;
use crate::ops::{Ops, Vitals, VitalsParts};
use crate::provider::contract::Provider;
use crate::provider::multidevice::{MultideviceProvider, SIMULATOR_BUILD};
use crate::session::{Supervisor, SupervisorOptions};
use crate::store::keyring::{KekSource, Keks};
use crate::store::sled::SledEngine;
use crate::store::{Retention, Store, StoreError, StoreOptions};
use crate::telemetry::{self, LogControl};

pub use crate::store::backup::{Archive, Recipients, RestoreError, Restored, Unlock};

pub use error::{BindError, Trouble};
pub use heart::Heart;
pub use offline::{Contents, OfflineError, Resting, restore, write_backup};
pub use reload::{LIVE_KEYS, ReloadError, Reloaded, Reloader};

/// What calls, health and metrics get in any case to finish what they are answering.
const LAST_GRACE: Duration = Duration::from_millis(500);

/// What the process gets from whoever started it.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// systemd's `$RUNTIME_DIRECTORY`.
    pub runtime_dir: Option<PathBuf>,
    /// systemd's `$CREDENTIALS_DIRECTORY`.
    pub credentials_dir: Option<PathBuf>,
}

impl Surroundings {
    /// Those of this process.
    pub fn of_process() -> Self {
        Self {
            runtime_dir: std::env::var_os("RUNTIME_DIRECTORY").map(PathBuf::from),
            credentials_dir: std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from),
        }
    }
}

/// Where a daemon listens.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Addresses {
    /// The gRPC API.
    pub grpc: Option<SocketAddr>,
    /// The operator's socket.
    pub socket: Option<PathBuf>,
    /// Health and metrics.
    pub ops: Option<SocketAddr>,
}

/// Something that must run has ended by itself.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("a listener ended by itself; see the log")]
pub struct Broken;

/// A running daemon.
#[derive(Debug)]
pub struct Daemon {
    addresses: Addresses,
    store: Store,
    supervisor: Supervisor,
    vitals: Vitals,
    heart: Heart,
    /// What it was started with.
    config: Config,
    /// What journals may hold; a reload may change it.
    retention: watch::Sender<Retention>,
    /// Of the API on the network, if it speaks TLS.
    certificate: Option<Arc<Certificate>>,
    /// The API, until it is shut down.
    api: Mutex<ApiServer>,
    shutdown: Shutdown,
    broken: CancellationToken,
    /// Health, metrics and upkeep: what runs until the very end.
    background: Shutdown,
}

/// Reads the API's certificate as [`Daemon::bind`] does, and says when it ends; nothing without TLS.
///
/// # Errors
/// [`BindError`] names the file and the fix.
pub fn check_certificate(config: &Config) -> Result<Option<Timestamp>, BindError> {
    let Some(files) = settings::tls(config) else {
        return Ok(None);
    };
    let loaded = Certificate::load(files, Arc::new(SystemClock::new()));
    let certificate = loaded.map_err(server::BindError::Tls)?;
    Ok(Some(certificate.expires()))
}

/// Judges a configuration as [`Daemon::bind`] does before it opens the store. Nothing is written, and a
/// credential that only systemd hands over is not missed.
///
/// # Errors
/// [`BindError`] says what is wrong and the fix.
pub fn check(config: &Config, surroundings: &Surroundings) -> Result<(), BindError> {
    let entropy = Entropy::from_system().map_err(BindError::Entropy)?;
    let clock = Arc::new(SystemClock::new());
    MultideviceProvider::new(settings::multidevice(config)?, clock, entropy.clone())?;
    settings::sessions(config).validate()?;
    check_certificate(config)?;
    match settings::kek(config, surroundings) {
        // The first start makes it.
        KekSource::Development(path) if !path.exists() => {}
        KekSource::Credential(_) if surroundings.credentials_dir.is_none() => {}
        source => {
            Keks::load(&source, &entropy)?;
        }
    }
    Ok(())
}

impl Daemon {
    /// Opens the store, restores every session and takes every address.
    ///
    /// # Errors
    /// [`BindError`] says what is wrong, whether trying again helps, and the fix.
    pub async fn bind(
        config: &Config,
        surroundings: Surroundings,
        shutdown: Shutdown,
    ) -> Result<Self, BindError> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let entropy = Entropy::from_system().map_err(BindError::Entropy)?;
        let metrics = telemetry::init_metrics(&config.metrics)?;
        // The fraction of a second does not matter here.
        ::metrics::gauge!("trunkline_process_start_time_seconds").set(whole(clock.now().secs()));
        if SIMULATOR_BUILD {
            tracing::warn!(
                "this build has feature `simulator`: it does not verify WhatsApp's certificate chain and therefore refuses every endpoint that is not loopback"
            );
        }
        // The provider is checked before anything is written: a wrong endpoint leaves no state behind.
        let provider: Arc<dyn Provider> = Arc::new(MultideviceProvider::new(
            settings::multidevice(config)?,
            Arc::clone(&clock),
            entropy.clone(),
        )?);
        let sessions = settings::sessions(config);
        sessions.validate()?;

        let store = open_store(config, &surroundings, &clock, &entropy).await?;
        let supervisor = Supervisor::new(SupervisorOptions {
            store: store.clone(),
            providers: vec![provider],
            config: sessions,
            clock: Arc::clone(&clock),
            entropy: entropy.clone(),
        });

        let broken = CancellationToken::new();
        let background = Shutdown::new();
        let serving = CancellationToken::new();
        let vitals = Vitals::new(VitalsParts {
            store: store.clone(),
            supervisor: supervisor.clone(),
            state_dir: config.state_dir.clone(),
            stuck_after: config.store.commit_timeout,
            draining: shutdown.soft().clone(),
            broken: broken.clone(),
            serving: serving.clone(),
        });
        let mut addresses = Addresses::default();
        if let Some(address) = config.listen.ops.address() {
            let ops = Ops::bind(address)
                .await
                .map_err(|source| BindError::listen("listen.ops", &address.to_string(), source))?;
            addresses.ops = Some(ops.address());
            let stop = background.soft().clone();
            let serve = ops.serve(vitals.clone(), metrics, stop.clone());
            background.spawn(guard("ops", serve, broken.clone(), stop));
        }
        let front = Supervised::new(supervisor.clone(), Arc::clone(&clock));
        let mut options = ServerOptions::new(store.clone(), Arc::new(front), Arc::clone(&clock));
        options.tcp = config.listen.grpc.address();
        options.tls = settings::tls(config);
        options.socket = config.socket_path(surroundings.runtime_dir.as_deref());
        // Before the sessions: a daemon that cannot be reached must not log numbers in and out again.
        let listeners = take_addresses(&options, &store).await?;
        start_sessions(&store, &supervisor, config).await?;
        let api = match ApiServer::serve(options, listeners).await {
            Ok(api) => api,
            Err(error) => {
                // Sessions are connecting already: they end in good order all the same.
                supervisor.shutdown(LAST_GRACE).await;
                let _ = store.close().await;
                return Err(error.into());
            }
        };
        serving.cancel();
        addresses.grpc = api.tcp();
        addresses.socket = api.socket().map(Path::to_owned);
        let (retention, current) = watch::channel(settings::retention(config));
        background.spawn(upkeep::run(
            store.clone(),
            current,
            background.soft().clone(),
        ));
        background.spawn(lag::run(store.clone(), clock, background.soft().clone()));
        let shown = api.health().clone();
        background.spawn(health::follow(
            vitals.clone(),
            health::LOOK_EVERY,
            async move |ready| shown.set(ready).await,
            background.soft().clone(),
        ));
        let heart = Heart::new(vitals.clone(), supervisor.clone());
        Ok(Self {
            addresses,
            store,
            supervisor,
            vitals,
            heart,
            config: config.clone(),
            retention,
            certificate: api.certificate().cloned(),
            api: Mutex::new(api),
            shutdown,
            broken,
            background,
        })
    }

    /// Where it listens, with the ports that were chosen for port 0.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// What readiness and `systemctl status` are read from.
    pub fn vitals(&self) -> Vitals {
        self.vitals.clone()
    }

    /// Tells whether supervisor and store answer, for the watchdog.
    pub fn heart(&self) -> Heart {
        self.heart.clone()
    }

    /// Applies changes of the configuration, read again from `sources`, while the daemon runs.
    pub fn reloader(&self, sources: Sources, logs: LogControl) -> Reloader {
        Reloader::new(
            sources,
            self.config.clone(),
            logs,
            self.retention.clone(),
            self.certificate.clone(),
        )
    }

    /// Waits until the daemon shall stop.
    ///
    /// # Errors
    /// [`Broken`] when a part that must run has ended by itself.
    pub async fn join(&self) -> Result<(), Broken> {
        let mut api = self.api.lock().await;
        tokio::select! {
            () = self.shutdown.soft().cancelled() => Ok(()),
            () = self.broken.cancelled() => Err(Broken),
            outcome = api.join() => {
                tracing::error!(?outcome, "a listener of the API ended by itself");
                self.broken.cancel();
                Err(Broken)
            }
        }
    }

    /// Drains: readiness off, new calls refused with words, streams and calls finished, sessions ended, the
    /// API's connections closed, store flushed, health last. Returns whether all of it happened within `grace` and without a second request to
    /// stop.
    pub async fn shutdown(self, grace: Duration) -> bool {
        let Self {
            api,
            supervisor,
            store,
            shutdown,
            background,
            ..
        } = self;
        shutdown.drain();
        let deadline = Instant::now() + grace;
        let left = || deadline.saturating_duration_since(Instant::now());
        let ended = async {
            let api = api.into_inner();
            api.drain(grace / 2).await;
            let orderly = supervisor.shutdown(left().mul_f32(0.8)).await == 0;
            api.shutdown(LAST_GRACE).await;
            orderly
        };
        let mut orderly = tokio::select! {
            orderly = ended => orderly,
            () = shutdown.hard().cancelled() => false,
        };
        if let Err(error) = store.close().await {
            tracing::error!(%error, "the store did not close in good order");
            orderly = false;
        }
        background.finish(left().max(LAST_GRACE)).await && orderly
    }
}

/// Starts every session, before the API answers: a call must find each in its place. One whose workspace
/// has no room must not connect first.
async fn start_sessions(
    store: &Store,
    supervisor: &Supervisor,
    config: &Config,
) -> Result<(), StoreError> {
    upkeep::look(store, &settings::retention(config)).await?;
    supervisor.restore().await?;
    Ok(())
}

/// Runs a listener and breaks the daemon when it ends without having been told to.
async fn guard(
    name: &'static str,
    serve: impl Future<Output = std::io::Result<()>>,
    broken: CancellationToken,
    stop: CancellationToken,
) {
    let ended = serve.await;
    if !stop.is_cancelled() {
        tracing::error!(listener = name, outcome = ?ended, "a listener ended by itself");
        broken.cancel();
    }
}

/// Seconds as gauges want them.
#[allow(
    clippy::cast_precision_loss,
    reason = "seconds since 1970 stay far below 2^52"
)]
fn whole(seconds: u64) -> f64 {
    seconds as f64
}

/// Takes the API's addresses; a store that nobody will use is closed.
async fn take_addresses(options: &ServerOptions, store: &Store) -> Result<Listeners, BindError> {
    match Listeners::take(options).await {
        Ok(listeners) => Ok(listeners),
        Err(error) => {
            let _ = store.close().await;
            Err(error.into())
        }
    }
}

/// Makes the state directory, for the daemon's eyes only.
fn prepare_state_dir(path: &Path) -> Result<(), BindError> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| BindError::StateDir {
            path: path.to_owned(),
            source,
        })
}

/// Opens the store, and makes it at the first start.
async fn open_store(
    config: &Config,
    surroundings: &Surroundings,
    clock: &Arc<dyn Clock>,
    entropy: &Entropy,
) -> Result<Store, BindError> {
    offline::refuse_half_restored(&config.state_dir)?;
    prepare_state_dir(&config.state_dir)?;
    let keks = Keks::load(&settings::kek(config, surroundings), entropy)?;
    let engine = open_engine(config, Arc::clone(clock)).await?;
    let options = StoreOptions {
        engine: Arc::new(engine),
        keks,
        clock: Arc::clone(clock),
        entropy: entropy.clone(),
        release: env!("CARGO_PKG_VERSION").to_owned(),
        media: Some(settings::media(config)),
    };
    Ok(Store::open(options).await?)
}

/// Opening reads the log and may take a while: not on the runtime's threads.
async fn open_engine(config: &Config, clock: Arc<dyn Clock>) -> Result<SledEngine, BindError> {
    let path = config.state_dir.join("store");
    let cache = config.store.cache;
    let opened =
        tokio::task::spawn_blocking(move || SledEngine::open_sized(&path, cache, clock)).await;
    match opened {
        Ok(engine) => Ok(engine?),
        Err(error) => Err(BindError::Panicked(error.to_string())),
    }
}
