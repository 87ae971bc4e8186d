//! `WorkspaceService`.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::gate::{Caller, Gate};
use super::names::{WorkspaceName, in_field};
use super::once::Once;
use super::status::ApiError;
use super::{convert, fields};
use crate::domain::ids::WorkspaceId;
use crate::pb::workspace_service_server::WorkspaceService;
use crate::pb::{
    CreateWorkspaceRequest, CreateWorkspaceResponse, GetWorkspaceRequest, GetWorkspaceResponse,
    ListWorkspacesRequest, ListWorkspacesResponse,
};
use crate::store::{LookupError, Store};

/// Implements `WorkspaceService`.
#[derive(Debug)]
pub(super) struct Workspaces {
    gate: Gate,
    once: Arc<Once>,
    /// One creation at a time, so that a repetition finds the answer of the first.
    creating: tokio::sync::Mutex<()>,
}

impl Workspaces {
    pub(super) fn new(gate: Gate, once: Arc<Once>) -> Self {
        Self {
            gate,
            once,
            creating: tokio::sync::Mutex::new(()),
        }
    }

    async fn create(
        &self,
        request: Request<CreateWorkspaceRequest>,
    ) -> Result<CreateWorkspaceResponse, ApiError> {
        let store = self.gate.administrator(&request)?.clone();
        let message = request.into_inner();
        let id = in_field(
            "workspace_id",
            WorkspaceId::new(message.workspace_id.as_str()),
        )?;
        let display_name = fields::display_name(message.display_name.clone())?;
        let request_id = fields::request_id(&message.request_id)?;
        let _guard = self.creating.lock().await;
        // The answer is remembered in the workspace itself, so one that exists is asked first.
        match store.workspace(&id).await {
            Ok(existing) => {
                let taken =
                    ApiError::from(crate::store::CreateError::AlreadyExists { what: id.name() });
                let again = async { Err(taken) };
                self.once
                    .run(&existing, request_id, "CreateWorkspace", &message, again)
                    .await
            }
            Err(LookupError::NotFound { .. }) => {
                let workspace = create(&store, &id, &display_name).await?;
                let opened = store.workspace(&id).await?;
                let answer = async { Ok(workspace) };
                self.once
                    .run(&opened, request_id, "CreateWorkspace", &message, answer)
                    .await
            }
            Err(LookupError::Store(error)) => Err(error.into()),
        }
    }

    async fn list(
        &self,
        request: Request<ListWorkspacesRequest>,
    ) -> Result<ListWorkspacesResponse, ApiError> {
        let caller = self.gate.caller(&request)?;
        let page = fields::page(request.get_ref().page_size, &request.get_ref().page_token)?;
        match caller {
            Caller::Administrator => {
                let store = self.gate.administrator(&request)?;
                let page = store.list_workspaces(&page).await?;
                Ok(ListWorkspacesResponse {
                    workspaces: page.items.into_iter().map(convert::workspace).collect(),
                    next_page_token: page.next.map(|t| t.encode()).unwrap_or_default(),
                })
            }
            Caller::Workspace(own) => {
                let only = self.gate.workspace_record(&WorkspaceName(own)).await?;
                Ok(ListWorkspacesResponse {
                    workspaces: vec![convert::workspace(only)],
                    next_page_token: String::new(),
                })
            }
        }
    }
}

async fn create(
    store: &Store,
    id: &WorkspaceId,
    display_name: &str,
) -> Result<CreateWorkspaceResponse, ApiError> {
    let workspace = store.create_workspace(id, display_name).await?;
    store
        .audit()
        .record("administrator", "CreateWorkspace", &id.name())
        .await?;
    Ok(CreateWorkspaceResponse {
        workspace: Some(convert::workspace(workspace)),
    })
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
