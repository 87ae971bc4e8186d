//! Uploaded files as stored.

use std::time::Duration;

use prost::Message;

use crate::domain::clock::Timestamp;
use crate::domain::ids::MediaId;
use crate::domain::media::{MediaKind, Sha256, UploadedMedia};
use crate::store::errors::StoreError;
use crate::store::migrate::first_version;
use crate::store::scope::Scope;

/// When a file that waiting messages need is looked at again.
const LOOK_AGAIN: Duration = Duration::from_hours(1);

#[derive(Clone, PartialEq, Message)]
pub(in crate::store) struct MediaRow {
    #[prost(string, tag = "1")]
    pub(super) mime_type: String,
    #[prost(string, optional, tag = "2")]
    pub(super) file_name: Option<String>,
    #[prost(uint64, tag = "3")]
    pub(super) size: u64,
    #[prost(bytes = "vec", tag = "4")]
    pub(super) sha256: Vec<u8>,
    /// The age identity that opens the file.
    #[prost(string, tag = "5")]
    pub(super) key: String,
    #[prost(uint64, tag = "6")]
    pub(super) created_at: u64,
    #[prost(uint64, tag = "7")]
    pub(super) expires_at: u64,
    /// Messages in the outbox that are not settled and need the file.
    #[prost(uint32, tag = "8")]
    pub(super) uses: u32,
    #[prost(message, repeated, tag = "9")]
    pub(super) references: Vec<ReferenceRow>,
}
first_version!(MediaRow, "uploaded file");

/// Where the provider keeps the file.
#[derive(Clone, PartialEq, Message)]
pub(in crate::store) struct ReferenceRow {
    #[prost(uint32, tag = "1")]
    pub(super) kind: u32,
    /// The provider's own words.
    #[prost(bytes = "vec", tag = "2")]
    pub(super) reference: Vec<u8>,
    #[prost(uint64, tag = "3")]
    pub(super) at: u64,
}

/// The number of a kind on disk: never reuse or renumber one.
pub(super) trait KindNumber {
    /// The number.
    fn number(&self) -> u32;
}

impl KindNumber for MediaKind {
    fn number(&self) -> u32 {
        match self {
            Self::Image => 1,
            Self::Video => 2,
            Self::Audio => 3,
            Self::Voice => 4,
            Self::Document => 5,
            Self::Sticker => 6,
        }
    }
}

impl MediaRow {
    pub(super) fn to_domain(&self, id: MediaId) -> Result<UploadedMedia, StoreError> {
        let damaged = |_| StoreError::Damaged(format!("uploaded file {id}: not a SHA-256"));
        let sha256 = self.sha256.as_slice().try_into().map_err(damaged)?;
        Ok(UploadedMedia {
            id,
            mime_type: self.mime_type.clone(),
            file_name: self.file_name.clone(),
            size: self.size,
            sha256: Sha256(sha256),
            created_at: Timestamp(self.created_at),
            expires_at: Timestamp(self.expires_at),
        })
    }
}

/// Until when the row under `key` stays.
pub(in crate::store) fn ending(
    scope: &Scope,
    key: &[u8],
    sealed: &[u8],
    now: Timestamp,
) -> Result<Timestamp, StoreError> {
    let row: MediaRow = scope.open(key, sealed)?;
    let deadline = Timestamp(row.expires_at);
    Ok(if row.uses > 0 {
        deadline.max(now.plus(LOOK_AGAIN))
    } else {
        deadline
    })
}
