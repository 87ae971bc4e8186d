//! Starting, using and stopping a simulator.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::account::{Account, NewAccount, NewAccountError, phone_digits};
use crate::clock::{Clock, SystemClock};
use crate::control;
use crate::core::Core;
use crate::directory::DeviceKey;
use crate::faults::{Fault, FaultSpec, FaultTarget, Scope};
use crate::group::Group;
use crate::hub::{Census, GroupInfo, Hub, HubConfig, NewPerson};
use crate::ledger::Ledger;
use crate::media::{self, Media};
use crate::noise::ServerIdentity;
use crate::seed::Seed;
use crate::server::{Listener, Scheme, Tls, TlsError, TlsListener};
use crate::truth::Truth;

/// How a simulator is set up. Addresses must be loopback; port 0 picks a free one.
#[derive(Clone)]
pub struct SimulatorConfig {
    /// Source of all keys, ids and LIDs.
    pub seed: u64,
    /// Where `ws://` is served.
    pub ws: SocketAddr,
    /// Where `wss://` is served, under a root of the simulator's own.
    pub wss: Option<SocketAddr>,
    /// Where media is served by HTTPS, under the same root.
    pub media: SocketAddr,
    /// Where the HTTP control API is served.
    pub control: Option<SocketAddr>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Companions one account may link; WhatsApp allows 4.
    pub max_companions: usize,
}

impl Default for SimulatorConfig {
    fn default() -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            seed: 1,
            ws: any,
            wss: None,
            media: any,
            control: None,
            clock: Arc::new(SystemClock),
            max_companions: 4,
        }
    }
}

impl std::fmt::Debug for SimulatorConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimulatorConfig")
            .field("seed", &self.seed)
            .field("ws", &self.ws)
            .field("wss", &self.wss)
            .field("media", &self.media)
            .field("control", &self.control)
            .finish_non_exhaustive()
    }
}

/// Why a simulator did not start.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The simulator holds no real secrets and asks for none: it stays on this machine.
    #[error("{field}: {address} is not a loopback address; use 127.0.0.1 or [::1]")]
    NotLoopback {
        /// The setting.
        field: &'static str,
        /// Its value.
        address: SocketAddr,
    },
    /// The address cannot be listened on.
    #[error("{field}: cannot listen on {address}: {source}")]
    Listen {
        /// The setting.
        field: &'static str,
        /// Its value.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// No certificate for `wss://` and media.
    #[error("certificate: {0}")]
    Tls(#[from] TlsError),
    /// The Noise certificate chain could not be signed.
    #[error("noise certificate chain: {0}")]
    Identity(String),
}

/// Why a fault was not ordered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FaultError {
    /// Nobody has this number.
    #[error("target: no account with phone number {0}")]
    NoSuchAccount(String),
    /// The server cannot know whose TCP connection it refuses.
    #[error("target: refuse_tcp is possible for `all` only")]
    TargetsEveryone,
    /// Nothing would ever happen.
    #[error("times: must be at least 1")]
    ZeroTimes,
}

/// Pause between two looks at a condition.
const WAIT_PAUSE: Duration = Duration::from_millis(1);

/// A condition that did not come true in time.
#[derive(Debug, Clone, thiserror::Error)]
#[error("condition not true after {0:?}")]
pub struct WaitError(pub Duration);

/// A linked device.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct DeviceInfo {
    /// Phone number of its account, digits only.
    pub phone: String,
    /// LID of its account, digits only.
    pub lid: String,
    /// Device number.
    pub device: u16,
    /// Whether it is logged in and has left passive mode.
    pub online: bool,
    /// Stanzas that wait for it.
    pub backlog: usize,
    /// One-time prekeys left in the directory.
    pub prekeys: usize,
    /// When it was linked (Unix seconds).
    pub linked_at: u64,
}

impl DeviceInfo {
    /// Every linked device of every account, phones left out.
    pub(crate) fn all(hub: &Hub) -> Vec<Self> {
        hub.directory
            .ids()
            .flat_map(|account| hub.directory.devices_of(account))
            .filter(|device| !device.is_phone())
            .filter_map(|device| Self::of(hub, device))
            .collect()
    }

    pub(crate) fn of(hub: &Hub, key: DeviceKey) -> Option<Self> {
        let account = hub.directory.account(key.account);
        let device = hub.directory.device(key)?;
        Some(Self {
            phone: account.pn.clone(),
            lid: account.lid.clone(),
            device: key.device,
            online: hub.is_active(key.account, key.device),
            backlog: hub.backlog(key),
            prekeys: device.keys.remaining(),
            linked_at: device.linked_at,
        })
    }
}

/// A running simulator. Dropping it stops everything; [`shutdown`](Self::shutdown) also waits.
pub struct Simulator {
    core: Arc<Core>,
    ws: SocketAddr,
    wss: Option<SocketAddr>,
    media: SocketAddr,
    control: Option<SocketAddr>,
    tls_root: String,
    stop: CancellationToken,
    tracker: TaskTracker,
}

