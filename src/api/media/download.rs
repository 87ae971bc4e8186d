//! Giving a file out.

use std::io::Read as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::MediaApi;
use crate::api::gate::Call;
use crate::api::names::{FileId, MediaName};
use crate::api::status::{ApiError, Reason};
use crate::api::{contain, convert, faults};
use crate::domain::event::Payload;
use crate::domain::ids::MediaId;
use crate::domain::media::Media;
use crate::domain::message::Content;
use crate::pb::download_media_response::Frame;
use crate::pb::{DownloadMediaRequest, DownloadMediaResponse, MediaContent};
use crate::store::media::MediaFile;

/// Frames that wait for a slow reader.
const BUFFER: usize = 4;

/// How long a client may take nothing.
const PATIENCE: Duration = Duration::from_mins(1);

/// Bytes given out at once.
const CHUNK: usize = 64 << 10;

type Out = mpsc::Sender<Result<DownloadMediaResponse, Status>>;

impl MediaApi {
    /// Checks that there is such a file and begins to give it out.
    pub(super) async fn download(
        &self,
        call: Call<DownloadMediaRequest, MediaName>,
    ) -> Result<ReceiverStream<Result<DownloadMediaResponse, Status>>, ApiError> {
        let (info, chunks) = match call.name.file {
            FileId::Arrived(revision) => {
                let media = arrived(&call, revision).await?;
                let chunks = self.sessions.fetch(&call.name.session, &media.raw).await?;
                (convert::media(&media, call.name.to_string()), chunks)
            }
            FileId::Uploaded(id) => uploaded(&call, id, &self.readers).await?,
        };
        tracing::info!(size = info.size, "a file is being downloaded");
        let (out, stream) = mpsc::channel(BUFFER);
        let errors = out.clone();
        let (size, stop) = (info.size, self.stop.clone());
        let work = async move {
            let outcome = tokio::select! {
                outcome = pass_on(info, size, chunks, &out) => outcome,
                () = stop.cancelled() => Err(faults::draining()),
                () = out.closed() => return,
            };
            if let Err(error) = outcome {
                // Nobody listens any more: nobody to tell.
                let _ = out.send(Err(error.into())).await;
            }
        };
        contain::spawn(errors, call.standing, work);
        Ok(ReceiverStream::new(stream))
    }
}

/// The file that the event at `revision` carries.
async fn arrived(
    call: &Call<DownloadMediaRequest, MediaName>,
    revision: u64,
) -> Result<Media, ApiError> {
    let name = &call.name;
    let found = call.workspace.journal().get_many(&[revision]).await?;
    let event = found.into_iter().flatten().next();
    match event.map(|event| (event.session, event.payload)) {
        Some((Some(session), Payload::Message { message, .. }))
            if session == name.session.session =>
        {
            match message.content {
                Content::Media { media } => Ok(*media),
                _ => Err(ApiError::not_found(&name.to_string())),
            }
        }
        _ => Err(ApiError::not_found(&name.to_string())),
    }
}

/// A file that was uploaded: what it is, and its bytes.
async fn uploaded(
    call: &Call<DownloadMediaRequest, MediaName>,
    id: MediaId,
    readers: &Arc<Semaphore>,
) -> Result<(MediaContent, mpsc::Receiver<Bytes>), ApiError> {
    let missing = || ApiError::not_found(&call.name.to_string());
    let session = call.workspace.session(&call.name.session.session).await?;
    let store = session.media().ok_or_else(missing)?;
    let (media, file) = store.open(id).await?;
    let slot = Arc::clone(readers).acquire_owned().await;
    let slot = slot.map_err(|_| faults::draining())?;
    let (chunks, out) = mpsc::channel(BUFFER);
    let info = MediaContent {
        name: call.name.to_string(),
        mime_type: media.mime_type,
        size: media.size,
        sha256: media.sha256.to_string(),
        file_name: media.file_name,
        ..MediaContent::default()
    };
    let handle = Handle::current();
    tokio::task::spawn_blocking(move || {
        let _slot = slot;
        if let Err(error) = give_out(&file, &chunks, &handle) {
            // The client sees that the file is incomplete.
            tracing::warn!(%error, "an uploaded file cannot be read");
        }
    });
    Ok((info, out))
}

/// Reads a file to whoever takes it.
fn give_out(
    file: &MediaFile,
    chunks: &mpsc::Sender<Bytes>,
    handle: &Handle,
) -> std::io::Result<()> {
    let mut file = file.read()?;
    let mut buffer = vec![0; CHUNK];
    loop {
        let read = file.read(&mut buffer)?;
        let chunk = Bytes::copy_from_slice(&buffer[..read]);
        let taken = || handle.block_on(chunks.send_timeout(chunk, PATIENCE));
        if read == 0 || taken().is_err() {
            return Ok(());
        }
    }
}

/// Sends what the file is, then the file. All of it was checked before the first chunk comes; if they end
/// early, the client is told.
async fn pass_on(
    info: MediaContent,
    size: u64,
    mut chunks: mpsc::Receiver<Bytes>,
    out: &Out,
) -> Result<(), ApiError> {
    if !send(out, Frame::Info(info)).await {
        return Ok(());
    }
    let mut left = size;
    while let Some(chunk) = chunks.recv().await {
        left = left.saturating_sub(chunk.len() as u64);
        if !send(out, Frame::Chunk(chunk.into())).await {
            return Ok(());
        }
    }
    if left > 0 {
        return Err(ApiError::new(
            Reason::MediaDamaged,
            "the file could not be read to its end: download it again, or, if it was uploaded here, upload it again",
        ));
    }
    Ok(())
}

async fn send(out: &Out, frame: Frame) -> bool {
    let frame = Ok(DownloadMediaResponse { frame: Some(frame) });
    out.send_timeout(frame, PATIENCE).await.is_ok()
}
