//! Which daemon a command talks to, and the connection to it.
//!
//! Strongest wins: `--endpoint`, `--socket`, their variables, the configured socket, then the places a
//! daemon of this machine puts its socket by default.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::exit::{Exit, Failure};
use super::{Context, tls, words};
use crate::pb;

/// Where systemd's `RuntimeDirectory=trunkline` puts the socket.
const SYSTEM_SOCKET: &str = "/run/trunkline/trunkline.sock";
/// Where a development run in a checkout puts it.
const CHECKOUT_SOCKET: &str = "sessions/trunkline.sock";
/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Options that say which daemon is meant.
#[derive(Debug, Clone, Args)]
pub(crate) struct TargetArgs {
    /// The operator's socket [env: `TRUNKLINE_SOCKET`] [default: the configured one, else the usual places]
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// The daemon's gRPC address, such as `http://127.0.0.1:7433` or `https://lines.example.org:7433`,
    /// instead of the socket [env: `TRUNKLINE_ENDPOINT`]
    #[arg(long, global = true, value_name = "URL", conflicts_with = "socket")]
    endpoint: Option<String>,
    /// A PEM file with roots to trust for https, besides the public ones
    #[arg(
        long,
        global = true,
        env = "TRUNKLINE_CA_CERTIFICATE",
        value_name = "FILE"
    )]
    ca_certificate: Option<PathBuf>,
    /// The bearer token for --endpoint
    #[arg(long, global = true, env = "TRUNKLINE_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// The workspace [default: the token's, else `default`]
    #[arg(long, global = true, env = "TRUNKLINE_WORKSPACE")]
    workspace: Option<String>,
}

/// What a command line and its environment point at.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// An address.
    Network(String),
    /// A socket.
    Socket(PathBuf),
    /// Wherever a daemon of this machine is.
    Usual,
}

impl TargetArgs {
    /// The place that is meant. What was typed wins over variables, whatever they say.
    fn place(&self, variable: impl Fn(&str) -> Option<OsString>) -> Result<Place, Failure> {
        let set = |name| variable(name).filter(|value| !value.is_empty());
        if let Some(url) = &self.endpoint {
            return Ok(Place::Network(url.clone()));
        }
        if let Some(path) = &self.socket {
            return Ok(Place::Socket(path.clone()));
        }
        if let Some(url) = set("TRUNKLINE_ENDPOINT") {
            let url = url.into_string().map_err(|_| {
                Failure::new(
                    Exit::Usage,
                    "TRUNKLINE_ENDPOINT is not an address; write it like http://127.0.0.1:7433",
                )
            })?;
            return Ok(Place::Network(url));
        }
        Ok(set("TRUNKLINE_SOCKET").map_or(Place::Usual, |path| Place::Socket(path.into())))
    }
}

/// A channel that carries the caller's token.
pub(crate) type Authorized = InterceptedService<Channel, Bearer>;

/// Adds the bearer token to every call.
#[derive(Debug, Clone)]
pub(crate) struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request
                .metadata_mut()
                .insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// A daemon that answered.
#[derive(Debug, Clone)]
pub(crate) struct Daemon {
    channel: Authorized,
    workspace: String,
}

impl Daemon {
    /// Connects to the daemon that the command line means.
    ///
    /// # Errors
    /// Which places were tried, and how to name another.
    pub(crate) async fn connect(context: &Context) -> Result<Self, Failure> {
        let target = &context.target;
        let channel = match target.place(|name| std::env::var_os(name))? {
            Place::Network(url) => over_network(&url, target.ca_certificate.as_deref()).await?,
            Place::Socket(path) => over_socket(&path).await?,
            Place::Usual => over_socket(&find_socket(context).await?).await?,
        };
        let bearer = match &target.token {
            None => Bearer(None),
            Some(token) => {
                let value = format!("Bearer {}", token.trim()).parse().map_err(|_| {
                    Failure::new(
                        Exit::Usage,
                        "--token holds characters that no token has; copy it again from `trunkline token create`",
                    )
                })?;
                Bearer(Some(value))
            }
        };
        let mut daemon = Self {
            channel: InterceptedService::new(channel, bearer),
            workspace: "default".to_owned(),
        };
        match (&target.workspace, &target.token) {
            (Some(named), _) => daemon.workspace.clone_from(named),
            (None, Some(_)) => daemon.adopt_workspace().await?,
            (None, None) => {}
        }
        Ok(daemon)
    }

