//! `MediaService`.

mod download;
mod upload;

pub(super) use self::upload::file_name;

use std::sync::Arc;

use dashmap::DashMap;
use tokio::sync::Semaphore;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::gate::Gate;
use super::names::MediaName;
use super::once::Once;
use super::ports::Sessions;
use crate::domain::ids::WorkspaceId;
use crate::pb::media_service_server::MediaService;
use crate::pb::{
    DownloadMediaRequest, DownloadMediaResponse, UploadMediaRequest, UploadMediaResponse,
};

/// Files taken in at a time, and how many of them for one workspace.
const UPLOADS: usize = 64;
const UPLOADS_EACH: usize = 8;

/// Uploaded files read at a time.
const READERS: usize = 16;

/// Implements `MediaService`.
#[derive(Debug)]
pub(super) struct MediaApi {
    gate: Gate,
    once: Arc<Once>,
    sessions: Arc<dyn Sessions>,
    uploads: Arc<Semaphore>,
    uploads_of: DashMap<WorkspaceId, Arc<Semaphore>>,
    readers: Arc<Semaphore>,
    stop: CancellationToken,
}

impl MediaApi {
    pub(super) fn new(
        gate: Gate,
        once: Arc<Once>,
        sessions: Arc<dyn Sessions>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            gate,
            once,
            sessions,
            uploads: Arc::new(Semaphore::new(UPLOADS)),
            uploads_of: DashMap::new(),
            readers: Arc::new(Semaphore::new(READERS)),
            stop,
        }
    }
}

#[tonic::async_trait]
impl MediaService for MediaApi {
    type DownloadMediaStream = ReceiverStream<Result<DownloadMediaResponse, Status>>;

    async fn upload_media(
        &self,
        request: Request<Streaming<UploadMediaRequest>>,
    ) -> Result<Response<UploadMediaResponse>, Status> {
        let caller = self.gate.caller(&request)?;
        let uploaded = self.upload(&caller, request.into_inner()).await;
        Ok(Response::new(uploaded?))
    }

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
