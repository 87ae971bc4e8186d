//! Finds a message in the journal, and what happened in its chat afterwards.

use std::collections::HashMap;

use crate::cli::exit::Failure;
use crate::cli::target::Daemon;
use crate::cli::{Context, progress};
use crate::pb;
use crate::pb::event::Payload;
use crate::pb::watch_response::Frame;

/// Messages to the chat that are remembered: the latest.
const MOST_ANSWERS: usize = 20;

/// What the journal has about a message.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The event that is the message: it arrived, could not be decrypted, or changed state.
    pub(super) event: Option<pb::Event>,
    /// The message, where `event` only says that it could not be decrypted and a later one brought it.
    pub(super) recovery: Option<pb::Event>,
    /// The last state of each message to the chat since.
    pub(super) answers: Vec<pb::Event>,
    /// Where each outbound message was first seen: one from before is no answer, whatever becomes of it.
    first_seen: HashMap<String, u64>,
}

impl Found {
    /// The name of the outbound message it is, if it is one.
    pub(super) fn outbound(&self) -> Option<&str> {
        match &self.event.as_ref()?.payload {
            Some(Payload::MessageStatus(status)) => Some(&status.message),
            _ => None,
        }
    }

    fn take(&mut self, event: pb::Event, wanted: &str) {
        if let Some(name) = message_name(&event) {
            let first = self.first_seen.entry(name.to_owned());
            first.or_insert(event.revision);
        }
        if is_wanted(&event, wanted) {
            if self.is_recovered_by(&event) {
                self.recovery = Some(event);
            } else {
                self.event = Some(event);
                self.recovery = None;
                self.answers.clear();
            }
            return;
        }
        let (Some(known), Some(Payload::MessageStatus(status))) = (&self.event, &event.payload)
        else {
            return;
        };
        let is_older = self.first_seen.get(&status.message) < Some(&known.revision);
        if is_older || known.session != event.session || !same(chat(known), status.to.as_ref()) {
            return;
        }
        self.answers
            .retain(|answer| message_name(answer) != message_name(&event));
        if self.answers.len() == MOST_ANSWERS {
            self.answers.remove(0);
        }
        self.answers.push(event);
    }

    fn is_recovered_by(&self, event: &pb::Event) -> bool {
        match (&self.event, &event.payload) {
            (Some(known), Some(Payload::Message(message))) => {
                message.recovers_event_id.as_ref() == Some(&known.event_id)
            }
            _ => false,
        }
    }
}

/// Reads the journal once, from its oldest event to its present end.
pub(super) async fn search(
    context: &Context,
    daemon: &Daemon,
    session: Option<&str>,
    wanted: &str,
) -> Result<Found, Failure> {
    let types = [
        pb::EventType::Message,
        pb::EventType::Edit,
        pb::EventType::Revoke,
        pb::EventType::Reaction,
        pb::EventType::Undecryptable,
        pb::EventType::MessageStatus,
    ];
    let request = pb::WatchRequest {
        parent: daemon.workspace_name(),
        from_revision: Some(0),
        session: session.unwrap_or_default().to_owned(),
        types: types.map(i32::from).to_vec(),
    };
    let read = progress::count(context, "events read");
    let mut found = Found::default();
    let mut frames = daemon.events().watch(request).await?.into_inner();
    while let Some(response) = frames.message().await? {
        match response.frame {
            Some(Frame::Event(event)) => {
                read.inc(1);
                found.take(event, wanted);
            }
            // Everything that was there has been seen.
            Some(Frame::Progress(_)) => break,
            None => {}
        }
    }
    read.finish_and_clear();
    Ok(found)
}

fn message_name(event: &pb::Event) -> Option<&str> {
    match &event.payload {
        Some(Payload::MessageStatus(status)) => Some(&status.message),
        _ => None,
    }
}

