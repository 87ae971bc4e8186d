//! Changing and deleting what exists: sessions, workspaces, dead letters.

use prost_types::FieldMask;
use tonic::Code;
use trunkline::domain::clock::Timestamp;
use trunkline::domain::ids::SubscriptionId;
use trunkline::pb;

use crate::harness::{World, arrive, check, create_session, fresh, soon};

const NAME: &str = "workspaces/default/sessions/s";

fn update(session: pb::Session, paths: &[&str], etag: &str) -> pb::UpdateSessionRequest {
    pb::UpdateSessionRequest {
        session: Some(session),
        update_mask: Some(FieldMask {
            paths: paths.iter().map(|path| (*path).to_owned()).collect(),
        }),
        request_id: fresh(),
        etag: etag.to_owned(),
    }
}

#[tokio::test]
async fn an_update_changes_what_the_mask_names() {
    let world = World::new().await;
    let mut client = world.client().await;
    let created = create_session(&mut client, "workspaces/default", "s")
        .await
        .unwrap();
    let wanted = pb::Session {
        name: NAME.to_owned(),
        display_name: "Front desk".to_owned(),
        labels: [("team".to_owned(), "sales".to_owned())].into(),
        ..Default::default()
    };
    let request = update(wanted.clone(), &["display_name"], &created.etag);
    let renamed = client
        .sessions
        .update_session(request.clone())
        .await
        .unwrap()
        .into_inner()
        .session
        .unwrap();
    assert_eq!(renamed.display_name, "Front desk");
    assert!(renamed.labels.is_empty());
    assert_ne!(renamed.etag, created.etag);
    // The same request gets the same answer, although its etag is stale by now.
    let again = client.sessions.update_session(request).await.unwrap();
    assert_eq!(again.into_inner().session.unwrap(), renamed);

    let stale = update(wanted.clone(), &["labels"], &created.etag);
    let refused = client.sessions.update_session(stale).await;
    check(refused, Code::Aborted, "ETAG_MISMATCH", None);
    let whole = update(wanted.clone(), &["*"], &renamed.etag);
    let labelled = client.sessions.update_session(whole).await.unwrap();
    let labelled = labelled.into_inner().session.unwrap();
    assert_eq!(labelled.labels, wanted.labels);

    // Without a mask, what is set.
    let request = pb::UpdateSessionRequest {
        session: Some(pb::Session {
            name: NAME.to_owned(),
            display_name: "Back office".to_owned(),
            ..Default::default()
        }),
        request_id: fresh(),
        ..Default::default()
    };
    let implied = client.sessions.update_session(request).await.unwrap();
    let implied = implied.into_inner().session.unwrap();
    assert_eq!(implied.display_name, "Back office");
    assert_eq!(implied.labels, wanted.labels);

    for (paths, field) in [(&["login"][..], "update_mask"), (&[], "update_mask")] {
        let bare = pb::Session {
            name: NAME.to_owned(),
            ..Default::default()
        };
        let refused = client
            .sessions
            .update_session(update(bare, paths, ""))
            .await;
        check(refused, Code::InvalidArgument, "INVALID_FIELD", Some(field));
    }
}

#[tokio::test]
async fn a_deleted_session_is_gone_and_its_id_is_free() {
    let world = World::new().await;
    let mut client = world.client().await;
    let created = create_session(&mut client, "workspaces/default", "s")
        .await
        .unwrap();
    let delete = |etag: &str, logout| pb::DeleteSessionRequest {
        name: NAME.to_owned(),
        request_id: fresh(),
        etag: etag.to_owned(),
        logout,
    };
    let refused = client.sessions.delete_session(delete("stale", false)).await;
    check(refused, Code::Aborted, "ETAG_MISMATCH", None);
    assert!(world.sessions.logouts.lock().unwrap().is_empty());
    let request = delete(&created.etag, true);
    client
        .sessions
        .delete_session(request.clone())
        .await
        .unwrap();
    assert_eq!(world.sessions.logouts.lock().unwrap().len(), 1);
    client.sessions.delete_session(request).await.unwrap();
    let refused = client.sessions.delete_session(delete("", false)).await;
    check(refused, Code::NotFound, "RESOURCE_NOT_FOUND", None);
    let again = create_session(&mut client, "workspaces/default", "s").await;
    assert_eq!(again.unwrap().login(), pb::LoginState::Unpaired);
}

