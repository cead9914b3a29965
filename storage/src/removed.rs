//! Which volumes were removed, so that one that is missing is known to be missing.
//!
//! A removed volume leaves an empty file, which needs no room. Once there are many of them, one
//! file with the numbers of all takes their place.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};

use node::files::{read_all, replace};

use crate::reader::Shared;

/// Empty files that are kept at most (eyeballed).
const MARKERS: usize = 64;

const MAGIC: [u8; 8] = *b"RmdGone\x01";

/// The numbers of removed volumes.
#[derive(Debug, Default)]
pub(crate) struct Removed {
    /// First and last of each run that the file names.
    runs: BTreeMap<u32, u32>,
    /// Those with an empty file of their own.
    markers: Vec<u32>,
    /// The file was not readable: nobody knows what is missing.
    is_damaged: bool,
}

impl Removed {
    /// Reads the file.
    ///
    /// # Errors
    /// As the operating system says; that there is none is no error.
    pub(crate) fn read(shared: &Shared) -> io::Result<Removed> {
        match read_all(&*shared.files, &shared.removed_path()) {
            Ok(bytes) => Ok(match decode(&bytes) {
                Some(runs) => Removed { runs, ..Removed::default() },
                None => Removed { is_damaged: true, ..Removed::default() },
            }),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Removed::default()),
            Err(error) => Err(error),
        }
    }

    /// Whether the file is there and cannot be read.
    pub(crate) fn is_damaged(&self) -> bool {
        self.is_damaged
    }

    /// The first number from `from` to before `to` that was not removed.
    pub(crate) fn first_missing(&self, from: u32, to: u32) -> Option<u32> {
        let mut at = from;
        while at < to && !self.is_damaged {
            match self.runs.range(..=at).next_back() {
                Some((_, &last)) if last >= at => at = last.checked_add(1)?,
                _ => return Some(at),
            }
        }
        None
    }

    /// A volume is an empty file now.
    pub(crate) fn mark(&mut self, volume: u32) {
        self.markers.push(volume);
    }

    /// Where there are many empty files, puts the file with their numbers in their place.
    pub(crate) fn tidy(&mut self, shared: &Shared) {
        // What a damaged file named is not known, so that it cannot be replaced.
        if self.markers.len() < MARKERS || self.is_damaged {
            return;
        }
        let mut runs = self.runs.clone();
        for &volume in &self.markers {
            add(&mut runs, volume);
        }
        if let Err(error) = replace(&*shared.files, &shared.removed_path(), &encode(&runs)) {
            tracing::warn!(%error, "the list of removed volumes cannot be written");
            return;
        }
        self.runs = runs;
        for volume in self.markers.drain(..) {
            // One that stays says the same once more.
            let _ = shared.files.remove(&shared.volume_path(volume));
        }
    }
}

fn add(runs: &mut BTreeMap<u32, u32>, volume: u32) {
    let mut first = volume;
    let mut last = volume;
    if let Some((&before, &end)) = runs.range(..=volume).next_back() {
        if end >= volume {
            return;
        }
        if end + 1 == volume {
            first = before;
        }
    }
    if let Some(end) = volume.checked_add(1).and_then(|next| runs.remove(&next)) {
        last = end;
    }
    runs.insert(first, last);
}

fn encode(runs: &BTreeMap<u32, u32>) -> Vec<u8> {
    let words = runs.iter().flat_map(|(first, last)| [*first, *last]);
    let body: Vec<u8> = words.flat_map(u32::to_le_bytes).collect();
    let checksum = crc32c::crc32c(&body).to_le_bytes();
    [&MAGIC[..], &checksum[..], &body[..]].concat()
}

fn decode(bytes: &[u8]) -> Option<BTreeMap<u32, u32>> {
    let (checksum, body) = bytes.strip_prefix(&MAGIC)?.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*checksum) != crc32c::crc32c(body) {
        return None;
    }
    let (words, rest) = body.as_chunks::<4>();
    let (pairs, odd) = words.as_chunks::<2>();
    let is_whole = rest.is_empty() && odd.is_empty();
    let runs =
        pairs.iter().map(|[first, last]| (u32::from_le_bytes(*first), u32::from_le_bytes(*last)));
    is_whole.then(|| runs.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_kept_as_runs_and_what_is_missing_is_known() {
        let mut runs = BTreeMap::new();
        for volume in [3, 1, 2, 9, 7, 8, 2, u32::MAX] {
            add(&mut runs, volume);
        }
        assert_eq!(runs, [(1, 3), (7, 9), (u32::MAX, u32::MAX)].into());
        let decoded = decode(&encode(&runs)).unwrap();
        assert_eq!(decoded, runs);
        let removed = Removed { runs, ..Removed::default() };
        assert_eq!(removed.first_missing(0, 5), Some(0));
        assert_eq!(removed.first_missing(1, 4), None);
        assert_eq!(removed.first_missing(2, 7), Some(4));
        assert_eq!(removed.first_missing(7, 10), None);
    }

    #[test]
    fn a_damaged_list_is_no_list() {
        let bytes = encode(&[(1, 3), (7, 9)].into());
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            assert_eq!(decode(&bytes), None, "byte {at}");
        }
        assert_eq!(decode(&bytes[..bytes.len() - 4]), None);
        assert_eq!(decode(b""), None);
    }
}
