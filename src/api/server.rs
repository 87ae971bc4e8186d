//! The server: `bind`, then `join` or `shutdown`. Nothing it started outlives it.
//!
//! Two kinds of listeners serve the same services: TCP, in TLS if there is a certificate, where every call
//! needs a bearer token (health and reflection excepted), and the operator's unix socket, where the file's permissions decide.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use thiserror::Error;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use super::backup::Backups;
use super::drain::Drain;
use super::events::Events;
use super::gate::{Gate, Listener};
use super::groups::GroupsApi;
use super::health::Health;
use super::json::{Front, Gateway};
use super::layer::Around;
use super::media::MediaApi;
use super::messages::Messages;
use super::once::Once;
use super::ports::Sessions;
use super::sessions::SessionsApi;
use super::subscriptions::Subscriptions;
use super::tls::{self, Certificate, TlsError, TlsFiles};
use super::tokens::TokensApi;
use super::workspaces::Workspaces;
use crate::delivery::{Hub, WINDOW};
use crate::domain::clock::Clock;
use crate::pb::FILE_DESCRIPTOR_SET;
use crate::pb::backup_service_server::BackupServiceServer;
use crate::pb::event_service_server::EventServiceServer;
use crate::pb::group_service_server::GroupServiceServer;
use crate::pb::media_service_server::MediaServiceServer;
use crate::pb::message_service_server::MessageServiceServer;
use crate::pb::session_service_server::SessionServiceServer;
use crate::pb::subscription_service_server::SubscriptionServiceServer;
use crate::pb::token_service_server::TokenServiceServer;
use crate::pb::workspace_service_server::WorkspaceServiceServer;
use crate::store::Store;

/// How long connections get to take their last answers and to close.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Largest request or stream frame that is read.
pub const MAX_REQUEST: usize = 1 << 20;

/// What the server needs.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// The store.
    pub store: Store,
    /// The session layer.
    pub sessions: Arc<dyn Sessions>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Where to listen on TCP; `None` for nowhere.
    pub tcp: Option<SocketAddr>,
    /// What TCP is encrypted with; `None` for plaintext.
    pub tls: Option<TlsFiles>,
    /// Where to put the operator's socket; `None` for nowhere.
    pub socket: Option<PathBuf>,
    /// Permissions of the socket: 0600 for its owner, 0660 for the group too.
    pub socket_mode: u32,
    /// How often the certificate's files are looked at.
    pub look_every: Duration,
    /// How often an idle Watch says how far it has come.
    pub progress_every: Duration,
    /// Events of one subscription in memory at most.
    pub window: usize,
}

impl ServerOptions {
    /// Loopback TCP on a free port and no socket.
    pub fn new(store: Store, sessions: Arc<dyn Sessions>, clock: Arc<dyn Clock>) -> Self {
        Self {
            store,
            sessions,
            clock,
            tcp: Some((Ipv4Addr::LOCALHOST, 0).into()),
            tls: None,
            socket: None,
            socket_mode: 0o600,
            look_every: tls::LOOK_EVERY,
            progress_every: Duration::from_secs(15),
            window: WINDOW,
        }
    }
}

/// Why the server could not be bound.
#[derive(Debug, Error)]
pub enum BindError {
    /// The TCP address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The socket cannot be made.
    #[error("cannot make the socket {path}: {source}")]
    Socket {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process answers on the socket.
    #[error("another daemon is listening on {path}: stop it, or use another path")]
    SocketInUse {
        /// Where.
        path: PathBuf,
    },
    /// The generated descriptors cannot be used; the build is broken.
    #[error("the API's descriptors are damaged: {0}")]
    Descriptors(String),
}

/// A running server.
#[derive(Debug)]
pub struct ApiServer {
    tcp: Option<SocketAddr>,
    certificate: Option<Arc<Certificate>>,
    socket: Option<PathBuf>,
    drain: Drain,
    close: CancellationToken,
    hub: Hub,
    health: Health,
    tasks: JoinSet<Result<(), tonic::transport::Error>>,
}

/// The names health is asked for: each service, and "" for the daemon.
const SERVICES: [&str; 10] = [
    "",
    WorkspaceServiceServer::<Workspaces>::NAME,
    SessionServiceServer::<SessionsApi>::NAME,
    MessageServiceServer::<Messages>::NAME,
    MediaServiceServer::<MediaApi>::NAME,
    GroupServiceServer::<GroupsApi>::NAME,
    EventServiceServer::<Events>::NAME,
    SubscriptionServiceServer::<Subscriptions>::NAME,
    TokenServiceServer::<TokensApi>::NAME,
    BackupServiceServer::<Backups>::NAME,
];

/// The addresses of an API, taken and not served yet.
#[derive(Debug)]
pub struct Listeners {
    certificate: Option<Arc<Certificate>>,
    tcp: Option<TcpListener>,
    address: Option<SocketAddr>,
    socket: Option<UnixListener>,
}

impl Listeners {
    /// Takes every address that `options` names and reads the certificate.
    ///
    /// # Errors
    /// [`BindError`] names the listener and the reason. Nothing is taken then.
    pub async fn take(options: &ServerOptions) -> Result<Self, BindError> {
        let certificate = match options.tls.clone() {
            Some(files) => Some(Arc::new(Certificate::load(
                files,
                Arc::clone(&options.clock),
            )?)),
            None => None,
        };
        let (mut tcp, mut bound) = (None, None);
        if let Some(address) = options.tcp {
            let failed = |source| BindError::Tcp { address, source };
            let listener = TcpListener::bind(address).await.map_err(failed)?;
            bound = Some(listener.local_addr().map_err(failed)?);
            tcp = Some(listener);
        }
        let socket = match &options.socket {
            Some(path) => Some(bind_socket(path, options.socket_mode).await?),
            None => None,
        };
        Ok(Self {
            certificate,
            tcp,
            address: bound,
            socket,
        })
    }
}

impl ApiServer {
    /// Binds the listeners and starts to serve.
    ///
    /// # Errors
    /// [`BindError`] names the listener and the reason. Nothing is left running then.
    pub async fn bind(options: ServerOptions) -> Result<Self, BindError> {
        let listeners = Listeners::take(&options).await?;
        Self::serve(options, listeners).await
    }

