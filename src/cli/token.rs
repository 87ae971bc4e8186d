//! `trunkline token`: who may call over the network.

use clap::Subcommand;

use super::exit::Failure;
use super::json::json;
use super::output::complain;
use super::target::{Daemon, request_id};
use super::{Context, words};
use crate::pb;
use crate::pb::token_scope::Scope;

/// What to do with tokens.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Create a token for the workspace, or for everything with --administrator
    Create {
        /// A label for people
        #[arg(long, default_value = "")]
        display_name: String,
        /// Open everything instead of one workspace
        #[arg(long)]
        administrator: bool,
    },
    /// List the tokens, without their secrets
    List,
    /// Revoke a token: no later call can use it
    Revoke {
        /// The token's id, as `trunkline token list` shows it
        // Not called `token`: that is the global option.
        #[arg(value_name = "TOKEN")]
        id: String,
    },
}

impl TokenCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// What the daemon refuses, in one line.
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let daemon = Daemon::connect(context).await?;
        match self {
            Self::Create {
                display_name,
                administrator,
            } => {
                let scope = if administrator {
                    Scope::Administrator(pb::AdministratorScope {})
                } else {
                    Scope::Workspace(daemon.workspace_name())
                };
                create(context, &daemon, display_name, scope).await
            }
            Self::List => list(context, &daemon).await,
            Self::Revoke { id } => {
                let id = words::id(&id);
                let request = pb::RevokeTokenRequest {
                    name: format!("tokens/{id}"),
                    request_id: request_id(),
                };
                daemon.tokens().revoke_token(request).await?;
                if context.output.is_json() {
                    return context.output.json(&serde_json::json!({}));
                }
                context.output.line(&format!("token {id} revoked"))
            }
        }
    }
}

async fn create(
    context: &Context,
    daemon: &Daemon,
    display_name: String,
    scope: Scope,
) -> Result<(), Failure> {
    let request = pb::CreateTokenRequest {
        display_name,
        scope: Some(pb::TokenScope { scope: Some(scope) }),
        request_id: request_id(),
    };
    let answer = daemon.tokens().create_token(request).await?.into_inner();
    if context.output.is_json() {
        return context.output.json(&json("CreateTokenResponse", &answer)?);
    }
    // The secret alone on standard output, so that `TOKEN=$(trunkline token create)` works.
    complain("the secret is shown this once; send it as `authorization: Bearer <secret>`:");
    context.output.line(&answer.secret)
}

async fn list(context: &Context, daemon: &Daemon) -> Result<(), Failure> {
    let mut tokens = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = pb::ListTokensRequest {
            page_size: 1000,
            page_token,
        };
        let page = daemon.tokens().list_tokens(request).await?.into_inner();
        tokens.extend(page.tokens);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if context.output.is_json() {
        for token in &tokens {
            context.output.json(&json("Token", token)?)?;
        }
        return Ok(());
    }
    let rows = tokens
        .iter()
        .map(|token| {
            vec![
                words::id(&token.name).to_owned(),
                scope_words(token),
                words::one_line(&token.display_name),
                words::moment(token.create_time.as_ref()),
            ]
        })
        .collect();
    context.output.table(
        &["TOKEN", "OPENS", "NAME", "CREATED"],
        rows,
        "no tokens; make one with `trunkline token create`",
    )
}

fn scope_words(token: &pb::Token) -> String {
    match token.scope.as_ref().and_then(|scope| scope.scope.as_ref()) {
        Some(Scope::Administrator(_)) => "everything".to_owned(),
        Some(Scope::Workspace(name)) => format!("workspace {}", words::id(name)),
        None => "-".to_owned(),
    }
}
