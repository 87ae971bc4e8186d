//! Messages that arrived, and messages that could not be read.

use wacore::types::events::{DecryptFailMode, InboundMessage as Decrypted, UndecryptableMessage};
use wacore::types::message::{MessageCategory, MessageInfo, MessageSource};
use wacore_binary::Jid;

use super::super::mappings::Mappings;
use super::content::{content, quoted};
use super::person::person;
use super::time;
use crate::domain::clock::Timestamp;
use crate::domain::event::{DedupKey, NewEvent, Payload};
use crate::domain::message::{Content, InboundMessage};
use crate::domain::person::Person;
use crate::provider::contract::{Arrival, MESSAGE, UNDECRYPTABLE};

/// Where a message belongs and who wrote it.
pub(in super::super) struct Place {
    pub(in super::super) chat: Person,
    pub(in super::super) sender: Person,
}

/// The addresses of a message that need their other name looked up.
pub(in super::super) fn addresses(source: &MessageSource) -> impl Iterator<Item = &Jid> {
    [&source.chat, &source.sender]
        .into_iter()
        .filter(|jid| jid.server.is_pn_family() || jid.server.is_lid_family())
}

pub(in super::super) fn place(info: &MessageInfo, mappings: &Mappings) -> Place {
    let source = &info.source;
    let sender = person(&source.sender, source.sender_alt.as_ref(), mappings);
    let chat = if source.is_from_me {
        // Our own message, copied to us by another of our devices: the chat is whom it went to.
        let alternate = source
            .recipient_alt
            .as_ref()
            .or(info.peer_recipient_pn.as_ref());
        person(&source.chat, alternate, mappings)
    } else if source.chat.is_same_chat_as(&source.sender) {
        sender.clone()
    } else {
        person(&source.chat, None, mappings)
    };
    Place { chat, sender }
}

fn dedup(place: &Place, stanza_id: &str, kind: &str) -> DedupKey {
    DedupKey {
        chat: place.chat.canonical().to_owned(),
        sender: place.sender.canonical().to_owned(),
        stanza_id: stanza_id.to_owned(),
        kind: kind.to_owned(),
    }
}

/// A decrypted message as an arrival; `None` when it says nothing to anybody but the protocol.
pub(in super::super) fn message(
    decrypted: &Decrypted,
    mappings: &Mappings,
    now: Timestamp,
) -> Option<Arrival> {
    let info = &decrypted.info;
    if info.category == MessageCategory::Peer {
        return None;
    }
    let content = content(&decrypted.message)?;
    let quoted = quoted(&decrypted.message);
    Some(Arrival::Event(event(info, content, quoted, mappings, now)))
}

fn event(
    info: &MessageInfo,
    content: Content,
    quoted: Option<String>,
    mappings: &Mappings,
    now: Timestamp,
) -> NewEvent {
    let place = place(info, mappings);
    let dedup = dedup(&place, &info.id, MESSAGE);
    let push_name = (!info.push_name.is_empty()).then(|| info.push_name.clone());
    let message = InboundMessage {
        chat: place.chat,
        sender: place.sender,
        from_me: info.source.is_from_me,
        stanza_id: info.id.clone(),
        sent_at: time(info.timestamp),
        push_name,
        content,
        quoted,
    };
    NewEvent {
        at: now,
        payload: Payload::Message {
            message,
            recovers: None,
        },
        dedup: Some(dedup),
    }
}

/// Of a message whose key is spent: the event it would have become, without what it said, and the report
/// that it cannot be read. `None` for what says nothing to anybody but the protocol.
pub(in super::super) fn spent(
    info: &MessageInfo,
    mappings: &Mappings,
    now: Timestamp,
) -> Option<(NewEvent, Arrival)> {
    if info.category == MessageCategory::Peer {
        return None;
    }
    let unread = Content::Other {
        type_name: String::new(),
        raw: Vec::new(),
    };
    let event = event(info, unread, None, mappings, now);
    let reason = "its key was used before; asked the sender again".to_owned();
    let report = unreadable(place(info, mappings), &info.id, reason, now);
    Some((event, report))
}

