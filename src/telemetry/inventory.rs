//! Every metric there is, in one table: what `/metrics` describes, and what `docs/operations.md`, the
//! alerts and the dashboard are checked against.
//!
//! No metric carries a workspace or a session: one daemon holds thousands, and a label for each would
//! cost the monitoring more than the messages cost the daemon. Log lines carry them.

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram};

/// What a metric does over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution, with `_bucket`, `_sum` and `_count`.
    Histogram,
}

/// A label and the values that are known beforehand.
pub type Label = (&'static str, &'static [&'static str]);

/// One metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// Its name, with the unit as its last part.
    pub name: &'static str,
    /// What it does over time.
    pub kind: Kind,
    /// What one is: `seconds`, `bytes`, or what is counted.
    pub unit: &'static str,
    /// Its labels.
    pub labels: &'static [Label],
    /// What it says.
    pub help: &'static str,
}

const fn metric(
    name: &'static str,
    kind: Kind,
    unit: &'static str,
    labels: &'static [Label],
    help: &'static str,
) -> Metric {
    Metric {
        name,
        kind,
        unit,
        labels,
        help,
    }
}

const TASKS: &[&str] = &["actor", "line", "open", "sender"];
const CAUSES: &[&str] = &[
    "requested",
    "recycled",
    "restart_required",
    "transient",
    "stalled",
    "login_timeout",
    "rate_limited",
    "outdated",
    "replaced",
    "logged_out",
    "banned",
    "pairing_expired",
    "pairing_failed",
    "store_failed",
    "workspace_full",
    "internal",
];

/// Those known beforehand; a provider may have more.
const WARNINGS: &[&str] = &["RATE_LIMITED", "REACHOUT_TIMELOCK"];

/// All metrics, by subject.
#[rustfmt::skip]
pub const METRICS: &[Metric] = &[
    metric("trunkline_build_info", Kind::Gauge, "info", &[("version", &[]), ("simulator", &[])], "1, labelled with the version and whether the build is for the simulator"),
    metric("trunkline_ready", Kind::Gauge, "boolean", &[], "1 while /readyz answers 200"),
    metric("trunkline_draining", Kind::Gauge, "boolean", &[], "1 from the request to stop until the end"),
    metric("trunkline_panics_total", Kind::Counter, "panics", &[], "Panics of any thread or task, contained or not"),
    metric("trunkline_panics_contained_total", Kind::Counter, "panics", &[("task", TASKS)], "Panics that ended one task of one session, which was built again"),
    metric("trunkline_process_start_time_seconds", Kind::Gauge, "seconds", &[], "When the daemon started, in seconds since 1970"),
    metric("trunkline_process_resident_bytes", Kind::Gauge, "bytes", &[], "Memory of the process that is in RAM"),
    metric("trunkline_process_open_files", Kind::Gauge, "files", &[], "Files and sockets the process has open"),
    metric("trunkline_process_open_files_limit", Kind::Gauge, "files", &[], "How many it may have open (LimitNOFILE)"),

    metric("trunkline_sessions", Kind::Gauge, "sessions", &[("state", &[]), ("provider", &[])], "Sessions by the state of their connection"),
    metric("trunkline_connects_total", Kind::Counter, "attempts", &[], "Attempts to connect that were started"),
    metric("trunkline_disconnects_total", Kind::Counter, "connections", &[("cause", CAUSES)], "Connections and attempts that ended, by cause; reconnecting follows unless the cause is final"),
    metric("trunkline_admission_waiting", Kind::Gauge, "sessions", &[], "Sessions that wait for their turn to connect"),
    metric("trunkline_admission_wait_seconds", Kind::Histogram, "seconds", &[], "How long a session waited for its turn to connect"),
    metric("trunkline_breaker_tripped", Kind::Gauge, "boolean", &[], "1 while the provider refuses the fleet and only probes connect"),
    metric("trunkline_actor_exits_total", Kind::Counter, "actors", &[("kind", &["gone", "error", "panic"])], "Session actors that ended outside a shutdown; after error and panic they are built again"),
    metric("trunkline_provider_warnings_total", Kind::Counter, "warnings", &[("signal", WARNINGS)], "Warnings and limits of the provider, such as REACHOUT_TIMELOCK"),

    metric("trunkline_inbound_total", Kind::Counter, "events", &[("outcome", &["new", "duplicate"])], "Arrivals made durable; a duplicate was there already and made no second event"),
    metric("trunkline_decrypt_failures_total", Kind::Counter, "messages", &[], "Messages that could not be decrypted when they arrived (a retry may still bring them)"),
    metric("trunkline_spent_messages_total", Kind::Counter, "messages", &[], "Messages nobody has seen whose Signal key is spent; they are reported and asked for again"),
    metric("trunkline_overlooked_retries_total", Kind::Counter, "requests", &[], "Requests of a device for another copy of a message that had no answer at first (passed over, or cut off by the end of a connection), and have one now"),
    metric("trunkline_workspaces_full", Kind::Gauge, "workspaces", &[], "Workspaces whose journal is at its size limit with events nobody confirmed; their sessions are kept disconnected"),
    metric("trunkline_sink_failures_total", Kind::Counter, "connections", &[], "Connections closed because an arrival could not be made durable; the provider delivers again"),

    metric("trunkline_outbound_total", Kind::Counter, "messages", &[("outcome", &["sent", "failed", "expired", "unknown"])], "Messages by how their time on the wire ended"),
    metric("trunkline_outbound_waiting", Kind::Gauge, "messages", &[], "Messages in the outboxes of sessions that run"),
    metric("trunkline_outbound_oldest_seconds", Kind::Gauge, "seconds", &[], "How long the oldest message that is due has been waiting"),
    metric("trunkline_send_to_ack_seconds", Kind::Histogram, "seconds", &[], "From handing a message to the connection until the server accepted it"),
    metric("trunkline_ack_timeouts_total", Kind::Counter, "connections", &[], "Connections renewed because the server acknowledged nothing in time"),
    metric("trunkline_resends_total", Kind::Counter, "messages", &[], "Messages sent again under the same id"),

    metric("trunkline_media_uploads_total", Kind::Counter, "files", &[("outcome", &["done", "not_connected", "temporary", "lost", "refused"])], "Files carried to the provider before their messages; all but lost and refused are tried again"),

    metric("trunkline_delivery_oldest_unacked_seconds", Kind::Gauge, "seconds", &[], "Age of the oldest event that a subscription wants and has not confirmed; subscriptions nobody ever pulled from do not count"),
    metric("trunkline_delivery_streams", Kind::Gauge, "streams", &[], "Open Pull streams"),
    metric("trunkline_delivery_leases", Kind::Gauge, "events", &[], "Events that consumers hold"),
    metric("trunkline_delivery_leased_total", Kind::Counter, "events", &[], "Leases given out, repeated ones too"),
    metric("trunkline_delivery_acked_total", Kind::Counter, "events", &[], "Acks made durable"),
    metric("trunkline_delivery_dead_letters_total", Kind::Counter, "events", &[], "Events given up after the subscription's most attempts"),

    metric("trunkline_store_commits_total", Kind::Counter, "commits", &[], "Commits made durable"),
    metric("trunkline_store_commits_in_flight", Kind::Gauge, "commits", &[], "Commits queued or being made durable"),
    metric("trunkline_store_syncs_total", Kind::Counter, "syncs", &[], "Disk syncs; each makes many commits durable"),
    metric("trunkline_store_commit_seconds", Kind::Histogram, "seconds", &[], "How long writing and syncing a group of commits took"),
    metric("trunkline_store_stuck_seconds", Kind::Gauge, "seconds", &[], "How long the oldest commit has been waiting without any progress"),
    metric("trunkline_store_disk_bytes", Kind::Gauge, "bytes", &[], "Size of the store on disk, as last measured"),
    metric("trunkline_store_free_bytes", Kind::Gauge, "bytes", &[], "What the store's file system has left for the daemon"),
    metric("trunkline_backups_total", Kind::Counter, "backups", &[("outcome", &["completed", "failed"])], "Backups of the running daemon by how they ended"),
    metric("trunkline_store_open_seconds", Kind::Gauge, "seconds", &[], "How long opening the store took at the last start"),

    metric("trunkline_api_requests_total", Kind::Counter, "calls", &[("service", &[]), ("method", &[]), ("code", &[])], "Calls answered, by gRPC status code"),
    metric("trunkline_api_request_seconds", Kind::Histogram, "seconds", &[("service", &[]), ("method", &[])], "Time to the end of the answer; for streams, how long they were open"),
    metric("trunkline_api_requests_in_flight", Kind::Gauge, "calls", &[], "Calls being answered, open streams too"),
    metric("trunkline_tls_certificate_expiry_timestamp_seconds", Kind::Gauge, "seconds", &[], "When the API's certificate expires, in seconds since 1970; only with TLS"),
    metric("trunkline_api_panics_total", Kind::Counter, "panics", &[], "Panics while a call was answered; the call got INTERNAL"),
];

/// Gives the recorder the help texts.
pub(super) fn describe() {
    for metric in METRICS {
        let unit = match metric.unit {
            "seconds" => Unit::Seconds,
            "bytes" => Unit::Bytes,
            _ => Unit::Count,
        };
        match metric.kind {
            Kind::Counter => describe_counter!(metric.name, unit, metric.help),
            Kind::Gauge => describe_gauge!(metric.name, unit, metric.help),
            Kind::Histogram => describe_histogram!(metric.name, unit, metric.help),
        }
    }
}

/// Touches every counter whose labels are known: it then stands at zero before its first event, so that
/// the first event is seen as an increase, and it does not die out while nothing happens.
pub fn touch() {
    for metric in METRICS.iter().filter(|m| m.kind == Kind::Counter) {
        match metric.labels {
            [] => counter!(metric.name).increment(0),
            [(label, values)] => {
                for value in *values {
                    counter!(metric.name, *label => *value).increment(0);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rules_and_appear_once() {
        for (at, metric) in METRICS.iter().enumerate() {
            let name = metric.name;
            assert!(name.starts_with("trunkline_"), "{name}");
            assert_eq!(
                name.ends_with("_total"),
                metric.kind == Kind::Counter,
                "{name}: counters and nothing else end in _total"
            );
            for unit in ["seconds", "bytes"] {
                assert_eq!(name.ends_with(unit), metric.unit == unit, "{name}");
            }
            assert!(
                !metric
                    .labels
                    .iter()
                    .any(|(label, _)| ["session", "workspace"].contains(label)),
                "{name}: no labels per session or workspace"
            );
            assert!(
                METRICS[..at].iter().all(|other| other.name != name),
                "{name} twice"
            );
        }
    }
}
