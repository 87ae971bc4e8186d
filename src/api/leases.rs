//! Leases over calls that answer once: `LeaseEvents` and `SettleLeases`.

use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::gate::Call;
use super::names::SubscriptionName;
use super::pull::{DELAY, EXTEND, MAX_ACK_IDS, lease, refusal, result};
use super::status::{ApiError, Reason};
use super::{faults, fields};
use crate::delivery::{Credit, Hub, LeaseError, Operation, OperationKind, Outcome, Settled};
use crate::pb::{
    LeaseEventsRequest, LeaseEventsResponse, SettleLeasesRequest, SettleLeasesResponse,
};

/// Events leased when the client does not say how many, and the most.
const EVENTS: (i32, i32) = (100, 1_000);

/// The same in bytes. gRPC clients refuse answers above 4 MiB unless told otherwise.
const BYTES: (i32, i32) = (1 << 20, 2 << 20);

/// Bounds of what a client may wait for.
const WAIT: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_mins(1);

/// When to ask again after calls held too much.
const FULL: Duration = Duration::from_secs(1);

/// Answers `LeaseEvents`. Dropping this gives back what it was given.
pub(super) async fn take(
    hub: &Hub,
    call: Call<LeaseEventsRequest, SubscriptionName>,
) -> Result<LeaseEventsResponse, ApiError> {
    let (message, name) = (&call.message, &call.name);
    let credit = Credit {
        events: amount("max_events", message.max_events, EVENTS)?,
        bytes: amount("max_bytes", message.max_bytes, BYTES)?,
    };
    let wait = fields::span("wait", message.wait, WAIT)?.unwrap_or_default();
    let leased = tokio::select! {
        leased = hub.lease(&call.workspace, &name.subscription, credit, wait) => leased,
        lost = call.standing.lost() => return Err(lost),
    };
    let delivered = leased.map_err(|error| match error {
        LeaseError::Open(error) => refusal(name, error),
        LeaseError::Full => {
            ApiError::new(Reason::TooManyLeases, error.to_string()).retry_after(FULL)
        }
    })?;
    let shown = |delivered| lease(&name.workspace, delivered);
    Ok(LeaseEventsResponse {
        leases: delivered.into_iter().map(shown).collect(),
    })
}

/// Reads how much is wanted: 0 means the default.
fn amount(field: &'static str, given: i32, (default, most): (i32, i32)) -> Result<u64, ApiError> {
    let wanted = if given == 0 { default } else { given };
    u64::try_from(wanted)
        .ok()
        .filter(|_| wanted <= most)
        .ok_or_else(|| {
            ApiError::field(
                field,
                format!("must lie between 1 and {most}; 0 means {default}"),
            )
        })
}

/// Answers `SettleLeases`.
pub(super) async fn settle(
    hub: &Hub,
    call: Call<SettleLeasesRequest, SubscriptionName>,
) -> Result<SettleLeasesResponse, ApiError> {
    let name = call.name;
    let [acks, nacks, extends] = read(call.message)?;
    let asked = [&acks, &nacks, &extends].map(|(operation, ack_ids)| {
        let ack_ids: Vec<Arc<str>> = ack_ids.iter().map(|id| Arc::from(id.as_str())).collect();
        (operation.kind(), ack_ids)
    });
    // Acks last: what an ack still waits for is known when everything else is done.
    let operations = [nacks, extends, acks];
    let operations = operations
        .into_iter()
        .filter(|(_, ack_ids)| !ack_ids.is_empty())
        .collect();
    let outcomes = hub
        .settle(&call.workspace, &name.subscription, operations)
        .await
        .map_err(|error| refusal(&name, error))?;
    let mut results = Vec::with_capacity(outcomes.len());
    for (kind, ack_ids) in asked {
        for ack_id in ack_ids {
            let outcome = match (outcomes.get(&ack_id), kind) {
                (Some(outcome), _) => *outcome,
                (None, OperationKind::Ack) => Outcome::Waiting,
                (None, _) => return Err(faults::internal(&"an operation was not answered")),
            };
            results.push(result(&Settled {
                ack_id,
                kind,
                outcome,
            }));
        }
    }
    Ok(SettleLeasesResponse { results })
}

/// An operation and the leases it is for.
type Asked = (Operation, Vec<String>);

/// Reads what is asked: acks, nacks and extends.
fn read(message: SettleLeasesRequest) -> Result<[Asked; 3], ApiError> {
    let ack = message.ack.unwrap_or_default();
    let nack = message.nack.unwrap_or_default();
    let extend = message.extend.unwrap_or_default();
    let delay = fields::span("nack.delay", nack.delay, DELAY)?;
    let by = fields::span("extend.ack_deadline", extend.ack_deadline, EXTEND)?;
    let lists = [
        ("ack.ack_ids", &ack.ack_ids),
        ("nack.ack_ids", &nack.ack_ids),
        ("extend.ack_ids", &extend.ack_ids),
    ];
    let mut seen = HashSet::new();
    for (field, ack_ids) in lists {
        for ack_id in ack_ids {
            if !seen.insert(ack_id.as_str()) {
                return Err(ApiError::field(
                    field,
                    "has an id that is in this request twice: say one thing of each lease",
                ));
            }
        }
    }
    if seen.is_empty() || seen.len() > MAX_ACK_IDS {
        return Err(ApiError::field(
            "ack.ack_ids",
            format!(
                "has, together with nack and extend, {} ids; 1 to {MAX_ACK_IDS} are allowed",
                seen.len()
            ),
        ));
    }
    Ok([
        (Operation::Ack, ack.ack_ids),
        (Operation::Nack { delay }, nack.ack_ids),
        (Operation::Extend { by }, extend.ack_ids),
    ])
}
