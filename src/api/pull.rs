//! Pull: leases on a bidirectional stream.
//!
//! Two tasks serve a stream: one reads what the client asks and passes it to the subscription, the other
//! passes on what the subscription gives. Both end with the stream.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::gate::{Caller, Gate};
use super::names::SubscriptionName;
use super::status::{ApiError, Reason};
use super::{contain, convert, faults, fields, layer};
use crate::delivery::{
    Consumer, Credit, Delivered, Delivery, Hub, OpenError, Operation, OperationKind, Outcome,
    Settled, Settler, Stopped,
};
use crate::domain::ids::WorkspaceId;
use crate::pb::pull_request::Request as Asked;
use crate::pb::pull_response::Response as Answer;
use crate::pb::{
    self, PullLeases, PullOpen, PullOpened, PullOperation, PullOutcome, PullRequest, PullResponse,
    PullResult, PullResults,
};
use crate::store::LookupError;

/// Most ack ids in one message.
pub(super) const MAX_ACK_IDS: usize = 1_000;

/// Most events one stream may hold.
const MAX_EVENTS: i64 = 10_000;

/// Bounds of what an extend may ask for.
pub(super) const EXTEND: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(10)..=Duration::from_mins(10);

/// Bounds of what a nack may ask for.
pub(super) const DELAY: std::ops::RangeInclusive<Duration> =
    Duration::ZERO..=Duration::from_mins(10);

/// Frames that wait for a slow client.
const BUFFER: usize = 4;

type Out = mpsc::Sender<Result<PullResponse, Status>>;

/// Opens a stream: reads its first message, which must open it.
pub(super) async fn open(
    gate: &Gate,
    hub: &Hub,
    caller: &Caller,
    mut asked: Streaming<PullRequest>,
) -> Result<ReceiverStream<Result<PullResponse, Status>>, ApiError> {
    let first = tokio::select! {
        first = asked.message() => first.map_err(|status| layer::foreign(&status))?,
        lost = caller.standing.lost() => return Err(lost),
    };
    let Some(Asked::Open(open)) = first.and_then(|first| first.request) else {
        return Err(ApiError::new(
            Reason::StreamNotOpened,
            "the first message of a Pull must be `open`, with a subscription and credit",
        ));
    };
    let name = SubscriptionName::parse("open.subscription", &open.subscription)?;
    let workspace = gate.workspace(caller, &name).await?;
    let credit = credit(&open)?;
    let consumer = hub
        .open(&workspace, &name.subscription, credit)
        .await
        .map_err(|error| refusal(&name, error))?;
    let (out, stream) = mpsc::channel(BUFFER);
    let opened = PullOpened {
        subscription: name.to_string(),
        ack_deadline: Some(convert::span(consumer.ack_deadline())),
    };
    // The channel is new and has room.
    let _ = out.try_send(Ok(frame(Answer::Opened(opened))));
    let standing = caller.standing.within(&workspace, &name);
    contain::spawn(out.clone(), standing, serve(name, consumer, asked, out));
    Ok(ReceiverStream::new(stream))
}

/// Why a subscription cannot be consumed.
pub(super) fn refusal(name: &SubscriptionName, error: OpenError) -> ApiError {
    match error {
        OpenError::NoCredit => no_credit("open"),
        OpenError::Lookup(LookupError::NotFound { .. }) => ApiError::not_found(&name.to_string()),
        OpenError::Lookup(LookupError::Store(error)) => error.into(),
        OpenError::Draining => faults::draining(),
    }
}

fn credit(open: &PullOpen) -> Result<Credit, ApiError> {
    let positive = |field: &'static str, given: i64| {
        u64::try_from(given)
            .ok()
            .filter(|given| *given > 0)
            .ok_or_else(|| no_credit(field))
    };
    if open.max_events > MAX_EVENTS {
        return Err(ApiError::field(
            "open.max_events",
            format!("must be at most {MAX_EVENTS}"),
        ));
    }
    Ok(Credit {
        events: positive("open.max_events", open.max_events)?,
        bytes: positive("open.max_bytes", open.max_bytes)?,
    })
}

fn no_credit(field: &'static str) -> ApiError {
    ApiError::field_with(
        Reason::NoCredit,
        field,
        "must be greater than zero: it is how much may be leased to this stream at any time",
    )
}

fn frame(answer: Answer) -> PullResponse {
    PullResponse {
        response: Some(answer),
    }
}

/// How a stream came to its end.
enum End {
    /// The client closed its side, in order.
    Finished,
    /// The client went away.
    Lost,
    /// The client broke the rules, or we have to stop.
    Refused(ApiError),
}

async fn serve(
    name: SubscriptionName,
    mut consumer: Consumer,
    asked: Streaming<PullRequest>,
    out: Out,
) {
    let settler = consumer.settler();
    let end = tokio::select! {
        end = listen(asked, &settler) => end,
        end = speak(&name, &mut consumer, &out) => end,
        () = out.closed() => End::Lost,
    };
    match end {
        End::Lost => {}
        End::Finished => {
            // What was acked last is still being made durable: say so before the stream ends.
            tell_the_rest(&name, &mut consumer, &out).await;
            consumer.close();
        }
        End::Refused(error) => {
            consumer.close();
            // Nobody listens any more: nobody to tell.
            let _ = out.send(Err(error.into())).await;
        }
    }
}