    /// Starts to serve on listeners that were taken before; whoever connected meanwhile is answered now.
    ///
    /// # Errors
    /// [`BindError`] when the API's own description cannot be read.
    pub async fn serve(options: ServerOptions, listeners: Listeners) -> Result<Self, BindError> {
        let stop = CancellationToken::new();
        let close = CancellationToken::new();
        let hub = Hub::new(Arc::clone(&options.clock), options.window);
        let (reporter, health) = tonic_health::server::health_reporter();
        let shown = Health::new(reporter, &SERVICES).await;
        let routes = routes(&options, &hub, &stop)?.add_service(health);
        let drain = Drain::new(stop);
        let front = Front {
            around: Around {
                listener: Listener::Network,
                clock: Arc::clone(&options.clock),
                known: Arc::new(methods()?),
                drain: drain.clone(),
            },
            gateway: Arc::new(Gateway::new().map_err(BindError::Descriptors)?),
        };

        let Listeners {
            certificate,
            tcp: listener,
            address: tcp,
            socket,
        } = listeners;
        let mut tasks = JoinSet::new();
        if let Some(listener) = listener {
            let serving = builder().layer(front.clone()).add_routes(routes.clone());
            let closed = close.clone().cancelled_owned();
            if let Some(certificate) = &certificate {
                let incoming = tls::incoming(listener, certificate, close.clone())?;
                let watch = Arc::clone(certificate).watch(options.look_every, close.clone());
                tokio::spawn(watch);
                tasks.spawn(serving.serve_with_incoming_shutdown(incoming, closed));
            } else {
                let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
                tasks.spawn(serving.serve_with_incoming_shutdown(incoming, closed));
            }
        }
        if let Some(listener) = socket {
            let mut front = front;
            front.around.listener = Listener::Socket;
            let close = close.clone();
            let serving = builder().layer(front).add_routes(routes);
            tasks.spawn(async move {
                let incoming = UnixListenerStream::new(listener);
                let closed = async move { close.cancelled().await };
                serving.serve_with_incoming_shutdown(incoming, closed).await
            });
        }
        Ok(Self {
            tcp,
            certificate,
            socket: options.socket,
            drain,
            close,
            hub,
            health: shown,
            tasks,
        })
    }

    /// The TCP address that was bound.
    pub fn tcp(&self) -> Option<SocketAddr> {
        self.tcp
    }

    /// The certificate of the TCP listener, if it speaks TLS.
    pub fn certificate(&self) -> Option<&Arc<Certificate>> {
        self.certificate.as_ref()
    }

    /// What `grpc.health.v1` says, until the server drains.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// The operator's socket.
    pub fn socket(&self) -> Option<&Path> {
        self.socket.as_deref()
    }

    /// Waits until a listener ends by itself, which none should.
    ///
    /// # Errors
    /// What went wrong with it.
    pub async fn join(&mut self) -> Result<(), tonic::transport::Error> {
        match self.tasks.join_next().await {
            Some(Ok(outcome)) => outcome,
            // A listener that panicked is as gone as one that failed; panics in calls never get here.
            Some(Err(error)) => {
                tracing::error!(%error, "a listener of the API failed");
                Ok(())
            }
            None => std::future::pending().await,
        }
    }

    /// Tells clients and balancers that this daemon is going: health says `NOT_SERVING`, streams end with
    /// DRAINING, those of a subscription once what its consumers hold is settled
    /// ([`crate::delivery::SETTLE`] at most), and so does every call that comes from now on, but for settling; the listeners stay, or nobody could be told. Then
    /// waits for calls under way, `patience` at most.
    pub async fn drain(&self, patience: Duration) {
        self.health.end().await;
        self.drain.begin();
        let ended = async {
            self.hub.shutdown(patience).await;
            self.drain.leases_ended();
            self.drain.ended().await;
        };
        if tokio::time::timeout(patience, ended).await.is_err() {
            tracing::warn!("some calls did not end in time and are cut off");
        }
    }

