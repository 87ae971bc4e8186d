//! What each method is asked, and on which stage.

use serde_json::Value;
use trunkline::api::ports::PairingProgress;
use trunkline::domain::clock::Timestamp;
use trunkline::domain::ids::{SessionId, SubscriptionId, WorkspaceId};
use trunkline::pb;
use trunkline::pb::token_scope::Scope;
use trunkline::store::{SessionStore, TokenKind};

use crate::harness::{Client, World, arrive, arrive_with_file, create_session, fresh, group};

/// A group that every number is in.
const GROUP: &str = "1203631@g.us";

/// Who may call a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Administrators only.
    Administrator,
    /// Whoever may see the workspace the request names.
    Workspace,
    /// Anybody who is known; each sees what is theirs.
    Anybody,
}

/// The names that requests are about.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) workspace: String,
    session: String,
    message: String,
    subscription: String,
    dead_letter: String,
    delivery: String,
    media: String,
    group: String,
}

impl Place {
    fn new(workspace: &str, message: &str, revision: u64, file: u64) -> Self {
        let workspace = format!("workspaces/{workspace}");
        let session = format!("{workspace}/sessions/s");
        let subscription = format!("{workspace}/subscriptions/core");
        Self {
            message: format!("{session}/messages/{message}"),
            dead_letter: format!("{subscription}/deadLetters/{revision}"),
            delivery: format!("{subscription}/deliveries/{revision}"),
            media: format!("{session}/media/{file}"),
            group: format!("{session}/groups/{GROUP}"),
            workspace,
            session,
            subscription,
        }
    }
}

/// Two workspaces with everything in the first, and their tokens.
pub(crate) struct Stage {
    /// Everything is here.
    pub(crate) acme: Place,
    /// Another tenant, with nothing.
    pub(crate) globex: Place,
    /// No workspace at all.
    pub(crate) nowhere: Place,
    pub(crate) acme_token: String,
    pub(crate) globex_token: String,
    /// The secret of a token that was revoked.
    pub(crate) revoked: String,
    /// The name of a token.
    token: String,
}

impl Stage {
    pub(crate) async fn set(world: &World) -> Self {
        let mut client = world.client().await;
        for id in ["acme", "globex"] {
            let request = pb::CreateWorkspaceRequest {
                workspace_id: id.to_owned(),
                request_id: fresh(),
                ..Default::default()
            };
            client.workspaces.create_workspace(request).await.unwrap();
        }
        for id in ["s", "t", "u"] {
            create_session(&mut client, "workspaces/acme", id)
                .await
                .unwrap();
        }
        let message = send_some(&mut client).await;
        let core = pb::CreateSubscriptionRequest {
            parent: "workspaces/acme".to_owned(),
            subscription_id: "core".to_owned(),
            from_revision: Some(0),
            request_id: fresh(),
            ..Default::default()
        };
        client
            .subscriptions
            .create_subscription(core)
            .await
            .unwrap();
        let acme = WorkspaceId::new("acme").unwrap();
        let workspace = world.store.workspace(&acme).await.unwrap();
        let session = workspace
            .session(&SessionId::new("s").unwrap())
            .await
            .unwrap();
        let revision = bury_some(&session).await;
        let file = arrive_with_file(&session, "bob", b"a file").await;
        let (acme_token, _) = token(&mut client, "acme").await;
        let (globex_token, _) = token(&mut client, "globex").await;
        let (_, spare) = token(&mut client, "acme").await;
        let administrator = world
            .store
            .tokens()
            .create(TokenKind::Administrator, "")
            .await;
        let administrator = administrator.unwrap();
        world
            .store
            .tokens()
            .revoke(administrator.info.id)
            .await
            .unwrap();
        *world.sessions.groups.lock().unwrap() = [GROUP, "1203632@g.us", "1203633@g.us"]
            .map(|id| group(id, "A group"))
            .to_vec();
        *world.sessions.pairing.lock().unwrap() = Some(vec![PairingProgress::Failed {
            reason: "EXPIRED".to_owned(),
        }]);
        Self {
            acme: Place::new("acme", &message, revision, file),
            globex: Place::new("globex", &message, revision, file),
            nowhere: Place::new("nowhere", &message, revision, file),
            acme_token,
            globex_token,
            revoked: secrecy::ExposeSecret::expose_secret(&administrator.secret).to_owned(),
            token: spare,
        }
    }
}

