//! Large values in small pieces.
//!
//! sled writes anything above 128 KB to a file of its own, which our fdatasync of the log does not
//! cover. What counts is not a value but a *leaf*: up to some twenty neighbouring rows are rewritten
//! together. So no physical value is longer than [`PIECE`]; a longer one becomes a head row and pieces,
//! written in the same batch. Pieces are named by a digest of the whole value, so a reader that meets a
//! concurrent overwrite finds its pieces missing, never mixed, and reads the head again.

use bytes::{BufMut, Bytes, BytesMut};
use sha2::{Digest, Sha256};

use super::engine::{EngineError, after_prefix};

/// Longest physical value. Twenty of them, with their keys, stay below sled's limit for a leaf.
pub(super) const PIECE: usize = 6 << 10;

const VALUES: u8 = b'v';
const PIECES: u8 = b'c';

const INLINE: u8 = 0;
const HEAD: u8 = 1;
const HEAD_LEN: usize = 1 + 8 + 4;

/// Where the value (or the head) of a key is.
pub(super) fn physical(key: &[u8]) -> Bytes {
    let mut physical = BytesMut::with_capacity(key.len() + 1);
    physical.put_u8(VALUES);
    physical.put_slice(key);
    physical.freeze()
}

/// The range of all values (or heads).
pub(super) fn all() -> (Bytes, Bytes) {
    (physical(b""), after_prefix(&[VALUES]))
}

/// The key whose value (or head) is at `physical`.
pub(super) fn logical(physical: &Bytes) -> Bytes {
    physical.slice(1.min(physical.len())..)
}

fn piece_key(key: &[u8], digest: u64, index: u32) -> Bytes {
    let mut piece = BytesMut::with_capacity(key.len() + 17);
    piece.put_u8(PIECES);
    // The length in front: one key's pieces can never be another's.
    piece.put_u32(u32::try_from(key.len()).unwrap_or(u32::MAX));
    piece.put_slice(key);
    piece.put_u64(digest);
    piece.put_u32(index);
    piece.freeze()
}

/// How pieces are read.
pub(super) type Get<'a> = dyn FnMut(&[u8]) -> Result<Option<Bytes>, EngineError> + 'a;

/// A stored value, or where its pieces are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stored {
    /// The value itself.
    Inline(Bytes),
    /// Its pieces.
    Split { digest: u64, len: usize },
}

impl Stored {
    /// Reads a physical value.
    pub(super) fn read(physical: &Bytes) -> Result<Self, EngineError> {
        let damaged = || EngineError::Corrupt("a value has no valid mark".into());
        match physical.first() {
            Some(&INLINE) => Ok(Self::Inline(physical.slice(1..))),
            Some(&HEAD) if physical.len() == HEAD_LEN => {
                let (digest, len) = physical[1..].split_at(8);
                let digest = digest.try_into().map_err(|_| damaged())?;
                let len = len.try_into().map_err(|_| damaged())?;
                Ok(Self::Split {
                    digest: u64::from_be_bytes(digest),
                    len: u32::from_be_bytes(len) as usize,
                })
            }
            _ => Err(damaged()),
        }
    }

    /// How long the whole value is.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Inline(value) => value.len(),
            Self::Split { len, .. } => *len,
        }
    }

    fn pieces<'a>(&self, key: &'a [u8]) -> impl Iterator<Item = Bytes> + use<'a> {
        let (digest, count) = match *self {
            Self::Inline(_) => (0, 0),
            Self::Split { digest, len } => (digest, len.div_ceil(PIECE)),
        };
        (0..u32::try_from(count).unwrap_or(u32::MAX))
            .map(move |index| piece_key(key, digest, index))
    }

    /// The whole value; `None` when a piece is gone because the value was overwritten meanwhile.
    pub(super) fn assemble(
        self,
        key: &[u8],
        get: &mut Get<'_>,
    ) -> Result<Option<Bytes>, EngineError> {
        let pieces = self.pieces(key);
        let (digest, len) = match self {
            Self::Inline(value) => return Ok(Some(value)),
            Self::Split { digest, len } => (digest, len),
        };
        let mut whole = BytesMut::with_capacity(len);
        for piece in pieces {
            match get(&piece)? {
                Some(bytes) => whole.put_slice(&bytes),
                None => return Ok(None),
            }
        }
        if whole.len() != len || digest_of(&whole) != digest {
            return Err(EngineError::Corrupt("a split value does not add up".into()));
        }
        Ok(Some(whole.freeze()))
    }
}

