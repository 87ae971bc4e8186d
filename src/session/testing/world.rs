//! A server that follows a script, and the provider that speaks to it.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io::Read as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::domain::clock::Clock;
use crate::domain::group::Group;
use crate::domain::ids::SessionName;
use crate::domain::media::MediaKind;
use crate::domain::message::{Content, OutboundMessage};
use crate::domain::person::Person;
use crate::domain::session::{Cause, Traffic};
use crate::provider::contract::{
    Capabilities, EncodeError, Encoded, FetchError, Fetched, GroupsError, Line, Mode, OpenError,
    ProbeError, Provider, SendError, Signal, Sink, UploadError,
};
use crate::session::state::NOT_PAIRED;
use crate::store::media::MediaFile;
use crate::store::{Durability, KeyId, KeyKind, SessionStore};

/// What the next attempt of a session does.
#[derive(Debug, Clone)]
pub(in crate::session) enum Plan {
    /// Logs in and stays until closed. The default.
    Online,
    /// Ends without a login.
    End(Cause),
    /// Never logs in.
    Hang,
    /// Panics.
    Panic,
    /// Ignores being told to stop.
    Stubborn,
}

/// What the server does with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::session) enum AckMode {
    Accept,
    Withhold,
    Refuse(u32),
    NotOnProvider,
    Temporary,
    Panic,
}

/// What the server does with a file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::session) enum UploadPlan {
    #[default]
    Accept,
    End(UploadError),
    Hang,
}

#[derive(Debug)]
pub(in crate::session) enum Control {
    End(Cause),
    Scan,
}

/// One session as the scripted server sees it.
#[derive(Default)]
pub(in crate::session) struct Peer {
    pub(in crate::session) plans: VecDeque<Plan>,
    pub(in crate::session) ack: Option<AckMode>,
    pub(in crate::session) attempts: u32,
    pub(in crate::session) opens: u32,
    pub(in crate::session) logouts: u32,
    pub(in crate::session) silent: bool,
    pub(in crate::session) open_panics: u32,
    pub(in crate::session) open_errors: u32,
    /// Makes the actor itself panic: it reads the traffic when it publishes.
    pub(in crate::session) traffic_panics: u32,
    /// Stanza ids and bytes, in the order of arrival.
    pub(in crate::session) wire: Vec<(String, Vec<u8>)>,
    /// Files, in the order of their arrival.
    pub(in crate::session) uploads: Vec<Vec<u8>>,
    pub(in crate::session) upload: UploadPlan,
    pub(in crate::session) upload_attempts: u32,
    pub(in crate::session) sink: Option<Arc<dyn Sink>>,
    /// The groups the number is in.
    pub(in crate::session) groups: Vec<Group>,
    control: Option<mpsc::UnboundedSender<Control>>,
    live: u32,
    pub(in crate::session) confirmed: bool,
}

impl Peer {
    pub(in crate::session) fn is_live(&self) -> bool {
        self.live > 0
    }
}

#[derive(Default)]
struct Shared {
    peers: HashMap<SessionName, Peer>,
    connecting: u32,
    most_connecting: u32,
    most_live_per_session: u32,
    order: Vec<SessionName>,
    stanza: u64,
}

/// The scripted server.
#[derive(Clone)]
pub(in crate::session) struct World {
    shared: Arc<Mutex<Shared>>,
    clock: Arc<dyn Clock>,
    connect_delay: Duration,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("World")
    }
}

impl World {
    /// A server nobody has connected to.
    pub(in crate::session) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            shared: Arc::default(),
            clock,
            connect_delay: Duration::from_millis(1),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at or changes a session as the server sees it.
    pub(in crate::session) fn peer<T>(
        &self,
        name: &SessionName,
        f: impl FnOnce(&mut Peer) -> T,
    ) -> T {
        f(self.lock().peers.entry(name.clone()).or_default())
    }

    pub(in crate::session) fn plan(
        &self,
        name: &SessionName,
        plans: impl IntoIterator<Item = Plan>,
    ) {
        self.peer(name, |peer| peer.plans.extend(plans));
    }

    /// Ends a live connection.
    pub(in crate::session) fn control(&self, name: &SessionName, control: Control) {
        let sender = self
            .peer(name, |peer| peer.control.clone())
            .expect("never connected");
        sender.send(control).expect("not connected");
    }

    /// (most attempts without a login at once, most attempts of one session at once)
    pub(in crate::session) fn peaks(&self) -> (u32, u32) {
        let shared = self.lock();
        (shared.most_connecting, shared.most_live_per_session)
    }

