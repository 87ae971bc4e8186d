//! Outbound messages, contents and recipients.

use super::{moment, person};
use crate::api::status::ApiError;
use crate::domain::ids::SessionName;
use crate::domain::media::{Media, MediaKind, UploadedMedia};
use crate::domain::message::{Content, FailureReason, MessageState, OutboundMessage, Priority};
use crate::domain::person::Person;
use crate::domain::phone;
use crate::pb::{self, content::Content as Kind, recipient::Recipient};

/// Longest id of a recipient, in bytes.
const MAX_JID: usize = 128;

/// An outbound message of `session`.
pub(in crate::api) fn message(session: &SessionName, message: &OutboundMessage) -> pb::Message {
    let file = message
        .media
        .map_or_else(String::new, |id| format!("{session}/media/{id}"));
    pb::Message {
        name: format!("{session}/messages/{}", message.id),
        to: Some(person(&message.to)),
        content: Some(content(&message.content, file)),
        state: state(message.state).into(),
        priority: priority(message.priority).into(),
        stanza_id: message.stanza_id.clone(),
        create_time: Some(moment(message.created_at)),
        send_after: message.send_after.map(moment),
        expire_at: message.expire_at.map(moment),
        history: message
            .history
            .iter()
            .map(|(reached, at)| pb::MessageTransition {
                state: state(*reached).into(),
                time: Some(moment(*at)),
            })
            .collect(),
        attempts: message.attempts,
        failure: message.failure.as_ref().map(failure),
    }
}

pub(super) fn failure(failure: &FailureReason) -> pb::MessageFailure {
    pb::MessageFailure {
        reason: failure.reason.clone(),
        code: failure.code,
    }
}

/// Where a message is.
pub(in crate::api) fn state(state: MessageState) -> pb::MessageState {
    match state {
        MessageState::Queued => pb::MessageState::Queued,
        MessageState::Sending => pb::MessageState::Sending,
        MessageState::Sent => pb::MessageState::Sent,
        MessageState::Delivered => pb::MessageState::Delivered,
        MessageState::Read => pb::MessageState::Read,
        MessageState::Played => pb::MessageState::Played,
        MessageState::Failed => pb::MessageState::Failed,
        MessageState::Expired => pb::MessageState::Expired,
        MessageState::Canceled => pb::MessageState::Canceled,
        MessageState::Unknown => pb::MessageState::Unknown,
    }
}

fn priority(priority: Priority) -> pb::Priority {
    match priority {
        Priority::Bulk => pb::Priority::Bulk,
        Priority::Transactional => pb::Priority::Transactional,
        Priority::Reply => pb::Priority::Reply,
    }
}

/// Reads a priority; unspecified means transactional.
pub(in crate::api) fn read_priority(number: i32) -> Result<Priority, ApiError> {
    match pb::Priority::try_from(number) {
        Ok(pb::Priority::Unspecified | pb::Priority::Transactional) => Ok(Priority::Transactional),
        Ok(pb::Priority::Bulk) => Ok(Priority::Bulk),
        Ok(pb::Priority::Reply) => Ok(Priority::Reply),
        Err(_) => Err(ApiError::field(
            "priority",
            format!("{number} is not a priority: use BULK, TRANSACTIONAL or REPLY"),
        )),
    }
}

/// Reads whom a message is for. Phone numbers are normalised; ids are taken as they are, because they
/// came from the provider.
pub(in crate::api) fn read_recipient(to: Option<pb::Recipient>) -> Result<Person, ApiError> {
    match to.and_then(|to| to.recipient) {
        Some(Recipient::Phone(typed)) => Ok(Person {
            phone: Some(phone::normalise("to.phone", &typed)?),
            ..Person::default()
        }),
        Some(Recipient::Jid(jid)) => read_jid("to.jid", jid),
        None => Err(ApiError::field(
            "to",
            "is required: give `phone` (such as +234 803 123 4567) or `jid`",
        )),
    }
}

/// A name of a person or group to look for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::api) struct Chat(Person);

/// Reads whom to look for: a phone number, or an id that this API gave out.
pub(in crate::api) fn read_chat(field: &'static str, text: &str) -> Result<Chat, ApiError> {
    if text.contains('@') {
        return read_jid(field, text.to_owned()).map(Chat);
    }
    let phone = phone::normalise(field, text)?;
    // WhatsApp's id of a phone number is its digits.
    let digits = phone.trim_start_matches('+');
    Ok(Chat(Person {
        pn_jid: Some(format!("{digits}@s.whatsapp.net")),
        phone: Some(phone),
        ..Person::default()
    }))
}

