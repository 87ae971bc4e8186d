//! `EventService`: Pull (leases, see [`super::pull`]), the same over calls ([`super::leases`]), and Watch (see
//! [`super::watch`]).

use std::time::Duration;

use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::gate::Gate;
use super::names::{SubscriptionName, WorkspaceName};
use super::watch::Watch;
use super::{leases, pull};
use crate::delivery::Hub;
use crate::pb::event_service_server::EventService;
use crate::pb::{
    LeaseEventsRequest, LeaseEventsResponse, PullRequest, PullResponse, SettleLeasesRequest,
    SettleLeasesResponse, WatchRequest, WatchResponse,
};

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

    async fn lease_events(
        &self,
        request: Request<LeaseEventsRequest>,
    ) -> Result<Response<LeaseEventsResponse>, Status> {
        let call = self
            .gate
            .open(request, |message| {
                SubscriptionName::parse("subscription", &message.subscription)
            })
            .await?;
        Ok(Response::new(leases::take(&self.hub, call).await?))
    }

    async fn settle_leases(
        &self,
        request: Request<SettleLeasesRequest>,
    ) -> Result<Response<SettleLeasesResponse>, Status> {
        let call = self
            .gate
            .open(request, |message| {
                SubscriptionName::parse("subscription", &message.subscription)
            })
            .await?;
        Ok(Response::new(leases::settle(&self.hub, call).await?))
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
