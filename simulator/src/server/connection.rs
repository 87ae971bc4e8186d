//! One client: WebSocket, header, Noise handshake, then stanzas both ways.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::StatusCode;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use wacore::framing::{self, FrameDecoder};
use wacore_binary::Node;
use wacore_binary::consts::WA_CONN_HEADER;

use super::listener::Scheme;
use crate::core::Core;
use crate::hub::{Arrival, ConnectionId, Hub, Outgoing};
use crate::ledger::Fact;
use crate::noise::{Established, HelloOutcome, OpenError, Opener, Sealer, on_client_hello};

/// The path official clients open.
const PATH: &str = "/ws/chat";
/// What a client with routing info puts before its header: `ED 00 01`, length, info.
const ROUTING_PREFIX: [u8; 4] = [b'E', b'D', 0, 1];
/// A client that has not finished TLS, WebSocket and Noise by then is dropped.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a closing connection waits for the client to close too.
const GOODBYE: Duration = Duration::from_millis(500);
/// How long an overtaken stanza waits to be overtaken.
const OVERTAKE: Duration = Duration::from_millis(300);
/// Small on purpose: a thousand of these live beside the daemon.
const READ_BUFFER: usize = 4096;

type Sink<S> = SplitSink<WebSocketStream<S>, Message>;
type Source<S> = SplitStream<WebSocketStream<S>>;

/// Serves one TCP connection to its end.
pub(super) async fn serve(stream: TcpStream, scheme: &Scheme, core: &Arc<Core>) {
    let (id, outgoing) = core.with(Hub::open);
    let open = Open {
        core: Arc::clone(core),
        id,
    };
    match scheme {
        Scheme::Plain => run(stream, open, outgoing).await,
        Scheme::Tls(acceptor) => match timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => run(stream, open, outgoing).await,
            Ok(Err(error)) => open.protocol_error(format!("TLS: {error}")),
            Err(_) => open.protocol_error("TLS handshake timed out".to_owned()),
        },
    }
}

/// Tells the hub when the connection ends, however it ends.
struct Open {
    core: Arc<Core>,
    id: ConnectionId,
}

impl Open {
    fn protocol_error(&self, reason: String) {
        self.core.with(|hub| hub.protocol_error(self.id, reason));
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.core.with(|hub| hub.closed(self.id));
    }
}

/// How the writer ended.
enum Farewell {
    /// A goodbye was sent; the client may still want to read it.
    Said,
    /// Nothing more to say.
    None,
}

async fn run<S: AsyncRead + AsyncWrite + Unpin + Send>(
    stream: S,
    open: Open,
    outgoing: UnboundedReceiver<Outgoing>,
) {
    let (link, established) = match timeout(HANDSHAKE_TIMEOUT, handshake(stream, &open)).await {
        Ok(Ok(done)) => done,
        Ok(Err(Ended::Fault(reason))) => return open.protocol_error(reason),
        Ok(Err(Ended::Gone)) => return,
        Err(_) => return open.protocol_error("handshake timed out".to_owned()),
    };
    open.core.with(|hub| {
        hub.handshake_done(open.id, established.pattern);
        hub.arrive(&Arrival {
            connection: open.id,
            client_static: established.client_static,
            payload: &established.payload,
        });
    });
    let Link {
        sink,
        source,
        decoder,
    } = link;
    let Established { sealer, opener, .. } = established;
    let mut reading = std::pin::pin!(read(source, decoder, opener, &open));
    let farewell = tokio::select! {
        () = &mut reading => Farewell::None,
        farewell = write(sink, sealer, outgoing, &open) => farewell,
    };
    if matches!(farewell, Farewell::Said) {
        let _ = timeout(GOODBYE, reading).await;
    }
}

/// Why there is no established connection.
enum Ended {
    /// The client broke the protocol.
    Fault(String),
    /// The client left.
    Gone,
}

fn fault(error: impl std::fmt::Display) -> Ended {
    Ended::Fault(error.to_string())
}

struct Link<S> {
    sink: Sink<S>,
    source: Source<S>,
    decoder: FrameDecoder,
}

