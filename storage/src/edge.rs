//! Performs the effects of the logic, without threads and sockets: what needs the disk becomes
//! [`Work`] for any thread, what was read waits in [`Kept`] until it is answered.
//!
//! The service and the simulator drive the same types; the service on a pool of threads, the
//! simulator one after the other. Deliberately not here: storing, which is [`crate::disk::Disk`]'s.

use std::collections::BTreeMap;
use std::sync::Arc;

use node::logic::network::{NetworkEffect, Peer};
use proto::digest::verify;
use proto::ids::{BlockId, ClusterId, RingVersion};
use proto::limits;
use proto::manifest::Manifest;
use proto::messages::file::{BlockContent, BlockPut, FileResponse};
use proto::record::{self, Envelope};
use proto::status::BlockKind;

use crate::disk::{Block, Held, ReadError, Reader};
use crate::disk_thread::{DiskDone, Job};
use crate::logic::{Effect, Event, FileAnswer, Form, Found, Holds, Space, Ticket};
use crate::registers;

/// Says how many bytes the file system has in all and free.
pub type Room = Arc<dyn Fn() -> (u64, u64) + Send + Sync>;

/// What takes time: reading, hashing, copying.
#[derive(Debug)]
pub enum Work {
    /// [`Effect::Read`].
    Read {
        /// Its ticket.
        ticket: Ticket,
        /// The block.
        block: BlockId,
        /// In which form it is kept.
        form: Form,
    },
    /// [`Effect::Keep`].
    Keep {
        /// Its ticket.
        ticket: Ticket,
        /// The block that it should be.
        block: BlockId,
        /// Of which kind.
        kind: BlockKind,
        /// Its bytes.
        content: Vec<u8>,
    },
    /// [`Effect::List`].
    List {
        /// Its ticket.
        ticket: Ticket,
        /// Those behind this one.
        after: Option<BlockId>,
        /// How many at most.
        limit: usize,
    },
    /// [`Effect::Verify`].
    Verify {
        /// Its ticket.
        ticket: Ticket,
        /// The block.
        block: BlockId,
    },
    /// [`Effect::Measure`].
    Measure {
        /// Its ticket.
        ticket: Ticket,
    },
    /// [`Effect::AnswerFile`] with what was kept for it.
    Compose {
        /// What is answered.
        answer: FileAnswer,
        /// The file's blocks.
        pieces: Vec<Vec<u8>>,
    },
}

/// Work that was performed.
#[derive(Debug)]
pub enum Done {
    /// A block was read or kept, with its bytes or the record made of them.
    Read {
        /// Its ticket.
        ticket: Ticket,
        /// What was found.
        result: Result<(Found, Vec<u8>), ReadError>,
    },
    /// Which blocks are held.
    Listed {
        /// Its ticket.
        ticket: Ticket,
        /// What is held.
        held: Vec<Held>,
        /// Number of all.
        total: u64,
    },
    /// A digest was checked.
    Verified {
        /// Its ticket.
        ticket: Ticket,
        /// Whether it is right.
        result: Result<(), ReadError>,
    },
    /// Room and counters.
    Measured {
        /// Its ticket.
        ticket: Ticket,
        /// What was measured.
        space: Space,
    },
    /// A `file_response` record.
    Composed {
        /// Whom to.
        to: Peer,
        /// The record.
        record: Vec<u8>,
    },
}

/// Performs [`Work`]. Clones may do so at the same time.
#[derive(Clone)]
pub struct Performer {
    reader: Reader,
    room: Room,
}

impl std::fmt::Debug for Performer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Performer").field("reader", &self.reader).finish_non_exhaustive()
    }
}

impl Performer {
    /// Reads with `reader` and asks `room` for the file system's bytes.
    #[must_use]
    pub fn new(reader: Reader, room: Room) -> Performer {
        Performer { reader, room }
    }

