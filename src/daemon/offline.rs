//! The store without a daemon: backups of one that is stopped, handing over, restoring.
//!
//! A restore builds the store beside the place where it belongs and moves it there as the last step. Until
//! then the state directory holds a `store.restoring`, with which no daemon starts: a fresh store in the
//! place of a half restored one would not be noticed for long.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt as _, lchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use super::{BindError, Surroundings, Trouble, open_engine, prepare_state_dir, settings};
use crate::config::Config;
use crate::domain::clock::{Clock, Entropy, SystemClock, Timestamp};
use crate::store::backup::{
    self, Archive, Backup, BackupError, Recipients, RestoreError, Restored,
};
use crate::store::keyring::{KekSource, Keks};
use crate::store::sled::SledEngine;
use crate::store::{Store, StoreError, StoreOptions};

/// Where a restore builds the store, in the state directory.
const RESTORING: &str = "store.restoring";
/// What two restores would both want.
const LOCK: &str = "restore.lock";

/// A store that no daemon has open. Dropping it lets it go.
#[derive(Debug)]
pub struct Resting {
    store: Store,
    /// Dropped last.
    _owned: Owned,
}

/// What is in a store at rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contents {
    /// Sessions of all workspaces that can be read.
    pub sessions: usize,
    /// Size on disk, in bytes.
    pub bytes: u64,
    /// How long opening it took.
    pub opened_in: Duration,
    /// When it was handed over: no daemon runs it any more.
    pub handed_over_at: Option<Timestamp>,
}

/// Why something could not be done with a store at rest.
#[derive(Debug, Error)]
pub enum OfflineError {
    /// The store does not open.
    #[error(transparent)]
    Open(#[from] BindError),
    /// There is no store.
    #[error("there is no store at {path}: check --config and --state-dir", path = .0.display())]
    Missing(PathBuf),
    /// There is a store, and not the development key it was made with.
    #[error(
        "the store has a key, and {path} is not there: put that file back, or name the key's file or credential in [keys]", path = .0.display()
    )]
    KeyMissing(PathBuf),
    /// There is a store already.
    #[error(
        "{path} exists already: restore into a state directory without a store (move that one away, or give another --state-dir)", path = .0.display()
    )]
    NotEmpty(PathBuf),
    /// Another restore is under way.
    #[error("another restore into {path} is under way: wait until it has ended", path = .0.display())]
    UnderWay(PathBuf),
    /// The backup was not made.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// The backup was not restored.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The operating system refused.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl OfflineError {
    /// Whoever was to write the backup stopped.
    pub fn cut_off() -> Self {
        Self::Backup(BackupError::Write(io::ErrorKind::BrokenPipe.into()))
    }

    /// What kind of trouble it is.
    pub fn trouble(&self) -> Option<Trouble> {
        match self {
            Self::Open(error) => Some(error.trouble()),
            Self::UnderWay(_) => Some(Trouble::Passing),
            Self::Backup(error) if error.is_transient() => Some(Trouble::Passing),
            Self::Backup(_) | Self::Store(_) | Self::Io { .. } => Some(Trouble::Files),
            // The answer is no.
            Self::Missing(_) | Self::KeyMissing(_) | Self::NotEmpty(_) | Self::Restore(_) => None,
        }
    }
}

/// Refuses a state directory in which a restore was interrupted.
pub(super) fn refuse_half_restored(state_dir: &Path) -> Result<(), BindError> {
    if state_dir.join(RESTORING).exists() && !state_dir.join("store").exists() {
        return Err(BindError::HalfRestored(state_dir.to_owned()));
    }
    Ok(())
}

impl Resting {
    /// Opens the store of a daemon that is stopped.
    ///
    /// # Errors
    /// [`OfflineError`] says what is wrong and what to do.
    pub async fn open(config: &Config, surroundings: &Surroundings) -> Result<Self, OfflineError> {
        refuse_half_restored(&config.state_dir)?;
        let path = config.state_dir.join("store");
        if !path.exists() {
            return Err(OfflineError::Missing(path));
        }
        if let KekSource::Development(key) = settings::kek(config, surroundings)
            && !key.exists()
        {
            // Only a first start makes one: another key opens nothing.
            return Err(OfflineError::KeyMissing(key));
        }
        let owned = Owned(path);
        let options = options(config, surroundings, |clock| open_engine(config, clock)).await?;
        let store = Store::open_at_rest(options)
            .await
            .map_err(BindError::from)?;
        Ok(Self {
            store,
            _owned: owned,
        })
    }

    /// Begins a backup.
    ///
    /// # Errors
    /// [`BackupError`].
    pub async fn backup(&self, hand_over: bool) -> Result<Backup, OfflineError> {
        Ok(self.store.backup(hand_over).await?)
    }

