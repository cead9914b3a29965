//! Registers alone, in virtual time: the shipped coordinator of each client against replicas of a
//! few lines, on a network that delays, reorders and drops, with nodes that crash, links that are
//! cut and clients that die in the middle of a write.
//!
//! It is small so that many seeds of dense histories are cheap. Mistakes are made where records
//! leave and reach a client, so that the coordinator in every run is the shipped one. Deliberately
//! without changes of the ring: the simulator of whole clusters has them.

mod caller;
mod replica;

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;
use proto::ids::{NodeId, RingVersion, StoreId};
use proto::register::{part_count, part_of, replicas};
use proto::ring::{Member, Ring};
use proto::time::{Duration, Instant};

use crate::linear::{Action, Operation};
use crate::random::chance;
use caller::{ClientProcess, Outcome, Wish};
use client::logic::registers::AskKey;
use client::logic::rings::RingAnswer;
use replica::{Replica, Written};

/// A mistake that is built into all clients of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// A read takes its write-back for done without doing it.
    NoWriteBack,
    /// Two writes may have the same tag: every client takes itself for the same writer.
    ReusedTag,
    /// A read asks only those who are on a list of who is alive, and takes them for a majority.
    ListOfTheLiving,
}

const NODES: u128 = 5;
const CLIENTS: usize = 5;
const REGISTERS: u64 = 2;

/// What a run did.
#[derive(Debug)]
pub struct Run {
    /// What the clients saw.
    pub history: Vec<Operation>,
    /// Crashes of replicas.
    pub crashes: u64,
    /// Records that were lost.
    pub lost: u64,
    /// Clients that died in the middle of an operation.
    pub deaths: u64,
}

/// Something that happens at its time.
#[derive(Debug)]
enum Happens {
    Request { client: usize, life: u64, to: NodeId, key: AskKey, record: Vec<u8> },
    Answer { client: usize, life: u64, from: NodeId, key: AskKey, record: Vec<u8> },
    Synced { node: NodeId, life: u64, written: Written, answer: Box<Happens> },
    Tick { client: usize },
    Wish { client: usize, life: u64 },
    Trouble,
    Starts { node: NodeId },
    Heals { client: usize, node: NodeId },
}

struct World {
    now: Instant,
    rng: Rng,
    mistake: Option<Mistake>,
    ring: RingAnswer,
    agenda: BTreeMap<(Instant, u64), Happens>,
    sequence: u64,
    replicas: BTreeMap<NodeId, Replica>,
    clients: Vec<ClientProcess>,
    /// When each client is woken next.
    wakes: [Option<Instant>; CLIENTS],
    cut: BTreeSet<(usize, NodeId)>,
    last_value: u64,
    run: Run,
}

/// Runs one seed for this long in virtual time.
#[must_use]
pub fn run(seed: u64, mistake: Option<Mistake>, span: Duration) -> Run {
    let mut world = World::new(seed, mistake);
    for client in 0..CLIENTS {
        world.later(Duration::from_millis(1), Happens::Wish { client, life: 0 });
    }
    world.later(Duration::from_millis(5), Happens::Trouble);
    while let Some(((at, _), happens)) = world.agenda.pop_first() {
        world.now = at;
        if at > Instant(0) + span {
            break;
        }
        world.happens(happens);
    }
    for client in 0..CLIENTS {
        world.left_open(client);
    }
    world.run
}

impl World {
    fn new(seed: u64, mistake: Option<Mistake>) -> World {
        let ring = ring();
        let nodes = ring.ring.members().iter().map(|it| (it.node, Replica::default()));
        let client = |at| ClientProcess::new(at as u128 + 1, &ring);
        World {
            now: Instant(0),
            rng: Rng::with_seed(seed),
            mistake,
            agenda: BTreeMap::new(),
            sequence: 0,
            replicas: nodes.collect(),
            clients: (0..CLIENTS).map(client).collect(),
            wakes: [None; CLIENTS],
            cut: BTreeSet::new(),
            last_value: 0,
            run: Run { history: Vec::new(), crashes: 0, lost: 0, deaths: 0 },
            ring,
        }
    }

    fn later(&mut self, span: Duration, happens: Happens) {
        self.sequence += 1;
        self.agenda.insert((self.now + span, self.sequence), happens);
    }

    fn micros(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_micros(self.rng.u64(range))
    }

    /// Puts a record on its way, unless it is lost.
    fn send(&mut self, (client, node): (usize, NodeId), happens: Happens) {
        if self.cut.contains(&(client, node)) || chance(&mut self.rng, 10) {
            self.run.lost += 1;
            return;
        }
        let is_slow = chance(&mut self.rng, 50);
        let delay = self.micros(if is_slow { 1_000..40_000 } else { 50..500 });
        self.later(delay, happens);
    }

    fn happens(&mut self, happens: Happens) {
        match happens {
            Happens::Request { client, life, to, key, record } => {
                self.requested(client, life, to, key, &record);
            }
            Happens::Synced { node, life, written, answer } => {
                let replica = self.replicas.get_mut(&node).expect("a replica");
                if replica.life == life && replica.is_up {
                    replica.synced(written);
                    if let Happens::Answer { client, .. } = *answer {
                        self.send((client, node), *answer);
                    }
                }
            }
            Happens::Answer { client, life, from, key, record } => {
                let process = &mut self.clients[client];
                if process.life == life {
                    process.answered(self.now, self.mistake, from, key, &record);
                    self.settle(client);
                }
            }
            Happens::Tick { client } => {
                self.wakes[client] = self.wakes[client].filter(|due| *due > self.now);
                self.clients[client].tick(self.now);
                self.settle(client);
            }
            Happens::Wish { client, life } if self.clients[client].life == life => {
                self.begin(client);
            }
            Happens::Wish { .. } => {}
            Happens::Trouble => self.trouble(),
            Happens::Starts { node } => self.replicas.get_mut(&node).expect("a replica").start(),
            Happens::Heals { client, node } => {
                self.cut.remove(&(client, node));
            }
        }
    }

