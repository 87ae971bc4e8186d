//! Listings with filters.

use tonic::Code;
use trunkline::domain::clock::Timestamp;
use trunkline::domain::message::MessageState;
use trunkline::pb;
use trunkline::pb::recipient::Recipient;
use trunkline::pb::send_message_request::Content;
use trunkline::store::Step;

use crate::harness::{Client, World, check, fresh};

const PARENT: &str = "workspaces/default/sessions/s";

async fn send(client: &mut Client, to: Recipient, text: &str) -> String {
    let request = pb::SendMessageRequest {
        parent: PARENT.to_owned(),
        request_id: fresh(),
        to: Some(pb::Recipient {
            recipient: Some(to),
        }),
        content: Some(Content::Text(pb::TextContent {
            text: text.to_owned(),
        })),
        ..Default::default()
    };
    let sent = client.messages.send_message(request).await.unwrap();
    sent.into_inner().message.unwrap().name
}

fn list() -> pb::ListMessagesRequest {
    pb::ListMessagesRequest {
        parent: PARENT.to_owned(),
        ..Default::default()
    }
}

/// All pages of a listing.
async fn all(client: &mut Client, request: pb::ListMessagesRequest) -> Vec<String> {
    let mut names = Vec::new();
    let mut page_token = String::new();
    loop {
        let page = pb::ListMessagesRequest {
            page_token,
            ..request.clone()
        };
        let page = client
            .messages
            .list_messages(page)
            .await
            .unwrap()
            .into_inner();
        names.extend(page.messages.into_iter().map(|message| message.name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return names;
        }
    }
}

#[tokio::test]
async fn messages_are_found_by_chat_state_and_time() {
    let world = World::new().await;
    let session = world.session("s").await;
    let mut client = world.client().await;
    let (bob, eve) = ("+15551234567", "77@lid");
    let mut sent = Vec::new();
    for n in 0..6 {
        let to = match n % 2 {
            0 => Recipient::Phone(bob.to_owned()),
            _ => Recipient::Jid(eve.to_owned()),
        };
        sent.push(send(&mut client, to, &format!("m{n}")).await);
        world.clock.advance(std::time::Duration::from_secs(10));
    }
    let request = pb::ListMessagesRequest {
        page_size: 4,
        ..list()
    };
    assert_eq!(all(&mut client, request.clone()).await, sent);
    let newest_first = pb::ListMessagesRequest {
        newest_first: true,
        ..request
    };
    let mut backwards = sent.clone();
    backwards.reverse();
    assert_eq!(all(&mut client, newest_first).await, backwards);

    for (chat, odd) in [("+1 (555) 123-4567", 0), (eve, 1)] {
        let request = pb::ListMessagesRequest {
            chat: chat.to_owned(),
            page_size: 2,
            ..list()
        };
        let wanted: Vec<_> = sent.iter().skip(odd).step_by(2).cloned().collect();
        assert_eq!(all(&mut client, request).await, wanted, "{chat}");
    }

    let canceled = &sent[3];
    let id = canceled.rsplit('/').next().unwrap().parse().unwrap();
    let step = Step::to(MessageState::Canceled, Timestamp(1));
    session.outbox().transition(id, step).await.unwrap();
    let request = pb::ListMessagesRequest {
        states: vec![pb::MessageState::Canceled.into()],
        ..list()
    };
    assert_eq!(
        all(&mut client, request).await,
        std::slice::from_ref(canceled)
    );

    let times: Vec<_> = {
        let listed = client.messages.list_messages(list()).await.unwrap();
        let messages = listed.into_inner().messages;
        messages
            .into_iter()
            .map(|message| message.create_time)
            .collect()
    };
    let request = pb::ListMessagesRequest {
        start_time: times[1],
        end_time: times[4],
        ..list()
    };
    assert_eq!(all(&mut client, request).await, sent[1..4]);
}

#[tokio::test]
async fn message_filters_name_what_is_wrong() {
    let world = World::new().await;
    world.session("s").await;
    let mut client = world.client().await;
    let bad_chat = pb::ListMessagesRequest {
        chat: "bob".to_owned(),
        ..list()
    };
    let refused = client.messages.list_messages(bad_chat).await;
    check(
        refused,
        Code::InvalidArgument,
        "INVALID_PHONE_NUMBER",
        Some("chat"),
    );
    let bad_state = pb::ListMessagesRequest {
        states: vec![99],
        ..list()
    };
    let refused = client.messages.list_messages(bad_state).await;
    check(
        refused,
        Code::InvalidArgument,
        "INVALID_FIELD",
        Some("states"),
    );
}

#[tokio::test]
async fn sessions_are_found_by_label() {
    let world = World::new().await;
    let mut client = world.client().await;
    for n in 0..9 {
        let team = ["sales", "support", "sales"][n % 3];
        let request = pb::CreateSessionRequest {
            parent: "workspaces/default".to_owned(),
            session_id: format!("s{n}"),
            labels: [
                ("team".to_owned(), team.to_owned()),
                (format!("n{n}"), String::new()),
            ]
            .into(),
            request_id: fresh(),
            ..Default::default()
        };
        client.sessions.create_session(request).await.unwrap();
    }
    let mut found = Vec::new();
    let mut page_token = String::new();
    loop {
        let page = client
            .sessions
            .list_sessions(pb::ListSessionsRequest {
                parent: "workspaces/default".to_owned(),
                page_size: 2,
                labels: vec!["team=sales".to_owned()],
                page_token,
            })
            .await
            .unwrap()
            .into_inner();
        assert!(page.sessions.len() <= 2);
        found.extend(page.sessions.into_iter().map(|session| session.name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let wanted = [0, 2, 3, 5, 6, 8].map(|n| format!("workspaces/default/sessions/s{n}"));
    assert_eq!(found, wanted);
    let one = client
        .sessions
        .list_sessions(pb::ListSessionsRequest {
            parent: "workspaces/default".to_owned(),
            labels: vec!["team=sales".to_owned(), "n3".to_owned()],
            ..Default::default()
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(one.sessions.len(), 1);
}