impl Chat {
    /// Whether this is one of `person`'s names.
    pub(in crate::api) fn is_one_of(&self, person: &Person) -> bool {
        let same = |one: &Option<String>, other: &Option<String>| one.is_some() && one == other;
        same(&self.0.phone, &person.phone)
            || same(&self.0.pn_jid, &person.pn_jid)
            || same(&self.0.lid, &person.lid)
            || same(&self.0.provider_id, &person.provider_id)
    }
}

/// Reads the states a listing asks for.
pub(in crate::api) fn read_states(
    field: &'static str,
    numbers: &[i32],
) -> Result<Vec<MessageState>, ApiError> {
    let known = |number: &i32| {
        let named = pb::MessageState::try_from(*number).ok();
        named.and_then(read_state).ok_or_else(|| {
            ApiError::field(
                field,
                format!("{number} is not a state: use QUEUED, SENDING, SENT, DELIVERED, READ, PLAYED, FAILED, EXPIRED, CANCELED or UNKNOWN"),
            )
        })
    };
    numbers.iter().map(known).collect()
}

fn read_state(named: pb::MessageState) -> Option<MessageState> {
    Some(match named {
        pb::MessageState::Unspecified => return None,
        pb::MessageState::Queued => MessageState::Queued,
        pb::MessageState::Sending => MessageState::Sending,
        pb::MessageState::Sent => MessageState::Sent,
        pb::MessageState::Delivered => MessageState::Delivered,
        pb::MessageState::Read => MessageState::Read,
        pb::MessageState::Played => MessageState::Played,
        pb::MessageState::Failed => MessageState::Failed,
        pb::MessageState::Expired => MessageState::Expired,
        pb::MessageState::Canceled => MessageState::Canceled,
        pb::MessageState::Unknown => MessageState::Unknown,
    })
}

fn read_jid(field: &'static str, jid: String) -> Result<Person, ApiError> {
    let server = jid
        .split_once('@')
        .filter(|(user, server)| !user.is_empty() && !server.contains('@'))
        .map(|(_, server)| server);
    let printable = jid.chars().all(|c| c.is_ascii_graphic());
    let (Some(server), true, true) = (server, printable, jid.len() <= MAX_JID) else {
        return Err(ApiError::field(
            field,
            "must be an id that this API gave out, such as 15551234567@s.whatsapp.net, 1234@lid or a group's; for a phone number use `phone`",
        ));
    };
    let mut person = Person::default();
    match server {
        "s.whatsapp.net" => person.pn_jid = Some(jid),
        "lid" => person.lid = Some(jid),
        _ => person.provider_id = Some(jid),
    }
    Ok(person)
}

/// The name of a kind of file in the API.
pub(in crate::api) fn kind_name(kind: MediaKind) -> &'static str {
    let name = show_kind(kind).as_str_name();
    name.strip_prefix("MEDIA_KIND_").unwrap_or(name)
}

fn show_kind(kind: MediaKind) -> pb::MediaKind {
    match kind {
        MediaKind::Image => pb::MediaKind::Image,
        MediaKind::Video => pb::MediaKind::Video,
        MediaKind::Audio => pb::MediaKind::Audio,
        MediaKind::Voice => pb::MediaKind::Voice,
        MediaKind::Document => pb::MediaKind::Document,
        MediaKind::Sticker => pb::MediaKind::Sticker,
    }
}

/// A file, to be fetched under `name`.
pub(in crate::api) fn media(media: &Media, name: String) -> pb::MediaContent {
    pb::MediaContent {
        name,
        kind: show_kind(media.kind).into(),
        mime_type: media.mime_type.clone(),
        size: media.size,
        sha256: media.sha256.to_string(),
        caption: media.caption.clone(),
        file_name: media.file_name.clone(),
        duration: media.seconds.map(|seconds| prost_types::Duration {
            seconds: seconds.into(),
            nanos: 0,
        }),
        width: media.width,
        height: media.height,
    }
}

/// A file that was uploaded to be sent from `session`.
pub(in crate::api) fn uploaded(session: &SessionName, media: &UploadedMedia) -> pb::UploadedMedia {
    pb::UploadedMedia {
        name: format!("{session}/media/{}", media.id),
        mime_type: media.mime_type.clone(),
        file_name: media.file_name.clone(),
        size: media.size,
        sha256: media.sha256.to_string(),
        create_time: Some(moment(media.created_at)),
        expire_time: Some(moment(media.expires_at)),
    }
}

