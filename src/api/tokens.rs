//! `TokenService`. Administrators only.

use prost::Message as _;
use secrecy::ExposeSecret as _;
use tonic::{Request, Response, Status};

use super::convert;
use super::fields;
use super::gate::Gate;
use super::names::{WorkspaceName, token_name};
use super::status::{ApiError, Reason};
use crate::pb::token_scope::Scope;
use crate::pb::token_service_server::TokenService;
use crate::pb::{
    AdministratorScope, CreateTokenRequest, CreateTokenResponse, ListTokensRequest,
    ListTokensResponse, RevokeTokenRequest, RevokeTokenResponse, Token, TokenScope,
};
use crate::store::{BodyHash, LookupError, MAX_PAGE_SIZE, TokenInfo, TokenKind};

/// Implements `TokenService`.
#[derive(Debug)]
pub(super) struct TokensApi {
    gate: Gate,
    /// One creation at a time, so that of two with the same `request_id` one is refused.
    creating: tokio::sync::Mutex<()>,
}

fn show(info: TokenInfo) -> Token {
    let scope = match info.kind {
        TokenKind::Administrator => Scope::Administrator(AdministratorScope {}),
        TokenKind::Workspace(id) => Scope::Workspace(id.name()),
    };
    Token {
        name: format!("tokens/{}", info.id),
        display_name: info.display_name,
        scope: Some(TokenScope { scope: Some(scope) }),
        create_time: Some(convert::moment(info.created_at)),
    }
}

impl TokensApi {
    pub(super) fn new(gate: Gate) -> Self {
        Self {
            gate,
            creating: tokio::sync::Mutex::new(()),
        }
    }

    async fn create(
        &self,
        request: Request<CreateTokenRequest>,
    ) -> Result<CreateTokenResponse, ApiError> {
        let store = self.gate.administrator(&request)?.clone();
        let message = request.into_inner();
        let request_id = fields::request_id(&message.request_id)?;
        let body = BodyHash::of("CreateToken", &message.encode_to_vec());
        let display_name = fields::display_name(message.display_name)?;
        let kind = match message.scope.and_then(|scope| scope.scope) {
            Some(Scope::Administrator(_)) => TokenKind::Administrator,
            Some(Scope::Workspace(name)) => {
                TokenKind::Workspace(WorkspaceName::parse("scope.workspace", &name)?.0)
            }
            None => {
                return Err(ApiError::field(
                    "scope",
                    "is required: `administrator`, or `workspace` with its name",
                ));
            }
        };
        // Remembered in the workspace the token opens, or in the one that always exists.
        let home = match &kind {
            TokenKind::Workspace(id) => id.clone(),
            TokenKind::Administrator => crate::domain::ids::WorkspaceId::default_workspace(),
        };
        let requests = store.workspace(&home).await?.requests();
        let _guard = self.creating.lock().await;
        if requests.recall(request_id, body).await?.is_some() {
            return Err(ApiError::new(
                Reason::IdempotencyConflict,
                "this request_id created a token already, whose secret is not kept: revoke that token and create another",
            )
            .with("request_id", request_id.to_string()));
        }
        requests
            .remember(request_id, body, Vec::new().into())
            .await?;
        let created = store.tokens().create(kind, &display_name).await?;
        let token = show(created.info);
        store
            .audit()
            .record("administrator", "CreateToken", &token.name)
            .await?;
        Ok(CreateTokenResponse {
            token: Some(token),
            secret: created.secret.expose_secret().to_owned(),
        })
    }

    fn list(&self, request: &Request<ListTokensRequest>) -> Result<ListTokensResponse, ApiError> {
        let store = self.gate.administrator(request)?;
        let asked = request.get_ref();
        let size = fields::page(asked.page_size, "")?.rows().min(MAX_PAGE_SIZE);
        let after = match asked.page_token.as_str() {
            "" => None,
            text => Some(uuid::Uuid::parse_str(text).map_err(|_| {
                ApiError::field_with(
                    Reason::InvalidPageToken,
                    "page_token",
                    "is not one that a listing returned: start again without it",
                )
            })?),
        };
        let all = store.tokens().list();
        let start = after
            .and_then(|after| all.iter().position(|info| info.id == after))
            .map_or(0, |at| at + 1);
        let page: Vec<_> = all.iter().skip(start).take(size).cloned().collect();
        let more = start + page.len() < all.len();
        let next = page.last().filter(|_| more).map(|info| info.id.to_string());
        Ok(ListTokensResponse {
            tokens: page.into_iter().map(show).collect(),
            next_page_token: next.unwrap_or_default(),
        })
    }

    async fn revoke(
        &self,
        request: Request<RevokeTokenRequest>,
    ) -> Result<RevokeTokenResponse, ApiError> {
        let store = self.gate.administrator(&request)?.clone();
        let message = request.into_inner();
        let request_id = fields::request_id(&message.request_id)?;
        let id = token_name("name", &message.name)?;
        let body = BodyHash::of("RevokeToken", &message.encode_to_vec());
        let home = crate::domain::ids::WorkspaceId::default_workspace();
        let requests = store.workspace(&home).await?.requests();
        if requests.recall(request_id, body).await?.is_some() {
            return Ok(RevokeTokenResponse {});
        }
        match store.tokens().revoke(id).await {
            Ok(()) => {}
            Err(LookupError::NotFound { .. }) => return Err(ApiError::not_found(&message.name)),
            Err(LookupError::Store(error)) => return Err(error.into()),
        }
        store
            .audit()
            .record("administrator", "RevokeToken", &message.name)
            .await?;
        requests
            .remember(request_id, body, Vec::new().into())
            .await?;
        Ok(RevokeTokenResponse {})
    }
}

#[tonic::async_trait]
impl TokenService for TokensApi {
    async fn create_token(
        &self,
        request: Request<CreateTokenRequest>,
    ) -> Result<Response<CreateTokenResponse>, Status> {
        Ok(Response::new(self.create(request).await?))
    }

    async fn list_tokens(
        &self,
        request: Request<ListTokensRequest>,
    ) -> Result<Response<ListTokensResponse>, Status> {
        Ok(Response::new(self.list(&request)?))
    }

    async fn revoke_token(
        &self,
        request: Request<RevokeTokenRequest>,
    ) -> Result<Response<RevokeTokenResponse>, Status> {
        Ok(Response::new(self.revoke(request).await?))
    }
}
