//! One ordered keyspace with versions and compare-then-write transactions: names of files, limits,
//! small values of users. A prefix per use.

use imbl::OrdMap;
use proto::ids::LogIndex;
use serde::{Deserialize, Serialize};

use super::commands::{Compare, Output, Write};

/// A value and the log index of its last change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Value {
    /// Log index of the entry that wrote it.
    pub version: LogIndex,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// The keyspace. Part of the replicated state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Keyspace {
    keys: OrdMap<Vec<u8>, Value>,
}

impl Keyspace {
    /// Writes all keys if all conditions hold.
    pub fn transact(
        &mut self,
        compares: &[Compare],
        writes: Vec<Write>,
        index: LogIndex,
    ) -> Output {
        let version =
            |key: &[u8]| self.keys.get(key).map_or(LogIndex(0), |value: &Value| value.version);
        let is_applied = compares.iter().all(|compare| version(&compare.key) == compare.version);
        if is_applied {
            for write in writes {
                match write.value {
                    Some(bytes) => {
                        self.keys.insert(write.key, Value { version: index, bytes });
                    }
                    None => {
                        self.keys.remove(&write.key);
                    }
                }
            }
        }
        Output::Transaction { is_applied, index }
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<&Value> {
        self.keys.get(key)
    }

    /// Keys that begin with `prefix` and lie behind `after`, in order.
    pub fn range<'a>(
        &'a self,
        prefix: &'a [u8],
        after: &'a [u8],
    ) -> impl Iterator<Item = (&'a [u8], &'a Value)> {
        let from = prefix.max(after).to_vec();
        self.keys
            .range(from..)
            .filter(move |(key, _)| after.is_empty() || key.as_slice() > after)
            .take_while(move |(key, _)| key.starts_with(prefix))
            .map(|(key, value)| (key.as_slice(), value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, value: &str) -> Write {
        Write { key: key.into(), value: Some(value.into()) }
    }

    #[test]
    fn a_transaction_is_applied_whole_or_not_at_all() {
        let mut keyspace = Keyspace::default();
        let absent = Compare { key: "name/a".into(), version: LogIndex(0) };
        let first = vec![put("name/a", "1"), put("name/b", "2")];
        let applied = Output::Transaction { is_applied: true, index: LogIndex(5) };
        assert_eq!(keyspace.transact(std::slice::from_ref(&absent), first, LogIndex(5)), applied);
        let second = vec![put("name/a", "3"), put("name/c", "4")];
        let refused = Output::Transaction { is_applied: false, index: LogIndex(6) };
        assert_eq!(keyspace.transact(&[absent], second, LogIndex(6)), refused);
        let keys: Vec<_> = keyspace.range(b"name/", b"").map(|(key, _)| key.to_vec()).collect();
        assert_eq!(keys, [b"name/a".to_vec(), b"name/b".to_vec()]);
        let behind: Vec<_> = keyspace.range(b"name/", b"name/a").map(|(key, _)| key).collect();
        assert_eq!(behind, [b"name/b"]);
    }
}