/// Reads how a file is to be shown; unspecified means what its MIME type suggests.
pub(in crate::api) fn read_kind(number: i32, mime_type: &str) -> Result<MediaKind, ApiError> {
    Ok(match pb::MediaKind::try_from(number) {
        Ok(pb::MediaKind::Image) => MediaKind::Image,
        Ok(pb::MediaKind::Video) => MediaKind::Video,
        Ok(pb::MediaKind::Audio) => MediaKind::Audio,
        Ok(pb::MediaKind::Voice) => MediaKind::Voice,
        Ok(pb::MediaKind::Document) => MediaKind::Document,
        Ok(pb::MediaKind::Sticker) => MediaKind::Sticker,
        Ok(pb::MediaKind::Unspecified) => suggested(mime_type),
        Err(_) => {
            return Err(ApiError::field(
                "media.kind",
                format!(
                    "{number} is not a kind: use IMAGE, VIDEO, AUDIO, VOICE, DOCUMENT or STICKER"
                ),
            ));
        }
    })
}

/// What WhatsApp's own clients show in the chat; everything else is a document.
fn suggested(mime_type: &str) -> MediaKind {
    let essence = mime_type.split(';').next().unwrap_or_default().trim();
    match essence.to_ascii_lowercase().as_str() {
        "image/jpeg" | "image/png" => MediaKind::Image,
        "video/mp4" | "video/3gpp" => MediaKind::Video,
        "audio/ogg" | "audio/mpeg" | "audio/mp4" | "audio/aac" | "audio/amr" => MediaKind::Audio,
        _ => MediaKind::Document,
    }
}

/// What a message says; a file in it is fetched under the name `file`.
pub(in crate::api) fn content(content: &Content, file: String) -> pb::Content {
    let kind = match content {
        Content::Text { text } => Kind::Text(pb::TextContent { text: text.clone() }),
        Content::Reaction { target, emoji } => Kind::Reaction(pb::ReactionContent {
            target_stanza_id: target.clone(),
            emoji: emoji.clone(),
        }),
        Content::Edit { target, text } => Kind::Edit(pb::EditContent {
            target_stanza_id: target.clone(),
            text: text.clone(),
        }),
        Content::Revoke { target } => Kind::Revoke(pb::RevokeContent {
            target_stanza_id: target.clone(),
        }),
        Content::Media { media: it } => Kind::Media(media(it, file)),
        Content::Other { type_name, raw } => Kind::Other(pb::OtherContent {
            type_name: type_name.clone(),
            raw: raw.clone(),
        }),
    };
    pb::Content {
        content: Some(kind),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jid(jid: &str) -> Result<Person, ApiError> {
        read_recipient(Some(pb::Recipient {
            recipient: Some(Recipient::Jid(jid.to_owned())),
        }))
    }

    #[test]
    fn ids_are_filed_by_what_they_are() {
        assert_eq!(
            jid("1@s.whatsapp.net").unwrap().pn_jid.as_deref(),
            Some("1@s.whatsapp.net")
        );
        assert_eq!(jid("1@lid").unwrap().lid.as_deref(), Some("1@lid"));
        assert_eq!(
            jid("1@g.us").unwrap().provider_id.as_deref(),
            Some("1@g.us")
        );
        for bad in [
            "",
            "15551234567",
            "a b@lid",
            "@lid",
            "a@b@s.whatsapp.net",
            &"x".repeat(200),
        ] {
            assert!(jid(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_chat_is_found_under_each_of_its_names() {
        let person = Person {
            phone: Some("+15551234567".to_owned()),
            lid: Some("7@lid".to_owned()),
            ..Person::default()
        };
        for name in ["+1 555 123 4567", "7@lid"] {
            assert!(
                read_chat("chat", name).unwrap().is_one_of(&person),
                "{name}"
            );
        }
        for name in ["+15551234568", "8@lid", "7@g.us"] {
            assert!(
                !read_chat("chat", name).unwrap().is_one_of(&person),
                "{name}"
            );
        }
        assert!(read_chat("chat", "bob").is_err());
    }

    #[test]
    fn every_state_reads_back_as_itself() {
        for number in 1..=10 {
            let read = read_states("states", &[number]).unwrap();
            assert_eq!(i32::from(state(read[0])), number);
        }
        assert!(read_states("states", &[0]).is_err());
        assert!(read_states("states", &[11]).is_err());
    }

    #[test]
    fn a_missing_recipient_is_named() {
        assert!(read_recipient(None).is_err());
        assert!(read_recipient(Some(pb::Recipient { recipient: None })).is_err());
        assert!(read_priority(99).is_err());
    }
}
