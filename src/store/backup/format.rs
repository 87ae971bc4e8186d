//! The archive inside the encryption: a header, frames of rows, and an end that proves it is whole.
//!
//! ```text
//! "trunkline-backup" ‖ version u16 ‖ frame … frame
//! frame = kind u8 ‖ length u32 ‖ protobuf
//! kinds: 1 header (first) · 2 entries · 255 end (last; nothing follows)
//! ```
//!
//! Entries are applied in order; a later one for the same key wins. The end carries their number and a
//! SHA-256 over everything before it.

use std::io::{self, Read, Write};

use bytes::Bytes;
use prost::Message;
use sha2::{Digest, Sha256};
use thiserror::Error;
use zeroize::{Zeroize, Zeroizing};

use crate::domain::clock::Timestamp;

const MAGIC: &[u8; 16] = b"trunkline-backup";

/// The version of the archive that this release writes and the newest it reads.
pub const ARCHIVE: u16 = 1;

const HEADER: u8 = 1;
const ENTRIES: u8 = 2;
const END: u8 = 255;

/// Longest frame that is read. A row is far smaller: a commit may write 32 MiB in all.
const MAX_FRAME: u32 = 64 << 20;

/// What an archive says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The release that made it.
    pub release: String,
    /// The format of the store in it.
    pub format: u32,
    /// When the backup began.
    pub created_at: Timestamp,
    /// How often the store had been restored.
    pub generation: u64,
    /// The store was handed over with it.
    pub hand_over: bool,
}

/// A row of the store, or its removal.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Entry {
    /// A row.
    Put(Bytes, Bytes),
    /// No row any more.
    Removed(Bytes),
    /// A workspace's keys in the clear; they are wrapped anew where they are restored.
    Keys(Bytes, Zeroizing<Vec<u8>>),
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Put(..) => "Put",
            Self::Removed(_) => "Removed",
            Self::Keys(..) => "Keys",
        })
    }
}

/// Why an archive cannot be read.
#[derive(Debug, Error)]
pub enum FormatError {
    /// Something else was encrypted.
    #[error("this is not a backup of Trunkline's: what is encrypted in it is something else")]
    Foreign,
    /// A newer release made it.
    #[error(
        "this backup has archive version {found}; this release reads up to {ARCHIVE}: restore it with the release that made it, or a newer one"
    )]
    Newer {
        /// Its version.
        found: u16,
    },
    /// The end is missing.
    #[error("this backup is cut off: it was not written or copied to its end; use another")]
    Truncated,
    /// Its contents do not add up.
    #[error("this backup is damaged ({0}); use another")]
    Damaged(&'static str),
    /// The operating system refused.
    #[error("the backup cannot be read: {0}")]
    Io(io::Error),
}

impl From<io::Error> for FormatError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Truncated,
            // How the decryption tells of a chunk that was altered.
            io::ErrorKind::InvalidData => {
                Self::Damaged("a part of it was altered, or its end is missing")
            }
            _ => Self::Io(error),
        }
    }
}

#[derive(Clone, PartialEq, Message)]
struct HeaderFrame {
    #[prost(string, tag = "1")]
    release: String,
    #[prost(uint32, tag = "2")]
    format: u32,
    #[prost(uint64, tag = "3")]
    created_at: u64,
    #[prost(uint64, tag = "4")]
    generation: u64,
    #[prost(bool, tag = "5")]
    hand_over: bool,
}

#[derive(Clone, PartialEq, Message)]
struct EntriesFrame {
    #[prost(message, repeated, tag = "1")]
    entries: Vec<EntryRow>,
}

/// A removal has neither value nor keys.
#[derive(Clone, PartialEq, Message)]
struct EntryRow {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", optional, tag = "2")]
    value: Option<Bytes>,
    #[prost(bytes = "vec", optional, tag = "3")]
    keys: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct EndFrame {
    #[prost(uint64, tag = "1")]
    entries: u64,
    #[prost(bytes = "vec", tag = "2")]
    digest: Vec<u8>,
}

/// Writes an archive.
pub(super) struct Writer<W> {
    out: W,
    digest: Sha256,
    entries: u64,
}

impl<W: Write> Writer<W> {
    pub(super) fn new(out: W, header: &Header) -> io::Result<Self> {
        let mut writer = Self {
            out,
            digest: Sha256::new(),
            entries: 0,
        };
        writer.write(MAGIC)?;
        writer.write(&ARCHIVE.to_be_bytes())?;
        let header = HeaderFrame {
            release: header.release.clone(),
            format: header.format,
            created_at: header.created_at.0,
            generation: header.generation,
            hand_over: header.hand_over,
        };
        writer.frame(HEADER, &header.encode_to_vec())?;
        Ok(writer)
    }

