//! A file on disk, encrypted with age (chunks of `ChaCha20-Poly1305`) for a key of its own.
//!
//! What comes in is encrypted on the way to the disk: its plaintext is never there. Memory is a few chunks
//! a file, whatever its size. A reader notices every change of the bytes, also that they end early.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::str::FromStr as _;
use std::sync::Arc;

use age::secrecy::ExposeSecret as _;
use age::x25519::Identity;
use bytes::Bytes;
use sha2::{Digest as _, Sha256 as Hasher};
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::row::MediaRow;
use super::shelf::{NoRoom, Place, Shelf, sync_dir};
use crate::domain::media::Sha256;

/// Chunks that wait for the disk.
const WAITING: usize = 4;

/// A file was not taken in.
#[derive(Debug, Error)]
pub enum IncomingError {
    /// It is longer than a file may be.
    #[error("the file is longer than {most} bytes")]
    TooLarge {
        /// The longest file, in bytes.
        most: u64,
    },
    /// The workspace's files take all the room they may.
    #[error("the workspace's files take all of the {most} bytes they may")]
    Full {
        /// The room, in bytes.
        most: u64,
    },
    /// The disk is nearly full.
    #[error("the disk is nearly full")]
    Disk,
    /// The operating system refused.
    #[error("the file cannot be stored: {0}")]
    Io(#[from] io::Error),
}

enum Piece {
    Bytes(Bytes),
    End,
}

/// A file that is coming in. Dropping it forgets the file.
#[derive(Debug)]
pub struct Incoming {
    pieces: mpsc::Sender<Piece>,
    worker: JoinHandle<Result<SealedFile, IncomingError>>,
    seen: u64,
    most: u64,
}

impl Incoming {
    pub(super) fn begin(shelf: &Arc<Shelf>, workspace: u64, place: Place, id: Uuid) -> Self {
        let (pieces, incoming) = mpsc::channel(WAITING);
        let most = shelf.options().max_file;
        let part = Part {
            shelf: Arc::clone(shelf),
            workspace,
            place,
            id,
        };
        Self {
            pieces,
            worker: tokio::task::spawn_blocking(move || part.write(incoming)),
            seen: 0,
            most,
        }
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// [`IncomingError`]; the file is forgotten then.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), IncomingError> {
        self.seen = self.seen.saturating_add(bytes.len() as u64);
        if self.seen > self.most {
            return Err(IncomingError::TooLarge { most: self.most });
        }
        if self.pieces.send(Piece::Bytes(bytes)).await.is_ok() {
            return Ok(());
        }
        // Only a failure ends the worker before the end of the file.
        match (&mut self.worker).await {
            Ok(Err(error)) => Err(error),
            Ok(Ok(_)) => Err(io::Error::other("the file ended early").into()),
            Err(error) => Err(io::Error::other(error).into()),
        }
    }

    /// The whole file has come: durable on return, and forgotten unless it is kept.
    ///
    /// # Errors
    /// [`IncomingError`]; the file is forgotten then.
    pub async fn finish(self) -> Result<SealedFile, IncomingError> {
        // A worker that is gone says why.
        let _ = self.pieces.send(Piece::End).await;
        drop(self.pieces);
        self.worker.await.map_err(io::Error::other)?
    }
}

/// Removes a file unless told otherwise.
#[derive(Debug)]
struct Fleeting {
    path: Option<PathBuf>,
    shelf: Arc<Shelf>,
    workspace: u64,
}

impl Drop for Fleeting {
    fn drop(&mut self) {
        if let Some(path) = self.path.take() {
            // What is left goes at the next open.
            let _ = fs::remove_file(path);
            self.shelf.gone(self.workspace);
        }
    }
}

/// A file that has come in whole. Dropping it forgets the file.
pub struct SealedFile {
    id: Uuid,
    place: Place,
    part: Fleeting,
    identity: String,
    size: u64,
    sha256: Sha256,
}

/// A file under its own name. Dropping it forgets the file.
#[derive(Debug)]
pub(super) struct Settled(Fleeting);

impl Settled {
    /// The file stays.
    pub(super) fn keep(mut self) {
        self.0.path = None;
    }
}

impl std::fmt::Debug for SealedFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SealedFile({} bytes)", self.size)
    }
}

impl SealedFile {
    /// Its length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The digest of its bytes.
    pub fn sha256(&self) -> Sha256 {
        self.sha256
    }

