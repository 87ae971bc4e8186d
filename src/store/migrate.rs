//! Version marks and migrations.
//!
//! Two levels. The **store format** is one number for the whole store: a newer one is refused, an older
//! one is brought forward step by step at open. The **record version** is one byte per sealed value: an
//! older record is migrated when it is read, through a chain of [`Record::migrate`] steps, and written
//! in the new form when it is next changed. Records are protobuf messages, so adding an optional field
//! needs no new version; changing the meaning of one does.

use std::convert::Infallible;

use bytes::Bytes;
use prost::Message;
use thiserror::Error;

use super::engine::{Commit, Engine, Expectation};
use super::errors::StoreError;
use super::key::{KeyBuilder, Kind, SYSTEM};

/// A durable record.
pub(super) trait Record: Sized {
    /// What it is called in errors.
    const WHAT: &'static str;
    /// The version this type writes.
    const VERSION: u8;
    /// The type of the version before; [`Infallible`] for the first.
    type Previous: Record;

    /// Brings a record of the previous version forward.
    fn migrate(previous: Self::Previous) -> Self;
    /// Reads a record of exactly [`Self::VERSION`].
    fn read(bytes: &[u8]) -> Option<Self>;
    /// Writes the record.
    fn write(&self) -> Vec<u8>;

    /// Reads a record of this version or any before it.
    fn decode(version: u8, bytes: &[u8]) -> Result<Self, RecordError> {
        if version == Self::VERSION {
            return Self::read(bytes).ok_or(RecordError::Damaged { what: Self::WHAT });
        }
        if version > Self::VERSION {
            return Err(RecordError::Newer {
                what: Self::WHAT,
                found: u32::from(version),
                supported: u32::from(Self::VERSION),
            });
        }
        Self::Previous::decode(version, bytes).map(Self::migrate)
    }
}

/// The end of every chain: no record has version 0.
impl Record for Infallible {
    const WHAT: &'static str = "record";
    const VERSION: u8 = 0;
    type Previous = Self;

    fn migrate(previous: Self) -> Self {
        previous
    }

    fn read(_bytes: &[u8]) -> Option<Self> {
        None
    }

    fn write(&self) -> Vec<u8> {
        match *self {}
    }

    fn decode(_version: u8, _bytes: &[u8]) -> Result<Self, RecordError> {
        Err(RecordError::Damaged { what: Self::WHAT })
    }
}

/// Makes a prost message the first version of a record.
macro_rules! first_version {
    ($type:ty, $what:literal) => {
        impl crate::store::migrate::Record for $type {
            const WHAT: &'static str = $what;
            const VERSION: u8 = 1;
            type Previous = std::convert::Infallible;

            fn migrate(previous: std::convert::Infallible) -> Self {
                match previous {}
            }

            fn read(bytes: &[u8]) -> Option<Self> {
                <Self as prost::Message>::decode(bytes).ok()
            }

            fn write(&self) -> Vec<u8> {
                prost::Message::encode_to_vec(self)
            }
        }
    };
}
pub(super) use first_version;

/// Why a record could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RecordError {
    /// A newer release wrote it.
    #[error("{what} has version {found}; this release reads up to {supported}")]
    Newer {
        /// What it is.
        what: &'static str,
        /// Its version.
        found: u32,
        /// The newest version this release reads.
        supported: u32,
    },
    /// The bytes are not such a record.
    #[error("a {what} record cannot be decoded")]
    Damaged {
        /// What it should be.
        what: &'static str,
    },
}

/// The format this release writes.
pub const FORMAT: u32 = 1;

/// What is written unsealed at the front of every store: it must be readable before any key is known.
#[derive(Clone, PartialEq, Message)]
pub(super) struct FormatMark {
    /// The store format.
    #[prost(uint32, tag = "1")]
    pub(super) format: u32,
    /// The release that wrote it, for people.
    #[prost(string, tag = "2")]
    pub(super) release: String,
}

/// One step from a format to the next. Must be safe to run again after a crash half-way: its mark is
/// written only once it is complete.
#[async_trait::async_trait]
pub(super) trait Step: Send + Sync {
    /// The format it starts from; it leads to the next number.
    fn from(&self) -> u32;
    /// Rewrites what has to be rewritten.
    async fn run(&self, engine: &dyn Engine) -> Result<(), StoreError>;
}

/// Where the format mark lives.
pub(super) fn mark_key() -> Bytes {
    KeyBuilder::new(SYSTEM, Kind::Format as u8, 0).finish()
}

/// The stored mark, if the store was initialised.
pub(super) async fn read_mark(
    engine: &dyn Engine,
) -> Result<Option<(FormatMark, Bytes)>, StoreError> {
    let Some(bytes) = engine.get(&mark_key()).await? else {
        return Ok(None);
    };
    let mark = FormatMark::decode(bytes.as_ref())
        .map_err(|_| StoreError::Damaged("the format mark cannot be decoded".into()))?;
    Ok(Some((mark, bytes)))
}

