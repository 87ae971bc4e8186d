//! Backups: the whole store in one encrypted file, taken while it is used, and put back on any machine.
//!
//! An archive holds the rows as they are in the store, sealed as they are there, and the workspaces' keys
//! in the clear: they are unwrapped when the backup is made and wrapped with the key encryption key of
//! the machine that restores it, so that neither machine needs the other's. What protects them in
//! between is the encryption of the archive, [age](https://age-encryption.org), from the daemon that
//! makes it to the process that restores it; in the clear they never reach a disk.
//!
//! [`format`] is the archive inside the encryption, [`Unlock`] opens the encryption, [`restore`] puts an
//! archive into an empty engine. What a restored store must not use again is dealt with by
//! [`super::ownership`].

mod format;
mod restore;
mod unlock;

use std::io::{self, BufWriter, Write};
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use thiserror::Error;
use zeroize::Zeroizing;

pub use format::{ARCHIVE, FormatError, Header};
use format::{Entry, Writer};
pub use restore::{Archive, RestoreError, Restored, restore};
pub use unlock::{Unlock, UnlockError};

use super::engine::{Change, EngineError, Snapshot, SnapshotError};
use super::errors::StoreError;
use super::key::{Kind, is_of, trailing_u64};
use super::keyring::{Keks, UnwrapError};
use super::migrate::FORMAT;
use super::root::{Store, wrapped_key};

/// Bytes of changes that go into one frame, roughly.
const FRAME_BYTES: usize = 1 << 20;

/// Whom a backup is encrypted for.
#[derive(Clone)]
pub struct Recipients(Vec<age::x25519::Recipient>);

/// A recipient that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RecipientError {
    /// None was given.
    #[error("at least one recipient is needed; `age-keygen -o backup.key` makes one and shows it")]
    None,
    /// One is not a recipient.
    #[error(
        "`{0}` is not an age recipient; it looks like age1… and `age-keygen -y FILE` shows it for an identity file"
    )]
    Malformed(String),
}

impl Recipients {
    /// Reads recipients (`age1…`).
    ///
    /// # Errors
    /// [`RecipientError`] names the one that cannot be used.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, RecipientError> {
        let parse = |text: &str| {
            // An identity must not be repeated back: it is a secret.
            let shown = || {
                if text.to_ascii_uppercase().contains("AGE-SECRET") {
                    return "(a secret identity)".to_owned();
                }
                text.chars().take(80).collect()
            };
            let text = text.trim();
            text.parse().map_err(|_| RecipientError::Malformed(shown()))
        };
        let all: Vec<_> = texts.into_iter().map(parse).collect::<Result<_, _>>()?;
        if all.is_empty() {
            return Err(RecipientError::None);
        }
        Ok(Self(all))
    }
}

impl std::fmt::Debug for Recipients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Recipients({})", self.0.len())
    }
}

/// Why a backup was not made.
#[derive(Debug, Error)]
pub enum BackupError {
    /// There is no consistent copy.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The key encryption key was replaced twice while the backup was made.
    #[error("the key encryption key was replaced while the backup was made; try again")]
    KeysReplaced,
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The encryption did not begin.
    #[error("the backup cannot be encrypted: {0}")]
    Encrypt(String),
    /// It cannot be written to where it was to go.
    #[error("the backup cannot be written: {0}")]
    Write(#[from] io::Error),
}

impl BackupError {
    /// Whether the same call may succeed later without anybody's help.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Snapshot(SnapshotError::Busy | SnapshotError::Behind) | Self::KeysReplaced => {
                true
            }
            Self::Store(error) => error.is_transient(),
            Self::Snapshot(SnapshotError::Engine(_)) | Self::Encrypt(_) | Self::Write(_) => false,
        }
    }
}

/// What became of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Rows and changes in it.
    pub entries: u64,
}

/// A backup that has begun: from here on, changes are kept for it.
pub struct Backup {
    store: Store,
    snapshot: Box<dyn Snapshot>,
    header: Header,
    /// The key encryption keys when it began.
    ring: Arc<Keks>,
}

