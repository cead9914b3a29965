//! Ranges of an image's bytes: metadata from memory, content from the blocks of its files.
//!
//! What lies in one read is fetched at the same time. Where one file's block cannot be had, the read
//! fails as a whole: the kernel then asks for each page alone, so that only that file's readers get
//! the error.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::files::Files;
use crate::logic::image::{Device, Image, Piece};
use crate::refusal::Refusal;

/// The most that one read gives: what the kernel asks for at most.
const READ_BYTES: u64 = 1 << 20;

/// Reads what lies in a range of a device, and hands it on. Behind the end is nothing; what no file
/// holds before it is zero.
pub(super) fn read(
    files: &Arc<Files>,
    image: &Image,
    device: Device,
    (offset, size): (u64, u64),
    then: impl FnOnce(Result<Bytes, Refusal>) + Send + 'static,
) {
    let length = match device {
        Device::Primary => image.primary_bytes(),
        Device::Big => image.big_bytes(),
    };
    let end = offset.saturating_add(size.min(READ_BYTES)).min(length);
    let range = offset.min(end)..end;
    let pieces: Vec<Piece> = image.pieces(device, range.clone()).collect();
    if let [piece] = &*pieces
        && piece.at == range.start
        && piece.within.end - piece.within.start == range.end - range.start
    {
        return files.read(piece.file, piece.length, piece.within.clone(), then);
    }
    let mut buffer = vec![0; within(&range, range.end)];
    if device == Device::Primary {
        let metadata = usize::try_from(range.start).ok().and_then(|at| image.metadata().get(at..));
        let metadata = metadata.unwrap_or_default();
        for (to, from) in buffer.iter_mut().zip(metadata) {
            *to = *from;
        }
    }
    if pieces.is_empty() {
        return then(Ok(buffer.into()));
    }
    let parts = Parts { buffer, left: pieces.len(), refused: None, then: Some(then) };
    let parts = Arc::new(Mutex::new(parts));
    for piece in pieces {
        let (parts, at) = (Arc::clone(&parts), within(&range, piece.at));
        files.read(piece.file, piece.length, piece.within, move |bytes| give(&parts, at, bytes));
    }
}

/// How far into a range of at most [`READ_BYTES`] a place lies.
fn within(range: &Range<u64>, at: u64) -> usize {
    usize::try_from(at.saturating_sub(range.start)).unwrap_or(0)
}

/// A read that becomes whole. Dropped before, whoever waits for it is refused.
struct Parts<F> {
    buffer: Vec<u8>,
    left: usize,
    refused: Option<Refusal>,
    then: Option<F>,
}

fn give<F: FnOnce(Result<Bytes, Refusal>)>(
    parts: &Mutex<Parts<F>>,
    at: usize,
    bytes: Result<Bytes, Refusal>,
) {
    // Each change under this lock is whole before anything that could panic.
    let mut state = parts.lock().unwrap_or_else(PoisonError::into_inner);
    match bytes {
        Ok(bytes) => match state.buffer.get_mut(at..at.saturating_add(bytes.len())) {
            Some(place) => place.copy_from_slice(&bytes),
            None => state.refused = Some(Refusal::Failed),
        },
        Err(refusal) => state.refused = Some(refusal),
    }
    state.left = state.left.saturating_sub(1);
    if state.left > 0 {
        return;
    }
    let (buffer, refused) = (std::mem::take(&mut state.buffer), state.refused);
    let then = state.then.take();
    drop(state);
    if let Some(then) = then {
        then(refused.map_or(Ok(buffer.into()), Err));
    }
}
