//! The lines of `--each-line`: the line of a task, by ranged reads.
//!
//! A block brings many lines and their offsets, so the last block of each file is kept, and slots
//! that need the same one wait for one fetch. Deliberately not here: where a line is put.

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use client::{Begun, Client, ClientError};
use proto::description::Lines;
use proto::ids::{FileId, TaskIndex};
use proto::limits::BLOCK_BYTES;
use proto::status::Cause;

use super::fetch::missing;
use super::{LOOK, Missing};
use crate::runtime::Cancel;

/// Longest line: Linux takes arguments up to 131,072 bytes, and the line is a part of one.
const LINE_BYTES: u64 = 131_000;

/// Reads the lines of one job.
#[derive(Debug)]
pub(super) struct LineReader {
    client: Arc<Client>,
    lines: Lines,
    cache: Mutex<Cache>,
    fetched: Condvar,
}

/// Which of the two files of a job's lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    Offsets,
    Text,
}

#[derive(Debug, Default)]
struct Cache {
    offsets: Option<Block>,
    text: Option<Block>,
    is_fetching: bool,
}

#[derive(Clone, Debug)]
struct Block {
    number: u64,
    content: Arc<Vec<u8>>,
}

impl Cache {
    fn of(&mut self, which: Which) -> &mut Option<Block> {
        match which {
            Which::Offsets => &mut self.offsets,
            Which::Text => &mut self.text,
        }
    }
}

impl LineReader {
    pub(super) fn new(client: Arc<Client>, lines: Lines) -> LineReader {
        LineReader { client, lines, cache: Mutex::default(), fetched: Condvar::new() }
    }

