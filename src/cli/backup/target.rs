//! Where a backup is written: beside its place until it is whole and on disk.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::cli::exit::{Exit, Failure};

/// Where a backup goes.
#[derive(Debug)]
pub(super) enum Target {
    /// Standard output.
    Stdout,
    /// A file that does not exist yet.
    File {
        /// Its place.
        place: PathBuf,
        /// What is written until it is whole.
        partial: PathBuf,
    },
}

fn failed(path: &Path) -> impl Fn(io::Error) -> Failure + use<'_> {
    move |error| Failure::new(Exit::Io, format!("{}: {error}", path.display()))
}

impl Target {
    /// `-` is standard output.
    pub(super) fn new(path: &Path) -> Result<Self, Failure> {
        if path == Path::new("-") {
            return Ok(Self::Stdout);
        }
        if path.exists() {
            return Err(Failure::new(
                Exit::Refused,
                format!(
                    "{} exists already and is not overwritten; choose another name",
                    path.display()
                ),
            ));
        }
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        Ok(Self::File {
            place: path.to_owned(),
            partial: partial.into(),
        })
    }

    /// What is written to.
    pub(super) fn create(&self) -> Result<Box<dyn Write + Send>, Failure> {
        match self {
            Self::Stdout => Ok(Box::new(io::stdout())),
            Self::File { partial, .. } => {
                let file = File::options()
                    .create(true)
                    .write(true)
                    .truncate(true)
                    .mode(0o600)
                    .open(partial)
                    .map_err(failed(partial))?;
                Ok(Box::new(file))
            }
        }
    }

    /// Everything was written: makes it durable and puts it in its place.
    pub(super) fn keep(&self) -> Result<(), Failure> {
        let Self::File { place, partial } = self else {
            return io::stdout().flush().map_err(Failure::from);
        };
        File::open(partial)
            .and_then(|file| file.sync_all())
            .map_err(failed(partial))?;
        fs::rename(partial, place).map_err(failed(place))?;
        let parent = place.parent().filter(|path| !path.as_os_str().is_empty());
        let parent = parent.unwrap_or_else(|| Path::new("."));
        File::open(parent)
            .and_then(|dir| dir.sync_all())
            .map_err(failed(parent))
    }

    /// It came to nothing.
    pub(super) fn discard(&self) {
        if let Self::File { partial, .. } = self {
            // What is left over is overwritten the next time.
            let _ = fs::remove_file(partial);
        }
    }
}