impl Simulator {
    /// Starts listening; returns when clients can connect.
    pub async fn bind(config: SimulatorConfig) -> Result<Self, BindError> {
        check_loopback(&config)?;
        let seed = Seed::new(config.seed);
        let identity = ServerIdentity::derive(seed, config.clock.now_secs())
            .map_err(|e| BindError::Identity(e.to_string()))?;
        let tls = Tls::generate()?;
        let (media_socket, media) = bind("media", config.media).await?;
        let hub = Hub::new(
            seed,
            Arc::clone(&config.clock),
            HubConfig {
                media_host: media.to_string(),
                max_companions: config.max_companions,
            },
        );
        let core = Arc::new(Core::new(hub, identity, seed));

        let plain = listen("ws", config.ws, Scheme::Plain).await?;
        let secure = match config.wss {
            Some(address) => Some(listen("wss", address, Scheme::Tls(tls.acceptor.clone())).await?),
            None => None,
        };
        let control = match config.control {
            Some(address) => Some(bind("control", address).await?),
            None => None,
        };

        let stop = CancellationToken::new();
        let tracker = TaskTracker::new();
        let ws = plain.address();
        let wss = secure.as_ref().map(Listener::address);
        for listener in std::iter::once(plain).chain(secure) {
            tracker.spawn(listener.serve(Arc::clone(&core), stop.clone(), tracker.clone()));
        }
        let control_address = match control {
            Some((socket, address)) => {
                let service = control::router(Arc::clone(&core), tls.root_pem.clone());
                tracker.spawn(serve("control API", socket, service, stop.clone()));
                Some(address)
            }
            None => None,
        };
        let media_service = media::router(Media {
            core: Arc::clone(&core),
            stop: stop.clone(),
        });
        let media_listener = TlsListener::new(media_socket, tls.acceptor, &stop, &tracker)
            .map_err(|source| BindError::Listen {
                field: "media",
                address: media,
                source,
            })?;
        tracker.spawn(serve("media", media_listener, media_service, stop.clone()));
        tracker.close();
        Ok(Self {
            core,
            ws,
            wss,
            media,
            control: control_address,
            tls_root: tls.root_pem,
            stop,
            tracker,
        })
    }

    /// `ws://…/ws/chat`
    pub fn ws_url(&self) -> String {
        format!("ws://{}/ws/chat", self.ws)
    }

    /// `wss://…/ws/chat`, when served.
    pub fn wss_url(&self) -> Option<String> {
        self.wss.map(|address| format!("wss://{address}/ws/chat"))
    }

    /// `https://…`, where media goes up and down.
    pub fn media_url(&self) -> String {
        format!("https://{}", self.media)
    }

    /// `http://…`, when the control API is served.
    pub fn control_url(&self) -> Option<String> {
        self.control.map(|address| format!("http://{address}"))
    }

    /// The key that signs the Noise certificate chain: what clients must trust instead of
    /// WhatsApp's.
    pub fn root_public_key(&self) -> [u8; 32] {
        self.core.identity().root_public()
    }

    /// The Noise static key, for devices that are seeded with it.
    pub fn static_public_key(&self) -> [u8; 32] {
        self.core.identity().static_public()
    }

    /// The root certificate of `wss://` and media as PEM.
    pub fn tls_root_pem(&self) -> &str {
        &self.tls_root
    }

    /// Creates a person with a phone.
    pub fn create_account(&self, new: NewAccount) -> Result<Account, NewAccountError> {
        create_account(&self.core, new)
    }

    /// The person with this phone number.
    pub fn account(&self, phone: &str) -> Option<Account> {
        let digits = phone_digits(phone)?;
        let id = self.core.look(|hub| hub.directory.by_phone(&digits))?;
        Some(Account::new(Arc::clone(&self.core), id))
    }

    /// Every person, in order of creation.
    pub fn accounts(&self) -> Vec<Account> {
        self.core
            .look(|hub| hub.directory.ids().collect::<Vec<_>>())
            .into_iter()
            .map(|id| Account::new(Arc::clone(&self.core), id))
            .collect()
    }

    /// The group with this JID.
    pub fn group(&self, jid: &str) -> Option<Group> {
        Group::find(&self.core, jid)
    }

    /// Every group with its members, in order of its number.
    pub fn groups(&self) -> Vec<GroupInfo> {
        self.core.look(Hub::group_infos)
    }

    /// Every linked device of every account.
    pub fn devices(&self) -> Vec<DeviceInfo> {
        self.core.look(DeviceInfo::all)
    }

    /// Faults in force, and how often each still applies (`None`: until lifted).
    pub fn faults(&self) -> Vec<(Fault, Option<u32>)> {
        self.core.look(Hub::orders)
    }

