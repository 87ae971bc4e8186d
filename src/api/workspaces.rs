//! `WorkspaceService`.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::fields::{Listing as _, listing};
use super::gate::{Gate, Rights};
use super::names::{WorkspaceName, in_field};
use super::once::{Mutation as _, Once, mutation};
use super::ports::Sessions;
use super::status::ApiError;
use super::{convert, fields};
use crate::delivery::Hub;
use crate::domain::ids::WorkspaceId;
use crate::domain::workspace::Workspace;
use crate::pb::workspace_service_server::WorkspaceService;
use crate::pb::{
    CreateWorkspaceRequest, CreateWorkspaceResponse, DeleteWorkspaceRequest,
    DeleteWorkspaceResponse, GetWorkspaceRequest, GetWorkspaceResponse, ListWorkspacesRequest,
    ListWorkspacesResponse, UpdateWorkspaceRequest, UpdateWorkspaceResponse,
};
use crate::store::UpdateError;

mutation! {
    CreateWorkspaceRequest is "CreateWorkspace";
    UpdateWorkspaceRequest is "UpdateWorkspace", with etag;
    DeleteWorkspaceRequest is "DeleteWorkspace", with etag;
}

listing! {
    ListWorkspacesRequest is "ListWorkspaces";
}

/// Implements `WorkspaceService`.
#[derive(Debug)]
pub(super) struct Workspaces {
    gate: Gate,
    once: Arc<Once>,
    sessions: Arc<dyn Sessions>,
    hub: Hub,
}

impl Workspaces {
    pub(super) fn new(gate: Gate, once: Arc<Once>, sessions: Arc<dyn Sessions>, hub: Hub) -> Self {
        Self {
            gate,
            once,
            sessions,
            hub,
        }
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
        let message = request.get_ref();
        let page = message.page()?;
        match caller.rights {
            Rights::Administrator => {
                let store = self.gate.administrator(&request)?;
                let page = store.list_workspaces(&page).await?;
                Ok(ListWorkspacesResponse {
                    next_page_token: message.next(page.next),
                    workspaces: page.items.into_iter().map(convert::workspace).collect(),
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

impl Workspaces {
    async fn update(
        &self,
        request: Request<UpdateWorkspaceRequest>,
    ) -> Result<UpdateWorkspaceResponse, ApiError> {
        let store = self.gate.administrator(&request)?.clone();
        let message = request.into_inner();
        let given = message.workspace.clone().unwrap_or_default();
        let name = WorkspaceName::parse("workspace.name", &given.name)?;
        let is_set = |_: &str| !given.display_name.is_empty();
        fields::mask(message.update_mask.as_ref(), &["display_name"], is_set)?;
        let display_name = fields::display_name(given.display_name)?;
        let shown = |workspace: &Workspace| UpdateWorkspaceResponse {
            workspace: Some(convert::workspace(workspace.clone())),
        };
        let home = self.gate.home(&store).await?;
        self.once
            .run_in(&home, &message, async |ticket| {
                let remember = ticket.remember(shown);
                let changed = store
                    .update_workspace_once(&name.0, message.etag(), &display_name, &remember)
                    .await?;
                Ok(shown(&changed))
            })
            .await
    }

    async fn delete(
        &self,
        request: Request<DeleteWorkspaceRequest>,
    ) -> Result<DeleteWorkspaceResponse, ApiError> {
        let store = self.gate.administrator(&request)?.clone();
        let message = request.into_inner();
        let id = WorkspaceName::parse("name", &message.name)?.0;
        let home = self.gate.home(&store).await?;
        self.once
            .run_in(&home, &message, async |ticket| {
                let answer = |(): &()| DeleteWorkspaceResponse {};
                if id == WorkspaceId::default_workspace() {
                    return Err(UpdateError::BuiltIn { what: id.name() }.into());
                }
                // Checked in a commit of its own, which makes the etag stale for everybody else, before
                // anything ends.
                let record = store.get_workspace(&id).await?;
                store
                    .update_workspace(&id, message.etag(), &record.display_name)
                    .await?;
                self.sessions.release(&id).await?;
                store
                    .delete_workspace_once(&id, None, &ticket.remember(answer))
                    .await?;
                self.hub.workspace_deleted(&id).await;
                let audit = store.audit();
                audit
                    .record("administrator", "DeleteWorkspace", &id.name())
                    .await?;
                Ok(answer(&()))
            })
            .await
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

    async fn update_workspace(
        &self,
        request: Request<UpdateWorkspaceRequest>,
    ) -> Result<Response<UpdateWorkspaceResponse>, Status> {
        Ok(Response::new(self.update(request).await?))
    }

    async fn delete_workspace(
        &self,
        request: Request<DeleteWorkspaceRequest>,
    ) -> Result<Response<DeleteWorkspaceResponse>, Status> {
        Ok(Response::new(self.delete(request).await?))
    }
}
