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
        row_key(self.scope(), id)
    }

    fn missing(&self, id: MediaId) -> LookupError {
        LookupError::NotFound {
            what: format!("{}/media/{id}", self.session.name()),
        }
    }

    /// Begins to take a file in.
    pub fn begin(&self) -> Incoming {
        let workspace = self.scope().sealer.workspace();
        let place = self.shelf.place(workspace, self.session.number());
        let mut rest = [0; 10];
        self.session.workspace().0.context.entropy.fill(&mut rest);
        let now = self.session.workspace().now();
        let id = uuid::Builder::from_unix_timestamp_millis(now.0, &rest).into_uuid();
        Incoming::begin(&self.shelf, workspace, place, id)
    }

    /// Keeps a file that was taken in: durable on return, together with the remembered answer, which takes
    /// the place of an earlier one if it `replaces` that. Once begun it goes on without its caller: a file
    /// must not be forgotten whose row is on its way.
    ///
    /// # Errors
    /// [`KeepError`]; the file is gone then.
    pub async fn keep(
        &self,
        sealed: SealedFile,
        new: NewMedia,
        remember: Remember<UploadedMedia>,
        replaces: bool,
    ) -> Result<UploadedMedia, KeepError> {
        let store = self.clone();
        let work = async move { store.keep_here(sealed, new, remember, replaces).await };
        let kept = tokio::spawn(tracing::Instrument::in_current_span(work)).await;
        kept.unwrap_or_else(|error| Err(KeepError::Io(io::Error::other(error))))
    }

    async fn keep_here(
        &self,
        sealed: SealedFile,
        new: NewMedia,
        remember: Remember<UploadedMedia>,
        replaces: bool,
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
            match self.try_keep(id, &row, &media, &remember, replaces).await {
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
        replaces: bool,
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
            if !replaces {
                txn.expect_absent(remember.key());
            }
            for (key, value) in remember.rows(media)? {
                txn.put_raw(key, value);
            }
            Ok::<_, StoreError>(())
        };
        rows.await.map_err(TxnError::Store)?;
        txn.commit().await.map(|_| ())
    }

    /// The row of a file that is there. After a restore there are rows without files.
    async fn row(&self, id: MediaId) -> Result<(MediaRow, MediaFile), LookupError> {
        let row: Option<MediaRow> = self.scope().get(&self.key(id)).await?;
        let row = row.ok_or_else(|| self.missing(id))?;
        let file = self.file(id, &row);
        match file.is_there().await {
            Ok(true) => Ok((row, file)),
            Ok(false) => Err(self.missing(id)),
            Err(error) => Err(StoreError::Io(format!("uploaded files: {error}")).into()),
        }
    }

    /// What is known of a file.
    ///
    /// # Errors
    /// [`LookupError::NotFound`] when this session has no such file, or no longer.
    pub async fn get(&self, id: MediaId) -> Result<UploadedMedia, LookupError> {
        Ok(self.row(id).await?.0.to_domain(id)?)
    }

    /// A file, to be read, and what is known of it.
    ///
    /// # Errors
    /// [`LookupError::NotFound`] when this session has no such file, or no longer.
    pub async fn open(&self, id: MediaId) -> Result<(UploadedMedia, MediaFile), LookupError> {
        let (row, file) = self.row(id).await?;
        Ok((row.to_domain(id)?, file))
    }

    /// A file, to be sent as `kind`.
    ///
    /// # Errors
    /// [`LookupError::NotFound`] when this session has no such file, or no longer.
    pub async fn depart(&self, id: MediaId, kind: MediaKind) -> Result<Departing, LookupError> {
        let (row, file) = self.row(id).await?;
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
        let key = row_key(scope, id);
        let update = changed(scope, &key, |row| row.uses = row.uses.saturating_sub(1));
        txn.update_raw(key, update);
    }
}

fn row_key(scope: &Scope, id: MediaId) -> Bytes {
    scope.key(Kind::Media).uuid(id.0).finish()
}

/// Removes the files of a session, or of a workspace, whose rows are gone. What cannot be removed can no
/// longer be read either, and must keep nothing else from being deleted.
pub(super) async fn purge(context: &Context, workspace: u64, session: Option<u64>) {
    let Some(shelf) = context.media.clone() else {
        return;
    };
    let purged = tokio::task::spawn_blocking(move || shelf.purge(workspace, session)).await;
    let purged = purged.unwrap_or_else(|error| Err(io::Error::other(error)));
    if let Err(error) = purged {
        tracing::warn!(%error, "files of what was deleted stay until the next start");
    }
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

/// Changes a row at commit time; one that is gone stays gone, and one that cannot be read stays as it is:
/// the message that needed it must be able to end.
fn changed(
    scope: &Scope,
    key: &Bytes,
    with: impl FnOnce(&mut MediaRow) + Send + 'static,
) -> UpdateFn {
    let (scope, at) = (scope.clone(), key.clone());
    Box::new(move |current| match current {
        Some(sealed) => Ok(change(&scope, &at, sealed, with)
            .unwrap_or_else(|_| Some(Bytes::copy_from_slice(sealed)))),
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
