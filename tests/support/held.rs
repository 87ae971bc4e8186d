//! A number that Trunkline holds, and the messaging core behind it: the shop's number is linked through
//! the gRPC API.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;
use trunkline::pb;
use trunkline::pb::event_service_client::EventServiceClient;
use trunkline::pb::subscription_service_client::SubscriptionServiceClient;
use trunkline_simulator::{Fact, Truth};

use crate::support::core::{
    Paired, WORKSPACE, create_session, is_passing, pair, request_id, send, text_to, upload,
};
use crate::support::eventually;
use crate::world::World;

/// How long an event may take.
const PATIENCE: Duration = Duration::from_mins(3);
const SESSION: &str = "shop";
const SUBSCRIPTION: &str = "core";

/// Creates the shop's session and links it: its owner scans the code that the API streams.
pub(crate) async fn hold_number(channel: &Channel, world: &World) {
    create_session(channel, SESSION).await;
    let paired = pair(channel, SESSION, |qr| {
        world.shop.scan_qr(qr).unwrap();
    })
    .await;
    assert!(matches!(paired, Paired::Linked), "{paired:?}");
    let shop = world.shop.phone();
    world
        .until("the linked number is online", |truth| {
            truth.is_online(&shop, 1)
        })
        .await;
}

/// Puts a text into the outbox; the answer means that it is stored. A store that is busy is asked
/// again, under the same request id.
pub(crate) async fn send_text(channel: &Channel, phone: &str, text: &str) -> pb::Message {
    store(channel, &text_to(SESSION, &format!("+{phone}"), text)).await
}

/// The same for a group.
#[allow(dead_code, reason = "not every peer is in a group")]
pub(crate) async fn send_to_group(channel: &Channel, jid: &str, text: &str) -> pb::Message {
    let request = pb::SendMessageRequest {
        to: Some(pb::Recipient {
            recipient: Some(pb::recipient::Recipient::Jid(jid.to_owned())),
        }),
        ..text_to(SESSION, "", text)
    };
    store(channel, &request).await
}

/// The same with a picture, which is uploaded first.
#[allow(dead_code, reason = "not every peer looks at pictures")]
pub(crate) async fn send_picture(
    channel: &Channel,
    phone: &str,
    picture: &[u8],
    caption: &str,
) -> pb::Message {
    let name = upload(channel, SESSION, "image/jpeg", "photo.jpg", picture)
        .await
        .unwrap();
    let media = pb::OutboundMedia {
        name,
        caption: Some(caption.to_owned()),
        ..pb::OutboundMedia::default()
    };
    let request = pb::SendMessageRequest {
        content: Some(pb::send_message_request::Content::Media(media)),
        ..text_to(SESSION, &format!("+{phone}"), "")
    };
    store(channel, &request).await
}

async fn store(channel: &Channel, request: &pb::SendMessageRequest) -> pb::Message {
    let mut stored = None;
    eventually("the message is stored", PATIENCE, async || {
        match send(channel, request).await {
            Ok(message) => stored = Some(message),
            Err(status) => assert!(is_passing(&status), "{status}"),
        }
        stored.is_some()
    })
    .await;
    stored.unwrap()
}

/// Creates a subscription to messages and their states.
pub(crate) async fn subscribe(channel: &Channel) {
    let types = [pb::EventType::Message, pb::EventType::MessageStatus];
    let filter = pb::SubscriptionFilter {
        types: types.iter().map(|t| i32::from(*t)).collect(),
        sessions: Vec::new(),
    };
    SubscriptionServiceClient::new(channel.clone())
        .create_subscription(pb::CreateSubscriptionRequest {
            parent: WORKSPACE.to_owned(),
            subscription_id: SUBSCRIPTION.to_owned(),
            subscription: Some(pb::Subscription {
                filter: Some(filter),
                ..Default::default()
            }),
            from_revision: None,
            request_id: request_id(),
        })
        .await
        .unwrap();
}

/// A stream on the subscription that acks what it takes, as a messaging core would.
pub(crate) struct Inbox {
    requests: mpsc::Sender<pb::PullRequest>,
    responses: Streaming<pb::PullResponse>,
    seen: Vec<pb::Event>,
}

