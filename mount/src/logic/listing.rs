//! The list of a folder whose entries come and go: each keeps a number of its own for as long as it
//! is there, so that a reader who goes on behind a number misses nothing and sees nothing twice.

use std::collections::BTreeMap;

/// Names with their numbers.
#[derive(Debug)]
pub struct Listing<T> {
    by_name: BTreeMap<String, u64>,
    by_number: BTreeMap<u64, (String, T)>,
    last: u64,
}

impl<T> Default for Listing<T> {
    fn default() -> Listing<T> {
        Listing { by_name: BTreeMap::new(), by_number: BTreeMap::new(), last: 0 }
    }
}

impl<T> Listing<T> {
    /// Takes over what is there now. Names that were there before keep their numbers.
    pub fn replace(&mut self, entries: impl IntoIterator<Item = (String, T)>) {
        let before = std::mem::take(&mut self.by_name);
        self.by_number.clear();
        for (name, value) in entries {
            if self.by_name.contains_key(&name) {
                continue;
            }
            let number = before.get(&name).copied().unwrap_or_else(|| {
                self.last += 1;
                self.last
            });
            self.by_name.insert(name.clone(), number);
            self.by_number.insert(number, (name, value));
        }
    }

    /// The entries behind a number (0 for all), in order of their numbers.
    pub fn after(&self, number: u64) -> impl Iterator<Item = (u64, &str, &T)> {
        let rest = self.by_number.range(number.saturating_add(1)..);
        rest.map(|(number, (name, value))| (*number, name.as_str(), value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(listing: &Listing<()>, after: u64) -> Vec<(u64, String)> {
        listing.after(after).map(|(number, name, ())| (number, name.to_owned())).collect()
    }

    fn replace(listing: &mut Listing<()>, names: &[&str]) {
        listing.replace(names.iter().map(|name| ((*name).to_owned(), ())));
    }

    #[test]
    fn numbers_stay_while_a_name_is_there() {
        let mut listing = Listing::default();
        replace(&mut listing, &["b", "d"]);
        let first = names(&listing, 0);
        assert_eq!(first, [(1, "b".to_owned()), (2, "d".to_owned())]);
        // Somebody has read up to `b`; what comes and goes meanwhile changes nothing for the rest.
        replace(&mut listing, &["a", "d", "e"]);
        let rest: Vec<String> = names(&listing, 1).into_iter().map(|it| it.1).collect();
        assert_eq!(rest, ["d", "a", "e"]);
        replace(&mut listing, &["b"]);
        assert_eq!(names(&listing, 0), [(5, "b".to_owned())]);
        assert!(names(&listing, u64::MAX).is_empty());
    }

    #[test]
    fn a_name_that_is_told_twice_is_there_once() {
        let mut listing = Listing::default();
        replace(&mut listing, &["a", "a"]);
        assert_eq!(names(&listing, 0).len(), 1);
    }
}
