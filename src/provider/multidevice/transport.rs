//! The byte pipe under the protocol library: TCP, TLS and WebSocket, gated and bounded.
//!
//! - One WebSocket message in is one event out: during the handshake the library drops what follows the
//!   first frame of an event, so messages must not be joined.
//! - Buffers are small (4 KiB in, none out) and replaced after large messages, because they would
//!   otherwise stay large for the life of an idle connection.
//! - The socket is not read while more than [`super::gate::MAX_BACKLOG`] arrivals wait for the disk, or
//!   too many messages for the library, whose queues have no bound.
//! - Frames pass the [`AckGate`] before they take the sink's lock, and every wait ends with the
//!   connection's token, so `disconnect` waits for nobody.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use rustls::pki_types::ServerName;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::http::header::ORIGIN;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_util::sync::CancellationToken;
use tracing::debug;
use wacore::net::{
    DisconnectReason, Transport, TransportEvent, TransportFactory, WHATSAPP_WEB_ORIGIN,
};
use whatsapp_rust::async_channel::{self, Receiver, Sender};

use super::backend::Shared as KeyShared;
use super::endpoint::{Endpoint, EndpointError};
use super::gate::AckGate;
use super::pairing::DeviceFlush;
use super::watch::{SocketEnd, Watch};

/// Messages the library may leave unread before the socket stops being read.
const EVENT_QUEUE: usize = 64;
/// Messages from here on grow a buffer worth replacing.
const LARGE: usize = 16 * 1024;
/// Noise frames carry a 24-bit length.
const MAX_MESSAGE: usize = (1 << 24) + 64;
/// How long a polite close frame may take.
const CLOSE_PATIENCE: Duration = Duration::from_millis(250);

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// A stream that counts what was read from it.
struct Metered {
    inner: Box<dyn Io>,
    read: Arc<AtomicU64>,
}

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.inner).poll_read(cx, buf);
        let got = buf.filled().len() - before;
        self.read.fetch_add(got as u64, Ordering::Relaxed);
        result
    }
}

impl AsyncWrite for Metered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

type Socket = WebSocketStream<Metered>;
type Write = SplitSink<Socket, Message>;
type Read = SplitStream<Socket>;

fn websocket_config() -> WebSocketConfig {
    let mut config = WebSocketConfig::default();
    config.read_buffer_size = 4096;
    config.write_buffer_size = 0;
    config.max_message_size = Some(MAX_MESSAGE);
    config.max_frame_size = Some(MAX_MESSAGE);
    config
}

/// Why no connection could be opened.
#[derive(Debug, Error)]
pub(super) enum ConnectError {
    #[error("{host}:{port}: {error}")]
    Tcp {
        host: String,
        port: u16,
        error: std::io::Error,
    },
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    #[error("TLS: {0}")]
    Tls(std::io::Error),
    #[error("TLS: `{0}` is not a name a certificate can carry")]
    ServerName(String),
    #[error("WebSocket: {0}")]
    WebSocket(Box<tungstenite::Error>),
    #[error("no connection within {0:?}")]
    Timeout(Duration),
}

impl From<tungstenite::Error> for ConnectError {
    fn from(error: tungstenite::Error) -> Self {
        Self::WebSocket(Box::new(error))
    }
}

/// Opens connections to one endpoint.
pub(super) struct Dialer {
    pub(super) endpoint: Endpoint,
    pub(super) tls: Arc<rustls::ClientConfig>,
    pub(super) timeout: Duration,
}

impl Dialer {
    async fn dial(&self) -> Result<(Socket, Arc<AtomicU64>), ConnectError> {
        tokio::time::timeout(self.timeout, self.open())
            .await
            .unwrap_or(Err(ConnectError::Timeout(self.timeout)))
    }

    async fn open(&self) -> Result<(Socket, Arc<AtomicU64>), ConnectError> {
        let (host, port) = (self.endpoint.host(), self.endpoint.port());
        let tcp_error = |error| ConnectError::Tcp {
            host: host.to_owned(),
            port,
            error,
        };
        let tcp = TcpStream::connect((host, port)).await.map_err(tcp_error)?;
        self.endpoint
            .check_peer(tcp.peer_addr().map_err(tcp_error)?)?;
        // Frames are whole messages; waiting to fill a segment only delays them.
        tcp.set_nodelay(true).map_err(tcp_error)?;
        let inner: Box<dyn Io> = if self.endpoint.tls() {
            let name = ServerName::try_from(host.to_owned())
                .map_err(|_| ConnectError::ServerName(host.to_owned()))?;
            let connector = TlsConnector::from(Arc::clone(&self.tls));
            Box::new(
                connector
                    .connect(name, tcp)
                    .await
                    .map_err(ConnectError::Tls)?,
            )
        } else {
            Box::new(tcp)
        };
        let read = Arc::new(AtomicU64::new(0));
        let stream = Metered {
            inner,
            read: Arc::clone(&read),
        };
        let mut request = self.endpoint.uri().clone().into_client_request()?;
        request
            .headers_mut()
            .insert(ORIGIN, HeaderValue::from_static(WHATSAPP_WEB_ORIGIN));
        let (socket, _) =
            tokio_tungstenite::client_async_with_config(request, stream, Some(websocket_config()))
                .await?;
        // The server speaks only after our hello, so nothing of it is in a buffer yet.
        read.store(0, Ordering::Relaxed);
        Ok((socket, read))
    }
}