    /// Sessions in the order of their attempts.
    pub(in crate::session) fn order(&self) -> Vec<SessionName> {
        self.lock().order.clone()
    }
}

#[derive(Debug, Clone)]
pub(in crate::session) struct FakeProvider(pub(in crate::session) World);

#[async_trait]
impl Provider for FakeProvider {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            pairs_by_qr: true,
            pairs_by_code: true,
            resend_is_idempotent: true,
            read_receipts: true,
        }
    }

    fn encode(&self, _to: &Person, content: &Content) -> Result<Encoded, EncodeError> {
        let mut shared = self.0.lock();
        shared.stanza += 1;
        Ok(Encoded {
            stanza_id: format!("S{}", shared.stanza),
            bytes: format!("{content:?}").into_bytes(),
        })
    }

    async fn open(
        &self,
        name: SessionName,
        store: SessionStore,
        sink: Arc<dyn Sink>,
    ) -> Result<Arc<dyn Line>, OpenError> {
        let (panics, fails) = self.0.peer(&name, |peer| {
            peer.opens += 1;
            let fails = peer.open_errors > 0;
            peer.open_errors = peer.open_errors.saturating_sub(1);
            peer.sink = Some(Arc::clone(&sink));
            let panics = peer.open_panics > 0;
            peer.open_panics = peer.open_panics.saturating_sub(1);
            (panics, fails)
        });
        assert!(!panics, "scripted panic while opening");
        if fails {
            return Err(OpenError::Store("scripted".into()));
        }
        Ok(Arc::new(FakeLine {
            world: self.0.clone(),
            name,
            store,
            sink,
        }))
    }
}

struct FakeLine {
    world: World,
    name: SessionName,
    store: SessionStore,
    sink: Arc<dyn Sink>,
}

/// Counts an attempt as live, and as connecting until it is online.
struct Counted<'a> {
    line: &'a FakeLine,
    connecting: bool,
}

impl<'a> Counted<'a> {
    fn new(line: &'a FakeLine) -> Self {
        let mut shared = line.world.lock();
        shared.connecting += 1;
        shared.most_connecting = shared.most_connecting.max(shared.connecting);
        shared.order.push(line.name.clone());
        let peer = shared.peers.entry(line.name.clone()).or_default();
        peer.attempts += 1;
        peer.live += 1;
        let at_once = peer.live;
        shared.most_live_per_session = shared.most_live_per_session.max(at_once);
        drop(shared);
        Self {
            line,
            connecting: true,
        }
    }

    fn online(&mut self) {
        self.connecting = false;
        self.line.world.lock().connecting -= 1;
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        let mut shared = self.line.world.lock();
        if self.connecting {
            shared.connecting -= 1;
        }
        shared.peers.entry(self.line.name.clone()).or_default().live -= 1;
    }
}

impl FakeLine {
    fn account() -> Person {
        Person {
            phone: Some("+15550000001".into()),
            ..Person::default()
        }
    }

    async fn pair(
        &self,
        stop: &CancellationToken,
        mut control: mpsc::UnboundedReceiver<Control>,
    ) -> Cause {
        self.sink.signal(Signal::Qr {
            payload: "ref,noise,identity,adv".into(),
            expires_in: Duration::from_mins(1),
        });
        tokio::select! {
            () = stop.cancelled() => Cause::Requested,
            control = control.recv() => match control {
                Some(Control::Scan) => {
                    let keys = self.store.keys();
                    keys.put(KeyKind::Device, KeyId::single(), vec![1], Durability::Durable)
                        .await
                        .unwrap();
                    self.sink.signal(Signal::Paired {
                        account: Self::account(),
                        platform: "smba".into(),
                    });
                    Cause::RestartRequired
                }
                Some(Control::End(cause)) => cause,
                None => Cause::Requested,
            },
        }
    }

    async fn log_in(
        &self,
        plan: Plan,
        stop: &CancellationToken,
        mut control: mpsc::UnboundedReceiver<Control>,
        counted: &mut Counted<'_>,
    ) -> Cause {
        let keys = self.store.keys();
        if !keys
            .contains(KeyKind::Device, &KeyId::single())
            .await
            .unwrap()
        {
            return Cause::PairingFailed {
                reason: NOT_PAIRED.into(),
            };
        }
        tokio::time::sleep(self.world.connect_delay).await;
        match &plan {
            Plan::End(cause) => return cause.clone(),
            Plan::Panic => panic!("scripted panic"),
            Plan::Stubborn => return std::future::pending().await,
            Plan::Hang => {
                stop.cancelled().await;
                return Cause::Requested;
            }
            Plan::Online => {}
        }
        let first = self.world.peer(&self.name, |peer| {
            !std::mem::replace(&mut peer.confirmed, true)
        });
        if first {
            self.sink.signal(Signal::Confirmed);
        }
        counted.online();
        self.sink.signal(Signal::Online {
            account: Self::account(),
        });
        tokio::select! {
            () = stop.cancelled() => Cause::Requested,
            control = control.recv() => match control {
                Some(Control::End(cause)) => cause,
                _ => Cause::Requested,
            },
        }
    }
}

