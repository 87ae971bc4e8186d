//! HTTPS to WhatsApp's media hosts: app-state snapshots and large patches, history, media.
//!
//! One client for the whole fleet, so that connections to the few media hosts are shared, and what all
//! sessions together down- and upload at a time is bounded. The hosts come from the server (`media_conn`); the
//! protocol library decrypts and checks what they answer.

use std::io::{self, Read as _};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use async_trait::async_trait;
use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited, StreamBody};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::runtime::Handle;
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_tungstenite::tungstenite::http::header::CONTENT_LENGTH;
use tokio_tungstenite::tungstenite::http::{Request, Response, Uri};
use tokio_util::task::AbortOnDropHandle;
use wacore::net::{HttpClient, HttpRequest, HttpResponse, UploadBody};

use super::endpoint::{SIMULATOR_BUILD, is_loopback_name};

/// Longest answer that is taken, in bytes. A snapshot of thousands of contacts is about a megabyte.
const MAX_BODY: usize = 64 << 20;
/// Exchanges under way at a time, of all sessions.
const AT_ONCE: usize = 8;
/// Files fetched or read at a time, of all sessions.
const READERS: usize = 16;
/// Files encrypted or uploaded at a time, of all sessions.
const WRITERS: usize = 8;
/// Bytes of an upload handed on at once.
const CHUNK: usize = 64 << 10;
/// Chunks that wait for the network.
const WAITING: usize = 4;
/// How long the media host may take no byte of an upload.
const SILENCE: Duration = Duration::from_secs(30);
/// Bytes of an upload that a media host must take in a second, all in all.
const SLOWEST: u64 = 32 << 10;
/// How long a media host may think about whether it has an upload already: a question that delays others.
const ASKED: Duration = Duration::from_secs(10);
/// How long one exchange may take; of an upload, what follows its last byte.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long an unused connection stays open.
const IDLE: Duration = Duration::from_secs(30);

/// The body of a request.
type Outgoing = UnsyncBoxBody<Bytes, io::Error>;

/// See the module documentation. Clones share everything.
#[derive(Clone)]
pub(super) struct MediaHttp {
    client: Client<HttpsConnector<HttpConnector>, Outgoing>,
    slots: Arc<Semaphore>,
    /// Files that are being fetched or read at a time, of all sessions.
    pub(super) readers: Arc<Semaphore>,
    /// Files that are being encrypted or uploaded at a time, of all sessions.
    pub(super) writers: Arc<Semaphore>,
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
            writers: Arc::new(Semaphore::new(WRITERS)),
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
        let request = Request::get(allowed(url)?).body(whole(Bytes::new()))?;
        Ok(self.client.request(request).await?)
    }

    async fn exchange(
        &self,
        request: &HttpRequest,
        body: Outgoing,
        length: Option<u64>,
    ) -> anyhow::Result<HttpResponse> {
        let uri = allowed(&request.url)?;
        let mut building = Request::builder().method(&*request.method).uri(uri);
        for (name, value) in &request.headers {
            building = building.header(name, value);
        }
        if let Some(length) = length {
            // Known to the host from the beginning: it takes no chunked encoding.
            building = building.header(CONTENT_LENGTH, length);
        }
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
        let body = whole(request.body.clone().unwrap_or_default());
        let is_question = request.method == "POST" && request.body.is_none();
        let patience = if is_question { ASKED } else { PATIENCE };
        match tokio::time::timeout(patience, self.exchange(&request, body, None)).await {
            Ok(outcome) => outcome,
            Err(_) => bail!("the media host took longer than {patience:?}"),
        }
    }

    fn supports_upload_streaming(&self) -> bool {
        true
    }

    fn execute_upload(
        &self,
        request: HttpRequest,
        mut body: UploadBody,
        content_length: u64,
    ) -> anyhow::Result<HttpResponse> {
        let handle = Handle::try_current()?;
        let (pieces, stream) = mpsc::channel::<io::Result<Frame<Bytes>>>(WAITING);
        let (http, stream) = (self.clone(), StreamBody::new(ReceiverStream::new(stream)));
        let exchange = handle.spawn(async move {
            http.exchange(&request, stream.boxed_unsync(), Some(content_length))
                .await
        });
        let exchange = AbortOnDropHandle::new(exchange);
        let mut buffer = vec![0; CHUNK];
        let mut refused = false;
        let deadline = Instant::now() + PATIENCE + Duration::from_secs(content_length / SLOWEST);
        while !refused {
            if Instant::now() > deadline {
                bail!("the media host takes less than {SLOWEST} bytes a second");
            }
            let read = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            let piece = Frame::data(Bytes::copy_from_slice(&buffer[..read]));
            match handle.block_on(pieces.send_timeout(Ok(piece), SILENCE)) {
                Ok(()) => {}
                // It has answered, or hung up: the exchange says which.
                Err(SendTimeoutError::Closed(_)) => refused = true,
                Err(SendTimeoutError::Timeout(_)) => {
                    bail!("the media host took nothing for {SILENCE:?}")
                }
            }
        }
        drop(pieces);
        match handle.block_on(async { tokio::time::timeout(PATIENCE, exchange).await }) {
            Ok(outcome) => outcome?,
            Err(_) => bail!("the media host took longer than {PATIENCE:?} to answer"),
        }
    }
}

fn whole(bytes: Bytes) -> Outgoing {
    Full::new(bytes)
        .map_err(|never| match never {})
        .boxed_unsync()
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
