//! A newcomer's first hour, by machine: the daemon as a process of its own, a simulated WhatsApp in this
//! one. Pair, talk both ways with receipts, stop, start again.

#![cfg(feature = "simulator")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on should fail"
)]

mod support;

use std::time::Duration;

use support::core::{self, Paired};
use support::daemon::Daemon;
use support::eventually;
use trunkline::pb;
use trunkline_simulator::{NewAccount, Simulator, SimulatorConfig};

const NUMBER: &str = "+2348030000001";
const CUSTOMER: &str = "+2348030000002";
const HELLO: &str = "good morning";
const THANKS: &str = "thank you";
const MISSED: &str = "are you there?";
const PATIENCE: Duration = Duration::from_mins(3);

fn state(message: &pb::Message) -> pb::MessageState {
    message.state()
}

/// A log for machines: every line is JSON with unique keys, what a session says can be told from what
/// others say, and nothing in it is anybody's business but the workspace's.
fn check_log(log: &str) {
    let mut of_sessions = 0;
    for line in support::log::lines(log) {
        for key in ["timestamp", "level", "target", "message"] {
            assert!(!line.text(key).is_empty(), "no {key}: {line:?}");
        }
        let target = line.text("target");
        let of_session = [
            "session::actor",
            "session::outbound",
            "session::inbound",
            "provider",
        ];
        if of_session
            .iter()
            .any(|module| target.starts_with(&format!("trunkline::{module}")))
        {
            of_sessions += 1;
            assert!(
                line.carries("workspace") && line.carries("session"),
                "whose is it? {line:?}"
            );
        }
    }
    assert!(of_sessions > 0, "no session said anything:\n{log}");
    for private in [&NUMBER[1..], &CUSTOMER[1..], HELLO, THANKS, MISSED] {
        assert!(!log.contains(private), "`{private}` is in the log:\n{log}");
    }
}

/// What the log alone tells of one message on its way out: its states, in order.
fn states_of(log: &str, stanza_id: &str) -> Vec<String> {
    let lines = support::log::lines(log);
    let of_it = lines.iter().filter(|line| {
        line.text("target") == "trunkline::path" && line.text("stanza_id") == stanza_id
    });
    let step = |line: &support::log::Line| match line.text("message") {
        "message moved" => line.text("state").to_owned(),
        other => other.to_owned(),
    };
    of_it.map(step).collect()
}

/// What the log alone tells of one message on its way in: received as an event, leased under the event's id,
/// acknowledged by the event's revision.
fn steps_of(log: &str, stanza_id: &str) -> Vec<String> {
    let lines = support::log::lines(log);
    let path: Vec<_> = lines
        .iter()
        .filter(|line| line.text("target") == "trunkline::path")
        .collect();
    let received = path
        .iter()
        .find(|line| {
            line.text("message") == "message received" && line.text("stanza_id") == stanza_id
        })
        .unwrap_or_else(|| panic!("{stanza_id} was never received:\n{log}"));
    let (event_id, revision) = (received.text("event_id"), received.number("revision"));
    let belongs = |line: &&&support::log::Line| match line.text("message") {
        "message received" | "message leased" => line.text("event_id") == event_id,
        "events acknowledged" => {
            let mut revisions = line.text("revisions").split(',');
            revisions.any(|one| one.parse() == Ok(revision))
        }
        _ => false,
    };
    let steps = path.iter().filter(belongs);
    steps.map(|line| line.text("message").to_owned()).collect()
}

/// The log alone tells the way of a message that was sent and read, and of one that came and was consumed.
fn check_paths(log: &str, sent: &str, received: &str) {
    let told = states_of(log, sent);
    let is_step = |step: &&String| !matches!(step.as_str(), "message accepted" | "SENT");
    // A receipt may overtake the server's answer, and the wire the line that says that it was accepted.
    let steps: Vec<_> = told.iter().filter(is_step).collect();
    assert_eq!(steps, ["SENDING", "DELIVERED", "READ"], "{told:?}");
    assert!(
        told.iter().any(|step| step == "message accepted"),
        "{told:?}"
    );
    let way_in = ["message received", "message leased", "events acknowledged"];
    assert_eq!(steps_of(log, received), way_in);
}