/// The conversation an event belongs to.
fn chat(event: &pb::Event) -> Option<&pb::Person> {
    match event.payload.as_ref()? {
        Payload::Message(message) => message.chat.as_ref(),
        Payload::Undecryptable(message) => message.chat.as_ref(),
        Payload::MessageStatus(status) => status.to.as_ref(),
        _ => None,
    }
}

/// Whether two names mean the same person: there is one that both carry.
fn same(one: Option<&pb::Person>, other: Option<&pb::Person>) -> bool {
    let (Some(one), Some(other)) = (one, other) else {
        return false;
    };
    let names = |person: &pb::Person| {
        [
            person.phone.clone(),
            person.pn_jid.clone(),
            person.lid.clone(),
            person.provider_id.clone(),
        ]
    };
    names(one)
        .iter()
        .zip(names(other))
        .any(|(name, other)| name.is_some() && *name == other)
}

/// Whether an event is what was asked for: by event id, stanza id, or the sender's number.
fn is_wanted(event: &pb::Event, wanted: &str) -> bool {
    if event.event_id == wanted {
        return true;
    }
    let is_from = |sender: Option<&pb::Person>| {
        wanted.starts_with('+')
            && sender.is_some_and(|sender| sender.phone.as_deref() == Some(wanted))
    };
    match &event.payload {
        Some(Payload::Message(message)) => {
            message.stanza_id == wanted || (!message.from_me && is_from(message.sender.as_ref()))
        }
        Some(Payload::Undecryptable(message)) => {
            message.stanza_id == wanted || is_from(message.sender.as_ref())
        }
        Some(Payload::MessageStatus(status)) => status.stanza_id == wanted,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ada() -> pb::Person {
        pb::Person {
            phone: Some("+2348030000002".into()),
            lid: Some("7@lid".into()),
            ..pb::Person::default()
        }
    }

    fn event(revision: u64, payload: Payload) -> pb::Event {
        pb::Event {
            event_id: format!("event-{revision}"),
            revision,
            payload: Some(payload),
            ..pb::Event::default()
        }
    }

    fn arrival(stanza_id: &str, recovers: Option<&str>) -> Payload {
        Payload::Message(pb::MessageEvent {
            chat: Some(ada()),
            sender: Some(ada()),
            stanza_id: stanza_id.into(),
            recovers_event_id: recovers.map(str::to_owned),
            ..pb::MessageEvent::default()
        })
    }

    fn status(message: &str, state: pb::MessageState) -> Payload {
        let to = pb::Person {
            lid: Some("7@lid".into()),
            ..pb::Person::default()
        };
        Payload::MessageStatus(pb::MessageStatusEvent {
            message: message.into(),
            to: Some(to),
            state: state.into(),
            ..pb::MessageStatusEvent::default()
        })
    }

    #[test]
    fn the_last_message_of_a_number_and_the_answers_since() {
        let mut found = Found::default();
        for event in [
            event(1, arrival("A", None)),
            event(2, status("m1", pb::MessageState::Sent)),
            event(3, arrival("B", None)),
            event(4, status("m2", pb::MessageState::Sent)),
            event(5, status("m2", pb::MessageState::Delivered)),
            event(6, status("m1", pb::MessageState::Read)),
        ] {
            found.take(event, "+2348030000002");
        }
        assert_eq!(found.event.unwrap().revision, 3);
        let revisions: Vec<u64> = found.answers.iter().map(|answer| answer.revision).collect();
        assert_eq!(revisions, [5]);
    }

    #[test]
    fn a_recovered_message_keeps_its_first_sight() {
        let mut found = Found::default();
        let broken = Payload::Undecryptable(pb::UndecryptableEvent {
            sender: Some(ada()),
            chat: Some(ada()),
            stanza_id: "A".into(),
            ..pb::UndecryptableEvent::default()
        });
        found.take(event(1, broken), "A");
        found.take(event(2, arrival("A", Some("event-1"))), "A");
        assert_eq!(found.event.unwrap().revision, 1);
        assert_eq!(found.recovery.unwrap().revision, 2);
    }
}