    /// Orders a fault. Returns how many open connections it struck at once.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "an order is made for the call"
    )]
    pub fn fault(&self, spec: FaultSpec) -> Result<usize, FaultError> {
        order_fault(&self.core, &spec)
    }

    /// Lifts all faults; what was held back flows again.
    pub fn clear_faults(&self) {
        self.core.with(Hub::clear_faults);
    }

    /// A copy of everything that has happened so far.
    pub fn ledger(&self) -> Ledger {
        self.core.look(|hub| hub.ledger().clone())
    }

    /// Connection counts.
    pub fn connections(&self) -> Census {
        self.core.look(Hub::census)
    }

    /// Looks at everything at one moment.
    pub fn look<T>(&self, look: impl FnOnce(&Truth<'_>) -> T) -> T {
        self.core.look(|hub| look(&Truth::new(hub)))
    }

    /// Waits until `condition` holds. It is evaluated after every change.
    pub async fn wait_until(
        &self,
        condition: impl Fn(&Truth<'_>) -> bool,
        timeout: Duration,
    ) -> Result<(), WaitError> {
        let mut visits = self.core.visits();
        let wait = async {
            loop {
                visits.mark_unchanged();
                if self.look(&condition) {
                    return;
                }
                // The sender lives in `self.core`, so this cannot fail.
                let _ = visits.changed().await;
                // A burst of changes is looked at once: conditions may read the whole ledger.
                tokio::time::sleep(WAIT_PAUSE).await;
            }
        };
        tokio::time::timeout(timeout, wait)
            .await
            .map_err(|_| WaitError(timeout))
    }

    /// Stops listening, ends every connection and waits until every task is gone.
    pub async fn shutdown(self) {
        self.stop.cancel();
        self.tracker.wait().await;
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub(crate) fn create_account(
    core: &Arc<Core>,
    new: NewAccount,
) -> Result<Account, NewAccountError> {
    let pn = phone_digits(&new.phone).ok_or(NewAccountError::InvalidPhone(new.phone))?;
    let name = new.name.trim().to_owned();
    if name.is_empty() {
        return Err(NewAccountError::EmptyName);
    }
    let id = core.with(|hub| hub.create_person(&NewPerson { pn, name }))?;
    Ok(Account::new(Arc::clone(core), id))
}

pub(crate) fn order_fault(core: &Arc<Core>, spec: &FaultSpec) -> Result<usize, FaultError> {
    if spec.times == Some(0) {
        return Err(FaultError::ZeroTimes);
    }
    if spec.fault == Fault::RefuseTcp && spec.target != FaultTarget::All {
        return Err(FaultError::TargetsEveryone);
    }
    core.with(|hub| {
        let find = |phone: &str| {
            phone_digits(phone)
                .and_then(|digits| hub.directory.by_phone(&digits))
                .ok_or_else(|| FaultError::NoSuchAccount(phone.to_owned()))
        };
        let scope = match &spec.target {
            FaultTarget::All => Scope::All,
            FaultTarget::Account(phone) => Scope::Account(find(phone)?),
            FaultTarget::Device(phone, device) => Scope::Device(DeviceKey {
                account: find(phone)?,
                device: *device,
            }),
        };
        Ok(hub.order(scope, spec.fault.clone(), spec.times))
    })
}

fn check_loopback(config: &SimulatorConfig) -> Result<(), BindError> {
    let addresses = [
        ("ws", Some(config.ws)),
        ("wss", config.wss),
        ("media", Some(config.media)),
        ("control", config.control),
    ];
    for (field, address) in addresses {
        if let Some(address) = address.filter(|a| !a.ip().is_loopback()) {
            return Err(BindError::NotLoopback { field, address });
        }
    }
    Ok(())
}

/// Serves HTTP until `stop`.
async fn serve<L>(what: &'static str, listener: L, service: Router, stop: CancellationToken)
where
    L: axum::serve::Listener<Addr: std::fmt::Debug>,
{
    let served = axum::serve(listener, service).with_graceful_shutdown(stop.cancelled_owned());
    if let Err(error) = served.await {
        tracing::error!(%error, "{what} ended");
    }
}

async fn listen(
    field: &'static str,
    address: SocketAddr,
    scheme: Scheme,
) -> Result<Listener, BindError> {
    Listener::bind(address, scheme)
        .await
        .map_err(|source| BindError::Listen {
            field,
            address,
            source,
        })
}

async fn bind(
    field: &'static str,
    address: SocketAddr,
) -> Result<(TcpListener, SocketAddr), BindError> {
    let failed = |source| BindError::Listen {
        field,
        address,
        source,
    };
    let socket = TcpListener::bind(address).await.map_err(failed)?;
    let bound = socket.local_addr().map_err(failed)?;
    Ok((socket, bound))
}
