//! Malformed requests: each names the field and the fix.

use tonic::Code;
use trunkline::pb;

use crate::harness::{World, check, create_session, fresh};

const INVALID: (Code, &str) = (Code::InvalidArgument, "INVALID_FIELD");

#[tokio::test]
async fn every_field_is_checked_and_named() {
    let world = World::new().await;
    let mut client = world.client().await;
    let good = pb::CreateSessionRequest {
        parent: "workspaces/default".to_owned(),
        session_id: "s".to_owned(),
        request_id: fresh(),
        ..Default::default()
    };
    let cases = [
        (
            "parent",
            pb::CreateSessionRequest {
                parent: "default".to_owned(),
                ..good.clone()
            },
        ),
        (
            "parent",
            pb::CreateSessionRequest {
                parent: String::new(),
                ..good.clone()
            },
        ),
        (
            "session_id",
            pb::CreateSessionRequest {
                session_id: "Not Valid".to_owned(),
                ..good.clone()
            },
        ),
        (
            "session_id",
            pb::CreateSessionRequest {
                session_id: String::new(),
                ..good.clone()
            },
        ),
        (
            "provider",
            pb::CreateSessionRequest {
                provider: "pigeon".to_owned(),
                ..good.clone()
            },
        ),
        (
            "request_id",
            pb::CreateSessionRequest {
                request_id: String::new(),
                ..good.clone()
            },
        ),
        (
            "request_id",
            pb::CreateSessionRequest {
                request_id: "7".to_owned(),
                ..good.clone()
            },
        ),
        (
            "display_name",
            pb::CreateSessionRequest {
                display_name: "x".repeat(201),
                ..good.clone()
            },
        ),
        (
            "labels",
            pb::CreateSessionRequest {
                labels: [(String::new(), String::new())].into(),
                ..good.clone()
            },
        ),
    ];
    for (field, request) in cases {
        let refused = client.sessions.create_session(request).await;
        check(refused, INVALID.0, INVALID.1, Some(field));
    }
}

#[tokio::test]
async fn names_pages_and_spans_are_checked_too() {
    let world = World::new().await;
    let mut client = world.client().await;
    let refused = client
        .sessions
        .get_session(pb::GetSessionRequest {
            name: "workspaces/default/lines/s".to_owned(),
        })
        .await;
    check(refused, INVALID.0, INVALID.1, Some("name"));
    let refused = client
        .sessions
        .list_sessions(pb::ListSessionsRequest {
            parent: "workspaces/default".to_owned(),
            page_size: -1,
            ..Default::default()
        })
        .await;
    check(refused, INVALID.0, INVALID.1, Some("page_size"));
    let refused = client
        .sessions
        .list_sessions(pb::ListSessionsRequest {
            parent: "workspaces/default".to_owned(),
            page_token: "?".to_owned(),
            ..Default::default()
        })
        .await;
    check(
        refused,
        Code::InvalidArgument,
        "INVALID_PAGE_TOKEN",
        Some("page_token"),
    );
    let refused = client
        .subscriptions
        .create_subscription(pb::CreateSubscriptionRequest {
            parent: "workspaces/default".to_owned(),
            subscription_id: "core".to_owned(),
            subscription: Some(pb::Subscription {
                ack_deadline: Some(prost_types::Duration {
                    seconds: 1,
                    nanos: 0,
                }),
                ..Default::default()
            }),
            request_id: fresh(),
            ..Default::default()
        })
        .await;
    check(
        refused,
        INVALID.0,
        INVALID.1,
        Some("subscription.ack_deadline"),
    );
}

#[tokio::test]
async fn a_repeated_creation_gets_the_first_answer() {
    let world = World::new().await;
    let mut client = world.client().await;
    let request = pb::CreateSessionRequest {
        parent: "workspaces/default".to_owned(),
        session_id: "s".to_owned(),
        labels: (0..20).map(|n| (format!("k{n}"), "v".to_owned())).collect(),
        request_id: fresh(),
        ..Default::default()
    };
    let first = client
        .sessions
        .create_session(request.clone())
        .await
        .unwrap();
    let again = client
        .sessions
        .create_session(request.clone())
        .await
        .unwrap();
    assert_eq!(first.into_inner(), again.into_inner());
    let other = pb::CreateSessionRequest {
        session_id: "t".to_owned(),
        ..request
    };
    let refused = client.sessions.create_session(other).await;
    check(refused, Code::AlreadyExists, "IDEMPOTENCY_CONFLICT", None);
    let taken = create_session(&mut client, "workspaces/default", "s").await;
    check(taken, Code::AlreadyExists, "RESOURCE_ALREADY_EXISTS", None);

    let request = pb::CreateWorkspaceRequest {
        workspace_id: "acme".to_owned(),
        request_id: fresh(),
        ..Default::default()
    };
    let first = client
        .workspaces
        .create_workspace(request.clone())
        .await
        .unwrap();
    let again = client
        .workspaces
        .create_workspace(request.clone())
        .await
        .unwrap();
    assert_eq!(first.into_inner(), again.into_inner());
    let taken = pb::CreateWorkspaceRequest {
        request_id: fresh(),
        ..request
    };
    let refused = client.workspaces.create_workspace(taken).await;
    check(
        refused,
        Code::AlreadyExists,
        "RESOURCE_ALREADY_EXISTS",
        None,
    );
}

