//! `trunkline group`: the groups that a session's number is in.

use clap::Subcommand;

use super::exit::Failure;
use super::json::json;
use super::target::Daemon;
use super::{Context, session, words};
use crate::pb;

/// What to do with groups.
#[derive(Debug, Subcommand)]
pub(crate) enum GroupCommand {
    /// List the groups that the number is in
    List {
        /// The session [default: the only one]
        #[arg(long, short = 's', value_name = "SESSION")]
        session: Option<String>,
    },
    /// Show a group and everybody in it
    Show {
        /// Its id, as the list and events show it (120363…@g.us)
        #[arg(value_name = "ID")]
        id: String,
        /// The session [default: the only one]
        #[arg(long, short = 's', value_name = "SESSION")]
        session: Option<String>,
    },
}

impl GroupCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// What the daemon refuses, in one line.
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let daemon = Daemon::connect(context).await?;
        match self {
            Self::List { session } => {
                let parent = session_name(&daemon, session.as_deref()).await?;
                list(context, &all(&daemon, &parent).await?)
            }
            Self::Show { id, session } => {
                let parent = session_name(&daemon, session.as_deref()).await?;
                let request = pb::GetGroupRequest {
                    name: format!("{parent}/groups/{id}"),
                };
                let answer = daemon.groups().get_group(request).await?.into_inner();
                show(context, &answer.group.unwrap_or_default())
            }
        }
    }
}

async fn session_name(daemon: &Daemon, session: Option<&str>) -> Result<String, Failure> {
    match session {
        Some(session) => Ok(daemon.session_name(session)),
        None => session::only(daemon).await,
    }
}

async fn all(daemon: &Daemon, parent: &str) -> Result<Vec<pb::Group>, Failure> {
    let mut groups = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = pb::ListGroupsRequest {
            parent: parent.to_owned(),
            page_size: 1000,
            page_token,
        };
        let page = daemon.groups().list_groups(request).await?.into_inner();
        groups.extend(page.groups);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(groups);
        }
    }
}

fn list(context: &Context, groups: &[pb::Group]) -> Result<(), Failure> {
    if context.output.is_json() {
        for group in groups {
            context.output.json(&json("Group", group)?)?;
        }
        return Ok(());
    }
    let rows = groups.iter().map(|group| {
        vec![
            group.jid.clone(),
            group.members.len().to_string(),
            group.subject.clone(),
        ]
    });
    context.output.table(
        &["GROUP", "MEMBERS", "SUBJECT"],
        rows.collect(),
        "this number is in no group",
    )
}

fn show(context: &Context, group: &pb::Group) -> Result<(), Failure> {
    if context.output.is_json() {
        return context.output.json(&json("Group", group)?);
    }
    let subject = words::one_line(&group.subject);
    context.output.line(&format!("{} {subject}", group.jid))?;
    let rows = group.members.iter().map(|member| {
        let lid = member.person.as_ref().and_then(|person| person.lid.clone());
        vec![
            words::person(member.person.as_ref()),
            words::short(member.role().as_str_name(), "GROUP_ROLE_").to_owned(),
            lid.unwrap_or_default(),
        ]
    });
    context.output.table(
        &["MEMBER", "ROLE", "LID"],
        rows.collect(),
        "nobody is in it",
    )
}
