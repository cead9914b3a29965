//! A handful of replicas, masters that only know rings, and a client, in one queue of messages.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use fastrand::Rng;
use node::logic::network::{Link, Peer};
use node::logic::refusal::Refusal;
use proto::ids::{NodeId, RequestId, RingVersion, StoreId};
use proto::messages::node::{RegisterActivate, RegisterMove};
use proto::messages::register::{RegisterRead, RegisterValue, RegisterWrite, RegisterWritten};
use proto::messages::session::ErrorReply;
use proto::record::{self, Message, Records};
use proto::register::{Part, Tag, majority, part_count, part_of, replicas};
use proto::ring::{Member, Ring};
use proto::status::ErrorCode;
use proto::time::{Duration, Instant};
use proto::wire::{WireUuid, items_of};

use super::super::{Act, Registers};
use crate::logic::Asker;
use crate::registers::{Change, Job, JobDone, Recovered, Register};

/// The client's place among the askers.
const CLIENT: u32 = 0;

/// What a replica answered to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Got {
    Value(Tag, Vec<u8>),
    Written,
    Refused(ErrorCode),
    Nothing,
}

/// A disk that remembers what was synced.
#[derive(Debug, Default)]
struct Disk {
    registers: BTreeMap<u64, Register>,
    seals: BTreeMap<Part, RingVersion>,
}

impl Disk {
    fn sync(&mut self, change: &Change) {
        let mut seal = |part: &Part, version: &RingVersion| {
            let sealed = self.seals.entry(*part).or_insert(*version);
            *sealed = (*version).max(*sealed);
        };
        match change {
            Change::Keep(registers) => {
                for register in registers {
                    let there = self.registers.get(&register.address);
                    if there.is_none_or(|there| there.tag < register.tag) {
                        self.registers.insert(register.address, register.clone());
                    }
                }
            }
            Change::Seal { part, version } => seal(part, version),
            Change::Forget { part, version, addresses } => {
                seal(part, version);
                self.registers.retain(|address, _| !addresses.contains(address));
            }
        }
    }
}

#[derive(Debug)]
pub(super) struct Replica {
    pub(super) registers: Registers,
    disk: Disk,
    waiting: VecDeque<Job>,
    /// Nothing is synced for now.
    pub(super) is_held: bool,
    /// It does not hear of rings for now.
    pub(super) is_deaf: bool,
    /// Nothing reaches or leaves it.
    pub(super) is_cut: bool,
}

struct Mail {
    from: u32,
    to: u32,
    record: Vec<u8>,
}

pub(super) struct World {
    pub(super) now: Instant,
    pub(super) rings: Vec<Ring>,
    pub(super) active: Vec<RingVersion>,
    partition_count: u64,
    pub(super) replicas: BTreeMap<u32, Replica>,
    mails: VecDeque<Mail>,
    pub(super) are_masters_silent: bool,
    pub(super) held_activations: Vec<Vec<u8>>,
    pub(super) activations: usize,
    answers: BTreeMap<(u32, RequestId), Got>,
    next_request: u64,
    rng: Rng,
    /// One in so many messages is lost; 0 for none.
    pub(super) loss: u32,
    pub(super) sent: usize,
}

fn number_of(node: NodeId) -> u32 {
    node.0 as u32
}

impl World {
    pub(super) fn new(partition_count: u64, seed: u64) -> World {
        World {
            now: Instant(1_000_000),
            rings: Vec::new(),
            active: Vec::new(),
            partition_count,
            replicas: BTreeMap::new(),
            mails: VecDeque::new(),
            are_masters_silent: false,
            held_activations: Vec::new(),
            activations: 0,
            answers: BTreeMap::new(),
            next_request: 0,
            rng: Rng::with_seed(seed),
            loss: 0,
            sent: 0,
        }
    }

    /// Announces a version with these members and tells those that hear.
    pub(super) fn announce(&mut self, members: &[u32]) {
        let stores: Vec<(u32, u128)> = members.iter().map(|&it| (it, u128::from(it))).collect();
        self.announce_stores(&stores);
    }

