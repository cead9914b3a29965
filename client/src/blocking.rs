//! The blocking face: what a program asks of a cluster, one call each.
//!
//! Every method may be used from any thread, by as many as there are. The `begin_…` methods return
//! a [`Pending`], which is also a future: a program that awaits uses these, under any executor.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use proto::ids::{BlockId, FileId, JobId, LogIndex};
use proto::status::BlockKind;
use proto::time::Duration;

use crate::completion::{Pending, completion};
use crate::error::ClientError;
use crate::logic::answers::{
    Answer, DescribedJob, JobSummary, KeyValue, NodeSummary, OutcomeRun, SegmentTasks,
};
use crate::logic::files::{FilePlan, FilePlanner};
use crate::logic::jobs::{
    Change, Compare, JobSelector, Request, Submission, Until, Write as KeyWrite,
};
use crate::logic::registers::{Found, RegisterRequest};
use crate::logic::rings::RingAnswer;
use crate::logic::transfer::{GetId, PutReport, PutTerms};
use crate::service::{Command, ServiceHandle, Sink, StreamItem};
use crate::source::{LocalFile, Memory, Source, plan_file};

/// How long the masters are asked before they count as unreachable, unless told otherwise.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Largest file that is fetched into memory, unless told otherwise.
pub const MEMORY_LIMIT: u64 = 1 << 30;

/// Something that was begun: wait for it, or await it.
pub type Begun<T> = Pending<Result<T, ClientError>>;

/// A page of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T, N> {
    /// The items.
    pub items: Vec<T>,
    /// Where the next page begins; `None` where this was the last.
    pub next: Option<N>,
}

/// A client of one cluster. Dropping it ends what is under way.
#[derive(Debug)]
pub struct Client {
    service: ServiceHandle,
    patience: Duration,
    /// Who writes registers: another one at each start, because its writes are counted.
    writer: u128,
    terms: PutTerms,
}

impl Client {
    /// A client of the cluster that has nodes, of any tier, at these addresses
    /// (`tcp://HOST:PORT`); see [`crate::find`]. It connects at the first request.
    ///
    /// # Errors
    /// [`ClientError::Network`] and [`ClientError::Start`] where the process gets no socket, no
    /// thread or no randomness.
    pub fn connect(addresses: Vec<String>) -> Result<Client, ClientError> {
        let writer = node::random::bits().map_err(ClientError::Start)?;
        let service = ServiceHandle::start(addresses)?;
        Ok(Client { service, patience: PATIENCE, writer, terms: PutTerms::default() })
    }

    /// How long the masters are asked before they count as unreachable, and the replicas of a
    /// register before they count as that.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// How many replicas what is stored from now on gets: 1 to [`proto::limits::REPLICAS`], or one
    /// on each node where there are fewer nodes; 0 for the cluster's default. What is on storage
    /// already gets them, too, and never fewer than it has been given before.
    pub fn set_replicas(&mut self, replica_count: u8) {
        self.terms.replica_count = replica_count;
    }

    /// Begins a request to the masters.
    pub fn begin(&self, request: Request) -> Begun<Answer> {
        let (reply, pending) = completion();
        let patience = self.patience;
        // Where the thread has ended, the reply is dropped and says so.
        let _ = self.service.tell(Command::Call { request, patience, reply });
        pending
    }

    fn ask(&self, request: Request) -> Result<Answer, ClientError> {
        self.begin(request).wait()?
    }

    /// Submits a job. When this returns, it survives whatever a majority of the masters survives.
    /// Returns the log index of its entry.
    ///
    /// # Errors
    /// [`ClientError`]; submitting the same job again is harmless.
    pub fn submit(&self, submission: Submission) -> Result<LogIndex, ClientError> {
        match self.ask(Request::Submit(submission))? {
            Answer::Accepted { index, .. } => Ok(index),
            _ => Err(ClientError::OtherAnswer),
        }
    }

    fn job(&self, request: Request) -> Result<JobSummary, ClientError> {
        match self.ask(request)? {
            Answer::Job(job) => Ok(job),
            _ => Err(ClientError::OtherAnswer),
        }
    }

