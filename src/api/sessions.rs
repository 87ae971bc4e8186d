//! `SessionService`: the resource and its verbs. Pairing is in [`super::pairing`].

use std::sync::Arc;

use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::gate::{Call, Gate};
use super::names::{WorkspaceName, in_field, session_name};
use super::once::Once;
use super::pairing;
use super::ports::{Live, Sessions};
use super::status::{ApiError, Reason};
use super::{convert, fields};
use crate::domain::clock::Clock;
use crate::domain::ids::{SessionId, SessionName};
use crate::domain::session::{Connection, Desired, Login, Traffic};
use crate::pb::session_service_server::SessionService;
use crate::pb::{
    self, CreateSessionRequest, CreateSessionResponse, GetSessionRequest, GetSessionResponse,
    ListSessionsRequest, ListSessionsResponse, LogoutSessionRequest, LogoutSessionResponse,
    PairSessionRequest, PairSessionResponse, RestartSessionRequest, RestartSessionResponse,
    StartSessionRequest, StartSessionResponse, StopSessionRequest, StopSessionResponse,
};
use crate::store::{NewSession, SessionRecord, WorkspaceStore};

/// The provider of a session whose creator did not choose one.
const DEFAULT_PROVIDER: &str = "multidevice";

/// Implements `SessionService`.
#[derive(Debug)]
pub(super) struct SessionsApi {
    gate: Gate,
    once: Arc<Once>,
    sessions: Arc<dyn Sessions>,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
}

/// What can be asked of a session.
#[derive(Debug, Clone, Copy)]
enum Verb {
    Start,
    Stop,
    Restart,
    Logout,
}

/// What a session looks like when nothing runs for it.
fn resting(record: &SessionRecord) -> Live {
    let connection = match (record.login, record.desired) {
        (Login::LoggedOut, _) => Connection::LoggedOut,
        (_, Desired::Stopped) => Connection::Stopped,
        (Login::Unpaired, Desired::Running) => Connection::Unpaired,
        (Login::Paired, Desired::Running) => Connection::Connecting,
    };
    Live {
        connection,
        traffic: Traffic::default(),
    }
}

/// A session as clients see it now.
pub(super) fn show(sessions: &dyn Sessions, record: SessionRecord) -> pb::Session {
    let live = sessions
        .live(&record.name)
        .unwrap_or_else(|| resting(&record));
    convert::session(record, &live)
}

impl SessionsApi {
    pub(super) fn new(
        gate: Gate,
        once: Arc<Once>,
        sessions: Arc<dyn Sessions>,
        clock: Arc<dyn Clock>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            gate,
            once,
            sessions,
            clock,
            stop,
        }
    }

    async fn create(
        &self,
        call: Call<CreateSessionRequest, WorkspaceName>,
    ) -> Result<CreateSessionResponse, ApiError> {
        let message = call.message;
        let request_id = fields::request_id(&message.request_id)?;
        let new = NewSession {
            id: in_field("session_id", SessionId::new(message.session_id.as_str()))?,
            display_name: fields::display_name(message.display_name.clone())?,
            labels: fields::labels(message.labels.clone())?,
            provider: self.provider(&message.provider)?,
            desired: Desired::Running,
        };
        let mutate = async {
            let record = self.sessions.create(&call.workspace, new).await?;
            Ok(CreateSessionResponse {
                session: Some(show(&*self.sessions, record)),
            })
        };
        self.once
            .run(
                &call.workspace,
                request_id,
                "CreateSession",
                &message,
                mutate,
            )
            .await
    }

    fn provider(&self, asked: &str) -> Result<String, ApiError> {
        let provider = match asked {
            "" => DEFAULT_PROVIDER,
            asked => asked,
        };
        let known = self.sessions.providers();
        if known.iter().any(|known| known == provider) {
            return Ok(provider.to_owned());
        }
        let shown: String = provider.chars().take(63).collect();
        Err(ApiError::field(
            "provider",
            format!(
                "`{shown}` is not a provider of this daemon: use {}",
                known.join(" or ")
            ),
        ))
    }

    /// Reads a session and, if the client gave an etag, checks that it is still current.
    async fn current(
        &self,
        workspace: &WorkspaceStore,
        name: &SessionName,
        etag: &str,
    ) -> Result<SessionRecord, ApiError> {
        let record = workspace.sessions().get(&name.session).await?;
        if !etag.is_empty() && etag != record.etag {
            return Err(ApiError::new(
                Reason::EtagMismatch,
                format!("{name} was changed by somebody else: read it again and decide anew"),
            )
            .with("resource", name.to_string()));
        }
        Ok(record)
    }

    async fn get(
        &self,
        workspace: &WorkspaceStore,
        name: &SessionName,
    ) -> Result<pb::Session, ApiError> {
        let record = workspace.sessions().get(&name.session).await?;
        Ok(show(&*self.sessions, record))
    }

    /// Does what a verb asks, once per `request_id`, and returns the session as it is then.
    async fn verb<R, A>(
        &self,
        method: &'static str,
        verb: Verb,
        call: Call<R, SessionName>,
        asked: impl FnOnce(&R) -> (&str, &str),
        answer: impl FnOnce(pb::Session) -> A,
    ) -> Result<A, ApiError>
    where
        R: prost::Message,
        A: prost::Message + Default,
    {
        let (message, name) = (call.message, call.name);
        let (request_id, etag) = asked(&message);
        let request_id = fields::request_id(request_id)?;
        let mutate = async {
            self.current(&call.workspace, &name, etag).await?;
            match verb {
                Verb::Start => self.sessions.start(&name).await?,
                Verb::Stop => self.sessions.stop(&name).await?,
                Verb::Restart => self.sessions.restart(&name).await?,
                Verb::Logout => self.sessions.logout(&name).await?,
            }
            Ok(answer(self.get(&call.workspace, &name).await?))
        };
        self.once
            .run(&call.workspace, request_id, method, &message, mutate)
            .await
    }
}

