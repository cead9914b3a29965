//! A client that puts files through the shipped client logic and reads them again and again.
//!
//! It knows from its seed what each file holds. What was acknowledged the world remembers for its
//! next life, which never puts such a file again: that would mend what was lost. Once it is to come
//! to an end it reads every file as a whole.

use std::collections::BTreeMap;
use std::ops::Range;

use ::client::logic::client::{Client, Done};
use ::client::logic::files::{BlockSource, FilePlan, FilePlanner};
use ::client::logic::transfer::{GetId, Output, PutId, PutTerms, TransferError};
use fastrand::Rng;
use node::logic::network::{NetworkEffect, NetworkLimits};
use proto::ids::{FileId, JobId, NodeId, TaskIndex};
use proto::time::{Duration, Instant};

use super::jobs::{LINKS, edge_of, hear_client};
use super::{Edge, Event, Note, Queue, Request, Start, Tier, node_id};
use crate::checkers::Violation;
use crate::pipeline::masters;
use crate::random::interval;
use crate::report::Happening;

/// How long a transfer tries before the client hears that it failed.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long a client waits after a failure before it tries again.
const REST: Duration = Duration::from_millis(500);

/// How often it reads something, on average.
const READ: Duration = Duration::from_millis(1_500);

/// How long a file may stay unreadable when all is mended.
const LAST_PATIENCE: Duration = Duration::from_secs(60);

/// Longest file that is read as a whole while things go wrong.
const WHOLE: u64 = 64 << 10;

/// A file that a client wants kept.
#[derive(Clone, Debug)]
pub(crate) struct FileWish {
    /// When it is put after the client's start.
    pub(crate) after: Duration,
    /// What it holds.
    pub(crate) seed: u64,
    /// Its bytes.
    pub(crate) length: usize,
}

impl FileWish {
    fn content(&self) -> Vec<u8> {
        let mut content = vec![0; self.length];
        Rng::with_seed(self.seed).fill(&mut content);
        content
    }

    /// What it is called and what it holds.
    pub(super) fn named(&self) -> (FileId, Vec<u8>) {
        let content = self.content();
        (FilePlanner::plan(&content).expect("the files of a run are short").file, content)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// To be put from then on.
    Due(Instant),
    Putting(PutId),
    Stored,
    /// Read as a whole after everything was mended.
    Settled,
}

/// A file, what it holds and how far it is.
struct Kept {
    content: Vec<u8>,
    plan: FilePlan,
    stage: Stage,
}

/// A read that is under way.
struct Reading {
    file: usize,
    wanted: Range<u64>,
    read: u64,
}

/// A running client.
pub(crate) struct FileClient {
    edge: Edge,
    logic: Client,
    rng: Rng,
    node: NodeId,
    place: usize,
    limits: NetworkLimits,
    /// Nodes that this process has been.
    nodes: u64,
    files: Vec<Kept>,
    readings: BTreeMap<GetId, Reading>,
    read_at: Instant,
    /// Since when it is to come to an end.
    finishing: Option<Instant>,
    now: Instant,
}

impl FileClient {
    pub(crate) fn start(
        place: usize,
        wishes: &[FileWish],
        start: &Start<'_>,
        requests: &mut Vec<Request>,
    ) -> FileClient {
        let mut rng = Rng::with_seed(start.seed);
        let node = node_id(b'f', place, start.life << 16);
        let mut logic = Client::new(LINKS, masters(start.member_count), rng.fork());
        logic.transfer_mut().set_give_up_after(PATIENCE);
        let kept = |wish: &FileWish| {
            let content = wish.content();
            let plan = FilePlanner::plan(&content).expect("the files of a run are short");
            let is_stored = start.stored_files.contains(&plan.file);
            let stage = if is_stored { Stage::Stored } else { Stage::Due(start.now + wish.after) };
            Kept { content, plan, stage }
        };
        let mut process = FileClient {
            edge: edge_of(node, 1, start.limits),
            logic,
            rng,
            node,
            place,
            limits: start.limits,
            nodes: 1,
            files: wishes.iter().map(kept).collect(),
            readings: BTreeMap::new(),
            read_at: start.now + READ,
            finishing: None,
            now: start.now,
        };
        process.handle(start.now, Event::Tick, requests);
        process
    }

