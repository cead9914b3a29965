//! Whole files for `file_request`: finds the file's block or manifest, gathers the blocks that the
//! manifest names, here or from other storage nodes, and answers with all of them.
//!
//! Only the names and lengths of blocks pass through here; their bytes wait at the edge under
//! their tickets. Files above 32 MiB are refused: their readers fetch blocks.

use node::logic::network::Link;
use node::logic::refusal::Refusal;
use proto::ids::{BlockId, FileId, RequestId};
use proto::limits;
use proto::manifest::Manifest;
use proto::messages::file::{BlockContent, FileRequest};
use proto::record::{Message, Record};
use proto::status::{BlockKind, ErrorCode};
use proto::time::Instant;

use super::fetches::{FetchError, FetchFailed, Sources};
use super::{Asker, Effect, FileAnswer, Form, Found, Holds, Pending, Storage, Ticket};
use crate::disk::ReadError;

/// Blocks of one file that are gathered at the same time: enough to use several nodes, few enough
/// that other requests are not held up (eyeballed).
const PIECES_AT_ONCE: usize = 4;

/// A block of the file that is asked for.
#[derive(Debug)]
struct Piece {
    ticket: Ticket,
    block: BlockId,
    /// Other nodes that may be asked; `None` before this node's own disk was.
    rest: Option<Sources>,
    /// All said that they do not hold it, and are asked once more: it may have moved from one that
    /// had not been asked to one that had.
    has_looked_again: bool,
    /// Its bytes, once it is there.
    length: Option<u64>,
}

/// One `file_request` that is being answered.
#[derive(Debug)]
pub(super) struct Assembly {
    asker: Asker,
    file: FileId,
    /// What the manifest says; `None` while it is being fetched.
    manifest: Option<Manifest>,
    pieces: Vec<Piece>,
}

impl Assembly {
    fn piece(&mut self, ticket: Ticket) -> Option<&mut Piece> {
        self.pieces.iter_mut().find(|piece| piece.ticket == ticket)
    }
}

impl Storage {
    pub(super) fn file_request(
        &mut self,
        asker: Asker,
        record: &Record<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let request: FileRequest = match record.read() {
            Ok(request) => request,
            Err(error) => return self.malformed(asker, &error, effects),
        };
        if !asker.wants_answer() {
            return;
        }
        if !self.files.admit(asker.peer, limits::WHOLE_FILE_BYTES) {
            return self.busy(asker, "as many files as this node gathers at once", effects);
        }
        let file = FileId::from(request.file_uuid);
        let id = self.next_assembly;
        self.next_assembly += 1;
        let assembly = Assembly { asker, file, manifest: None, pieces: Vec::new() };
        self.assemblies.insert(id, assembly);
        self.begin_piece(id, BlockId(file.0), effects);
    }

    fn begin_piece(&mut self, id: u64, block: BlockId, effects: &mut Vec<Effect>) {
        let ticket = self.works.begin(Pending::Piece { assembly: id });
        if let Some(assembly) = self.assemblies.get_mut(&id) {
            let piece = Piece { ticket, block, rest: None, has_looked_again: false, length: None };
            assembly.pieces.push(piece);
            effects.push(Effect::Read { ticket, block, form: Form::Kept });
        }
    }

    /// A block of a file was read here, or came from elsewhere and was verified, or neither.
    pub(super) fn piece_done(
        &mut self,
        now: Instant,
        ticket: Ticket,
        id: u64,
        result: Result<Found, ReadError>,
        effects: &mut Vec<Effect>,
    ) {
        let version = self.membership.version();
        let Some(assembly) = self.assemblies.get_mut(&id) else {
            self.works.end(ticket);
            if result.is_ok() {
                effects.push(Effect::Discard { ticket });
            }
            return;
        };
        let Some(piece) = assembly.piece(ticket) else { return };
        let found = match result {
            Ok(found) => found,
            Err(error) => {
                let block = piece.block;
                let is_own_read = piece.rest.is_none();
                let sources = piece.rest.take().unwrap_or_else(|| {
                    let (nodes, is_complete) = self.membership.others_with(block);
                    Sources { nodes, has_silent: error != ReadError::NotFound || !is_complete }
                });
                piece.rest = Some(Sources::default());
                if is_own_read && error == ReadError::Damaged {
                    self.damaged(now, block, None);
                }
                let fetched = self.fetches.begin(now, ticket, block, sources, version, effects);
                return self.fetched(now, fetched, effects);
            }
        };
        piece.length = Some(found.block_length);
        self.works.end(ticket);
        if assembly.manifest.is_some() {
            return self.continue_assembly(id, effects);
        }
        match found.holds {
            Holds::Content => self.continue_assembly(id, effects),
            Holds::Manifest(manifest) => {
                assembly.manifest = Some(manifest);
                assembly.pieces.clear();
                effects.push(Effect::Discard { ticket });
                self.continue_assembly(id, effects);
            }
            Holds::LargeFile { length } => {
                effects.push(Effect::Discard { ticket });
                assembly.pieces.clear();
                let text = format!(
                    "the file has {length} bytes; above {} get its manifest and its blocks with \
                     block_get",
                    limits::WHOLE_FILE_BYTES
                );
                self.fail_assembly(id, ErrorCode::TooLarge, text, effects);
            }
            Holds::NoManifest => {
                let text = "what is stored under this UUID is not a manifest of this version";
                self.fail_assembly(id, ErrorCode::Invalid, text, effects);
            }
        }
    }

