//! A client of the replicated bank: asks, waits, asks again elsewhere under the same number.
//!
//! It has one link at a time. Where no answer comes it opens the link to the next member (another
//! generation) and repeats everything that is open: this is where duplicates come from. Each start
//! is a new client with numbers of its own.

use std::collections::BTreeMap;

use fastrand::Rng;
use node::logic::network::{Identity, Link, NetworkEffect, NetworkEvent, Peer};
use proto::ids::{ClusterId, Incarnation, RequestId};
use proto::messages::keyspace::{KeyEntry, KeyRange, KeyTransaction};
use proto::messages::session::ErrorReply;
use proto::record::{Message, Record, encode, set_request_id};
use proto::status::Role;
use proto::time::{Duration, Instant};

use crate::bank::{Answer, Audit, Transfer};
use crate::process::edge::Edge;
use crate::process::{Event, Note, Queue, Recipe, Request, Start, node_id};
use crate::random::{chance, interval};
use crate::report::Happening;
use crate::workload;

/// The one link of a client.
const LINK: Link = Link(0);

/// Request id of a client's audits: a client has one at a time.
const AUDIT: RequestId = RequestId(u64::MAX);

/// How many of a client's wishes are audits, per mille.
const AUDITS: u32 = 150;

/// How long a client waits for an answer before it asks elsewhere.
const TIMEOUT: Duration = Duration::from_millis(600);

/// What a client does all day.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Requests that it has open at most.
    pub(crate) window: u64,
    /// How long it thinks between two wishes, on average.
    pub(crate) pause: Duration,
    /// The largest amount that it moves.
    pub(crate) largest: u64,
}

/// A running client.
pub(crate) struct ClientProcess {
    edge: Edge,
    rng: Rng,
    client: u64,
    plan: Plan,
    member_count: usize,
    target: usize,
    open: BTreeMap<u64, Transfer>,
    /// Whether an audit is open.
    is_auditing: bool,
    next_number: u64,
    /// When the next wish comes; none once it shall come to an end.
    wish_at: Option<Instant>,
    /// When to give up waiting and ask elsewhere.
    retry_at: Option<Instant>,
}

impl ClientProcess {
    pub(crate) fn start(
        place: usize,
        plan: &Plan,
        start: &Start<'_>,
        requests: &mut Vec<Request>,
    ) -> ClientProcess {
        let mut rng = Rng::with_seed(start.seed);
        // Each start is another client, also where two of them run at the same time.
        let node = node_id(b'c', place, start.life);
        let client = node.0 as u64;
        let identity = Identity {
            node,
            role: Role::Client,
            cluster: ClusterId(0),
            incarnation: Incarnation(0),
            version: "simulated".to_owned(),
            address: String::new(),
        };
        let mut client = ClientProcess {
            edge: Edge::new(identity, start.limits),
            target: rng.usize(0..start.member_count),
            client,
            plan: plan.clone(),
            member_count: start.member_count,
            open: BTreeMap::new(),
            is_auditing: false,
            next_number: 1,
            wish_at: Some(start.now + interval(&mut rng, plan.pause)),
            retry_at: None,
            rng,
        };
        client.connect(start.now, requests);
        client
    }

    pub(crate) fn edge(&mut self) -> &mut Edge {
        &mut self.edge
    }

    fn connect(&mut self, now: Instant, requests: &mut Vec<Request>) {
        let address = Recipe::Member { place: self.target }.address();
        self.edge.perform(now, NetworkEffect::Open { link: LINK, address }, requests);
    }

    pub(crate) fn handle(&mut self, now: Instant, event: &Event<'_>, requests: &mut Vec<Request>) {
        match event {
            Event::Tick => self.tick(now, requests),
            Event::Finish => self.wish_at = None,
            Event::Worked(_) => unreachable!("a client has no disk thread"),
            Event::Arrived { .. } => {
                let mut answers = Vec::new();
                let mut is_refused = false;
                self.edge.hear(now, event, |event| match event {
                    NetworkEvent::Record { record, .. } => match read(&record) {
                        Some(Reply::Refused) => is_refused = true,
                        reply => answers.extend(reply),
                    },
                    NetworkEvent::Refused { .. } => is_refused = true,
                    _ => {}
                });
                for reply in answers {
                    self.answered(now, reply, requests);
                }
                if is_refused && self.retry_at.is_some() {
                    let pause = interval(&mut self.rng, Duration::from_millis(50));
                    self.retry_at = self.retry_at.min(Some(now + pause));
                }
            }
        }
    }

