//! A server in this process, its clients, and what to check errors with.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;
use trunkline::api::ports::{
    Deletion, Groups, Live, PairBy, PairingProgress, Sessions, Submission, Verb,
};
use trunkline::api::server::{ApiServer, ServerOptions};
use trunkline::api::status::{ApiError, Reason};
use trunkline::domain::clock::{Clock, Entropy, ManualClock, SystemClock, Timestamp};
use trunkline::domain::event::{DedupKey, NewEvent, Payload};
use trunkline::domain::group::{Group, GroupMember, GroupRole};
use trunkline::domain::ids::{MessageId, SessionId, SessionName, WorkspaceId};
use trunkline::domain::media::{Media, MediaKind, Sha256};
use trunkline::domain::message::{Content, InboundMessage, MessageState, OutboundMessage};
use trunkline::domain::person::Person;
use trunkline::domain::session::{Connection, Desired, Traffic};
use trunkline::pb;
use trunkline::store::keyring::Keks;
use trunkline::store::media::MediaOptions;
use trunkline::store::memory::MemoryEngine;
use trunkline::store::{
    Change, Enqueued, NewMessage, NewSession, Remember, SessionRecord, SessionStore, Step, Store,
    StoreOptions, TokenKind, WorkspaceStore,
};

/// How long anything may take before a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// Fails a test that waits for something that does not come.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what)
        .await
        .expect("this should have happened by now")
}

/// A session layer that does as it is told and remembers it.
#[derive(Debug, Default)]
pub(crate) struct Obedient {
    pub(crate) live: Mutex<HashMap<SessionName, Live>>,
    /// What the next pairing goes through; without it, pairing is illegal.
    pub(crate) pairing: Mutex<Option<Vec<PairingProgress>>>,
    /// Told when a pairing's client has left.
    pub(crate) left: Arc<tokio::sync::Notify>,
    /// Sessions that were logged out before they were deleted.
    pub(crate) logouts: Mutex<Vec<SessionName>>,
    /// The groups that every number is in, in the order of their ids.
    pub(crate) groups: Mutex<Vec<Group>>,
    /// The next creation fails after its commit.
    pub(crate) dies_after_commit: AtomicBool,
    store: OnceLock<Store>,
}

impl Obedient {
    fn set(&self, name: &SessionName, connection: Connection) {
        let live = Live {
            connection,
            traffic: Traffic::default(),
        };
        self.live.lock().unwrap().insert(name.clone(), live);
    }
}

#[async_trait]
impl Sessions for Obedient {
    fn providers(&self) -> Vec<String> {
        vec!["multidevice".to_owned()]
    }

    fn live(&self, session: &SessionName) -> Option<Live> {
        self.live.lock().unwrap().get(session).cloned()
    }

    async fn create(
        &self,
        workspace: &WorkspaceStore,
        new: NewSession,
        remember: Remember<SessionRecord>,
    ) -> Result<SessionRecord, ApiError> {
        let record = workspace.sessions().create_once(new, remember).await?;
        self.set(&record.name, Connection::Unpaired);
        if self.dies_after_commit.swap(false, Ordering::SeqCst) {
            return Err(ApiError::new(Reason::Internal, "as if the daemon had died"));
        }
        Ok(record)
    }

    async fn command(
        &self,
        session: &SessionName,
        verb: Verb,
        expected: Option<&str>,
    ) -> Result<(), ApiError> {
        if verb == Verb::Start && session.session.as_str() == "dead" {
            return Err(ApiError::precondition(
                Reason::SessionLoggedOut,
                session.to_string(),
                "the provider ended the link",
            ));
        }
        let store = self.store.get().unwrap();
        let workspace = store.workspace(&session.workspace).await?;
        let desired = match verb {
            Verb::Stop => Desired::Stopped,
            _ => Desired::Running,
        };
        workspace
            .sessions()
            .update(&session.session, expected, |record| {
                record.desired = desired;
            })
            .await?;
        let connection = match verb {
            Verb::Start | Verb::Restart => Connection::Connecting,
            Verb::Stop => Connection::Stopped,
            Verb::Logout => Connection::Unpaired,
        };
        self.set(session, connection);
        Ok(())
    }

