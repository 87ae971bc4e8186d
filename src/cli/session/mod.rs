//! `trunkline session`: the lines and how they are.

mod table;

use clap::Subcommand;
use prost_types::FieldMask;

use super::events::EventsCommand;
use super::exit::{Exit, Failure};
use super::target::{Daemon, request_id};
use super::{Context, words};
use crate::pb;
use table::{list, report, show};

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
    /// Change what people and programs call a session
    Update {
        /// The session
        session: String,
        /// The new name for people; empty for none
        #[arg(
            long,
            required_unless_present_any = ["labels", "no_labels"]
        )]
        display_name: Option<String>,
        /// A label, as key=value; may be repeated. They take the place of all that are there
        #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label, conflicts_with = "no_labels")]
        labels: Vec<(String, String)>,
        /// Take all labels off
        #[arg(long)]
        no_labels: bool,
        /// Only if nothing has changed since `show` gave this etag
        #[arg(
            long,
            value_name = "ETAG",
            default_value = "",
            hide_default_value = true
        )]
        if_etag: String,
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
        /// Only if nothing has changed since `show` gave this etag
        #[arg(
            long,
            value_name = "ETAG",
            default_value = "",
            hide_default_value = true
        )]
        if_etag: String,
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
            Self::Update {
                session,
                display_name,
                labels,
                no_labels,
                if_etag,
            } => {
                let labels = (no_labels || !labels.is_empty()).then_some(labels);
                let name = daemon.session_name(&session);
                let request = update(name, display_name, labels, if_etag);
                let answer = daemon.sessions().update_session(request).await?;
                let session = answer.into_inner().session.unwrap_or_default();
                report(context, &session, "updated")
            }
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
            Self::Delete {
                session,
                keep_link,
                if_etag,
            } => {
                let request = pb::DeleteSessionRequest {
                    name: daemon.session_name(&session),
                    request_id: request_id(),
                    etag: if_etag,
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

/// Changes what is given, and nothing else.
fn update(
    name: String,
    display_name: Option<String>,
    labels: Option<Vec<(String, String)>>,
    etag: String,
) -> pb::UpdateSessionRequest {
    let given = [
        display_name.is_some().then_some("display_name"),
        labels.is_some().then_some("labels"),
    ];
    let paths = given.into_iter().flatten().map(str::to_owned).collect();
    pb::UpdateSessionRequest {
        session: Some(pb::Session {
            name,
            display_name: display_name.unwrap_or_default(),
            labels: labels.into_iter().flatten().collect(),
            ..pb::Session::default()
        }),
        update_mask: Some(FieldMask { paths }),
        request_id: request_id(),
        etag,
    }
}

/// Shows where the sessions are, and then every change since.
async fn watch(context: &Context, daemon: &Daemon, session: Option<String>) -> Result<(), Failure> {
    let where_they_are = async || match &session {
        Some(session) => list(context, &[get(daemon, session).await?]),
        None => list(context, &all(daemon).await?),
    };
    let types = vec![
        pb::EventType::SessionState,
        pb::EventType::Pairing,
        pb::EventType::Signal,
    ];
    EventsCommand::following(session.clone(), types)
        .run_with(context, where_they_are)
        .await
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
