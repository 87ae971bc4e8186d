//! A message that came: received → stored → confirmed by the messaging core → answered, or why not.

use std::fmt::Write as _;

use super::journal::Found;
use super::outbound::connection;
use super::{Story, get, outbound};
use crate::cli::exit::Failure;
use crate::cli::target::Daemon;
use crate::cli::{session, words};
use crate::pb;
use crate::pb::event::Payload;

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
    let confirmed = delivery(&mut story, last, &subscriptions(daemon).await?);
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
            story.add(at, step, stored);
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

/// How far the subscriptions that want the event are; whether one of them confirmed it.
fn delivery(story: &mut Story, event: &pb::Event, readers: &[pb::Subscription]) -> bool {
    let mut any = false;
    for reader in readers.iter().filter(|reader| wants(reader, event)) {
        let id = words::id(&reader.name);
        // The API says up to which revision nothing is left to confirm, not when each was.
        let confirmed = reader.floor_revision > event.revision;
        any |= confirmed;
        if confirmed {
            let detail = format!("the core acknowledged it (subscription {id})");
            story.add("-".to_owned(), "confirmed", detail);
        } else {
            let detail = format!(
                "subscription {id} is complete up to revision {} only; beyond that single events may be confirmed",
                reader.floor_revision.saturating_sub(1)
            );
            story.add("-".to_owned(), "open", detail);
        }
    }
    any
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
        "It was received and stored, nothing was sent to this chat since, and the messaging core has not confirmed everything up to it: the core is not connected, is behind, or fails on it or on an earlier event.".to_owned()
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
        let reader = |floor_revision| pb::Subscription {
            name: "workspaces/default/subscriptions/core".into(),
            floor_revision,
            ..pb::Subscription::default()
        };
        for (floor, confirmed) in [(7, false), (8, true)] {
            let mut story = Story::default();
            assert_eq!(delivery(&mut story, &message, &[reader(floor)]), confirmed);
        }
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
