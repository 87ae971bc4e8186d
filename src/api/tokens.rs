//! `TokenService`. Administrators only.

use std::sync::Arc;

use secrecy::ExposeSecret as _;
use tonic::{Request, Response, Status};

use super::convert;
use super::fields::{self, Listing as _, listing};
use super::gate::Gate;
use super::names::{WorkspaceName, token_name};
use super::once::{Once, mutation};
use super::status::{ApiError, Reason};
use crate::pb::token_scope::Scope;
use crate::pb::token_service_server::TokenService;
use crate::pb::{
    AdministratorScope, CreateTokenRequest, CreateTokenResponse, ListTokensRequest,
    ListTokensResponse, RevokeTokenRequest, RevokeTokenResponse, Token, TokenScope,
};
use crate::store::{LookupError, TokenInfo, TokenKind};

mutation! {
    CreateTokenRequest is "CreateToken";
    RevokeTokenRequest is "RevokeToken";
}

listing! {
    ListTokensRequest is "ListTokens";
}

/// Implements `TokenService`.
#[derive(Debug)]
pub(super) struct TokensApi {
    gate: Gate,
    once: Arc<Once>,
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
    pub(super) fn new(gate: Gate, once: Arc<Once>) -> Self {
        Self { gate, once }
    }

    async fn create(
        &self,
        request: Request<CreateTokenRequest>,
    ) -> Result<CreateTokenResponse, ApiError> {
        let store = self.gate.administrator(&request)?.clone();
        let message = request.into_inner();
        let display_name = fields::display_name(message.display_name.clone())?;
        let kind = match message.scope.clone().and_then(|scope| scope.scope) {
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
        let shown = |info: &TokenInfo| CreateTokenResponse {
            token: Some(show(info.clone())),
            secret: String::new(),
        };
        let home = self.gate.home(&store).await?;
        let answer = self
            .once
            .run_in(&home, &message, async |ticket| {
                if let TokenKind::Workspace(id) = &kind {
                    store.workspace(id).await?;
                }
                let created = store
                    .tokens()
                    .create_once(kind, &display_name, &ticket.remember(shown))
                    .await?;
                let mut answer = shown(&created.info);
                created
                    .secret
                    .expose_secret()
                    .clone_into(&mut answer.secret);
                let audit = store.audit();
                let target = format!("tokens/{}", created.info.id);
                audit
                    .record("administrator", "CreateToken", &target)
                    .await?;
                Ok(answer)
            })
            .await?;
        if answer.secret.is_empty() {
            let earlier = answer.token.unwrap_or_default().name;
            return Err(ApiError::new(
                Reason::IdempotencyConflict,
                "this request_id created a token already, whose secret is not kept: revoke that token and create another",
            )
            .with("request_id", message.request_id)
            .with("token", earlier));
        }
        Ok(answer)
    }

    fn list(&self, request: &Request<ListTokensRequest>) -> Result<ListTokensResponse, ApiError> {
        let store = self.gate.administrator(request)?;
        let message = request.get_ref();
        let page = store.tokens().page(&message.page()?);
        Ok(ListTokensResponse {
            next_page_token: message.next(page.next),
            tokens: page.items.into_iter().map(show).collect(),
        })
    }

    async fn revoke(
        &self,
        request: Request<RevokeTokenRequest>,
    ) -> Result<RevokeTokenResponse, ApiError> {
        let store = self.gate.administrator(&request)?.clone();
        let message = request.into_inner();
        let id = token_name("name", &message.name)?;
        let home = self.gate.home(&store).await?;
        self.once
            .run_in(&home, &message, async |ticket| {
                let answer = |(): &()| RevokeTokenResponse {};
                match store
                    .tokens()
                    .revoke_once(id, &ticket.remember(answer))
                    .await
                {
                    Ok(()) => {}
                    Err(LookupError::NotFound { .. }) => {
                        return Err(ApiError::not_found(&message.name));
                    }
                    Err(LookupError::Store(error)) => return Err(error.into()),
                }
                let audit = store.audit();
                audit
                    .record("administrator", "RevokeToken", &message.name)
                    .await?;
                Ok(answer(&()))
            })
            .await
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
