//! HTTPS to WhatsApp's media hosts: app-state snapshots and large patches, history, media.
//!
//! One client for the whole fleet, so that connections to the few media hosts are shared, and what all
//! sessions together download at a time is bounded. The hosts come from the server (`media_conn`); the
//! protocol library decrypts and checks what they answer.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use async_trait::async_trait;
use bytes::Bytes;
use http_body::Body;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::Semaphore;
use tokio_tungstenite::tungstenite::http::{Request, Response, Uri};
use wacore::net::{HttpClient, HttpRequest, HttpResponse};

use super::endpoint::{SIMULATOR_BUILD, is_loopback_name};

/// Longest answer that is taken, in bytes. A snapshot of thousands of contacts is about a megabyte.
const MAX_BODY: usize = 64 << 20;
/// Exchanges under way at a time, of all sessions.
const AT_ONCE: usize = 8;
/// Files fetched or read at a time, of all sessions.
const READERS: usize = 16;
/// How long one exchange may take.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long an unused connection stays open.
const IDLE: Duration = Duration::from_secs(30);

/// See the module documentation. Clones share everything.
#[derive(Clone)]
pub(super) struct MediaHttp {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    slots: Arc<Semaphore>,
    /// Files that are being fetched or read at a time, of all sessions.
    pub(super) readers: Arc<Semaphore>,
}

impl MediaHttp {
    /// A client that trusts what `tls` trusts.
    pub(super) fn new(tls: &rustls::ClientConfig) -> Self {
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls.clone())
            .https_only()
            .enable_http1()
            .build();
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(AT_ONCE)
            .build(connector);
        Self {
            client,
            slots: Arc::new(Semaphore::new(AT_ONCE)),
            readers: Arc::new(Semaphore::new(READERS)),
        }
    }

    /// Asks for a file of any length, which the caller reads, holding one of the `readers`: long answers
    /// must not keep the short exchanges waiting.
    pub(super) async fn get(
        &self,
        url: &str,
    ) -> anyhow::Result<
        Response<impl Body<Data = Bytes, Error: std::error::Error + Send> + Send + Unpin + use<>>,
    > {
        let request = Request::get(allowed(url)?).body(Full::default())?;
        Ok(self.client.request(request).await?)
    }

    async fn exchange(&self, request: HttpRequest) -> anyhow::Result<HttpResponse> {
        let uri = allowed(&request.url)?;
        let mut building = Request::builder().method(&*request.method).uri(uri);
        for (name, value) in &request.headers {
            building = building.header(name, value);
        }
        let body = Full::new(request.body.unwrap_or_default());
        let answer = self.client.request(building.body(body)?).await?;
        let status_code = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), MAX_BODY).collect().await;
        let body = match body {
            Ok(body) => body.to_bytes(),
            Err(error) => bail!("the answer of the media host ended early or is too long: {error}"),
        };
        Ok(HttpResponse {
            status_code,
            body: body.into(),
        })
    }
}

/// The address of a media host that this build may talk to.
fn allowed(url: &str) -> anyhow::Result<Uri> {
    let uri: Uri = url.parse().context("the media URL is malformed")?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    ensure!(
        !SIMULATOR_BUILD || is_loopback_name(host),
        "this build has feature `simulator` and talks to loopback addresses only"
    );
    Ok(uri)
}

#[async_trait]
impl HttpClient for MediaHttp {
    async fn execute(&self, request: HttpRequest) -> anyhow::Result<HttpResponse> {
        let _slot = self.slots.acquire().await?;
        match tokio::time::timeout(PATIENCE, self.exchange(request)).await {
            Ok(outcome) => outcome,
            Err(_) => bail!("the media host took longer than {PATIENCE:?}"),
        }
    }
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
