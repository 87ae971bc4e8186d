//! A message that came: received → stored → confirmed by the messaging core → answered, or why not.

use std::fmt::Write as _;

use super::journal::Found;
use super::outbound::connection;
use super::{Story, get, outbound};
use crate::cli::exit::Failure;
use crate::cli::target::Daemon;
use crate::cli::{session, words};
use crate::pb::event::Payload;
use crate::pb::{self, DeliveryFailure, DeliveryState};

/// The story of an inbound message; `None` when the journal has none.
pub(super) async fn tell(daemon: &Daemon, found: &Found) -> Result<Option<Story>, Failure> {
    let Some(first) = &found.event else {
        return Ok(None);
    };
    let mut story = Story::default();
    arrival(&mut story, first);
    if let Some(recovery) = &found.recovery {
        arrival(&mut story, recovery);
    }
    let last = found.recovery.as_ref().unwrap_or(first);
    let confirmed = deliveries(daemon, &mut story, last).await?;
    let answer = answers(daemon, &mut story, found).await?;
    story.verdict = verdict(last, confirmed, answer);
    Ok(Some(story))
}

/// What to say when the journal does not have it.
pub(super) async fn nothing_known(
    daemon: &Daemon,
    session: Option<&str>,
    wanted: &str,
) -> Result<String, Failure> {
    let mut said = format!(
        "nothing is known of {wanted}: it never came here, or it is older than what the journal keeps"
    );
    if let Some(name) = session {
        let session = session::get(daemon, name).await?;
        let traffic = session.traffic.unwrap_or_default();
        let _ = write!(
            said,
            "; the session is {}, last inbound: {}",
            connection(&session),
            words::ago(traffic.last_inbound_time.as_ref())
        );
    }
    Ok(said)
}

fn arrival(story: &mut Story, event: &pb::Event) {
    let at = words::moment(event.time.as_ref());
    let stored = format!("event {}, revision {}", event.event_id, event.revision);
    match &event.payload {
        Some(Payload::Message(message)) => {
            let what = words::content(message.content.as_ref());
            story.add(
                words::moment(message.send_time.as_ref()),
                "written",
                format!("by {}: {what}", words::person(message.sender.as_ref())),
            );
            let step = if message.recovers_event_id.is_some() {
                "recovered"
            } else {
                "received"
            };
            let by = format!("by session {}", words::id(&event.session));
            story.add(at, step, by);
            let committed =
                format!("{stored}: on disk before WhatsApp was told that it had arrived");
            story.add("-".to_owned(), "committed", committed);
        }
        Some(Payload::Undecryptable(message)) => story.add(
            at,
            "received",
            format!(
                "from {}, not decryptable: {}; {stored}",
                words::person(message.sender.as_ref()),
                words::one_line(&message.reason)
            ),
        ),
        _ => story.add(at, "recorded", stored),
    }
}

async fn subscriptions(daemon: &Daemon) -> Result<Vec<pb::Subscription>, Failure> {
    let mut all = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = pb::ListSubscriptionsRequest {
            parent: daemon.workspace_name(),
            page_size: 1000,
            page_token,
        };
        let answer = daemon.subscriptions().list_subscriptions(request).await?;
        let page = answer.into_inner();
        all.extend(page.subscriptions);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(all);
        }
    }
}

/// What became of the event in each subscription that wants it; whether one of them is done with it.
async fn deliveries(
    daemon: &Daemon,
    story: &mut Story,
    event: &pb::Event,
) -> Result<bool, Failure> {
    let mut any = false;
    for reader in subscriptions(daemon).await? {
        if !wants(&reader, event) {
            continue;
        }
        let request = pb::GetDeliveryRequest {
            name: format!("{}/deliveries/{}", reader.name, event.revision),
        };
        let answer = daemon.subscriptions().get_delivery(request).await?;
        let delivery = answer.into_inner().delivery.unwrap_or_default();
        any |= delivered(story, words::id(&reader.name), &delivery);
    }
    Ok(any)
}

/// Adds what became of the event in one subscription; whether that is done with it.
fn delivered(story: &mut Story, reader: &str, delivery: &pb::Delivery) -> bool {
    let at = |time: &Option<prost_types::Timestamp>| words::moment(time.as_ref());
    if delivery.first_lease_time.is_some() {
        let detail = format!("to a consumer of subscription {reader}");
        story.add(at(&delivery.first_lease_time), "leased", detail);
    }
    if delivery.failures > 0 {
        let how = match delivery.last_failure() {
            DeliveryFailure::Refused => "the consumer refused it",
            DeliveryFailure::DeadlinePassed => "nobody settled it in time",
            DeliveryFailure::StreamEnded => "the consumer's stream broke",
            DeliveryFailure::Unspecified => "why is not known",
        };
        let detail = format!(
            "in subscription {reader}, {} so far; the last: {how}",
            delivery.failures
        );
        story.add(at(&delivery.last_failure_time), "failed", detail);
    }
    match delivery.state() {
        DeliveryState::Acknowledged => {
            let detail = format!("by the core (subscription {reader})");
            story.add(at(&delivery.ack_time), "acknowledged", detail);
            true
        }
        DeliveryState::Settled => {
            let detail = format!("in subscription {reader}; no record tells when");
            story.add("-".to_owned(), "settled", detail);
            true
        }
        DeliveryState::GivenUp => {
            let detail = format!(
                "subscription {reader} gave it up: `trunkline subscription redrive {reader} {}` delivers it again",
                delivery.revision
            );
            story.add(at(&delivery.give_up_time), "given up", detail);
            false
        }
        DeliveryState::Leased => {
            let detail =
                format!("a consumer of subscription {reader} has it and has not settled it");
            story.add("-".to_owned(), "open", detail);
            false
        }
        DeliveryState::Waiting => {
            let detail = format!(
                "it waits in subscription {reader}: for a consumer, an earlier event of its chat, or the next attempt"
            );
            story.add("-".to_owned(), "open", detail);
            false
        }
        DeliveryState::NotWanted | DeliveryState::Unspecified => false,
    }
}