    pub(super) fn id(&self) -> Uuid {
        self.id
    }

    pub(super) fn secret(&self) -> String {
        self.identity.clone()
    }

    /// Gives the file its own name, durably.
    pub(super) async fn settle(mut self) -> io::Result<Settled> {
        let settled = tokio::task::spawn_blocking(move || {
            let path = self.place.file(self.id);
            fs::rename(self.place.part(self.id), &path)?;
            self.part.path = Some(path.clone());
            let settled = Settled(self.part);
            path.parent().map_or(Ok(()), sync_dir)?;
            Ok(settled)
        });
        settled.await.map_err(io::Error::other)?
    }
}

/// A file before its bytes have come.
struct Part {
    shelf: Arc<Shelf>,
    workspace: u64,
    place: Place,
    id: Uuid,
}

impl Part {
    /// Encrypts pieces into the file until the last one, and syncs it.
    fn write(self, mut pieces: mpsc::Receiver<Piece>) -> Result<SealedFile, IncomingError> {
        self.place.make(&self.shelf)?;
        self.shelf
            .reserve_file(self.workspace)
            .map_err(|no| self.refusal(no))?;
        let path = self.place.part(self.id);
        let part = Fleeting {
            path: Some(path.clone()),
            shelf: Arc::clone(&self.shelf),
            workspace: self.workspace,
        };
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        let identity = Identity::generate();
        let recipient = identity.to_public();
        let recipients = std::iter::once(&recipient as &dyn age::Recipient);
        let encryptor = age::Encryptor::with_recipients(recipients).map_err(io::Error::other)?;
        let mut out = encryptor.wrap_output(BufWriter::new(file))?;
        let mut digest = Hasher::new();
        let mut size = 0;
        loop {
            match pieces.blocking_recv() {
                Some(Piece::Bytes(bytes)) => {
                    let length = bytes.len() as u64;
                    self.shelf
                        .reserve(self.workspace, length)
                        .map_err(|no| self.refusal(no))?;
                    out.write_all(&bytes)?;
                    digest.update(&bytes);
                    size += length;
                }
                Some(Piece::End) => break,
                // Whoever sent it went away.
                None => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            }
        }
        let file: File = out
            .finish()?
            .into_inner()
            .map_err(std::io::IntoInnerError::into_error)?;
        file.sync_all()?;
        Ok(SealedFile {
            id: self.id,
            place: self.place,
            part,
            identity: identity.to_string().expose_secret().to_owned(),
            size,
            sha256: Sha256(digest.finalize().into()),
        })
    }

    fn refusal(&self, no: NoRoom) -> IncomingError {
        match no {
            NoRoom::Workspace => IncomingError::Full {
                most: self.shelf.options().max_workspace,
            },
            NoRoom::Disk => IncomingError::Disk,
            NoRoom::Io(error) => error.into(),
        }
    }
}

/// A kept file.
#[derive(Clone)]
pub struct MediaFile {
    path: PathBuf,
    identity: String,
    size: u64,
}

impl std::fmt::Debug for MediaFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MediaFile({} bytes)", self.size)
    }
}

impl MediaFile {
    pub(super) fn new(path: PathBuf, row: &MediaRow) -> Self {
        Self {
            path,
            identity: row.key.clone(),
            size: row.size,
        }
    }

    /// Its length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    pub(super) async fn is_there(&self) -> io::Result<bool> {
        tokio::fs::try_exists(&self.path).await
    }

    /// Its bytes. Blocks: call it, and read, in a blocking context.
    ///
    /// # Errors
    /// The file is not there, or is not what was stored.
    pub fn read(&self) -> io::Result<impl Read + Send + use<>> {
        let damaged = |error: String| io::Error::new(io::ErrorKind::InvalidData, error);
        let foreign = |error| match error {
            // The disk's own word, not the file's.
            age::DecryptError::Io(error) => error,
            error => damaged(error.to_string()),
        };
        let identity =
            Identity::from_str(&self.identity).map_err(|error| damaged(error.to_owned()))?;
        let file = BufReader::new(File::open(&self.path)?);
        let opened = age::Decryptor::new_buffered(file).map_err(foreign)?;
        opened
            .decrypt(std::iter::once(&identity as &dyn age::Identity))
            .map_err(foreign)
    }
}