    /// Begins whatever is to be begun now.
    fn begin(&mut self, now: Instant, effects: &mut Vec<NetworkEffect>) {
        for kept in &mut self.files {
            let Stage::Due(due) = kept.stage else { continue };
            if due > now {
                continue;
            }
            let blocks = kept.plan.blocks.clone();
            let put = self.logic.transfer_mut().put(now, blocks, PutTerms::default(), effects);
            kept.stage = Stage::Putting(put.expect("a client has few transfers"));
        }
        if self.read_at > now {
            return;
        }
        self.read_at = now + interval(&mut self.rng, READ);
        let stored: Vec<usize> =
            (0..self.files.len()).filter(|&at| self.files[at].stage == Stage::Stored).collect();
        if self.finishing.is_some() {
            self.read_at = now + REST;
            for file in stored {
                if !self.readings.values().any(|reading| reading.file == file) {
                    self.read(now, file, 0..u64::MAX, effects);
                }
            }
        } else if !stored.is_empty() {
            let file = stored[self.rng.usize(0..stored.len())];
            let length = self.files[file].plan.length;
            let wanted = if length <= WHOLE {
                0..u64::MAX
            } else {
                let begin = self.rng.u64(0..length);
                begin..begin + self.rng.u64(1..=WHOLE)
            };
            self.read(now, file, wanted, effects);
        }
    }

    fn read(
        &mut self,
        now: Instant,
        file: usize,
        wanted: Range<u64>,
        effects: &mut Vec<NetworkEffect>,
    ) {
        let FilePlan { file: id, length, .. } = self.files[file].plan;
        let transfer = self.logic.transfer_mut();
        let get = transfer.get_file(now, id, wanted.clone(), None, effects);
        let get = get.expect("a client has few transfers");
        let wanted = wanted.start.min(length)..wanted.end.min(length);
        self.readings.insert(get, Reading { file, wanted, read: 0 });
    }

    fn transferred(
        &mut self,
        now: Instant,
        output: Output,
        effects: &mut Vec<NetworkEffect>,
        requests: &mut Vec<Request>,
    ) {
        match output {
            Output::ReadSource { put, index } => {
                let kept = self.files.iter().find(|kept| kept.stage == Stage::Putting(put));
                let bytes = kept.and_then(|kept| {
                    Some(match kept.plan.source(index)? {
                        BlockSource::File { offset, length } => {
                            &kept.content[offset as usize..(offset + length) as usize]
                        }
                        BlockSource::Manifest(manifest) => manifest,
                    })
                });
                let bytes = bytes.ok_or_else(|| "no such block".to_owned());
                self.logic.transfer_mut().source_read(now, put, index, bytes, effects);
            }
            Output::Stored { put, result } => self.stored(now, put, result.err(), requests),
            Output::Opened { get, length } => {
                let Some(reading) = self.readings.get(&get) else { return };
                let plan = &self.files[reading.file].plan;
                if length != plan.length {
                    requests.push(other_bytes(plan.file, length));
                }
            }
            Output::Piece { get, offset, content } => {
                let Some(reading) = self.readings.get_mut(&get) else { return };
                let kept = &self.files[reading.file];
                let begin = usize::try_from(offset).unwrap_or(usize::MAX);
                let own = kept.content.get(begin..begin.saturating_add(content.len()));
                if own != Some(&content[..]) {
                    requests.push(other_bytes(kept.plan.file, offset));
                }
                let count = content.len() as u64;
                reading.read += count;
                self.logic.transfer_mut().consumed(now, get, count, effects);
            }
            Output::Fetched { get, result } => self.fetched(now, get, result, requests),
            Output::FetchRing => unreachable!("the client asks for the ring itself"),
        }
    }

    fn stored(
        &mut self,
        now: Instant,
        put: PutId,
        error: Option<TransferError>,
        requests: &mut Vec<Request>,
    ) {
        let Some(kept) = self.files.iter_mut().find(|kept| kept.stage == Stage::Putting(put))
        else {
            return;
        };
        match error {
            None => {
                kept.stage = Stage::Stored;
                let blocks = kept.plan.blocks.iter().map(|source| source.block).collect();
                requests.push(Request::Note(Note::Stored { file: kept.plan.file, blocks }));
            }
            Some(error) => {
                kept.stage = Stage::Due(now + REST);
                let happening = match error {
                    TransferError::DiskFull { .. } => Happening::FilesRefused,
                    TransferError::Unavailable { .. } => Happening::Retries,
                    other => {
                        let reason = format!("file {}: {other}", kept.plan.file);
                        return requests.push(Request::GiveUp { reason, is_disk: false });
                    }
                };
                requests.push(Request::Note(Note::Count(happening, 1)));
            }
        }
    }

