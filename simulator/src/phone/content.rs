//! The plaintext side: building, padding and reading `Message`.

use rand::RngExt as _;
use rand_chacha::ChaCha20Rng;
use wacore_binary::Jid;
use waproto::buffa::{Message as _, MessageField};
use waproto::whatsapp as wa;

use super::media::{self, MediaSeen};
use super::record::{ContentKind, ViolationKind};

/// Longest padding official clients write.
const MAX_PADDING: u8 = 16;

/// A text as a real phone writes it: `conversation`, or `extendedTextMessage` when there is a link
/// to preview; with the message secret later add-ons need.
pub(super) fn text_message(text: &str, secret: &[u8]) -> wa::Message {
    let context = context(secret);
    let link = text
        .split_whitespace()
        .find(|word| word.starts_with("https://") || word.starts_with("http://"));
    match link {
        Some(link) => wa::Message {
            extended_text_message: MessageField::some(wa::message::ExtendedTextMessage {
                text: Some(text.to_owned()),
                matched_text: Some(link.to_owned()),
                ..Default::default()
            }),
            message_context_info: context,
            ..Default::default()
        },
        None => wa::Message {
            conversation: Some(text.to_owned()),
            message_context_info: context,
            ..Default::default()
        },
    }
}

/// What every message carries besides its content.
pub(super) fn context(secret: &[u8]) -> MessageField<wa::MessageContextInfo> {
    MessageField::some(wa::MessageContextInfo {
        device_list_metadata_version: Some(2),
        message_secret: Some(secret.to_vec()),
        ..Default::default()
    })
}

/// The sender key of a group, for one device.
pub(super) fn distribution_message(group: &Jid, key: Vec<u8>) -> wa::Message {
    let distribution = wa::message::SenderKeyDistributionMessage {
        group_id: Some(group.to_string()),
        axolotl_sender_key_distribution_message: Some(key),
    };
    wa::Message {
        sender_key_distribution_message: MessageField::some(distribution),
        ..Default::default()
    }
}

/// Whether a message carries a sender key and nothing to show.
pub(super) fn is_distribution_alone(message: &wa::Message) -> bool {
    if message.sender_key_distribution_message.is_unset() {
        return false;
    }
    let mut rest = message.clone();
    rest.sender_key_distribution_message = MessageField::none();
    rest.message_context_info = MessageField::none();
    rest.encode_to_vec().is_empty()
}

/// Wraps protocol content for a companion.
pub(super) fn protocol_message(content: wa::message::ProtocolMessage) -> wa::Message {
    wa::Message {
        protocol_message: MessageField::some(content),
        ..Default::default()
    }
}

/// Reads what was kept of a message that was sent or shown.
pub(super) fn decode(kept: &[u8]) -> wa::Message {
    // It was decoded before it was kept.
    waproto::codec::message_decode(kept).unwrap_or_default()
}

/// Encodes and pads: 1 to 16 bytes, each of the padding's length.
pub(super) fn encode_padded(message: &wa::Message, rng: &mut ChaCha20Rng) -> Vec<u8> {
    let mut plaintext = message.encode_to_vec();
    let padding: u8 = rng.random_range(1..=MAX_PADDING);
    plaintext.resize(plaintext.len() + usize::from(padding), padding);
    plaintext
}

/// Removes the padding and decodes, refusing what an official client would never write.
pub(super) fn decode_padded(padded: &[u8]) -> Result<wa::Message, ViolationKind> {
    let padding = *padded.last().ok_or(ViolationKind::BadPadding)?;
    let body = padded
        .len()
        .checked_sub(usize::from(padding))
        .filter(|_| (1..=MAX_PADDING).contains(&padding))
        .ok_or(ViolationKind::BadPadding)?;
    let (body, tail) = padded.split_at(body);
    if tail.iter().any(|byte| *byte != padding) {
        return Err(ViolationKind::BadPadding);
    }
    waproto::codec::message_decode(body).map_err(|_| ViolationKind::BadProtobuf)
}

/// What a message shows on the screen.
pub(super) struct Shown {
    pub(super) kind: ContentKind,
    pub(super) text: String,
    pub(super) media: Option<MediaSeen>,
}

/// Reads what a message shows on the screen.
pub(super) fn shown(message: &wa::Message) -> Shown {
    if let Some((media, text)) = media::of_message(message) {
        return Shown {
            kind: ContentKind::Media,
            text,
            media: Some(media),
        };
    }
    let (kind, text) = shown_text(message);
    Shown {
        kind,
        text,
        media: None,
    }
}

fn shown_text(message: &wa::Message) -> (ContentKind, String) {
    if let Some(text) = text_of(message) {
        return (ContentKind::Text, text.to_owned());
    }
    if let Some(reaction) = message.reaction_message.as_option() {
        return (
            ContentKind::Reaction,
            reaction.text.clone().unwrap_or_default(),
        );
    }
    if let Some(protocol) = message.protocol_message.as_option() {
        use wa::message::protocol_message::Type;
        match protocol.r#type {
            Some(Type::REVOKE) => return (ContentKind::Revoke, String::new()),
            Some(Type::MESSAGE_EDIT) => {
                let edited = protocol.edited_message.as_option().and_then(text_of);
                return (ContentKind::Edit, edited.unwrap_or_default().to_owned());
            }
            _ => {}
        }
    }
    (ContentKind::Other, String::new())
}

fn text_of(message: &wa::Message) -> Option<&str> {
    message.conversation.as_deref().or_else(|| {
        message
            .extended_text_message
            .as_option()
            .and_then(|extended| extended.text.as_deref())
    })
}
