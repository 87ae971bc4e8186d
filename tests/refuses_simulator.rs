//! A build without feature `simulator` is the one that reaches WhatsApp, and it must not be fooled by
//! anything that is not: it refuses plain text, and a server whose certificate chain does not end in
//! WhatsApp's root, even when TLS to it is trusted.
#![cfg(not(feature = "simulator"))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use tokio_util::sync::CancellationToken;
use trunkline::domain::clock::{Entropy, SystemClock};
use trunkline::domain::event::NewEvent;
use trunkline::domain::ids::{SessionId, WorkspaceId};
use trunkline::domain::session::{Cause, Desired};
use trunkline::provider::contract::{
    Arrival, CommitError, Mode, Provider as _, SentMessage, Seq, Signal, Sink,
};
use trunkline::provider::multidevice::{
    ConfigError, EndpointError, MultideviceConfig, MultideviceProvider, NAME,
};
use trunkline::store::keyring::Keks;
use trunkline::store::memory::MemoryEngine;
use trunkline::store::{NewSession, SessionStore, Store, StoreOptions};
use trunkline_simulator::{Fact, Simulator, SimulatorConfig};

const PATIENCE: Duration = Duration::from_secs(90);

/// Nothing may arrive; signals are kept.
#[derive(Default)]
struct Quiet(Mutex<Vec<Signal>>);

#[async_trait]
impl Sink for Quiet {
    async fn commit(&self, batch: Vec<Arrival>) -> Result<(), CommitError> {
        panic!("arrived: {batch:?}")
    }
    fn enqueue(&self, arrival: Arrival) -> Seq {
        panic!("arrived: {arrival:?}")
    }
    fn dispatched(&self) -> Seq {
        0
    }
    fn durable(&self) -> Seq {
        0
    }
    async fn wait_durable(&self, _: Seq) -> Result<(), CommitError> {
        Ok(())
    }
    fn signal(&self, signal: Signal) {
        self.0.lock().unwrap().push(signal);
    }
    async fn knows(&self, _: &NewEvent) -> Result<bool, CommitError> {
        Ok(false)
    }

    async fn sent_message(&self, _: &str) -> Result<Option<SentMessage>, CommitError> {
        Ok(None)
    }
}

fn der(pem: &str) -> Vec<u8> {
    let body: String = pem
        .lines()
        .filter(|line| !line.starts_with("-----"))
        .collect();
    base64::engine::general_purpose::STANDARD
        .decode(body)
        .unwrap()
}

async fn session() -> SessionStore {
    let store = Store::open(StoreOptions {
        engine: Arc::new(MemoryEngine::new()),
        keks: Keks::ephemeral([7; 32]),
        clock: Arc::new(SystemClock::new()),
        entropy: Entropy::from_system().unwrap(),
        release: "test".into(),
        media: None,
    })
    .await
    .unwrap();
    let workspace = store
        .workspace(&WorkspaceId::default_workspace())
        .await
        .unwrap();
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

fn provider(config: MultideviceConfig) -> Result<MultideviceProvider, ConfigError> {
    let entropy = Entropy::from_system().unwrap();
    MultideviceProvider::new(config, Arc::new(SystemClock::new()), entropy)
}

#[test]
fn plain_text_is_refused_at_start() {
    let config = MultideviceConfig {
        endpoint: "ws://127.0.0.1:9/ws/chat".into(),
        ..MultideviceConfig::default()
    };
    match provider(config) {
        Err(ConfigError::Endpoint(EndpointError::Plain(_))) => {}
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_simulators_chain_is_refused() {
    let simulator = Simulator::bind(SimulatorConfig {
        wss: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
        ..SimulatorConfig::default()
    })
    .await
    .unwrap();
    let provider = provider(MultideviceConfig {
        endpoint: simulator.wss_url().unwrap(),
        extra_roots: vec![der(simulator.tls_root_pem())],
        ..MultideviceConfig::default()
    })
    .unwrap();
    let session = session().await;
    let sink = Arc::new(Quiet::default());
    let line = provider
        .open(session.name(), session.claim().await.unwrap(), sink.clone())
        .await
        .unwrap();
    let run = line.run(Mode::PairByQr, CancellationToken::new());
    let cause = tokio::time::timeout(PATIENCE, run).await.unwrap();
    match cause {
        Cause::Transient { code: None, detail } => {
            assert!(
                detail.contains("handshake"),
                "TLS worked, Noise did not: {detail}"
            );
        }
        other => panic!("{other:?}"),
    }
    assert!(sink.0.lock().unwrap().is_empty(), "no QR was shown");
    let ledger = simulator.ledger();
    assert!(
        !ledger
            .facts()
            .any(|fact| matches!(fact, Fact::PairingStarted { .. })),
        "the client hung up before it said who it is"
    );
}
