//! What is likely to be read next: of one who reads on, more and more; of one who jumps, nothing.
//!
//! Counted in pieces (blocks of a file, files of a folder), whatever they are. Several readers of
//! one thing are told apart by where they are.

use std::collections::BTreeMap;
use std::ops::Range;

/// Readers of one thing that are told apart.
const READERS: usize = 4;

/// One who reads on.
#[derive(Clone, Copy, Debug)]
struct Reader {
    /// The piece that was read last.
    at: u32,
    /// Pieces in front of it that are wanted.
    window: u32,
    /// The first piece that was not asked for yet.
    asked: u32,
    used: u64,
}

/// The readers of many things.
#[derive(Debug)]
pub struct ReadAhead<K> {
    readers: BTreeMap<K, Vec<Reader>>,
    /// When each thing was last read, the longest ago first.
    order: BTreeMap<u64, K>,
    first: u32,
    largest: u32,
    things: usize,
    uses: u64,
}

impl<K: Ord + Clone> ReadAhead<K> {
    /// Nothing was read yet. `first` pieces are read ahead of one who begins somewhere, then twice
    /// as many each time he reads on, up to `largest`. Of at most `things` things it is remembered
    /// who reads them.
    #[must_use]
    pub fn new(first: u32, largest: u32, things: usize) -> ReadAhead<K> {
        ReadAhead {
            readers: BTreeMap::new(),
            order: BTreeMap::new(),
            first,
            largest: largest.max(first).max(1),
            things: things.max(1),
            uses: 0,
        }
    }

    /// A piece of a thing with `count` pieces is read. Returns the pieces to fetch ahead, none of
    /// which was returned for this reader before.
    pub fn read(&mut self, thing: &K, piece: u32, count: u32) -> Range<u32> {
        self.uses += 1;
        let used = self.uses;
        let readers = self.readers.entry(thing.clone()).or_default();
        if let Some(before) = readers.iter().map(|it| it.used).max() {
            self.order.remove(&before);
        }
        self.order.insert(used, thing.clone());
        let ahead = note(readers, piece, count, (self.first, self.largest), used);
        while self.readers.len() > self.things
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.readers.remove(&oldest);
        }
        if ahead.is_empty() { 0..0 } else { ahead }
    }

    /// How many things are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.readers.len()
    }

    /// True where none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.readers.is_empty()
    }
}

fn note(
    readers: &mut Vec<Reader>,
    piece: u32,
    count: u32,
    (first, largest): (u32, u32),
    used: u64,
) -> Range<u32> {
    let behind = piece.saturating_add(1).min(count);
    // Who reads on is where it was, or within what was fetched for it.
    let reads_on =
        |it: &&mut Reader| piece >= it.at && piece <= it.at.saturating_add(it.window + 1);
    let Some(reader) = readers.iter_mut().find(reads_on) else {
        let asked = behind.saturating_add(first).min(count);
        let fresh = Reader { at: piece, window: first, asked, used };
        if readers.len() < READERS {
            readers.push(fresh);
        } else if let Some(oldest) = readers.iter_mut().min_by_key(|it| it.used) {
            *oldest = fresh;
        }
        return behind..asked;
    };
    reader.used = used;
    if piece == reader.at {
        return 0..0;
    }
    reader.at = piece;
    reader.window = (reader.window * 2).clamp(1, largest);
    let begin = reader.asked.max(behind).min(count);
    let end = behind.saturating_add(reader.window).min(count).max(begin);
    reader.asked = end;
    begin..end
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn who_reads_on_gets_more_and_more() {
        let mut ahead = ReadAhead::new(0, 8, 10);
        assert_eq!(ahead.read(&'f', 0, 100), 0..0);
        assert_eq!(ahead.read(&'f', 0, 100), 0..0, "still the first piece");
        assert_eq!(ahead.read(&'f', 1, 100), 2..3);
        assert_eq!(ahead.read(&'f', 2, 100), 3..5);
        assert_eq!(ahead.read(&'f', 3, 100), 5..8);
        assert_eq!(ahead.read(&'f', 4, 100), 8..13);
        assert_eq!(ahead.read(&'f', 5, 100), 13..14, "the window is full");
        assert_eq!(ahead.read(&'f', 97, 100), 0..0, "a jump");
        assert_eq!(ahead.read(&'f', 98, 100), 99..100);
        assert_eq!(ahead.read(&'f', 99, 100), 0..0, "the end");
    }

    #[test]
    fn who_begins_gets_the_first_ones() {
        let mut ahead = ReadAhead::new(3, 8, 10);
        assert_eq!(ahead.read(&'f', 10, 30), 11..14);
        assert_eq!(ahead.read(&'f', 11, 30), 14..18);
        assert_eq!(ahead.read(&'f', 12, 30), 18..21);
        assert_eq!(ahead.read(&'f', 28, 30), 29..30, "no more than there are");
    }

    #[test]
    fn readers_and_things_are_told_apart() {
        let mut ahead = ReadAhead::new(0, 4, 2);
        assert!(ahead.read(&'f', 0, 90).is_empty() && ahead.read(&'f', 50, 90).is_empty());
        assert_eq!(ahead.read(&'f', 1, 90), 2..3);
        assert_eq!(ahead.read(&'f', 51, 90), 52..53);
        assert_eq!(ahead.read(&'f', 2, 90), 3..5);
        assert!(ahead.read(&'g', 3, 90).is_empty());
        assert_eq!(ahead.read(&'f', 52, 90), 53..55);
        assert!(ahead.read(&'h', 0, 90).is_empty());
        assert_eq!(ahead.len(), 2);
        assert_eq!(ahead.read(&'g', 4, 90), 0..0, "it was read the longest ago, and forgotten");
    }

    proptest! {
        #[test]
        fn never_too_much_nor_behind_the_end(
            first in 0u32..9,
            reads in proptest::collection::vec((0u8..3, 0u32..30), 0..300),
        ) {
            let mut ahead = ReadAhead::new(first, 8, 2);
            for (thing, piece) in reads {
                let range = ahead.read(&thing, piece, 30);
                prop_assert!(range.start <= range.end && range.end <= 30 && range.len() <= 8);
                prop_assert!(range.is_empty() || range.start > piece);
                prop_assert!(ahead.len() <= 2);
            }
        }
    }
}