/// Takes the first message with this text off the default subscription and acknowledges it.
async fn consume(channel: &tonic::transport::Channel, stanza_id: &str) {
    let mut events = pb::event_service_client::EventServiceClient::new(channel.clone());
    let subscription = "workspaces/default/subscriptions/default";
    eventually("the message is consumed", PATIENCE, async || {
        let lease = pb::LeaseEventsRequest {
            subscription: subscription.into(),
            ..pb::LeaseEventsRequest::default()
        };
        let leases = events
            .lease_events(lease)
            .await
            .unwrap()
            .into_inner()
            .leases;
        let is_it = |lease: &pb::Lease| {
            let payload = lease
                .event
                .as_ref()
                .and_then(|event| event.payload.as_ref());
            matches!(payload, Some(pb::event::Payload::Message(m)) if m.stanza_id == stanza_id)
        };
        let found = leases.iter().any(is_it);
        let ack_ids = leases.into_iter().map(|lease| lease.ack_id).collect();
        let settle = pb::SettleLeasesRequest {
            subscription: subscription.into(),
            ack: Some(pb::PullAck { ack_ids }),
            ..pb::SettleLeasesRequest::default()
        };
        let settled = events.settle_leases(settle).await;
        found && settled.is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_is_paired_talks_both_ways_and_survives_a_restart() {
    let simulator = Simulator::bind(SimulatorConfig::default()).await.unwrap();
    let phone = simulator
        .create_account(NewAccount::new(NUMBER, "Shop"))
        .unwrap();
    let customer = simulator
        .create_account(NewAccount::new(CUSTOMER, "Ada"))
        .unwrap();
    let mut daemon = Daemon::prepare(&simulator.ws_url(), "");
    daemon.start().await;
    let channel = daemon.channel().await.unwrap();

    // Pair: the phone scans what the stream shows.
    core::create_session(&channel, "main").await;
    let paired = core::pair(&channel, "main", |qr| {
        phone.scan_qr(qr).unwrap();
    })
    .await;
    assert!(matches!(paired, Paired::Linked), "{paired:?}");
    eventually("the session is online", PATIENCE, async || {
        core::is_online(&channel, "main").await
    })
    .await;
    let session = core::session(&channel, "main").await.unwrap();
    assert_eq!(session.login(), pb::LoginState::Paired);
    assert_eq!(session.account.unwrap().phone.as_deref(), Some(NUMBER));

    // Out: accepted, delivered, read; the same request again is the same message.
    let request = core::text_to("main", CUSTOMER, HELLO);
    let sent = core::send(&channel, &request).await.unwrap();
    let again = core::send(&channel, &request).await.unwrap();
    assert_eq!(
        (&sent.name, &sent.stanza_id),
        (&again.name, &again.stanza_id)
    );
    eventually("it is delivered", PATIENCE, async || {
        let message = core::message(&channel, &sent.name).await.unwrap();
        state(&message) == pb::MessageState::Delivered
    })
    .await;
    customer.mark_read(std::slice::from_ref(&sent.stanza_id));
    eventually("it is read", PATIENCE, async || {
        let message = core::message(&channel, &sent.name).await.unwrap();
        state(&message) == pb::MessageState::Read
    })
    .await;
    let shown: Vec<String> = customer.inbox().into_iter().map(|m| m.text).collect();
    assert_eq!(shown, [HELLO]);

    // In: one event, with the text and the sender under every name known.
    let stanza_id = customer.send_text(NUMBER, THANKS).unwrap();
    eventually("it is in the journal", PATIENCE, async || {
        let journal = core::journal(&channel).await.unwrap();
        core::arrivals(&journal).contains_key(&stanza_id)
    })
    .await;
    let journal = core::journal(&channel).await.unwrap();
    let arrived = journal
        .iter()
        .find_map(|event| match &event.payload {
            Some(pb::event::Payload::Message(m)) if m.stanza_id == stanza_id => Some(m),
            _ => None,
        })
        .unwrap();
    let sender = arrived.sender.as_ref().unwrap();
    assert_eq!(sender.phone.as_deref(), Some(CUSTOMER));
    assert!(sender.lid.is_some(), "{sender:?}");
    let text = match arrived.content.as_ref().and_then(|c| c.content.as_ref()) {
        Some(pb::content::Content::Text(text)) => text.text.as_str(),
        other => panic!("not a text: {other:?}"),
    };
    assert_eq!(text, THANKS);

    consume(&channel, &stanza_id).await;

    // An orderly stop, a message meanwhile, and back without pairing.
    drop(channel);
    assert_eq!(daemon.stop().await, Some(0), "{}", daemon.log());
    let missed = customer.send_text(NUMBER, MISSED).unwrap();
    daemon.start().await;
    let channel = daemon.channel().await.unwrap();
    eventually("what was missed arrives", PATIENCE, async || {
        let journal = core::journal(&channel).await.unwrap();
        core::arrivals(&journal).contains_key(&missed)
    })
    .await;

    // The whole story, once each, in order, and nothing WhatsApp would have refused.
    let journal = core::journal(&channel).await.unwrap();
    assert!(core::arrivals(&journal).values().all(|ids| ids.len() == 1));
    assert!(
        journal
            .windows(2)
            .all(|pair| pair[0].revision < pair[1].revision)
    );
    let violations = simulator.ledger();
    assert!(
        violations.violations().is_empty(),
        "{:?}",
        violations.violations()
    );
    assert_eq!(daemon.stop().await, Some(0));
    let log = daemon.log();
    check_log(&log);
    check_paths(&log, &sent.stanza_id, &stanza_id);
    simulator.shutdown().await;
}