    /// A workspace's token shows exactly one workspace: that is the one that is meant.
    async fn adopt_workspace(&mut self) -> Result<(), Failure> {
        let request = pb::ListWorkspacesRequest {
            page_size: 2,
            ..pb::ListWorkspacesRequest::default()
        };
        let answer = self.workspaces().list_workspaces(request).await?;
        if let [only] = &answer.into_inner().workspaces[..] {
            words::id(&only.name).clone_into(&mut self.workspace);
        }
        Ok(())
    }

    /// The daemon behind this socket, whatever the command line says.
    ///
    /// # Errors
    /// When nobody answers there.
    #[cfg(feature = "simulator")]
    pub(crate) async fn at_socket(path: &Path, workspace: &str) -> Result<Self, Failure> {
        Ok(Self {
            channel: InterceptedService::new(over_socket(path).await?, Bearer(None)),
            workspace: workspace.to_owned(),
        })
    }

    /// `workspaces/{workspace}`.
    pub(crate) fn workspace_name(&self) -> String {
        format!("workspaces/{}", self.workspace)
    }

    /// The workspace that holds a session: that of its full name, else the command line's.
    pub(crate) fn parent_of(&self, session: &str) -> String {
        match session.split_once("/sessions/") {
            Some((parent, _)) => parent.to_owned(),
            None => self.workspace_name(),
        }
    }

    /// `workspaces/{workspace}/sessions/{session}`; a full name stays as it is.
    pub(crate) fn session_name(&self, session: &str) -> String {
        if session.contains('/') {
            session.to_owned()
        } else {
            format!("workspaces/{}/sessions/{session}", self.workspace)
        }
    }

    /// The session service.
    pub(crate) fn sessions(&self) -> pb::session_service_client::SessionServiceClient<Authorized> {
        pb::session_service_client::SessionServiceClient::new(self.channel.clone())
    }

    /// The outbox.
    pub(crate) fn messages(&self) -> pb::message_service_client::MessageServiceClient<Authorized> {
        pb::message_service_client::MessageServiceClient::new(self.channel.clone())
    }

    /// The files in messages.
    pub(crate) fn media(&self) -> pb::media_service_client::MediaServiceClient<Authorized> {
        pb::media_service_client::MediaServiceClient::new(self.channel.clone())
    }

    /// The groups that numbers are in.
    pub(crate) fn groups(&self) -> pb::group_service_client::GroupServiceClient<Authorized> {
        pb::group_service_client::GroupServiceClient::new(self.channel.clone())
    }

    /// The journal.
    pub(crate) fn events(&self) -> pb::event_service_client::EventServiceClient<Authorized> {
        pb::event_service_client::EventServiceClient::new(self.channel.clone())
    }

    /// The subscriptions.
    pub(crate) fn subscriptions(
        &self,
    ) -> pb::subscription_service_client::SubscriptionServiceClient<Authorized> {
        pb::subscription_service_client::SubscriptionServiceClient::new(self.channel.clone())
    }

    /// The workspaces.
    pub(crate) fn workspaces(
        &self,
    ) -> pb::workspace_service_client::WorkspaceServiceClient<Authorized> {
        pb::workspace_service_client::WorkspaceServiceClient::new(self.channel.clone())
    }

    /// The backups.
    pub(crate) fn backups(&self) -> pb::backup_service_client::BackupServiceClient<Authorized> {
        pb::backup_service_client::BackupServiceClient::new(self.channel.clone())
    }

    /// The tokens.
    pub(crate) fn tokens(&self) -> pb::token_service_client::TokenServiceClient<Authorized> {
        pb::token_service_client::TokenServiceClient::new(self.channel.clone())
    }
}

/// A fresh UUID for a mutation's `request_id`.
pub(crate) fn request_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