    /// From now on no daemon runs the sessions of this store.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn hand_over(&self) -> Result<(), OfflineError> {
        Ok(self.store.hand_over().await?)
    }

    /// Undoes a handing over. False when it was not handed over.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn take_back(&self) -> Result<bool, OfflineError> {
        if self.store.handed_over_at().await?.is_none() {
            return Ok(false);
        }
        self.store.take_back().await?;
        Ok(true)
    }

    /// Counts what is in the store.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn contents(&self) -> Result<Contents, OfflineError> {
        let mut sessions = 0;
        let mut cursor = None;
        loop {
            let (page, next) = self.store.fleet(cursor, 1_000).await?;
            sessions += page.len();
            match next {
                Some(next) => cursor = Some(next),
                None => break,
            }
        }
        let health = self.store.health();
        Ok(Contents {
            sessions,
            bytes: health.disk_bytes,
            opened_in: health.open_time,
            handed_over_at: self.store.handed_over_at().await?,
        })
    }

    /// Makes everything durable and lets the store go.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn close(self) -> Result<(), OfflineError> {
        Ok(self.store.close().await?)
    }
}

/// Writes a backup to its end, on a thread that may block.
///
/// # Errors
/// [`BackupError`].
pub async fn write_backup(
    backup: Backup,
    recipients: Recipients,
    mut out: impl Write + Send + 'static,
) -> Result<(), OfflineError> {
    let writing = tokio::task::spawn_blocking(move || backup.write_to(&recipients, &mut out));
    match writing.await {
        Ok(written) => Ok(written.map(drop)?),
        Err(error) => Err(BindError::Panicked(error.to_string()).into()),
    }
}

/// Puts an archive into a state directory that has no store.
///
/// # Errors
/// [`OfflineError`] says what is wrong and what to do. The state directory is then as it was, or holds a
/// rest that the next restore removes and no daemon takes for a store.
pub async fn restore(
    config: &Config,
    surroundings: &Surroundings,
    archive: Archive,
) -> Result<Restored, OfflineError> {
    let state_dir = &config.state_dir;
    let place = state_dir.join("store");
    let building = state_dir.join(RESTORING);
    if place.exists() {
        return Err(OfflineError::NotEmpty(place));
    }
    prepare_state_dir(state_dir)?;
    let _alone = lock(state_dir)?;
    remove(&building)?;
    let path = building.clone();
    let cache = config.store.cache;
    let engine = |clock| async move {
        let opened =
            tokio::task::spawn_blocking(move || SledEngine::open_sized(&path, cache, clock)).await;
        match opened {
            Ok(engine) => Ok(engine?),
            Err(error) => Err(BindError::Panicked(error.to_string())),
        }
    };
    let restored = match options(config, surroundings, engine).await {
        Ok(options) => backup::restore(archive, options).await.map_err(Into::into),
        Err(error) => Err(OfflineError::Open(error)),
    };
    let restored = match restored {
        Ok(restored) => restored,
        Err(error) => {
            // What is left is of no use; if it cannot be removed, the next restore does.
            let _ = remove(&building);
            return Err(error);
        }
    };
    // A directory with something in it is not replaced: a daemon that started meanwhile is safe.
    fs::rename(&building, &place).map_err(|source| match source.kind() {
        io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists => {
            OfflineError::NotEmpty(place.clone())
        }
        _ => at(&place)(source),
    })?;
    File::open(state_dir)
        .and_then(|dir| dir.sync_all())
        .map_err(at(state_dir))?;
    Ok(restored)
}

async fn options<F>(
    config: &Config,
    surroundings: &Surroundings,
    engine: impl FnOnce(Arc<dyn Clock>) -> F,
) -> Result<StoreOptions, BindError>
where
    F: Future<Output = Result<SledEngine, BindError>>,
{
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let entropy = Entropy::from_system().map_err(BindError::Entropy)?;
    let keks = Keks::load(&settings::kek(config, surroundings), &entropy)?;
    Ok(StoreOptions {
        engine: Arc::new(engine(Arc::clone(&clock)).await?),
        keks,
        clock,
        entropy,
        release: env!("CARGO_PKG_VERSION").to_owned(),
        media: None,
    })
}

/// Held for the length of a restore; the file stays, empty.
fn lock(state_dir: &Path) -> Result<File, OfflineError> {
    use std::os::unix::fs::OpenOptionsExt;
    let path = state_dir.join(LOCK);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(at(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(OfflineError::UnderWay(state_dir.to_owned())),
        Err(fs::TryLockError::Error(source)) => Err(at(&path)(source)),
    }
}

/// A daemon's store that somebody else opens: what root makes in it is given to the daemon's user in the end,
/// who must be able to read it.
#[derive(Debug)]
struct Owned(PathBuf);

impl Drop for Owned {
    fn drop(&mut self) {
        if let Err(error) = give_back(&self.0) {
            tracing::warn!(%error, "files in the store are not the daemon's");
        }
    }
}

fn give_back(store: &Path) -> io::Result<()> {
    let owner = fs::metadata(store)?;
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    for entry in fs::read_dir(store)? {
        let entry = entry?;
        if entry.metadata()?.uid() != owner.uid() {
            // Its own directory: it may have put a link there.
            lchown(entry.path(), Some(owner.uid()), Some(owner.gid()))?;
        }
    }
    Ok(())
}

fn remove(directory: &Path) -> Result<(), OfflineError> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(directory)(error)),
        _ => Ok(()),
    }
}

fn at(path: &Path) -> impl Fn(io::Error) -> OfflineError + use<> {
    let path = path.to_owned();
    move |source| OfflineError::Io {
        path: path.clone(),
        source,
    }
}