    /// Does one piece of work; blocks for as long as the disk takes.
    #[must_use]
    pub fn perform(&self, work: Work) -> Done {
        match work {
            Work::Read { ticket, block, form } => {
                let result = match form {
                    Form::Record { offset: 0, length: 0 } => self.read_record(block),
                    Form::Handed { ring_version, stamp, replica_count } => {
                        self.read_to_hand(block, ring_version, stamp, replica_count)
                    }
                    form => self.reader.read(block).and_then(|read| prepare(block, read, form)),
                };
                Done::Read { ticket, result }
            }
            Work::Keep { ticket, block, kind, content } => {
                let result = match verify(kind, block, &content) {
                    Ok(_) => prepare(block, Block { kind, content }, Form::Kept),
                    Err(_) => Err(ReadError::Damaged),
                };
                Done::Read { ticket, result }
            }
            Work::List { ticket, after, limit } => {
                let total = self.reader.counters().block_count;
                Done::Listed { ticket, held: self.reader.list(after, limit), total }
            }
            Work::Verify { ticket, block } => {
                Done::Verified { ticket, result: self.reader.read(block).map(|_| ()) }
            }
            Work::Measure { ticket } => {
                let (total_bytes, free_bytes) = (self.room)();
                let counters = self.reader.counters();
                Done::Measured { ticket, space: Space { total_bytes, free_bytes, counters } }
            }
            Work::Compose { answer, pieces } => {
                Done::Composed { to: answer.to, record: compose(&answer, &pieces) }
            }
        }
    }
}

impl Performer {
    /// The record that answers with a whole block.
    fn read_record(&self, block: BlockId) -> Result<(Found, Vec<u8>), ReadError> {
        let mut block_length = 0;
        let (_, record) = self.reader.read_behind(block, |kind, length| {
            block_length = length as u64;
            record::encode_head(&head_of(block, kind, block_length, 0), &[length])
        })?;
        let found = Found { holds: Holds::Content, block_length, answer_length: block_length };
        Ok((found, record))
    }

    /// The record that hands a whole block over to another storage node.
    fn read_to_hand(
        &self,
        block: BlockId,
        ring_version: RingVersion,
        stamp: u64,
        replica_count: u8,
    ) -> Result<(Found, Vec<u8>), ReadError> {
        let mut block_length = 0;
        let (_, record) = self.reader.read_behind(block, |kind, length| {
            block_length = length as u64;
            let put = BlockPut {
                block_uuid: block.to_wire(),
                kind: kind.to_wire(),
                ring_version: ring_version.0,
                replica_count,
                stamp,
                ..BlockPut::default()
            };
            record::encode_head(&put, &[length])
        })?;
        let found = Found { holds: Holds::Content, block_length, answer_length: block_length };
        Ok((found, record))
    }
}

/// What the logic hears of the disk thread's work.
#[must_use]
pub fn disk_event(done: DiskDone) -> Event<'static> {
    match done {
        DiskDone::Put(done) => Event::PutDone(done),
        DiskDone::Touched { ticket, present } => Event::Touched { ticket, present },
        DiskDone::Deleted { ticket, result } => Event::Deleted { ticket, result },
    }
}

fn head_of(block: BlockId, kind: BlockKind, block_length: u64, offset: u64) -> BlockContent {
    BlockContent {
        block_uuid: block.to_wire(),
        kind: kind.to_wire(),
        block_length,
        offset,
        ..BlockContent::default()
    }
}

fn prepare(block: BlockId, read: Block, form: Form) -> Result<(Found, Vec<u8>), ReadError> {
    let block_length = read.content.len() as u64;
    let Form::Record { offset, length } = form else {
        let holds = match read.kind {
            BlockKind::Content => Holds::Content,
            BlockKind::Manifest => read_manifest(&read.content),
        };
        let found = Found { holds, block_length, answer_length: block_length };
        return Ok((found, read.content));
    };
    let left = block_length.checked_sub(offset).ok_or(ReadError::Range)?;
    let answer_length = if length == 0 { left } else { length.min(left) };
    // Both are at most the length of the content, which is in memory.
    let piece = &read.content[offset as usize..(offset + answer_length) as usize];
    let head = head_of(block, read.kind, block_length, offset);
    let found = Found { holds: Holds::Content, block_length, answer_length };
    Ok((found, record::encode(&head, &[piece])))
}

fn read_manifest(content: &[u8]) -> Holds {
    match Manifest::decode(content) {
        Ok(manifest) if manifest.length() <= limits::WHOLE_FILE_BYTES as u64 => {
            Holds::Manifest(manifest)
        }
        Ok(manifest) => Holds::LargeFile { length: manifest.length() },
        Err(_) => Holds::NoManifest,
    }
}

