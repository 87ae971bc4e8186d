//! `WorkspaceService`.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::gate::{Gate, Rights};
use super::names::{WorkspaceName, in_field};
use super::once::{Once, mutation};
use super::status::ApiError;
use super::{convert, fields};
use crate::domain::ids::WorkspaceId;
use crate::domain::workspace::Workspace;
use crate::pb::workspace_service_server::WorkspaceService;
use crate::pb::{
    CreateWorkspaceRequest, CreateWorkspaceResponse, GetWorkspaceRequest, GetWorkspaceResponse,
    ListWorkspacesRequest, ListWorkspacesResponse,
};

mutation! {
    CreateWorkspaceRequest is "CreateWorkspace";
}

/// Implements `WorkspaceService`.
#[derive(Debug)]
pub(super) struct Workspaces {
    gate: Gate,
    once: Arc<Once>,
}

impl Workspaces {
    pub(super) fn new(gate: Gate, once: Arc<Once>) -> Self {
        Self { gate, once }
    }

    async fn create(
        &self,
        request: Request<CreateWorkspaceRequest>,
    ) -> Result<CreateWorkspaceResponse, ApiError> {
        let store = self.gate.administrator(&request)?.clone();
        let message = request.into_inner();
        let id = WorkspaceId::new(message.workspace_id.as_str());
        let id = in_field("workspace_id", id)?;
        let display_name = fields::display_name(message.display_name.clone())?;
        let shown = |workspace: &Workspace| CreateWorkspaceResponse {
            workspace: Some(convert::workspace(workspace.clone())),
        };
        let home = self.gate.home(&store).await?;
        self.once
            .run_in(&home, &message, async |ticket| {
                let workspace = store
                    .create_workspace_once(&id, &display_name, ticket.remember(shown))
                    .await?;
                let audit = store.audit();
                audit
                    .record("administrator", "CreateWorkspace", &id.name())
                    .await?;
                Ok(shown(&workspace))
            })
            .await
    }

    async fn list(
        &self,
        request: Request<ListWorkspacesRequest>,
    ) -> Result<ListWorkspacesResponse, ApiError> {
        let caller = self.gate.caller(&request)?;
        let page = fields::page(request.get_ref().page_size, &request.get_ref().page_token)?;
        match caller.rights {
            Rights::Administrator => {
                let store = self.gate.administrator(&request)?;
                let page = store.list_workspaces(&page).await?;
                Ok(ListWorkspacesResponse {
                    workspaces: page.items.into_iter().map(convert::workspace).collect(),
                    next_page_token: page.next.map(|t| t.encode()).unwrap_or_default(),
                })
            }
            Rights::Workspace(own) => {
                let only = self.gate.workspace_record(&WorkspaceName(own)).await?;
                Ok(ListWorkspacesResponse {
                    workspaces: vec![convert::workspace(only)],
                    next_page_token: String::new(),
                })
            }
        }
    }
}

#[tonic::async_trait]
impl WorkspaceService for Workspaces {
    async fn create_workspace(
        &self,
        request: Request<CreateWorkspaceRequest>,
    ) -> Result<Response<CreateWorkspaceResponse>, Status> {
        Ok(Response::new(self.create(request).await?))
    }

    async fn get_workspace(
        &self,
        request: Request<GetWorkspaceRequest>,
    ) -> Result<Response<GetWorkspaceResponse>, Status> {
        let call = self
            .gate
            .open(request, |message| {
                WorkspaceName::parse("name", &message.name)
            })
            .await?;
        let workspace = self.gate.workspace_record(&call.name).await?;
        Ok(Response::new(GetWorkspaceResponse {
            workspace: Some(convert::workspace(workspace)),
        }))
    }

    async fn list_workspaces(
        &self,
        request: Request<ListWorkspacesRequest>,
    ) -> Result<Response<ListWorkspacesResponse>, Status> {
        Ok(Response::new(self.list(request).await?))
    }
}
