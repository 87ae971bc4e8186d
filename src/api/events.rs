//! `EventService`: Pull (leases, see [`super::pull`]) and Watch (see [`super::watch`]).

use std::time::Duration;

use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::gate::Gate;
use super::names::WorkspaceName;
use super::pull;
use super::watch::Watch;
use crate::delivery::Hub;
use crate::pb::event_service_server::EventService;
use crate::pb::{PullRequest, PullResponse, WatchRequest, WatchResponse};

/// Implements `EventService`.
#[derive(Debug)]
pub(super) struct Events {
    gate: Gate,
    hub: Hub,
    stop: CancellationToken,
    progress_every: Duration,
}

impl Events {
    pub(super) fn new(
        gate: Gate,
        hub: Hub,
        stop: CancellationToken,
        progress_every: Duration,
    ) -> Self {
        Self {
            gate,
            hub,
            stop,
            progress_every,
        }
    }
}

#[tonic::async_trait]
impl EventService for Events {
    type PullStream = ReceiverStream<Result<PullResponse, Status>>;

    async fn pull(
        &self,
        request: Request<Streaming<PullRequest>>,
    ) -> Result<Response<Self::PullStream>, Status> {
        let caller = self.gate.caller(&request)?;
        let stream = pull::open(&self.gate, &self.hub, &caller, request.into_inner()).await?;
        Ok(Response::new(stream))
    }

    type WatchStream = ReceiverStream<Result<WatchResponse, Status>>;

    async fn watch(
        &self,
        request: Request<WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let call = self
            .gate
            .open(request, |message| {
                WorkspaceName::parse("parent", &message.parent)
            })
            .await?;
        let watch = Watch::check(call, self.progress_every).await?;
        Ok(Response::new(watch.start(self.stop.clone())))
    }
}
