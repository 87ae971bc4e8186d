//! A simulated WhatsApp, a store in memory, a provider, and one session's line.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use trunkline::domain::clock::{Entropy, SystemClock, Timestamp};
use trunkline::domain::ids::{MessageId, SessionId, SessionName, WorkspaceId};
use trunkline::domain::message::{Content, MessageState, OutboundMessage, Priority};
use trunkline::domain::person::Person;
use trunkline::domain::session::{Cause, Desired, Traffic};
use trunkline::provider::contract::{Line, Mode, Provider as _, SendError, SentMessage};
use trunkline::provider::multidevice::{MultideviceConfig, MultideviceProvider, NAME};
use trunkline::store::keyring::Keks;
use trunkline::store::memory::MemoryEngine;
use trunkline::store::{NewSession, SessionStore, Store, StoreOptions};
use trunkline_simulator::{
    Account, Fault, FaultSpec, FaultTarget, NewAccount, Simulator, SimulatorConfig,
};

use crate::sink::{PATIENCE, TestSink};

pub(crate) const SHOP: &str = "+15550000001";
pub(crate) const CUSTOMER: &str = "+15550000002";

pub(crate) struct World {
    pub(crate) simulator: Simulator,
    pub(crate) shop: Account,
    pub(crate) customer: Account,
    pub(crate) sink: Arc<TestSink>,
    pub(crate) line: Arc<dyn Line>,
    provider: MultideviceProvider,
    config: MultideviceConfig,
    entropy: Entropy,
    session: SessionStore,
}

/// A run under way.
pub(crate) struct Run {
    stop: CancellationToken,
    task: JoinHandle<Cause>,
}

impl Run {
    /// Closes the connection and waits for the end.
    pub(crate) async fn stop(self) -> Cause {
        self.stop.cancel();
        self.ended().await
    }

    /// Waits for the connection to end by itself.
    pub(crate) async fn ended(self) -> Cause {
        tokio::time::timeout(PATIENCE, self.task)
            .await
            .expect("the run ends")
            .expect("the run does not panic")
    }

