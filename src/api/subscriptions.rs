//! `SubscriptionService`.

use std::sync::Arc;
use std::time::Duration;

use tonic::{Request, Response, Status};

use super::fields::{Listing as _, listing};
use super::gate::{Call, Gate};
use super::names::{
    DeadLetterName, DeliveryName, SubscriptionName, WorkspaceName, in_field, session_name,
};
use super::once::{Mutation, Once, mutation};
use super::status::ApiError;
use super::{convert, deliveries, fields, redrive};
use crate::delivery::Hub;
use crate::domain::event::Event;
use crate::domain::ids::{SubscriptionId, WorkspaceId};
use crate::pb::subscription_service_server::SubscriptionService;
use crate::pb::{
    self, CreateSubscriptionRequest, CreateSubscriptionResponse, DeleteDeadLetterRequest,
    DeleteDeadLetterResponse, DeleteSubscriptionRequest, DeleteSubscriptionResponse,
    GetDeliveryRequest, GetDeliveryResponse, GetSubscriptionRequest, GetSubscriptionResponse,
    ListDeadLettersRequest, ListDeadLettersResponse, ListSubscriptionsRequest,
    ListSubscriptionsResponse, RedriveDeadLettersRequest, RedriveDeadLettersResponse,
    SubscriptionFilter,
};
use crate::store::{
    DeadLetter, Filter, LookupError, MAX_PAGE_SIZE, PageRequest, StartAt, SubscriptionConfig,
    SubscriptionRecord, WorkspaceStore,
};

/// Bounds of an ack deadline.
const ACK_DEADLINE: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(10)..=Duration::from_mins(10);

/// Most attempts that can be asked for.
const MAX_ATTEMPTS: u32 = 100;

/// Most sessions a filter may name.
const MAX_SESSIONS: usize = 1_000;

mutation! {
    CreateSubscriptionRequest is "CreateSubscription";
    DeleteSubscriptionRequest is "DeleteSubscription", with etag;
    DeleteDeadLetterRequest is "DeleteDeadLetter";
    RedriveDeadLettersRequest is "RedriveDeadLetters";
}

listing! {
    ListSubscriptionsRequest is "ListSubscriptions";
    ListDeadLettersRequest is "ListDeadLetters";
}

/// Implements `SubscriptionService`.
#[derive(Debug)]
pub(super) struct Subscriptions {
    gate: Gate,
    once: Arc<Once>,
    hub: Hub,
}

impl Subscriptions {
    pub(super) fn new(gate: Gate, once: Arc<Once>, hub: Hub) -> Self {
        Self { gate, once, hub }
    }

    async fn create(
        &self,
        call: Call<CreateSubscriptionRequest, WorkspaceName>,
    ) -> Result<CreateSubscriptionResponse, ApiError> {
        let message = call.message;
        let id = SubscriptionId::new(message.subscription_id.as_str());
        let id = in_field("subscription_id", id)?;
        let given = message.subscription.clone().unwrap_or_default();
        let config = read_config(&call.name.0, &given)?;
        let start = match message.from_revision {
            None => StartAt::Newest,
            Some(0) => StartAt::Oldest,
            Some(revision) => StartAt::Revision(revision),
        };
        let workspace = call.name.0.clone();
        let shown = move |(record, first): &(SubscriptionRecord, u64)| CreateSubscriptionResponse {
            subscription: Some(show_at(&workspace, record.clone(), *first, 0)),
        };
        self.once
            .run_in(&call.workspace, &message, async |ticket| {
                if let StartAt::Revision(revision) = start {
                    call.workspace.journal().headers(revision, 1).await?;
                }
                for session in &config.filter.sessions {
                    call.workspace.sessions().get(session).await?;
                }
                let subscriptions = call.workspace.subscriptions();
                let remember = ticket.remember(shown.clone());
                let created = subscriptions
                    .create_once(&id, &config, start, remember)
                    .await?;
                Ok(shown(&created))
            })
            .await
    }

    async fn delete(
        &self,
        call: Call<DeleteSubscriptionRequest, SubscriptionName>,
    ) -> Result<DeleteSubscriptionResponse, ApiError> {
        let (message, name) = (call.message, call.name);
        self.once
            .run_in(&call.workspace, &message, async |ticket| {
                let answer = |(): &()| DeleteSubscriptionResponse {};
                let subscriptions = call.workspace.subscriptions();
                subscriptions
                    .delete_once(&name.subscription, message.etag(), &ticket.remember(answer))
                    .await?;
                self.hub.deleted(&name.workspace, &name.subscription).await;
                Ok(answer(&()))
            })
            .await
    }
}