    fn fetched(
        &mut self,
        now: Instant,
        get: GetId,
        result: Result<u64, TransferError>,
        requests: &mut Vec<Request>,
    ) {
        let Some(Reading { file, wanted, read }) = self.readings.remove(&get) else { return };
        let kept = &mut self.files[file];
        let id = kept.plan.file;
        match result {
            Ok(count) => {
                if count != wanted.end - wanted.start || read != count {
                    requests.push(other_bytes(id, wanted.start + read));
                }
                requests.push(Request::Note(Note::Count(Happening::FilesRead, 1)));
                if self.finishing.is_some() && count == kept.plan.length {
                    kept.stage = Stage::Settled;
                }
            }
            Err(error) => {
                requests.push(Request::Note(Note::Count(Happening::ReadsFailed, 1)));
                let since = self.finishing.map_or(Duration::ZERO, |at| now.since(at));
                let is_absent = matches!(error, TransferError::NotFound { .. });
                if is_absent || since > LAST_PATIENCE {
                    let why = error.to_string();
                    requests.push(Request::Note(Note::Unreadable { file: id, why }));
                    if self.finishing.is_some() {
                        kept.stage = Stage::Settled;
                    }
                }
            }
        }
    }
}

/// A file was read with other bytes, or another length, from there on.
pub(super) fn other_bytes(file: FileId, offset: u64) -> Request {
    Request::Note(Note::Broken(Violation {
        promise: "invariant 4: a file UUID always yields the same bytes or an error",
        seen: format!("file {file} was read with other bytes at {offset}"),
    }))
}

impl Tier for FileClient {
    fn edge(&mut self) -> &mut Edge {
        &mut self.edge
    }

    fn handle(&mut self, now: Instant, event: Event<'_>, requests: &mut Vec<Request>) {
        self.now = now;
        let mut effects: Vec<NetworkEffect> = Vec::new();
        hear_client(&mut self.edge, &mut self.logic, now, &event, &mut effects);
        match event {
            Event::Tick | Event::Arrived { .. } => {}
            Event::Worked(_) => unreachable!("a client has no disk thread"),
            Event::Finish => {
                (self.finishing, self.read_at) = (Some(now), now);
                for kept in &mut self.files {
                    if let Stage::Due(due) = &mut kept.stage {
                        *due = now.min(*due);
                    }
                }
            }
        }
        self.begin(now, &mut effects);
        while let Some(done) = self.logic.next_done(now, &mut effects) {
            if let Done::Transfer(output) = done {
                self.transferred(now, output, &mut effects, requests);
            }
        }
        if self.logic.wants_new_node() {
            self.nodes += 1;
            let life = self.node.0 as u32 >> 16;
            self.node = node_id(b'f', self.place, u64::from(life) << 16 | self.nodes);
            self.edge = edge_of(self.node, self.nodes, self.limits);
            effects.clear();
            let random = self.rng.fork();
            self.logic.begin_as_new_node(now, random, &mut effects);
        }
        for effect in effects {
            self.edge.perform(now, effect, requests);
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let due = |kept: &Kept| match kept.stage {
            Stage::Due(due) => Some(due),
            _ => None,
        };
        let files = self.files.iter().filter_map(due);
        let reads = self.files.iter().any(|kept| kept.stage == Stage::Stored);
        let read_at = reads.then_some(self.read_at);
        let others = [read_at, self.logic.next_deadline(self.now), self.edge.next_deadline()];
        others.into_iter().flatten().chain(files).min()
    }

    fn check_invariants(&self) {
        self.logic.check_invariants();
        self.edge.check_invariants();
    }

    fn queues(&self, each: &mut dyn FnMut(Queue)) {
        self.edge.queues(each);
    }

    fn is_settled(&self) -> bool {
        self.files.iter().all(|kept| kept.stage == Stage::Settled)
    }

    fn describe(&self) -> String {
        let stages: Vec<String> =
            self.files.iter().map(|kept| format!("{:?}", kept.stage)).collect();
        format!("files {}", stages.join(", "))
    }

    fn explain(&self, _job: JobId, _task: TaskIndex) -> String {
        self.describe()
    }
}