    pub(super) fn announce_stores(&mut self, members: &[(u32, u128)]) {
        let version = RingVersion(self.rings.len() as u64 + 1);
        let member = |&(node, store): &(u32, u128)| Member {
            node: NodeId(node.into()),
            store: StoreId(store),
            weight: 1,
            zone: 0,
        };
        let members: Vec<Member> = members.iter().map(member).collect();
        for member in &members {
            let number = number_of(member.node);
            if !self.replicas.contains_key(&number) {
                self.start(number, member.store, Disk::default());
            }
        }
        let ring = Ring::new(version, self.partition_count, members).expect("a ring");
        self.active.resize(part_count(&ring) as usize, version);
        self.rings.push(ring);
        for part in 0..self.active.len() {
            let set = |version| self.set(version, Part(part as u32));
            if set(self.active[part]) == set(version) {
                self.active[part] = version;
            }
        }
        self.tell_all();
    }

    /// Replicas with their folders.
    fn set(&self, version: RingVersion, part: Part) -> BTreeSet<(NodeId, StoreId)> {
        let ring = self.ring(version);
        let nodes = replicas(ring, part);
        let its = ring.members().iter().filter(|member| nodes.contains(&member.node));
        its.map(|member| (member.node, member.store)).collect()
    }

    pub(super) fn ring(&self, version: RingVersion) -> &Ring {
        &self.rings[version.0 as usize - 1]
    }

    pub(super) fn newest(&self) -> RingVersion {
        RingVersion(self.rings.len() as u64)
    }

    fn start(&mut self, number: u32, store: StoreId, disk: Disk) {
        let rng = self.rng.fork();
        let mut registers = Registers::new(NodeId(number.into()), store, rng);
        registers.recover(Recovered {
            registers: disk.registers.values().cloned().collect(),
            seals: disk.seals.iter().map(|(&part, &version)| (part, version)).collect(),
            ..Recovered::default()
        });
        let waiting = VecDeque::new();
        let replica =
            Replica { registers, disk, waiting, is_held: false, is_deaf: false, is_cut: false };
        self.replicas.insert(number, replica);
    }

    /// A replica crashes with what waits for its disk, and starts again.
    pub(super) fn restart(&mut self, number: u32, store: StoreId) {
        let old = self.replicas.remove(&number).expect("a replica");
        self.mails.retain(|mail| mail.from != number && mail.to != number);
        let is_same = store.0 == u128::from(number);
        self.start(number, store, if is_same { old.disk } else { Disk::default() });
        self.replica(number).is_cut = old.is_cut;
        self.tell(number);
    }

    pub(super) fn replica(&mut self, number: u32) -> &mut Replica {
        self.replicas.get_mut(&number).expect("a replica")
    }

    pub(super) fn tell_all(&mut self) {
        let numbers: Vec<u32> = self.replicas.keys().copied().collect();
        numbers.into_iter().for_each(|number| self.tell(number));
    }

    /// The masters tell a replica of the rings.
    pub(super) fn tell(&mut self, number: u32) {
        let replica = self.replicas.get_mut(&number).expect("a replica");
        if replica.is_deaf || replica.is_cut {
            return;
        }
        let (mut acts, rings) = (Vec::new(), self.rings.iter().collect::<Vec<_>>());
        replica.registers.learn(self.now, &rings, &self.active, &mut acts);
        self.perform(number, acts);
    }

    fn perform(&mut self, number: u32, acts: Vec<Act>) {
        for act in acts {
            match act {
                Act::Change(job) => self.replica(number).waiting.push_back(job),
                Act::Answer(asker, record) => self.answer(number, asker, record),
                Act::Refuse(asker, mut refusal) => {
                    refusal.refused_type = asker.message_type;
                    self.answer(number, asker, refusal.to_record(asker.request_id));
                }
                Act::Ask(node, record) => self.post(number, number_of(node), record),
                Act::AskLeader(record) if self.are_masters_silent => {
                    self.held_activations.push(record);
                }
                Act::AskLeader(record) => {
                    self.activate(&record);
                    let (mut acts, now) = (Vec::new(), self.now);
                    self.replica(number).registers.activated(now, &mut acts);
                    self.perform(number, acts);
                }
                Act::AskRing => self.tell(number),
            }
        }
    }

    fn answer(&mut self, from: u32, asker: Asker, record: Vec<u8>) {
        let Peer::Link(Link(to)) = asker.peer else { panic!("no such asker") };
        self.post(from, to, record);
    }