/// How long a client that has finished is given its last confirmations.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Passes on what is still under way after the client has finished, until nothing comes for a while.
async fn tell_the_rest(name: &SubscriptionName, consumer: &mut Consumer, out: &Out) {
    while let Ok(Some(delivery)) = tokio::time::timeout(LAST_WORDS, consumer.next()).await {
        if let Delivery::Results(_) = delivery
            && let Ok(answer) = show(name, delivery)
            && out.send(Ok(frame(answer))).await.is_err()
        {
            return;
        }
    }
}

/// Reads what the client asks.
async fn listen(mut asked: Streaming<PullRequest>, settler: &Settler) -> End {
    loop {
        let request = match asked.message().await {
            Ok(Some(request)) => request,
            Ok(None) => return End::Finished,
            Err(status) if is_lost(&status) => return End::Lost,
            Err(status) => return End::Refused(layer::foreign(&status)),
        };
        let (operation, ack_ids) = match read(request) {
            Ok(asked) => asked,
            Err(error) => return End::Refused(error),
        };
        if settler.settle(operation, ack_ids).await.is_err() {
            // The subscription has ended: the speaking side knows why.
            return std::future::pending().await;
        }
    }
}

/// Whether a stream broke rather than being refused by the framework.
fn is_lost(status: &Status) -> bool {
    matches!(
        status.code(),
        tonic::Code::Cancelled | tonic::Code::Unknown | tonic::Code::Unavailable
    )
}

/// Reads one request after the first.
fn read(request: PullRequest) -> Result<(Operation, Vec<String>), ApiError> {
    let (field, operation, ack_ids) = match request.request {
        Some(Asked::Ack(ack)) => ("ack.ack_ids", Operation::Ack, ack.ack_ids),
        Some(Asked::Nack(nack)) => {
            let delay = fields::span("nack.delay", nack.delay, DELAY)?;
            ("nack.ack_ids", Operation::Nack { delay }, nack.ack_ids)
        }
        Some(Asked::Extend(extend)) => {
            let by = fields::span("extend.ack_deadline", extend.ack_deadline, EXTEND)?;
            ("extend.ack_ids", Operation::Extend { by }, extend.ack_ids)
        }
        Some(Asked::Open(_)) => {
            return Err(ApiError::new(
                Reason::StreamNotOpened,
                "only the first message of a Pull may be `open`: open another stream",
            ));
        }
        None => return Err(ApiError::field("request", "is empty: ack, nack or extend")),
    };
    if ack_ids.is_empty() || ack_ids.len() > MAX_ACK_IDS {
        return Err(ApiError::field(
            field,
            format!("has {} ids; 1 to {MAX_ACK_IDS} are allowed", ack_ids.len()),
        ));
    }
    Ok((operation, ack_ids))
}

/// Passes on what the subscription gives.
async fn speak(name: &SubscriptionName, consumer: &mut Consumer, out: &Out) -> End {
    while let Some(delivery) = consumer.next().await {
        let answer = match show(name, delivery) {
            Ok(answer) => answer,
            Err(error) => return End::Refused(error),
        };
        if out.send(Ok(frame(answer))).await.is_err() {
            return End::Lost;
        }
    }
    End::Refused(faults::draining())
}

/// A delivery as clients see it, or the error that ends the stream.
fn show(name: &SubscriptionName, delivery: Delivery) -> Result<Answer, ApiError> {
    match delivery {
        Delivery::Leases(leases) => Ok(Answer::Leases(PullLeases {
            leases: leases
                .into_iter()
                .map(|delivered| lease(&name.workspace, delivered))
                .collect(),
        })),
        Delivery::Results(results) => Ok(Answer::Results(PullResults {
            results: results.iter().map(result).collect(),
        })),
        Delivery::Stopped(Stopped::Deleted) => Err(ApiError::not_found(&name.to_string())),
        Delivery::Stopped(Stopped::Draining) => Err(faults::draining()),
        Delivery::Failed(error) => Err(error.into()),
    }
}

/// A lease as clients see it.
pub(super) fn lease(workspace: &WorkspaceId, delivered: Delivered) -> pb::Lease {
    pb::Lease {
        ack_id: delivered.ack_id,
        event: Some(convert::event(workspace, delivered.event)),
        attempt: delivered.attempt,
        expire_time: Some(convert::moment(delivered.expires)),
    }
}

/// What became of an operation, as clients see it.
pub(super) fn result(settled: &Settled) -> PullResult {
    let operation = match settled.kind {
        OperationKind::Ack => PullOperation::Ack,
        OperationKind::Nack => PullOperation::Nack,
        OperationKind::Extend => PullOperation::Extend,
    };
    let outcome = match settled.outcome {
        Outcome::Confirmed => PullOutcome::Confirmed,
        Outcome::Ended => PullOutcome::LeaseEnded,
        Outcome::Invalid => PullOutcome::InvalidAckId,
        Outcome::Waiting => PullOutcome::Waiting,
    };
    PullResult {
        ack_id: settled.ack_id.to_string(),
        operation: operation.into(),
        outcome: outcome.into(),
    }
}
