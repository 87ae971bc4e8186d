//! Who may do what, and that nobody learns what lies in another's workspace.

use tokio_stream::StreamExt as _;
use tonic::{Code, Request};
use trunkline::pb;
use trunkline::pb::token_scope::Scope;

use crate::harness::{Client, World, check, create_session, fresh, soon};

fn get(name: &str) -> pb::GetSessionRequest {
    pb::GetSessionRequest {
        name: name.to_owned(),
    }
}

async fn workspace_token(client: &mut Client, workspace: &str) -> pb::CreateTokenResponse {
    let request = pb::CreateTokenRequest {
        display_name: "core".to_owned(),
        scope: Some(pb::TokenScope {
            scope: Some(Scope::Workspace(workspace.to_owned())),
        }),
        request_id: fresh(),
    };
    client
        .tokens
        .create_token(request)
        .await
        .unwrap()
        .into_inner()
}

async fn create_workspace(client: &mut Client, id: &str) {
    let request = pb::CreateWorkspaceRequest {
        workspace_id: id.to_owned(),
        request_id: fresh(),
        ..Default::default()
    };
    client.workspaces.create_workspace(request).await.unwrap();
}

#[tokio::test]
async fn a_network_call_needs_a_token_that_is_known() {
    let world = World::new().await;
    let channel = world.channel().await;
    let name = "workspaces/default/sessions/s";
    let mut nobody = Client::new(&channel, None);
    let refused = nobody.sessions.get_session(get(name)).await;
    check(refused, Code::Unauthenticated, "TOKEN_MISSING", None);
    let mut stranger = Client::new(&channel, Some("tl_guess"));
    let refused = stranger.sessions.get_session(get(name)).await;
    check(refused, Code::Unauthenticated, "TOKEN_INVALID", None);
    let mut request = Request::new(get(name));
    let basic = "Basic dXNlcjpwYXNz".parse().unwrap();
    request.metadata_mut().insert("authorization", basic);
    let refused = nobody.sessions.get_session(request).await;
    check(refused, Code::Unauthenticated, "TOKEN_INVALID", None);
}

#[tokio::test]
async fn another_workspaces_names_are_as_unknown_as_any() {
    let world = World::new().await;
    let mut admin = world.client().await;
    create_workspace(&mut admin, "acme").await;
    create_session(&mut admin, "workspaces/default", "secret")
        .await
        .unwrap();
    let token = workspace_token(&mut admin, "workspaces/acme").await.secret;
    let mut acme = Client::new(&world.channel().await, Some(&token));

    let mut answers = Vec::new();
    for name in [
        "workspaces/default/sessions/secret",
        "workspaces/default/sessions/nobody",
        "workspaces/nowhere/sessions/secret",
        "workspaces/acme/sessions/secret",
    ] {
        let refused = acme.sessions.get_session(get(name)).await;
        let status = check(refused, Code::NotFound, "RESOURCE_NOT_FOUND", None);
        answers.push(status.message().replace(name, "NAME"));
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "an oracle: {answers:?}");

    let foreign = "workspaces/default";
    let listed = acme
        .sessions
        .list_sessions(pb::ListSessionsRequest {
            parent: foreign.to_owned(),
            ..Default::default()
        })
        .await;
    check(listed, Code::NotFound, "RESOURCE_NOT_FOUND", None);
    let created = create_session(&mut acme, foreign, "mine").await;
    check(created, Code::NotFound, "RESOURCE_NOT_FOUND", None);
    let sent = acme
        .messages
        .send_message(pb::SendMessageRequest {
            parent: "workspaces/default/sessions/secret".to_owned(),
            request_id: fresh(),
            ..Default::default()
        })
        .await;
    check(sent, Code::NotFound, "RESOURCE_NOT_FOUND", None);
    let watched = acme
        .events
        .watch(pb::WatchRequest {
            parent: foreign.to_owned(),
            ..Default::default()
        })
        .await;
    check(watched, Code::NotFound, "RESOURCE_NOT_FOUND", None);
    let open = pb::PullRequest {
        request: Some(pb::pull_request::Request::Open(pb::PullOpen {
            subscription: "workspaces/default/subscriptions/default".to_owned(),
            max_events: 1,
            max_bytes: 1,
        })),
    };
    let pulled = acme.events.pull(tokio_stream::iter([open])).await;
    check(pulled, Code::NotFound, "RESOURCE_NOT_FOUND", None);
}