impl std::fmt::Debug for Backup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Backup({:?})", self.header)
    }
}

impl Store {
    /// Begins a backup. What it will hold is the store at one moment before [`Backup::write_to`]
    /// returns; the store is used as before meanwhile. `hand_over`: the store is handed over with it.
    ///
    /// # Errors
    /// [`BackupError::Snapshot`] when another one is under way.
    pub async fn backup(&self, hand_over: bool) -> Result<Backup, BackupError> {
        let ring = self.ring();
        Ok(Backup {
            snapshot: self.0.context.engine.snapshot().await?,
            header: Header {
                release: env!("CARGO_PKG_VERSION").to_owned(),
                format: FORMAT,
                created_at: self.0.context.clock.now(),
                generation: self.0.context.generation,
                hand_over,
            },
            ring,
            store: self.clone(),
        })
    }

    fn ring(&self) -> Arc<Keks> {
        let ring = self.0.keks.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&ring)
    }
}

impl Backup {
    /// What the archive will say about itself.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Writes the archive, encrypted, to its end. Blocks: call it from a blocking context.
    ///
    /// # Errors
    /// [`BackupError`]; what was written until then is worth nothing.
    pub fn write_to(
        mut self,
        recipients: &Recipients,
        out: impl Write,
    ) -> Result<Written, BackupError> {
        let all = recipients.0.iter().map(|one| one as &dyn age::Recipient);
        let encryptor = age::Encryptor::with_recipients(all)
            .map_err(|error| BackupError::Encrypt(error.to_string()))?;
        let encrypted = encryptor.wrap_output(BufWriter::new(out))?;
        let mut archive = Writer::new(encrypted, &self.header)?;
        while let Some(piece) = self.snapshot.next()? {
            let (mut entries, mut bytes) = (Vec::new(), 0);
            for (key, value) in piece {
                bytes += key.len() + value.as_ref().map_or(0, Bytes::len);
                entries.push(self.entry((key, value))?);
                if bytes >= FRAME_BYTES {
                    archive.entries(std::mem::take(&mut entries))?;
                    bytes = 0;
                }
            }
            if !entries.is_empty() {
                archive.entries(entries)?;
            }
        }
        let (encrypted, entries) = archive.finish()?;
        encrypted.finish()?.flush()?;
        Ok(Written { entries })
    }

    fn entry(&self, (key, value): Change) -> Result<Entry, BackupError> {
        match (value, wrapped_by(&key)) {
            (None, _) => Ok(Entry::Removed(key)),
            (Some(value), None) => Ok(Entry::Put(key, value)),
            (Some(value), Some(workspace)) => {
                let keys = self.unwrap(workspace, &value)?;
                Ok(Entry::Keys(key, keys))
            }
        }
    }

    /// A workspace's keys in the clear, whether they are wrapped as they were when the backup began or
    /// anew.
    fn unwrap(&self, workspace: u64, wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>, BackupError> {
        let opened = match self.ring.unwrap(workspace, wrapped) {
            Err(UnwrapError::WrongKek) => self.store.ring().unwrap(workspace, wrapped),
            opened => opened,
        };
        match opened {
            Ok(keys) => Ok(keys.to_plain()),
            Err(UnwrapError::WrongKek) => Err(BackupError::KeysReplaced),
            Err(error @ UnwrapError::Damaged) => Err(StoreError::from(error).into()),
        }
    }
}

/// The workspace whose wrapped keys are at `key`, if that is what is there.
fn wrapped_by(key: &[u8]) -> Option<u64> {
    if !is_of(key, Kind::WrappedKeys) {
        return None;
    }
    let workspace = trailing_u64(key)?;
    // The same kind in a workspace would be something else.
    (wrapped_key(workspace) == key).then_some(workspace)
}

impl From<EngineError> for BackupError {
    fn from(error: EngineError) -> Self {
        Self::Snapshot(SnapshotError::Engine(error))
    }
}
