//! What a person sees on the phone, and what the phone objects to.

use serde::{Serialize, Serializer};
use wacore_binary::Jid;

use super::media::MediaSeen;

fn as_text<S: Serializer>(jid: &Jid, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(jid)
}

// Serde hands the field itself.
#[allow(clippy::ref_option)]
fn as_optional_text<S: Serializer>(jid: &Option<Jid>, serializer: S) -> Result<S::Ok, S::Error> {
    match jid {
        Some(jid) => serializer.collect_str(jid),
        None => serializer.serialize_none(),
    }
}

/// What kind of content an inbound message carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ContentKind {
    /// `conversation` or `extendedTextMessage`.
    Text,
    /// A reaction; the text is the emoji.
    Reaction,
    /// An edit; the text is the new text.
    Edit,
    /// A message taken back.
    Revoke,
    /// A file; the text is its caption.
    Media,
    /// Anything else, without text.
    Other,
}

/// A message somebody sent to this person.
#[derive(Debug, Clone, Serialize)]
pub struct Inbound {
    /// Stanza id, chosen by the sender.
    pub id: String,
    /// The sender's device, in the addressing it arrived under.
    #[serde(serialize_with = "as_text")]
    pub from: Jid,
    /// The group it was written to; nothing in a chat of two.
    #[serde(
        serialize_with = "as_optional_text",
        skip_serializing_if = "Option::is_none"
    )]
    pub group: Option<Jid>,
    /// Which of the sender's keys a message to a group was sealed under: the number of its chain, another
    /// one for each key. Nothing in a chat of two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sender_key: Option<u32>,
    /// The sender's phone-number user, when known.
    #[serde(serialize_with = "as_optional_text")]
    pub pn: Option<Jid>,
    /// The sender's LID user, when known.
    #[serde(serialize_with = "as_optional_text")]
    pub lid: Option<Jid>,
    /// What it is.
    pub kind: ContentKind,
    /// The text shown.
    pub text: String,
    /// The file shown, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub media: Option<MediaSeen>,
    /// When it was first shown, unix seconds.
    pub at: u64,
    /// How often it was put on the screen; 1 unless this crate is broken.
    pub displays: u32,
    /// How often the *sender* sent this id again in a new ciphertext after it was shown.
    pub duplicates: u32,
    /// How often the *server* delivered the very same ciphertext again.
    pub redeliveries: u32,
    /// When this person (on any device) read it, unix seconds.
    pub read: Option<u64>,
    /// All of it, encoded: a placeholder resend carries it once more.
    #[serde(skip)]
    pub(super) message: Vec<u8>,
}

/// What a receipt said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReceiptKind {
    /// Delivered to a device that is in use.
    Delivered,
    /// Delivered to a device in the background: no second tick.
    Inactive,
    /// Read.
    Read,
    /// Played (voice or video note).
    Played,
}

/// One device's receipt for one outbound message.
#[derive(Debug, Clone, Serialize)]
pub struct DeviceReceipt {
    /// The device that sent it; device 0 when the receipt named only the user.
    #[serde(serialize_with = "as_text")]
    pub from: Jid,
    /// What it said.
    pub kind: ReceiptKind,
    /// When it arrived, unix seconds.
    pub at: u64,
}

/// A message this person sent, from the phone or from a companion of the account.
#[derive(Debug, Clone, Serialize)]
pub struct Outbound {
    /// Stanza id.
    pub id: String,
    /// The peer, in the addressing the message was sent under, or the group.
    #[serde(serialize_with = "as_text")]
    pub to: Jid,
    /// The text sent; of a file, its caption.
    pub text: String,
    /// The file sent, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub media: Option<MediaSeen>,
    /// When it was sent (or, for a companion's, when its copy arrived), unix seconds.
    pub at: u64,
    /// The device of the account that sent it; 0 is this phone.
    pub via: u16,
    /// Of a companion's copy: whether it named its chat inside the encryption, too, as it should.
    pub wrapped: bool,
    /// When the server acknowledged it, unix seconds; only for `via == 0`.
    pub server_acked: Option<u64>,
    /// The server's `error` when it refused the message.
    pub refused: Option<String>,
    /// When the first device in use reported delivery, unix seconds.
    pub delivered: Option<u64>,
    /// When it was first reported read, unix seconds.
    pub read: Option<u64>,
    /// Every receipt, in order of arrival.
    pub receipts: Vec<DeviceReceipt>,
    /// How often a device asked for it again and got it.
    pub resends: u32,
    /// How often a companion's copy of this id arrived again; 0 for `via == 0`.
    pub duplicates: u32,
    /// All of it, encoded: a resend must carry the same, its message secret too.
    #[serde(skip)]
    pub(super) message: Vec<u8>,
}

