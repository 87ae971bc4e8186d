//! A copy of a whole engine that is consistent although the engine goes on being written.
//!
//! An engine has no view of the past. So a snapshot is what a reader saw of each row at some moment, and
//! every change that was made meanwhile, in the order in which it happened: whoever applies the pieces in
//! the order in which they come has, after the last one, exactly what the engine held at one boundary
//! between two commits, all of it durable. Memory is bounded: a reader that lags too far behind the
//! changes loses its snapshot, the engine never waits for it.

use bytes::Bytes;
use thiserror::Error;

use super::engine::EngineError;

/// Bytes of rows in one piece, roughly: a piece is as large as its largest row if that is larger.
pub(super) const PIECE_BYTES: usize = 256 << 10;

/// Bytes of changes that wait for a snapshot's reader at most.
pub const MAX_WAITING: usize = 64 << 20;

/// A key and its value; `None`: the key was removed.
pub type Change = (Bytes, Option<Bytes>);

/// A snapshot under way. Dropping it ends it.
pub trait Snapshot: Send {
    /// The next rows and changes, in the order in which they have to be applied; `None` after the last.
    /// Blocks on the disk: call it from a blocking context.
    ///
    /// # Errors
    /// [`SnapshotError`]: the snapshot is worth nothing and has to be begun anew.
    fn next(&mut self) -> Result<Option<Vec<Change>>, SnapshotError>;
}

/// Why there is no snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SnapshotError {
    /// Another one is under way.
    #[error("another backup is under way: wait until it has ended")]
    Busy,
    /// More was written than its reader took.
    #[error(
        "the backup was taken more slowly than the store was written: write it to a faster place, such as a local disk, or try again in a quieter hour"
    )]
    Behind,
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
}
