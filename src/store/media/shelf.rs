//! Where uploaded files lie: `{workspace number}/{session number}/{id}`, and `{id}.part` while one comes in.
//!
//! Names are numbers and random ids, so that a listing of the directory tells nothing about tenants.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::MediaOptions;

/// Ends the name of a file that is still coming in.
const PART: &str = "part";

/// See the module documentation.
#[derive(Debug)]
pub(in crate::store) struct Shelf {
    options: MediaOptions,
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
        Self { options }
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

    /// What a workspace's files take, those that are coming in included. Blocks.
    pub(super) fn used(&self, workspace: u64) -> io::Result<u64> {
        let mut used = 0;
        for session in entries(&self.workspace_dir(workspace))? {
            for file in entries(&session)? {
                // One that has just gone takes nothing.
                used += fs::metadata(&file).map_or(0, |file| file.len());
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
        match fs::remove_dir_all(dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes one file. Blocks.
    pub(in crate::store) fn remove(&self, file: &Found) -> io::Result<()> {
        let path = self.place(file.workspace, file.session).file(file.id);
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
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
