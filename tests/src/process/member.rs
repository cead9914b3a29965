//! A member of the replicated bank: the shipped consensus crate and what a service does around it.
//!
//! The folder is made as an operator would (the first member bootstraps, the others join and are
//! promoted together; one that comes back with an empty disk joins under a new number and replaces
//! the old one). Effects are carried out in the order in which the member gave them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use consensus::{
    Config, Disk, DiskError, Effect, Failure, HaltReason, Identity, LogShape, Member, MemberChange,
    MemberId, MemberInfo, RestoreError, Role, StateMachine, Ticket,
};
use fastrand::Rng;
use node::files::Files;
use node::logic::network::{self, Link, NetworkEffect, NetworkEvent, Peer};
use proto::ids::{ClusterId, Incarnation, LogIndex, NodeId, RequestId};
use proto::messages::keyspace::{KeyEntry, KeyRange, KeyTransaction};
use proto::messages::raft::{MemberJoin, RaftMessage};
use proto::messages::session::ErrorReply;
use proto::record::{Message, Record, encode, set_request_id};
use proto::status::ErrorCode;
use proto::time::{Duration, Instant};

use crate::bank::{Answer, Audit, Bank, Transfer};
use crate::checkers::history::Applied;
use crate::process::edge::Edge;
use crate::process::{Event, Note, Queue, Recipe, Request, Start, node_id};
use crate::report::Happening;

/// The cluster that all processes of a run belong to.
pub(crate) const CLUSTER: ClusterId = ClusterId(0x5e1f);

/// Where the member's folder is on its machine.
const FOLDER: &str = "/data/raft";

/// How often a member that has no vote asks for one, and how often a leader looks for such.
const MEMBERSHIP: Duration = Duration::from_millis(200);

/// How long another member may be silent before the link to it is opened anew.
const SILENCE: Duration = Duration::from_millis(1_500);

/// A job of the member's disk thread.
pub(crate) type Job = consensus::Job<Bank>;

/// What its disk thread did.
pub(crate) type Done = consensus::Done;

/// How members behave in a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tuning {
    /// Bytes of each log file.
    pub(crate) log_file_bytes: u32,
    /// Bytes of entries after which a snapshot is taken.
    pub(crate) snapshot_after: usize,
    /// Bytes of entries kept behind a snapshot.
    pub(crate) trailing: usize,
}

/// The bank, watched: what was applied and whether the whole state was replaced.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    bank: Bank,
    applied: RefCell<Vec<Applied>>,
    /// Index and digest of a state that replaced the whole, until the checkers were told.
    restored: Cell<Option<(u64, u64)>>,
}

impl StateMachine for Watched {
    type Output = Answer;
    type Snapshot = Bank;

    fn apply(&mut self, at: &consensus::Applied, command: &[u8]) -> Answer {
        let transfer = Transfer::decode(command).expect("only well-formed commands are proposed");
        let (answer, _) = self.bank.apply(at.index.0, transfer);
        self.applied.borrow_mut().push(Applied {
            index: at.index.0,
            log_time: Instant(at.log_time.0),
            command: command.to_vec(),
            state: self.bank.digest(),
        });
        answer
    }

    fn snapshot(&self) -> Bank {
        self.bank.clone()
    }

    fn encode(snapshot: &Bank) -> Vec<u8> {
        snapshot.encode()
    }

    fn restore(bytes: &[u8]) -> Result<Watched, RestoreError> {
        let bank = Bank::decode(bytes).ok_or_else(|| RestoreError("not a bank".to_owned()))?;
        let restored = Cell::new(Some((bank.index(), bank.digest())));
        Ok(Watched { bank, restored, ..Watched::default() })
    }

    fn digest(&self) -> [u8; 32] {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&self.bank.digest().to_le_bytes());
        digest
    }
}

/// Who waits for a ticket.
enum Asker {
    /// A client's command or audit.
    Client(Peer, RequestId),
    /// Nobody: a change of members, which is asked for again until it is so.
    Nobody,
}

