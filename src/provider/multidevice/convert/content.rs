//! What a message says.

use wacore::proto_helpers::MessageExt as _;
use waproto::whatsapp as wa;
use waproto::whatsapp::message::protocol_message::Type;

use super::media::media;
use crate::domain::message::Content;

/// The content of a message, or `None` when it says nothing to anybody but the protocol (key
/// distributions, synchronisation between own devices): such messages may carry key material and never
/// reach the journal.
pub(in super::super) fn content(message: &wa::Message) -> Option<Content> {
    let base = message.get_base_message();
    if let Some(protocol) = base.protocol_message.as_option() {
        return protocol_content(message, protocol);
    }
    if let Some(reaction) = base.reaction_message.as_option() {
        let target = reaction.key.as_option().and_then(|key| key.id.clone())?;
        let emoji = reaction.text.clone().unwrap_or_default();
        return Some(Content::Reaction { target, emoji });
    }
    if let Some(text) = base.text_content() {
        return Some(Content::Text { text: text.into() });
    }
    match media(message, base) {
        Some(media) => Some(Content::Media {
            media: Box::new(media),
        }),
        None => other(message),
    }
}

fn protocol_content(
    message: &wa::Message,
    protocol: &wa::message::ProtocolMessage,
) -> Option<Content> {
    let target = || protocol.key.as_option().and_then(|key| key.id.clone());
    match protocol.r#type? {
        Type::Revoke => Some(Content::Revoke { target: target()? }),
        Type::MessageEdit => {
            let edited = protocol.edited_message.as_option()?;
            match edited.get_base_message().text_content() {
                Some(text) => Some(Content::Edit {
                    target: target()?,
                    text: text.to_owned(),
                }),
                // An edited caption: the new message is inside, whole.
                None => other(message),
            }
        }
        Type::EphemeralSetting | Type::LimitSharing | Type::GroupMemberLabelChange => {
            other(message)
        }
        _ => None,
    }
}

fn other(message: &wa::Message) -> Option<Content> {
    let type_name = type_name(message.get_base_message())?;
    let raw = waproto::codec::message_to_vec(message);
    Some(Content::Other { type_name, raw })
}

/// WhatsApp's name of the first field that says something (`imageMessage`).
fn type_name(message: &wa::Message) -> Option<String> {
    let fields = serde_json::to_value(message).ok()?;
    let name = fields.as_object()?.iter().find_map(|(name, value)| {
        let empty = value.is_null() || value.as_object().is_some_and(serde_json::Map::is_empty);
        let context = matches!(
            camel(name).as_str(),
            "messageContextInfo"
                | "senderKeyDistributionMessage"
                | "fastRatchetKeySenderKeyDistributionMessage"
        );
        (!empty && !context).then(|| camel(name))
    })?;
    Some(name)
}

fn camel(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let mut upper = false;
    for c in name.chars() {
        if c == '_' {
            upper = true;
        } else if upper {
            out.extend(c.to_uppercase());
            upper = false;
        } else {
            out.push(c);
        }
    }
    out
}

/// The stanza id of the message this one quotes.
pub(in super::super) fn quoted(message: &wa::Message) -> Option<String> {
    let base = message.get_base_message();
    let context = base
        .extended_text_message
        .as_option()
        .map(|m| &m.context_info)
        .or_else(|| base.image_message.as_option().map(|m| &m.context_info))
        .or_else(|| base.video_message.as_option().map(|m| &m.context_info))
        .or_else(|| base.audio_message.as_option().map(|m| &m.context_info))
        .or_else(|| base.document_message.as_option().map(|m| &m.context_info))
        .or_else(|| base.sticker_message.as_option().map(|m| &m.context_info))
        .or_else(|| base.contact_message.as_option().map(|m| &m.context_info))
        .or_else(|| base.location_message.as_option().map(|m| &m.context_info))?;
    context.as_option()?.stanza_id.clone()
}

#[cfg(test)]
mod tests {
    use waproto::buffa::MessageField;

    use super::*;

    fn key(id: &str) -> MessageField<wa::MessageKey> {
        MessageField::some(wa::MessageKey {
            id: Some(id.into()),
            ..Default::default()
        })
    }

    fn text(text: &str) -> wa::Message {
        wa::Message {
            conversation: Some(text.into()),
            ..Default::default()
        }
    }

    fn protocol(protocol: wa::message::ProtocolMessage) -> wa::Message {
        wa::Message {
            protocol_message: MessageField::some(protocol),
            ..Default::default()
        }
    }

    #[test]
    fn text_comes_plain_extended_and_wrapped() {
        let extended = wa::Message {
            extended_text_message: MessageField::some(wa::message::ExtendedTextMessage {
                text: Some("hi".into()),
                context_info: MessageField::some(wa::ContextInfo {
                    stanza_id: Some("Q1".into()),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        assert_eq!(quoted(&extended).as_deref(), Some("Q1"));
        let wrapped = wa::Message {
            ephemeral_message: MessageField::some(wa::message::FutureProofMessage {
                message: MessageField::some(text("hi")),
            }),
            ..Default::default()
        };
        for message in [text("hi"), extended, wrapped] {
            assert_eq!(content(&message), Some(Content::Text { text: "hi".into() }));
        }
        assert_eq!(quoted(&text("hi")), None);
    }

    #[test]
    fn reactions_edits_and_revokes_name_their_target() {
        let reaction = wa::Message {
            reaction_message: MessageField::some(wa::message::ReactionMessage {
                key: key("T"),
                text: Some("👍".into()),
                ..Default::default()
            }),
            ..Default::default()
        };
        let target = || "T".to_owned();
        assert_eq!(
            content(&reaction),
            Some(Content::Reaction {
                target: target(),
                emoji: "👍".into()
            })
        );
        let edit = protocol(wa::message::ProtocolMessage {
            key: key("T"),
            r#type: Some(Type::MessageEdit),
            edited_message: MessageField::some(text("better")),
            ..Default::default()
        });
        assert_eq!(
            content(&edit),
            Some(Content::Edit {
                target: target(),
                text: "better".into()
            })
        );
        let revoke = protocol(wa::message::ProtocolMessage {
            key: key("T"),
            r#type: Some(Type::Revoke),
            ..Default::default()
        });
        assert_eq!(content(&revoke), Some(Content::Revoke { target: target() }));
    }

    #[test]
    fn anything_else_is_kept_whole_under_its_name() {
        let image = wa::Message {
            image_message: MessageField::some(wa::message::ImageMessage {
                caption: Some("look".into()),
                ..Default::default()
            }),
            message_context_info: MessageField::some(wa::MessageContextInfo {
                message_secret: Some(vec![1; 32]),
                ..Default::default()
            }),
            ..Default::default()
        };
        let Some(Content::Other { type_name, raw }) = content(&image) else {
            panic!("not Other");
        };
        assert_eq!(type_name, "imageMessage");
        assert_eq!(waproto::codec::message_decode(&raw).unwrap(), image);
    }

    #[test]
    fn what_only_the_protocol_understands_is_not_content() {
        let share = protocol(wa::message::ProtocolMessage {
            r#type: Some(Type::AppStateSyncKeyShare),
            ..Default::default()
        });
        assert_eq!(content(&share), None);
        let distribution = wa::Message {
            sender_key_distribution_message: MessageField::some(
                wa::message::SenderKeyDistributionMessage {
                    group_id: Some("120363@g.us".into()),
                    ..Default::default()
                },
            ),
            ..Default::default()
        };
        assert_eq!(content(&distribution), None);
        assert_eq!(content(&wa::Message::default()), None);
    }
}
