//! Carrying a file to WhatsApp's media hosts: encrypted onto disk as WhatsApp wants it, then uploaded.
//!
//! Memory is a few chunks a file, whatever its size. The encrypted blob lies in a file without a name, which
//! is gone with the process. A blob that reached the host and whose answer was lost lies there until the
//! host forgets it: nobody has its key.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek as _, SeekFrom, Write as _};
use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use whatsapp_rust::download::MediaType;
use whatsapp_rust::http::HttpStatusError;
use whatsapp_rust::wacore::upload::{EncryptedMediaInfo, UploadSource, encrypt_media_streaming};

use super::client::{Built, Parts};
use super::convert::outbound::{self, Reference};
use crate::domain::media::MediaKind;
use crate::provider::contract::UploadError;
use crate::store::media::MediaFile;

/// The encrypted blob. It holds its place among the fleet's uploads until nobody reads it any more.
struct Blob {
    file: Arc<File>,
    length: u64,
    stop: CancellationToken,
    _slot: OwnedSemaphorePermit,
}

/// A reader that fails once nobody waits for the upload.
struct Wanted<R> {
    inner: R,
    stop: CancellationToken,
}

impl<R: Read> Read for Wanted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.is_cancelled() {
            return Err(io::Error::other("the upload was given up"));
        }
        self.inner.read(buffer)
    }
}

impl UploadSource for Blob {
    fn len(&self) -> u64 {
        self.length
    }

    fn reader_from(&self, offset: u64) -> io::Result<Box<dyn Read + Send>> {
        // One attempt reads at a time, so sharing the place in the file does no harm.
        let mut file = self.file.try_clone()?;
        file.seek(SeekFrom::Start(offset))?;
        Ok(Box::new(Wanted {
            inner: BufReader::new(file),
            stop: self.stop.clone(),
        }))
    }
}

/// Uploads a file; the note of where it lies.
pub(super) async fn upload(
    built: &Built,
    parts: &Parts,
    file: MediaFile,
    kind: MediaKind,
) -> Result<Vec<u8>, UploadError> {
    let slot = Arc::clone(&parts.media.writers)
        .acquire_owned()
        .await
        .map_err(|_| UploadError::Temporary("the daemon is stopping".into()))?;
    let (scratch, media_type) = (parts.config.scratch.clone(), media_type(kind));
    // What goes on in other threads ends, and gives its place back, when nobody waits for it any more.
    let stop = CancellationToken::new();
    let _given_up = stop.clone().drop_guard();
    let encrypted = tokio::task::spawn_blocking(move || {
        let blob = tempfile::tempfile_in(scratch).map_err(|error| disk(&error))?;
        let (file, length, info) = encrypt(&file, blob, media_type, &stop)?;
        let blob = Blob {
            file: Arc::new(file),
            length,
            stop,
            _slot: slot,
        };
        Ok::<_, UploadError>((blob, info))
    });
    let (blob, info) = encrypted
        .await
        .map_err(|_| UploadError::Temporary("the encryption of the file failed".into()))??;
    let answer = built
        .client
        .upload_stream(blob, info, media_type)
        .await
        .map_err(|error| refusal(built, &error))?;
    serde_json::to_vec(&Reference::from(answer))
        .map_err(|error| UploadError::Temporary(error.to_string()))
}

/// Completes a stored message.
pub(super) fn attach(encoded: &[u8], reference: &[u8]) -> Result<Vec<u8>, UploadError> {
    let refused = |detail: String| UploadError::Refused(detail);
    let mut message = waproto::codec::message_decode(encoded)
        .map_err(|error| refused(format!("the stored message cannot be decoded: {error}")))?;
    let reference: Reference = serde_json::from_slice(reference)
        .map_err(|error| refused(format!("the note of the upload cannot be read: {error}")))?;
    if !outbound::attach(&mut message, &reference) {
        return Err(refused("the stored message carries no file".into()));
    }
    Ok(waproto::codec::message_to_vec(&message))
}

fn disk(error: &io::Error) -> UploadError {
    UploadError::Temporary(format!("the file cannot be stored: {error}"))
}

/// The kinds WhatsApp derives different keys for.
fn media_type(kind: MediaKind) -> MediaType {
    match kind {
        MediaKind::Image => MediaType::Image,
        MediaKind::Video => MediaType::Video,
        MediaKind::Audio | MediaKind::Voice => MediaType::Audio,
        MediaKind::Document => MediaType::Document,
        MediaKind::Sticker => MediaType::Sticker,
    }
}

/// Reads the stored file to its end, so that a damaged one is noticed before anything leaves.
fn encrypt(
    file: &MediaFile,
    blob: File,
    media_type: MediaType,
    stop: &CancellationToken,
) -> Result<(File, u64, EncryptedMediaInfo), UploadError> {
    let mut stored = Noticing {
        inner: Wanted {
            inner: file.read().map_err(|error| lost(&error))?,
            stop: stop.clone(),
        },
        failed: None,
    };
    let mut out = BufWriter::new(blob);
    let encrypted = encrypt_media_streaming(&mut stored, &mut out, media_type);
    if let Some(error) = &stored.failed {
        return Err(lost(error));
    }
    let info = encrypted.map_err(|error| disk(&io::Error::other(error)))?;
    out.flush().map_err(|error| disk(&error))?;
    let blob = out
        .into_inner()
        .map_err(|error| disk(&error.into_error()))?;
    if info.file_length != file.size() {
        return Err(UploadError::Lost("its length is not what it was".into()));
    }
    let length = blob.metadata().map_err(|error| disk(&error))?.len();
    Ok((blob, length, info))
}

/// What the file on disk says: a passing shortage of the machine, or that it is gone or damaged.
fn lost(error: &io::Error) -> UploadError {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
            UploadError::Lost(error.to_string())
        }
        _ => disk(error),
    }
}

/// A reader that remembers that it failed: the encryption reports reading and writing alike.
struct Noticing<R> {
    inner: R,
    failed: Option<io::Error>,
}

impl<R: Read> Read for Noticing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.inner.read(buffer) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                let said = io::Error::new(error.kind(), error.to_string());
                self.failed = Some(error);
                Err(said)
            }
            read => read,
        }
    }
}

/// Why an upload did not succeed. A host that refuses this very file will go on to; everything else
/// passes.
fn refusal(built: &Built, error: &anyhow::Error) -> UploadError {
    if !built.client.is_connected() {
        return UploadError::NotConnected;
    }
    let status = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<HttpStatusError>())
        .map(|refused| refused.status);
    match status {
        Some(status @ (400 | 413 | 415 | 422)) => {
            UploadError::Refused(format!("the media host answered {status}"))
        }
        _ => UploadError::Temporary(format!("{error:#}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_and_a_message_that_do_not_fit_are_refused() {
        assert!(matches!(
            attach(b"\xff", b"{}"),
            Err(UploadError::Refused(_))
        ));
        let text = waproto::codec::message_to_vec(&waproto::whatsapp::Message {
            conversation: Some("hi".into()),
            ..Default::default()
        });
        assert!(matches!(attach(&text, b"{}"), Err(UploadError::Refused(_))));
    }
}