    /// A job's state.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn status(&self, job: JobSelector) -> Result<JobSummary, ClientError> {
        self.job(Request::Job { job, until: Until::Now })
    }

    /// Waits until a job's state is final, however long that takes and whichever masters die
    /// meanwhile.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn wait(&self, job: JobSelector) -> Result<JobSummary, ClientError> {
        self.job(Request::Job { job, until: Until::Final })
    }

    /// What a job is: its program, inputs and settings, without names: what they pointed to when
    /// it was submitted. A description that is a file is not fetched.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn describe(&self, job: JobSelector) -> Result<DescribedJob, ClientError> {
        match self.ask(Request::Describe(job))? {
            Answer::Description(described) => Ok(*described),
            _ => Err(ClientError::OtherAnswer),
        }
    }

    /// Cancels a job and returns its state then.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn cancel(&self, job: JobId) -> Result<JobSummary, ClientError> {
        self.job(Request::Cancel(job))
    }

    /// Changes how a job is treated from now on, and returns its state then; for
    /// [`Change::Forget`] its last one.
    ///
    /// # Errors
    /// [`ClientError`]; among them that the job's state does not allow it.
    pub fn change(&self, job: JobId, change: Change) -> Result<JobSummary, ClientError> {
        self.job(Request::Change { job, change })
    }

    /// Jobs, newest first, submitted before a log index (0 for the newest).
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn jobs(
        &self,
        before: LogIndex,
        limit: u32,
    ) -> Result<Page<JobSummary, LogIndex>, ClientError> {
        match self.ask(Request::Jobs { before, limit })? {
            Answer::Jobs { jobs, next } => Ok(Page { items: jobs, next }),
            _ => Err(ClientError::OtherAnswer),
        }
    }

    /// Outcomes of a job's tasks from one on, as runs.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn outcomes(
        &self,
        job: JobId,
        first_task: u64,
        limit: u32,
    ) -> Result<Page<OutcomeRun, u64>, ClientError> {
        match self.ask(Request::Outcomes { job, first_task, limit })? {
            Answer::Outcomes { runs, next } => Ok(Page { items: runs, next }),
            _ => Err(ClientError::OtherAnswer),
        }
    }

    /// Segments of a job's results behind a position (0 for the first).
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn segments(&self, job: JobId, after: u64) -> Result<Page<SegmentTasks, u64>, ClientError> {
        self.segments_of_fold(job, after, 0)
    }

    /// As [`Client::segments`]; with a fold's number only those that it replaces.
    pub(crate) fn segments_of_fold(
        &self,
        job: JobId,
        after: u64,
        fold: u64,
    ) -> Result<Page<SegmentTasks, u64>, ClientError> {
        match self.ask(Request::Segments { job, after, fold })? {
            Answer::Segments { ranges, next } => Ok(Page { items: ranges, next }),
            _ => Err(ClientError::OtherAnswer),
        }
    }

    /// The nodes of the cluster.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn nodes(&self) -> Result<Vec<NodeSummary>, ClientError> {
        match self.ask(Request::Nodes)? {
            Answer::Nodes(nodes) => Ok(nodes),
            _ => Err(ClientError::OtherAnswer),
        }
    }

    /// The ring of storage nodes.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn ring(&self) -> Result<RingAnswer, ClientError> {
        match self.ask(Request::Ring)? {
            Answer::Ring(ring) => Ok(ring),
            _ => Err(ClientError::OtherAnswer),
        }
    }

    /// Writes keys if all conditions hold: the log index of the change, or `None` where they do
    /// not hold.
    ///
    /// # Errors
    /// [`ClientError`]. After an error the transaction may have been applied all the same: look.
    pub fn transact(
        &self,
        compares: Vec<Compare>,
        writes: Vec<KeyWrite>,
    ) -> Result<Option<LogIndex>, ClientError> {
        match self.ask(Request::Transaction { compares, writes, pin: 0 })? {
            Answer::Transaction { is_applied, index } => Ok(is_applied.then_some(index)),
            _ => Err(ClientError::OtherAnswer),
        }
    }

    /// Keys that begin so and lie behind another one, in order.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn keys(
        &self,
        prefix: &[u8],
        after: &[u8],
        limit: u32,
    ) -> Result<Page<KeyValue, Vec<u8>>, ClientError> {
        let (prefix, after) = (prefix.to_vec(), after.to_vec());
        match self.ask(Request::Keys { prefix, after, limit })? {
            Answer::Keys { keys, is_more } => {
                let next = keys.last().filter(|_| is_more).map(|last| last.key.clone());
                Ok(Page { items: keys, next })
            }
            _ => Err(ClientError::OtherAnswer),
        }
    }

    pub(crate) fn begin_register(&self, address: u64, request: RegisterRequest) -> Begun<Found> {
        let (reply, pending) = completion();
        let patience = self.patience;
        let _ = self.service.tell(Command::Register { address, request, patience, reply });
        pending
    }

    pub(crate) fn writer(&self) -> u128 {
        self.writer
    }

    pub(crate) fn begin_put(&self, plan: FilePlan, source: Box<dyn Source>) -> Begun<PutReport> {
        let (reply, pending) = completion();
        let terms = self.terms;
        let _ = self.service.tell(Command::Put { plan, source, terms, reply });
        pending
    }

    /// Begins to store bytes as a file; its UUID is known at once. Many small ones that are begun
    /// one after the other share their round trips.
    ///
    /// # Errors
    /// [`ClientError::TooLong`].
    pub fn begin_put_bytes(
        &self,
        content: impl Into<Arc<[u8]>>,
    ) -> Result<(FileId, Begun<PutReport>), ClientError> {
        let content = content.into();
        let plan = FilePlanner::plan(&content)?;
        let file = plan.file;
        Ok((file, self.begin_put(plan, Box::new(Memory(content)))))
    }

    /// Stores bytes as a file. When this returns, as many nodes as there are replicas have it
    /// durably.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn put_bytes(&self, content: impl Into<Arc<[u8]>>) -> Result<FileId, ClientError> {
        let (file, begun) = self.begin_put_bytes(content)?;
        begun.wait()??;
        Ok(file)
    }

    /// Begins to store a file of this machine, after reading it once to name it. What the storage
    /// nodes lack is read a second time.
    ///
    /// # Errors
    /// [`ClientError::File`] and [`ClientError::TooLong`].
    pub fn begin_put_file(
        &self,
        path: &Path,
    ) -> Result<(FileId, u64, Begun<PutReport>), ClientError> {
        let plan = plan_file(path)?;
        let (file, length) = (plan.file, plan.length);
        let source = Box::new(LocalFile(path.to_owned()));
        Ok((file, length, self.begin_put(plan, source)))
    }

    /// Stores a file of this machine; see [`Client::put_bytes`].
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn put_file(&self, path: &Path) -> Result<FileId, ClientError> {
        let (file, _, begun) = self.begin_put_file(path)?;
        begun.wait()??;
        Ok(file)
    }

    /// Begins to fetch a part of a file into memory: at most `limit` bytes, as much as there is.
    pub fn begin_get(&self, file: FileId, range: Range<u64>, limit: u64) -> Begun<Vec<u8>> {
        let (reply, pending) = completion();
        let sink = Sink::Memory { range: range.clone(), limit, content: Vec::new(), reply };
        let _ = self.service.tell(Command::GetFile { file, range, length: None, sink });
        pending
    }

    /// A whole file of at most [`MEMORY_LIMIT`], verified.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn get_bytes(&self, file: FileId) -> Result<Vec<u8>, ClientError> {
        self.begin_get(file, 0..u64::MAX, MEMORY_LIMIT).wait()?
    }

    /// A part of a file, as much of it as there is, verified.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn get_range(&self, file: FileId, range: Range<u64>) -> Result<Vec<u8>, ClientError> {
        self.begin_get(file, range, MEMORY_LIMIT).wait()?
    }

    /// One block of a known kind, verified.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn read_block(&self, block: BlockId, kind: BlockKind) -> Result<Vec<u8>, ClientError> {
        let (reply, pending) = completion();
        let (range, limit) = (0..u64::MAX, MEMORY_LIMIT);
        let sink = Sink::Memory { range, limit, content: Vec::new(), reply };
        let _ = self.service.tell(Command::GetBlock { block, kind, length: None, sink });
        pending.wait()?
    }

    /// A part of a file piece by piece, in any order; the network waits for whoever reads slowly.
    pub fn stream(&self, file: FileId, range: Range<u64>) -> Pieces<'_> {
        let (sender, items) = channel();
        let sink = Sink::Stream(sender);
        let _ = self.service.tell(Command::GetFile { file, range, length: None, sink });
        Pieces { client: self, items, under_way: None, length: None, has_ended: false }
    }
}

