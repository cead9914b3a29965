//! What is kept as long as there is room: the least recently used goes first.

use std::collections::BTreeMap;

#[derive(Debug)]
struct Kept<V> {
    value: V,
    bytes: u64,
    used: u64,
}

/// Values with a size, and a limit of what they take together.
#[derive(Debug)]
pub struct Lru<K, V> {
    kept: BTreeMap<K, Kept<V>>,
    /// Keys by when they were last used, the longest ago first.
    order: BTreeMap<u64, K>,
    bytes: u64,
    limit: u64,
    uses: u64,
}

impl<K: Ord + Clone, V> Lru<K, V> {
    /// Nothing yet, and room for `limit` bytes.
    #[must_use]
    pub fn new(limit: u64) -> Lru<K, V> {
        Lru { kept: BTreeMap::new(), order: BTreeMap::new(), bytes: 0, limit, uses: 0 }
    }

    /// Bytes of all.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The most that all take together.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// True where there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// A value, which counts as used now.
    pub fn get(&mut self, key: &K) -> Option<&mut V> {
        let kept = self.kept.get_mut(key)?;
        self.order.remove(&kept.used);
        self.uses += 1;
        kept.used = self.uses;
        self.order.insert(self.uses, key.clone());
        Some(&mut kept.value)
    }

    /// A value; that is no use of it.
    #[must_use]
    pub fn peek(&self, key: &K) -> Option<&V> {
        self.kept.get(key).map(|kept| &kept.value)
    }

    /// Whether a value is there; that is no use of it.
    #[must_use]
    pub fn contains(&self, key: &K) -> bool {
        self.kept.contains_key(key)
    }

    /// Keeps a value, in place of an older one under the same key. Returns the keys and values
    /// that had to go for it. The newest one stays even where it is larger than the limit.
    pub fn insert(&mut self, key: K, value: V, bytes: u64) -> Vec<(K, V)> {
        self.remove(&key);
        self.uses += 1;
        self.order.insert(self.uses, key.clone());
        self.kept.insert(key, Kept { value, bytes, used: self.uses });
        self.bytes += bytes;
        self.shrink(self.limit, 1)
    }

    /// Lets go of the least recently used until all take at most `limit` bytes; returns what went.
    pub fn shrink_to(&mut self, limit: u64) -> Vec<(K, V)> {
        self.shrink(limit, 0)
    }

    fn shrink(&mut self, limit: u64, spared: usize) -> Vec<(K, V)> {
        let mut gone = Vec::new();
        while self.bytes > limit && self.kept.len() > spared {
            let Some((_, key)) = self.order.pop_first() else {
                break;
            };
            if let Some(kept) = self.kept.remove(&key) {
                self.bytes -= kept.bytes;
                gone.push((key, kept.value));
            }
        }
        gone
    }

    /// Lets go of one.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let kept = self.kept.remove(key)?;
        self.order.remove(&kept.used);
        self.bytes -= kept.bytes;
        Some(kept.value)
    }

    /// Panics on a broken invariant.
    pub fn check_invariants(&self) {
        assert_eq!(self.kept.len(), self.order.len(), "each has one place in the order");
        let bytes: u64 = self.kept.values().map(|kept| kept.bytes).sum();
        assert_eq!(bytes, self.bytes, "the sum of the bytes");
        for (used, key) in &self.order {
            assert_eq!(self.kept.get(key).map(|kept| kept.used), Some(*used), "its place");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut lru = Lru::new(10);
        assert!(lru.insert("a", 1, 4).is_empty());
        assert!(lru.insert("b", 2, 4).is_empty());
        assert_eq!(lru.get(&"a"), Some(&mut 1));
        assert_eq!(lru.insert("c", 3, 4), [("b", 2)]);
        assert_eq!((lru.peek(&"a"), lru.contains(&"b")), (Some(&1), false));
        assert_eq!(lru.insert("large", 4, 100), [("a", 1), ("c", 3)]);
        assert_eq!((lru.len(), lru.bytes()), (1, 100));
        assert_eq!(lru.insert("a", 5, 1), [("large", 4)]);
        assert_eq!(lru.remove(&"a"), Some(5));
        assert!(lru.is_empty() && lru.shrink_to(0).is_empty());
    }

    proptest! {
        /// Against a plain list in order of use.
        #[test]
        fn it_agrees_with_a_list(steps in proptest::collection::vec((0u8..4, 0u8..12, 0u64..9), 0..200)) {
            let limit = 30;
            let mut lru = Lru::new(limit);
            let mut list: Vec<(u8, u64)> = Vec::new();
            for (step, key, bytes) in steps {
                let at = list.iter().position(|(it, _)| *it == key);
                match step {
                    0 => {
                        prop_assert_eq!(lru.remove(&key).is_some(), at.is_some());
                        at.map(|at| list.remove(at));
                    }
                    1 => {
                        prop_assert_eq!(lru.get(&key).is_some(), at.is_some());
                        if let Some(at) = at {
                            let used = list.remove(at);
                            list.push(used);
                        }
                    }
                    _ => {
                        at.map(|at| list.remove(at));
                        list.push((key, bytes));
                        let mut gone = Vec::new();
                        while list.iter().map(|it| it.1).sum::<u64>() > limit && list.len() > 1 {
                            gone.push((list.remove(0).0, ()));
                        }
                        prop_assert_eq!(lru.insert(key, (), bytes), gone);
                    }
                }
                lru.check_invariants();
                prop_assert_eq!(lru.len(), list.len());
                prop_assert_eq!(lru.bytes(), list.iter().map(|it| it.1).sum::<u64>());
            }
        }
    }
}
