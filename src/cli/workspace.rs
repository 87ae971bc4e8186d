//! `trunkline workspace`: the tenants.

use clap::Subcommand;

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
                let workspace = answer.into_inner().workspace.unwrap_or_default();
                if context.output.is_json() {
                    return context.output.json(&json("Workspace", &workspace)?);
                }
                let id = words::id(&workspace.name);
                context.output.line(&format!("workspace {id} created"))
            }
        }
    }
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
            ]
        })
        .collect();
    context
        .output
        .table(&["WORKSPACE", "NAME", "CREATED"], rows, "no workspaces")
}