/// Accepts messages in acme and returns the id of one.
async fn send_some(client: &mut Client) -> String {
    let mut id = String::new();
    for n in 0..3 {
        let request = pb::SendMessageRequest {
            parent: "workspaces/acme/sessions/s".to_owned(),
            request_id: fresh(),
            to: Some(pb::Recipient {
                recipient: Some(pb::recipient::Recipient::Phone("+15551234567".to_owned())),
            }),
            content: Some(pb::send_message_request::Content::Text(pb::TextContent {
                text: format!("m{n}"),
            })),
            ..Default::default()
        };
        let sent = client.messages.send_message(request).await.unwrap();
        let name = sent.into_inner().message.unwrap().name;
        name.rsplit('/').next().unwrap().clone_into(&mut id);
    }
    id
}

/// Journals events in acme, gives two up, and returns the revision of one.
async fn bury_some(session: &SessionStore) -> u64 {
    for n in 1..=3 {
        arrive(session, "bob", &format!("m{n}"), Timestamp(n)).await;
    }
    let workspace = session.workspace();
    let newest = workspace.journal().size().await.unwrap().newest;
    let core = SubscriptionId::new("core").unwrap();
    let progress = workspace.subscriptions().progress(&core).await.unwrap();
    for revision in [newest - 2, newest - 1] {
        progress.bury(revision, "MAX_ATTEMPTS", 20).await.unwrap();
    }
    newest - 1
}

async fn token(client: &mut Client, workspace: &str) -> (String, String) {
    let request = pb::CreateTokenRequest {
        scope: Some(pb::TokenScope {
            scope: Some(Scope::Workspace(format!("workspaces/{workspace}"))),
        }),
        request_id: fresh(),
        ..Default::default()
    };
    let created = client
        .tokens
        .create_token(request)
        .await
        .unwrap()
        .into_inner();
    (created.secret, created.token.unwrap().name)
}

/// What a method must hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) method: &'static str,
    pub(crate) kind: Kind,
    /// A request that succeeds on the stage; `$` marks are filled in.
    request: &'static str,
    /// It names something within a workspace, and not the workspace alone.
    pub(crate) names_a_resource: bool,
    /// For a mutation: a field, as JSON pointer, and a value that makes it another request.
    pub(crate) other: (&'static str, &'static str),
    /// A repetition is refused, because the answer holds a secret.
    pub(crate) keeps_no_answer: bool,
}

impl Entry {
    /// The request about what lies in `place`, with a fresh `request_id`.
    pub(crate) fn request(&self, stage: &Stage, place: &Place) -> Value {
        let text = self
            .request
            .replace("$workspace", &place.workspace)
            .replace("$session", &place.session)
            .replace("$message", &place.message)
            .replace("$subscription", &place.subscription)
            .replace("$dead_letter", &place.dead_letter)
            .replace("$delivery", &place.delivery)
            .replace("$media", &place.media)
            .replace("$group", &place.group)
            .replace("$token", &stage.token)
            .replace("$id", &fresh());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", self.method))
    }
}

const fn read(kind: Kind, method: &'static str, request: &'static str) -> Entry {
    Entry {
        method,
        kind,
        request,
        names_a_resource: false,
        other: ("", ""),
        keeps_no_answer: false,
    }
}

const fn mutation(
    kind: Kind,
    method: &'static str,
    request: &'static str,
    other: (&'static str, &'static str),
) -> Entry {
    Entry {
        other,
        ..read(kind, method, request)
    }
}

const fn of_resource(entry: Entry) -> Entry {
    Entry {
        names_a_resource: true,
        ..entry
    }
}

const ETAG: (&str, &str) = ("/etag", "other");

use Kind::{Administrator, Anybody, Workspace};

