//! A core that keeps no connection: it leases and settles over HTTP and JSON, and the daemon is killed
//! between the two. Nothing is lost, late acks count, and what was confirmed does not come again.

#![cfg(feature = "simulator")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on should fail"
)]

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use support::core::{Paired, arrivals, create_session, journal, pair};
use support::daemon::Daemon;
use support::eventually;
use trunkline_simulator::{NewAccount, Simulator, SimulatorConfig};

const PATIENCE: Duration = Duration::from_mins(3);
const SUBSCRIPTION: &str = "workspaces/default/subscriptions/core";
const CUSTOMERS: usize = 3;
const TEXTS: usize = 4;

/// Calls the JSON API of a daemon.
struct Core {
    address: String,
    token: String,
}

impl Core {
    fn new(daemon: &Daemon) -> Self {
        let created = daemon
            .trunkline()
            .args(["token", "create", "--output", "json"])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&created.stderr);
        assert!(created.status.success(), "{said}");
        let created: Value = serde_json::from_slice(&created.stdout).unwrap();
        Self {
            address: daemon.address("grpc"),
            token: created["secret"].as_str().unwrap().to_owned(),
        }
    }

    /// SIGKILL, and the daemon's next life.
    async fn find_again(&mut self, daemon: &mut Daemon) {
        daemon.kill().await;
        daemon.start().await;
        // It answers on the socket a moment before its log names the new address.
        eventually("the network listener answers", PATIENCE, async || {
            self.address = daemon.address("grpc");
            tokio::net::TcpStream::connect(&self.address).await.is_ok()
        })
        .await;
    }

    /// One request on a connection of its own, as a process per request makes it.
    async fn post(&self, path: &str, body: &Value) -> Value {
        let client = Client::builder(TokioExecutor::new()).build_http::<Body>();
        let request = Request::post(format!("http://{}/v1/{path}", self.address))
            .header("authorization", format!("Bearer {}", self.token))
            .body(Body::from(body.to_string()))
            .unwrap();
        let answer = tokio::time::timeout(PATIENCE, client.request(request));
        let answer = answer.await.expect("an answer").unwrap();
        let code = answer.status();
        let body = axum::body::to_bytes(Body::new(answer.into_body()), usize::MAX);
        let body: Value = serde_json::from_slice(&body.await.unwrap()).unwrap();
        assert!(code.is_success(), "{path}: {code} {body}");
        body
    }

    async fn lease(&self, wait: &str) -> Vec<Lease> {
        let asked = json!({ "wait": wait });
        let answer = self.post(&format!("{SUBSCRIPTION}:lease"), &asked).await;
        let leases = answer["leases"].as_array().unwrap();
        leases.iter().map(Lease::read).collect()
    }

    /// Acks; what each came to.
    async fn ack(&self, leases: &[&Lease]) -> Vec<String> {
        let ack_ids: Vec<_> = leases.iter().map(|lease| &lease.ack_id).collect();
        let asked = json!({ "ack": { "ackIds": ack_ids } });
        let answer = self.post(&format!("{SUBSCRIPTION}:settle"), &asked).await;
        let results = answer["results"].as_array().unwrap();
        results
            .iter()
            .map(|result| result["outcome"].as_str().unwrap().to_owned())
            .collect()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Lease {
    ack_id: String,
    chat: String,
    text: String,
    attempt: u64,
}

impl Lease {
    fn read(lease: &Value) -> Self {
        let text = |pointer| lease.pointer(pointer).unwrap().as_str().unwrap().to_owned();
        Self {
            ack_id: text("/ackId"),
            chat: text("/event/orderingKey"),
            text: text("/event/message/content/text/text"),
            attempt: lease["attempt"].as_u64().unwrap(),
        }
    }
}

/// The leases of each chat, in order.
fn by_chat(leases: &[Lease]) -> BTreeMap<&str, Vec<&Lease>> {
    let mut chats: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for lease in leases {
        chats.entry(lease.chat.as_str()).or_default().push(lease);
    }
    chats
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_between_lease_and_settle_loses_nothing() {
    let simulator = Simulator::bind(SimulatorConfig::default()).await.unwrap();
    let account = |phone: &str| {
        let new = NewAccount::new(phone, "Somebody");
        simulator.create_account(new).unwrap()
    };
    let shop = account("+2348030000001");
    let mut daemon = Daemon::prepare(&simulator.ws_url(), "");
    daemon.start().await;
    let channel = daemon.channel().await.unwrap();
    create_session(&channel, "main").await;
    let paired = pair(&channel, "main", |qr| {
        shop.scan_qr(qr).unwrap();
    })
    .await;
    assert!(matches!(paired, Paired::Linked), "{paired:?}");
    let mut core = Core::new(&daemon);
    let subscription = json!({
        "subscriptionId": "core",
        "subscription": { "filter": { "types": ["EVENT_TYPE_MESSAGE"] } },
        "requestId": support::core::request_id(),
    });
    core.post("workspaces/default/subscriptions", &subscription)
        .await;
    for customer in 0..CUSTOMERS {
        let customer = account(&format!("+234803000010{customer}"));
        for n in 0..TEXTS {
            let text = format!("{} {n}", customer.phone());
            customer.send_text(&shop.phone(), &text).unwrap();
        }
    }

    eventually("every text is in the journal", PATIENCE, async || {
        let journal = journal(&channel).await.unwrap();
        arrivals(&journal).len() == CUSTOMERS * TEXTS
    })
    .await;

    // Of each chat, the first is settled before the kill and the second after it.
    let first = core.lease("60s").await;
    assert_eq!(first.len(), CUSTOMERS * TEXTS);
    let chats = by_chat(&first);
    assert!(chats.values().all(|chat| chat.len() == TEXTS));
    let nth = |n: usize| chats.values().map(|chat| chat[n]).collect::<Vec<_>>();
    let confirmed = vec!["PULL_OUTCOME_CONFIRMED"; CUSTOMERS];
    assert_eq!(core.ack(&nth(0)).await, confirmed);
    core.find_again(&mut daemon).await;
    assert_eq!(core.ack(&nth(1)).await, confirmed, "late, and welcome");

    let again = core.lease("60s").await;
    let texts = |leases: &[Lease]| {
        let by_chat = by_chat(leases);
        let texts = by_chat.into_iter().map(|(chat, leases)| {
            let texts = leases.iter().map(|lease| lease.text.clone());
            (chat.to_owned(), texts.collect::<Vec<_>>())
        });
        texts.collect::<BTreeMap<_, _>>()
    };
    let mut rest = texts(&first);
    for chat in rest.values_mut() {
        chat.drain(..2);
    }
    assert_eq!(texts(&again), rest, "what was not settled, in order");
    assert!(again.iter().all(|lease| lease.attempt == 1));
    assert_eq!(
        core.ack(&nth(2)).await,
        confirmed,
        "done is done, also by a lease of the daemon's earlier life"
    );
    let all: Vec<_> = again.iter().collect();
    assert_eq!(
        core.ack(&all).await,
        vec!["PULL_OUTCOME_CONFIRMED"; all.len()]
    );
    core.find_again(&mut daemon).await;
    assert!(core.lease("0s").await.is_empty());
    assert_eq!(core.ack(&nth(0)).await, confirmed, "and again");
}