fn digest_of(value: &[u8]) -> u64 {
    let digest = Sha256::digest(value);
    digest
        .iter()
        .take(8)
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The physical writes that set (or with `None` remove) a value, given what is stored now.
pub(super) fn plan(
    key: &[u8],
    value: Option<&Bytes>,
    old: Option<&Stored>,
    mut write: impl FnMut(Bytes, Option<Bytes>),
) {
    let new = value.map(|value| {
        if value.len() <= PIECE {
            Stored::Inline(value.clone())
        } else {
            Stored::Split {
                digest: digest_of(value),
                len: value.len(),
            }
        }
    });
    // Pieces of equal content have equal names: those are overwritten, not removed.
    if let Some(old) = old.filter(|old| Some(*old) != new.as_ref()) {
        for piece in old.pieces(key) {
            write(piece, None);
        }
    }
    if let (Some(new), Some(value)) = (&new, value) {
        for (piece, part) in new.pieces(key).zip(value.chunks(PIECE)) {
            write(piece, Some(value.slice_ref(part)));
        }
    }
    let head = new.map(|new| {
        let mut head = BytesMut::new();
        match new {
            Stored::Inline(value) => {
                head.reserve(1 + value.len());
                head.put_u8(INLINE);
                head.put_slice(&value);
            }
            Stored::Split { digest, len } => {
                head.put_u8(HEAD);
                head.put_u64(digest);
                head.put_u32(u32::try_from(len).unwrap_or(u32::MAX));
            }
        }
        head.freeze()
    });
    write(physical(key), head);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Default)]
    struct Table(BTreeMap<Bytes, Bytes>);

    impl Table {
        fn stored(&self, key: &[u8]) -> Option<Stored> {
            let head = self.0.get(&physical(key))?;
            Some(Stored::read(head).unwrap())
        }

        fn set(&mut self, key: &[u8], value: Option<&Bytes>) {
            let old = self.stored(key);
            plan(key, value, old.as_ref(), |key, value| {
                match value {
                    Some(value) => self.0.insert(key, value),
                    None => self.0.remove(&key),
                };
            });
        }

        fn get(&self, key: &[u8]) -> Option<Bytes> {
            let mut get = |key: &[u8]| Ok(self.0.get(key).cloned());
            self.stored(key)?.assemble(key, &mut get).unwrap()
        }
    }

    proptest! {
        #[test]
        fn what_is_set_is_read_and_nothing_is_left_behind(
            sizes in prop::collection::vec(prop::option::of(0..5 * PIECE), 1..8),
        ) {
            let mut table = Table::default();
            for (fill, size) in sizes.iter().enumerate() {
                let value = size.map(|size| Bytes::from(vec![u8::try_from(fill).unwrap(); size]));
                table.set(b"k", value.as_ref());
                prop_assert_eq!(table.get(b"k"), value);
                prop_assert!(table.0.values().all(|value| value.len() <= PIECE + 1));
            }
            table.set(b"k", None);
            prop_assert!(table.0.is_empty());
        }
    }

    #[test]
    fn rewriting_the_same_large_value_keeps_its_pieces() {
        let mut table = Table::default();
        let value = Bytes::from(vec![9; 3 * PIECE]);
        table.set(b"k", Some(&value));
        table.set(b"k", Some(&value));
        assert_eq!(table.get(b"k"), Some(value));
    }

    #[test]
    fn a_missing_piece_means_read_again_and_a_bent_one_is_damage() {
        let mut table = Table::default();
        table.set(b"k", Some(&Bytes::from(vec![9; 3 * PIECE])));
        let stored = table.stored(b"k").unwrap();
        let pieces: Vec<_> = stored.pieces(b"k").collect();
        let mut bent = table.0.clone();
        bent.insert(pieces[1].clone(), Bytes::from(vec![8; PIECE]));
        let mut get = |key: &[u8]| Ok(bent.get(key).cloned());
        assert!(stored.clone().assemble(b"k", &mut get).is_err());
        table.0.remove(&pieces[1]);
        let mut get = |key: &[u8]| Ok(table.0.get(key).cloned());
        assert_eq!(stored.assemble(b"k", &mut get), Ok(None));
    }
}