impl Outbound {
    /// A message of which nothing is known yet but that it was sent.
    pub(super) fn new(id: String, to: Jid, text: String, at: u64, via: u16) -> Self {
        Self {
            id,
            to,
            text,
            media: None,
            at,
            via,
            wrapped: false,
            server_acked: None,
            refused: None,
            delivered: None,
            read: None,
            receipts: Vec::new(),
            resends: 0,
            duplicates: 0,
            message: Vec::new(),
        }
    }
}

/// A message that could not be opened; it goes away when a resend succeeds.
#[derive(Debug, Clone, Serialize)]
pub struct Undecryptable {
    /// Stanza id.
    pub id: String,
    /// The sender's device, in its canonical addressing.
    #[serde(serialize_with = "as_text")]
    pub from: Jid,
    /// How many retry receipts were sent for it.
    pub attempts: u8,
    /// Why it could not be opened, last time.
    pub reason: String,
    /// First failure, unix seconds.
    pub at: u64,
}

/// What a phone saw of somebody's presence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PresenceSeen {
    /// `true` while available.
    pub available: bool,
    /// `composing`, `recording` or nothing, from the last chat state.
    pub typing: Option<String>,
    /// When the last of these changed, unix seconds.
    pub at: u64,
}

/// What a client did that `WhatsApp` would not accept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "what")]
pub enum ViolationKind {
    /// A Signal message key was used twice: another ciphertext, or another id, on a spent counter
    /// of a session or a spent iteration of a sender key.
    CounterReused {
        /// The counter within its sending chain.
        counter: u32,
    },
    /// A session was started from a published one-time prekey that another session had used up.
    PrekeyReused {
        /// Its id.
        prekey: u32,
    },
    /// One id carries two different contents.
    IdReused,
    /// The sender is not in the account's device list.
    UnknownDevice,
    /// A companion's `pkmsg` without `<device-identity>`.
    MissingDeviceIdentity,
    /// A device identity whose signatures or account key do not hold.
    WrongAdv {
        /// Which check failed.
        detail: String,
    },
    /// The identity key inside a `pkmsg` or bundle differs from the directory's.
    WrongIdentity,
    /// A prekey bundle whose signed prekey is not signed by its identity.
    BadSignature,
    /// Padding that is not `n` bytes of value `n`, 1 ≤ n ≤ 16.
    BadPadding,
    /// Plaintext that is not a `Message`.
    BadProtobuf,
    /// An `<enc>` with a version other than 2 or an unknown type.
    BadEnc {
        /// What was wrong.
        detail: String,
    },
    /// Ciphertext that is not a Signal message at all.
    BadCiphertext,
    /// A stanza without what its kind requires.
    BadStanza {
        /// What is missing.
        detail: String,
    },
    /// A file that is not where its message says, or not what it says.
    BadMedia {
        /// Which check failed.
        detail: String,
    },
    /// An app-state patch that is not authentic, or not built over what came before it.
    BadPatch {
        /// Which check failed.
        detail: String,
    },
    /// A `deviceSentMessage` from another account, or one that names another destination than the
    /// stanza.
    ForgedDeviceSent,
    /// A sender key that is none, or that names another group than the stanza.
    BadDistribution,
    /// A receipt from somebody the message was not sent to.
    ForeignReceipt,
    /// A retry receipt without what it must carry.
    BadRetry {
        /// What is missing.
        detail: String,
    },
}

/// One objection, with the stanza it concerns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// When, unix seconds.
    pub at: u64,
    /// The offending device as the stanza named it; empty when it named none.
    pub from: String,
    /// The stanza id; empty when it had none.
    pub id: String,
    /// What.
    #[serde(flatten)]
    pub kind: ViolationKind,
}
