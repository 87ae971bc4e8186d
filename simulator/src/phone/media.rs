//! Files: encrypting and announcing them, fetching and checking them.

use bytes::Bytes;
use rand::RngExt as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use wa::message::{AudioMessage, DocumentMessage, ImageMessage, StickerMessage, VideoMessage};
use wacore::download::{DownloadUtils, MediaType};
use wacore::upload::encrypt_media_with_key;
use wacore_binary::{Jid, Node};
use waproto::buffa::MessageField;
use waproto::whatsapp as wa;

use super::content;
use super::net::Net;
use super::record::ViolationKind;
use super::{Phone, PhoneError};

/// What kind of file a message carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MediaKind {
    /// A picture.
    Image,
    /// A film.
    Video,
    /// A sound file.
    Audio,
    /// A voice message, recorded on the spot.
    Voice,
    /// Any file, by name.
    Document,
    /// A sticker.
    Sticker,
}

impl MediaKind {
    fn crypto(self) -> MediaType {
        match self {
            Self::Image => MediaType::Image,
            Self::Video => MediaType::Video,
            Self::Audio | Self::Voice => MediaType::Audio,
            Self::Document => MediaType::Document,
            Self::Sticker => MediaType::Sticker,
        }
    }

    /// `mediatype` of the `<enc>` that carries it.
    fn stanza(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Video => "video",
            Self::Audio => "audio",
            Self::Voice => "ptt",
            Self::Document => "document",
            Self::Sticker => "sticker",
        }
    }
}

/// A file to send.
#[derive(Debug, Clone)]
pub struct Attachment {
    /// What it is.
    pub kind: MediaKind,
    /// Its MIME type.
    pub mime_type: String,
    /// The file.
    pub data: Bytes,
    /// Text under it. Sounds and stickers carry none.
    pub caption: String,
    /// Its name; shown for documents.
    pub file_name: Option<String>,
}

impl Attachment {
    /// A JPEG with a caption.
    pub fn jpeg(data: impl Into<Bytes>, caption: impl Into<String>) -> Self {
        Self {
            kind: MediaKind::Image,
            mime_type: "image/jpeg".to_owned(),
            data: data.into(),
            caption: caption.into(),
            file_name: None,
        }
    }

    /// A document under a name.
    pub fn document(
        data: impl Into<Bytes>,
        mime_type: impl Into<String>,
        file_name: impl Into<String>,
    ) -> Self {
        Self {
            kind: MediaKind::Document,
            mime_type: mime_type.into(),
            data: data.into(),
            caption: String::new(),
            file_name: Some(file_name.into()),
        }
    }
}

/// A file in a message, as the message describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MediaSeen {
    /// What it is.
    pub kind: MediaKind,
    /// Its MIME type.
    pub mime_type: String,
    /// Length in bytes.
    pub size: u64,
    /// SHA-256 of the file, in hexadecimal.
    pub sha256: String,
    /// Its name, if it has one.
    pub file_name: Option<String>,
    /// Whether the phone fetched it, and found it to be what the message says.
    pub opened: bool,
    #[serde(skip)]
    reference: Reference,
}

/// Where a file is and what opens it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Reference {
    direct_path: String,
    key: Vec<u8>,
    encrypted_sha256: Vec<u8>,
}

impl MediaSeen {
    /// Fetches the file and checks it against everything the message says of it.
    pub(super) fn open(&self, net: &dyn Net) -> Result<Bytes, ViolationKind> {
        let bad = |detail: &str| ViolationKind::BadMedia {
            detail: detail.to_owned(),
        };
        let blob = net
            .media(&self.reference.direct_path)
            .ok_or_else(|| bad("not on the media host"))?;
        if Sha256::digest(&blob).as_slice() != self.reference.encrypted_sha256 {
            return Err(bad("the blob's hash differs"));
        }
        let data =
            DownloadUtils::verify_and_decrypt(&blob, &self.reference.key, self.kind.crypto())
                .map_err(|error| bad(&error.to_string()))?;
        if hex::encode(Sha256::digest(&data)) != self.sha256 {
            return Err(bad("the file's hash differs"));
        }
        if data.len() as u64 != self.size {
            return Err(bad("the file's length differs"));
        }
        Ok(data.into())
    }
}

macro_rules! seen {
    ($kind:expr, $message:expr, $name:expr) => {
        MediaSeen {
            kind: $kind,
            mime_type: $message.mimetype.clone().unwrap_or_default(),
            size: $message.file_length.unwrap_or_default(),
            sha256: hex::encode($message.file_sha256.as_deref().unwrap_or_default()),
            file_name: $name,
            opened: false,
            reference: Reference {
                direct_path: $message.direct_path.clone().unwrap_or_default(),
                key: $message.media_key.clone().unwrap_or_default(),
                encrypted_sha256: $message.file_enc_sha256.clone().unwrap_or_default(),
            },
        }
    };
}

