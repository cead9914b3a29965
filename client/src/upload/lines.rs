//! Where the lines of a text begin: one task for each of them.
//!
//! Responsible for finding them in one pass and for the bytes of the file of offsets. What a task
//! gets of them is the worker's matter.

use std::io::{BufRead, BufReader, Read};

use super::DraftError;

/// Most lines of one job: their offsets are in memory until they are stored, 1 GiB of them.
pub(super) const LINES_MAX: u64 = 1 << 27;

/// Where lines begin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LineIndex {
    /// One `u64` more than there are lines (little-endian): where each begins, then the end.
    pub(super) offsets: Vec<u8>,
    /// How many lines there are.
    pub(super) line_count: u64,
    /// Bytes of the text.
    pub(super) text_length: u64,
}

impl LineIndex {
    /// Reads a text to its end. A last line needs no line feed.
    pub(super) fn of(text: impl Read) -> Result<LineIndex, DraftError> {
        let mut text = BufReader::with_capacity(1 << 20, text);
        let mut index = LineIndex::default();
        let mut is_at_begin = true;
        loop {
            let bytes = text.fill_buf().map_err(DraftError::ReadLines)?;
            let length = bytes.len();
            if length == 0 {
                break;
            }
            for (at, byte) in bytes.iter().enumerate() {
                if is_at_begin {
                    index.begin(index.text_length + at as u64)?;
                }
                is_at_begin = *byte == b'\n';
            }
            index.text_length += length as u64;
            text.consume(length);
        }
        index.offsets.extend_from_slice(&index.text_length.to_le_bytes());
        Ok(index)
    }

    fn begin(&mut self, offset: u64) -> Result<(), DraftError> {
        if self.line_count == LINES_MAX {
            return Err(DraftError::TooManyLines);
        }
        self.line_count += 1;
        self.offsets.extend_from_slice(&offset.to_le_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offsets(text: &[u8]) -> Vec<u64> {
        let index = LineIndex::of(text).unwrap();
        let (offsets, rest) = index.offsets.as_chunks::<8>();
        assert!(rest.is_empty());
        assert_eq!(offsets.len() as u64, index.line_count + 1);
        assert_eq!(index.text_length, text.len() as u64);
        offsets.iter().map(|offset| u64::from_le_bytes(*offset)).collect()
    }

    #[test]
    fn a_last_line_counts_with_and_without_its_line_feed() {
        assert_eq!(offsets(b""), [0]);
        assert_eq!(offsets(b"\n"), [0, 1]);
        assert_eq!(offsets(b"a\nbc\n"), [0, 2, 5]);
        assert_eq!(offsets(b"a\nbc"), [0, 2, 4]);
        assert_eq!(offsets(b"\n\na"), [0, 1, 2, 3]);
    }

    #[test]
    fn lines_are_found_across_the_pieces_that_are_read() {
        let text: Vec<u8> = (0..400_000u32).flat_map(|it| format!("{it}\n").into_bytes()).collect();
        assert!(text.len() > 2 << 20, "several pieces");
        let offsets = offsets(&text);
        assert_eq!(offsets.len(), 400_001);
        let line = |at: usize| &text[offsets[at] as usize..offsets[at + 1] as usize];
        assert_eq!(line(399_999), b"399999\n");
        assert_eq!(line(123_456), b"123456\n");
    }
}
