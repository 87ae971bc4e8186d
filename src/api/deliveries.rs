//! `GetDelivery`: what became of one event in a subscription.

use super::convert;
use super::gate::Call;
use super::names::DeliveryName;
use super::status::ApiError;
use crate::delivery::Hub;
use crate::pb::{self, DeliveryState, GetDeliveryRequest, GetDeliveryResponse};
use crate::store::{DeliveryFailure, ReadError};

/// Answers `GetDelivery`.
pub(super) async fn get(
    hub: &Hub,
    call: Call<GetDeliveryRequest, DeliveryName>,
) -> Result<GetDeliveryResponse, ApiError> {
    let (name, revision) = (&call.name, call.name.revision);
    let subscriptions = call.workspace.subscriptions();
    let subscription = &name.of.subscription;
    let at_name = |error: ApiError| error.at(name);
    let record = subscriptions.get(subscription).await;
    let record = record.map_err(|error| at_name(error.into()))?;
    let progress = subscriptions.progress(subscription).await;
    let progress = progress.map_err(|error| at_name(error.into()))?;
    let headers = match call.workspace.journal().headers(revision, 1).await {
        Ok(page) => page.headers,
        Err(ReadError::Compacted { .. } | ReadError::Future { .. }) => Vec::new(),
        Err(ReadError::Store(error)) => return Err(error.into()),
    };
    let header = headers.iter().find(|header| header.revision == revision);
    let header = header.ok_or_else(|| ApiError::not_found(&name.to_string()))?;

    // Before what is remembered: what is settled in between is found there.
    let live = hub
        .live_delivery(call.workspace.id(), subscription, revision)
        .await;
    let known = progress.delivery(revision).await?.unwrap_or_default();
    let is_wanted = progress
        .compile(&record.config.filter)
        .await?
        .matches(header);
    let state = if known.acknowledged.is_some() {
        DeliveryState::Acknowledged
    } else if known.given_up.is_some() {
        DeliveryState::GivenUp
    } else if !is_wanted {
        DeliveryState::NotWanted
    } else if progress.confirmed().await?.contains(revision) {
        DeliveryState::Settled
    } else if live.is_some_and(|live| live.leased) {
        DeliveryState::Leased
    } else {
        DeliveryState::Waiting
    };
    let first_leased = known
        .first_leased
        .or_else(|| live.and_then(|live| live.first_leased));
    let (failure, failed) = known.last_failure.unzip();
    let failure = failure.map_or(pb::DeliveryFailure::Unspecified, shown);
    Ok(GetDeliveryResponse {
        delivery: Some(pb::Delivery {
            name: name.to_string(),
            revision,
            state: state.into(),
            first_lease_time: first_leased.map(convert::moment),
            failures: known.failures,
            last_failure: failure.into(),
            last_failure_time: failed.map(convert::moment),
            ack_time: known.acknowledged.map(convert::moment),
            give_up_time: known.given_up.map(convert::moment),
        }),
    })
}

fn shown(failure: DeliveryFailure) -> pb::DeliveryFailure {
    match failure {
        DeliveryFailure::Refused => pb::DeliveryFailure::Refused,
        DeliveryFailure::DeadlinePassed => pb::DeliveryFailure::DeadlinePassed,
        DeliveryFailure::StreamEnded => pb::DeliveryFailure::StreamEnded,
    }
}
