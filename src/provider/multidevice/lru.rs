//! A small least-recently-used map.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::num::NonZeroUsize;

/// Holds at most `capacity` entries; the one not asked for the longest goes first.
#[derive(Debug)]
pub(super) struct Lru<K, V> {
    capacity: NonZeroUsize,
    entries: HashMap<K, (u64, V)>,
    order: BTreeMap<u64, K>,
    clock: u64,
}

impl<K: Hash + Eq + Clone, V> Lru<K, V> {
    pub(super) fn new(capacity: NonZeroUsize) -> Self {
        Self {
            capacity,
            entries: HashMap::new(),
            order: BTreeMap::new(),
            clock: 0,
        }
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    pub(super) fn get<Q>(&mut self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let now = self.tick();
        let (used, value) = self.entries.get_mut(key)?;
        if let Some(key) = self.order.remove(used) {
            self.order.insert(now, key);
        }
        *used = now;
        Some(value)
    }

    pub(super) fn insert(&mut self, key: K, value: V) {
        let now = self.tick();
        if let Some((used, _)) = self.entries.insert(key.clone(), (now, value)) {
            self.order.remove(&used);
        }
        self.order.insert(now, key);
        while self.entries.len() > self.capacity.get() {
            let Some((_, oldest)) = self.order.pop_first() else {
                return;
            };
            self.entries.remove(&oldest);
        }
    }

    pub(super) fn remove<Q>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        if let Some((used, _)) = self.entries.remove(key) {
            self.order.remove(&used);
        }
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.order.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_asked_for_the_longest_goes_first() {
        let mut lru = Lru::new(NonZeroUsize::new(2).unwrap());
        lru.insert("a", 1);
        lru.insert("b", 2);
        assert_eq!(lru.get("a"), Some(&1));
        lru.insert("c", 3);
        assert_eq!(lru.get("b"), None);
        assert_eq!(lru.get("a"), Some(&1));
        assert_eq!(lru.entries.len(), 2);
        lru.insert("a", 4);
        lru.remove("c");
        assert_eq!(lru.get("a"), Some(&4));
        assert_eq!(lru.get("c"), None);
        assert_eq!(lru.entries.len(), lru.order.len());
        lru.clear();
        assert_eq!(lru.get("a"), None);
    }
}