    /// The line of a task, without its line feed.
    pub(super) fn line(&self, task: TaskIndex, cancel: &Cancel) -> Result<Vec<u8>, Missing> {
        let bytes = self.read(Which::Offsets, place_of_offsets(task)?, cancel)?;
        let range = range_of(task, &bytes, self.lines.text_length)?;
        let length = range.end - range.start;
        if length > LINE_BYTES {
            return Err(bad(task, &format!("has {length} bytes, more than {LINE_BYTES}")));
        }
        let mut line = self.read(Which::Text, range.clone(), cancel)?;
        if line.len() as u64 != length {
            return Err(bad(task, "lies behind the end of the lines"));
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        if line.contains(&0) {
            return Err(bad(task, "contains a NUL byte, which no argument can"));
        }
        Ok(line)
    }

    /// Bytes of a file; fewer where it ends.
    fn read(&self, which: Which, range: Range<u64>, cancel: &Cancel) -> Result<Vec<u8>, Missing> {
        let mut bytes = Vec::new();
        for (number, inside) in blocks_of(range) {
            let block = self.block(which, number, cancel)?;
            let end = inside.end.min(block.len());
            bytes.extend_from_slice(block.get(inside.start..end).unwrap_or_default());
        }
        Ok(bytes)
    }

    fn block(&self, which: Which, number: u64, cancel: &Cancel) -> Result<Arc<Vec<u8>>, Missing> {
        let mut cache = self.cache();
        loop {
            if let Some(block) = cache.of(which).as_ref().filter(|it| it.number == number) {
                return Ok(block.content.clone());
            }
            if cancel.is_cancelled() {
                return Err(Missing::Cancelled);
            }
            if !cache.is_fetching {
                break;
            }
            let waited = self.fetched.wait_timeout(cache, LOOK);
            cache = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        cache.is_fetching = true;
        drop(cache);
        let fetched = self.fetch(which, number, cancel);
        let mut cache = self.cache();
        cache.is_fetching = false;
        if let Ok(content) = &fetched {
            *cache.of(which) = Some(Block { number, content: content.clone() });
        }
        drop(cache);
        self.fetched.notify_all();
        fetched
    }

    fn fetch(&self, which: Which, number: u64, cancel: &Cancel) -> Result<Arc<Vec<u8>>, Missing> {
        let file = match which {
            Which::Offsets => self.lines.offsets,
            Which::Text => self.lines.text,
        };
        let begin = number.saturating_mul(BLOCK_BYTES as u64);
        let range = begin..begin.saturating_add(BLOCK_BYTES as u64);
        let begun = self.client.begin_get(file, range, BLOCK_BYTES as u64);
        match wait(begun, cancel) {
            None => Err(Missing::Cancelled),
            Some(Ok(content)) => Ok(Arc::new(content)),
            Some(Err(error)) => Err(missing(&whose(file), &error)),
        }
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        // Nothing is half done where a holder panics, so the cache is good.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn whose(file: FileId) -> String {
    format!("the file {file} of --each-line")
}

fn bad(task: TaskIndex, what: &str) -> Missing {
    Missing::Job(Cause::InputFailed, format!("line {task} of --each-line {what}"))
}

/// Where in the file of offsets a task's line and the next one stand.
fn place_of_offsets(task: TaskIndex) -> Result<Range<u64>, Missing> {
    let begin = task.0.checked_mul(8);
    let range = begin.and_then(|begin| Some(begin..begin.checked_add(16)?));
    range.ok_or_else(|| bad(task, "does not exist"))
}

/// Where in the text a task's line stands, with its line feed.
fn range_of(task: TaskIndex, offsets: &[u8], text_length: u64) -> Result<Range<u64>, Missing> {
    let Some((begin, rest)) = offsets.split_first_chunk::<8>() else {
        return Err(bad(task, "does not exist"));
    };
    let Some((end, _)) = rest.split_first_chunk::<8>() else {
        return Err(bad(task, "does not exist"));
    };
    let (begin, end) = (u64::from_le_bytes(*begin), u64::from_le_bytes(*end));
    if begin > end || end > text_length {
        return Err(bad(task, "has offsets that make no sense"));
    }
    Ok(begin..end)
}

/// The blocks that a range touches, each with the part of it.
fn blocks_of(range: Range<u64>) -> impl Iterator<Item = (u64, Range<usize>)> {
    let size = BLOCK_BYTES as u64;
    let numbers =
        if range.is_empty() { 0..0 } else { range.start / size..range.end.div_ceil(size) };
    numbers.map(move |number| {
        let begin = number * size;
        let start = range.start.max(begin) - begin;
        let end = range.end.min(begin.saturating_add(size)) - begin;
        // Both are at most the size of a block.
        (number, start as usize..end as usize)
    })
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits on the slot's thread for what was begun; `None` where the task was cancelled before.
fn wait<T>(mut begun: Begun<T>, cancel: &Cancel) -> Option<Result<T, ClientError>> {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        match Pin::new(&mut begun).poll(&mut context) {
            Poll::Ready(Ok(result)) => return Some(result),
            Poll::Ready(Err(closed)) => return Some(Err(closed.into())),
            Poll::Pending if cancel.is_cancelled() => return None,
            // Cancelling unparks this thread too.
            Poll::Pending => std::thread::park(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_read_block_by_block() {
        let size = BLOCK_BYTES as u64;
        let parts = |range| blocks_of(range).collect::<Vec<_>>();
        assert!(parts(7..7).is_empty());
        assert_eq!(parts(0..16), [(0, 0..16)]);
        assert_eq!(parts(size - 8..size), [(0, BLOCK_BYTES - 8..BLOCK_BYTES)]);
        assert_eq!(parts(size..size + 1), [(1, 0..1)]);
        assert_eq!(
            parts(size - 8..2 * size + 8),
            [(0, BLOCK_BYTES - 8..BLOCK_BYTES), (1, 0..BLOCK_BYTES), (2, 0..8)]
        );
    }

    #[test]
    fn offsets_are_believed_only_where_they_make_sense() {
        let range = |offsets: &[u64], text_length| {
            let bytes: Vec<u8> = offsets.iter().flat_map(|it| it.to_le_bytes()).collect();
            range_of(TaskIndex(3), &bytes, text_length)
        };
        assert_eq!(range(&[4, 9], 9), Ok(4..9));
        assert_eq!(range(&[4, 4], 9), Ok(4..4));
        for (offsets, text_length) in
            [(&[9, 4][..], 9), (&[4, 10], 9), (&[4], 9), (&[], 9), (&[u64::MAX, u64::MAX], 9)]
        {
            let Err(Missing::Job(Cause::InputFailed, text)) = range(offsets, text_length) else {
                panic!("{offsets:?} are believed");
            };
            assert!(text.starts_with("line 3 of --each-line"), "{text}");
        }
        assert!(place_of_offsets(TaskIndex(u64::MAX)).is_err());
        assert_eq!(place_of_offsets(TaskIndex(2)), Ok(16..32));
    }
}
