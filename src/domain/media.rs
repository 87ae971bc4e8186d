//! Files in messages.

use serde::{Deserialize, Serialize};

use super::clock::Timestamp;
use super::ids::MediaId;

/// What kind of file a message carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MediaKind {
    /// A picture.
    Image,
    /// A film, or an animation.
    Video,
    /// A sound file.
    Audio,
    /// A voice message.
    Voice,
    /// Any file, shown by name.
    Document,
    /// A sticker.
    Sticker,
}

/// A file as its message describes it. The file itself stays with the provider until it is fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Media {
    /// What kind of file it is.
    pub kind: MediaKind,
    /// MIME type, as the sender gave it; empty when they gave none.
    pub mime_type: String,
    /// Length in bytes.
    pub size: u64,
    /// SHA-256 of the file.
    pub sha256: Sha256,
    /// Text under it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caption: Option<String>,
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_name: Option<String>,
    /// How long it plays, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u32>,
    /// Width in pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    /// Height in pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,
    /// A small picture of it in JPEG, to be shown before the file is fetched; empty when there is none.
    /// Only of files that are sent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub thumbnail: Vec<u8>,
    /// The whole message in the provider's encoding, with what opens the file; empty for files that are
    /// sent.
    #[serde(with = "super::message::base64_bytes")]
    pub raw: Vec<u8>,
}

/// A file that was uploaded to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadedMedia {
    /// Its id.
    pub id: MediaId,
    /// MIME type, as the client gave it.
    pub mime_type: String,
    /// Its name, if the client gave one.
    pub file_name: Option<String>,
    /// Length in bytes.
    pub size: u64,
    /// SHA-256 of the file.
    pub sha256: Sha256,
    /// When it was uploaded.
    pub created_at: Timestamp,
    /// When it goes, unless a message that waits still needs it.
    pub expires_at: Timestamp,
}

/// A SHA-256 digest; in hexadecimal wherever it is written out.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sha256(pub [u8; 32]);

impl std::fmt::Display for Sha256 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl std::fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sha256({self})")
    }
}

impl From<Sha256> for String {
    fn from(digest: Sha256) -> Self {
        digest.to_string()
    }
}

impl TryFrom<String> for Sha256 {
    type Error = hex::FromHexError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let mut digest = [0; 32];
        hex::decode_to_slice(&text, &mut digest)?;
        Ok(Self(digest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_written_in_hex_and_read_back() {
        let digest = Sha256([0xab; 32]);
        let json = serde_json::to_string(&digest).unwrap();
        assert_eq!(json, format!("\"{}\"", "ab".repeat(32)));
        assert_eq!(serde_json::from_str::<Sha256>(&json).unwrap(), digest);
        assert!(serde_json::from_str::<Sha256>("\"ab\"").is_err());
    }
}