fn wants(reader: &pb::Subscription, event: &pb::Event) -> bool {
    let Some(filter) = &reader.filter else {
        return true;
    };
    (filter.types.is_empty() || filter.types.contains(&event.r#type))
        && (filter.sessions.is_empty() || filter.sessions.contains(&event.session))
}

/// Adds the messages to the chat since; the last one's verdict.
async fn answers(
    daemon: &Daemon,
    story: &mut Story,
    found: &Found,
) -> Result<Option<String>, Failure> {
    let mut last = None;
    for event in &found.answers {
        let Some(Payload::MessageStatus(status)) = &event.payload else {
            continue;
        };
        let state = words::message_state(status.state());
        story.add(
            words::moment(event.time.as_ref()),
            "answer",
            format!("{} is {state}", words::id(&status.message)),
        );
        last = Some(status.message.clone());
    }
    let Some(name) = last else {
        return Ok(None);
    };
    let message = get(daemon, name).await?;
    Ok(Some(outbound::tell(daemon, &message).await?.verdict))
}

fn verdict(event: &pb::Event, confirmed: bool, answer: Option<String>) -> String {
    if let Some(answer) = answer {
        return format!("A message went to this chat since. Of the last one: {answer}");
    }
    if matches!(&event.payload, Some(Payload::Undecryptable(_))) {
        return "It came, and could not be decrypted, so there was nothing to answer. The sender's app sends it again when it is next online; if not, ask them to write again.".to_owned();
    }
    if confirmed {
        "It was received, and the messaging core took it and has sent nothing to this chat since: look there for why it did not answer.".to_owned()
    } else {
        "It was received and stored, nothing was sent to this chat since, and the messaging core has not confirmed it: the core is not connected, is behind, or fails on it or on an earlier event.".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_says_whose_turn_it_is() {
        let message = pb::Event {
            revision: 7,
            payload: Some(Payload::Message(pb::MessageEvent::default())),
            ..pb::Event::default()
        };
        let moment = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        let mut delivery = pb::Delivery {
            revision: 7,
            state: DeliveryState::Acknowledged.into(),
            first_lease_time: moment(1),
            failures: 2,
            last_failure: DeliveryFailure::DeadlinePassed.into(),
            last_failure_time: moment(2),
            ack_time: moment(3),
            ..pb::Delivery::default()
        };
        let mut story = Story::default();
        assert!(delivered(&mut story, "core", &delivery));
        let steps: Vec<_> = story.steps.iter().map(|s| (&*s.step, &*s.time)).collect();
        let expected = [
            ("leased", "1970-01-01T00:00:01Z"),
            ("failed", "1970-01-01T00:00:02Z"),
            ("acknowledged", "1970-01-01T00:00:03Z"),
        ];
        assert_eq!(steps, expected);
        assert!(story.steps[1].detail.contains("nobody settled it in time"));
        delivery.state = DeliveryState::GivenUp.into();
        assert!(!delivered(&mut story, "core", &delivery));
        let last = story.steps.last().unwrap();
        assert!(last.detail.contains("redrive core 7"), "{last:?}");
        assert!(verdict(&message, false, None).contains("has not confirmed"));
        assert!(verdict(&message, true, None).contains("why it did not answer"));
        let broken = pb::Event {
            payload: Some(Payload::Undecryptable(pb::UndecryptableEvent::default())),
            ..pb::Event::default()
        };
        assert!(verdict(&broken, true, None).contains("could not be decrypted"));
    }

    #[test]
    fn a_subscription_that_does_not_want_it_has_no_say() {
        let mut reader = pb::Subscription::default();
        let event = pb::Event {
            r#type: pb::EventType::Message.into(),
            session: "workspaces/default/sessions/shop".into(),
            ..pb::Event::default()
        };
        assert!(wants(&reader, &event));
        reader.filter = Some(pb::SubscriptionFilter {
            types: vec![pb::EventType::Receipt.into()],
            sessions: vec![],
        });
        assert!(!wants(&reader, &event));
    }
}
