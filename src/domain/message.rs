//! Messages, their contents and the life of an outbound one.

use serde::{Deserialize, Serialize};

use super::clock::Timestamp;
use super::ids::{MediaId, MessageId};
use super::media::Media;
use super::person::Person;

/// Longest text WhatsApp clients send, in characters.
pub const MAX_TEXT_CHARS: usize = 65_536;

/// What a message says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Content {
    /// Plain text.
    Text {
        /// The body.
        text: String,
    },
    /// A reaction to an earlier message; an empty emoji removes it.
    Reaction {
        /// Stanza id of the message reacted to.
        target: String,
        /// The emoji.
        emoji: String,
    },
    /// The sender replaced an earlier message.
    Edit {
        /// Stanza id of the message edited.
        target: String,
        /// The new text.
        text: String,
    },
    /// The sender deleted an earlier message for everyone.
    Revoke {
        /// Stanza id of the message revoked.
        target: String,
    },
    /// A file.
    Media {
        /// What its message says of it.
        media: Box<Media>,
    },
    /// Anything else, kept whole so that nothing is lost: the provider's own encoding.
    Other {
        /// The provider's name for it, such as `locationMessage`.
        type_name: String,
        /// The provider's encoding (for WhatsApp multi-device: protobuf `Message`).
        #[serde(with = "base64_bytes")]
        raw: Vec<u8>,
    },
}

/// A message that arrived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InboundMessage {
    /// The conversation: the other person, or the group.
    pub chat: Person,
    /// Who wrote it.
    pub sender: Person,
    /// Written by this account on another of its devices.
    pub from_me: bool,
    /// The provider's id of the message; unique only within (chat, sender).
    pub stanza_id: String,
    /// When the sender's provider stamped it.
    pub sent_at: Timestamp,
    /// The name the sender shows, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub push_name: Option<String>,
    /// What it says.
    pub content: Content,
    /// Stanza id of the message it quotes, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quoted: Option<String>,
}

/// Where an outbound message is. States only move forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageState {
    /// Stored; not on the wire.
    Queued,
    /// Handed to the wire; the server has not answered.
    Sending,
    /// The server accepted it.
    Sent,
    /// It reached a device of the recipient.
    Delivered,
    /// The recipient read it.
    Read,
    /// The recipient played it (voice, video).
    Played,
    /// The server (or a check before the wire) refused it.
    Failed,
    /// `expire_at` passed while it was still queued.
    Expired,
    /// Canceled while it was still queued.
    Canceled,
    /// It was on the wire, `expire_at` passed, and no answer came: it may or may not have arrived.
    Unknown,
}

impl MessageState {
    /// The name used in the API, metrics, logs and the CLI.
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "QUEUED",
            Self::Sending => "SENDING",
            Self::Sent => "SENT",
            Self::Delivered => "DELIVERED",
            Self::Read => "READ",
            Self::Played => "PLAYED",
            Self::Failed => "FAILED",
            Self::Expired => "EXPIRED",
            Self::Canceled => "CANCELED",
            Self::Unknown => "UNKNOWN",
        }
    }

    fn rank(self) -> u8 {
        match self {
            Self::Queued => 0,
            Self::Sending => 1,
            Self::Unknown => 2,
            Self::Sent => 3,
            Self::Delivered => 4,
            Self::Read => 5,
            Self::Played => 6,
            Self::Failed | Self::Expired | Self::Canceled => 7,
        }
    }

    /// Whether `self → next` is a step forward. FAILED may only follow QUEUED, SENDING or UNKNOWN;
    /// EXPIRED and CANCELED only QUEUED; evidence of acceptance resolves UNKNOWN.
    pub fn may_become(self, next: Self) -> bool {
        match next {
            Self::Queued => false,
            Self::Expired | Self::Canceled => self == Self::Queued,
            Self::Failed => matches!(self, Self::Queued | Self::Sending | Self::Unknown),
            Self::Unknown => self == Self::Sending,
            _ => next.rank() > self.rank() && self.rank() < 7,
        }
    }

    /// Whether nothing more is to be done for it (receipts may still raise it).
    pub fn is_settled(self) -> bool {
        !matches!(self, Self::Queued | Self::Sending)
    }
}

/// How urgent an outbound message is; higher classes go first, without starving lower ones.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Campaigns.
    Bulk,
    /// Notices the recipient expects.
    #[default]
    Transactional,
    /// An answer to somebody waiting.
    Reply,
}

/// Why an outbound message ended without being accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureReason {
    /// `UPPER_SNAKE`, stable: `SERVER_REFUSED`, `REACHOUT_TIMELOCK`, `NOT_ON_WHATSAPP`,
    /// `NOT_IN_GROUP`, `EXPIRED`, `ACCOUNT_CHANGED`, …
    pub reason: String,
    /// The provider's code, if it gave one.
    pub code: Option<u32>,
}

/// An outbound message as the store keeps it and the API shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboundMessage {
    /// Our id.
    pub id: MessageId,
    /// The id on the wire: fixed at enqueue, reused on every retry.
    pub stanza_id: String,
    /// The account it was accepted for: the session's own, if it was linked then. It goes out from no
    /// other.
    #[serde(default)]
    pub from: Option<Person>,
    /// The recipient, under all names known.
    pub to: Person,
    /// What it says.
    pub content: Content,
    /// The provider's complete encoding with its messageSecret, made once and reused on every retry.
    #[serde(with = "base64_bytes")]
    pub encoded: Vec<u8>,
    /// The uploaded file it carries.
    #[serde(default)]
    pub media: Option<MediaId>,
    /// Where it is.
    pub state: MessageState,
    /// How urgent it is.
    pub priority: Priority,
    /// When it was accepted from the client.
    pub created_at: Timestamp,
    /// Not before this.
    pub send_after: Option<Timestamp>,
    /// Not after this.
    pub expire_at: Option<Timestamp>,
    /// When each state was reached, in order.
    pub history: Vec<(MessageState, Timestamp)>,
    /// How often it was handed to the wire.
    pub attempts: u32,
    /// Why it failed, if it did.
    pub failure: Option<FailureReason>,
}

/// Bytes as base64 text inside human-readable encodings.
pub mod base64_bytes {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer};

    /// Serializes bytes as standard base64.
    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    /// Deserializes standard base64.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::MessageState::{self, *};

    const ALL: [MessageState; 10] = [
        Queued, Sending, Sent, Delivered, Read, Played, Failed, Expired, Canceled, Unknown,
    ];

    #[test]
    fn no_cycle_is_possible() {
        for a in ALL {
            assert!(!a.may_become(a), "{a:?}");
            for b in ALL {
                assert!(!(a.may_become(b) && b.may_become(a)), "{a:?} <-> {b:?}");
            }
        }
    }

    #[test]
    fn an_accepted_message_never_fails_and_unknown_resolves_forward() {
        for accepted in [Sent, Delivered, Read, Played] {
            for end in [Failed, Expired, Canceled, Unknown] {
                assert!(!accepted.may_become(end));
            }
            assert!(Unknown.may_become(accepted));
        }
        assert!(!Sending.may_become(Expired));
        assert!(Queued.may_become(Expired));
    }
}
