//! How far the store had got, kept outside of its log.
//!
//! sled cuts its log off at the first segment it cannot read and opens with what came before: a damaged
//! file looks like an older, or an empty, store. Going on from there would lose what was acknowledged
//! and use message keys a second time. So every batch carries its number into the log, and a small file
//! beside the log is told the number after each sync. A log that knows less than the file is damaged.
//!
//! The file is never synced: after a power cut it may be behind the log, which only makes the check
//! weaker, and never ahead of it, because it is written after the log is on disk.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

const FILE: &str = "watermark";

/// The row in the log. The store's own rows begin with other bytes (see `split`).
pub(super) const ROW: &[u8] = b"w";

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Watermark {
    file: File,
    /// The newest batch that was applied.
    batch: AtomicU64,
    /// What the file says.
    written: AtomicU64,
}

/// The log has lost batches.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Lost {
    pub(super) stored: u64,
    pub(super) found: u64,
}

fn digest(number: u64) -> [u8; 8] {
    let whole: [u8; 32] = Sha256::digest(number.to_be_bytes()).into();
    let mut short = [0; 8];
    short.copy_from_slice(&whole[..8]);
    short
}

/// The number in the file of a store; `None` if there is no file, or none that was written whole.
pub(super) fn read(store: &Path) -> io::Result<Option<u64>> {
    let bytes = match fs::read(store.join(FILE)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let Some((number, check)) = bytes.split_first_chunk::<8>() else {
        return Ok(None);
    };
    let number = u64::from_be_bytes(*number);
    Ok((check == digest(number)).then_some(number))
}

impl Watermark {
    /// Opens the file of a store whose log ends with batch `found`.
    pub(super) fn open(store: &Path, found: u64) -> io::Result<Result<Self, Lost>> {
        let known = read(store)?;
        if let Some(stored) = known.filter(|stored| *stored > found) {
            return Ok(Err(Lost { stored, found }));
        }
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(store.join(FILE))?;
        Ok(Ok(Self {
            file,
            batch: AtomicU64::new(found),
            written: AtomicU64::new(known.unwrap_or(0)),
        }))
    }

    /// The value of [`ROW`] for the batch that is applied next.
    pub(super) fn next(&self) -> [u8; 8] {
        (self.batch.fetch_add(1, Ordering::AcqRel) + 1).to_be_bytes()
    }

    /// Everything applied so far is on disk.
    pub(super) fn synced(&self) -> io::Result<()> {
        let batch = self.batch.load(Ordering::Acquire);
        if self.written.swap(batch, Ordering::AcqRel) == batch {
            return Ok(());
        }
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&batch.to_be_bytes());
        bytes[8..].copy_from_slice(&digest(batch));
        self.file.write_all_at(&bytes, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_knows_less_than_the_file_has_lost_something() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), None);
        let mark = Watermark::open(dir.path(), 0).unwrap().unwrap();
        assert_eq!(mark.next(), 1_u64.to_be_bytes());
        assert_eq!(mark.next(), 2_u64.to_be_bytes());
        mark.synced().unwrap();
        assert_eq!(read(dir.path()).unwrap(), Some(2));
        let lost = Watermark::open(dir.path(), 1).unwrap().unwrap_err();
        assert_eq!(
            lost,
            Lost {
                stored: 2,
                found: 1
            }
        );
        assert!(Watermark::open(dir.path(), 3).unwrap().is_ok());
    }

    #[test]
    fn a_file_that_was_not_written_whole_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        for rubbish in [&b""[..], b"1234567", b"0123456789abcdef"] {
            fs::write(dir.path().join(FILE), rubbish).unwrap();
            assert_eq!(read(dir.path()).unwrap(), None);
            assert!(Watermark::open(dir.path(), 0).unwrap().is_ok());
        }
    }
}
