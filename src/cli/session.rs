//! `trunkline session`: the lines and how they are.

use clap::Subcommand;

use super::events::EventsCommand;
use super::exit::{Exit, Failure};
use super::json::json;
use super::target::{Daemon, request_id};
use super::{Context, words};
use crate::pb;

/// What to do with sessions.
#[derive(Debug, Subcommand)]
pub(crate) enum SessionCommand {
    /// Create a session; `trunkline pair` does so by itself
    Create {
        /// The new session's id
        session: String,
        /// A label, as key=value; may be repeated
        #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
        labels: Vec<(String, String)>,
        /// A name for people
        #[arg(long, default_value = "")]
        display_name: String,
    },
    /// List the sessions
    List,
    /// Show one session
    Show {
        /// The session
        session: String,
    },
    /// Show what happens to a session, or to all, as it happens
    Watch {
        /// The session [default: all]
        session: Option<String>,
    },
    /// Connect a session and keep it connected
    Start {
        /// The session
        session: String,
    },
    /// Disconnect a session and keep it so; its credentials stay
    Stop {
        /// The session
        session: String,
    },
    /// Connect a session anew; also out of REPLACED, BANNED and FAILED
    Restart {
        /// The session
        session: String,
    },
    /// End the link on the phone and delete the credentials
    Logout {
        /// The session
        session: String,
    },
    /// Log a session out and delete it with its credentials and messages; its events stay in the journal
    Delete {
        /// The session
        session: String,
        /// Leave the device in the phone's list of linked devices
        #[arg(long)]
        keep_link: bool,
    },
}

fn label(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .ok_or_else(|| "write it like team=support".to_owned())
}

impl SessionCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// What the daemon refuses, in one line.
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let daemon = Daemon::connect(context).await?;
        match self {
            Self::Watch { session } => watch(context, &daemon, session).await,
            Self::Create {
                session,
                labels,
                display_name,
            } => {
                let request = pb::CreateSessionRequest {
                    parent: daemon.workspace_name(),
                    session_id: session,
                    provider: String::new(),
                    labels: labels.into_iter().collect(),
                    display_name,
                    request_id: request_id(),
                };
                let answer = daemon.sessions().create_session(request).await?;
                let session = answer.into_inner().session.unwrap_or_default();
                report(context, &session, "created")
            }
            Self::List => list(context, &all(&daemon).await?),
            Self::Show { session } => show(context, &get(&daemon, &session).await?),
            Self::Start { session } => {
                let request = pb::StartSessionRequest {
                    name: daemon.session_name(&session),
                    request_id: request_id(),
                    etag: String::new(),
                };
                let answer = daemon.sessions().start_session(request).await?.into_inner();
                report(context, &answer.session.unwrap_or_default(), "starting")
            }
            Self::Stop { session } => {
                let request = pb::StopSessionRequest {
                    name: daemon.session_name(&session),
                    request_id: request_id(),
                    etag: String::new(),
                };
                let answer = daemon.sessions().stop_session(request).await?.into_inner();
                report(context, &answer.session.unwrap_or_default(), "stopping")
            }
            Self::Restart { session } => {
                let request = pb::RestartSessionRequest {
                    name: daemon.session_name(&session),
                    request_id: request_id(),
                    etag: String::new(),
                };
                let answer = daemon.sessions().restart_session(request).await?;
                let session = answer.into_inner().session.unwrap_or_default();
                report(context, &session, "restarting")
            }
            Self::Logout { session } => {
                let request = pb::LogoutSessionRequest {
                    name: daemon.session_name(&session),
                    request_id: request_id(),
                    etag: String::new(),
                };
                let answer = daemon.sessions().logout_session(request).await?;
                let session = answer.into_inner().session.unwrap_or_default();
                report(context, &session, "logged out")
            }
            Self::Delete { session, keep_link } => {
                let request = pb::DeleteSessionRequest {
                    name: daemon.session_name(&session),
                    request_id: request_id(),
                    etag: String::new(),
                    logout: !keep_link,
                };
                let name = request.name.clone();
                daemon.sessions().delete_session(request).await?;
                if context.output.is_json() {
                    return context.output.json(&serde_json::json!({ "name": name }));
                }
                context.output.line(&format!("session {session} deleted"))
            }
        }
    }
}

/// Shows where the sessions are, and then every change.
async fn watch(context: &Context, daemon: &Daemon, session: Option<String>) -> Result<(), Failure> {
    match &session {
        Some(session) => list(context, &[get(daemon, session).await?])?,
        None => list(context, &all(daemon).await?)?,
    }
    let types = vec![
        pb::EventType::SessionState,
        pb::EventType::Pairing,
        pb::EventType::Signal,
    ];
    EventsCommand::following(session, types).run(context).await
}

/// Reads one session.
pub(crate) async fn get(daemon: &Daemon, session: &str) -> Result<pb::Session, Failure> {
    let request = pb::GetSessionRequest {
        name: daemon.session_name(session),
    };
    let answer = daemon.sessions().get_session(request).await?.into_inner();
    Ok(answer.session.unwrap_or_default())
}

/// Reads all sessions of the workspace.
pub(crate) async fn all(daemon: &Daemon) -> Result<Vec<pb::Session>, Failure> {
    let mut sessions = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = pb::ListSessionsRequest {
            parent: daemon.workspace_name(),
            page_size: 1000,
            page_token,
            ..Default::default()
        };
        let page = daemon.sessions().list_sessions(request).await?.into_inner();
        sessions.extend(page.sessions);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(sessions);
        }
    }
}

/// The session that is meant when none is named: the only one there is.
pub(crate) async fn only(daemon: &Daemon) -> Result<String, Failure> {
    let sessions = all(daemon).await?;
    match &sessions[..] {
        [session] => Ok(session.name.clone()),
        [] => Err(Failure::new(
            Exit::Refused,
            "there is no session yet; link a number with `trunkline pair`",
        )),
        many => {
            let ids: Vec<&str> = many.iter().take(10).map(|s| words::id(&s.name)).collect();
            Err(Failure::new(
                Exit::Usage,
                format!(
                    "there are {} sessions; name one with --session, for instance {}",
                    many.len(),
                    ids.join(", ")
                ),
            ))
        }
    }
}

fn report(context: &Context, session: &pb::Session, done: &str) -> Result<(), Failure> {
    if context.output.is_json() {
        return context.output.json(&json("Session", session)?);
    }
    let id = words::id(&session.name);
    let state = words::connection(session);
    context
        .output
        .line(&format!("session {id} {done} ({state})"))
}

fn list(context: &Context, sessions: &[pb::Session]) -> Result<(), Failure> {
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

fn show(context: &Context, session: &pb::Session) -> Result<(), Failure> {
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
    ];
    for (name, value) in rows.iter().filter(|(_, value)| !value.is_empty()) {
        let value = words::one_line(value);
        context.output.line(&format!("{name:<14} {value}"))?;
    }
    Ok(())
}