/// A running member.
pub(crate) struct MemberProcess {
    place: usize,
    member_count: usize,
    own: MemberId,
    edge: Edge,
    member: Member<Watched>,
    disk: Disk,
    members: BTreeMap<MemberId, MemberInfo>,
    /// At which place each member is, from the log and from what it said itself.
    places: BTreeMap<MemberId, usize>,
    askers: BTreeMap<Ticket, Asker>,
    next_ticket: u64,
    membership_at: Instant,
    /// When each other place was heard last, or its link opened.
    heard_at: BTreeMap<usize, Instant>,
    leader: String,
    /// What is there at once for the member.
    events: Vec<consensus::Event>,
    effects: Vec<Effect<Answer, Bank>>,
}

fn place_of(address: &str) -> Option<usize> {
    let number: usize = address.strip_prefix("sim://m")?.parse().ok()?;
    number.checked_sub(1)
}

fn address_of(place: usize) -> String {
    Recipe::Member { place }.address()
}

/// Opens the folder, making it first where the machine never had one.
fn open(place: usize, start: &Start<'_>) -> Result<(Disk, consensus::Recovered), DiskError> {
    let files: Arc<dyn Files> = Arc::new(start.files.clone());
    let folder = Path::new(FOLDER);
    match Disk::open(&files, folder) {
        Err(DiskError::NotMade(_)) if !start.has_folder => {
            // Never used again: a machine's lives are counted.
            let member = MemberId(node_id(b'm', place, start.life).0 as u64);
            let file_bytes = start.tuning.log_file_bytes;
            let shape = LogShape { seed: start.seed as u32, file_bytes };
            let identity = Identity { cluster: CLUSTER, member, shape };
            if start.is_founder {
                let state = Watched::default();
                Disk::bootstrap(&files, folder, &identity, &address_of(place), &state)?;
            } else {
                Disk::join(&files, folder, &identity)?;
            }
            Disk::open(&files, folder)
        }
        opened => opened,
    }
}

impl MemberProcess {
    pub(crate) fn start(
        place: usize,
        start: &Start<'_>,
        requests: &mut Vec<Request>,
    ) -> Result<MemberProcess, String> {
        let (disk, recovered) = open(place, start).map_err(|error| explain(&error))?;
        let own = recovered.identity().member;
        let config = Config {
            incarnation: Incarnation(start.life),
            snapshot_after_bytes: start.tuning.snapshot_after,
            trailing_bytes: start.tuning.trailing,
            patience: Duration::from_secs(2),
            digest_every: Duration::from_secs(5),
            ..Config::default()
        };
        let rng = Rng::with_seed(start.seed);
        let member = Member::new(config, recovered, Watched::default(), rng, start.now)
            .map_err(|error| explain(&error))?;
        let identity = network::Identity {
            node: NodeId(u128::from(b'm') << 64 | u128::from(own.0)),
            role: proto::status::Role::Master,
            cluster: CLUSTER,
            incarnation: Incarnation(start.life),
            version: "simulated".to_owned(),
            address: address_of(place),
        };
        let mut process = MemberProcess {
            place,
            member_count: start.member_count,
            own,
            edge: Edge::new(identity, start.limits),
            member,
            disk,
            members: BTreeMap::new(),
            places: BTreeMap::new(),
            askers: BTreeMap::new(),
            next_ticket: 1,
            membership_at: start.now + MEMBERSHIP,
            heard_at: BTreeMap::new(),
            leader: String::new(),
            events: vec![consensus::Event::Tick],
            effects: Vec::new(),
        };
        for other in (0..start.member_count).filter(|&other| other != place) {
            process.connect(start.now, other, requests);
        }
        process.perform(start.now, requests);
        Ok(process)
    }

    pub(crate) fn edge(&mut self) -> &mut Edge {
        &mut self.edge
    }

