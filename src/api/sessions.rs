//! `SessionService`: the resource and its verbs. Pairing is in [`super::pairing`].

use std::sync::Arc;

use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::fields::{Listing as _, listing};
use super::gate::{Call, Gate};
use super::names::{WorkspaceName, in_field, session_name};
use super::once::{Mutation, Once, mutation};
use super::pairing;
use super::ports::{Deletion, Live, Sessions, Verb};
use super::status::ApiError;
use super::{convert, fields};
use crate::domain::clock::Clock;
use crate::domain::ids::{SessionId, SessionName};
use crate::domain::session::{Connection, Desired, Login, Traffic};
use crate::pb::session_service_server::SessionService;
use crate::pb::{
    self, CreateSessionRequest, CreateSessionResponse, DeleteSessionRequest, DeleteSessionResponse,
    GetSessionRequest, GetSessionResponse, ListSessionsRequest, ListSessionsResponse,
    LogoutSessionRequest, LogoutSessionResponse, PairSessionRequest, PairSessionResponse,
    RestartSessionRequest, RestartSessionResponse, StartSessionRequest, StartSessionResponse,
    StopSessionRequest, StopSessionResponse, UpdateSessionRequest, UpdateSessionResponse,
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

mutation! {
    CreateSessionRequest is "CreateSession";
    UpdateSessionRequest is "UpdateSession", with etag;
    DeleteSessionRequest is "DeleteSession", with etag;
    StartSessionRequest is "StartSession", with etag;
    StopSessionRequest is "StopSession", with etag;
    RestartSessionRequest is "RestartSession", with etag;
    LogoutSessionRequest is "LogoutSession", with etag;
}

listing! {
    ListSessionsRequest is "ListSessions";
}

/// A request that is one of the verbs.
trait VerbRequest: Mutation {
    const VERB: Verb;
    type Answer: prost::Message + Default;

    fn name(&self) -> &str;
    fn answer(session: pb::Session) -> Self::Answer;
}

macro_rules! verb {
    ($($request:ident does $verb:ident and answers $answer:ident;)+) => {$(
        impl VerbRequest for $request {
            const VERB: Verb = Verb::$verb;
            type Answer = $answer;

            fn name(&self) -> &str {
                &self.name
            }

            fn answer(session: pb::Session) -> $answer {
                $answer {
                    session: Some(session),
                }
            }
        }
    )+};
}

verb! {
    StartSessionRequest does Start and answers StartSessionResponse;
    StopSessionRequest does Stop and answers StopSessionResponse;
    RestartSessionRequest does Restart and answers RestartSessionResponse;
    LogoutSessionRequest does Logout and answers LogoutSessionResponse;
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
        let new = NewSession {
            id: in_field("session_id", SessionId::new(message.session_id.as_str()))?,
            display_name: fields::display_name(message.display_name.clone())?,
            labels: fields::labels(message.labels.clone())?,
            provider: self.provider(&message.provider)?,
            desired: Desired::Running,
        };
        let shown = |record: &SessionRecord| CreateSessionResponse {
            session: Some(convert::session(record.clone(), &resting(record))),
        };
        self.once
            .run_in(&call.workspace, &message, async |ticket| {
                let remember = ticket.remember(shown);
                let record = self.sessions.create(&call.workspace, new, remember).await?;
                Ok(shown(&record))
            })
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

    async fn update(
        &self,
        call: Call<UpdateSessionRequest, SessionName>,
    ) -> Result<UpdateSessionResponse, ApiError> {
        let (message, name) = (call.message, call.name);
        let given = message.session.clone().unwrap_or_default();
        let is_set = |field: &str| match field {
            "display_name" => !given.display_name.is_empty(),
            _ => !given.labels.is_empty(),
        };
        let known = ["display_name", "labels"];
        let chosen = fields::mask(message.update_mask.as_ref(), &known, is_set)?;
        let display_name = fields::display_name(given.display_name)?;
        let labels = fields::labels(given.labels)?;
        let live = Arc::clone(&self.sessions);
        let shown = move |record: &SessionRecord| UpdateSessionResponse {
            session: Some(show(&*live, record.clone())),
        };
        self.once
            .run_in(&call.workspace, &message, async |ticket| {
                let sessions = call.workspace.sessions();
                let remember = ticket.remember(shown.clone());
                let changed =
                    sessions.update_once(&name.session, message.etag(), &remember, |record| {
                        if chosen.contains(&"display_name") {
                            record.display_name.clone_from(&display_name);
                        }
                        if chosen.contains(&"labels") {
                            record.labels.clone_from(&labels);
                        }
                    });
                Ok(shown(&changed.await?))
            })
            .await
    }

    async fn delete(
        &self,
        call: Call<DeleteSessionRequest, SessionName>,
    ) -> Result<DeleteSessionResponse, ApiError> {
        let (message, name) = (call.message, call.name);
        self.once
            .run_in(&call.workspace, &message, async |ticket| {
                let answer = |(): &()| DeleteSessionResponse {};
                call.workspace.sessions().get(&name.session).await?;
                let deletion = Deletion {
                    expected: message.etag(),
                    logout: message.logout,
                };
                self.sessions
                    .delete(&call.workspace, &name, deletion, &ticket.remember(answer))
                    .await?;
                tracing::info!("session deleted");
                Ok(answer(&()))
            })
            .await
    }

    async fn list(
        &self,
        call: Call<ListSessionsRequest, WorkspaceName>,
    ) -> Result<ListSessionsResponse, ApiError> {
        let message = call.message;
        let page = message.page()?;
        let labels = fields::LabelFilter::read(&message.labels)?;
        let sessions = call.workspace.sessions();
        let page = if labels.is_empty() {
            sessions.list(&page).await?
        } else {
            let wanted = |record: &SessionRecord| labels.matches(&record.labels);
            sessions.list_where(&page, wanted).await?
        };
        let show = |record| show(&*self.sessions, record);
        Ok(ListSessionsResponse {
            next_page_token: message.next(page.next),
            sessions: page.items.into_iter().map(show).collect(),
        })
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
    async fn verb<R: VerbRequest>(&self, request: Request<R>) -> Result<R::Answer, ApiError> {
        let name = |message: &R| session_name("name", message.name());
        let call = self.gate.open(request, name).await?;
        let (message, name) = (call.message, call.name);
        let mutate = async {
            call.workspace.sessions().get(&name.session).await?;
            self.sessions
                .command(&name, R::VERB, message.etag())
                .await?;
            Ok(R::answer(self.get(&call.workspace, &name).await?))
        };
        self.once.run(&call.workspace, &message, mutate).await
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
        Ok(Response::new(self.list(call).await?))
    }

    async fn update_session(
        &self,
        request: Request<UpdateSessionRequest>,
    ) -> Result<Response<UpdateSessionResponse>, Status> {
        let call = self
            .gate
            .open(request, |message| {
                let name = message.session.as_ref().map_or("", |session| &session.name);
                session_name("session.name", name)
            })
            .await?;
        Ok(Response::new(self.update(call).await?))
    }

    async fn delete_session(
        &self,
        request: Request<DeleteSessionRequest>,
    ) -> Result<Response<DeleteSessionResponse>, Status> {
        let name = |message: &DeleteSessionRequest| session_name("name", &message.name);
        let call = self.gate.open(request, name).await?;
        Ok(Response::new(self.delete(call).await?))
    }

    async fn start_session(
        &self,
        request: Request<StartSessionRequest>,
    ) -> Result<Response<StartSessionResponse>, Status> {
        Ok(Response::new(self.verb(request).await?))
    }

    async fn stop_session(
        &self,
        request: Request<StopSessionRequest>,
    ) -> Result<Response<StopSessionResponse>, Status> {
        Ok(Response::new(self.verb(request).await?))
    }

    async fn restart_session(
        &self,
        request: Request<RestartSessionRequest>,
    ) -> Result<Response<RestartSessionResponse>, Status> {
        Ok(Response::new(self.verb(request).await?))
    }

    async fn logout_session(
        &self,
        request: Request<LogoutSessionRequest>,
    ) -> Result<Response<LogoutSessionResponse>, Status> {
        Ok(Response::new(self.verb(request).await?))
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
        let found = call.workspace.sessions().get(&call.name.session).await;
        found.map_err(ApiError::from)?;
        let steps = self.sessions.pair(&call.name, by).await?;
        tracing::info!(request_id = call.message.request_id, "a pairing begins");
        let stream = pairing::stream(
            steps,
            pairing::Show {
                live: Arc::clone(&self.sessions),
                clock: Arc::clone(&self.clock),
                workspace: call.workspace,
                name: call.name,
                standing: call.standing,
                stop: self.stop.clone(),
            },
        );
        Ok(Response::new(stream))
    }
}
