//! Accepting TCP connections on loopback.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection;
use crate::core::Core;

/// How a listener speaks.
pub(crate) enum Scheme {
    /// `ws://`
    Plain,
    /// `wss://`
    Tls(TlsAcceptor),
}

/// A bound socket.
pub(crate) struct Listener {
    socket: TcpListener,
    scheme: Arc<Scheme>,
    address: SocketAddr,
}

/// Pause after a failed accept (the process may be out of file descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

impl Listener {
    pub(crate) async fn bind(address: SocketAddr, scheme: Scheme) -> io::Result<Self> {
        let socket = TcpListener::bind(address).await?;
        let address = socket.local_addr()?;
        Ok(Self {
            socket,
            scheme: Arc::new(scheme),
            address,
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`; every connection is a task of `tracker`.
    pub(crate) async fn serve(
        self,
        core: Arc<Core>,
        stop: CancellationToken,
        tracker: TaskTracker,
    ) {
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = self.socket.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => self.admit(stream, &core, &stop, &tracker),
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn admit(
        &self,
        stream: TcpStream,
        core: &Arc<Core>,
        stop: &CancellationToken,
        tracker: &TaskTracker,
    ) {
        if core.with(crate::hub::Hub::refuses_tcp) {
            // Zero linger turns the close into a reset.
            let _ = stream.set_zero_linger();
            return;
        }
        let _ = stream.set_nodelay(true);
        let core = Arc::clone(core);
        let scheme = Arc::clone(&self.scheme);
        let stop = stop.clone();
        tracker.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = connection::serve(stream, &scheme, &core) => {}
            }
        });
    }
}