/// What the library asks for a connection.
pub(super) struct Factory {
    pub(super) dialer: Arc<Dialer>,
    pub(super) watch: Arc<Watch>,
    pub(super) gate: Arc<AckGate>,
    pub(super) device: Arc<DeviceFlush>,
    pub(super) shared: Arc<KeyShared>,
}

#[async_trait]
impl TransportFactory for Factory {
    async fn create_transport(
        &self,
    ) -> Result<(Arc<dyn Transport>, Receiver<TransportEvent>), anyhow::Error> {
        let closed = self.watch.socket_token();
        let dialed = tokio::select! {
            biased;
            () = closed.cancelled() => anyhow::bail!("closed while connecting"),
            dialed = self.dialer.dial() => dialed,
        };
        let (socket, read) = match dialed {
            Ok(opened) => opened,
            Err(error) => {
                // The library only logs what it gets from here.
                self.watch
                    .socket_ended(SocketEnd::NotOpened(error.to_string()));
                return Err(error.into());
            }
        };
        let (write, stream) = socket.split();
        let shared = Arc::new(Shared {
            write: Mutex::new(Some(write)),
            wrote_large: AtomicBool::new(false),
            closed,
        });
        let (events, received) = async_channel::bounded(EVENT_QUEUE);
        let reader = Reader {
            shared: Arc::clone(&shared),
            stream: Some(stream),
            events,
            watch: Arc::clone(&self.watch),
            gate: Arc::clone(&self.gate),
            keys: Arc::clone(&self.shared),
            read,
            consumed: 0,
            large: false,
        };
        tokio::spawn(reader.run());
        let transport = Pipe {
            shared,
            watch: Arc::clone(&self.watch),
            gate: Arc::clone(&self.gate),
            device: Arc::clone(&self.device),
        };
        Ok((Arc::new(transport), received))
    }
}

struct Shared {
    /// `None` once closed.
    write: Mutex<Option<Write>>,
    wrote_large: AtomicBool,
    closed: CancellationToken,
}

