//! Files on their way from this command to the daemon.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use indicatif::ProgressBar;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use super::exit::{Exit, Failure};
use super::target::Daemon;
use super::{Context, progress};
use crate::pb;
use crate::pb::upload_media_request::Frame;

/// Bytes of the file in one message.
const CHUNK: usize = 64 << 10;

/// Messages that wait for the network.
const WAITING: usize = 4;

/// A file to send.
#[derive(Debug, Args)]
pub(crate) struct FileArgs {
    /// A file to send; TEXT, if there is one, becomes its caption
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// How the file is shown [default: what its type suggests]
    #[arg(long = "as", value_enum, value_name = "KIND", requires = "file")]
    kind: Option<Kind>,
    /// The file's MIME type [default: what its name suggests]
    #[arg(long, value_name = "TYPE", requires = "file")]
    mime_type: Option<String>,
}

/// How a file is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// A picture
    Image,
    /// A film
    Video,
    /// A sound file
    Audio,
    /// A voice message (audio/ogg with opus)
    Voice,
    /// A file, shown by name
    Document,
    /// A sticker (image/webp)
    Sticker,
}

impl From<Kind> for pb::MediaKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Image => Self::Image,
            Kind::Video => Self::Video,
            Kind::Audio => Self::Audio,
            Kind::Voice => Self::Voice,
            Kind::Document => Self::Document,
            Kind::Sticker => Self::Sticker,
        }
    }
}

impl FileArgs {
    /// Uploads the file for `session`; what a message with it says. `request_id` is the message's: from it
    /// follows the upload's, so that repeating the command repeats both.
    ///
    /// # Errors
    /// A file that cannot be read, or what the daemon refuses.
    pub(crate) async fn upload(
        &self,
        context: &Context,
        daemon: &Daemon,
        session: &str,
        path: &Path,
        request_id: &str,
        caption: Option<String>,
    ) -> Result<pb::OutboundMedia, Failure> {
        let unread = |error: std::io::Error| {
            Failure::new(
                Exit::Io,
                format!("{} cannot be read: {error}", path.display()),
            )
        };
        let mut file = std::fs::File::open(path).map_err(unread)?;
        let size = file.metadata().map_err(unread)?.len();
        let guessed = || {
            mime_guess::from_path(path)
                .first_or_octet_stream()
                .to_string()
        };
        let info = pb::UploadMediaInfo {
            parent: session.to_owned(),
            request_id: of_upload(request_id),
            mime_type: self.mime_type.clone().unwrap_or_else(guessed),
            file_name: path
                .file_name()
                .map(|name| name.to_string_lossy().into_owned()),
            size: Some(size),
            sha256: None,
        };
        let bar = progress::bytes(context, "uploading", Some(size));
        let (chunks, stream) = mpsc::channel(WAITING);
        let read = tokio::task::spawn_blocking({
            let bar = bar.clone();
            move || give(&mut file, &chunks, &bar)
        });
        let first = tokio_stream::once(pb::UploadMediaRequest {
            frame: Some(Frame::Info(info)),
        });
        let answer = daemon
            .media()
            .upload_media(first.chain(ReceiverStream::new(stream)))
            .await;
        bar.finish_and_clear();
        if let Ok(Err(error)) = read.await {
            return Err(unread(error));
        }
        let media = answer?.into_inner().media.unwrap_or_default();
        Ok(pb::OutboundMedia {
            name: media.name,
            kind: self
                .kind
                .map_or(pb::MediaKind::Unspecified, Into::into)
                .into(),
            caption,
            ..pb::OutboundMedia::default()
        })
    }
}

/// The upload's own request id: another random-looking one, always the same for the same message.
fn of_upload(request_id: &str) -> String {
    let digest = Sha256::new()
        .chain_update("upload of ")
        .chain_update(request_id)
        .finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_random_bytes(bytes)
        .into_uuid()
        .to_string()
}

/// Reads the file to whoever takes it. One that grew meanwhile fails the check of its length.
fn give(
    file: &mut std::fs::File,
    chunks: &mpsc::Sender<pb::UploadMediaRequest>,
    bar: &ProgressBar,
) -> std::io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let read = file.read(&mut buffer)?;
        let chunk = pb::UploadMediaRequest {
            frame: Some(Frame::Chunk(buffer[..read].to_vec())),
        };
        // A daemon that takes no more has answered why.
        if read == 0 || chunks.blocking_send(chunk).is_err() {
            return Ok(());
        }
        bar.inc(read as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_upload_of_a_message_has_an_id_of_its_own() {
        let message = "1b4e28ba-2fa1-4d2b-883f-0016d3cca427";
        let upload = of_upload(message);
        assert_eq!(upload, of_upload(message));
        assert_ne!(upload, message);
        let parsed = uuid::Uuid::parse_str(&upload).unwrap();
        assert_eq!(parsed.get_version_num(), 4);
    }
}