    pub(crate) fn handle(&mut self, now: Instant, event: Event<'_>, requests: &mut Vec<Request>) {
        match event {
            Event::Finish => {}
            Event::Tick => {
                let mut events = Vec::new();
                self.edge.hear(now, &Event::Tick, |event| events.extend(read(&event)));
                for event in events {
                    self.heard(now, event, requests);
                }
                self.events.push(consensus::Event::Tick);
                if self.membership_at <= now {
                    self.membership_at = now + MEMBERSHIP;
                    self.see_to_membership(now, requests);
                    let silent = self.heard_at.iter().filter(|(_, at)| now.since(**at) > SILENCE);
                    for place in silent.map(|(&place, _)| place).collect::<Vec<_>>() {
                        self.connect(now, place, requests);
                        self.heard(now, Heard::Unreachable(Link(place as u32)), requests);
                    }
                }
            }
            Event::Arrived { .. } => {
                let mut events = Vec::new();
                self.edge.hear(now, &event, |event| events.extend(read(&event)));
                for event in events {
                    self.heard(now, event, requests);
                }
            }
            Event::Worked(super::Done::Storage(_)) => unreachable!("a member stores no blocks"),
            Event::Worked(super::Done::Member(done)) => {
                self.events.extend(done.into_iter().map(consensus::Event::Disk));
            }
        }
        self.perform(now, requests);
    }

    fn connect(&mut self, now: Instant, place: usize, requests: &mut Vec<Request>) {
        self.heard_at.insert(place, now);
        let (link, address) = (Link(place as u32), address_of(place));
        self.edge.perform(now, NetworkEffect::Open { link, address }, requests);
    }

    /// Notes who belongs to the cluster and where they are.
    fn know(&mut self, members: BTreeMap<MemberId, MemberInfo>, requests: &mut Vec<Request>) {
        for (&member, info) in &members {
            if let Some(place) = place_of(&info.address) {
                self.places.insert(member, place);
            }
        }
        let is_settled = members.values().all(|info| info.voter);
        if is_settled && members.len() == self.member_count {
            requests.push(Request::Note(Note::Votes));
        }
        self.members = members;
    }

