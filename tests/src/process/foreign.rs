//! A client without the client library, as a program of somebody else: asks one storage node after
//! the other for whole files, and how much room there is.
//!
//! It knows from the seed what each file holds, not which of them are stored already.

use fastrand::Rng;
use node::logic::network::{Identity, Link, NetworkEffect, NetworkEvent, Peer};
use proto::ids::{ClusterId, FileId, Incarnation, JobId, RequestId, TaskIndex};
use proto::messages::file::{FileRequest, FileResponse, StorageQuery};
use proto::messages::session::ErrorReply;
use proto::record::{Message, Record, encode, set_request_id};
use proto::status::{ErrorCode, Role};
use proto::time::{Duration, Instant};

use super::files::{FileWish, other_bytes};
use super::{Edge, Event, Note, Queue, Request, Start, Tier, node_id, storage_address};
use crate::random::interval;
use crate::report::Happening;

/// Its one link.
const LINK: Link = Link(0);

/// How often it asks, on average.
const ASK: Duration = Duration::from_millis(4_000);

/// A running foreign client.
pub(crate) struct ForeignClient {
    edge: Edge,
    rng: Rng,
    questions: Questions,
    /// Storage nodes of the cluster.
    node_count: usize,
    ask_at: Instant,
}

/// What it may ask for, and the last question.
struct Questions {
    files: Vec<(FileId, Vec<u8>)>,
    last_request: RequestId,
    /// The file that was asked for last, until it is answered.
    asked: Option<usize>,
}

impl ForeignClient {
    pub(crate) fn start(
        (place, node_count): (usize, usize),
        wishes: &[FileWish],
        start: &Start<'_>,
    ) -> ForeignClient {
        let identity = Identity {
            node: node_id(b'x', place, start.life),
            role: Role::Client,
            cluster: ClusterId(0),
            incarnation: Incarnation(0),
            version: "simulated".to_owned(),
            address: String::new(),
        };
        ForeignClient {
            edge: Edge::new(identity, start.limits),
            rng: Rng::with_seed(start.seed),
            questions: Questions {
                files: wishes.iter().map(FileWish::named).collect(),
                last_request: RequestId(0),
                asked: None,
            },
            node_count,
            ask_at: start.now + ASK,
        }
    }

    /// Asks some node for some file. What was not answered by now is not waited for any more.
    fn ask(&mut self, now: Instant, requests: &mut Vec<Request>) {
        self.ask_at = now + interval(&mut self.rng, ASK);
        let place = self.rng.usize(0..self.node_count);
        let address = storage_address(place);
        let questions = &mut self.questions;
        let file = self.rng.usize(0..questions.files.len());
        questions.asked = Some(file);
        questions.last_request = questions.last_request.next();
        self.edge.perform(now, NetworkEffect::Open { link: LINK, address }, requests);
        let file = questions.files[file].0;
        requests.push(Request::Note(Note::Asked { file }));
        let file_uuid = file.to_wire();
        let question = FileRequest { file_uuid, ..FileRequest::default() };
        for mut record in [encode(&StorageQuery::default(), &[]), encode(&question, &[])] {
            set_request_id(&mut record, questions.last_request);
            let to = Peer::Link(LINK);
            self.edge.perform(now, NetworkEffect::Send { to, record }, requests);
        }
    }
}

impl Questions {
    fn heard(&mut self, record: &Record<'_>, requests: &mut Vec<Request>) {
        let Some(asked) = self.asked.filter(|_| record.request_id() == self.last_request) else {
            return;
        };
        let (file, expected) = &self.files[asked];
        match record.message_type() {
            FileResponse::TYPE => {
                let Ok((_, [content])) = record.open::<FileResponse, 1>() else { return };
                if content != expected {
                    requests.push(other_bytes(*file, 0));
                }
                requests.push(Request::Note(Note::Count(Happening::WholeFiles, 1)));
            }
            ErrorReply::TYPE => {
                let code = record.read::<ErrorReply>().map(|refusal| refusal.code);
                if code.is_ok_and(|code| ErrorCode::from_wire(code) == Some(ErrorCode::NotFound)) {
                    requests.push(Request::Note(Note::NotFound { file: *file }));
                }
            }
            _ => return,
        }
        self.asked = None;
    }
}

impl Tier for ForeignClient {
    fn edge(&mut self) -> &mut Edge {
        &mut self.edge
    }

    fn handle(&mut self, now: Instant, event: Event<'_>, requests: &mut Vec<Request>) {
        let questions = &mut self.questions;
        self.edge.hear(now, &event, |event| {
            if let NetworkEvent::Record { record, .. } = &event {
                questions.heard(record, requests);
            }
        });
        if matches!(event, Event::Tick) && self.ask_at <= now {
            self.ask(now, requests);
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.edge.next_deadline().into_iter().chain([self.ask_at]).min()
    }

    fn check_invariants(&self) {
        self.edge.check_invariants();
    }

    fn queues(&self, each: &mut dyn FnMut(Queue)) {
        self.edge.queues(each);
    }

    fn describe(&self) -> String {
        format!("asked for file {:?}", self.questions.asked)
    }

    fn explain(&self, _job: JobId, _task: TaskIndex) -> String {
        self.describe()
    }
}