    async fn delete(
        &self,
        workspace: &WorkspaceStore,
        session: &SessionName,
        deletion: Deletion<'_>,
        remember: &Remember<()>,
    ) -> Result<(), ApiError> {
        if deletion.logout {
            self.logouts.lock().unwrap().push(session.clone());
        }
        let sessions = workspace.sessions();
        sessions
            .delete_once(&session.session, deletion.expected, remember)
            .await?;
        self.live.lock().unwrap().remove(session);
        Ok(())
    }

    async fn release(&self, workspace: &WorkspaceId) -> Result<(), ApiError> {
        let mut live = self.live.lock().unwrap();
        live.retain(|name, _| name.workspace != *workspace);
        Ok(())
    }

    async fn pair(
        &self,
        session: &SessionName,
        _by: PairBy,
    ) -> Result<mpsc::Receiver<PairingProgress>, ApiError> {
        let Some(steps) = self.pairing.lock().unwrap().take() else {
            return Err(ApiError::precondition(
                Reason::SessionAlreadyPaired,
                session.to_string(),
                "the session is paired already",
            ));
        };
        let (tx, rx) = mpsc::channel(16);
        let left = Arc::clone(&self.left);
        tokio::spawn(async move {
            for step in steps {
                let _ = tx.send(step).await;
            }
            tx.closed().await;
            left.notify_one();
        });
        Ok(rx)
    }

    async fn submit(
        &self,
        session: &SessionStore,
        submission: Submission,
    ) -> Result<Enqueued, ApiError> {
        let encoded = match &submission.content {
            Content::Text { text } => text.as_bytes().to_vec(),
            other => format!("{other:?}").into_bytes(),
        };
        assert_ne!(encoded, b"panic", "asked to");
        let new = NewMessage {
            request_id: submission.request_id,
            body: submission.body,
            stanza_id: format!("3EB0{}", uuid::Uuid::new_v4().simple()),
            encoded,
            media: submission.media,
            to: submission.to,
            content: submission.content,
            priority: submission.priority,
            send_after: submission.send_after,
            expire_at: submission.expire_at,
        };
        Ok(session.outbox().enqueue(new).await?)
    }

    async fn fetch(
        &self,
        _session: &SessionName,
        raw: &[u8],
    ) -> Result<mpsc::Receiver<bytes::Bytes>, ApiError> {
        let (sender, chunks) = mpsc::channel(2);
        let (one, other) = raw.split_at(raw.len() / 2);
        for part in [one, other] {
            let part = bytes::Bytes::copy_from_slice(part);
            sender.try_send(part).unwrap();
        }
        Ok(chunks)
    }

    async fn groups(&self, session: &SessionName) -> Result<Arc<Groups>, ApiError> {
        let live = self.live.lock().unwrap().get(session).cloned();
        if live.is_none_or(|live| live.connection == Connection::Stopped) {
            let said = format!("{session} is not online");
            let offline = ApiError::new(Reason::SessionOffline, said);
            return Err(offline.retry_after(Duration::from_secs(5)));
        }
        Ok(Arc::new(Groups {
            groups: self.groups.lock().unwrap().clone(),
            at: Timestamp(1_700_000_000_000),
        }))
    }

    async fn cancel(
        &self,
        session: &SessionStore,
        message: MessageId,
    ) -> Result<OutboundMessage, ApiError> {
        let step = Step::to(MessageState::Canceled, Timestamp(1));
        let (message, _) = session.outbox().transition(message, step).await?;
        Ok(message)
    }
}

/// Adds a bearer token to every call.
#[derive(Debug, Clone)]
pub(crate) struct Bearer(pub(crate) Option<String>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            let value = MetadataValue::try_from(format!("Bearer {token}")).unwrap();
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
}

pub(crate) type Wire = InterceptedService<Channel, Bearer>;

/// A running server with its store.
pub(crate) struct World {
    pub(crate) server: ApiServer,
    pub(crate) store: Store,
    pub(crate) sessions: Arc<Obedient>,
    pub(crate) clock: ManualClock,
    pub(crate) engine: Arc<MemoryEngine>,
    /// An administrator's token.
    pub(crate) token: String,
    /// Where uploaded files lie.
    pub(crate) files: tempfile::TempDir,
}