    fn ticket(&mut self, asker: Asker) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.askers.insert(ticket, asker);
        ticket
    }

    fn heard(&mut self, now: Instant, heard: Heard, requests: &mut Vec<Request>) {
        match heard {
            Heard::Raft { from, to, bytes } => {
                if let Some(&place) = self.places.get(&from) {
                    self.heard_at.insert(place, now);
                }
                if to == self.own {
                    self.events.push(consensus::Event::Message { from, bytes });
                }
            }
            Heard::Member { address, node } => {
                if let Some(place) = place_of(&address) {
                    self.places.insert(MemberId(node.0 as u64), place);
                }
            }
            Heard::Unreachable(Link(place)) => {
                let there = self.places.iter().filter(|(_, at)| **at == place as usize);
                let lost = there.map(|(&member, _)| consensus::Event::Unreachable(member));
                self.events.extend(lost);
            }
            Heard::Command { peer, request, command } => {
                if Transfer::decode(&command).is_none() {
                    self.refuse(now, peer, request, ErrorCode::Invalid, requests);
                    return;
                }
                let ticket = self.ticket(Asker::Client(peer, request));
                self.events.push(consensus::Event::Invoke { ticket, command });
            }
            Heard::Audit { peer, request } => {
                let ticket = self.ticket(Asker::Client(peer, request));
                self.events.push(consensus::Event::Read { ticket });
            }
            Heard::Join { member, address } => {
                let ticket = self.ticket(Asker::Nobody);
                let change = MemberChange::AddLearner { member, address };
                self.events.push(consensus::Event::ChangeMembers { ticket, change });
            }
        }
    }

    /// A member without a vote asks the others for one. A leader makes learners voters, all that
    /// wait in one step and only to an odd number, and removes those whose place they take.
    fn see_to_membership(&mut self, now: Instant, requests: &mut Vec<Request>) {
        if !self.members.get(&self.own).is_some_and(|info| info.voter) {
            let head = MemberJoin {
                member: self.own.0,
                cluster_uuid: CLUSTER.to_wire(),
                ..Default::default()
            };
            for other in (0..self.member_count).filter(|&other| other != self.place) {
                let record = encode(&head, &[address_of(self.place).as_bytes()]);
                let to = Peer::Link(Link(other as u32));
                self.edge.perform(now, NetworkEffect::Send { to, record }, requests);
            }
        }
        if self.member.role() != Role::Leader {
            return;
        }
        // The newest number at an address is the one that lives there.
        let newest: BTreeMap<&str, MemberId> =
            self.members.iter().map(|(&member, info)| (info.address.as_str(), member)).collect();
        let is_newest = |member: &MemberId, info: &MemberInfo| {
            newest.get(info.address.as_str()) == Some(member)
        };
        let removed: Vec<MemberId> = self
            .members
            .iter()
            .filter(|(member, info)| !is_newest(member, info))
            .map(|(&member, _)| member)
            .collect();
        let voters: Vec<MemberId> = self
            .members
            .iter()
            .filter(|(member, info)| is_newest(member, info) && !info.voter)
            .map(|(&member, _)| member)
            .collect();
        if newest.len().is_multiple_of(2) || (voters.is_empty() && removed.is_empty()) {
            return;
        }
        let ticket = self.ticket(Asker::Nobody);
        let change = MemberChange::Promote { voters, removed };
        self.events.push(consensus::Event::ChangeMembers { ticket, change });
    }

    fn refuse(
        &mut self,
        now: Instant,
        peer: Peer,
        request: RequestId,
        code: ErrorCode,
        requests: &mut Vec<Request>,
    ) {
        let head = ErrorReply {
            code: code.to_wire(),
            refused_type: KeyTransaction::TYPE,
            ..Default::default()
        };
        let mut record = encode(&head, &[code.name().as_bytes(), b""]);
        set_request_id(&mut record, request);
        self.edge.perform(now, NetworkEffect::Send { to: peer, record }, requests);
    }

    /// Hands over what there is and carries out what the member wants, in its order.
    fn perform(&mut self, now: Instant, requests: &mut Vec<Request>) {
        self.member.handle_all(now, self.events.drain(..), &mut self.effects);
        self.tell_checkers(requests);
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            match effect {
                Effect::Send { to, bytes } => self.send(now, to, &bytes, requests),
                Effect::Disk(job) => requests.push(Request::Work(super::Job::Member(job))),
                Effect::Completed { ticket, index, output } => {
                    self.answer(now, ticket, index, &output.encode(), requests);
                }
                Effect::ReadReady { ticket, index } => {
                    let bank = &self.member.state().bank;
                    let audit = Audit { index: bank.index(), sum: bank.sum() };
                    self.answer(now, ticket, index, &audit.encode(), requests);
                }
                Effect::Failed { ticket, failure } => {
                    if let Some(Asker::Client(peer, request)) = self.askers.remove(&ticket) {
                        self.refuse(now, peer, request, code_of(failure), requests);
                    }
                }
                Effect::Changed { ticket, .. } => {
                    self.askers.remove(&ticket);
                }
                Effect::Applied { .. } => {}
                Effect::Installed { .. } => {
                    requests.push(Request::Note(Note::Count(Happening::Snapshots, 1)));
                }
                Effect::LeaderChanged { leader, term, role } => {
                    let leader = leader.and_then(|leader| self.places.get(&leader));
                    let leader = leader.map_or("nobody".to_owned(), |at| format!("m{}", at + 1));
                    self.leader = format!("{role:?} {term} of {leader}");
                    if role == Role::Leader {
                        requests.push(Request::Note(Note::Leads { term: term.0 }));
                    }
                }
                Effect::MembersChanged { members } => self.know(members, requests),
                Effect::Halt { reason } => {
                    let is_disk = matches!(reason, HaltReason::Disk(_));
                    requests.push(Request::GiveUp { reason: reason.to_string(), is_disk });
                }
            }
        }
        self.effects = effects;
    }

    fn answer(
        &mut self,
        now: Instant,
        ticket: Ticket,
        index: LogIndex,
        content: &[u8],
        requests: &mut Vec<Request>,
    ) {
        if let Some(Asker::Client(to, request)) = self.askers.remove(&ticket) {
            let head = KeyEntry { version: index.0, ..Default::default() };
            let mut record = encode(&head, &[b"", content]);
            set_request_id(&mut record, request);
            self.edge.perform(now, NetworkEffect::Send { to, record }, requests);
        }
    }

    fn tell_checkers(&mut self, requests: &mut Vec<Request>) {
        let state = self.member.state();
        if let Some((index, state)) = state.restored.take() {
            requests.push(Request::Note(Note::Restored { index, state }));
        }
        for applied in state.applied.borrow_mut().drain(..) {
            requests.push(Request::Note(Note::Applied(applied)));
        }
    }

    fn send(&mut self, now: Instant, to: MemberId, bytes: &[u8], requests: &mut Vec<Request>) {
        let Some(&place) = self.places.get(&to) else { return };
        let head = RaftMessage { from_member: self.own.0, to_member: to.0, ..Default::default() };
        let record = encode(&head, &[bytes]);
        let to = Peer::Link(Link(place as u32));
        self.edge.perform(now, NetworkEffect::Send { to, record }, requests);
    }

    /// What the disk thread does with the jobs that it found waiting.
    pub(crate) fn work(&mut self, jobs: Vec<Job>) -> Vec<Done> {
        self.disk.perform::<Watched>(jobs)
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        [self.member.next_deadline(), Some(self.membership_at), self.edge.next_deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    pub(crate) fn check_invariants(&self) {
        self.member.check_invariants();
        self.edge.check_invariants();
    }

    pub(crate) fn queues(&self, each: &mut dyn FnMut(Queue)) {
        let (length, bound) = (self.member.pending_count(), Config::default().pending_max);
        each(Queue { name: "requests that wait for the log", length, bound });
        self.edge.queues(each);
    }

    pub(crate) fn has_reached(&self, (index, state): (u64, u64)) -> bool {
        let bank = &self.member.state().bank;
        bank.index() == index && bank.digest() == state
    }

    pub(crate) fn describe(&self) -> String {
        format!("{} at {}", self.leader, self.member.state().bank.index())
    }
}

pub(super) fn explain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn code_of(failure: Failure) -> ErrorCode {
    match failure {
        Failure::NoLeader | Failure::Dropped => ErrorCode::NoLeader,
        Failure::Busy | Failure::Behind => ErrorCode::Busy,
        Failure::Unknown => ErrorCode::OutcomeUnknown,
        Failure::TooLarge => ErrorCode::TooLarge,
        Failure::Refused => ErrorCode::Invalid,
        Failure::NoRoom => ErrorCode::DiskFull,
    }
}

/// What a member understands of what its connections bring.
enum Heard {
    Raft { from: MemberId, to: MemberId, bytes: Vec<u8> },
    Member { address: String, node: NodeId },
    Unreachable(Link),
    Command { peer: Peer, request: RequestId, command: Vec<u8> },
    Audit { peer: Peer, request: RequestId },
    Join { member: MemberId, address: String },
}

fn read(event: &NetworkEvent<'_>) -> Option<Heard> {
    match event {
        NetworkEvent::Record { sender, record } => read_record(sender.peer, record),
        NetworkEvent::Joined { sender, address, .. } if !address.is_empty() => {
            Some(Heard::Member { address: address.clone(), node: sender.node })
        }
        NetworkEvent::Connected { link, again: true, .. }
        | NetworkEvent::Overflowing { peer: Peer::Link(link) } => Some(Heard::Unreachable(*link)),
        _ => None,
    }
}

fn read_record(peer: Peer, record: &Record<'_>) -> Option<Heard> {
    match record.message_type() {
        RaftMessage::TYPE => {
            let (head, [bytes]) = record.open::<RaftMessage, 1>().ok()?;
            let (from, to) = (MemberId(head.from_member), MemberId(head.to_member));
            Some(Heard::Raft { from, to, bytes: bytes.to_vec() })
        }
        KeyTransaction::TYPE => {
            let (_, [_, _, bytes]) = record.open::<KeyTransaction, 3>().ok()?;
            let (request, command) = (record.request_id(), bytes.to_vec());
            Some(Heard::Command { peer, request, command })
        }
        KeyRange::TYPE => Some(Heard::Audit { peer, request: record.request_id() }),
        MemberJoin::TYPE => {
            let (head, [address]) = record.open::<MemberJoin, 1>().ok()?;
            let address = std::str::from_utf8(address).ok()?.to_owned();
            Some(Heard::Join { member: MemberId(head.member), address })
        }
        _ => None,
    }
}