#[tokio::test]
async fn a_creation_whose_answer_was_lost_is_answered_when_repeated() {
    let world = World::new().await;
    let mut client = world.client().await;
    let request = pb::CreateSessionRequest {
        parent: "workspaces/default".to_owned(),
        session_id: "s".to_owned(),
        request_id: fresh(),
        ..Default::default()
    };
    let dies = &world.sessions.dies_after_commit;
    dies.store(true, std::sync::atomic::Ordering::SeqCst);
    let lost = client.sessions.create_session(request.clone()).await;
    check(lost, Code::Internal, "INTERNAL", None);
    let answer = client.sessions.create_session(request).await.unwrap();
    let session = answer.into_inner().session.unwrap();
    assert_eq!(session.name, "workspaces/default/sessions/s");
    let read = client.sessions.get_session(pb::GetSessionRequest {
        name: session.name.clone(),
    });
    assert_eq!(read.await.unwrap().into_inner().session.unwrap(), session);
}

#[tokio::test]
async fn pages_cover_everything_once() {
    let world = World::new().await;
    let mut client = world.client().await;
    for n in 0..7 {
        create_session(&mut client, "workspaces/default", &format!("s{n}"))
            .await
            .unwrap();
    }
    let mut names = Vec::new();
    let mut page_token = String::new();
    loop {
        let page = client
            .sessions
            .list_sessions(pb::ListSessionsRequest {
                parent: "workspaces/default".to_owned(),
                page_size: 3,
                page_token,
                ..Default::default()
            })
            .await
            .unwrap()
            .into_inner();
        assert!(page.sessions.len() <= 3);
        names.extend(page.sessions.into_iter().map(|session| session.name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let all: Vec<_> = (0..7)
        .map(|n| format!("workspaces/default/sessions/s{n}"))
        .collect();
    assert_eq!(names, all);
}

#[tokio::test]
async fn subscriptions_are_created_listed_and_deleted() {
    let world = World::new().await;
    let mut client = world.client().await;
    let created = client
        .subscriptions
        .create_subscription(pb::CreateSubscriptionRequest {
            parent: "workspaces/default".to_owned(),
            subscription_id: "core".to_owned(),
            request_id: fresh(),
            ..Default::default()
        })
        .await
        .unwrap()
        .into_inner()
        .subscription
        .unwrap();
    let listed = client
        .subscriptions
        .list_subscriptions(pb::ListSubscriptionsRequest {
            parent: "workspaces/default".to_owned(),
            ..Default::default()
        })
        .await
        .unwrap()
        .into_inner();
    let names: Vec<_> = listed
        .subscriptions
        .iter()
        .map(|s| s.name.as_str())
        .collect();
    assert_eq!(
        names,
        [
            "workspaces/default/subscriptions/default",
            "workspaces/default/subscriptions/core"
        ]
    );
    let delete = |name: &str, etag: &str| pb::DeleteSubscriptionRequest {
        name: name.to_owned(),
        request_id: fresh(),
        etag: etag.to_owned(),
    };
    let stale = client
        .subscriptions
        .delete_subscription(delete(&created.name, "stale"))
        .await;
    check(stale, Code::Aborted, "ETAG_MISMATCH", None);
    client
        .subscriptions
        .delete_subscription(delete(&created.name, &created.etag))
        .await
        .unwrap();
    let gone = client
        .subscriptions
        .get_subscription(pb::GetSubscriptionRequest { name: created.name })
        .await;
    check(gone, Code::NotFound, "RESOURCE_NOT_FOUND", None);
    let built_in = client
        .subscriptions
        .delete_subscription(delete("workspaces/default/subscriptions/default", ""))
        .await;
    check(
        built_in,
        Code::FailedPrecondition,
        "RESOURCE_BUILT_IN",
        None,
    );
}