impl Subscriptions {
    async fn dead_letters(
        &self,
        call: Call<ListDeadLettersRequest, SubscriptionName>,
    ) -> Result<ListDeadLettersResponse, ApiError> {
        let (message, name) = (call.message, call.name);
        let page = message.page()?;
        let subscriptions = call.workspace.subscriptions();
        let progress = subscriptions.progress(&name.subscription).await?;
        let page = progress.dead_letters(&page).await?;
        let revisions: Vec<_> = page.items.iter().map(|letter| letter.revision).collect();
        let events = call.workspace.journal().get_many(&revisions).await?;
        let show = |(letter, event): (DeadLetter, Option<Event>)| pb::DeadLetter {
            name: format!("{name}/deadLetters/{}", letter.revision),
            revision: letter.revision,
            reason: letter.reason,
            attempts: letter.attempts,
            bury_time: Some(convert::moment(letter.at)),
            event: event.map(|event| convert::event(&name.workspace, event)),
        };
        Ok(ListDeadLettersResponse {
            next_page_token: message.next(page.next),
            dead_letters: page.items.into_iter().zip(events).map(show).collect(),
        })
    }

    async fn delete_dead_letter(
        &self,
        call: Call<DeleteDeadLetterRequest, DeadLetterName>,
    ) -> Result<DeleteDeadLetterResponse, ApiError> {
        let (message, name) = (call.message, call.name);
        self.once
            .run_in(&call.workspace, &message, async |ticket| {
                let answer = |(): &()| DeleteDeadLetterResponse {};
                let subscriptions = call.workspace.subscriptions();
                let progress = subscriptions.progress(&name.of.subscription).await?;
                progress
                    .discard_dead_letter_once(name.revision, &ticket.remember(answer))
                    .await?;
                Ok(answer(&()))
            })
            .await
            .map_err(|error| error.at(&name))
    }
}

/// Reads a configuration; what is absent gets its default.
fn read_config(
    workspace: &WorkspaceId,
    given: &pb::Subscription,
) -> Result<SubscriptionConfig, ApiError> {
    let defaults = SubscriptionConfig::default();
    let filter = given.filter.clone().unwrap_or_default();
    if filter.sessions.len() > MAX_SESSIONS {
        return Err(ApiError::field(
            "subscription.filter.sessions",
            format!(
                "names {} sessions; at most {MAX_SESSIONS} are allowed",
                filter.sessions.len()
            ),
        ));
    }
    let mut sessions = std::collections::BTreeSet::new();
    for name in &filter.sessions {
        let name = session_name("subscription.filter.sessions", name)?;
        if name.workspace != *workspace {
            return Err(ApiError::field(
                "subscription.filter.sessions",
                "must lie in `parent`",
            ));
        }
        sessions.insert(name.session);
    }
    if given.max_attempts > MAX_ATTEMPTS {
        return Err(ApiError::field(
            "subscription.max_attempts",
            format!(
                "must be at most {MAX_ATTEMPTS}; 0 means {}",
                defaults.max_attempts
            ),
        ));
    }
    let ack_deadline = fields::span(
        "subscription.ack_deadline",
        given.ack_deadline,
        ACK_DEADLINE,
    )?;
    Ok(SubscriptionConfig {
        filter: Filter {
            types: convert::read_event_types("subscription.filter.types", &filter.types)?,
            sessions,
        },
        ack_deadline: ack_deadline.unwrap_or(defaults.ack_deadline),
        max_attempts: match given.max_attempts {
            0 => defaults.max_attempts,
            given => given,
        },
        retention: defaults.retention,
    })
}

/// A subscription as clients see it, with how far it has come.
async fn show(
    workspace: &WorkspaceStore,
    record: SubscriptionRecord,
) -> Result<pb::Subscription, LookupError> {
    let progress = workspace.subscriptions().progress(&record.id).await?;
    let floor = progress.confirmed().await?.floor();
    let dead = progress
        .dead_letters(&PageRequest::first(MAX_PAGE_SIZE))
        .await?;
    let buried = dead.items.len() as u64;
    Ok(show_at(workspace.id(), record, floor, buried))
}