/// The file a message carries and its caption.
pub(super) fn of_message(message: &wa::Message) -> Option<(MediaSeen, String)> {
    if let Some(it) = message.image_message.as_option() {
        let caption = it.caption.clone().unwrap_or_default();
        return Some((seen!(MediaKind::Image, it, None), caption));
    }
    if let Some(it) = message.video_message.as_option() {
        let caption = it.caption.clone().unwrap_or_default();
        return Some((seen!(MediaKind::Video, it, None), caption));
    }
    if let Some(it) = message.audio_message.as_option() {
        let kind = if it.ptt == Some(true) {
            MediaKind::Voice
        } else {
            MediaKind::Audio
        };
        return Some((seen!(kind, it, None), String::new()));
    }
    if let Some(it) = document_of(message) {
        let caption = it.caption.clone().unwrap_or_default();
        return Some((
            seen!(MediaKind::Document, it, it.file_name.clone()),
            caption,
        ));
    }
    let it = message.sticker_message.as_option()?;
    Some((seen!(MediaKind::Sticker, it, None), String::new()))
}

/// A document, with a caption wrapped once more, as official clients write it.
fn document_of(message: &wa::Message) -> Option<&DocumentMessage> {
    message.document_message.as_option().or_else(|| {
        let wrapped = message.document_with_caption_message.as_option()?;
        wrapped.message.as_option()?.document_message.as_option()
    })
}

/// What the media host and the encryption gave a file.
struct Uploaded {
    url: String,
    direct_path: String,
    key: [u8; 32],
    sha256: [u8; 32],
    encrypted_sha256: [u8; 32],
    /// Unix seconds.
    at: i64,
}

macro_rules! file_message {
    ($type:ident, $file:expr, $up:expr, { $($more:tt)* }) => {
        MessageField::some($type {
            url: Some($up.url),
            direct_path: Some($up.direct_path),
            mimetype: Some($file.mime_type.clone()),
            file_length: Some($file.data.len() as u64),
            media_key: Some($up.key.to_vec()),
            file_sha256: Some($up.sha256.to_vec()),
            file_enc_sha256: Some($up.encrypted_sha256.to_vec()),
            media_key_timestamp: Some($up.at),
            $($more)*
            ..Default::default()
        })
    };
}

fn message_of(file: &Attachment, up: Uploaded, secret: &[u8]) -> wa::Message {
    let caption = Some(file.caption.clone()).filter(|caption| !caption.is_empty());
    let mut message = wa::Message {
        message_context_info: content::context(secret),
        ..Default::default()
    };
    match file.kind {
        MediaKind::Image => {
            message.image_message = file_message!(ImageMessage, file, up, { caption, });
        }
        MediaKind::Video => {
            message.video_message = file_message!(VideoMessage, file, up, { caption, });
        }
        MediaKind::Audio | MediaKind::Voice => {
            let ptt = Some(file.kind == MediaKind::Voice);
            message.audio_message = file_message!(AudioMessage, file, up, { ptt, });
        }
        MediaKind::Document => {
            let file_name = file.file_name.clone();
            message.document_message =
                file_message!(DocumentMessage, file, up, { caption, file_name, });
        }
        MediaKind::Sticker => {
            message.sticker_message = file_message!(StickerMessage, file, up, {});
        }
    }
    message
}

impl Phone {
    /// Sends a file to a PN or LID user: encrypts it, puts it on the media host and announces it.
    /// Returns the message id and the `<message>` with one `<to>` per device.
    pub fn send_media(
        &mut self,
        to: &Jid,
        file: &Attachment,
        net: &mut dyn Net,
    ) -> Result<(String, Node), PhoneError> {
        let secret: [u8; 32] = self.rng.random();
        let crypto = file.kind.crypto();
        let key: [u8; 32] = self.rng.random();
        let sealed = encrypt_media_with_key(&file.data, crypto, Some(&key))
            .map_err(|error| PhoneError::Media(error.to_string()))?;
        let stored = net.store_media(crypto.mms_type(), sealed.data_to_upload.into());
        let uploaded = Uploaded {
            url: stored.url,
            direct_path: stored.direct_path,
            key: sealed.media_key,
            sha256: sealed.file_sha256,
            encrypted_sha256: sealed.file_enc_sha256,
            at: i64::try_from(net.now()).unwrap_or(i64::MAX),
        };
        let message = message_of(file, uploaded, &secret);
        self.send_message(to, message, Some(file.kind.stanza()), net)
    }

    /// The file of a message in the inbox, fetched and checked again. `None` when there is no such
    /// message or it carries none.
    pub fn open_media(&self, id: &str, net: &dyn Net) -> Option<Result<Bytes, ViolationKind>> {
        let entry = self.inbox.iter().find(|entry| entry.id == id)?;
        Some(entry.media.as_ref()?.open(net))
    }
}
