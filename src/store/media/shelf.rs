//! Where uploaded files lie: `{workspace number}/{session number}/{id}`, and `{id}.part` while one comes in.
//!
//! Names are numbers and random ids, so that a listing of the directory tells nothing about tenants.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use uuid::Uuid;

use super::MediaOptions;

/// Ends the name of a file that is still coming in.
const PART: &str = "part";

/// See the module documentation.
#[derive(Debug)]
pub(in crate::store) struct Shelf {
    options: MediaOptions,
    /// What the files of a workspace take, those that are coming in included; measured when it is not
    /// known, and forgotten when something goes.
    used: Mutex<HashMap<u64, u64>>,
}

/// What a file takes at least, and in steps of, in bytes.
const BLOCK: u64 = 4 << 10;

/// What uploads leave of the disk, in bytes: the store must always be able to write.
const FLOOR: u64 = 256 << 20;

/// Why there is no room.
#[derive(Debug)]
pub(super) enum NoRoom {
    /// The workspace's files take all they may.
    Workspace,
    /// The disk is nearly full.
    Disk,
    /// It cannot be told.
    Io(io::Error),
}

/// The place of one session's files.
#[derive(Debug, Clone)]
pub(super) struct Place(PathBuf);

/// A file that was found on the shelf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) struct Found {
    pub(in crate::store) workspace: u64,
    pub(in crate::store) session: u64,
    pub(in crate::store) id: Uuid,
}

impl Place {
    pub(super) fn file(&self, id: Uuid) -> PathBuf {
        self.0.join(id.to_string())
    }

    pub(super) fn part(&self, id: Uuid) -> PathBuf {
        self.0.join(format!("{id}.{PART}"))
    }

    /// Makes the directory, for the daemon's eyes only, and makes that durable.
    pub(super) fn make(&self, on: &Shelf) -> io::Result<()> {
        if self.0.is_dir() {
            return Ok(());
        }
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.0)?;
        let mut dir = self.0.parent();
        while let Some(above) = dir {
            sync_dir(above)?;
            if above == on.options.dir {
                // Its own entry too.
                return above.parent().map_or(Ok(()), sync_dir);
            }
            dir = above.parent();
        }
        Ok(())
    }
}

/// Makes the entries of a directory durable.
pub(super) fn sync_dir(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()
}

impl Shelf {
    pub(in crate::store) fn new(options: MediaOptions) -> Self {
        Self {
            options,
            used: Mutex::default(),
        }
    }

    pub(super) fn options(&self) -> &MediaOptions {
        &self.options
    }

    fn workspace_dir(&self, workspace: u64) -> PathBuf {
        self.options.dir.join(format!("{workspace:016x}"))
    }

    pub(super) fn place(&self, workspace: u64, session: u64) -> Place {
        Place(
            self.workspace_dir(workspace)
                .join(format!("{session:016x}")),
        )
    }

    /// Makes room for `bytes` more of a workspace. Blocks.
    pub(super) fn reserve(&self, workspace: u64, bytes: u64) -> Result<(), NoRoom> {
        let mut known = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let used = match known.get(&workspace) {
            Some(used) => *used,
            None => self.measure(workspace).map_err(NoRoom::Io)?,
        };
        let wanted = used.saturating_add(bytes);
        if wanted > self.options.max_workspace {
            known.insert(workspace, used);
            return Err(NoRoom::Workspace);
        }
        known.insert(workspace, wanted);
        Ok(())
    }

    /// Makes room for another file of a workspace, if the disk has any. Blocks.
    pub(super) fn reserve_file(&self, workspace: u64) -> Result<(), NoRoom> {
        let disk =
            rustix::fs::statvfs(&self.options.dir).map_err(|error| NoRoom::Io(error.into()))?;
        if disk.f_bavail.saturating_mul(disk.f_frsize) < FLOOR {
            return Err(NoRoom::Disk);
        }
        self.reserve(workspace, BLOCK)
    }

    /// Something of a workspace has gone: what is left is measured when it is asked for.
    pub(super) fn gone(&self, workspace: u64) {
        let mut known = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        known.remove(&workspace);
    }

    fn measure(&self, workspace: u64) -> io::Result<u64> {
        let mut used = 0;
        for session in entries(&self.workspace_dir(workspace))? {
            for file in entries(&session)? {
                // One that has just gone takes nothing.
                let length = fs::metadata(&file).map_or(0, |file| file.len());
                used += BLOCK + length;
            }
        }
        Ok(used)
    }

    /// Removes a session's files, or a workspace's. Blocks.
    pub(in crate::store) fn purge(&self, workspace: u64, session: Option<u64>) -> io::Result<()> {
        let dir = match session {
            Some(session) => self.place(workspace, session).0,
            None => self.workspace_dir(workspace),
        };
        let removed = fs::remove_dir_all(dir);
        self.gone(workspace);
        unless_missing(removed)
    }

    /// Removes one file. Blocks.
    pub(in crate::store) fn remove(&self, file: &Found) -> io::Result<()> {
        let path = self.place(file.workspace, file.session).file(file.id);
        let removed = fs::remove_file(path);
        self.gone(file.workspace);
        unless_missing(removed)
    }

    /// Removes what was still coming in when the last run ended, and names the rest. Only while nothing
    /// comes in. Blocks.
    pub(in crate::store) fn tidy(&self) -> io::Result<Vec<Found>> {
        let mut found = Vec::new();
        for workspace in entries(&self.options.dir)? {
            for session in entries(&workspace)? {
                for file in entries(&session)? {
                    if file.extension().is_some_and(|ending| ending == PART) {
                        fs::remove_file(&file)?;
                        continue;
                    }
                    let numbers = number(&workspace).zip(number(&session));
                    if let (Some((workspace, session)), Some(id)) = (numbers, id(&file)) {
                        found.push(Found {
                            workspace,
                            session,
                            id,
                        });
                    }
                }
            }
        }
        Ok(found)
    }
}

/// What is not there need not be removed.
fn unless_missing(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// What is in a directory; nothing if there is none.
fn entries(dir: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
}

fn number(dir: &Path) -> Option<u64> {
    u64::from_str_radix(dir.file_name()?.to_str()?, 16).ok()
}

fn id(file: &Path) -> Option<Uuid> {
    Uuid::parse_str(file.file_name()?.to_str()?).ok()
}