/// A client of every service with one token.
pub(crate) struct Client {
    pub(crate) workspaces: pb::workspace_service_client::WorkspaceServiceClient<Wire>,
    pub(crate) sessions: pb::session_service_client::SessionServiceClient<Wire>,
    pub(crate) messages: pb::message_service_client::MessageServiceClient<Wire>,
    pub(crate) media: pb::media_service_client::MediaServiceClient<Wire>,
    pub(crate) groups: pb::group_service_client::GroupServiceClient<Wire>,
    pub(crate) events: pb::event_service_client::EventServiceClient<Wire>,
    pub(crate) subscriptions: pb::subscription_service_client::SubscriptionServiceClient<Wire>,
    pub(crate) tokens: pb::token_service_client::TokenServiceClient<Wire>,
}

impl Client {
    pub(crate) fn new(channel: &Channel, token: Option<&str>) -> Self {
        let bearer = || Bearer(token.map(str::to_owned));
        macro_rules! client {
            ($module:ident, $client:ident) => {
                pb::$module::$client::with_interceptor(channel.clone(), bearer())
            };
        }
        Self {
            workspaces: client!(workspace_service_client, WorkspaceServiceClient),
            sessions: client!(session_service_client, SessionServiceClient),
            messages: client!(message_service_client, MessageServiceClient),
            media: client!(media_service_client, MediaServiceClient),
            groups: client!(group_service_client, GroupServiceClient),
            events: client!(event_service_client, EventServiceClient),
            subscriptions: client!(subscription_service_client, SubscriptionServiceClient),
            tokens: client!(token_service_client, TokenServiceClient),
        }
    }
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::over(Arc::new(MemoryEngine::new()), |_| {}).await
    }

    /// A server over rows that may be there already.
    pub(crate) async fn over(
        engine: Arc<MemoryEngine>,
        change: impl FnOnce(&mut ServerOptions),
    ) -> Self {
        let files = tempfile::tempdir().unwrap();
        let clock = ManualClock::at(SystemClock::new().now());
        let store = Store::open(StoreOptions {
            engine: Arc::clone(&engine) as _,
            keks: Keks::ephemeral([7; 32]),
            clock: Arc::new(clock.clone()),
            entropy: Entropy::from_system().unwrap(),
            release: "test".to_owned(),
            media: Some(MediaOptions {
                dir: files.path().join("media"),
                max_file: 1 << 20,
                max_workspace: 3 << 20,
                keep: Duration::from_hours(24),
            }),
        })
        .await
        .unwrap();
        let sessions = Arc::new(Obedient::default());
        sessions.store.set(store.clone()).unwrap();
        let mut options = ServerOptions::new(
            store.clone(),
            Arc::clone(&sessions) as _,
            Arc::new(SystemClock::new()),
        );
        options.progress_every = Duration::from_millis(50);
        change(&mut options);
        let server = ApiServer::bind(options).await.unwrap();
        let administrator = store
            .tokens()
            .create(TokenKind::Administrator, "test")
            .await
            .unwrap();
        let token = secrecy::ExposeSecret::expose_secret(&administrator.secret).to_owned();
        Self {
            server,
            store,
            sessions,
            clock,
            engine,
            token,
            files,
        }
    }

    pub(crate) async fn channel(&self) -> Channel {
        let address = self.server.tcp().unwrap();
        Channel::from_shared(format!("http://{address}"))
            .unwrap()
            .connect()
            .await
            .unwrap()
    }

    /// A client with the administrator's token.
    pub(crate) async fn client(&self) -> Client {
        Client::new(&self.channel().await, Some(&self.token))
    }

    pub(crate) async fn workspace(&self) -> WorkspaceStore {
        let id = WorkspaceId::default_workspace();
        self.store.workspace(&id).await.unwrap()
    }

    /// Creates a session in `default`.
    pub(crate) async fn session(&self, id: &str) -> SessionStore {
        let mut client = self.client().await;
        create_session(&mut client, "workspaces/default", id)
            .await
            .unwrap();
        let id = SessionId::new(id).unwrap();
        self.workspace().await.session(&id).await.unwrap()
    }
}