impl Shared {
    /// Writes one message; ends with the connection.
    async fn write(&self, data: Bytes) -> Result<(), anyhow::Error> {
        let large = data.len() >= LARGE;
        let write = async {
            let mut guard = self.write.lock().await;
            let sink = guard
                .as_mut()
                .ok_or_else(|| anyhow::anyhow!("the connection is closed"))?;
            sink.send(Message::Binary(data)).await?;
            anyhow::Ok(())
        };
        tokio::select! {
            biased;
            () = self.closed.cancelled() => anyhow::bail!("the connection is closed"),
            result = write => result?,
        }
        if large {
            self.wrote_large.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn close(&self) {
        self.closed.cancel();
        let polite = async {
            if let Some(mut sink) = self.write.lock().await.take() {
                let _ = sink.send(Message::Close(None)).await;
            }
        };
        let _ = tokio::time::timeout(CLOSE_PATIENCE, polite).await;
    }
}

struct Pipe {
    shared: Arc<Shared>,
    watch: Arc<Watch>,
    gate: Arc<AckGate>,
    device: Arc<DeviceFlush>,
}

#[async_trait]
impl Transport for Pipe {
    async fn send(&self, data: Bytes) -> Result<(), anyhow::Error> {
        let ticket = self.gate.ticket();
        let cleared = async {
            self.gate.pass(ticket).await.map_err(|e| e.to_string())?;
            self.device.before_send().await.map_err(|e| e.to_string())
        };
        let cleared = tokio::select! {
            biased;
            () = self.shared.closed.cancelled() => anyhow::bail!("the connection is closed"),
            cleared = cleared => cleared,
        };
        if let Err(detail) = cleared {
            self.watch.poison(&detail);
            anyhow::bail!(detail);
        }
        self.shared.write(data).await
    }

    async fn disconnect(&self) {
        self.shared.close().await;
    }
}

struct Reader {
    shared: Arc<Shared>,
    stream: Option<Read>,
    events: Sender<TransportEvent>,
    watch: Arc<Watch>,
    gate: Arc<AckGate>,
    keys: Arc<KeyShared>,
    /// Bytes taken from the socket.
    read: Arc<AtomicU64>,
    /// Bytes that were part of a message handed on.
    consumed: u64,
    large: bool,
}

impl Reader {
    async fn run(mut self) {
        let closed = self.shared.closed.clone();
        let reason = tokio::select! {
            biased;
            () = closed.cancelled() => DisconnectReason::Unknown,
            reason = self.pump() => reason,
        };
        match &reason {
            DisconnectReason::ServerClose { .. } if reason.is_clean_shutdown() => {
                self.watch.socket_ended(SocketEnd::Closed);
            }
            DisconnectReason::StreamEnded => self.watch.socket_ended(SocketEnd::Closed),
            DisconnectReason::Unknown => {}
            broken => self
                .watch
                .socket_ended(SocketEnd::Broken(broken.to_string())),
        }
        self.shared.close().await;
        // A full queue loses this event, not the end: the closed channel says the same.
        let _ = self.events.try_send(TransportEvent::Disconnected(reason));
    }

    async fn pump(&mut self) -> DisconnectReason {
        loop {
            if let Err(error) = self.gate.room().await {
                self.watch.poison(error.to_string());
                return DisconnectReason::Unknown;
            }
            self.keys.inflight.room().await;
            let Some(stream) = self.stream.as_mut() else {
                return DisconnectReason::Unknown;
            };
            let message = match stream.next().await {
                Some(Ok(message)) => message,
                Some(Err(error)) => return reason_of(&error),
                None => return DisconnectReason::StreamEnded,
            };
            self.consumed += wire_len(message.len());
            self.large |= message.len() >= LARGE;
            match message {
                Message::Binary(data) => {
                    self.watch.frame_arrived();
                    let event = TransportEvent::DataReceived(data);
                    if self.events.send(event).await.is_err() {
                        return DisconnectReason::Unknown;
                    }
                }
                Message::Close(frame) => {
                    let (code, reason) = frame
                        .map(|f| (Some(u16::from(f.code)), f.reason.to_string()))
                        .unwrap_or_default();
                    return DisconnectReason::ServerClose { code, reason };
                }
                Message::Ping(_) | Message::Pong(_) => self.watch.frame_arrived(),
                Message::Text(_) | Message::Frame(_) => {
                    return DisconnectReason::ReadError("a text message".into());
                }
            }
            self.renew_buffers().await;
        }
    }

    /// Replaces buffers that a large message grew. Only between messages, with nothing half-read: the
    /// count of bytes read tells (a message the server fragments counts short, and then nothing is
    /// replaced).
    async fn renew_buffers(&mut self) {
        let grown = self.large || self.shared.wrote_large.load(Ordering::Relaxed);
        if !grown || self.read.load(Ordering::Relaxed) != self.consumed {
            return;
        }
        // A writer may be waiting for the server to read, and the server for us: try again with the next
        // message.
        let Ok(mut guard) = self.shared.write.try_lock() else {
            return;
        };
        let (Some(mut write), Some(read)) = (guard.take(), self.stream.take()) else {
            return;
        };
        if write.flush().await.is_err() {
            return;
        }
        let Ok(socket) = write.reunite(read) else {
            return;
        };
        let socket = WebSocketStream::from_raw_socket(
            socket.into_inner(),
            Role::Client,
            Some(websocket_config()),
        )
        .await;
        let (write, read) = socket.split();
        *guard = Some(write);
        self.stream = Some(read);
        self.large = false;
        self.shared.wrote_large.store(false, Ordering::Relaxed);
        debug!("replaced the buffers that a large message grew");
    }
}

/// Bytes of an unmasked, unfragmented frame with a payload of `len` bytes (RFC 6455 §5.2).
fn wire_len(len: usize) -> u64 {
    let header = match len {
        0..=125 => 2,
        126..=0xffff => 4,
        _ => 10,
    };
    header + len as u64
}

fn reason_of(error: &tungstenite::Error) -> DisconnectReason {
    use tungstenite::error::ProtocolError;
    match error {
        // How WhatsApp recycles connections: the TCP stream just ends.
        tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)
        | tungstenite::Error::ConnectionClosed
        | tungstenite::Error::AlreadyClosed => DisconnectReason::StreamEnded,
        tungstenite::Error::Io(io) if io.kind() == std::io::ErrorKind::UnexpectedEof => {
            DisconnectReason::StreamEnded
        }
        other => DisconnectReason::ReadError(other.to_string()),
    }
}

#[cfg(test)]
#[path = "transport_tests.rs"]
mod tests;