async fn over_network(url: &str, ca_certificate: Option<&Path>) -> Result<Channel, Failure> {
    let parsed = Endpoint::from_shared(url.to_owned()).ok();
    let scheme = |endpoint: &Endpoint| endpoint.uri().scheme_str().map(str::to_owned);
    let (endpoint, secure) = match parsed.map(|endpoint| (scheme(&endpoint), endpoint)) {
        Some((Some(scheme), endpoint)) if scheme == "http" => (endpoint, false),
        Some((Some(scheme), endpoint)) if scheme == "https" => (endpoint, true),
        _ => {
            let wrong = format!(
                "--endpoint `{url}` is not an address; write it like http://127.0.0.1:7433 or https://lines.example.org:7433"
            );
            return Err(Failure::new(Exit::Usage, wrong));
        }
    };
    let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT);
    let connected = if secure {
        tls::connect(endpoint, ca_certificate).await?
    } else {
        endpoint.connect().await
    };
    connected
        .map_err(|error| {
            Failure::new(
                Exit::Unreachable,
                format!(
                    "no daemon answers at {url} ({}); check the address and that `trunkline serve` runs",
                    root_cause(&error)
                ),
            )
        })
}

async fn over_socket(path: &Path) -> Result<Channel, Failure> {
    // Tried first by itself: a missing file and a forbidden one need different words.
    UnixStream::connect(path)
        .await
        .map_err(|error| socket_failure(path, &error))?;
    let shared = path.to_owned();
    // The address only fills the :authority of calls; the socket decides where they go.
    Endpoint::from_static("http://trunkline.local")
        .connect_timeout(CONNECT_TIMEOUT)
        .connect_with_connector(tower::service_fn(move |_| {
            let path = shared.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        }))
        .await
        .map_err(|error| {
            Failure::new(
                Exit::Unreachable,
                format!("{}: {}", path.display(), root_cause(&error)),
            )
        })
}

fn socket_failure(path: &Path, error: &std::io::Error) -> Failure {
    let path = path.display();
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => Failure::new(
            Exit::Denied,
            format!(
                "{path}: you may not open the operator's socket; use sudo, or --endpoint with a token"
            ),
        ),
        std::io::ErrorKind::NotFound => Failure::new(
            Exit::Unreachable,
            format!(
                "{path}: no such socket; start the daemon with `trunkline serve`, or name its socket with --socket"
            ),
        ),
        std::io::ErrorKind::ConnectionRefused => Failure::new(
            Exit::Unreachable,
            format!(
                "{path}: nobody listens there (the daemon stopped); start it with `trunkline serve`"
            ),
        ),
        _ => Failure::new(Exit::Unreachable, format!("{path}: {error}")),
    }
}

/// The first of the usual sockets at which a daemon answers.
async fn find_socket(context: &Context) -> Result<PathBuf, Failure> {
    let config = context.load_config()?.config;
    let configured = config.socket_path(None);
    let usual = [PathBuf::from(SYSTEM_SOCKET), PathBuf::from(CHECKOUT_SOCKET)];
    let candidates: Vec<PathBuf> = configured.into_iter().chain(usual).collect();
    // A daemon that is gone leaves its socket behind, and one that may not be opened may be the one meant.
    let mut refused = None;
    for path in &candidates {
        match UnixStream::connect(path).await {
            Ok(_) => return Ok(path.clone()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                refused.get_or_insert_with(|| socket_failure(path, &error));
            }
        }
    }
    if let Some(failure) = refused {
        return Err(failure);
    }
    let tried: Vec<String> = candidates
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    Err(Failure::new(
        Exit::Unreachable,
        format!(
            "no daemon found (no socket at {}); start one with `trunkline serve`, or name its socket with --socket",
            tried.join(", ")
        ),
    ))
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(typed: [Option<&str>; 2], variables: [Option<&str>; 2]) -> Place {
        let target = TargetArgs {
            endpoint: typed[0].map(str::to_owned),
            socket: typed[1].map(PathBuf::from),
            ca_certificate: None,
            token: None,
            workspace: None,
        };
        let variable = |name: &str| match name {
            "TRUNKLINE_ENDPOINT" => variables[0].map(OsString::from),
            _ => variables[1].map(OsString::from),
        };
        target.place(variable).unwrap()
    }

    #[test]
    fn what_was_typed_wins_over_variables_and_addresses_over_sockets() {
        let network = |url: &str| Place::Network(url.to_owned());
        let socket = |path: &str| Place::Socket(path.into());
        let both = [Some("e"), Some("s")];
        assert_eq!(place([Some("E"), None], both), network("E"));
        assert_eq!(place([None, Some("S")], both), socket("S"));
        assert_eq!(place([None, None], both), network("e"));
        assert_eq!(place([None, None], [None, Some("s")]), socket("s"));
        assert_eq!(place([None, None], [Some(""), Some("")]), Place::Usual);
    }
}