    /// Drains, if that is not done, and closes every connection; `patience` at most for either.
    pub async fn shutdown(mut self, patience: Duration) {
        self.drain(patience).await;
        self.close.cancel();
        let closed = async { while self.tasks.join_next().await.is_some() {} };
        // Whoever watches health would stay for ever.
        let _ = tokio::time::timeout(patience.min(LAST_WORDS), closed).await;
        self.tasks.shutdown().await;
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.drain.begin();
        self.close.cancel();
        if let Some(path) = self.socket.take() {
            // A socket file that is left over is replaced at the next start.
            let _ = std::fs::remove_file(path);
        }
    }
}

fn builder() -> Server {
    Server::builder()
        .accept_http1(true)
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
        .http2_max_header_list_size(Some(16 << 10))
        .max_concurrent_streams(Some(1_000))
}

fn routes(
    options: &ServerOptions,
    hub: &Hub,
    stop: &CancellationToken,
) -> Result<Routes, BindError> {
    let gate = Gate::new(options.store.clone());
    let once = Arc::new(Once::new());
    let (sessions, clock) = (&options.sessions, &options.clock);
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(|error| BindError::Descriptors(error.to_string()))?;
    let workspaces = Workspaces::new(
        gate.clone(),
        Arc::clone(&once),
        Arc::clone(sessions),
        hub.clone(),
    );
    let session_service = SessionsApi::new(
        gate.clone(),
        Arc::clone(&once),
        Arc::clone(sessions),
        Arc::clone(clock),
        stop.clone(),
    );
    let messages = Messages::new(
        gate.clone(),
        Arc::clone(&once),
        Arc::clone(sessions),
        Arc::clone(clock),
    );
    let media = MediaApi::new(
        gate.clone(),
        Arc::clone(&once),
        Arc::clone(sessions),
        stop.clone(),
    );
    let groups = GroupsApi::new(gate.clone(), Arc::clone(sessions));
    let events = Events::new(
        gate.clone(),
        hub.clone(),
        stop.clone(),
        options.progress_every,
    );
    let subscriptions = Subscriptions::new(gate.clone(), Arc::clone(&once), hub.clone());
    let backups = Backups::new(gate.clone(), stop.clone());
    let tokens = TokensApi::new(gate, once);
    Ok(Routes::new(reflection)
        .add_service(WorkspaceServiceServer::new(workspaces).max_decoding_message_size(MAX_REQUEST))
        .add_service(
            SessionServiceServer::new(session_service).max_decoding_message_size(MAX_REQUEST),
        )
        .add_service(MessageServiceServer::new(messages).max_decoding_message_size(MAX_REQUEST))
        .add_service(MediaServiceServer::new(media).max_decoding_message_size(MAX_REQUEST))
        .add_service(GroupServiceServer::new(groups).max_decoding_message_size(MAX_REQUEST))
        .add_service(EventServiceServer::new(events).max_decoding_message_size(MAX_REQUEST))
        .add_service(
            SubscriptionServiceServer::new(subscriptions).max_decoding_message_size(MAX_REQUEST),
        )
        .add_service(BackupServiceServer::new(backups).max_decoding_message_size(MAX_REQUEST))
        .add_service(TokenServiceServer::new(tokens).max_decoding_message_size(MAX_REQUEST)))
}

/// Every method that is served, as `/package.Service/Method`.
fn methods() -> Result<std::collections::BTreeSet<String>, BindError> {
    let mut methods = std::collections::BTreeSet::new();
    for set in [FILE_DESCRIPTOR_SET, tonic_health::pb::FILE_DESCRIPTOR_SET] {
        let set = prost_types::FileDescriptorSet::decode(set)
            .map_err(|error| BindError::Descriptors(error.to_string()))?;
        for file in &set.file {
            for service in &file.service {
                for method in &service.method {
                    methods.insert(format!(
                        "/{}.{}/{}",
                        file.package(),
                        service.name(),
                        method.name()
                    ));
                }
            }
        }
    }
    Ok(methods)
}

/// Makes the socket under another name, gives it its permissions, and moves it into place: at no moment
/// can anybody connect whom the mode does not allow.
async fn bind_socket(path: &Path, mode: u32) -> Result<UnixListener, BindError> {
    let failed = |source| BindError::Socket {
        path: path.to_owned(),
        source,
    };
    if let Ok(existing) = std::fs::symlink_metadata(path) {
        if !existing.file_type().is_socket() {
            return Err(failed(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "there is a file of that name which is not a socket",
            )));
        }
        if UnixStream::connect(path).await.is_ok() {
            return Err(BindError::SocketInUse {
                path: path.to_owned(),
            });
        }
    }
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(format!(".{}", std::process::id()));
    let fresh = PathBuf::from(fresh);
    // Left over from a process with the same number.
    let _ = std::fs::remove_file(&fresh);
    let listener = UnixListener::bind(&fresh).map_err(failed)?;
    let placed = std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(mode))
        .and_then(|()| std::fs::rename(&fresh, path));
    if let Err(source) = placed {
        let _ = std::fs::remove_file(&fresh);
        return Err(failed(source));
    }
    Ok(listener)
}