    pub(super) fn entries(&mut self, entries: Vec<Entry>) -> io::Result<()> {
        self.entries += entries.len() as u64;
        let rows = entries.into_iter().map(|entry| match entry {
            Entry::Put(key, value) => EntryRow {
                key,
                value: Some(value),
                keys: None,
            },
            Entry::Removed(key) => EntryRow {
                key,
                value: None,
                keys: None,
            },
            Entry::Keys(key, keys) => EntryRow {
                key,
                value: None,
                keys: Some(keys.to_vec()),
            },
        });
        let mut frame = EntriesFrame {
            entries: rows.collect(),
        };
        let bytes = Zeroizing::new(frame.encode_to_vec());
        for keys in frame.entries.iter_mut().filter_map(|row| row.keys.as_mut()) {
            keys.zeroize();
        }
        self.frame(ENTRIES, &bytes)
    }

    /// Writes the end; gives back what was written to and the number of entries.
    pub(super) fn finish(mut self) -> io::Result<(W, u64)> {
        let end = EndFrame {
            entries: self.entries,
            digest: self.digest.clone().finalize().to_vec(),
        };
        self.frame(END, &end.encode_to_vec())?;
        Ok((self.out, self.entries))
    }

    fn frame(&mut self, kind: u8, body: &[u8]) -> io::Result<()> {
        let len = u32::try_from(body.len())
            .ok()
            .filter(|len| *len <= MAX_FRAME)
            .ok_or_else(|| io::Error::other("a frame of the backup is too long"))?;
        self.write(&[kind])?;
        self.write(&len.to_be_bytes())?;
        self.write(body)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.digest.update(bytes);
        self.out.write_all(bytes)
    }
}

/// Reads an archive.
pub(super) struct Reader<R> {
    input: R,
    digest: Sha256,
    entries: u64,
    header: Header,
    ended: bool,
}

impl<R: Read> Reader<R> {
    pub(super) fn open(input: R) -> Result<Self, FormatError> {
        let mut reader = Self {
            input,
            digest: Sha256::new(),
            entries: 0,
            header: Header {
                release: String::new(),
                format: 0,
                created_at: Timestamp(0),
                generation: 0,
                hand_over: false,
            },
            ended: false,
        };
        let mut magic = [0; MAGIC.len()];
        match reader.read(&mut magic) {
            Ok(()) if magic == *MAGIC => {}
            Ok(()) => return Err(FormatError::Foreign),
            Err(error) => return Err(error),
        }
        let mut version = [0; 2];
        reader.read(&mut version)?;
        let found = u16::from_be_bytes(version);
        if found > ARCHIVE {
            return Err(FormatError::Newer { found });
        }
        let (kind, body) = reader.frame()?;
        if found == 0 || kind != HEADER {
            return Err(FormatError::Damaged("its header is missing"));
        }
        let header = HeaderFrame::decode(&body[..])
            .map_err(|_| FormatError::Damaged("its header cannot be read"))?;
        reader.header = Header {
            release: header.release,
            format: header.format,
            created_at: Timestamp(header.created_at),
            generation: header.generation,
            hand_over: header.hand_over,
        };
        Ok(reader)
    }

    pub(super) fn header(&self) -> &Header {
        &self.header
    }

    /// The next entries; `None` once the end was found to be in order.
    pub(super) fn next(&mut self) -> Result<Option<Vec<Entry>>, FormatError> {
        if self.ended {
            return Ok(None);
        }
        let before = self.digest.clone();
        let (kind, body) = self.frame()?;
        match kind {
            ENTRIES => {
                let entries = decode_entries(&body)?;
                self.entries += entries.len() as u64;
                Ok(Some(entries))
            }
            END => {
                self.check_end(&body, &before.finalize())?;
                self.ended = true;
                Ok(None)
            }
            _ => Err(FormatError::Damaged("a part of it is of no known kind")),
        }
    }

