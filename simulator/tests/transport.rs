//! TLS, paths, handshake patterns, large backlogs, and what a seed fixes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests fail by panicking"
)]

mod support;

use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use support::{Device, PATIENCE, person, simulator, simulator_with};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use trunkline_simulator::{
    Fact, Fault, FaultSpec, FaultTarget, NoisePattern, Simulator, SimulatorConfig,
};

#[tokio::test(flavor = "multi_thread")]
async fn wss_is_trusted_through_the_served_root_only() {
    let simulator = simulator_with(SimulatorConfig {
        wss: Some(([127, 0, 0, 1], 0).into()),
        ..SimulatorConfig::default()
    })
    .await;
    let url = simulator.wss_url().unwrap();
    let address = url
        .strip_prefix("wss://")
        .and_then(|rest| rest.strip_suffix("/ws/chat"))
        .unwrap()
        .to_owned();
    let connect = async |roots: rustls::RootCertStore| {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let tcp = TcpStream::connect(&address).await.unwrap();
        TlsConnector::from(Arc::new(config))
            .connect(name, tcp)
            .await
    };
    let mut roots = rustls::RootCertStore::empty();
    let pem = simulator.tls_root_pem();
    let root = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    roots.add(root).unwrap();
    let stream = connect(roots).await.unwrap();
    tokio_tungstenite::client_async(&url, stream).await.unwrap();
    assert!(connect(rustls::RootCertStore::empty()).await.is_err());
    simulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_chat_path_is_served() {
    let simulator = simulator().await;
    let elsewhere = simulator.ws_url().replace("/ws/chat", "/chat");
    let refused = tokio_tungstenite::connect_async(elsewhere).await;
    assert!(refused.unwrap_err().to_string().contains("404"));
    simulator.shutdown().await;
}

/// How the handshakes so far completed, in order.
fn handshakes(simulator: &Simulator) -> Vec<NoisePattern> {
    let ledger = simulator.ledger();
    let patterns = ledger.facts().filter_map(|fact| match fact {
        Fact::Handshake { pattern, .. } => Some(*pattern),
        _ => None,
    });
    patterns.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_whose_ik_is_declined_falls_back_to_xx_and_returns_by_ik() {
    let simulator = simulator().await;
    let owner = person(&simulator, 1);
    let customer = person(&simulator, 2);
    let device = Device::new(simulator.ws_url()).await;
    device.pair(&owner).await;
    let again = async || {
        simulator
            .fault(FaultSpec {
                target: FaultTarget::All,
                fault: Fault::Close,
                times: None,
            })
            .unwrap();
        device.ended().await;
        device.connect().await;
        *handshakes(&simulator).last().unwrap()
    };
    assert_eq!(again().await, NoisePattern::Ik);
    simulator
        .fault(FaultSpec {
            target: FaultTarget::Account(owner.phone()),
            fault: Fault::DeclineIk,
            times: Some(1),
        })
        .unwrap();
    assert_eq!(again().await, NoisePattern::XxFallback);
    // The channel that came of it carries messages both ways.
    customer.send_text(&owner.phone(), "still there?").unwrap();
    device.text("still there?").await;
    assert_eq!(again().await, NoisePattern::Ik);
    simulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_returning_device_uses_ik() {
    let simulator = simulator().await;
    let owner = person(&simulator, 1);
    let device = Device::new(simulator.ws_url()).await;
    device.pair(&owner).await;
    simulator
        .fault(FaultSpec {
            target: FaultTarget::All,
            fault: Fault::Close,
            times: None,
        })
        .unwrap();
    device.ended().await;
    device.connect().await;
    let patterns = handshakes(&simulator);
    // The library caches the server's key only once it is logged in.
    assert_eq!(patterns.first(), Some(&NoisePattern::Xx));
    assert_eq!(patterns.last(), Some(&NoisePattern::Ik));
    simulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_backlog_is_pulled_in_batches_to_the_end() {
    const MISSED: usize = 450;
    let simulator = simulator().await;
    let owner = person(&simulator, 1);
    let customer = person(&simulator, 2);
    let device = Device::new(simulator.ws_url()).await;
    device.pair(&owner).await;
    customer.send_text(&owner.phone(), "live").unwrap();
    device.text("live").await;
    simulator
        .fault(FaultSpec {
            target: FaultTarget::All,
            fault: Fault::Close,
            times: None,
        })
        .unwrap();
    device.ended().await;
    let ids: Vec<String> = (0..MISSED)
        .map(|n| customer.send_text(&owner.phone(), &n.to_string()).unwrap())
        .collect();
    device.connect().await;
    device.text(&(MISSED - 1).to_string()).await;
    let got: Vec<String> = device
        .texts()
        .into_iter()
        .skip(1)
        .map(|(id, _)| id)
        .collect();
    assert_eq!(got, ids);
    let (owner_phone, customer_phone) = (owner.phone(), customer.phone());
    simulator
        .wait_until(
            |truth| {
                truth.backlog(&owner_phone, 1) == 0
                    && truth
                        .sent(&customer_phone)
                        .iter()
                        .all(|message| !message.receipts.is_empty())
            },
            PATIENCE,
        )
        .await
        .unwrap();
    simulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_seed_gives_the_same_world() {
    async fn world(seed: u64) -> (String, [u8; 32], Vec<String>, String, String) {
        let simulator = simulator_with(SimulatorConfig {
            seed,
            ..SimulatorConfig::default()
        })
        .await;
        let people = [person(&simulator, 1), person(&simulator, 2)];
        let lids = people
            .iter()
            .map(trunkline_simulator::Account::lid)
            .collect();
        let id = people[0].send_text(&people[1].phone(), "x").unwrap();
        let device = Device::new(simulator.ws_url()).await;
        device.run();
        let qr = device
            .event(|event| match event {
                wacore::types::events::Event::PairingQrCode(code) => Some(code.code.clone()),
                _ => None,
            })
            .await;
        let body = qr.rsplit('#').next().unwrap();
        let reference = body.split(',').next().unwrap().to_owned();
        let root = simulator.root_public_key();
        device.client.disconnect().await;
        let events = simulator
            .ledger()
            .facts()
            .map(|fact| format!("{fact:?}"))
            .collect::<Vec<_>>()
            .join("\n");
        simulator.shutdown().await;
        (reference, root, lids, id, events)
    }
    let (first, second, other) = (world(11).await, world(11).await, world(12).await);
    assert_eq!(first.0, second.0);
    assert_eq!(first.1, second.1);
    assert_eq!(first.2, second.2);
    assert_eq!(first.3, second.3);
    assert!(second.4.starts_with(&first.4) || first.4.starts_with(&second.4));
    assert_ne!(first.0, other.0);
    assert_ne!(first.1, other.1);
    assert_ne!(first.2, other.2);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_task_outlives_shutdown() {
    let simulator = simulator().await;
    let owner = person(&simulator, 1);
    let device = Device::new(simulator.ws_url()).await;
    device.pair(&owner).await;
    let address = simulator.ws_url();
    simulator.shutdown().await;
    device.ended().await;
    assert!(tokio_tungstenite::connect_async(address).await.is_err());
}