#[async_trait]
impl Line for FakeLine {
    async fn run(&self, mode: Mode, stop: CancellationToken) -> Cause {
        let mut counted = Counted::new(self);
        let (sender, control) = mpsc::unbounded_channel();
        let plan = self.world.peer(&self.name, |peer| {
            peer.control = Some(sender);
            peer.plans.pop_front().unwrap_or(Plan::Online)
        });
        match mode {
            Mode::Login => self.log_in(plan, &stop, control, &mut counted).await,
            Mode::PairByQr | Mode::PairByCode { .. } => self.pair(&stop, control).await,
        }
    }

    async fn send(&self, message: &OutboundMessage) -> Result<(), SendError> {
        let ack = self.world.peer(&self.name, |peer| {
            peer.wire
                .push((message.stanza_id.clone(), message.encoded.clone()));
            peer.ack.unwrap_or(AckMode::Accept)
        });
        let error = match ack {
            AckMode::Accept => None,
            AckMode::Refuse(code) => Some(code),
            AckMode::Withhold => return Ok(()),
            AckMode::NotOnProvider => return Err(SendError::NotOnProvider),
            AckMode::Temporary => return Err(SendError::Temporary("scripted".into())),
            AckMode::Panic => panic!("scripted panic while sending"),
        };
        self.sink.signal(Signal::ServerAck {
            stanza_id: message.stanza_id.clone(),
            error,
            at: self.world.clock.now(),
        });
        Ok(())
    }

    async fn probe(&self, patience: Duration) -> Result<(), ProbeError> {
        if self.world.peer(&self.name, |peer| peer.silent) {
            tokio::time::sleep(patience).await;
            return Err(ProbeError::Silent);
        }
        Ok(())
    }

    async fn mark_read(&self, _: &Person, _: &Person, _: &[String]) -> Result<(), SendError> {
        Ok(())
    }

    async fn fetch(&self, raw: &[u8]) -> Result<Fetched, FetchError> {
        let (sender, chunks) = mpsc::channel(1);
        let data = bytes::Bytes::copy_from_slice(raw);
        let size = data.len() as u64;
        let _ = sender.try_send(data);
        Ok(Fetched { size, chunks })
    }

    async fn groups(&self) -> Result<Vec<Group>, GroupsError> {
        Ok(self.world.peer(&self.name, |peer| peer.groups.clone()))
    }

    async fn upload(&self, file: MediaFile, _: MediaKind) -> Result<Vec<u8>, UploadError> {
        let plan = self.world.peer(&self.name, |peer| {
            peer.upload_attempts += 1;
            peer.upload.clone()
        });
        match plan {
            UploadPlan::Accept => {}
            UploadPlan::End(error) => return Err(error),
            UploadPlan::Hang => std::future::pending().await,
        }
        let mut bytes = Vec::new();
        file.read()
            .and_then(|mut file| file.read_to_end(&mut bytes))
            .map_err(|error| UploadError::Lost(error.to_string()))?;
        Ok(self.world.peer(&self.name, |peer| {
            peer.uploads.push(bytes);
            format!("at {}", peer.uploads.len()).into_bytes()
        }))
    }

    fn attach(&self, encoded: &[u8], reference: &[u8]) -> Result<Vec<u8>, UploadError> {
        Ok([encoded, b" ", reference].concat())
    }

    fn traffic(&self) -> Traffic {
        let (silent, panics) = self.world.peer(&self.name, |peer| {
            let panics = peer.traffic_panics > 0;
            peer.traffic_panics = peer.traffic_panics.saturating_sub(1);
            (peer.silent, panics)
        });
        assert!(!panics, "scripted panic in the actor");
        Traffic {
            last_inbound: (!silent).then(|| self.world.clock.now()),
            ..Traffic::default()
        }
    }

    async fn logout(&self) -> Result<(), SendError> {
        self.world.peer(&self.name, |peer| peer.logouts += 1);
        Ok(())
    }
}
