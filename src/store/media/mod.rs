//! Files that were uploaded to be sent.
//!
//! The bytes lie on disk, never in the engine: each file encrypted ([`sealed`]) under a key of its own,
//! which only the file's sealed row holds, so that without the workspace's key nothing can be read and
//! deleting the row makes the file worthless. A row is committed after its file is durable; a file without
//! a row is what a crash left and goes at the next open ([`shelf`]).
//!
//! A file lasts until its deadline, and beyond it while a message that waits in the outbox needs it: the
//! row counts those messages, in the commits that accept and settle them.

mod row;
mod sealed;
mod shelf;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;

use self::row::{KindNumber, ReferenceRow};
pub(super) use self::row::{MediaRow, ending};
pub use self::sealed::{Incoming, IncomingError, MediaFile, SealedFile};
use self::shelf::Found;
pub(super) use self::shelf::Shelf;
use super::engine::{Commit, RowError, UpdateFn, Urgency};
use super::errors::{LookupError, StoreError};
use super::key::{Kind, id_parts, session_of};
use super::requests::Remember;
use super::scope::{ATTEMPTS, Scope, Txn, TxnError};
use super::session::SessionStore;
use super::sweeper;
use super::workspace::Context;
use crate::domain::clock::Timestamp;
use crate::domain::ids::MediaId;
use crate::domain::media::{MediaKind, UploadedMedia};

/// How uploaded files are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaOptions {
    /// The directory they lie in.
    pub dir: PathBuf,
    /// The longest file, in bytes.
    pub max_file: u64,
    /// What the files of one workspace may take on disk, in bytes.
    pub max_workspace: u64,
    /// How long a file is kept that no waiting message needs.
    pub keep: Duration,
}

/// A file was not kept.
#[derive(Debug, Error)]
pub enum KeepError {
    /// The operating system refused.
    #[error("the file cannot be stored: {0}")]
    Io(#[from] io::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is known of a file besides its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMedia {
    /// MIME type.
    pub mime_type: String,
    /// Its name.
    pub file_name: Option<String>,
}

/// A file that a message needs, on its way out.
#[derive(Debug)]
pub struct Departing {
    /// The file.
    pub file: MediaFile,
    /// The provider's own note of where it lies, if it was uploaded there before, and when.
    pub reference: Option<(Vec<u8>, Timestamp)>,
}

/// A session's uploaded files.
#[derive(Debug, Clone)]
pub struct MediaStore {
    session: SessionStore,
    shelf: Arc<Shelf>,
}

impl MediaStore {
    pub(super) fn new(session: SessionStore, shelf: Arc<Shelf>) -> Self {
        Self { session, shelf }
    }

    fn scope(&self) -> &Scope {
        self.session.scope()
    }

    fn key(&self, id: MediaId) -> Bytes {
        self.scope().key(Kind::Media).uuid(id.0).finish()
    }

    fn missing(&self, id: MediaId) -> LookupError {
        LookupError::NotFound {
            what: format!("{}/media/{id}", self.session.name()),
        }
    }

    /// Begins to take a file in.
    ///
    /// # Errors
    /// [`IncomingError::Full`] when the workspace's files take all the room they may.
    pub async fn begin(&self) -> Result<Incoming, IncomingError> {
        let workspace = self.scope().sealer.workspace();
        let place = self.shelf.place(workspace, self.session.number());
        let mut rest = [0; 10];
        self.session.workspace().0.context.entropy.fill(&mut rest);
        let now = self.session.workspace().now();
        let id = uuid::Builder::from_unix_timestamp_millis(now.0, &rest).into_uuid();
        Incoming::begin(&self.shelf, workspace, place, id).await
    }

    /// Keeps a file that was taken in: durable on return, together with the remembered answer.
    ///
    /// # Errors
    /// [`KeepError`]; the file is gone then.
    pub async fn keep(
        &self,
        sealed: SealedFile,
        new: NewMedia,
        remember: Remember<UploadedMedia>,
    ) -> Result<UploadedMedia, KeepError> {
        let now = self.session.workspace().now();
        let row = MediaRow {
            mime_type: new.mime_type,
            file_name: new.file_name,
            size: sealed.size(),
            sha256: sealed.sha256().0.to_vec(),
            key: sealed.secret(),
            created_at: now.0,
            expires_at: now.plus(self.shelf.options().keep).0,
            uses: 0,
            references: Vec::new(),
        };
        let id = MediaId(sealed.id());
        let media = row.to_domain(id)?;
        let settled = sealed.settle().await?;
        for _ in 0..ATTEMPTS {
            match self.try_keep(id, &row, &media, &remember).await {
                Ok(()) => {
                    settled.keep();
                    return Ok(media);
                }
                Err(TxnError::Conflict) => {}
                Err(TxnError::Store(error)) => return Err(error.into()),
            }
        }
        Err(StoreError::Contended.into())
    }

    async fn try_keep(
        &self,
        id: MediaId,
        row: &MediaRow,
        media: &UploadedMedia,
        remember: &Remember<UploadedMedia>,
    ) -> Result<(), TxnError> {
        let workspace = self.session.workspace();
        let mut txn = Txn::new(self.scope().engine.clone());
        // Ties the commit to the session: one that is being deleted takes no files.
        let session = workspace
            .sessions()
            .read_in(&mut txn, self.session.id())
            .await
            .map_err(TxnError::Store)?;
        if session.is_none() {
            return Err(TxnError::Store(StoreError::Gone));
        }
        let key = self.key(id);
        let rows = async {
            txn.put(self.scope(), key.clone(), row)?;
            let until = Timestamp(row.expires_at);
            let (entry, value) =
                sweeper::expiry_row(workspace, &key, self.session.number(), until)?;
            txn.put_raw(entry, value);
            txn.expect_absent(remember.key());
            for (key, value) in remember.rows(media)? {
                txn.put_raw(key, value);
            }
            Ok::<_, StoreError>(())
        };
        rows.await.map_err(TxnError::Store)?;
        txn.commit().await.map(|_| ())
    }

