//! Sending: what is accepted, what is refused, and that repetitions send nothing twice.

use tonic::Code;
use trunkline::pb;
use trunkline::pb::recipient::Recipient;
use trunkline::pb::send_message_request::Content;

use crate::harness::{World, check, fresh};

const PARENT: &str = "workspaces/default/sessions/s";

fn send(to: Recipient, text: &str) -> pb::SendMessageRequest {
    pb::SendMessageRequest {
        parent: PARENT.to_owned(),
        request_id: fresh(),
        to: Some(pb::Recipient {
            recipient: Some(to),
        }),
        content: Some(Content::Text(pb::TextContent {
            text: text.to_owned(),
        })),
        ..Default::default()
    }
}

fn to_phone(text: &str) -> pb::SendMessageRequest {
    send(Recipient::Phone("+1 (555) 123-4567".to_owned()), text)
}

#[tokio::test]
async fn an_accepted_message_is_stored_and_found() {
    let world = World::new().await;
    world.session("s").await;
    let mut client = world.client().await;
    let sent = client
        .messages
        .send_message(to_phone("hello"))
        .await
        .unwrap();
    let sent = sent.into_inner().message.unwrap();
    assert_eq!(sent.state(), pb::MessageState::Queued);
    assert_eq!(sent.priority(), pb::Priority::Transactional);
    let to = sent.to.as_ref().unwrap();
    assert_eq!(to.phone.as_deref(), Some("+15551234567"));
    let found = client
        .messages
        .get_message(pb::GetMessageRequest {
            name: sent.name.clone(),
        })
        .await
        .unwrap();
    assert_eq!(found.into_inner().message.unwrap(), sent);
}

#[tokio::test]
async fn a_repetition_gets_the_stored_message_and_another_body_is_refused() {
    let world = World::new().await;
    let session = world.session("s").await;
    let mut client = world.client().await;
    let request = to_phone("hello");
    let first = client.messages.send_message(request.clone()).await.unwrap();
    let again = client.messages.send_message(request.clone()).await.unwrap();
    assert_eq!(first.into_inner(), again.into_inner());
    let other = pb::SendMessageRequest {
        priority: pb::Priority::Bulk.into(),
        ..request
    };
    let refused = client.messages.send_message(other).await;
    check(refused, Code::AlreadyExists, "IDEMPOTENCY_CONFLICT", None);
    assert_eq!(session.outbox().queue(0, 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_cannot_be_sent_is_refused_by_field() {
    let world = World::new().await;
    world.session("s").await;
    let mut client = world.client().await;
    let past = prost_types::Timestamp {
        seconds: 1_000,
        nanos: 0,
    };
    let cases = [
        (
            "INVALID_PHONE_NUMBER",
            "to.phone",
            send(Recipient::Phone("0803 123".to_owned()), "x"),
        ),
        (
            "INVALID_FIELD",
            "to.jid",
            send(Recipient::Jid("15551234567".to_owned()), "x"),
        ),
        (
            "INVALID_FIELD",
            "to",
            pb::SendMessageRequest {
                to: None,
                ..to_phone("x")
            },
        ),
        (
            "INVALID_FIELD",
            "content",
            pb::SendMessageRequest {
                content: None,
                ..to_phone("x")
            },
        ),
        ("INVALID_FIELD", "text.text", to_phone("")),
        ("INVALID_FIELD", "text.text", to_phone(&"x".repeat(65_537))),
        (
            "INVALID_FIELD",
            "priority",
            pb::SendMessageRequest {
                priority: 9,
                ..to_phone("x")
            },
        ),
        (
            "INVALID_FIELD",
            "expire_at",
            pb::SendMessageRequest {
                expire_at: Some(past),
                ..to_phone("x")
            },
        ),
        (
            "INVALID_FIELD",
            "request_id",
            pb::SendMessageRequest {
                request_id: String::new(),
                ..to_phone("x")
            },
        ),
        (
            "INVALID_FIELD",
            "parent",
            pb::SendMessageRequest {
                parent: "s".to_owned(),
                ..to_phone("x")
            },
        ),
    ];
    for (reason, field, request) in cases {
        let refused = client.messages.send_message(request).await;
        check(refused, Code::InvalidArgument, reason, Some(field));
    }
    let nowhere = pb::SendMessageRequest {
        parent: "workspaces/default/sessions/t".to_owned(),
        ..to_phone("x")
    };
    let refused = client.messages.send_message(nowhere).await;
    check(refused, Code::NotFound, "RESOURCE_NOT_FOUND", None);
}

#[tokio::test]
async fn a_queued_message_is_taken_back_once() {
    let world = World::new().await;
    world.session("s").await;
    let mut client = world.client().await;
    let sent = client
        .messages
        .send_message(to_phone("hello"))
        .await
        .unwrap();
    let name = sent.into_inner().message.unwrap().name;
    let cancel = || pb::CancelMessageRequest {
        name: name.clone(),
        request_id: fresh(),
    };
    let first = cancel();
    let canceled = client.messages.cancel_message(first.clone()).await.unwrap();
    let canceled = canceled.into_inner();
    let state = canceled.message.as_ref().unwrap().state();
    assert_eq!(state, pb::MessageState::Canceled);
    let replayed = client.messages.cancel_message(first).await.unwrap();
    assert_eq!(replayed.into_inner(), canceled);
    let refused = client.messages.cancel_message(cancel()).await;
    check(
        refused,
        Code::FailedPrecondition,
        "ILLEGAL_TRANSITION",
        None,
    );
    let unknown = pb::CancelMessageRequest {
        name: format!("{PARENT}/messages/{}", fresh()),
        request_id: fresh(),
    };
    let refused = client.messages.cancel_message(unknown).await;
    check(refused, Code::NotFound, "RESOURCE_NOT_FOUND", None);
}