    /// Ends the task without any goodbye, as the death of the process would.
    pub(crate) async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

async fn session(store: &Store) -> SessionStore {
    let workspace = WorkspaceId::default_workspace();
    let workspace = store.workspace(&workspace).await.unwrap();
    let id = SessionId::new("shop").unwrap();
    let new = NewSession {
        id: id.clone(),
        display_name: String::new(),
        labels: BTreeMap::new(),
        provider: NAME.into(),
        desired: Desired::Running,
    };
    workspace.sessions().create(new).await.unwrap();
    workspace.session(&id).await.unwrap()
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// A world whose provider is configured by `edit`.
    pub(crate) async fn with(edit: impl FnOnce(&mut MultideviceConfig)) -> Self {
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .try_init();
        let simulator = Simulator::bind(SimulatorConfig::default()).await.unwrap();
        let account = |phone, name| {
            simulator
                .create_account(NewAccount::new(phone, name))
                .unwrap()
        };
        let (shop, customer) = (account(SHOP, "Shop"), account(CUSTOMER, "Customer"));
        let mut config = MultideviceConfig {
            endpoint: simulator.ws_url(),
            ..MultideviceConfig::default()
        };
        edit(&mut config);
        let entropy = Entropy::from_system().unwrap();
        let clock = Arc::new(SystemClock::new());
        let provider =
            MultideviceProvider::new(config.clone(), clock.clone(), entropy.clone()).unwrap();
        let options = StoreOptions {
            engine: Arc::new(MemoryEngine::new()),
            keks: Keks::ephemeral([7; 32]),
            clock,
            entropy: entropy.clone(),
            release: "test".into(),
            media: None,
        };
        let store = Store::open(options).await.unwrap();
        let session = session(&store).await;
        let sink = TestSink::new(session.clone());
        let line = open(&provider, &session, &sink).await;
        Self {
            simulator,
            shop,
            customer,
            sink,
            line,
            provider,
            config,
            entropy,
            session,
        }
    }

    /// A world with the shop's number paired and online.
    pub(crate) async fn online(edit: impl FnOnce(&mut MultideviceConfig)) -> (Self, Run) {
        let mut world = Self::with(edit).await;
        world.pair().await;
        let run = world.login();
        world.sink.online().await;
        (world, run)
    }

    /// Throws the line away and opens it again from what is stored, as a restart would.
    pub(crate) async fn reopen(&mut self) {
        self.line = open(&self.provider, &self.session, &self.sink).await;
    }

    /// The same with a provider that is configured anew.
    pub(crate) async fn reopen_with(&mut self, edit: impl FnOnce(&mut MultideviceConfig)) {
        edit(&mut self.config);
        let (config, clock) = (self.config.clone(), Arc::new(SystemClock::new()));
        self.provider = MultideviceProvider::new(config, clock, self.entropy.clone()).unwrap();
        self.reopen().await;
    }

    pub(crate) fn run(&self, mode: Mode) -> Run {
        self.sink.forget_signals();
        let stop = CancellationToken::new();
        let (line, token) = (Arc::clone(&self.line), stop.clone());
        let task = tokio::spawn(async move { line.run(mode, token).await });
        Run { stop, task }
    }

    pub(crate) fn login(&self) -> Run {
        self.run(Mode::Login)
    }

    /// Links by QR, up to the server's restart. The line is opened again afterwards, as the session layer
    /// does: the library may still be closing the connection of the pairing.
    pub(crate) async fn pair(&mut self) {
        let run = self.run(Mode::PairByQr);
        let qr = self.sink.qr().await;
        self.shop.scan_qr(&qr).unwrap();
        assert_eq!(run.ended().await, Cause::RestartRequired);
        self.reopen().await;
    }

    pub(crate) fn message(&self, to: &str, text: &str) -> OutboundMessage {
        let to = Person {
            phone: Some(to.to_owned()),
            ..Person::default()
        };
        let content = Content::Text { text: text.into() };
        let encoded = self.provider.encode(&to, &content).unwrap();
        let mut sent = self.sink.sent.lock().unwrap();
        let copy = SentMessage {
            to: to.clone(),
            encoded: encoded.bytes.clone(),
        };
        sent.insert(encoded.stanza_id.clone(), copy);
        OutboundMessage {
            id: MessageId(uuid::Uuid::nil()),
            stanza_id: encoded.stanza_id,
            from: None,
            to,
            content,
            encoded: encoded.bytes,
            media: None,
            state: MessageState::Sending,
            priority: Priority::Reply,
            created_at: Timestamp(1),
            send_after: None,
            expire_at: None,
            history: Vec::new(),
            attempts: 1,
            failure: None,
        }
    }

    pub(crate) async fn send(&self, to: &str, text: &str) -> Result<String, SendError> {
        let message = self.message(to, text);
        self.line.send(&message).await?;
        Ok(message.stanza_id)
    }

    pub(crate) fn fault(&self, fault: Fault, times: Option<u32>) {
        let target = FaultTarget::All;
        let spec = FaultSpec {
            target,
            fault,
            times,
        };
        self.simulator.fault(spec).unwrap();
    }

    pub(crate) async fn until(
        &self,
        what: &str,
        condition: impl Fn(&trunkline_simulator::Truth<'_>) -> bool,
    ) {
        self.simulator
            .wait_until(condition, PATIENCE)
            .await
            .unwrap_or_else(|error| panic!("{what}: {error}; {:#?}", self.simulator.ledger()));
    }

    /// Waits until the line's signs of life satisfy `condition`.
    pub(crate) async fn until_traffic(&self, condition: impl Fn(&Traffic) -> bool) {
        let reached = async {
            while !condition(&self.line.traffic()) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, reached)
            .await
            .unwrap_or_else(|_| panic!("still {:?}", self.line.traffic()));
    }

    /// The paired device of the shop's number.
    pub(crate) fn device(&self) -> u16 {
        self.shop.devices().first().expect("a linked device").device
    }
}

async fn open(
    provider: &MultideviceProvider,
    session: &SessionStore,
    sink: &Arc<TestSink>,
) -> Arc<dyn Line> {
    let name: SessionName = session.name();
    let store = session.claim().await.unwrap();
    provider.open(name, store, sink.clone()).await.unwrap()
}
