//! Events of the journal.

use std::collections::BTreeSet;

use super::message::failure;
use super::session::{cause, connection, login};
use super::{content, moment, person, state};
use crate::api::status::ApiError;
use crate::domain::event::{Event, EventType, Payload, ReceiptKind};
use crate::domain::ids::{EventId, SessionName, WorkspaceId};
use crate::domain::message::InboundMessage;
use crate::pb::{self, event::Payload as Shown};

/// An event of `workspace`.
pub(in crate::api) fn event(workspace: &WorkspaceId, event: Event) -> pb::Event {
    let session = event
        .session
        .map(|session| SessionName::new(workspace.clone(), session).to_string())
        .unwrap_or_default();
    pb::Event {
        event_id: event.event_id.to_string(),
        revision: event.revision,
        ordering_key: event.ordering_key,
        time: Some(moment(event.at)),
        r#type: event_type(event.payload.event_type()).into(),
        payload: Some(payload(&session, event.revision, event.payload)),
        session,
    }
}

/// The type of an event.
pub(in crate::api) fn event_type(event_type: EventType) -> pb::EventType {
    match event_type {
        EventType::Message => pb::EventType::Message,
        EventType::MessageStatus => pb::EventType::MessageStatus,
        EventType::Receipt => pb::EventType::Receipt,
        EventType::Edit => pb::EventType::Edit,
        EventType::Revoke => pb::EventType::Revoke,
        EventType::Reaction => pb::EventType::Reaction,
        EventType::Call => pb::EventType::Call,
        EventType::Presence => pb::EventType::Presence,
        EventType::GroupChange => pb::EventType::GroupChange,
        EventType::ContactMapping => pb::EventType::ContactMapping,
        EventType::Undecryptable => pb::EventType::Undecryptable,
        EventType::SessionState => pb::EventType::SessionState,
        EventType::Pairing => pb::EventType::Pairing,
        EventType::Signal => pb::EventType::Signal,
        EventType::History => pb::EventType::History,
        EventType::AccountData => pb::EventType::AccountData,
        EventType::Gap => pb::EventType::Gap,
    }
}

fn read_event_type(number: i32) -> Option<EventType> {
    Some(match pb::EventType::try_from(number).ok()? {
        pb::EventType::Unspecified => return None,
        pb::EventType::Message => EventType::Message,
        pb::EventType::MessageStatus => EventType::MessageStatus,
        pb::EventType::Receipt => EventType::Receipt,
        pb::EventType::Edit => EventType::Edit,
        pb::EventType::Revoke => EventType::Revoke,
        pb::EventType::Reaction => EventType::Reaction,
        pb::EventType::Call => EventType::Call,
        pb::EventType::Presence => EventType::Presence,
        pb::EventType::GroupChange => EventType::GroupChange,
        pb::EventType::ContactMapping => EventType::ContactMapping,
        pb::EventType::Undecryptable => EventType::Undecryptable,
        pb::EventType::SessionState => EventType::SessionState,
        pb::EventType::Pairing => EventType::Pairing,
        pb::EventType::Signal => EventType::Signal,
        pb::EventType::History => EventType::History,
        pb::EventType::AccountData => EventType::AccountData,
        pb::EventType::Gap => EventType::Gap,
    })
}

/// Reads which types are wanted.
pub(in crate::api) fn read_event_types(
    field: &'static str,
    numbers: &[i32],
) -> Result<BTreeSet<EventType>, ApiError> {
    numbers
        .iter()
        .map(|number| {
            read_event_type(*number)
                .ok_or_else(|| ApiError::field(field, format!("{number} is not an event type")))
        })
        .collect()
}

