//! Taking a file in that is to be sent.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tonic::Streaming;

use super::{MediaApi, UPLOADS_EACH};
use crate::api::gate::Caller;
use crate::api::names::{FileId, MediaName, session_name};
use crate::api::once::mutation;
use crate::api::status::{ApiError, Reason};
use crate::api::{convert, faults, fields, layer};
use crate::domain::ids::{SessionName, WorkspaceId};
use crate::domain::media::UploadedMedia;
use crate::pb::upload_media_request::Frame;
use crate::pb::{UploadMediaInfo, UploadMediaRequest, UploadMediaResponse};
use crate::store::media::{IncomingError, KeepError, MediaStore, NewMedia, SealedFile};
use crate::store::{LookupError, StoreError};

mutation! {
    UploadMediaInfo is "UploadMedia";
}

/// Longest MIME type, in bytes.
const MAX_MIME_TYPE: usize = 100;

/// Longest file name, in characters.
pub(in crate::api) const MAX_FILE_NAME: usize = 255;

/// Largest chunk, in bytes.
const MAX_CHUNK: usize = 512 << 10;

/// How long a client may send nothing.
const SILENCE: Duration = Duration::from_mins(1);

/// Bytes a client must send in a second, all in all, after its first minute.
const SLOWEST: u64 = 8 << 10;

/// How long an upload waits for its turn.
const SLOT_PATIENCE: Duration = Duration::from_secs(30);

impl MediaApi {
    /// Takes a file from its first frame to its last.
    pub(super) async fn upload(
        &self,
        caller: &Caller,
        mut frames: Streaming<UploadMediaRequest>,
    ) -> Result<UploadMediaResponse, ApiError> {
        let Some(Frame::Info(info)) = next(&mut frames).await? else {
            return Err(ApiError::new(
                Reason::StreamNotOpened,
                "the first message of an upload must be `info`: which session, and what the file is",
            ));
        };
        let name = session_name("info.parent", &info.parent)?;
        let workspace = self.gate.workspace(caller, &name).await?;
        let standing = caller.standing.within(&workspace, &name);
        let work = async {
            check(&info)?;
            let session = workspace.session(&name.session).await;
            let session = session.map_err(|error| ApiError::from(error).at(&name))?;
            let store = session.media().ok_or_else(nowhere)?;
            let _slots = self.slots(&name.workspace).await?;
            let sealed = receive(&store, &mut frames).await?;
            let info = described(info, &sealed)?;
            tracing::info!(size = sealed.size(), "a file was uploaded");
            let new = NewMedia {
                mime_type: info.mime_type.clone(),
                file_name: info.file_name.clone(),
            };
            // A file may go before its answer does, and is not there after a restore.
            let is_there = async |earlier: &UploadMediaResponse| is_kept(&store, earlier).await;
            self.once
                .run_unless(&workspace, &info, is_there, async |ticket, replaces| {
                    let of = name.clone();
                    let remember = ticket.remember(move |media| answer(&of, media));
                    let kept = store.keep(sealed, new, remember, replaces).await;
                    Ok(answer(&name, &kept.map_err(not_kept)?))
                })
                .await
        };
        if self.stop.is_cancelled() {
            return Err(faults::draining());
        }
        // One that is under way may end before the daemon does.
        tokio::select! {
            done = work => done,
            lost = standing.lost() => Err(lost),
        }
    }

    /// A place among all uploads, and among those of the workspace.
    async fn slots(&self, workspace: &WorkspaceId) -> Result<[OwnedSemaphorePermit; 2], ApiError> {
        // One expression: its guard locks a part of the map, and must be gone before anything is awaited.
        let own = self
            .uploads_of
            .entry(workspace.clone())
            .or_insert_with(|| Arc::new(Semaphore::new(UPLOADS_EACH)))
            .clone();
        let both = async {
            let own = own.acquire_owned().await?;
            let shared = Arc::clone(&self.uploads).acquire_owned().await?;
            Ok::<_, AcquireError>([own, shared])
        };
        match tokio::time::timeout(SLOT_PATIENCE, both).await {
            Ok(Ok(slots)) => Ok(slots),
            _ => Err(ApiError::new(
                Reason::TooManyStreams,
                "too many files are being uploaded at once",
            )
            .retry_after(SLOT_PATIENCE)),
        }
    }
}

