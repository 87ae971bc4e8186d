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
use super::shelf::{Place, Shelf, sync_dir};
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
    worker: JoinHandle<Result<SealedFile, io::Error>>,
    seen: u64,
    most: u64,
    /// What the workspace has left.
    room: u64,
    max_workspace: u64,
}

impl Incoming {
    pub(super) async fn begin(
        shelf: &Arc<Shelf>,
        workspace: u64,
        place: Place,
        id: Uuid,
    ) -> Result<Self, IncomingError> {
        let options = shelf.options().clone();
        let measured = Arc::clone(shelf);
        let used = tokio::task::spawn_blocking(move || measured.used(workspace))
            .await
            .map_err(io::Error::other)??;
        let room = options.max_workspace.saturating_sub(used);
        if room == 0 {
            return Err(IncomingError::Full {
                most: options.max_workspace,
            });
        }
        let (pieces, incoming) = mpsc::channel(WAITING);
        let shelf = Arc::clone(shelf);
        let worker = tokio::task::spawn_blocking(move || write(&shelf, place, id, incoming));
        Ok(Self {
            pieces,
            worker,
            seen: 0,
            most: options.max_file,
            room,
            max_workspace: options.max_workspace,
        })
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
        if self.seen > self.room {
            return Err(IncomingError::Full {
                most: self.max_workspace,
            });
        }
        if self.pieces.send(Piece::Bytes(bytes)).await.is_ok() {
            return Ok(());
        }
        // Only a failure ends the worker before the end of the file.
        match (&mut self.worker).await {
            Ok(Err(error)) => Err(error.into()),
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
        Ok(self.worker.await.map_err(io::Error::other)??)
    }
}

/// Removes a file unless told otherwise.
#[derive(Debug)]
struct Fleeting(Option<PathBuf>);

impl Drop for Fleeting {
    fn drop(&mut self) {
        if let Some(path) = self.0.take() {
            // What is left goes at the next open.
            let _ = fs::remove_file(path);
        }
    }
}

/// A file that has come in whole. Dropping it forgets the file.
#[derive(Debug)]
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
        self.0.0 = None;
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
            let settled = Settled(Fleeting(Some(path.clone())));
            self.part.0.take();
            path.parent().map_or(Ok(()), sync_dir)?;
            Ok(settled)
        });
        settled.await.map_err(io::Error::other)?
    }
}

/// Encrypts pieces into a file until the last one, and syncs it.
fn write(
    shelf: &Shelf,
    place: Place,
    id: Uuid,
    mut pieces: mpsc::Receiver<Piece>,
) -> io::Result<SealedFile> {
    place.make(shelf)?;
    let path = place.part(id);
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)?;
    let part = Fleeting(Some(path));
    let identity = Identity::generate();
    let recipient = identity.to_public();
    let encryptor =
        age::Encryptor::with_recipients(std::iter::once(&recipient as &dyn age::Recipient))
            .map_err(io::Error::other)?;
    let mut out = encryptor.wrap_output(BufWriter::new(file))?;
    let mut digest = Hasher::new();
    let mut size = 0;
    loop {
        match pieces.blocking_recv() {
            Some(Piece::Bytes(bytes)) => {
                out.write_all(&bytes)?;
                digest.update(&bytes);
                size += bytes.len() as u64;
            }
            Some(Piece::End) => break,
            // Whoever sent it went away.
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
    let file: File = out
        .finish()?
        .into_inner()
        .map_err(std::io::IntoInnerError::into_error)?;
    file.sync_all()?;
    Ok(SealedFile {
        id,
        place,
        part,
        identity: identity.to_string().expose_secret().to_owned(),
        size,
        sha256: Sha256(digest.finalize().into()),
    })
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

    /// Its bytes. Blocks: call it, and read, in a blocking context.
    ///
    /// # Errors
    /// The file is not there, or is not what was stored.
    pub fn read(&self) -> io::Result<impl Read + Send + use<>> {
        let damaged = |error: &dyn std::fmt::Display| {
            io::Error::new(io::ErrorKind::InvalidData, error.to_string())
        };
        let identity = Identity::from_str(&self.identity).map_err(|error| damaged(&error))?;
        let file = BufReader::new(File::open(&self.path)?);
        let opened = age::Decryptor::new_buffered(file).map_err(|error| damaged(&error))?;
        opened
            .decrypt(std::iter::once(&identity as &dyn age::Identity))
            .map_err(|error| damaged(&error))
    }
}