    async fn row(&self, id: MediaId) -> Result<MediaRow, LookupError> {
        let row = self.scope().get(&self.key(id)).await?;
        row.ok_or_else(|| self.missing(id))
    }

    /// What is known of a file.
    ///
    /// # Errors
    /// [`LookupError::NotFound`] when this session has no such file, or no longer.
    pub async fn get(&self, id: MediaId) -> Result<UploadedMedia, LookupError> {
        Ok(self.row(id).await?.to_domain(id)?)
    }

    /// A file, to be read.
    ///
    /// # Errors
    /// [`LookupError::NotFound`] when this session has no such file, or no longer.
    pub async fn open(&self, id: MediaId) -> Result<MediaFile, LookupError> {
        let row = self.row(id).await?;
        Ok(self.file(id, &row))
    }

    /// A file, to be sent as `kind`.
    ///
    /// # Errors
    /// [`LookupError::NotFound`] when this session has no such file, or no longer.
    pub async fn depart(&self, id: MediaId, kind: MediaKind) -> Result<Departing, LookupError> {
        let row = self.row(id).await?;
        let file = self.file(id, &row);
        let known = row
            .references
            .into_iter()
            .find(|it| it.kind == kind.number());
        Ok(Departing {
            file,
            reference: known.map(|it| (it.reference, Timestamp(it.at))),
        })
    }

    fn file(&self, id: MediaId, row: &MediaRow) -> MediaFile {
        let workspace = self.scope().sealer.workspace();
        let place = self.shelf.place(workspace, self.session.number());
        MediaFile::new(place.file(id.0), row)
    }

    /// Remembers where the provider keeps a file that was sent as `kind`, so that the next message with
    /// it need not carry it there again. Not awaited: a loss costs another upload.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn remember_reference(
        &self,
        id: MediaId,
        kind: MediaKind,
        reference: Vec<u8>,
    ) -> Result<(), StoreError> {
        let at = self.session.workspace().now().0;
        let key = self.key(id);
        let update = changed(self.scope(), &key, move |row| {
            row.references.retain(|it| it.kind != kind.number());
            row.references.push(ReferenceRow {
                kind: kind.number(),
                reference,
                at,
            });
        });
        let commit = Commit {
            update: vec![(key, update)],
            ..Commit::default()
        };
        self.scope().engine.submit(commit, Urgency::Lazy).await?;
        Ok(())
    }

    /// Counts one more message that needs the file, when the transaction commits; the commit fails if the
    /// file is gone by then.
    pub(super) fn use_in(&self, txn: &mut Txn, id: MediaId) {
        let (scope, key) = (self.scope().clone(), self.key(id));
        let at = key.clone();
        txn.update_raw(
            key,
            Box::new(move |current| {
                let sealed = current.ok_or_else(|| RowError("the file is gone".into()))?;
                change(&scope, &at, sealed, |row| {
                    row.uses = row.uses.saturating_add(1);
                })
            }),
        );
    }

    /// Counts one message less, when the transaction commits.
    pub(super) fn release_in(scope: &Scope, txn: &mut Txn, id: MediaId) {
        let key = scope.key(Kind::Media).uuid(id.0).finish();
        let update = changed(scope, &key, |row| row.uses = row.uses.saturating_sub(1));
        txn.update_raw(key, update);
    }
}

/// Removes the files of a session, or of a workspace, whose rows are gone.
pub(super) async fn purge(
    context: &Context,
    workspace: u64,
    session: Option<u64>,
) -> Result<(), StoreError> {
    let Some(shelf) = context.media.clone() else {
        return Ok(());
    };
    let failed = |error: io::Error| StoreError::Io(format!("uploaded files: {error}"));
    tokio::task::spawn_blocking(move || shelf.purge(workspace, session))
        .await
        .map_err(|error| failed(io::Error::other(error)))?
        .map_err(failed)
}

/// The file whose row has this key.
pub(super) fn found(workspace: u64, key: &[u8]) -> Option<Found> {
    let id = uuid::Uuid::from_slice(id_parts(key)?.get(1..)?).ok()?;
    Some(Found {
        workspace,
        session: session_of(key)?,
        id,
    })
}

/// Changes a row at commit time; one that is gone stays gone.
fn changed(
    scope: &Scope,
    key: &Bytes,
    with: impl FnOnce(&mut MediaRow) + Send + 'static,
) -> UpdateFn {
    let (scope, at) = (scope.clone(), key.clone());
    Box::new(move |current| match current {
        Some(sealed) => change(&scope, &at, sealed, with),
        None => Ok(None),
    })
}

fn change(
    scope: &Scope,
    key: &Bytes,
    sealed: &[u8],
    with: impl FnOnce(&mut MediaRow),
) -> Result<Option<Bytes>, RowError> {
    let fail = |error: StoreError| RowError(error.to_string());
    let mut row: MediaRow = scope.open(key, sealed).map_err(fail)?;
    with(&mut row);
    scope.seal(key, &row).map(Some).map_err(fail)
}