/// Whether the file of an earlier answer is there.
async fn is_kept(store: &MediaStore, earlier: &UploadMediaResponse) -> Result<bool, ApiError> {
    let name = earlier
        .media
        .as_ref()
        .map_or("", |media| media.name.as_str());
    let Ok(FileId::Uploaded(id)) = MediaName::parse("name", name).map(|name| name.file) else {
        return Ok(false);
    };
    match store.get(id).await {
        Ok(_) => Ok(true),
        Err(LookupError::NotFound { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn answer(session: &SessionName, media: &UploadedMedia) -> UploadMediaResponse {
    UploadMediaResponse {
        media: Some(convert::uploaded(session, media)),
    }
}

/// What can be said of the description before the file has come.
fn check(info: &UploadMediaInfo) -> Result<(), ApiError> {
    fields::request_id(&info.request_id)?;
    let mime = &info.mime_type;
    let well_formed = mime
        .split(';')
        .next()
        .and_then(|essence| essence.trim().split_once('/'))
        .is_some_and(|(kind, sub)| !kind.is_empty() && !sub.is_empty());
    let printable = mime.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if !well_formed || !printable || mime.len() > MAX_MIME_TYPE {
        return Err(ApiError::field(
            "info.mime_type",
            "must be a MIME type, such as image/jpeg or application/pdf",
        ));
    }
    if let Some(name) = &info.file_name {
        file_name("info.file_name", name)?;
    }
    if let Some(sha256) = &info.sha256
        && hex::decode(sha256).map_or(0, |digest| digest.len()) != 32
    {
        return Err(ApiError::field(
            "info.sha256",
            "must be a SHA-256 in hexadecimal: 64 digits",
        ));
    }
    Ok(())
}

/// A name that people see: never a path.
pub(in crate::api) fn file_name(field: &'static str, name: &str) -> Result<(), ApiError> {
    let length = name.chars().count();
    // Directions that are overridden make `exe.pdf` of what is not.
    let odd = |c: char| {
        matches!(c, '/' | '\\' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
            || c.is_control()
    };
    if (1..=MAX_FILE_NAME).contains(&length) && !name.chars().any(odd) {
        return Ok(());
    }
    Err(ApiError::field(
        field,
        format!(
            "must have 1 to {MAX_FILE_NAME} characters, without `/`, `\\` and control characters"
        ),
    ))
}

/// The description completed by what came: what makes a repetition the same.
fn described(info: UploadMediaInfo, sealed: &SealedFile) -> Result<UploadMediaInfo, ApiError> {
    let (size, sha256) = (sealed.size(), sealed.sha256().to_string());
    if size == 0 {
        return Err(ApiError::field("chunk", "the file is empty"));
    }
    if let Some(said) = info.size.filter(|said| *said != size) {
        return Err(ApiError::field(
            "info.size",
            format!("says {said} bytes, but {size} came: upload the file again"),
        ));
    }
    if info
        .sha256
        .as_ref()
        .is_some_and(|said| !said.eq_ignore_ascii_case(&sha256))
    {
        return Err(ApiError::field(
            "info.sha256",
            "is not that of the file that came: upload the file again",
        ));
    }
    Ok(UploadMediaInfo {
        size: Some(size),
        sha256: Some(sha256),
        ..info
    })
}

async fn next(frames: &mut Streaming<UploadMediaRequest>) -> Result<Option<Frame>, ApiError> {
    let frame = tokio::time::timeout(SILENCE, frames.message())
        .await
        .map_err(|_| {
            let said = format!("nothing of the file came for {SILENCE:?}");
            ApiError::new(Reason::DeadlineExceeded, said)
        })?
        .map_err(|status| layer::foreign(&status))?;
    match frame {
        None => Ok(None),
        Some(UploadMediaRequest { frame: Some(frame) }) => Ok(Some(frame)),
        Some(UploadMediaRequest { frame: None }) => {
            Err(ApiError::field("frame", "is empty: send `info` or `chunk`"))
        }
    }
}

async fn receive(
    store: &MediaStore,
    frames: &mut Streaming<UploadMediaRequest>,
) -> Result<SealedFile, ApiError> {
    let mut incoming = store.begin();
    let begun = Instant::now();
    let mut seen = 0;
    while let Some(frame) = next(frames).await? {
        let Frame::Chunk(chunk) = frame else {
            return Err(ApiError::new(
                Reason::StreamNotOpened,
                "only the first message of an upload may be `info`",
            ));
        };
        if chunk.len() > MAX_CHUNK {
            return Err(ApiError::field(
                "chunk",
                format!("has {} bytes; at most {MAX_CHUNK} are allowed", chunk.len()),
            ));
        }
        seen += chunk.len() as u64;
        if begun.elapsed() > SILENCE + Duration::from_secs(seen / SLOWEST) {
            let said = format!("the file comes with less than {SLOWEST} bytes a second");
            return Err(ApiError::new(Reason::DeadlineExceeded, said));
        }
        incoming
            .write(Bytes::from(chunk))
            .await
            .map_err(not_taken)?;
    }
    incoming.finish().await.map_err(not_taken)
}

fn nowhere() -> ApiError {
    ApiError::new(
        Reason::UnsupportedByProvider,
        "this daemon keeps no files to send",
    )
}

fn not_taken(error: IncomingError) -> ApiError {
    match error {
        IncomingError::TooLarge { most } => ApiError::new(
            Reason::MessageTooLarge,
            format!("the file is longer than {most} bytes (media.max_file)"),
        ),
        IncomingError::Full { .. } => {
            let said = format!("{error} (media.max_workspace); files go when they expire");
            ApiError::new(Reason::QuotaExceeded, said)
        }
        IncomingError::Disk => ApiError::new(Reason::QuotaExceeded, error.to_string()),
        IncomingError::Io(error) => disk(&error),
    }
}

/// What the disk says: full, or its directory has gone with its session, or a fault.
fn disk(error: &std::io::Error) -> ApiError {
    match error.kind() {
        std::io::ErrorKind::StorageFull => ApiError::new(Reason::QuotaExceeded, "the disk is full"),
        std::io::ErrorKind::NotFound => StoreError::Gone.into(),
        _ => StoreError::Io(error.to_string()).into(),
    }
}

fn not_kept(error: KeepError) -> ApiError {
    match error {
        KeepError::Io(error) => disk(&error),
        KeepError::Store(error) => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(change: impl FnOnce(&mut UploadMediaInfo)) -> UploadMediaInfo {
        let mut info = UploadMediaInfo {
            parent: "workspaces/default/sessions/main".into(),
            request_id: "1b4e28ba-2fa1-4d2b-883f-0016d3cca427".into(),
            mime_type: "audio/ogg; codecs=opus".into(),
            ..UploadMediaInfo::default()
        };
        change(&mut info);
        info
    }

    #[test]
    fn a_description_is_judged_before_the_file_comes() {
        check(&info(|_| {})).unwrap();
        check(&info(|it| it.file_name = Some("счёт 7.pdf".into()))).unwrap();
        let bad: [fn(&mut UploadMediaInfo); 7] = [
            |it| it.request_id.clear(),
            |it| it.mime_type.clear(),
            |it| it.mime_type = "jpeg".into(),
            |it| it.mime_type = "image/jpeg\r\nx: y".into(),
            |it| it.file_name = Some("../../etc/passwd".into()),
            |it| it.file_name = Some(String::new()),
            |it| it.sha256 = Some("abc".into()),
        ];
        for (number, bad) in bad.into_iter().enumerate() {
            assert!(check(&info(bad)).is_err(), "{number}");
        }
    }
}