#[tonic::async_trait]
impl SessionService for SessionsApi {
    async fn create_session(
        &self,
        request: Request<CreateSessionRequest>,
    ) -> Result<Response<CreateSessionResponse>, Status> {
        let call = self
            .gate
            .open(request, |message| {
                WorkspaceName::parse("parent", &message.parent)
            })
            .await?;
        Ok(Response::new(self.create(call).await?))
    }

    async fn get_session(
        &self,
        request: Request<GetSessionRequest>,
    ) -> Result<Response<GetSessionResponse>, Status> {
        let call = self
            .gate
            .open(request, |message| session_name("name", &message.name))
            .await?;
        let session = self.get(&call.workspace, &call.name).await?;
        Ok(Response::new(GetSessionResponse {
            session: Some(session),
        }))
    }

    async fn list_sessions(
        &self,
        request: Request<ListSessionsRequest>,
    ) -> Result<Response<ListSessionsResponse>, Status> {
        let call = self
            .gate
            .open(request, |message| {
                WorkspaceName::parse("parent", &message.parent)
            })
            .await?;
        let page = fields::page(call.message.page_size, &call.message.page_token)?;
        let page = call.workspace.sessions().list(&page).await;
        let page = page.map_err(ApiError::from)?;
        let show = |record| show(&*self.sessions, record);
        Ok(Response::new(ListSessionsResponse {
            sessions: page.items.into_iter().map(show).collect(),
            next_page_token: page.next.map(|t| t.encode()).unwrap_or_default(),
        }))
    }

    async fn start_session(
        &self,
        request: Request<StartSessionRequest>,
    ) -> Result<Response<StartSessionResponse>, Status> {
        let name = |message: &StartSessionRequest| session_name("name", &message.name);
        let call = self.gate.open(request, name).await?;
        let done = self.verb(
            "StartSession",
            Verb::Start,
            call,
            |message| (&message.request_id, &message.etag),
            |session| StartSessionResponse {
                session: Some(session),
            },
        );
        Ok(Response::new(done.await?))
    }

    async fn stop_session(
        &self,
        request: Request<StopSessionRequest>,
    ) -> Result<Response<StopSessionResponse>, Status> {
        let name = |message: &StopSessionRequest| session_name("name", &message.name);
        let call = self.gate.open(request, name).await?;
        let done = self.verb(
            "StopSession",
            Verb::Stop,
            call,
            |message| (&message.request_id, &message.etag),
            |session| StopSessionResponse {
                session: Some(session),
            },
        );
        Ok(Response::new(done.await?))
    }

    async fn restart_session(
        &self,
        request: Request<RestartSessionRequest>,
    ) -> Result<Response<RestartSessionResponse>, Status> {
        let name = |message: &RestartSessionRequest| session_name("name", &message.name);
        let call = self.gate.open(request, name).await?;
        let done = self.verb(
            "RestartSession",
            Verb::Restart,
            call,
            |message| (&message.request_id, &message.etag),
            |session| RestartSessionResponse {
                session: Some(session),
            },
        );
        Ok(Response::new(done.await?))
    }

    async fn logout_session(
        &self,
        request: Request<LogoutSessionRequest>,
    ) -> Result<Response<LogoutSessionResponse>, Status> {
        let name = |message: &LogoutSessionRequest| session_name("name", &message.name);
        let call = self.gate.open(request, name).await?;
        let done = self.verb(
            "LogoutSession",
            Verb::Logout,
            call,
            |message| (&message.request_id, &message.etag),
            |session| LogoutSessionResponse {
                session: Some(session),
            },
        );
        Ok(Response::new(done.await?))
    }

    type PairSessionStream = ReceiverStream<Result<PairSessionResponse, Status>>;

    async fn pair_session(
        &self,
        request: Request<PairSessionRequest>,
    ) -> Result<Response<Self::PairSessionStream>, Status> {
        let call = self
            .gate
            .open(request, |message| session_name("name", &message.name))
            .await?;
        let by = pairing::by(&call.message)?;
        self.current(&call.workspace, &call.name, "").await?;
        let steps = self.sessions.pair(&call.name, by).await?;
        let stream = pairing::stream(
            steps,
            Arc::clone(&self.sessions),
            Arc::clone(&self.clock),
            call.workspace,
            call.name,
            self.stop.clone(),
        );
        Ok(Response::new(stream))
    }
}
