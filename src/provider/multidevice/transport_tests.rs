//! The pipe against a WebSocket server of our own.

use std::net::SocketAddr;

use tokio::net::TcpListener;
use tokio_tungstenite::accept_hdr_async;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};

use super::*;
use crate::domain::clock::SystemClock;
use crate::domain::session::Cause;
use crate::provider::contract::Sink as _;
use crate::provider::multidevice::testing::PausedSink;

type Peer = WebSocketStream<TcpStream>;

struct Setup {
    watch: Arc<Watch>,
    sink: Arc<PausedSink>,
    transport: Arc<dyn Transport>,
    events: Receiver<TransportEvent>,
    peer: Peer,
    origin: Option<String>,
}

/// Longer than any test takes: the gate never gives up.
const PATIENT: Duration = Duration::from_mins(10);

fn factory(
    address: SocketAddr,
    sink: &Arc<PausedSink>,
    watch: &Arc<Watch>,
    gate_patience: Duration,
) -> Factory {
    let scheme = if cfg!(feature = "simulator") {
        "ws"
    } else {
        "wss"
    };
    Factory {
        dialer: Arc::new(Dialer {
            endpoint: Endpoint::parse(&format!("{scheme}://{address}/ws/chat")).unwrap(),
            tls: crate::provider::multidevice::tls::client_config(&[]).unwrap(),
            timeout: Duration::from_mins(1),
        }),
        watch: Arc::clone(watch),
        gate: Arc::new(AckGate::new(sink.clone(), gate_patience)),
        device: Arc::default(),
        shared: Arc::default(),
    }
}

async fn connect() -> Setup {
    connect_with(PATIENT).await
}

#[expect(
    clippy::result_large_err,
    reason = "the shape of the library's callback"
)]
async fn connect_with(gate_patience: Duration) -> Setup {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let watch = Watch::new(Arc::new(SystemClock::new()));
    watch.begin();
    let sink = Arc::new(PausedSink::default());
    let factory = factory(listener.local_addr().unwrap(), &sink, &watch, gate_patience);
    let accept = async {
        let (stream, _) = listener.accept().await.unwrap();
        let mut origin = None;
        let peer = accept_hdr_async(stream, |request: &Request, response: Response| {
            let header = request.headers().get(ORIGIN);
            origin = header.map(|value| value.to_str().unwrap().to_owned());
            Ok(response)
        })
        .await
        .unwrap();
        (peer, origin)
    };
    let (opened, (peer, origin)) = tokio::join!(factory.create_transport(), accept);
    let (transport, events) = opened.unwrap();
    Setup {
        watch,
        sink,
        transport,
        events,
        peer,
        origin,
    }
}

async fn data(events: &Receiver<TransportEvent>) -> Bytes {
    match events.recv().await.unwrap() {
        TransportEvent::DataReceived(data) => data,
        other => panic!("{other:?}"),
    }
}

async fn receive(peer: &mut Peer) -> Bytes {
    match peer.next().await.unwrap().unwrap() {
        Message::Binary(data) => data,
        other => panic!("{other:?}"),
    }
}

#[cfg(feature = "simulator")]
mod plain {
    use super::*;

    #[tokio::test]
    async fn messages_keep_their_boundaries_and_the_origin_is_whatsapps() {
        let mut setup = connect().await;
        assert_eq!(setup.origin.as_deref(), Some(WHATSAPP_WEB_ORIGIN));
        for text in ["one", "two"] {
            let message = Message::Binary(Bytes::from_static(text.as_bytes()));
            setup.peer.feed(message).await.unwrap();
        }
        setup.peer.flush().await.unwrap();
        assert_eq!(data(&setup.events).await, "one");
        assert_eq!(data(&setup.events).await, "two");
        setup
            .transport
            .send(Bytes::from_static(b"up"))
            .await
            .unwrap();
        assert_eq!(receive(&mut setup.peer).await, "up");
    }

    #[tokio::test]
    async fn nothing_is_lost_when_buffers_are_replaced() {
        let mut setup = connect().await;
        let big = Bytes::from(vec![7_u8; 200_000]);
        for round in 0..3_u8 {
            setup.transport.send(big.clone()).await.unwrap();
            assert_eq!(receive(&mut setup.peer).await, big);
            for message in [big.clone(), Bytes::from(vec![round]), Bytes::new()] {
                setup
                    .peer
                    .send(Message::Binary(message.clone()))
                    .await
                    .unwrap();
                assert_eq!(data(&setup.events).await, message);
            }
            setup
                .transport
                .send(Bytes::from(vec![round]))
                .await
                .unwrap();
            assert_eq!(receive(&mut setup.peer).await, vec![round]);
        }
    }

    #[tokio::test]
    async fn a_parked_frame_leaves_when_the_writer_catches_up() {
        let mut setup = connect().await;
        setup.sink.dispatch(1);
        let parked = tokio::spawn({
            let transport = Arc::clone(&setup.transport);
            async move { transport.send(Bytes::from_static(b"ack")).await }
        });
        tokio::task::yield_now().await;
        assert!(!parked.is_finished());
        setup.sink.make_durable(1);
        parked.await.unwrap().unwrap();
        assert_eq!(receive(&mut setup.peer).await, "ack");
    }

    #[tokio::test]
    async fn a_writer_that_does_not_catch_up_poisons_the_connection() {
        let setup = connect_with(Duration::from_millis(300)).await;
        setup.sink.dispatch(1);
        let error = setup.transport.send(Bytes::from_static(b"ack")).await;
        assert!(error.unwrap_err().to_string().contains("not stored"));
        assert!(setup.watch.is_poisoned());
        assert!(matches!(setup.watch.cause(), Cause::StoreFailed { .. }));
    }

    #[tokio::test]
    async fn disconnect_waits_for_no_parked_frame() {
        let setup = connect().await;
        setup.sink.dispatch(1);
        let parked = tokio::spawn({
            let transport = Arc::clone(&setup.transport);
            async move { transport.send(Bytes::from_static(b"ack")).await }
        });
        tokio::task::yield_now().await;
        let closing = setup.transport.disconnect();
        tokio::time::timeout(PATIENT / 10, closing)
            .await
            .expect("disconnect returns while a frame is parked");
        parked.await.unwrap().unwrap_err();
        assert!(!setup.watch.is_poisoned(), "closing is not a failure");
        assert_eq!(setup.sink.durable(), 0);
    }

    #[tokio::test]
    async fn an_end_of_file_is_told_from_a_broken_connection() {
        let setup = connect().await;
        setup.watch.logged_in();
        drop(setup.peer);
        match setup.events.recv().await.unwrap() {
            TransportEvent::Disconnected(DisconnectReason::StreamEnded) => {}
            other => panic!("{other:?}"),
        }
        assert_eq!(setup.watch.cause(), Cause::Recycled);
    }

    #[tokio::test]
    async fn a_refused_connection_is_remembered() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let watch = Watch::new(Arc::new(SystemClock::new()));
        watch.begin();
        let sink = Arc::new(PausedSink::default());
        let factory = factory(address, &sink, &watch, PATIENT);
        assert!(factory.create_transport().await.is_err());
        match watch.cause() {
            Cause::Transient { detail, .. } => assert!(detail.contains(&address.to_string())),
            other => panic!("{other:?}"),
        }
    }
}