/// A message that could not be read; `None` for those the sender marked as not worth showing.
pub(in super::super) fn undecryptable(
    event: &UndecryptableMessage,
    mappings: &Mappings,
    now: Timestamp,
) -> Option<Arrival> {
    if event.decrypt_fail_mode == DecryptFailMode::Hide {
        return None;
    }
    let info = &event.info;
    let place = place(info, mappings);
    let reason = if event.is_unavailable {
        format!("unavailable: {}", event.unavailable_type.as_str())
    } else {
        "decryption failed; asked the sender again".to_owned()
    };
    Some(unreadable(place, &info.id, reason, now))
}

fn unreadable(place: Place, stanza_id: &str, reason: String, now: Timestamp) -> Arrival {
    Arrival::Event(NewEvent {
        at: now,
        dedup: Some(dedup(&place, stanza_id, UNDECRYPTABLE)),
        payload: Payload::Undecryptable {
            chat: place.chat,
            sender: place.sender,
            stanza_id: stanza_id.to_owned(),
            reason,
        },
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use waproto::whatsapp as wa;

    use super::*;

    fn jid(text: &str) -> Jid {
        text.parse().unwrap()
    }

    fn decrypted(info: MessageInfo) -> Decrypted {
        Decrypted::builder()
            .message(Arc::new(wa::Message {
                conversation: Some("hi".into()),
                ..Default::default()
            }))
            .info(Arc::new(info))
            .build()
    }

    fn convert(info: MessageInfo) -> (InboundMessage, DedupKey) {
        let arrival = message(&decrypted(info), &Mappings::new(16), Timestamp(5)).unwrap();
        let Arrival::Event(NewEvent {
            payload: Payload::Message { message, .. },
            dedup,
            ..
        }) = arrival
        else {
            panic!("not a message");
        };
        (message, dedup.unwrap())
    }

    #[test]
    fn the_same_message_under_either_address_has_the_same_dedup_key() {
        let by_number = MessageInfo {
            id: "A1".into(),
            source: MessageSource {
                chat: jid("15551234567@s.whatsapp.net"),
                sender: jid("15551234567:4@s.whatsapp.net"),
                sender_alt: Some(jid("77:4@lid")),
                ..Default::default()
            },
            ..Default::default()
        };
        let by_lid = MessageInfo {
            id: "A1".into(),
            source: MessageSource {
                chat: jid("77@lid"),
                sender: jid("77:4@lid"),
                sender_alt: Some(jid("15551234567:4@s.whatsapp.net")),
                ..Default::default()
            },
            ..Default::default()
        };
        let (one, key_one) = convert(by_number);
        let (other, key_other) = convert(by_lid);
        assert_eq!(key_one, key_other);
        assert_eq!((&one.chat, &one.sender), (&other.chat, &other.sender));
        assert_eq!(one.chat.phone.as_deref(), Some("+15551234567"));
        assert_eq!(one.content, Content::Text { text: "hi".into() });
    }

    #[test]
    fn our_own_copy_belongs_to_the_chat_it_was_sent_to() {
        let (message, _) = convert(MessageInfo {
            id: "A2".into(),
            source: MessageSource {
                chat: jid("15557654321@s.whatsapp.net"),
                sender: jid("15550000000@s.whatsapp.net"),
                is_from_me: true,
                recipient_alt: Some(jid("88@lid")),
                ..Default::default()
            },
            ..Default::default()
        });
        assert!(message.from_me);
        assert_eq!(message.chat.canonical(), "88@lid");
        assert_eq!(message.sender.phone.as_deref(), Some("+15550000000"));
    }

    #[test]
    fn a_group_message_has_the_group_as_chat() {
        let (message, key) = convert(MessageInfo {
            id: "A3".into(),
            source: MessageSource {
                chat: jid("120363@g.us"),
                sender: jid("77:2@lid"),
                is_group: true,
                ..Default::default()
            },
            ..Default::default()
        });
        assert_eq!(message.chat.canonical(), "120363@g.us");
        assert_eq!(
            (key.chat.as_str(), key.sender.as_str()),
            ("120363@g.us", "77@lid")
        );
    }

    #[test]
    fn messages_between_own_devices_are_not_journalled() {
        let info = MessageInfo {
            category: MessageCategory::Peer,
            ..Default::default()
        };
        assert!(message(&decrypted(info), &Mappings::new(16), Timestamp(5)).is_none());
    }
}
