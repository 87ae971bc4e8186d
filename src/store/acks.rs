//! Bitmaps of confirmed revisions.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use prost::Message;

use super::engine::Revision;
use super::errors::StoreError;
use super::migrate::first_version;

const BITS: u32 = 12;
/// Revisions in one chunk.
const CHUNK: u64 = 1 << BITS;
const WORDS: usize = (CHUNK / 64) as usize;

/// The chunk a revision falls in.
pub(super) fn chunk_of(revision: Revision) -> u64 {
    revision >> BITS
}

/// A chunk as stored. Trailing zero bytes are left out; a full chunk is only a mark.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ChunkRow {
    #[prost(bytes = "vec", tag = "1")]
    bits: Vec<u8>,
    #[prost(bool, tag = "2")]
    full: bool,
}
first_version!(ChunkRow, "ack bitmap");

/// 4,096 revisions, each confirmed or not.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Chunk([u64; WORDS]);

impl Default for Chunk {
    fn default() -> Self {
        Self([0; WORDS])
    }
}

impl std::fmt::Debug for Chunk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Chunk({} of {CHUNK})", self.count())
    }
}

impl Chunk {
    /// The chunk of `first` with everything below it confirmed.
    pub(super) fn confirmed_below(first: Revision) -> Self {
        let mut chunk = Self::default();
        for bit in 0..(first & (CHUNK - 1)) {
            chunk.set(bit);
        }
        chunk
    }

    fn set(&mut self, bit: u64) -> bool {
        let (word, mask) = Self::at(bit);
        let fresh = self.0[word] & mask == 0;
        self.0[word] |= mask;
        fresh
    }

    fn at(bit: u64) -> (usize, u64) {
        let word = usize::try_from(bit / 64).unwrap_or_default();
        (word, 1 << (bit % 64))
    }

    /// Confirms the part of `range` that falls in chunk `number`; whether anything changed.
    pub(super) fn confirm(&mut self, number: u64, range: &RangeInclusive<Revision>) -> bool {
        let first = (*range.start()).max(number << BITS);
        let last = (*range.end()).min((number << BITS) + (CHUNK - 1));
        let mut changed = false;
        for revision in first..=last {
            changed |= self.set(revision & (CHUNK - 1));
        }
        changed
    }

    fn contains(&self, revision: Revision) -> bool {
        let (word, mask) = Self::at(revision & (CHUNK - 1));
        self.0[word] & mask != 0
    }

    fn count(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    pub(super) fn is_full(&self) -> bool {
        self.0.iter().all(|word| *word == u64::MAX)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// The first revision of chunk `number`, at or after `from`, that is not confirmed.
    fn first_gap(&self, number: u64, from: Revision) -> Option<Revision> {
        let start = from.max(number << BITS);
        let end = (number << BITS) + CHUNK;
        (start..end).find(|revision| !self.contains(*revision))
    }

    pub(super) fn to_row(&self) -> ChunkRow {
        if self.is_full() {
            return ChunkRow {
                bits: Vec::new(),
                full: true,
            };
        }
        let mut bits: Vec<u8> = self.0.iter().flat_map(|word| word.to_le_bytes()).collect();
        while bits.last() == Some(&0) {
            bits.pop();
        }
        ChunkRow { bits, full: false }
    }

    pub(super) fn from_row(row: &ChunkRow) -> Result<Self, StoreError> {
        if row.full {
            return Ok(Self([u64::MAX; WORDS]));
        }
        if row.bits.len() > WORDS * 8 {
            return Err(StoreError::Damaged("an ack bitmap is too long".into()));
        }
        let mut chunk = Self::default();
        for (word, bytes) in chunk.0.iter_mut().zip(row.bits.chunks(8)) {
            let mut padded = [0; 8];
            padded[..bytes.len()].copy_from_slice(bytes);
            *word = u64::from_le_bytes(padded);
        }
        Ok(chunk)
    }
}

/// A picture of what a subscription has confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confirmed {
    floor: Revision,
    chunks: BTreeMap<u64, Chunk>,
}

impl Confirmed {
    pub(super) fn new(floor_chunk: u64, oldest: Revision) -> Self {
        Self {
            floor: (floor_chunk << BITS).max(oldest).max(1),
            chunks: BTreeMap::new(),
        }
    }

    pub(super) fn insert(&mut self, number: u64, chunk: Chunk) {
        self.chunks.insert(number, chunk);
        self.floor = self.next_unconfirmed(self.floor);
    }

    /// The lowest revision that is not confirmed.
    pub fn floor(&self) -> Revision {
        self.floor
    }

    /// Whether a revision is confirmed.
    pub fn contains(&self, revision: Revision) -> bool {
        let chunk = self.chunks.get(&chunk_of(revision));
        revision < self.floor || chunk.is_some_and(|chunk| chunk.contains(revision))
    }

    /// The first revision at or after `from` that is not confirmed (it may not exist yet).
    pub fn next_unconfirmed(&self, from: Revision) -> Revision {
        let mut from = from.max(self.floor);
        while let Some(chunk) = self.chunks.get(&chunk_of(from)) {
            match chunk.first_gap(chunk_of(from), from) {
                Some(gap) => return gap,
                None => from = (chunk_of(from) + 1) << BITS,
            }
        }
        from
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_chunk_is_the_set_it_was_given(
            ranges in prop::collection::vec((0_u64..3 * CHUNK, 0_u64..200), 0..12),
        ) {
            let mut model = BTreeSet::new();
            let mut chunk = Chunk::default();
            for (start, len) in ranges {
                let range = start..=start + len;
                chunk.confirm(1, &range);
                model.extend(range.filter(|revision| chunk_of(*revision) == 1));
            }
            let read = Chunk::from_row(&chunk.to_row()).unwrap();
            prop_assert_eq!(&read, &chunk);
            for revision in CHUNK..2 * CHUNK {
                prop_assert_eq!(read.contains(revision), model.contains(&revision));
            }
            let mut picture = Confirmed::new(1, 1);
            picture.insert(1, read);
            let gap = (CHUNK..=3 * CHUNK).find(|revision| !model.contains(revision)).unwrap();
            prop_assert_eq!(picture.floor(), gap);
        }
    }

    #[test]
    fn a_full_chunk_shrinks_to_a_mark() {
        let mut chunk = Chunk::default();
        assert!(chunk.confirm(2, &(0..=u64::MAX >> 1)));
        assert!(chunk.is_full());
        let row = chunk.to_row();
        assert!(row.full && row.bits.is_empty());
        assert!(Chunk::from_row(&row).unwrap().is_full());
    }

    #[test]
    fn a_subscription_that_starts_late_has_everything_before_confirmed() {
        let first = 2 * CHUNK + 70;
        let mut picture = Confirmed::new(chunk_of(first), 1);
        picture.insert(chunk_of(first), Chunk::confirmed_below(first));
        assert_eq!(picture.floor(), first);
        assert!(picture.contains(first - 1) && !picture.contains(first));
    }
}