fn compose(answer: &FileAnswer, pieces: &[Vec<u8>]) -> Vec<u8> {
    let response = FileResponse {
        file_uuid: answer.file.to_wire(),
        envelope: Envelope { request_id: answer.request_id.0, ..Envelope::default() },
        ring_version: answer.ring_version.0,
        ..FileResponse::default()
    };
    let whole;
    let content = match pieces {
        [one] => one,
        several => {
            whole = several.concat();
            &whole
        }
    };
    if answer.in_given_form {
        record::encode_given(&response, &[content])
    } else {
        record::encode(&response, &[content])
    }
}

/// What an effect needs to be performed.
#[derive(Debug)]
pub enum Begun {
    /// The network does it.
    Network(NetworkEffect),
    /// The disk thread does it.
    Disk(Job),
    /// [`crate::registers::store::Store::store`] does it.
    Registers(registers::Job),
    /// [`Performer::perform`] does it.
    Work(Work),
    /// [`node::data_folder::DataFolder`] and the network do it.
    Join(ClusterId),
    /// It is done.
    Nothing,
}

/// What performed work leads to.
#[derive(Debug)]
pub enum Finished {
    /// The logic hears of it.
    Event(Event<'static>),
    /// The network sends it.
    Network(NetworkEffect),
}

/// Bytes and records that were read and are not answered yet. The logic's admission bounds them.
#[derive(Debug, Default)]
pub struct Kept {
    contents: BTreeMap<Ticket, Vec<u8>>,
}

impl Kept {
    /// Begins an effect.
    ///
    /// # Panics
    /// Where the logic answers with what is not kept: a bug of ours.
    pub fn begin(&mut self, effect: Effect) -> Begun {
        match effect {
            Effect::Network(effect) => Begun::Network(effect),
            Effect::Put(put) => Begun::Disk(Job::Put(put)),
            Effect::Touch { ticket, items } => Begun::Disk(Job::Touch { ticket, items }),
            Effect::Delete { ticket, blocks } => Begun::Disk(Job::Delete { ticket, blocks }),
            Effect::Read { ticket, block, form } => Begun::Work(Work::Read { ticket, block, form }),
            Effect::Keep { ticket, block, kind, content } => {
                Begun::Work(Work::Keep { ticket, block, kind, content })
            }
            Effect::List { ticket, after, limit } => {
                Begun::Work(Work::List { ticket, after, limit })
            }
            Effect::Verify { ticket, block } => Begun::Work(Work::Verify { ticket, block }),
            Effect::Registers(job) => Begun::Registers(job),
            Effect::Measure { ticket } => Begun::Work(Work::Measure { ticket }),
            Effect::Answer { to, request_id, ticket } => {
                let mut record = self.take(ticket);
                record::set_request_id(&mut record, request_id);
                Begun::Network(NetworkEffect::Send { to, record })
            }
            Effect::AnswerFile(answer) => {
                let pieces = answer.pieces.iter().map(|&ticket| self.take(ticket)).collect();
                Begun::Work(Work::Compose { answer, pieces })
            }
            Effect::Join { cluster } => Begun::Join(cluster),
            Effect::Discard { ticket } => {
                self.take(ticket);
                Begun::Nothing
            }
        }
    }

    /// Ends what a [`Performer`] did.
    pub fn finish(&mut self, done: Done) -> Finished {
        Finished::Event(match done {
            Done::Read { ticket, result } => {
                let result = result.map(|(found, content)| {
                    self.contents.insert(ticket, content);
                    found
                });
                Event::ReadDone { ticket, result }
            }
            Done::Listed { ticket, held, total } => Event::Listed { ticket, held, total },
            Done::Verified { ticket, result } => Event::Verified { ticket, result },
            Done::Measured { ticket, space } => Event::Measured { ticket, space },
            Done::Composed { to, record } => {
                return Finished::Network(NetworkEffect::Send { to, record });
            }
        })
    }

    /// How many there are; 0 on an idle node.
    #[must_use]
    pub fn count(&self) -> usize {
        self.contents.len()
    }

    fn take(&mut self, ticket: Ticket) -> Vec<u8> {
        self.contents.remove(&ticket).expect("the logic answers only with what was read")
    }
}