    /// An answer came. A second one to a request that was repeated says nothing new.
    fn answered(&mut self, now: Instant, reply: Reply, requests: &mut Vec<Request>) {
        let client = self.client;
        match reply {
            Reply::Answer(number, answer) => {
                let Some(transfer) = self.open.remove(&number) else { return };
                requests.push(Request::Note(Note::Acknowledged { transfer, answer }));
            }
            Reply::Audit(Audit { index, sum }) => {
                if !std::mem::take(&mut self.is_auditing) {
                    return;
                }
                requests.push(Request::Note(Note::Audited { client, index, sum }));
            }
            Reply::Refused => return,
        }
        self.retry_at = (!self.is_idle()).then_some(now + TIMEOUT);
    }

    fn tick(&mut self, now: Instant, requests: &mut Vec<Request>) {
        // A link that overflows or is refused shows as a missing answer.
        self.edge.hear(now, &Event::Tick, |_| ());
        if self.wish_at.is_some_and(|at| at <= now) {
            self.wish_at = Some(now + interval(&mut self.rng, self.plan.pause));
            if !self.is_auditing && chance(&mut self.rng, AUDITS) {
                self.is_auditing = true;
                requests.push(Request::Note(Note::AuditSent { client: self.client }));
                self.audit(now, requests);
            }
            let oldest = self.open.keys().next().copied().unwrap_or(self.next_number);
            if self.next_number < oldest + self.plan.window {
                let number = self.next_number;
                let largest = self.plan.largest;
                let transfer = workload::transfer(&mut self.rng, self.client, number, largest);
                self.next_number += 1;
                self.open.insert(number, transfer);
                requests.push(Request::Note(Note::Sent(transfer)));
                self.ask(now, &transfer, requests);
            }
            if self.retry_at.is_none() && !self.is_idle() {
                self.retry_at = Some(now + TIMEOUT);
            }
        }
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = Some(now + TIMEOUT + interval(&mut self.rng, TIMEOUT));
            self.target = (self.target + 1) % self.member_count;
            self.connect(now, requests);
            let open: Vec<Transfer> = self.open.values().copied().collect();
            requests.push(Request::Note(Note::Count(Happening::Retries, open.len() as u64)));
            for transfer in &open {
                self.ask(now, transfer, requests);
            }
            if self.is_auditing {
                self.audit(now, requests);
            }
        }
    }

    /// Commands of the bank travel as the bytes of a keyspace transaction: to everything below the
    /// state machine they are opaque, as those of the masters are.
    fn ask(&mut self, now: Instant, transfer: &Transfer, requests: &mut Vec<Request>) {
        let mut record = encode(&KeyTransaction::default(), &[&[], &[], &transfer.encode()]);
        set_request_id(&mut record, RequestId(transfer.number));
        let to = Peer::Link(LINK);
        self.edge.perform(now, NetworkEffect::Send { to, record }, requests);
    }

    fn audit(&mut self, now: Instant, requests: &mut Vec<Request>) {
        let mut record = encode(&KeyRange::default(), &[b"", b""]);
        set_request_id(&mut record, AUDIT);
        let to = Peer::Link(LINK);
        self.edge.perform(now, NetworkEffect::Send { to, record }, requests);
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        [self.wish_at, self.retry_at, self.edge.next_deadline()].into_iter().flatten().min()
    }

    pub(crate) fn check_invariants(&self) {
        assert!(self.open.len() as u64 <= self.plan.window);
        assert_eq!(self.is_idle(), self.retry_at.is_none());
        self.edge.check_invariants();
    }

    pub(crate) fn queues(&self, each: &mut dyn FnMut(Queue)) {
        let (length, bound) = (self.open.len(), self.plan.window as usize);
        each(Queue { name: "requests of one client", length, bound });
        self.edge.queues(each);
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.open.is_empty() && !self.is_auditing
    }

    pub(crate) fn describe(&self) -> String {
        let open: Vec<u64> = self.open.keys().copied().collect();
        format!("client open {open:?} at m{}", self.target + 1)
    }
}

#[derive(Clone, Copy)]
enum Reply {
    Answer(u64, Answer),
    Audit(Audit),
    Refused,
}

fn read(record: &Record<'_>) -> Option<Reply> {
    match record.message_type() {
        KeyEntry::TYPE => {
            let (_, [_, value]) = record.open::<KeyEntry, 2>().ok()?;
            Some(match record.request_id() {
                AUDIT => Reply::Audit(Audit::decode(value)?),
                RequestId(number) => Reply::Answer(number, Answer::decode(value)?),
            })
        }
        ErrorReply::TYPE => Some(Reply::Refused),
        _ => None,
    }
}
