//! `trunkline workspace`: the tenants.

use clap::Subcommand;
use prost_types::FieldMask;

use super::exit::Failure;
use super::json::json;
use super::target::{Daemon, request_id};
use super::{Context, words};
use crate::pb;

/// What to do with workspaces.
#[derive(Debug, Subcommand)]
pub(crate) enum WorkspaceCommand {
    /// List the workspaces
    List,
    /// Create a workspace
    Create {
        /// The new workspace's id
        id: String,
        /// A label for people
        #[arg(long, default_value = "")]
        display_name: String,
    },
    /// Show one workspace
    Show {
        /// The workspace [default: the command line's]
        id: Option<String>,
    },
    /// Change what people call a workspace
    Update {
        /// The workspace
        id: String,
        /// The new label for people; empty for none
        #[arg(long)]
        display_name: String,
        /// Only if nothing has changed since `show` gave this etag
        #[arg(
            long,
            value_name = "ETAG",
            default_value = "",
            hide_default_value = true
        )]
        if_etag: String,
    },
    /// Delete a workspace for good, with its key, sessions, messages, events and tokens; log its
    /// sessions out before, or their devices stay in the phones' lists
    Delete {
        /// The workspace
        id: String,
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

impl WorkspaceCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// What the daemon refuses, in one line.
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let daemon = Daemon::connect(context).await?;
        match self {
            Self::List => list(context, &daemon).await,
            Self::Create { id, display_name } => {
                let request = pb::CreateWorkspaceRequest {
                    workspace_id: id,
                    display_name,
                    request_id: request_id(),
                };
                let answer = daemon.workspaces().create_workspace(request).await?;
                report(context, answer.into_inner().workspace, "created")
            }
            Self::Show { id } => {
                let name = id.map_or_else(|| daemon.workspace_name(), |id| full_name(&id));
                show(context, &daemon, name).await
            }
            Self::Update {
                id,
                display_name,
                if_etag,
            } => {
                let request = pb::UpdateWorkspaceRequest {
                    workspace: Some(pb::Workspace {
                        name: full_name(&id),
                        display_name,
                        ..pb::Workspace::default()
                    }),
                    update_mask: Some(FieldMask {
                        paths: vec!["display_name".to_owned()],
                    }),
                    request_id: request_id(),
                    etag: if_etag,
                };
                let answer = daemon.workspaces().update_workspace(request).await?;
                report(context, answer.into_inner().workspace, "updated")
            }
            Self::Delete { id, if_etag } => {
                let name = full_name(&id);
                let request = pb::DeleteWorkspaceRequest {
                    name: name.clone(),
                    request_id: request_id(),
                    etag: if_etag,
                };
                daemon.workspaces().delete_workspace(request).await?;
                if context.output.is_json() {
                    return context.output.json(&serde_json::json!({ "name": name }));
                }
                let line = format!("workspace {} deleted", words::id(&name));
                context.output.line(&line)
            }
        }
    }
}

/// `workspaces/{workspace}`; a full name stays as it is.
fn full_name(id: &str) -> String {
    if id.contains('/') {
        id.to_owned()
    } else {
        format!("workspaces/{id}")
    }
}

fn report(context: &Context, workspace: Option<pb::Workspace>, done: &str) -> Result<(), Failure> {
    let workspace = workspace.unwrap_or_default();
    if context.output.is_json() {
        return context.output.json(&json("Workspace", &workspace)?);
    }
    let id = words::id(&workspace.name);
    context.output.line(&format!("workspace {id} {done}"))
}

async fn show(context: &Context, daemon: &Daemon, name: String) -> Result<(), Failure> {
    let request = pb::GetWorkspaceRequest { name };
    let answer = daemon.workspaces().get_workspace(request).await?;
    let workspace = answer.into_inner().workspace.unwrap_or_default();
    if context.output.is_json() {
        return context.output.json(&json("Workspace", &workspace)?);
    }
    let created = words::moment(workspace.create_time.as_ref());
    context.output.fields(&[
        ("name", workspace.name),
        ("display name", workspace.display_name),
        ("created", created),
        ("journal", journal(workspace.full).to_owned()),
        ("etag", workspace.etag),
    ])
}

/// Whether there is room for events. A full workspace's sessions are offline until some are confirmed.
fn journal(full: bool) -> &'static str {
    if full { "full" } else { "has room" }
}

async fn list(context: &Context, daemon: &Daemon) -> Result<(), Failure> {
    let mut workspaces = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = pb::ListWorkspacesRequest {
            page_size: 1000,
            page_token,
        };
        let page = daemon
            .workspaces()
            .list_workspaces(request)
            .await?
            .into_inner();
        workspaces.extend(page.workspaces);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if context.output.is_json() {
        for workspace in &workspaces {
            context.output.json(&json("Workspace", workspace)?)?;
        }
        return Ok(());
    }
    let rows = workspaces
        .iter()
        .map(|workspace| {
            vec![
                words::id(&workspace.name).to_owned(),
                words::one_line(&workspace.display_name),
                words::moment(workspace.create_time.as_ref()),
                journal(workspace.full).to_owned(),
            ]
        })
        .collect();
    context.output.table(
        &["WORKSPACE", "NAME", "CREATED", "JOURNAL"],
        rows,
        "no workspaces",
    )
}
