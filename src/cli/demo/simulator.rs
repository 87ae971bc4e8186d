//! The simulator as a process, and its HTTP control API.

use std::path::Path;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

use super::process::Process;
use crate::cli::exit::{Exit, Failure};

/// How long the simulator may take to be ready.
const READY_PATIENCE: Duration = Duration::from_secs(30);
/// Largest answer read; the ledger of a demo stays far below.
const MAX_BODY: usize = 256 << 20;

/// The simulator.
#[derive(Debug)]
pub(super) struct Simulator {
    process: Process,
    /// Where clients connect.
    pub(super) ws: String,
    /// Its control API.
    pub(super) control: Control,
}

/// What it says when it is ready.
#[derive(Debug, Deserialize)]
struct Ready {
    ws: String,
    control: String,
}

impl Simulator {
    /// Starts it and waits until it serves.
    pub(super) async fn start(program: &Path, seed: u64, log: &Path) -> Result<Self, Failure> {
        let seed = seed.to_string();
        let arguments = ["--seed", seed.as_str(), "--stop-on-stdin-eof"];
        let (mut process, stdout) = Process::start("simulator", program, &arguments, log)?;
        let mut line = String::new();
        if let Some(stdout) = stdout {
            let mut reader = BufReader::new(stdout);
            let read = reader.read_line(&mut line);
            let _ = tokio::time::timeout(READY_PATIENCE, read).await;
        }
        let Ok(ready) = serde_json::from_str::<Ready>(&line) else {
            process.check()?;
            return Err(Failure::new(
                Exit::Internal,
                format!("the simulator did not become ready; see {}", log.display()),
            ));
        };
        Ok(Self {
            process,
            ws: ready.ws,
            control: Control::new(&ready.control),
        })
    }

    /// Stops it.
    pub(super) async fn stop(self) -> Result<(), Failure> {
        self.process.stop().await
    }
}

/// One entry of the simulator's ledger.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Entry {
    /// What happened.
    pub(super) event: String,
    #[serde(flatten)]
    rest: serde_json::Map<String, Value>,
}

impl Entry {
    /// A field that is text, if this entry has it.
    pub(super) fn text(&self, field: &str) -> Option<&str> {
        self.rest.get(field).and_then(Value::as_str)
    }
}

/// The control API.
#[derive(Debug, Clone)]
pub(super) struct Control {
    base: String,
    client: Client<HttpConnector, Body>,
}

impl Control {
    fn new(base: &str) -> Self {
        Self {
            base: base.trim_end_matches('/').to_owned(),
            client: Client::builder(TokioExecutor::new()).build_http(),
        }
    }

    /// Its address.
    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// Creates a person.
    pub(super) async fn create(&self, phone: &str, name: &str) -> Result<(), Failure> {
        let body = json!({ "phone": phone, "name": name });
        self.call(Method::POST, "/accounts", Some(body))
            .await
            .map(drop)
    }

    /// Lets a person's phone scan a QR.
    pub(super) async fn scan(&self, phone: &str, qr: &str) -> Result<(), Failure> {
        let path = format!("/accounts/{}/scan", digits(phone));
        self.call(Method::POST, &path, Some(json!({ "qr": qr })))
            .await
            .map(drop)
    }

    /// Lets a person send a text; returns the stanza id.
    pub(super) async fn send(&self, phone: &str, to: &str, text: &str) -> Result<String, Failure> {
        #[derive(Deserialize)]
        struct Sent {
            id: String,
        }
        let path = format!("/accounts/{}/messages", digits(phone));
        let body = json!({ "to": digits(to), "text": text });
        let answer = self.call(Method::POST, &path, Some(body)).await?;
        read::<Sent>(answer).map(|sent| sent.id)
    }

    /// Lets a person answer everything automatically.
    pub(super) async fn auto_reply(&self, phone: &str) -> Result<(), Failure> {
        let path = format!("/accounts/{}/reply", digits(phone));
        self.call(Method::POST, &path, Some(json!({ "enabled": true })))
            .await
            .map(drop)
    }

    /// Everything that happened.
    pub(super) async fn ledger(&self) -> Result<Vec<Entry>, Failure> {
        #[derive(Deserialize)]
        struct Ledger {
            entries: Vec<Entry>,
        }
        let answer = self.call(Method::GET, "/ledger", None).await?;
        read::<Ledger>(answer).map(|ledger| ledger.entries)
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Value, Failure> {
        let fail =
            |detail: String| Failure::new(Exit::Internal, format!("simulator: {path}: {detail}"));
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header("content-type", "application/json")
            .body(body)
            .map_err(|error| fail(error.to_string()))?;
        let response = self
            .client
            .request(request)
            .await
            .map_err(|error| fail(error.to_string()))?;
        let status = response.status();
        let bytes = axum::body::to_bytes(Body::new(response.into_body()), MAX_BODY)
            .await
            .map_err(|error| fail(error.to_string()))?;
        if status.is_success() {
            serde_json::from_slice(&bytes).map_err(|error| fail(error.to_string()))
        } else {
            Err(fail(format!(
                "{status} {}",
                String::from_utf8_lossy(&bytes)
            )))
        }
    }
}

fn read<T: DeserializeOwned>(answer: Value) -> Result<T, Failure> {
    serde_json::from_value(answer)
        .map_err(|error| Failure::new(Exit::Internal, format!("simulator: {error}")))
}

/// The simulator knows people by their digits.
pub(super) fn digits(phone: &str) -> &str {
    phone.trim_start_matches('+')
}