#[tokio::test]
async fn a_deleted_workspace_takes_everything_with_it() {
    let world = World::new().await;
    let mut client = world.client().await;
    let create = pb::CreateWorkspaceRequest {
        workspace_id: "acme".to_owned(),
        request_id: fresh(),
        ..Default::default()
    };
    client
        .workspaces
        .create_workspace(create.clone())
        .await
        .unwrap();
    create_session(&mut client, "workspaces/acme", "s")
        .await
        .unwrap();
    let renamed = client
        .workspaces
        .update_workspace(pb::UpdateWorkspaceRequest {
            workspace: Some(pb::Workspace {
                name: "workspaces/acme".to_owned(),
                display_name: "Acme".to_owned(),
                ..Default::default()
            }),
            request_id: fresh(),
            ..Default::default()
        })
        .await
        .unwrap()
        .into_inner()
        .workspace
        .unwrap();
    assert_eq!(renamed.display_name, "Acme");
    let mut watch = client
        .events
        .watch(pb::WatchRequest {
            parent: "workspaces/acme".to_owned(),
            ..Default::default()
        })
        .await
        .unwrap()
        .into_inner();

    let delete = |name: &str, etag: &str| pb::DeleteWorkspaceRequest {
        name: name.to_owned(),
        request_id: fresh(),
        etag: etag.to_owned(),
    };
    let stale = client
        .workspaces
        .delete_workspace(delete("workspaces/acme", "old"));
    check(stale.await, Code::Aborted, "ETAG_MISMATCH", None);
    let built_in = client
        .workspaces
        .delete_workspace(delete("workspaces/default", ""));
    check(
        built_in.await,
        Code::FailedPrecondition,
        "RESOURCE_BUILT_IN",
        None,
    );
    let request = delete("workspaces/acme", &renamed.etag);
    client
        .workspaces
        .delete_workspace(request.clone())
        .await
        .unwrap();
    client.workspaces.delete_workspace(request).await.unwrap();
    let ended = loop {
        match soon(watch.message()).await {
            Ok(frame) => assert!(frame.is_some(), "ended without a reason"),
            Err(status) => break Err::<(), _>(status),
        }
    };
    check(ended, Code::NotFound, "RESOURCE_NOT_FOUND", None);
    let gone = create_session(&mut client, "workspaces/acme", "s").await;
    check(gone, Code::NotFound, "RESOURCE_NOT_FOUND", None);
    assert!(world.sessions.live.lock().unwrap().is_empty());
    // What comes after under the same name has nothing of it.
    let create = pb::CreateWorkspaceRequest {
        request_id: fresh(),
        ..create
    };
    client.workspaces.create_workspace(create).await.unwrap();
    let listed = client
        .sessions
        .list_sessions(pb::ListSessionsRequest {
            parent: "workspaces/acme".to_owned(),
            ..Default::default()
        })
        .await
        .unwrap();
    assert!(listed.into_inner().sessions.is_empty());
}

#[tokio::test]
async fn dead_letters_are_read_with_their_events_and_forgotten() {
    let world = World::new().await;
    let session = world.session("s").await;
    let mut client = world.client().await;
    for n in 1..=3 {
        arrive(&session, "bob", &format!("m{n}"), Timestamp(n)).await;
    }
    let workspace = world.workspace().await;
    let default = SubscriptionId::new("default").unwrap();
    let progress = workspace.subscriptions().progress(&default).await.unwrap();
    let newest = workspace.journal().size().await.unwrap().newest;
    for revision in [newest - 1, newest] {
        progress.bury(revision, "MAX_ATTEMPTS", 20).await.unwrap();
    }
    let list = |page_token: String| pb::ListDeadLettersRequest {
        parent: "workspaces/default/subscriptions/default".to_owned(),
        page_size: 1,
        page_token,
    };
    let first = client.subscriptions.list_dead_letters(list(String::new()));
    let first = first.await.unwrap().into_inner();
    let letter = first.dead_letters[0].clone();
    assert_eq!((letter.revision, letter.attempts), (newest - 1, 20));
    assert_eq!(letter.event.unwrap().revision, newest - 1);
    let second = client
        .subscriptions
        .list_dead_letters(list(first.next_page_token));
    assert_eq!(
        second.await.unwrap().into_inner().dead_letters[0].revision,
        newest
    );

    let delete = pb::DeleteDeadLetterRequest {
        name: letter.name,
        request_id: fresh(),
    };
    client
        .subscriptions
        .delete_dead_letter(delete.clone())
        .await
        .unwrap();
    client
        .subscriptions
        .delete_dead_letter(delete.clone())
        .await
        .unwrap();
    let again = pb::DeleteDeadLetterRequest {
        request_id: fresh(),
        ..delete
    };
    let refused = client.subscriptions.delete_dead_letter(again).await;
    check(refused, Code::NotFound, "RESOURCE_NOT_FOUND", None);
    let left = client.subscriptions.list_dead_letters(list(String::new()));
    assert_eq!(left.await.unwrap().into_inner().dead_letters.len(), 1);
}