    /// Begins what may begin, or answers where everything is there.
    fn continue_assembly(&mut self, id: u64, effects: &mut Vec<Effect>) {
        let Some(assembly) = self.assemblies.get(&id) else { return };
        let mut open = assembly.pieces.iter().filter(|piece| piece.length.is_none()).count();
        let mut next = assembly.pieces.len();
        let length = assembly.pieces.iter().filter_map(|piece| piece.length).sum();
        let manifest = assembly.manifest.clone();
        let count = manifest.as_ref().map_or(1, |manifest| manifest.blocks().len());
        while open < PIECES_AT_ONCE
            && let Some((block, _)) = manifest.as_ref().and_then(|manifest| manifest.block(next))
        {
            self.begin_piece(id, block, effects);
            next += 1;
            open += 1;
        }
        if open > 0 || next < count {
            return;
        }
        if manifest.is_some_and(|manifest| manifest.length() != length) {
            let text = "the manifest says another length than its blocks have";
            return self.fail_assembly(id, ErrorCode::Invalid, text, effects);
        }
        let Some(assembly) = self.assemblies.remove(&id) else { return };
        self.files.release(assembly.asker.peer, limits::WHOLE_FILE_BYTES);
        self.get_count += 1;
        self.get_bytes += length;
        effects.push(Effect::AnswerFile(FileAnswer {
            to: assembly.asker.peer,
            request_id: assembly.asker.request_id,
            in_given_form: assembly.asker.in_given_form,
            file: assembly.file,
            ring_version: self.membership.version(),
            pieces: assembly.pieces.into_iter().map(|piece| piece.ticket).collect(),
        }));
    }

    fn fail_assembly(
        &mut self,
        id: u64,
        code: ErrorCode,
        text: impl Into<String>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(assembly) = self.assemblies.remove(&id) else { return };
        self.files.release(assembly.asker.peer, limits::WHOLE_FILE_BYTES);
        for piece in assembly.pieces {
            if piece.length.is_some() {
                effects.push(Effect::Discard { ticket: piece.ticket });
            } else if self.fetches.cancel(piece.ticket) {
                self.works.end(piece.ticket);
            }
            // What is being read is discarded when it comes.
        }
        self.refuse(assembly.asker, Refusal::new(code, FileRequest::TYPE, text), effects);
    }

    /// What fetches ended with.
    pub(super) fn fetched(
        &mut self,
        now: Instant,
        fetched: impl IntoIterator<Item = FetchFailed>,
        effects: &mut Vec<Effect>,
    ) {
        for FetchFailed { ticket, error } in fetched {
            let id = match self.works.get(ticket) {
                Some(&Pending::Piece { assembly }) => assembly,
                Some(&Pending::Mend { block }) => {
                    self.works.end(ticket);
                    self.mend_failed(now, block, error);
                    continue;
                }
                _ => continue,
            };
            if error == FetchError::NotFound && self.look_again(ticket, id, effects) {
                continue;
            }
            self.works.end(ticket);
            let (code, text) = match error {
                FetchError::NotFound => (ErrorCode::NotFound, "no storage node has the file"),
                FetchError::Unavailable => {
                    (ErrorCode::Unavailable, "not every node that may hold the file answers")
                }
            };
            self.fail_assembly(id, code, text, effects);
        }
    }

    /// Asks this node and all others once more; false where that was done.
    fn look_again(&mut self, ticket: Ticket, id: u64, effects: &mut Vec<Effect>) -> bool {
        let assembly = self.assemblies.get_mut(&id);
        let piece = assembly.and_then(|assembly| assembly.piece(ticket));
        let Some(piece) = piece.filter(|piece| !piece.has_looked_again) else { return false };
        piece.has_looked_again = true;
        piece.rest = None;
        effects.push(Effect::Read { ticket, block: piece.block, form: Form::Kept });
        true
    }

    /// A block came from another storage node: its bytes go to the edge, which verifies them.
    pub(super) fn content_came(
        &mut self,
        now: Instant,
        link: Link,
        record: &Record<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let request_id = record.request_id();
        let Some((ticket, block)) = self.fetches.wanted(link, request_id) else {
            return;
        };
        let opened = record.open::<BlockContent, 1>();
        let content = opened.ok().and_then(|(head, [content])| {
            let is_whole = head.offset == 0 && head.block_length == content.len() as u64;
            let kind = BlockKind::from_wire(head.kind)?;
            (is_whole && BlockId::from(head.block_uuid) == block).then_some((kind, content))
        });
        let Some((kind, content)) = content else {
            return self.refused_elsewhere(now, request_id, ErrorCode::Unavailable, effects);
        };
        let rest = self.fetches.arrived(request_id);
        if let Some(&Pending::Mend { block }) = self.works.get(ticket) {
            return self.mend_came(ticket, block, rest, (kind, content), effects);
        }
        if let Some(&Pending::Piece { assembly }) = self.works.get(ticket)
            && let Some(assembly) = self.assemblies.get_mut(&assembly)
            && let Some(piece) = assembly.piece(ticket)
        {
            piece.rest = Some(rest);
            effects.push(Effect::Keep { ticket, block, kind, content: content.to_vec() });
        }
    }

    /// Another storage node cannot give a block.
    pub(super) fn refused_elsewhere(
        &mut self,
        now: Instant,
        request_id: RequestId,
        code: ErrorCode,
        effects: &mut Vec<Effect>,
    ) {
        let version = self.membership.version();
        let is_absent = code == ErrorCode::NotFound;
        let fetched = self.fetches.refused(now, request_id, is_absent, version, effects);
        self.fetched(now, fetched, effects);
    }
}