async fn handshake<S: AsyncRead + AsyncWrite + Unpin + Send>(
    stream: S,
    open: &Open,
) -> Result<(Link<S>, Established), Ended> {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0);
    let socket = tokio_tungstenite::accept_hdr_async_with_config(stream, check_path, Some(config))
        .await
        .map_err(|e| fault(format!("WebSocket: {e}")))?;
    let (sink, source) = socket.split();
    let mut link = Link {
        sink,
        source,
        decoder: FrameDecoder::new(),
    };
    link.read_header().await?;
    let hello = link.frame().await?;
    let identity = open.core.identity();
    let mut rng = open.core.handshake_rng(open.id);
    let accepts = |key: &[u8; 32]| open.core.with(|hub| hub.accepts_ik(key));
    let outcome = on_client_hello(identity, &hello, accepts, &mut rng).map_err(fault)?;
    let established = match outcome {
        HelloOutcome::Accepted(established, reply) => {
            link.send_plain(&reply).await?;
            *established
        }
        HelloOutcome::AwaitFinish(pending, reply) => {
            link.send_plain(&reply).await?;
            let finish = link.frame().await?;
            pending.on_client_finish(&finish).map_err(fault)?
        }
    };
    Ok((link, established))
}

#[expect(
    clippy::result_large_err,
    reason = "the signature is tungstenite's callback"
)]
fn check_path(request: &Request, response: Response) -> Result<Response, ErrorResponse> {
    if request.uri().path() == PATH {
        return Ok(response);
    }
    let mut refusal = ErrorResponse::new(Some(format!("only {PATH} is served here")));
    *refusal.status_mut() = StatusCode::NOT_FOUND;
    Err(refusal)
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Link<S> {
    /// Consumes the optional routing prefix and the header; leaves what follows in the decoder.
    async fn read_header(&mut self) -> Result<(), Ended> {
        let mut buffer = BytesMut::new();
        while !skip_header(&mut buffer)? {
            let chunk = next_chunk(&mut self.source).await.ok_or(Ended::Gone)?;
            buffer.extend_from_slice(&chunk);
        }
        self.decoder.feed(&buffer);
        Ok(())
    }

    /// The next whole frame.
    async fn frame(&mut self) -> Result<BytesMut, Ended> {
        loop {
            if let Some(frame) = self.decoder.decode_frame() {
                return Ok(frame);
            }
            let chunk = next_chunk(&mut self.source).await.ok_or(Ended::Gone)?;
            self.decoder.feed(&chunk);
        }
    }

    /// Sends an unencrypted handshake message.
    async fn send_plain(&mut self, payload: &[u8]) -> Result<(), Ended> {
        let frame = framing::encode_frame(payload, None).map_err(fault)?;
        self.sink
            .send(Message::Binary(frame.into()))
            .await
            .map_err(|_| Ended::Gone)
    }
}

/// Drops prefix and header from the front of `buffer`; `false` when it is still incomplete.
fn skip_header(buffer: &mut BytesMut) -> Result<bool, Ended> {
    let mut start = 0;
    if buffer.starts_with(&ROUTING_PREFIX) {
        let Some(length) = buffer.get(4..7) else {
            return Ok(false);
        };
        let length = length.iter().fold(0, |n, b| (n << 8) | usize::from(*b));
        start = 7 + length;
    } else if buffer.len() < ROUTING_PREFIX.len() {
        return Ok(false);
    }
    let Some(header) = buffer.get(start..start + WA_CONN_HEADER.len()) else {
        return Ok(false);
    };
    if header != WA_CONN_HEADER {
        return Err(Ended::Fault(format!(
            "unknown header {}",
            hex::encode(header)
        )));
    }
    buffer.advance(start + WA_CONN_HEADER.len());
    Ok(true)
}

/// The next binary WebSocket message; `None` when the connection is over.
async fn next_chunk<S: AsyncRead + AsyncWrite + Unpin>(source: &mut Source<S>) -> Option<Bytes> {
    loop {
        match source.next().await {
            Some(Ok(Message::Binary(chunk))) => return Some(chunk),
            Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
            Some(Ok(_)) => {}
        }
    }
}

/// Hands every stanza to the hub until the client is gone or loses step.
async fn read<S: AsyncRead + AsyncWrite + Unpin>(
    mut source: Source<S>,
    mut decoder: FrameDecoder,
    mut opener: Opener,
    open: &Open,
) {
    loop {
        while let Some(frame) = decoder.decode_frame() {
            match opener.open(frame) {
                Ok(node) => open.core.with(|hub| hub.on_wire(open.id, &node)),
                Err(error @ OpenError::Decrypt { .. }) => {
                    return open.protocol_error(error.to_string());
                }
                Err(error @ OpenError::Malformed { .. }) => {
                    open.core
                        .with(|hub| hub.malformed(open.id, error.to_string()));
                }
            }
        }
        match next_chunk(&mut source).await {
            Some(chunk) => decoder.feed(&chunk),
            None => return,
        }
    }
}

/// A stanza on its way out.
struct Parcel {
    node: Box<Node>,
    departure: Option<Box<Fact>>,
}

/// Sends what the hub orders, one stanza per WebSocket message.
async fn write<S: AsyncRead + AsyncWrite + Unpin>(
    mut sink: Sink<S>,
    mut sealer: Sealer,
    mut outgoing: UnboundedReceiver<Outgoing>,
    open: &Open,
) -> Farewell {
    // A message that waits to be overtaken, and until when.
    let mut held: Option<(Parcel, Instant)> = None;
    loop {
        let order = match &held {
            Some((_, until)) => timeout_at(*until, outgoing.recv()).await,
            None => Ok(outgoing.recv().await),
        };
        let mut overtaken = None;
        match order {
            Err(_) => overtaken = held.take(),
            Ok(Some(Outgoing::Stanza {
                node,
                not_before,
                overtaken: waits,
                departure,
            })) => {
                if let Some(at) = not_before {
                    sleep_until(at).await;
                }
                let parcel = Parcel { node, departure };
                if waits && held.is_none() {
                    held = Some((parcel, Instant::now() + OVERTAKE));
                    continue;
                }
                if parcel.node.tag == "message" {
                    overtaken = held.take();
                }
                if send(&mut sink, &mut sealer, parcel, open).await.is_err() {
                    return Farewell::None;
                }
            }
            Ok(Some(Outgoing::Close)) => {
                let _ = sink.close().await;
                return Farewell::Said;
            }
            Ok(Some(Outgoing::Drop) | None) => return Farewell::None,
        }
        if let Some((parcel, _)) = overtaken
            && send(&mut sink, &mut sealer, parcel, open).await.is_err()
        {
            return Farewell::None;
        }
    }
}

async fn send<S: AsyncRead + AsyncWrite + Unpin>(
    sink: &mut Sink<S>,
    sealer: &mut Sealer,
    Parcel { node, departure }: Parcel,
    open: &Open,
) -> Result<(), ()> {
    let frame = sealer.seal(&node).map_err(|error| {
        tracing::error!(%error, tag = %node.tag, "stanza not sent");
    })?;
    if let Some(fact) = departure {
        open.core.with(|hub| hub.departed(*fact));
    }
    sink.send(Message::Binary(frame.into()))
        .await
        .map_err(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skip(bytes: &[u8]) -> (Result<bool, ()>, Vec<u8>) {
        let mut buffer = BytesMut::from(bytes);
        let result = skip_header(&mut buffer).map_err(|_| ());
        (result, buffer.to_vec())
    }

    #[test]
    fn header_with_and_without_routing_info() {
        assert_eq!(skip(b"WA\x06\x03rest"), (Ok(true), b"rest".to_vec()));
        assert_eq!(
            skip(b"ED\x00\x01\x00\x00\x02xyWA\x06\x03rest"),
            (Ok(true), b"rest".to_vec())
        );
    }

    #[test]
    fn a_header_in_pieces_waits_and_a_foreign_one_fails() {
        assert_eq!(skip(b"WA\x06").0, Ok(false));
        assert_eq!(skip(b"ED\x00\x01\x00").0, Ok(false));
        assert_eq!(skip(b"ED\x00\x01\x00\x00\x02xyW").0, Ok(false));
        assert_eq!(skip(b"WA\x05\x02").0, Err(()));
    }
}