    fn requested(&mut self, client: usize, life: u64, to: NodeId, key: AskKey, record: &[u8]) {
        let replica = self.replicas.get_mut(&to).expect("a replica");
        if !replica.is_up {
            self.run.lost += 1;
            return;
        }
        let (answer, written) = replica.handle(record);
        let its_life = replica.life;
        let answer = Happens::Answer { client, life, from: to, key, record: answer };
        match written {
            None => self.send((client, to), answer),
            Some(written) => {
                let sync = self.micros(100..3_000);
                let answer = Box::new(answer);
                self.later(sync, Happens::Synced { node: to, life: its_life, written, answer });
            }
        }
    }

    fn begin(&mut self, client: usize) {
        let register = self.rng.u64(0..REGISTERS);
        let action = if self.rng.bool() {
            self.last_value += 1;
            Action::Write(self.last_value)
        } else {
            Action::Read(None)
        };
        self.clients[client].begin(self.now, Wish { register, action, begin: self.now });
        self.settle(client);
    }

    /// Sends what a client has to send and writes down what it has done.
    fn settle(&mut self, client: usize) {
        while let Some(ask) = self.clients[client].next_ask(self.now, self.mistake) {
            let life = self.clients[client].life;
            let (to, key, record) = (ask.to, ask.key, ask.record);
            self.send((client, to), Happens::Request { client, life, to, key, record });
        }
        if let Some((wish, ended)) = self.clients[client].take_ended() {
            self.note(client, wish, ended);
            let pause = self.micros(0..3_000);
            let life = self.clients[client].life;
            self.later(pause, Happens::Wish { client, life });
        }
        if let Some(due) = self.clients[client].next_deadline()
            && self.wakes[client].is_none_or(|wake| due < wake)
        {
            self.wakes[client] = Some(due);
            self.later(due.since(self.now), Happens::Tick { client });
        }
    }

    fn note(&mut self, client: usize, wish: Wish, ended: Outcome) {
        let (register, begin) = (wish.register, wish.begin.0);
        let (action, end) = match (wish.action, ended) {
            (Action::Write(value), Outcome::Done(_)) => (Action::Write(value), Some(self.now.0)),
            (Action::Write(value), Outcome::Unknown) => (Action::Write(value), None),
            (Action::Read(_), Outcome::Done(found)) => (Action::Read(found), Some(self.now.0)),
            // A write that is said not to have taken effect: reading its value would be a fault.
            _ => return,
        };
        self.run.history.push(Operation { client, register, action, begin, end });
    }

    /// What a client had begun when it died, or the run ended.
    fn left_open(&mut self, client: usize) {
        if let Some(Wish { register, action: action @ Action::Write(_), begin }) =
            self.clients[client].wish
        {
            let begin = begin.0;
            self.run.history.push(Operation { client, register, action, begin, end: None });
        }
    }

    fn trouble(&mut self) {
        let node = NodeId(self.rng.u128(1..=NODES));
        let client = self.rng.usize(0..CLIENTS);
        match self.rng.u8(0..8) {
            0 | 1 if self.replicas.values().filter(|it| !it.is_up).count() < 2 => {
                let replica = self.replicas.get_mut(&node).expect("a replica");
                if replica.is_up {
                    replica.crash();
                    self.run.crashes += 1;
                    let down = self.micros(1_000..100_000);
                    self.later(down, Happens::Starts { node });
                }
            }
            2 => {
                self.left_open(client);
                self.run.deaths += u64::from(self.clients[client].wish.is_some());
                let writer = self.rng.u128(1 << 64..);
                let life = self.clients[client].life + 1;
                self.clients[client] = ClientProcess::new(writer, &self.ring);
                self.clients[client].life = life;
                self.later(Duration::from_millis(1), Happens::Wish { client, life });
            }
            3..=6 => {
                // Cut off from two replicas of a register, as one side of a partition is.
                for node in self.rng.choose_multiple(self.ring.addresses.clone().into_keys(), 2) {
                    self.cut.insert((client, node));
                    let span = self.micros(5_000..200_000);
                    self.later(span, Happens::Heals { client, node });
                }
            }
            _ => {}
        }
        let pause = self.micros(1_000..30_000);
        self.later(pause, Happens::Trouble);
    }
}

fn ring() -> RingAnswer {
    let member = |n| Member { node: NodeId(n), store: StoreId(n), weight: 1, zone: 0 };
    let members = (1..=NODES).map(member).collect();
    let ring = Ring::new(RingVersion(1), 1 << 8, members).expect("a ring");
    let register_versions = vec![ring.version(); part_count(&ring) as usize];
    let addresses = (1..=NODES).map(|n| (NodeId(n), format!("node:{n}"))).collect();
    RingAnswer { ring, older: Vec::new(), replica_count: 2, addresses, register_versions }
}

/// The nodes that keep a register.
fn replicas_of(ring: &Ring, register: u64) -> Vec<NodeId> {
    replicas(ring, part_of(register, part_count(ring)))
}