fn show_at(
    workspace: &WorkspaceId,
    record: SubscriptionRecord,
    floor: u64,
    buried: u64,
) -> pb::Subscription {
    let name = SubscriptionName {
        workspace: workspace.clone(),
        subscription: record.id,
    };
    let session = |session: &_| format!("{}/sessions/{session}", name.workspace.name());
    pb::Subscription {
        name: name.to_string(),
        filter: Some(SubscriptionFilter {
            types: record
                .config
                .filter
                .types
                .iter()
                .map(|known| convert::event_type(*known).into())
                .collect(),
            sessions: record.config.filter.sessions.iter().map(session).collect(),
        }),
        ack_deadline: Some(convert::span(record.config.ack_deadline)),
        max_attempts: record.config.max_attempts,
        create_time: Some(convert::moment(record.created_at)),
        floor_revision: floor,
        dead_letter_count: buried,
        etag: record.etag,
    }
}

#[tonic::async_trait]
impl SubscriptionService for Subscriptions {
    async fn create_subscription(
        &self,
        request: Request<CreateSubscriptionRequest>,
    ) -> Result<Response<CreateSubscriptionResponse>, Status> {
        let call = self
            .gate
            .open(request, |message| {
                WorkspaceName::parse("parent", &message.parent)
            })
            .await?;
        Ok(Response::new(self.create(call).await?))
    }

    async fn get_subscription(
        &self,
        request: Request<GetSubscriptionRequest>,
    ) -> Result<Response<GetSubscriptionResponse>, Status> {
        let call = self
            .gate
            .open(request, |message| {
                SubscriptionName::parse("name", &message.name)
            })
            .await?;
        let found = async {
            let subscriptions = call.workspace.subscriptions();
            let record = subscriptions.get(&call.name.subscription).await?;
            show(&call.workspace, record).await
        };
        let subscription = found.await.map_err(ApiError::from)?;
        Ok(Response::new(GetSubscriptionResponse {
            subscription: Some(subscription),
        }))
    }

    async fn list_subscriptions(
        &self,
        request: Request<ListSubscriptionsRequest>,
    ) -> Result<Response<ListSubscriptionsResponse>, Status> {
        let call = self
            .gate
            .open(request, |message| {
                WorkspaceName::parse("parent", &message.parent)
            })
            .await?;
        let message = call.message;
        let page = message.page()?;
        let page = call.workspace.subscriptions().list(&page).await;
        let page = page.map_err(ApiError::from)?;
        let mut subscriptions = Vec::with_capacity(page.items.len());
        for record in page.items {
            match show(&call.workspace, record).await {
                Ok(subscription) => subscriptions.push(subscription),
                // Deleted meanwhile.
                Err(LookupError::NotFound { .. }) => {}
                Err(error) => return Err(ApiError::from(error).into()),
            }
        }
        Ok(Response::new(ListSubscriptionsResponse {
            subscriptions,
            next_page_token: message.next(page.next),
        }))
    }

    async fn delete_subscription(
        &self,
        request: Request<DeleteSubscriptionRequest>,
    ) -> Result<Response<DeleteSubscriptionResponse>, Status> {
        let call = self
            .gate
            .open(request, |message| {
                SubscriptionName::parse("name", &message.name)
            })
            .await?;
        Ok(Response::new(self.delete(call).await?))
    }

    async fn get_delivery(
        &self,
        request: Request<GetDeliveryRequest>,
    ) -> Result<Response<GetDeliveryResponse>, Status> {
        let call = self
            .gate
            .open(request, |message| {
                DeliveryName::parse("name", &message.name)
            })
            .await?;
        Ok(Response::new(deliveries::get(&self.hub, call).await?))
    }

    async fn list_dead_letters(
        &self,
        request: Request<ListDeadLettersRequest>,
    ) -> Result<Response<ListDeadLettersResponse>, Status> {
        let call = self
            .gate
            .open(request, |message| {
                SubscriptionName::parse("parent", &message.parent)
            })
            .await?;
        Ok(Response::new(self.dead_letters(call).await?))
    }

    async fn delete_dead_letter(
        &self,
        request: Request<DeleteDeadLetterRequest>,
    ) -> Result<Response<DeleteDeadLetterResponse>, Status> {
        let call = self
            .gate
            .open(request, |message| {
                DeadLetterName::parse("name", &message.name)
            })
            .await?;
        Ok(Response::new(self.delete_dead_letter(call).await?))
    }

    async fn redrive_dead_letters(
        &self,
        request: Request<RedriveDeadLettersRequest>,
    ) -> Result<Response<RedriveDeadLettersResponse>, Status> {
        let call = self
            .gate
            .open(request, |message| {
                SubscriptionName::parse("parent", &message.parent)
            })
            .await?;
        Ok(Response::new(redrive::put_back(&self.once, call).await?))
    }
}