/// Brings a store forward to `target`, one step at a time; refuses a newer one.
pub(super) async fn bring_forward(
    engine: &dyn Engine,
    target: u32,
    release: &str,
    steps: &[&dyn Step],
) -> Result<(), StoreError> {
    while let Some((mark, bytes)) = read_mark(engine).await? {
        if mark.format > target {
            return Err(StoreError::Newer {
                what: "the store",
                found: mark.format,
                supported: target,
            });
        }
        if mark.format == target {
            return Ok(());
        }
        let step = steps
            .iter()
            .find(|step| step.from() == mark.format)
            .ok_or_else(|| {
                StoreError::Damaged(format!("no migration leads on from format {}", mark.format))
            })?;
        tracing::info!(
            from = mark.format,
            to = mark.format + 1,
            "migrating the store"
        );
        step.run(engine).await?;
        let next = FormatMark {
            format: mark.format + 1,
            release: release.to_owned(),
        };
        engine
            .commit(Commit {
                expect: vec![(mark_key(), Expectation::Equals(bytes))],
                put: vec![(mark_key(), next.encode_to_vec().into())],
                ..Commit::default()
            })
            .await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::store::memory::MemoryEngine;

    #[derive(Clone, PartialEq, Message)]
    struct NoteV1 {
        #[prost(string, tag = "1")]
        text: String,
    }
    first_version!(NoteV1, "note");

    #[derive(Clone, PartialEq, Message)]
    struct NoteV2 {
        #[prost(string, repeated, tag = "1")]
        lines: Vec<String>,
    }

    impl Record for NoteV2 {
        const WHAT: &'static str = "note";
        const VERSION: u8 = 2;
        type Previous = NoteV1;

        fn migrate(previous: NoteV1) -> Self {
            Self {
                lines: previous.text.lines().map(str::to_owned).collect(),
            }
        }

        fn read(bytes: &[u8]) -> Option<Self> {
            Message::decode(bytes).ok()
        }

        fn write(&self) -> Vec<u8> {
            self.encode_to_vec()
        }
    }

    #[derive(Debug, PartialEq)]
    struct NoteV3(usize);

    impl Record for NoteV3 {
        const WHAT: &'static str = "note";
        const VERSION: u8 = 3;
        type Previous = NoteV2;

        fn migrate(previous: NoteV2) -> Self {
            Self(previous.lines.len())
        }

        fn read(bytes: &[u8]) -> Option<Self> {
            bytes.first().map(|len| Self(usize::from(*len)))
        }

        fn write(&self) -> Vec<u8> {
            vec![u8::try_from(self.0).unwrap()]
        }
    }

    #[test]
    fn records_migrate_through_every_version_and_newer_ones_are_refused() {
        let oldest = NoteV1 {
            text: "a\nb\nc".into(),
        };
        assert_eq!(NoteV3::decode(1, &oldest.write()), Ok(NoteV3(3)));
        let middle = NoteV3::migrate(NoteV2 {
            lines: vec!["x".into()],
        });
        assert_eq!(NoteV3::decode(3, &middle.write()), Ok(NoteV3(1)));
        assert!(matches!(
            <NoteV2 as Record>::decode(3, &[1]),
            Err(RecordError::Newer {
                found: 3,
                supported: 2,
                ..
            })
        ));
        assert!(matches!(
            NoteV3::decode(0, &[]),
            Err(RecordError::Damaged { .. })
        ));
    }

    /// Renames `old/…` to `new/…`; fails on its first run after doing half of the work.
    struct Rename {
        from: u32,
        runs: AtomicU32,
    }

    #[async_trait::async_trait]
    impl Step for Rename {
        fn from(&self) -> u32 {
            self.from
        }

        async fn run(&self, engine: &dyn Engine) -> Result<(), StoreError> {
            let first = self.runs.fetch_add(1, Ordering::SeqCst) == 0;
            let source = format!("row{}", self.from);
            let target = format!("row{}", self.from + 1);
            if let Some(value) = engine.get(source.as_bytes()).await? {
                engine
                    .commit(Commit {
                        delete: vec![source.into()],
                        put: vec![(target.into(), value)],
                        ..Commit::default()
                    })
                    .await?;
            }
            if first && self.from == 2 {
                return Err(StoreError::Io("power cut".into()));
            }
            Ok(())
        }
    }

    async fn marked(format: u32) -> MemoryEngine {
        let engine = MemoryEngine::new();
        let mark = FormatMark {
            format,
            release: "test".into(),
        };
        engine
            .commit(Commit {
                put: vec![
                    (mark_key(), mark.encode_to_vec().into()),
                    ("row1".into(), "kept".into()),
                ],
                ..Commit::default()
            })
            .await
            .unwrap();
        engine
    }

    #[tokio::test]
    async fn an_older_store_is_brought_forward_even_when_a_step_is_interrupted() {
        let engine = marked(1).await;
        let one = Rename {
            from: 1,
            runs: AtomicU32::new(0),
        };
        let two = Rename {
            from: 2,
            runs: AtomicU32::new(0),
        };
        let steps: [&dyn Step; 2] = [&one, &two];
        assert!(bring_forward(&engine, 3, "r", &steps).await.is_err());
        assert_eq!(read_mark(&engine).await.unwrap().unwrap().0.format, 2);
        bring_forward(&engine, 3, "r", &steps).await.unwrap();
        assert_eq!(read_mark(&engine).await.unwrap().unwrap().0.format, 3);
        assert_eq!(engine.get(b"row3").await.unwrap().unwrap(), "kept");
        assert_eq!(one.runs.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_newer_store_is_refused_and_left_alone() {
        let engine = marked(9).await;
        let refused = bring_forward(&engine, 3, "r", &[]).await;
        assert_eq!(
            refused,
            Err(StoreError::Newer {
                what: "the store",
                found: 9,
                supported: 3
            })
        );
        assert_eq!(read_mark(&engine).await.unwrap().unwrap().0.format, 9);
    }
}
