//! Bearer tokens: 256 random bits, of which only a digest is kept.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use prost::Message;
use secrecy::SecretString;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::engine::Scan;
use super::errors::{LookupError, StoreError};
use super::key::Kind;
use super::migrate::first_version;
use super::page::{Page, PageRequest, PageToken};
use super::requests::Remember;
use super::scope::{Scope, Txn, TxnError};
use super::workspace::{Context, stored_id};
use crate::domain::clock::Timestamp;
use crate::domain::ids::WorkspaceId;

/// What every token begins with, so that scanners recognise a leaked one.
pub const TOKEN_PREFIX: &str = "tl_";

/// What a token allows.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TokenKind {
    /// Everything, in every workspace.
    Administrator,
    /// Everything in one workspace.
    Workspace(WorkspaceId),
}

/// What is kept about a token. The secret itself is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenInfo {
    /// Names the token in lists and when it is revoked.
    pub id: Uuid,
    /// What it allows.
    pub kind: TokenKind,
    /// A label for people.
    pub display_name: String,
    /// When it was created.
    pub created_at: Timestamp,
}

/// A fresh token. The secret is shown once and cannot be recovered.
pub struct NewToken {
    /// What is kept about it.
    pub info: TokenInfo,
    /// What the client sends.
    pub secret: SecretString,
}

impl fmt::Debug for NewToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NewToken({:?})", self.info)
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TokenRow {
    #[prost(bytes = "vec", tag = "1")]
    digest: Vec<u8>,
    #[prost(string, tag = "2")]
    workspace: String,
    #[prost(string, tag = "3")]
    display_name: String,
    #[prost(uint64, tag = "4")]
    created_at: u64,
    #[prost(bytes = "vec", tag = "5")]
    id: Vec<u8>,
}
first_version!(TokenRow, "token");

type Secret = [u8; 32];

/// A token as it is kept in memory.
#[derive(Debug, Clone)]
struct Known {
    info: TokenInfo,
    revoked: CancellationToken,
}

impl Known {
    fn new(info: TokenInfo) -> Self {
        Self {
            info,
            revoked: CancellationToken::new(),
        }
    }
}

/// What a presented token allows.
#[derive(Debug, Clone)]
pub struct Verified {
    /// What is kept about it.
    pub info: TokenInfo,
    /// Cancelled when the token is revoked: what was begun under it must end.
    pub revoked: CancellationToken,
}

/// The bearer tokens of the store. All of them are kept in memory as digests: verifying touches no
/// disk.
#[derive(Clone)]
pub struct Tokens {
    context: Context,
    scope: Scope,
    known: Arc<RwLock<HashMap<Secret, Known>>>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tokens")
    }
}

impl Tokens {
    pub(super) async fn load(context: Context, scope: Scope) -> Result<Self, StoreError> {
        let mut known = HashMap::new();
        let mut scan = Scan::prefix(&scope.prefix(Kind::Token), super::engine::MAX_PAGE);
        loop {
            let (rows, more) = scope.scan::<TokenRow>(scan.clone()).await?;
            if let Some((last, _)) = rows.last() {
                scan = scan.after(last);
            }
            for (_, row) in rows {
                let (digest, info) = row.into_info()?;
                known.insert(digest, Known::new(info));
            }
            if !more {
                break;
            }
        }
        Ok(Self {
            context,
            scope,
            known: Arc::new(RwLock::new(known)),
        })
    }