    fn post(&mut self, from: u32, to: u32, record: Vec<u8>) {
        self.sent += 1;
        if self.loss == 0 || self.rng.u32(0..self.loss) > 0 {
            self.mails.push_back(Mail { from, to, record });
        }
    }

    /// Applies what a mover asks of the masters.
    pub(super) fn activate(&mut self, record: &[u8]) {
        self.activations += 1;
        let record = Records::of(record).next().unwrap().unwrap();
        let (_, [moves]) = record.open::<RegisterActivate, 1>().unwrap();
        for it in items_of::<RegisterMove>(moves).unwrap() {
            let active = &mut self.active[it.part as usize];
            if active.0 == it.from_version && it.to_version > it.from_version {
                *active = RingVersion(it.to_version);
            }
        }
    }

    fn deliver(&mut self, mail: Mail) {
        let Mail { from, to, record } = mail;
        let is_cut = |number| self.replicas.get(&number).is_some_and(|it| it.is_cut);
        if is_cut(from) || is_cut(to) {
            return;
        }
        let record = Records::of(&record).next().unwrap().unwrap();
        let request_id = record.request_id();
        if to == CLIENT {
            let got = match record.message_type() {
                RegisterValue::TYPE => {
                    let (head, [value]) = record.open::<RegisterValue, 1>().unwrap();
                    let (sequence, operation) = (head.sequence, head.operation);
                    let writer = head.writer_uuid.value();
                    Got::Value(Tag { sequence, writer, operation }, value.to_vec())
                }
                RegisterWritten::TYPE => Got::Written,
                _ => Got::Refused(Refusal::from_record(&record).unwrap().code),
            };
            self.answers.insert((from, request_id), got);
            return;
        }
        let mut acts = Vec::new();
        let Some(replica) = self.replicas.get_mut(&to) else { return };
        let message_type = record.message_type();
        if Registers::is_request(message_type) {
            let peer = Peer::Link(Link(from));
            let node = NodeId(from.into());
            let asker = Asker { peer, node, request_id, in_given_form: false, message_type };
            replica.registers.asked(self.now, asker, &record, &mut acts);
        } else if message_type == ErrorReply::TYPE {
            let refusal = Refusal::from_record(&record).unwrap();
            replica.registers.refused(self.now, request_id, &refusal, &mut acts);
        } else {
            replica.registers.answered(self.now, &record, &mut acts);
        }
        self.perform(to, acts);
    }

    /// One change becomes durable; false where none can.
    fn sync_one(&mut self) -> bool {
        let ready = self.replicas.iter_mut().find(|it| !it.1.is_held && !it.1.waiting.is_empty());
        let Some((&number, replica)) = ready else { return false };
        let Some(job) = replica.waiting.pop_front() else { return false };
        replica.disk.sync(&job.change);
        let mut acts = Vec::new();
        let done = JobDone { ticket: job.ticket, result: Ok(()) };
        replica.registers.done(self.now, done, &mut acts);
        self.perform(number, acts);
        true
    }

    /// Everything that happens without time passing.
    pub(super) fn settle(&mut self) {
        self.step(u64::MAX);
    }

    /// At most so many of the things that happen without time passing.
    pub(super) fn step(&mut self, count: u64) {
        for _ in 0..count {
            if let Some(mail) = self.mails.pop_front() {
                self.deliver(mail);
            } else if !self.sync_one() {
                break;
            }
            self.replicas.values().for_each(|it| it.registers.check_invariants());
        }
    }

