//! `MediaService`.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::gate::{Call, Gate};
use super::names::MediaName;
use super::ports::Sessions;
use super::status::{ApiError, Reason};
use super::{contain, convert, faults};
use crate::domain::event::Payload;
use crate::domain::media::Media;
use crate::domain::message::Content;
use crate::pb::download_media_response::Frame;
use crate::pb::media_service_server::MediaService;
use crate::pb::{DownloadMediaRequest, DownloadMediaResponse};

/// Frames that wait for a slow reader.
const BUFFER: usize = 4;

type Out = mpsc::Sender<Result<DownloadMediaResponse, Status>>;

/// Implements `MediaService`.
#[derive(Debug)]
pub(super) struct MediaApi {
    gate: Gate,
    sessions: Arc<dyn Sessions>,
    stop: CancellationToken,
}

impl MediaApi {
    pub(super) fn new(gate: Gate, sessions: Arc<dyn Sessions>, stop: CancellationToken) -> Self {
        Self {
            gate,
            sessions,
            stop,
        }
    }

    async fn download(
        &self,
        call: Call<DownloadMediaRequest, MediaName>,
    ) -> Result<ReceiverStream<Result<DownloadMediaResponse, Status>>, ApiError> {
        let media = find(&call).await?;
        let chunks = self.sessions.fetch(&call.name.session, &media.raw).await?;
        tracing::info!(size = media.size, "a file is being downloaded");
        let info = convert::media(&media, call.name.to_string());
        let (out, stream) = mpsc::channel(BUFFER);
        let errors = out.clone();
        let (size, stop) = (media.size, self.stop.clone());
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

/// The file that the named event carries.
async fn find(call: &Call<DownloadMediaRequest, MediaName>) -> Result<Media, ApiError> {
    let name = &call.name;
    let found = call.workspace.journal().get_many(&[name.revision]).await?;
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

/// Sends what the file is, then the file. All of it was checked before the first chunk comes; if they end
/// early, the client is told.
async fn pass_on(
    info: crate::pb::MediaContent,
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
            "the file could not be read to its end: download it again",
        ));
    }
    Ok(())
}

async fn send(out: &Out, frame: Frame) -> bool {
    out.send(Ok(DownloadMediaResponse { frame: Some(frame) }))
        .await
        .is_ok()
}

#[tonic::async_trait]
impl MediaService for MediaApi {
    type DownloadMediaStream = ReceiverStream<Result<DownloadMediaResponse, Status>>;

    async fn download_media(
        &self,
        request: Request<DownloadMediaRequest>,
    ) -> Result<Response<Self::DownloadMediaStream>, Status> {
        let call = self
            .gate
            .open(request, |message| MediaName::parse("name", &message.name))
            .await?;
        let name = call.name.clone();
        let stream = self.download(call).await;
        Ok(Response::new(stream.map_err(|error| error.at(&name))?))
    }
}