pub(crate) async fn create_session(
    client: &mut Client,
    parent: &str,
    id: &str,
) -> Result<pb::Session, Status> {
    let request = pb::CreateSessionRequest {
        parent: parent.to_owned(),
        session_id: id.to_owned(),
        request_id: fresh(),
        ..Default::default()
    };
    let response = client.sessions.create_session(request).await?;
    Ok(response.into_inner().session.unwrap())
}

/// Journals a message from `chat`.
pub(crate) async fn arrive(session: &SessionStore, chat: &str, stanza_id: &str, at: Timestamp) {
    let text = Content::Text {
        text: format!("text of {stanza_id}"),
    };
    arrive_saying(session, chat, stanza_id, at, text).await;
}

/// Journals a file from `chat`: as the session layer of these tests has it, `raw` is the file itself.
/// Returns the event's revision.
pub(crate) async fn arrive_with_file(session: &SessionStore, chat: &str, raw: &[u8]) -> u64 {
    let media = Media {
        kind: MediaKind::Document,
        mime_type: "text/plain".to_owned(),
        size: raw.len() as u64,
        sha256: Sha256([7; 32]),
        caption: Some("read this".to_owned()),
        file_name: Some("notes.txt".to_owned()),
        seconds: Some(3),
        width: None,
        height: Some(2),
        thumbnail: Vec::new(),
        raw: raw.to_vec(),
    };
    let content = Content::Media {
        media: Box::new(media),
    };
    arrive_saying(session, chat, "file", Timestamp(1), content).await;
    let journal = session.workspace().journal();
    journal.size().await.unwrap().newest
}

async fn arrive_saying(
    session: &SessionStore,
    chat: &str,
    stanza_id: &str,
    at: Timestamp,
    content: Content,
) {
    let person = Person {
        lid: Some(format!("{chat}@lid")),
        ..Person::default()
    };
    let message = InboundMessage {
        chat: person.clone(),
        sender: person,
        from_me: false,
        stanza_id: stanza_id.to_owned(),
        sent_at: at,
        push_name: None,
        content,
        quoted: None,
    };
    let event = NewEvent {
        at,
        payload: Payload::Message {
            message,
            recovers: None,
        },
        dedup: Some(DedupKey {
            chat: chat.to_owned(),
            sender: chat.to_owned(),
            stanza_id: stanza_id.to_owned(),
            kind: "message".to_owned(),
        }),
    };
    session.apply(vec![Change::Event(event)]).await.unwrap();
}

/// A group of two, whose first member made it.
pub(crate) fn group(id: &str, subject: &str) -> Group {
    let member = |number: u32, role| GroupMember {
        person: Person {
            phone: Some(format!("+1555000000{number}")),
            lid: Some(format!("{number}@lid")),
            ..Person::default()
        },
        role,
    };
    Group {
        id: id.to_owned(),
        subject: subject.to_owned(),
        members: vec![
            member(1, GroupRole::Superadmin),
            member(2, GroupRole::Member),
        ],
    }
}

/// The stanza id of a message event.
pub(crate) fn stanza(event: &pb::Event) -> String {
    match event.payload.as_ref().unwrap() {
        pb::event::Payload::Message(message) => message.stanza_id.clone(),
        other => panic!("not a message: {other:?}"),
    }
}

/// A `request_id` nobody used.
pub(crate) fn fresh() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// Checks an error: its code, the reason in `ErrorInfo`, and the field `BadRequest` names (if any).
#[track_caller]
pub(crate) fn check<T: std::fmt::Debug>(
    outcome: Result<T, Status>,
    code: Code,
    reason: &str,
    field: Option<&str>,
) -> Status {
    let status = outcome.unwrap_err();
    let details = status.get_error_details();
    let info = details
        .error_info()
        .unwrap_or_else(|| panic!("no ErrorInfo: {status:?}"));
    assert_eq!(
        (status.code(), info.reason.as_str(), info.domain.as_str()),
        (code, reason, "trunkline"),
        "{status:?}"
    );
    let named = details
        .bad_request()
        .map(|bad| bad.field_violations[0].field.as_str());
    assert_eq!(named, field, "{status:?}");
    if code == Code::FailedPrecondition {
        assert!(details.precondition_failure().is_some(), "{status:?}");
    }
    if code == Code::Unavailable {
        assert!(details.retry_info().is_some(), "{status:?}");
    }
    assert!(!status.message().is_empty());
    status
}