#[tokio::test]
async fn a_workspace_token_opens_its_own_and_administers_nothing() {
    let world = World::new().await;
    let mut admin = world.client().await;
    create_workspace(&mut admin, "acme").await;
    let created = workspace_token(&mut admin, "workspaces/acme").await;
    let mut acme = Client::new(&world.channel().await, Some(&created.secret));
    create_session(&mut acme, "workspaces/acme", "s")
        .await
        .unwrap();
    let seen = acme
        .workspaces
        .list_workspaces(pb::ListWorkspacesRequest::default())
        .await
        .unwrap()
        .into_inner();
    let names: Vec<_> = seen.workspaces.iter().map(|w| w.name.as_str()).collect();
    assert_eq!(names, ["workspaces/acme"]);

    let refused = acme
        .tokens
        .list_tokens(pb::ListTokensRequest::default())
        .await;
    check(
        refused,
        Code::PermissionDenied,
        "ADMINISTRATOR_REQUIRED",
        None,
    );
    let refused = acme
        .workspaces
        .create_workspace(pb::CreateWorkspaceRequest {
            workspace_id: "other".to_owned(),
            request_id: fresh(),
            ..Default::default()
        })
        .await;
    check(
        refused,
        Code::PermissionDenied,
        "ADMINISTRATOR_REQUIRED",
        None,
    );

    let name = created.token.unwrap().name;
    let revoke = pb::RevokeTokenRequest {
        name: name.clone(),
        request_id: fresh(),
    };
    admin.tokens.revoke_token(revoke.clone()).await.unwrap();
    admin.tokens.revoke_token(revoke).await.unwrap();
    let refused = acme
        .sessions
        .get_session(get("workspaces/acme/sessions/s"))
        .await;
    check(refused, Code::Unauthenticated, "TOKEN_INVALID", None);
    let again = pb::RevokeTokenRequest {
        name,
        request_id: fresh(),
    };
    let refused = admin.tokens.revoke_token(again).await;
    check(refused, Code::NotFound, "RESOURCE_NOT_FOUND", None);
}

#[tokio::test]
async fn token_secrets_are_shown_once() {
    let world = World::new().await;
    let mut admin = world.client().await;
    let request = pb::CreateTokenRequest {
        scope: Some(pb::TokenScope {
            scope: Some(Scope::Administrator(pb::AdministratorScope {})),
        }),
        request_id: fresh(),
        ..Default::default()
    };
    let created = admin.tokens.create_token(request.clone()).await.unwrap();
    assert!(created.into_inner().secret.starts_with("tl_"));
    let again = admin.tokens.create_token(request).await;
    check(again, Code::AlreadyExists, "IDEMPOTENCY_CONFLICT", None);
    let mut listed = Vec::new();
    let mut page_token = String::new();
    loop {
        let page = admin
            .tokens
            .list_tokens(pb::ListTokensRequest {
                page_size: 1,
                page_token,
            })
            .await
            .unwrap()
            .into_inner();
        listed.extend(page.tokens);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(listed.len(), 2);
    let missing = admin
        .tokens
        .create_token(pb::CreateTokenRequest {
            request_id: fresh(),
            ..Default::default()
        })
        .await;
    check(
        missing,
        Code::InvalidArgument,
        "INVALID_FIELD",
        Some("scope"),
    );
}

/// Waits for the end of a stream and returns the error it ended with.
async fn end<T: std::fmt::Debug>(stream: &mut tonic::Streaming<T>) -> Result<T, tonic::Status> {
    loop {
        match soon(stream.message()).await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("ended without a reason"),
            Err(status) => return Err(status),
        }
    }
}

#[tokio::test]
async fn revoking_a_token_ends_its_streams() {
    let world = World::new().await;
    let mut admin = world.client().await;
    create_session(&mut admin, "workspaces/default", "s")
        .await
        .unwrap();
    let created = workspace_token(&mut admin, "workspaces/default").await;
    let mut core = Client::new(&world.channel().await, Some(&created.secret));
    let request = pb::WatchRequest {
        parent: "workspaces/default".to_owned(),
        ..Default::default()
    };
    let mut spared = admin
        .events
        .watch(request.clone())
        .await
        .unwrap()
        .into_inner();
    let mut watch = core.events.watch(request).await.unwrap().into_inner();
    let open = pb::PullRequest {
        request: Some(pb::pull_request::Request::Open(pb::PullOpen {
            subscription: "workspaces/default/subscriptions/default".to_owned(),
            max_events: 1,
            max_bytes: 1,
        })),
    };
    let asks = tokio_stream::iter([open]).chain(tokio_stream::pending());
    let mut pull = core.events.pull(asks).await.unwrap().into_inner();
    *world.sessions.pairing.lock().unwrap() = Some(Vec::new());
    let mut pair = core
        .sessions
        .pair_session(pb::PairSessionRequest {
            name: "workspaces/default/sessions/s".to_owned(),
            request_id: fresh(),
            ..Default::default()
        })
        .await
        .unwrap()
        .into_inner();
    soon(pull.message()).await.unwrap().unwrap();

    admin
        .tokens
        .revoke_token(pb::RevokeTokenRequest {
            name: created.token.unwrap().name,
            request_id: fresh(),
        })
        .await
        .unwrap();
    let unauthenticated = (Code::Unauthenticated, "TOKEN_INVALID");
    check(
        end(&mut watch).await,
        unauthenticated.0,
        unauthenticated.1,
        None,
    );
    check(
        end(&mut pull).await,
        unauthenticated.0,
        unauthenticated.1,
        None,
    );
    check(
        end(&mut pair).await,
        unauthenticated.0,
        unauthenticated.1,
        None,
    );
    soon(world.sessions.left.notified()).await;
    // Somebody else's goes on.
    for _ in 0..3 {
        soon(spared.message()).await.unwrap().unwrap();
    }
}
