//! TLS under an HTTP server.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A client that has not finished TLS by then is dropped.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(20);
/// Connections that are through with TLS and wait for the server.
const WAITING: usize = 64;
/// Pause after a failed accept (the process may be out of file descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

type Accepted = (TlsStream<TcpStream>, SocketAddr);

/// A bound socket whose connections are through with TLS when they are accepted; slow handshakes hold
/// nobody up.
pub(crate) struct TlsListener {
    address: SocketAddr,
    ready: mpsc::Receiver<Accepted>,
}

impl TlsListener {
    /// Serves handshakes until `stop`, as tasks of `tracker`.
    pub(crate) fn new(
        socket: TcpListener,
        acceptor: TlsAcceptor,
        stop: &CancellationToken,
        tracker: &TaskTracker,
    ) -> io::Result<Self> {
        let address = socket.local_addr()?;
        let (sender, ready) = mpsc::channel(WAITING);
        tracker.spawn(accept(
            socket,
            acceptor,
            sender,
            stop.clone(),
            tracker.clone(),
        ));
        Ok(Self { address, ready })
    }
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> Accepted {
        match self.ready.recv().await {
            Some(accepted) => accepted,
            // Stopping: the server is told so by other means.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

async fn accept(
    socket: TcpListener,
    acceptor: TlsAcceptor,
    ready: mpsc::Sender<Accepted>,
    stop: CancellationToken,
    tracker: TaskTracker,
) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = socket.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (acceptor, ready, stop) = (acceptor.clone(), ready.clone(), stop.clone());
        tracker.spawn(async move {
            let handshake = timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream));
            tokio::select! {
                () = stop.cancelled() => {}
                done = handshake => match done {
                    Ok(Ok(stream)) => {
                        let _ = ready.send((stream, peer)).await;
                    }
                    Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
                    Err(_) => tracing::debug!("TLS handshake timed out"),
                },
            }
        });
    }
}
