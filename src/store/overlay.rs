//! Writes that readers may see although the writer has not reached them yet.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{PoisonError, RwLock};

use bytes::Bytes;

/// Queued values by key, each with the place of its commit in the order. The engine's queue bounds it.
#[derive(Debug, Default)]
pub(super) struct Overlay(RwLock<BTreeMap<Bytes, (u64, Option<Bytes>)>>);

impl Overlay {
    /// Shows the writes of commit `seq`, which must be later than any before.
    pub(super) fn show(&self, seq: u64, writes: impl IntoIterator<Item = (Bytes, Option<Bytes>)>) {
        let mut rows = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for (key, value) in writes {
            rows.insert(key, (seq, value));
        }
    }

    /// Commit `seq` is in the table (or was refused): what it showed and nobody overwrote goes.
    pub(super) fn settle(&self, seq: u64, keys: &[Bytes]) {
        if keys.is_empty() {
            return;
        }
        let mut rows = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for key in keys {
            if rows.get(key).is_some_and(|(shown, _)| *shown == seq) {
                rows.remove(key);
            }
        }
    }

    /// What is queued for a key: `Some(None)` is a removal.
    #[expect(
        clippy::option_option,
        reason = "a queued removal is not the same as nothing queued"
    )]
    pub(super) fn get(&self, key: &[u8]) -> Option<Option<Bytes>> {
        let rows = self.0.read().unwrap_or_else(PoisonError::into_inner);
        rows.get(key).map(|(_, value)| value.clone())
    }

    /// What is queued in a range.
    pub(super) fn range(&self, start: &Bytes, end: &Bytes) -> BTreeMap<Bytes, Option<Bytes>> {
        let rows = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if rows.is_empty() || start >= end {
            return BTreeMap::new();
        }
        rows.range::<Bytes, _>((Bound::Included(start), Bound::Excluded(end)))
            .map(|(key, (_, value))| (key.clone(), value.clone()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_write_survives_the_settling_of_an_earlier_one() {
        let overlay = Overlay::default();
        let key = Bytes::from_static(b"k");
        overlay.show(1, [(key.clone(), Some(Bytes::from_static(b"one")))]);
        overlay.show(2, [(key.clone(), None)]);
        overlay.settle(1, std::slice::from_ref(&key));
        assert_eq!(overlay.get(b"k"), Some(None));
        overlay.settle(2, &[key]);
        assert_eq!(overlay.get(b"k"), None);
    }
}
