//! What was read and answered, remembered within a number of bytes.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// Values by keys of any type; the least recently used go first.
#[derive(Default)]
pub(crate) struct Cache {
    entries: HashMap<(TypeId, u64), Entry>,
    bytes: u64,
    clock: u64,
}

struct Entry {
    key: Box<dyn Any + Send>,
    value: Arc<dyn Any + Send + Sync>,
    bytes: u64,
    revision: u64,
    used: u64,
}

/// A remembered value, and the revision of the runs that it was made from.
pub(crate) type Remembered<V> = (Arc<V>, u64);

/// What an entry takes besides its value.
const OVERHEAD: u64 = 256;

impl Cache {
    pub(crate) fn get<K, V>(&mut self, key: &K) -> Option<Remembered<V>>
    where
        K: Eq + Hash + 'static,
        V: Send + Sync + 'static,
    {
        self.clock += 1;
        let entry = self.entries.get_mut(&place(key))?;
        if entry.key.downcast_ref::<K>() != Some(key) {
            return None;
        }
        entry.used = self.clock;
        let value = Arc::downcast(entry.value.clone()).ok()?;
        Some((value, entry.revision))
    }

    /// Remembers a value, and forgets others until all take at most `limit` bytes. One that is larger is not kept.
    pub(crate) fn put<K, V>(
        &mut self,
        key: K,
        value: Arc<V>,
        bytes: usize,
        revision: u64,
        limit: u64,
    ) where
        K: Eq + Hash + Send + 'static,
        V: Send + Sync + 'static,
    {
        self.clock += 1;
        let bytes = bytes as u64 + OVERHEAD;
        let place = place(&key);
        if let Some(old) = self.entries.remove(&place) {
            self.bytes -= old.bytes;
        }
        if bytes > limit {
            return;
        }
        self.shrink(limit - bytes);
        self.bytes += bytes;
        let entry = Entry {
            key: Box::new(key),
            value,
            bytes,
            revision,
            used: self.clock,
        };
        self.entries.insert(place, entry);
    }

    /// Forgets the least recently used until all take at most `limit` bytes.
    pub(crate) fn shrink(&mut self, limit: u64) {
        if self.bytes <= limit {
            return;
        }
        let mut order: Vec<_> = self
            .entries
            .iter()
            .map(|(&place, entry)| (entry.used, place))
            .collect();
        order.sort_unstable_by_key(|entry| entry.0);
        // A quarter more than needed, so that a full cache is not sorted for every answer.
        for (_, place) in order {
            if self.bytes <= limit / 4 * 3 {
                break;
            }
            if let Some(entry) = self.entries.remove(&place) {
                self.bytes -= entry.bytes;
            }
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

fn place<K: Hash + 'static>(key: &K) -> (TypeId, u64) {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    (TypeId::of::<K>(), hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_holds_and_what_is_used_stays() {
        let mut cache = Cache::default();
        for i in 0..1000u32 {
            cache.put(i, Arc::new(i), 1000, 0, 100_000);
            assert!(cache.bytes() <= 100_000);
            assert!(cache.get::<u32, u32>(&0).is_some(), "{i}");
        }
        assert_eq!(cache.get::<u32, u32>(&999).map(|found| *found.0), Some(999));
        assert!(cache.get::<u32, u32>(&1).is_none());
        cache.put(7u32, Arc::new(7u32), 200_000, 0, 100_000);
        assert!(cache.get::<u32, u32>(&7).is_none());
    }

    #[test]
    fn equal_values_of_different_types_are_different_keys() {
        let mut cache = Cache::default();
        cache.put(1u32, Arc::new("a"), 1, 0, 10_000);
        assert!(cache.get::<u64, &str>(&1u64).is_none());
    }
}
