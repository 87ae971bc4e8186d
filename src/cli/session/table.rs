//! Sessions as people and scripts see them.

use crate::cli::exit::Failure;
use crate::cli::json::json;
use crate::cli::{Context, words};
use crate::pb;

/// What was done with a session, and how it is now.
pub(super) fn report(context: &Context, session: &pb::Session, done: &str) -> Result<(), Failure> {
    if context.output.is_json() {
        return context.output.json(&json("Session", session)?);
    }
    let id = words::id(&session.name);
    let state = words::connection(session);
    context
        .output
        .line(&format!("session {id} {done} ({state})"))
}

/// A line for each session.
pub(super) fn list(context: &Context, sessions: &[pb::Session]) -> Result<(), Failure> {
    if context.output.is_json() {
        for session in sessions {
            context.output.json(&json("Session", session)?)?;
        }
        return Ok(());
    }
    let rows = sessions
        .iter()
        .map(|session| {
            let traffic = session.traffic.unwrap_or_default();
            vec![
                words::id(&session.name).to_owned(),
                words::connection(session),
                words::login(session),
                words::person(session.account.as_ref()),
                words::ago(traffic.last_inbound_time.as_ref()),
                words::ago(traffic.last_ack_time.as_ref()),
                words::connection_detail(session),
            ]
        })
        .collect();
    context.output.table(
        &[
            "SESSION",
            "CONNECTION",
            "LOGIN",
            "ACCOUNT",
            "LAST IN",
            "LAST ACK",
            "DETAIL",
        ],
        rows,
        "no sessions yet; link a number with `trunkline pair`",
    )
}

/// All that is known of one session.
pub(super) fn show(context: &Context, session: &pb::Session) -> Result<(), Failure> {
    if context.output.is_json() {
        return context.output.json(&json("Session", session)?);
    }
    let traffic = session.traffic.unwrap_or_default();
    let desired = words::short(session.desired().as_str_name(), "DESIRED_STATE_");
    let labels: Vec<String> = session
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let rows = [
        ("name", session.name.clone()),
        ("display name", session.display_name.clone()),
        ("provider", session.provider.clone()),
        ("account", words::person(session.account.as_ref())),
        ("desired", desired.to_owned()),
        ("connection", words::connection(session)),
        ("detail", words::connection_detail(session)),
        ("login", words::login(session)),
        (
            "last inbound",
            words::ago(traffic.last_inbound_time.as_ref()),
        ),
        ("last ack", words::ago(traffic.last_ack_time.as_ref())),
        ("decrypted", traffic.decrypted_count.to_string()),
        ("undecryptable", traffic.undecryptable_count.to_string()),
        ("labels", labels.join(" ")),
        ("created", words::moment(session.create_time.as_ref())),
        ("updated", words::moment(session.update_time.as_ref())),
        ("etag", session.etag.clone()),
    ];
    context.output.fields(&rows)
}