    fn check_end(&mut self, body: &[u8], digest: &[u8]) -> Result<(), FormatError> {
        let end =
            EndFrame::decode(body).map_err(|_| FormatError::Damaged("its end cannot be read"))?;
        if end.entries != self.entries || end.digest != digest {
            return Err(FormatError::Damaged("its contents do not match its end"));
        }
        // The decryption learns only here whether anything follows.
        match self.input.read(&mut [0])? {
            0 => Ok(()),
            _ => Err(FormatError::Damaged("something follows its end")),
        }
    }

    fn frame(&mut self) -> Result<(u8, Zeroizing<Vec<u8>>), FormatError> {
        let (mut kind, mut len) = ([0], [0; 4]);
        self.read(&mut kind)?;
        self.read(&mut len)?;
        let len = u32::from_be_bytes(len);
        if len > MAX_FRAME {
            return Err(FormatError::Damaged("a part of it is too long"));
        }
        let mut body = Zeroizing::new(vec![0; len as usize]);
        self.read(&mut body)?;
        Ok((kind[0], body))
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<(), FormatError> {
        self.input.read_exact(bytes)?;
        self.digest.update(&*bytes);
        Ok(())
    }
}

fn decode_entries(body: &[u8]) -> Result<Vec<Entry>, FormatError> {
    let frame = EntriesFrame::decode(body)
        .map_err(|_| FormatError::Damaged("rows in it cannot be read"))?;
    let entries = frame
        .entries
        .into_iter()
        .map(|row| match (row.value, row.keys) {
            (Some(value), None) => Ok(Entry::Put(row.key, value)),
            (None, None) => Ok(Entry::Removed(row.key)),
            (None, Some(keys)) => Ok(Entry::Keys(row.key, Zeroizing::new(keys))),
            (Some(_), Some(_)) => Err(FormatError::Damaged("a row in it is two things")),
        });
    entries.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            release: "1.2.3".into(),
            format: 7,
            created_at: Timestamp(1_795_262_400_000),
            generation: 3,
            hand_over: true,
        }
    }

    fn entries() -> Vec<Vec<Entry>> {
        let put = |n: u8| Entry::Put(vec![n].into(), vec![n; 300].into());
        vec![
            vec![put(1), put(2), Entry::Removed("gone".into())],
            vec![],
            vec![
                Entry::Keys("keys".into(), Zeroizing::new(vec![9; 32])),
                put(3),
            ],
        ]
    }

    fn archive() -> Vec<u8> {
        let mut writer = Writer::new(Vec::new(), &header()).unwrap();
        for part in entries() {
            writer.entries(part).unwrap();
        }
        let (bytes, count) = writer.finish().unwrap();
        assert_eq!(count, 5);
        bytes
    }

    fn read(bytes: &[u8]) -> Result<(Header, Vec<Vec<Entry>>), FormatError> {
        let mut reader = Reader::open(bytes)?;
        let mut parts = Vec::new();
        while let Some(part) = reader.next()? {
            parts.push(part);
        }
        assert!(reader.next()?.is_none());
        Ok((reader.header().clone(), parts))
    }

    #[test]
    fn what_is_written_is_read() {
        let (found, parts) = read(&archive()).unwrap();
        assert_eq!(found, header());
        assert!(parts == entries());
    }

    #[test]
    fn every_cut_is_noticed() {
        let bytes = archive();
        for len in 0..bytes.len() {
            let refused = read(&bytes[..len]).unwrap_err();
            assert!(
                matches!(refused, FormatError::Truncated),
                "{len}: {refused}"
            );
        }
    }

    #[test]
    fn every_altered_byte_is_noticed() {
        let bytes = archive();
        for at in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[at] ^= 0x20;
            assert!(read(&altered).is_err(), "byte {at}");
        }
    }

    #[test]
    fn what_follows_the_end_and_what_is_newer_is_refused() {
        let mut longer = archive();
        longer.push(0);
        assert!(matches!(read(&longer), Err(FormatError::Damaged(_))));
        let mut newer = archive();
        newer[17] = 9;
        assert!(matches!(read(&newer), Err(FormatError::Newer { found: 9 })));
        let foreign = [b"some other file of some other kind".to_vec(), vec![0; 99]].concat();
        assert!(matches!(read(&foreign), Err(FormatError::Foreign)));
    }
}
