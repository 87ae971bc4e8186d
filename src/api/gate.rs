//! The only way from a call to the store: authentication and the workspace's handle come together.
//!
//! Services hold a [`Gate`] and no store of their own, so a handler cannot reach tenant data without
//! saying whose. What lies in a workspace that the caller may not see does not exist for that caller:
//! the answer is the same `NOT_FOUND` as for a name nobody uses.

use tokio_util::sync::CancellationToken;
use tonic::Request;
use tonic::metadata::MetadataMap;

use super::names::{Named, WorkspaceName};
use super::status::{ApiError, Reason};
use crate::domain::ids::WorkspaceId;
use crate::domain::workspace::Workspace;
use crate::store::{LookupError, Store, TokenKind, WorkspaceStore};

/// How a call came in; attached to every request by the listener that accepted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Listener {
    /// The operator's unix socket: whoever may open the file administers the daemon.
    Socket,
    /// A network listener: a bearer token is required.
    Network,
}

/// What a caller may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Rights {
    /// Everything.
    Administrator,
    /// Everything in one workspace.
    Workspace(WorkspaceId),
}

/// Who calls.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    /// What the caller may do.
    pub(super) rights: Rights,
    /// Whether that still holds.
    pub(super) standing: Standing,
}

/// Whether what a caller was let through for still holds: what outlives a call must end when it does not.
#[derive(Debug, Clone)]
pub(super) struct Standing {
    /// Of the token, if the call had one.
    revoked: Option<CancellationToken>,
    /// Of the workspace, once one is open.
    gone: Option<(CancellationToken, String)>,
}

impl Standing {
    /// Ends with this workspace too, which the client knows by `name`.
    pub(super) fn within(&self, workspace: &WorkspaceStore, name: &dyn std::fmt::Display) -> Self {
        Self {
            revoked: self.revoked.clone(),
            gone: Some((workspace.gone().clone(), name.to_string())),
        }
    }

    /// Waits until the token behind the call is revoked or the workspace is deleted, and says so to the
    /// client.
    pub(super) async fn lost(&self) -> ApiError {
        let token = async {
            match &self.revoked {
                Some(revoked) => revoked.cancelled().await,
                None => std::future::pending().await,
            }
        };
        let workspace = async {
            match &self.gone {
                Some((gone, name)) => {
                    gone.cancelled().await;
                    name
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = token => revoked(),
            name = workspace => ApiError::not_found(name),
        }
    }
}

fn revoked() -> ApiError {
    ApiError::new(
        Reason::TokenInvalid,
        "the bearer token is unknown or revoked: create one with `trunkline token create`",
    )
}

/// An authenticated call about something in a workspace.
#[derive(Debug)]
pub(super) struct Call<T, N> {
    /// The request.
    pub(super) message: T,
    /// What it is about.
    pub(super) name: N,
    /// The workspace it lies in.
    pub(super) workspace: WorkspaceStore,
    /// Whether the caller's right still holds.
    pub(super) standing: Standing,
}

/// Authenticates calls and opens workspaces for them.
#[derive(Debug, Clone)]
pub(super) struct Gate {
    store: Store,
}

impl Gate {
    /// A gate to this store.
    pub(super) fn new(store: Store) -> Self {
        Self { store }
    }

    /// Who makes this call.
    pub(super) fn caller<T>(&self, request: &Request<T>) -> Result<Caller, ApiError> {
        let caller = match bearer(request.metadata())? {
            Some(token) => {
                let known = self.store.tokens().verify(token).ok_or_else(revoked)?;
                Caller {
                    rights: match known.info.kind {
                        TokenKind::Administrator => Rights::Administrator,
                        TokenKind::Workspace(id) => Rights::Workspace(id),
                    },
                    standing: Standing {
                        revoked: Some(known.revoked),
                        gone: None,
                    },
                }
            }
            None => match request.extensions().get::<Listener>() {
                Some(Listener::Socket) => Caller {
                    rights: Rights::Administrator,
                    standing: Standing {
                        revoked: None,
                        gone: None,
                    },
                },
                Some(Listener::Network) | None => {
                    return Err(ApiError::new(
                        Reason::TokenMissing,
                        "no bearer token: send the metadata `authorization: Bearer <token>`, or use the operator's socket",
                    ));
                }
            },
        };
        let span = tracing::Span::current();
        match &caller.rights {
            Rights::Administrator => span.record("caller", "administrator"),
            Rights::Workspace(_) => span.record("caller", "workspace"),
        };
        Ok(caller)
    }

    /// Lets administrators pass, to what belongs to no workspace.
    pub(super) fn administrator<T>(&self, request: &Request<T>) -> Result<&Store, ApiError> {
        match self.caller(request)?.rights {
            Rights::Administrator => Ok(&self.store),
            Rights::Workspace(_) => Err(ApiError::new(
                Reason::AdministratorRequired,
                "this call needs an administrator's token or the operator's socket",
            )),
        }
    }

    /// The workspace where answers about what belongs to no workspace are remembered: the one that always
    /// exists.
    pub(super) async fn home(&self, administered: &Store) -> Result<WorkspaceStore, ApiError> {
        let default = WorkspaceId::default_workspace();
        Ok(administered.workspace(&default).await?)
    }

    /// Authenticates a call, reads what it is about, and opens the workspace that lies in.
    pub(super) async fn open<T, N: Named>(
        &self,
        request: Request<T>,
        name: impl FnOnce(&T) -> Result<N, ApiError>,
    ) -> Result<Call<T, N>, ApiError> {
        let caller = self.caller(&request)?;
        let message = request.into_inner();
        let name = name(&message)?;
        let workspace = self.workspace(&caller, &name).await?;
        Ok(Call {
            standing: caller.standing.within(&workspace, &name),
            message,
            name,
            workspace,
        })
    }

    /// Opens the workspace that `name` lies in for a caller who is known already (streams).
    pub(super) async fn workspace<N: Named>(
        &self,
        caller: &Caller,
        name: &N,
    ) -> Result<WorkspaceStore, ApiError> {
        let span = tracing::Span::current();
        span.record("workspace", tracing::field::display(name.workspace()));
        if let Some(session) = name.session() {
            span.record("session", tracing::field::display(session));
        }
        if let Rights::Workspace(own) = &caller.rights
            && own != name.workspace()
        {
            return Err(ApiError::not_found(&name.to_string()));
        }
        match self.store.workspace(name.workspace()).await {
            Ok(workspace) => Ok(workspace),
            Err(LookupError::NotFound { .. }) => Err(ApiError::not_found(&name.to_string())),
            Err(LookupError::Store(error)) => Err(error.into()),
        }
    }
}

impl Gate {
    /// The record of a workspace that was opened for the caller.
    pub(super) async fn workspace_record(
        &self,
        name: &WorkspaceName,
    ) -> Result<Workspace, ApiError> {
        Ok(self.store.get_workspace(&name.0).await?)
    }
}

/// The bearer token of a call, if it carries one.
fn bearer(metadata: &MetadataMap) -> Result<Option<&str>, ApiError> {
    let Some(value) = metadata.get("authorization") else {
        return Ok(None);
    };
    let token = value.to_str().ok().and_then(|text| {
        let (scheme, token) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    match token {
        Some(token) if !token.is_empty() => Ok(Some(token)),
        _ => Err(ApiError::new(
            Reason::TokenInvalid,
            "the metadata `authorization` must be `Bearer <token>`",
        )),
    }
}