impl Inbox {
    pub(crate) async fn open(channel: &Channel) -> Self {
        let (requests, stream) = mpsc::channel(64);
        let open = pb::pull_request::Request::Open(pb::PullOpen {
            subscription: format!("{WORKSPACE}/subscriptions/{SUBSCRIPTION}"),
            max_events: 100,
            max_bytes: 1 << 20,
        });
        requests
            .send(pb::PullRequest {
                request: Some(open),
            })
            .await
            .unwrap();
        let responses = EventServiceClient::new(channel.clone())
            .pull(ReceiverStream::new(stream))
            .await
            .unwrap()
            .into_inner();
        Self {
            requests,
            responses,
            seen: Vec::new(),
        }
    }

    /// The first event that satisfies `wanted`, among those that came and those that will come.
    pub(crate) async fn event(
        &mut self,
        what: &str,
        wanted: impl Fn(&pb::Event) -> bool,
    ) -> pb::Event {
        loop {
            if let Some(event) = self.seen.iter().find(|event| wanted(event)) {
                return event.clone();
            }
            let response = tokio::time::timeout(PATIENCE, self.responses.message()).await;
            let Ok(Ok(Some(response))) = response else {
                panic!("no event {what}: {response:?}; there were {:#?}", self.seen);
            };
            let Some(pb::pull_response::Response::Leases(leases)) = response.response else {
                continue;
            };
            let ack_ids = leases
                .leases
                .iter()
                .map(|lease| lease.ack_id.clone())
                .collect();
            self.seen
                .extend(leases.leases.into_iter().filter_map(|lease| lease.event));
            let ack = pb::pull_request::Request::Ack(pb::PullAck { ack_ids });
            self.requests
                .send(pb::PullRequest { request: Some(ack) })
                .await
                .unwrap();
        }
    }

    /// The event of a text that arrived.
    pub(crate) async fn text(&mut self, text: &str) -> pb::MessageEvent {
        let event = self.event(text, |event| is_text_event(event, text)).await;
        text_of(&event).unwrap().0.clone()
    }

    /// The file with this caption that arrived.
    pub(crate) async fn file(&mut self, caption: &str) -> pb::MediaContent {
        let wanted = |event: &pb::Event| {
            file_of(event).is_some_and(|file| file.caption.as_deref() == Some(caption))
        };
        let event = self.event(caption, wanted).await;
        file_of(&event).unwrap().clone()
    }

    /// Waits for an event that says that this message reached this state. One that is further on
    /// will do: a receipt may overtake the server's ack, and states never go back.
    pub(crate) async fn status(&mut self, message: &pb::Message, state: pb::MessageState) {
        self.event(&format!("{state:?} of {}", message.name), |event| {
            matches!(&event.payload, Some(pb::event::Payload::MessageStatus(status))
                if status.message == message.name
                    && (state..=pb::MessageState::Played).contains(&status.state()))
        })
        .await;
    }

    /// How many different events carried this text; a redelivery is the same event.
    pub(crate) fn events_with(&self, text: &str) -> usize {
        let carrying = self.seen.iter().filter(|event| is_text_event(event, text));
        let ids: BTreeSet<&str> = carrying.map(|event| event.event_id.as_str()).collect();
        ids.len()
    }
}

/// The message and its text, when the event is that of a text.
fn text_of(event: &pb::Event) -> Option<(&pb::MessageEvent, &str)> {
    let Some(pb::event::Payload::Message(message)) = &event.payload else {
        return None;
    };
    match message.content.as_ref()?.content.as_ref()? {
        pb::content::Content::Text(text) => Some((message, &text.text)),
        _ => None,
    }
}

/// The file of a message, when the event is that of one.
fn file_of(event: &pb::Event) -> Option<&pb::MediaContent> {
    let Some(pb::event::Payload::Message(message)) = &event.payload else {
        return None;
    };
    match message.content.as_ref()?.content.as_ref()? {
        pb::content::Content::Media(file) => Some(file),
        _ => None,
    }
}

fn is_text_event(event: &pb::Event, text: &str) -> bool {
    text_of(event).is_some_and(|(_, t)| t == text)
}

/// Whether the linked device (not the phone) reported delivery of a message.
pub(crate) fn delivered_by(truth: &Truth<'_>, device: &str, id: &str) -> bool {
    truth.ledger().facts().any(|fact| {
        matches!(fact, Fact::Receipt { ids, from, kind, .. }
            if from == device
                && matches!(kind.as_str(), "delivery" | "inactive")
                && ids.iter().any(|i| i == id))
    })
}
