//! Domain messages into the provider's encoding, once and completely.

use waproto::buffa::MessageField;
use waproto::whatsapp as wa;
use waproto::whatsapp::message::protocol_message::Type;

use super::convert::outbound;
use super::convert::person::address;
use crate::domain::clock::{Clock, Entropy};
use crate::domain::message::Content;
use crate::domain::person::Person;
use crate::provider::contract::{EncodeError, Encoded};

/// Bytes of a messageSecret.
const SECRET: usize = 32;

/// Builds the message with its messageSecret and its stanza id, so that every retry is the same.
pub(super) fn encode(
    to: &Person,
    content: &Content,
    clock: &dyn Clock,
    entropy: &Entropy,
) -> Result<Encoded, EncodeError> {
    let address = address(to).ok_or(EncodeError::Recipient)?;
    let key = |target: &str| {
        MessageField::some(wa::MessageKey {
            remote_jid: Some(address.to_string()),
            from_me: Some(true),
            id: Some(target.to_owned()),
            participant: None,
        })
    };
    let protocol = |protocol| wa::Message {
        protocol_message: MessageField::some(protocol),
        ..wa::Message::default()
    };
    let mut message = match content {
        Content::Text { text } => plain(text),
        Content::Edit { target, text } => protocol(wa::message::ProtocolMessage {
            key: key(target),
            r#type: Some(Type::MessageEdit),
            edited_message: MessageField::some(plain(text)),
            timestamp_ms: i64::try_from(clock.now().0).ok(),
            ..Default::default()
        }),
        Content::Revoke { target } => protocol(wa::message::ProtocolMessage {
            key: key(target),
            r#type: Some(Type::Revoke),
            ..Default::default()
        }),
        // A reaction names the author of its target, which this content does not carry.
        Content::Reaction { .. } => return Err(unsupported("reaction")),
        Content::Media { media } => outbound::message(media),
        Content::Other { raw, .. } => {
            waproto::codec::message_decode(raw).map_err(|_| unsupported("other"))?
        }
    };
    let mut info = message
        .message_context_info
        .into_option()
        .unwrap_or_default();
    if info.message_secret.is_none() {
        let mut secret = vec![0; SECRET];
        entropy.fill(&mut secret);
        info.message_secret = Some(secret);
    }
    message.message_context_info = MessageField::some(info);
    Ok(Encoded {
        stanza_id: stanza_id(entropy),
        bytes: waproto::codec::message_to_vec(&message),
    })
}

fn unsupported(kind: &'static str) -> EncodeError {
    EncodeError::Unsupported {
        kind,
        provider: super::NAME,
    }
}

fn plain(text: &str) -> wa::Message {
    wa::Message {
        conversation: Some(text.to_owned()),
        ..wa::Message::default()
    }
}

/// A stanza id as WhatsApp's web client makes them: `3EB0` and nine bytes in upper-case hex.
fn stanza_id(entropy: &Entropy) -> String {
    let mut bytes = [0_u8; 9];
    entropy.fill(&mut bytes);
    format!("3EB0{}", hex::encode_upper(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::clock::{ManualClock, Timestamp};
    use crate::provider::multidevice::convert;

    fn alice() -> Person {
        Person {
            phone: Some("+15551234567".into()),
            ..Person::default()
        }
    }

    fn encoded(content: &Content) -> Result<Encoded, EncodeError> {
        let clock = ManualClock::at(Timestamp(1_000));
        encode(&alice(), content, &clock, &Entropy::seeded(1))
    }

    #[test]
    fn everything_a_retry_needs_is_in_the_bytes() {
        let text = Content::Text { text: "hi".into() };
        let Encoded { stanza_id, bytes } = encoded(&text).unwrap();
        assert!(stanza_id.starts_with("3EB0") && stanza_id.len() == 22);
        let message = waproto::codec::message_decode(&bytes).unwrap();
        let secret = message.message_context_info.message_secret.as_ref();
        assert_eq!(secret.map(Vec::len), Some(SECRET));
        assert_eq!(convert::content::content(&message), Some(text));
    }

    #[test]
    fn edits_and_revokes_come_back_as_what_they_were() {
        for content in [
            Content::Edit {
                target: "T".into(),
                text: "better".into(),
            },
            Content::Revoke { target: "T".into() },
        ] {
            let bytes = encoded(&content).unwrap().bytes;
            let message = waproto::codec::message_decode(&bytes).unwrap();
            assert_eq!(convert::content::content(&message), Some(content));
        }
    }

    #[test]
    fn what_cannot_be_carried_is_refused_by_name() {
        let reaction = Content::Reaction {
            target: "T".into(),
            emoji: "👍".into(),
        };
        assert_eq!(encoded(&reaction), Err(unsupported("reaction")));
        let clock = ManualClock::default();
        let text = Content::Text { text: "hi".into() };
        let nobody = encode(&Person::default(), &text, &clock, &Entropy::seeded(1));
        assert_eq!(nobody, Err(EncodeError::Recipient));
    }
}