pub(crate) const ENTRIES: &[Entry] = &[
    mutation(
        Administrator,
        "CreateWorkspace",
        r#"{"workspaceId":"fresh","requestId":"$id"}"#,
        ("/workspaceId", "fresher"),
    ),
    read(Workspace, "GetWorkspace", r#"{"name":"$workspace"}"#),
    read(Anybody, "ListWorkspaces", "{}"),
    mutation(
        Administrator,
        "UpdateWorkspace",
        r#"{"workspace":{"name":"$workspace","displayName":"x"},"requestId":"$id"}"#,
        ("/workspace/displayName", "y"),
    ),
    mutation(
        Administrator,
        "DeleteWorkspace",
        r#"{"name":"$workspace","requestId":"$id"}"#,
        ETAG,
    ),
    mutation(
        Workspace,
        "CreateSession",
        r#"{"parent":"$workspace","sessionId":"fresh","requestId":"$id"}"#,
        ("/sessionId", "fresher"),
    ),
    of_resource(read(Workspace, "GetSession", r#"{"name":"$session"}"#)),
    read(Workspace, "ListSessions", r#"{"parent":"$workspace"}"#),
    of_resource(mutation(
        Workspace,
        "UpdateSession",
        r#"{"session":{"name":"$session","displayName":"x"},"requestId":"$id"}"#,
        ("/session/displayName", "y"),
    )),
    of_resource(mutation(
        Workspace,
        "DeleteSession",
        r#"{"name":"$session","requestId":"$id"}"#,
        ETAG,
    )),
    of_resource(mutation(
        Workspace,
        "StartSession",
        r#"{"name":"$session","requestId":"$id"}"#,
        ETAG,
    )),
    of_resource(mutation(
        Workspace,
        "StopSession",
        r#"{"name":"$session","requestId":"$id"}"#,
        ETAG,
    )),
    of_resource(mutation(
        Workspace,
        "RestartSession",
        r#"{"name":"$session","requestId":"$id"}"#,
        ETAG,
    )),
    of_resource(mutation(
        Workspace,
        "LogoutSession",
        r#"{"name":"$session","requestId":"$id"}"#,
        ETAG,
    )),
    of_resource(read(
        Workspace,
        "PairSession",
        r#"{"name":"$session","requestId":"$id"}"#,
    )),
    of_resource(mutation(
        Workspace,
        "SendMessage",
        r#"{"parent":"$session","to":{"phone":"+15551234567"},"text":{"text":"x"},"requestId":"$id"}"#,
        ("/text/text", "y"),
    )),
    of_resource(read(Workspace, "GetMessage", r#"{"name":"$message"}"#)),
    of_resource(read(Workspace, "ListMessages", r#"{"parent":"$session"}"#)),
    of_resource(mutation(
        Workspace,
        "CancelMessage",
        r#"{"name":"$message","requestId":"$id"}"#,
        (
            "/name",
            "workspaces/acme/sessions/s/messages/1b4e28ba-2fa1-4d2b-883f-0016d3cca427",
        ),
    )),
    of_resource(read(
        Workspace,
        "UploadMedia",
        r#"{"info":{"parent":"$session","mimeType":"text/plain","requestId":"$id"}}"#,
    )),
    of_resource(read(Workspace, "DownloadMedia", r#"{"name":"$media"}"#)),
    of_resource(read(Workspace, "GetGroup", r#"{"name":"$group"}"#)),
    of_resource(read(Workspace, "ListGroups", r#"{"parent":"$session"}"#)),
    of_resource(read(
        Workspace,
        "Pull",
        r#"{"open":{"subscription":"$subscription","maxEvents":1,"maxBytes":1}}"#,
    )),
    of_resource(read(
        Workspace,
        "LeaseEvents",
        r#"{"subscription":"$subscription","maxEvents":1}"#,
    )),
    of_resource(read(
        Workspace,
        "SettleLeases",
        r#"{"subscription":"$subscription","ack":{"ackIds":["x"]}}"#,
    )),
    read(
        Workspace,
        "Watch",
        r#"{"parent":"$workspace","fromRevision":"0"}"#,
    ),
    mutation(
        Workspace,
        "CreateSubscription",
        r#"{"parent":"$workspace","subscriptionId":"fresh","requestId":"$id"}"#,
        ("/subscriptionId", "fresher"),
    ),
    of_resource(read(
        Workspace,
        "GetSubscription",
        r#"{"name":"$subscription"}"#,
    )),
    read(Workspace, "ListSubscriptions", r#"{"parent":"$workspace"}"#),
    of_resource(mutation(
        Workspace,
        "DeleteSubscription",
        r#"{"name":"$subscription","requestId":"$id"}"#,
        ETAG,
    )),
    of_resource(read(Workspace, "GetDelivery", r#"{"name":"$delivery"}"#)),
    of_resource(read(
        Workspace,
        "ListDeadLetters",
        r#"{"parent":"$subscription"}"#,
    )),
    of_resource(mutation(
        Workspace,
        "DeleteDeadLetter",
        r#"{"name":"$dead_letter","requestId":"$id"}"#,
        (
            "/name",
            "workspaces/acme/subscriptions/core/deadLetters/1000",
        ),
    )),
    of_resource(mutation(
        Workspace,
        "RedriveDeadLetters",
        r#"{"parent":"$subscription","requestId":"$id"}"#,
        ("/parent", "workspaces/acme/subscriptions/default"),
    )),
    Entry {
        keeps_no_answer: true,
        ..mutation(
            Administrator,
            "CreateToken",
            r#"{"scope":{"workspace":"$workspace"},"requestId":"$id"}"#,
            ("/displayName", "x"),
        )
    },
    read(
        Administrator,
        "Backup",
        r#"{"recipients":["age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kudhscl8qnkkz0k"]}"#,
    ),
    read(Administrator, "ListTokens", "{}"),
    mutation(
        Administrator,
        "RevokeToken",
        r#"{"name":"$token","requestId":"$id"}"#,
        ("/name", "tokens/1b4e28ba-2fa1-4d2b-883f-0016d3cca427"),
    ),
];