    /// Lets time pass; the masters are asked for the ring once a second.
    pub(super) fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        let mut tell_at = self.now + Duration::from_secs(1);
        loop {
            self.settle();
            let alive = self.replicas.values().filter(|it| !it.is_cut);
            let due = alive.filter_map(|it| it.registers.next_deadline()).min();
            let next = due.unwrap_or(end).min(tell_at).min(end);
            self.now = next.max(self.now + Duration::from_micros(1));
            if self.now >= end {
                break;
            }
            if self.now >= tell_at {
                tell_at = self.now + Duration::from_secs(1);
                self.tell_all();
            }
            let alive = self.replicas.iter().filter(|(_, it)| !it.is_cut);
            for number in alive.map(|(&number, _)| number).collect::<Vec<u32>>() {
                let (mut acts, now) = (Vec::new(), self.now);
                self.replica(number).registers.tick(now, &mut acts);
                self.perform(number, acts);
            }
        }
    }

    fn ask(&mut self, to: u32, mut record: Vec<u8>) -> RequestId {
        self.next_request += 1;
        let request_id = RequestId(self.next_request);
        record::set_request_id(&mut record, request_id);
        self.post(CLIENT, to, record);
        request_id
    }

    /// Asks one replica anything.
    pub(super) fn ask_raw(&mut self, to: u32, record: Vec<u8>) -> Got {
        let request = self.ask(to, record);
        self.settle();
        self.answered(to, request)
    }

    fn answered(&mut self, from: u32, request_id: RequestId) -> Got {
        self.answers.remove(&(from, request_id)).unwrap_or(Got::Nothing)
    }

    /// Asks one replica for a register under a version; version 0 for its own copy.
    pub(super) fn read_at(&mut self, to: u32, version: u64, address: u64) -> Got {
        let read = RegisterRead {
            register_address: address,
            ring_version: version,
            wants_value: 1,
            is_local: u8::from(version == 0),
            ..RegisterRead::default()
        };
        self.ask_raw(to, record::encode(&read, &[]))
    }

    /// Asks one replica to keep a value, and does not wait.
    pub(super) fn begin_write(&mut self, to: u32, version: u64, it: &Register) -> RequestId {
        let write = RegisterWrite {
            register_address: it.address,
            ring_version: version,
            sequence: it.tag.sequence,
            writer_uuid: WireUuid::new(it.tag.writer),
            operation: it.tag.operation,
            ..RegisterWrite::default()
        };
        self.ask(to, record::encode(&write, &[&it.value]))
    }

    pub(super) fn write_at(&mut self, to: u32, version: u64, it: &Register) -> Got {
        let request = self.begin_write(to, version, it);
        self.settle();
        self.answered(to, request)
    }

    pub(super) fn outcome(&mut self, from: u32, request: RequestId) -> Got {
        self.settle();
        self.answered(from, request)
    }

    pub(super) fn part(&self, address: u64) -> Part {
        part_of(address, self.active.len() as u32)
    }

    /// The replicas of a register under its active version, with that version.
    pub(super) fn owners(&self, address: u64) -> (u64, Vec<u32>) {
        let part = self.part(address);
        let version = self.active[part.0 as usize];
        let nodes = replicas(self.ring(version), part);
        (version.0, nodes.into_iter().map(number_of).collect())
    }

    /// A write to a majority as a client does it: true where it is acknowledged. A client tries
    /// again where a replica does not know the ring yet; so does this, once.
    pub(super) fn write(&mut self, it: &Register) -> bool {
        self.try_write(it) || self.try_write(it)
    }

    fn try_write(&mut self, it: &Register) -> bool {
        let (version, owners) = self.owners(it.address);
        let written = owners.iter().filter(|&&to| self.write_at(to, version, it) == Got::Written);
        written.count() >= majority(owners.len())
    }

    /// A read with its write-back: the highest tag of a majority, `None` where there is no
    /// majority.
    pub(super) fn read(&mut self, address: u64) -> Option<(Tag, Vec<u8>)> {
        self.try_read(address).or_else(|| self.try_read(address))
    }

    fn try_read(&mut self, address: u64) -> Option<(Tag, Vec<u8>)> {
        let (version, owners) = self.owners(address);
        let answers = owners.iter().map(|&to| self.read_at(to, version, address));
        let values = answers.filter_map(|got| match got {
            Got::Value(tag, value) => Some((tag, value)),
            _ => None,
        });
        let values: Vec<(Tag, Vec<u8>)> = values.collect();
        if values.len() < majority(owners.len()) {
            return None;
        }
        let (tag, value) = values.into_iter().max()?;
        let back = Register { address, tag, value: Arc::from(value.as_slice()) };
        (tag == Tag::default() || self.write(&back)).then_some((tag, value))
    }

    /// True where every part goes by the newest version.
    pub(super) fn is_moved(&self) -> bool {
        self.active.iter().all(|&active| active == self.newest())
    }
}