#[allow(clippy::too_many_lines, reason = "one arm for each payload")]
fn payload(session: &str, revision: u64, payload: Payload) -> Shown {
    match payload {
        Payload::Message { message, recovers } => {
            let media = format!("{session}/media/{revision}");
            Shown::Message(inbound_message(message, recovers, media))
        }
        Payload::MessageStatus {
            message_id,
            stanza_id,
            to,
            state: reached,
            failure: why,
        } => Shown::MessageStatus(pb::MessageStatusEvent {
            message: format!("{session}/messages/{message_id}"),
            stanza_id,
            to: Some(person(&to)),
            state: state(reached).into(),
            failure: why.as_ref().map(failure),
        }),
        Payload::Receipt {
            chat,
            from,
            stanza_ids,
            kind,
            at,
        } => Shown::Receipt(pb::ReceiptEvent {
            chat: Some(person(&chat)),
            from: Some(person(&from)),
            stanza_ids,
            kind: receipt_kind(kind).into(),
            receipt_time: Some(moment(at)),
        }),
        Payload::Undecryptable {
            chat,
            sender,
            stanza_id,
            reason,
        } => Shown::Undecryptable(pb::UndecryptableEvent {
            chat: Some(person(&chat)),
            sender: Some(person(&sender)),
            stanza_id,
            reason,
        }),
        Payload::Call {
            from,
            call_id,
            action,
            at,
        } => Shown::Call(pb::CallEvent {
            from: Some(person(&from)),
            call_id,
            action,
            call_time: Some(moment(at)),
        }),
        Payload::Presence { from, chat, state } => Shown::Presence(pb::PresenceEvent {
            from: Some(person(&from)),
            chat: chat.as_ref().map(person),
            state,
        }),
        Payload::GroupChange {
            group,
            actor,
            change,
            participants,
            subject,
        } => Shown::GroupChange(pb::GroupChangeEvent {
            group: Some(person(&group)),
            actor: actor.as_ref().map(person),
            change,
            participants: participants.iter().map(person).collect(),
            subject,
        }),
        Payload::ContactMapping { person: known } => {
            Shown::ContactMapping(pb::ContactMappingEvent {
                person: Some(person(&known)),
            })
        }
        Payload::SessionState {
            connection: at,
            login: credentials,
            cause: why,
        } => Shown::SessionState(pb::SessionStateEvent {
            connection: Some(connection(&at)),
            login: login(credentials).into(),
            cause: why.as_ref().map(cause),
        }),
        Payload::Pairing {
            step,
            reason,
            account,
        } => Shown::Pairing(pb::PairingEvent {
            step,
            reason,
            account: account.as_ref().map(person),
        }),
        Payload::Signal {
            signal,
            code,
            until,
        } => Shown::Signal(pb::SignalEvent {
            signal,
            code,
            until: until.map(moment),
        }),
        Payload::History { kind, raw } => Shown::History(pb::HistoryEvent { kind, raw }),
        Payload::AccountData { kind, json } => {
            Shown::AccountData(pb::AccountDataEvent { kind, json })
        }
        Payload::Gap {
            reason,
            from_revision,
            to_revision,
        } => Shown::Gap(pb::GapEvent {
            reason,
            from_revision,
            to_revision,
        }),
    }
}

fn inbound_message(
    message: InboundMessage,
    recovers: Option<EventId>,
    media: String,
) -> pb::MessageEvent {
    pb::MessageEvent {
        chat: Some(person(&message.chat)),
        sender: Some(person(&message.sender)),
        from_me: message.from_me,
        stanza_id: message.stanza_id,
        send_time: Some(moment(message.sent_at)),
        push_name: message.push_name,
        content: Some(content(&message.content, media)),
        quoted_stanza_id: message.quoted,
        recovers_event_id: recovers.map(|id| id.to_string()),
    }
}

fn receipt_kind(kind: ReceiptKind) -> pb::ReceiptKind {
    match kind {
        ReceiptKind::Delivered => pb::ReceiptKind::Delivered,
        ReceiptKind::Read => pb::ReceiptKind::Read,
        ReceiptKind::Played => pb::ReceiptKind::Played,
        ReceiptKind::ReadSelf => pb::ReceiptKind::ReadSelf,
        ReceiptKind::Other => pb::ReceiptKind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_reads_back_as_itself() {
        let mut seen = 0;
        for number in 1..100 {
            let Some(known) = read_event_type(number) else {
                continue;
            };
            seen += 1;
            assert_eq!(i32::from(event_type(known)), number);
        }
        assert_eq!(seen, 17);
        assert!(read_event_types("types", &[0]).is_err());
    }
}