/// Verified bytes of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where in the file they belong.
    pub offset: u64,
    /// The bytes.
    pub content: Vec<u8>,
}

/// The pieces of a file as they arrive. Dropped early, the rest is not fetched.
#[derive(Debug)]
pub struct Pieces<'a> {
    client: &'a Client,
    items: Receiver<StreamItem>,
    under_way: Option<(GetId, u64)>,
    length: Option<u64>,
    has_ended: bool,
}

impl Pieces<'_> {
    /// Bytes of the whole file; known when the first piece is there, or earlier.
    #[must_use]
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// The next piece; `None` where there are no more.
    ///
    /// # Errors
    /// [`ClientError`]; nothing follows it.
    pub fn next_piece(&mut self) -> Result<Option<Piece>, ClientError> {
        // Asking for the next one says that the last one was used up.
        if let Some((get, bytes)) = &mut self.under_way
            && *bytes > 0
        {
            self.client.service.tell(Command::Consumed(*get, std::mem::take(bytes)))?;
        }
        while !self.has_ended {
            match self.items.recv() {
                Ok(StreamItem::Opened(length)) => self.length = Some(length),
                Ok(StreamItem::Piece(get, offset, content)) => {
                    self.under_way = Some((get, content.len() as u64));
                    return Ok(Some(Piece { offset, content }));
                }
                Ok(StreamItem::End(result)) => {
                    self.has_ended = true;
                    result?;
                }
                Err(_) => {
                    self.has_ended = true;
                    return Err(ClientError::Stopped(crate::completion::Closed));
                }
            }
        }
        Ok(None)
    }
}

impl Drop for Pieces<'_> {
    fn drop(&mut self) {
        if let Some((get, _)) = self.under_way.filter(|_| !self.has_ended) {
            // A client that has stopped fetches nothing anyway.
            let _ = self.client.service.tell(Command::Abandon(get));
        }
    }
}