    /// Creates a token; durable on return.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn create(
        &self,
        kind: TokenKind,
        display_name: &str,
    ) -> Result<NewToken, StoreError> {
        self.create_with(kind, display_name, None).await
    }

    /// Creates a token and remembers that the request made one, in one commit. The answer is made of what
    /// is kept about the token, so it cannot hold the secret.
    ///
    /// # Errors
    /// [`StoreError::Contended`] when the request was answered meanwhile.
    pub async fn create_once(
        &self,
        kind: TokenKind,
        display_name: &str,
        remember: &Remember<TokenInfo>,
    ) -> Result<NewToken, StoreError> {
        self.create_with(kind, display_name, Some(remember)).await
    }

    async fn create_with(
        &self,
        kind: TokenKind,
        display_name: &str,
        remember: Option<&Remember<TokenInfo>>,
    ) -> Result<NewToken, StoreError> {
        let mut secret = zeroize::Zeroizing::new([0; 32]);
        self.context.entropy.fill(&mut *secret);
        let text = format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(*secret));
        let info = TokenInfo {
            id: self.context.entropy.uuid(),
            kind,
            display_name: display_name.to_owned(),
            created_at: self.context.clock.now(),
        };
        let digest = digest(&text);
        let row = TokenRow {
            digest: digest.to_vec(),
            workspace: match &info.kind {
                TokenKind::Administrator => String::new(),
                TokenKind::Workspace(id) => id.as_str().to_owned(),
            },
            display_name: info.display_name.clone(),
            created_at: info.created_at.0,
            id: info.id.as_bytes().to_vec(),
        };
        let key = self.scope.key(Kind::Token).uuid(info.id).finish();
        let mut txn = Txn::new(self.scope.engine.clone());
        txn.put(&self.scope, key, &row)?;
        if let Some(remember) = remember {
            remember.put_in(&mut txn, &info)?;
        }
        commit(txn).await?;
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.insert(digest, Known::new(info.clone()));
        Ok(NewToken {
            info,
            secret: text.into(),
        })
    }

    /// What a presented token allows; `None` if it is not one of ours.
    pub fn verify(&self, presented: &str) -> Option<Verified> {
        let presented = digest(presented);
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        // The map finds a candidate by its digest, which tells an attacker nothing about any secret;
        // the comparison that decides takes the same time for every input.
        let (stored, found) = known.get_key_value(&presented)?;
        bool::from(stored.ct_eq(&presented)).then(|| Verified {
            info: found.info.clone(),
            revoked: found.revoked.clone(),
        })
    }

    /// All tokens, oldest first.
    pub fn list(&self) -> Vec<TokenInfo> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = known.values().map(|known| known.info.clone()).collect();
        all.sort_by_key(|info| (info.created_at, info.id));
        all
    }

    /// One page of tokens, oldest first.
    pub fn page(&self, request: &PageRequest) -> Page<TokenInfo> {
        let place = |info: &TokenInfo| {
            let mut place = info.created_at.0.to_be_bytes().to_vec();
            place.extend_from_slice(info.id.as_bytes());
            place
        };
        let after = request.after.as_ref().map_or(&[][..], PageToken::bytes);
        let mut rest = self.list();
        rest.retain(|info| place(info).as_slice() > after);
        let more = rest.len() > request.rows();
        rest.truncate(request.rows());
        let last = rest.last().filter(|_| more);
        let next = last.map(|info| PageToken::new(place(info)));
        Page { items: rest, next }
    }

    /// Revokes a token; it is refused from the moment this returns, also after a crash.
    ///
    /// # Errors
    /// [`LookupError::NotFound`] when there is no such token.
    pub async fn revoke(&self, id: Uuid) -> Result<(), LookupError> {
        self.revoke_with(id, None).await
    }

    /// Revokes a token and remembers the answer to the request, in one commit.
    ///
    /// # Errors
    /// [`LookupError::NotFound`] when there is no such token.
    pub async fn revoke_once(&self, id: Uuid, remember: &Remember<()>) -> Result<(), LookupError> {
        self.revoke_with(id, Some(remember)).await
    }

    async fn revoke_with(
        &self,
        id: Uuid,
        remember: Option<&Remember<()>>,
    ) -> Result<(), LookupError> {
        if !self.list().iter().any(|info| info.id == id) {
            return Err(LookupError::NotFound {
                what: format!("token {id}"),
            });
        }
        let mut txn = Txn::new(self.scope.engine.clone());
        txn.delete(self.scope.key(Kind::Token).uuid(id).finish());
        if let Some(remember) = remember {
            remember.put_in(&mut txn, &())?;
        }
        commit(txn).await?;
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, known| {
            if known.info.id == id {
                known.revoked.cancel();
            }
            known.info.id != id
        });
        Ok(())
    }

    /// Revokes all tokens of a workspace that is being deleted.
    pub(super) async fn revoke_workspace(&self, workspace: &WorkspaceId) -> Result<(), StoreError> {
        for info in self.list() {
            if info.kind == TokenKind::Workspace(workspace.clone()) {
                match self.revoke(info.id).await {
                    Ok(()) | Err(LookupError::NotFound { .. }) => {}
                    Err(LookupError::Store(error)) => return Err(error),
                }
            }
        }
        Ok(())
    }
}

async fn commit(txn: Txn) -> Result<(), StoreError> {
    match txn.commit().await {
        Ok(_) => Ok(()),
        Err(TxnError::Conflict) => Err(StoreError::Contended),
        Err(TxnError::Store(error)) => Err(error),
    }
}

fn digest(presented: &str) -> Secret {
    Sha256::digest(presented.as_bytes()).into()
}

impl TokenRow {
    fn into_info(self) -> Result<(Secret, TokenInfo), StoreError> {
        let damaged = || StoreError::Damaged("a token cannot be read".into());
        let digest = self.digest.as_slice().try_into().map_err(|_| damaged())?;
        let kind = match self.workspace.as_str() {
            "" => TokenKind::Administrator,
            id => TokenKind::Workspace(stored_id(WorkspaceId::new(id))?),
        };
        let info = TokenInfo {
            id: Uuid::from_slice(&self.id).map_err(|_| damaged())?,
            kind,
            display_name: self.display_name,
            created_at: Timestamp(self.created_at),
        };
        Ok((digest, info))
    }
}
