//! Baileys and a number that Trunkline holds: the shop's number is linked through the gRPC API, and
//! the customer writes with Baileys.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;
use trunkline::pb;
use trunkline::pb::event_service_client::EventServiceClient;
use trunkline::pb::subscription_service_client::SubscriptionServiceClient;
use trunkline_simulator::{Fact, Truth};

use crate::peer::Peer;
use crate::support::core::{Paired, WORKSPACE, create_session, pair, request_id, send, text_to};
use crate::support::daemon::Daemon;
use crate::world::{World, is_status, is_text, jid};

/// How long an event may take.
const PATIENCE: Duration = Duration::from_mins(1);
const SESSION: &str = "shop";
const SUBSCRIPTION: &str = "core";

/// Creates the shop's session and links it: its owner scans the code that the API streams.
async fn hold_number(channel: &Channel, world: &World) {
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

/// Puts a text into the outbox; the answer means that it is stored.
async fn send_text(channel: &Channel, phone: &str, text: &str) -> pb::Message {
    let request = text_to(SESSION, &format!("+{phone}"), text);
    send(channel, &request).await.unwrap()
}

/// Creates a subscription to messages and their states.
async fn subscribe(channel: &Channel) {
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
struct Inbox {
    requests: mpsc::Sender<pb::PullRequest>,
    responses: Streaming<pb::PullResponse>,
    seen: Vec<pb::Event>,
}

impl Inbox {
    async fn open(channel: &Channel) -> Self {
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
    async fn event(&mut self, what: &str, wanted: impl Fn(&pb::Event) -> bool) -> pb::Event {
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
    async fn text(&mut self, text: &str) -> pb::MessageEvent {
        let event = self.event(text, |event| is_text_event(event, text)).await;
        text_of(&event).unwrap().0.clone()
    }

    /// Waits for an event that says that this message reached this state. One that is further on
    /// will do: a receipt may overtake the server's ack, and states never go back.
    async fn status(&mut self, message: &pb::Message, state: pb::MessageState) {
        self.event(&format!("{state:?} of {}", message.name), |event| {
            matches!(&event.payload, Some(pb::event::Payload::MessageStatus(status))
                if status.message == message.name
                    && (state..=pb::MessageState::Played).contains(&status.state()))
        })
        .await;
    }

    /// How many different events carried this text; a redelivery is the same event.
    fn events_with(&self, text: &str) -> usize {
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

fn is_text_event(event: &pb::Event, text: &str) -> bool {
    text_of(event).is_some_and(|(_, t)| t == text)
}

/// Whether the linked device (not the phone) reported delivery of a message.
fn delivered_by(truth: &Truth<'_>, device: &str, id: &str) -> bool {
    truth.ledger().facts().any(|fact| {
        matches!(fact, Fact::Receipt { ids, from, kind, .. }
            if from == device
                && matches!(kind.as_str(), "delivery" | "inactive")
                && ids.iter().any(|i| i == id))
    })
}

/// The customer writes with Baileys; returns the stanza id.
async fn write(customer: &mut Peer, phone: &str, text: &str) -> String {
    let sent = customer
        .ask("sendText", json!({ "jid": jid(phone), "text": text }))
        .await;
    sent["key"]["id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_talks_with_a_number_held_by_trunkline() {
    let world = World::new().await;
    let mut daemon = Daemon::prepare(&world.simulator.ws_url(), "");
    daemon.start().await;
    let channel = daemon.channel().await.unwrap();
    hold_number(&channel, &world).await;
    subscribe(&channel).await;
    let mut inbox = Inbox::open(&channel).await;
    let mut customer = world.linked_baileys(&world.customer, "customer").await;
    let (shop_phone, customer_phone) = (world.shop.phone(), world.customer.phone());
    let held = format!("{shop_phone}:1");

    for round in 0..3 {
        // In: an event at the core, a delivery receipt from the held device itself, and a read
        // receipt once the owner has opened the chat on the phone.
        let question = format!("question {round}");
        let id = write(&mut customer, &shop_phone, &question).await;
        let message = inbox.text(&question).await;
        assert_eq!(message.stanza_id, id);
        assert!(!message.from_me);
        let sender = message.sender.unwrap();
        assert_eq!(sender.phone, Some(format!("+{customer_phone}")));
        world
            .until("the held device reports delivery", |truth| {
                delivered_by(truth, &held, &id)
            })
            .await;
        customer
            .event("status", is_status(&id, "DELIVERY_ACK"))
            .await;
        world.shop.mark_read(std::slice::from_ref(&id));
        customer.event("status", is_status(&id, "READ")).await;

        // Out: stored, taken by the server, delivered, read.
        let answer = format!("answer {round}");
        let stored = send_text(&channel, &customer_phone, &answer).await;
        let arrived = customer.event("message", is_text(&answer)).await;
        assert_eq!(arrived["key"]["id"], stored.stanza_id);
        assert_eq!(arrived["key"]["fromMe"], false);
        inbox.status(&stored, pb::MessageState::Sent).await;
        inbox.status(&stored, pb::MessageState::Delivered).await;
        customer
            .ask("read", json!({ "keys": [arrived["key"]] }))
            .await;
        inbox.status(&stored, pb::MessageState::Read).await;
        assert_eq!(inbox.events_with(&question), 1);
        assert_eq!(customer.count("message", is_text(&answer)), 1);
    }
    world.assert_clean();
}

/// Texts written in one burst.
const BURST: usize = 6;

/// Each burst goes one way and is over before the next begins: Baileys, when it sends and receives
/// at once, can use a message counter twice (`tests/peers/README.md`), and such a message is lost
/// to any recipient.
#[tokio::test(flavor = "multi_thread")]
async fn it_sees_nothing_lost_or_doubled_when_trunkline_is_killed() {
    let world = World::new().await;
    let mut daemon = Daemon::prepare(&world.simulator.ws_url(), "");
    daemon.start().await;
    let mut channel = daemon.channel().await.unwrap();
    hold_number(&channel, &world).await;
    subscribe(&channel).await;
    let mut customer = world.linked_baileys(&world.customer, "customer").await;
    let (shop_phone, customer_phone) = (world.shop.phone(), world.customer.phone());

    let mut questions = Vec::new();
    let mut answers = Vec::new();
    for round in 0..3 {
        for n in 0..BURST {
            let question = format!("question {round}.{n}");
            write(&mut customer, &shop_phone, &question).await;
            questions.push(question);
        }
        daemon.kill().await;
        daemon.start().await;
        channel = daemon.channel().await.unwrap();

        let already = answers.len();
        for n in 0..BURST {
            let answer = format!("answer {round}.{n}");
            answers.push(send_text(&channel, &customer_phone, &answer).await);
        }
        daemon.kill().await;
        daemon.start().await;
        channel = daemon.channel().await.unwrap();
        for answer in &answers[already..] {
            let id = answer.stanza_id.as_str();
            customer.event("message", |m| m["key"]["id"] == id).await;
        }
    }

    let mut inbox = Inbox::open(&channel).await;
    for question in &questions {
        inbox.text(question).await;
    }
    for answer in &answers {
        inbox.status(answer, pb::MessageState::Delivered).await;
    }
    for question in &questions {
        assert_eq!(inbox.events_with(question), 1, "{question}");
    }
    let ledger = world.simulator.ledger();
    let shown = ledger.displayed_by(&customer_phone);
    for answer in &answers {
        assert_eq!(shown.get(answer.stanza_id.as_str()), Some(&1), "{answer:?}");
    }
    world.assert_clean_but_cut();
}
