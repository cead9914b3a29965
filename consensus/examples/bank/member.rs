//! One member as a process: a disk, sockets, and a loop.
//!
//! Talks to other members over ZeroMQ and to its parent by lines: requests on standard input, what
//! became of them on standard output. Ends when standard input does.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use consensus::{
    Config, Disk, DiskError, DiskThread, Done, Effect, EffectOf, Event, Identity as MemberIdentity,
    Member, MemberChange, MemberId, Role, Ticket,
};
use node::clock::Clock;
use node::data_folder::DataFolder;
use node::files::{Files, RealFiles};
use node::logic::network::{Identity, Link, NetworkEffect, NetworkEvent, Peer};
use node::network::{Exposure, Network};
use proto::ids::ClusterId;
use proto::messages::raft::RaftMessage;
use proto::record::{Message, encode};
use proto::status::Role as Tier;

use crate::bank::{Bank, Transfer};

/// First argument of a process that is a member.
pub(crate) const ARGUMENT: &str = "member";

/// The members that a new cluster gets beside the first.
const OTHERS: [MemberId; 2] = [MemberId(2), MemberId(3)];

const CLUSTER: ClusterId = ClusterId(0xba2c);

/// What is waited for.
enum Asked {
    Transfer(Transfer),
    Change,
    Sum,
}

struct Process {
    clock: Clock,
    network: Network,
    member: Member<Bank>,
    disk: DiskThread<<Bank as consensus::StateMachine>::Snapshot>,
    /// Which member is at the other end of a link, whose number is the member's.
    peers: BTreeMap<MemberId, String>,
    asked: BTreeMap<Ticket, Asked>,
    next_ticket: u64,
    out: std::io::Stdout,
}

fn text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// What other threads have for the loop.
enum Arrived {
    Line(String),
    Done(Done),
    End,
}

type Queue = Arc<Mutex<VecDeque<Arrived>>>;

fn take(queue: &Queue) -> VecDeque<Arrived> {
    std::mem::take(&mut queue.lock().unwrap_or_else(PoisonError::into_inner))
}

fn put(queue: &Queue, arrived: Arrived) {
    queue.lock().unwrap_or_else(PoisonError::into_inner).push_back(arrived);
}

/// Makes the folder what it should be, once, and opens it.
fn open(number: u64, folder: &Path) -> Result<(Disk, consensus::Recovered), String> {
    let files: Arc<dyn Files> = Arc::new(RealFiles);
    let path = folder.join("consensus");
    match Disk::open(&files, &path) {
        Err(DiskError::NotMade(_)) => {}
        opened => return opened.map_err(|error| text(&error)),
    }
    let bits = node::random::bits().map_err(|error| text(&error))?;
    let identity = MemberIdentity::new(CLUSTER, MemberId(number), bits);
    let made = if number == 1 {
        Disk::bootstrap(&files, &path, &identity, "first", &Bank::default())
    } else {
        Disk::join(&files, &path, &identity)
    };
    made.and_then(|()| Disk::open(&files, &path)).map_err(|error| text(&error))
}

/// Runs a member until its standard input ends.
pub(crate) fn run(number: u64, path: &Path, listen: &str) -> Result<(), String> {
    let folder =
        DataFolder::open(path, Tier::Master, Some(CLUSTER)).map_err(|error| text(&error))?;
    let clock = Clock::start();
    let (disk, recovered) = open(number, path)?;
    let identity = Identity {
        node: folder.node(),
        role: Tier::Master,
        cluster: CLUSTER,
        incarnation: folder.incarnation(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        address: String::new(),
    };
    let network =
        Network::bind(identity, listen, Exposure::Loopback, clock).map_err(|error| text(&error))?;
    let config = Config {
        incarnation: folder.incarnation(),
        // Small, so that a drill of seconds has snapshots in it.
        snapshot_after_bytes: 1 << 20,
        trailing_bytes: 64 << 10,
        ..Config::default()
    };
    let rng = node::random::generator().map_err(|error| text(&error))?;
    let member = Member::new(config, recovered, Bank::default(), rng, clock.now())
        .map_err(|error| text(&error))?;
    let queue = Queue::default();
    let (for_disk, waker) = (queue.clone(), network.waker());
    let disk = DiskThread::start::<Bank>(disk, move |done| {
        put(&for_disk, Arrived::Done(done));
        waker.wake();
    })
    .map_err(|error| text(&error))?;
    let (for_lines, waker) = (queue.clone(), network.waker());
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            put(&for_lines, Arrived::Line(line));
            waker.wake();
        }
        put(&for_lines, Arrived::End);
        waker.wake();
    });
    let mut process = Process {
        clock,
        network,
        member,
        disk,
        peers: BTreeMap::new(),
        asked: BTreeMap::new(),
        next_ticket: 0,
        out: std::io::stdout(),
    };
    let address = process.network.bound_address().unwrap_or_default().to_owned();
    process.say(&format!("listens {address}"));
    process.work(&queue)
}

impl Process {
    /// A parent that is gone reads nothing; the end of standard input follows.
    fn say(&mut self, line: &str) {
        let _ = writeln!(self.out, "{line}").and_then(|()| self.out.flush());
    }

    fn work(&mut self, queue: &Queue) -> Result<(), String> {
        let mut events = vec![Event::Tick];
        loop {
            for arrived in take(queue) {
                match arrived {
                    Arrived::End => return Ok(()),
                    Arrived::Done(done) => events.push(Event::Disk(done)),
                    Arrived::Line(line) => events.extend(self.asked_for(&line)?),
                }
            }
            let now = self.clock.now();
            if self.member.next_deadline().is_some_and(|due| due <= now) {
                events.push(Event::Tick);
            }
            let mut effects = Vec::new();
            self.member.handle_all(now, events.drain(..), &mut effects);
            for effect in effects {
                self.perform(effect)?;
            }
            let own = self.member.identity().member;
            self.network.poll(self.member.next_deadline(), &mut |event| match event {
                NetworkEvent::Record { record, .. }
                    if record.message_type() == RaftMessage::TYPE =>
                {
                    if let Ok((message, [bytes])) = record.open::<RaftMessage, 1>()
                        && message.to_member == own.0
                    {
                        let from = MemberId(message.from_member);
                        events.push(Event::Message { from, bytes: bytes.to_vec() });
                    }
                }
                NetworkEvent::Connected { link, again: true, .. }
                | NetworkEvent::Overflowing { peer: Peer::Link(link) } => {
                    events.push(Event::Unreachable(MemberId(u64::from(link.0))));
                }
                _ => {}
            });
        }
    }

    fn ticket(&mut self, asked: Asked) -> Ticket {
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        self.asked.insert(ticket, asked);
        ticket
    }

    /// What the parent's line asks the member for.
    fn asked_for(&mut self, line: &str) -> Result<Option<Event>, String> {
        let nonsense = || format!("the parent said {line:?}");
        let mut words = line.split(' ');
        let command = words.next().unwrap_or_default();
        let mut number = || words.next().and_then(|word| word.parse().ok()).ok_or_else(nonsense);
        Ok(Some(match command {
            "peer" => {
                let member = MemberId(number()?);
                let address = words.next().ok_or_else(nonsense)?.to_owned();
                let link = Link(u32::try_from(member.0).map_err(|_| nonsense())?);
                self.network.perform(NetworkEffect::Open { link, address: address.clone() });
                self.peers.insert(member, address);
                return Ok(None);
            }
            "learn" => {
                let member = MemberId(number()?);
                let address = self.peers.get(&member).ok_or_else(nonsense)?.clone();
                let change = MemberChange::AddLearner { member, address };
                Event::ChangeMembers { ticket: self.ticket(Asked::Change), change }
            }
            "promote" => {
                let change = MemberChange::Promote { voters: OTHERS.to_vec(), removed: vec![] };
                Event::ChangeMembers { ticket: self.ticket(Asked::Change), change }
            }
            "transfer" => {
                let transfer = Transfer {
                    client: number()?,
                    number: number()?,
                    from: number()?,
                    to: number()?,
                    amount: number()?,
                };
                let command = transfer.encode();
                Event::Invoke { ticket: self.ticket(Asked::Transfer(transfer)), command }
            }
            "sum" => Event::Read { ticket: self.ticket(Asked::Sum) },
            _ => return Err(nonsense()),
        }))
    }

    fn perform(&mut self, effect: EffectOf<Bank>) -> Result<(), String> {
        match effect {
            Effect::Send { to, bytes } => {
                let Ok(link) = u32::try_from(to.0) else { return Ok(()) };
                let from_member = self.member.identity().member.0;
                let message =
                    RaftMessage { from_member, to_member: to.0, ..RaftMessage::default() };
                let record = encode(&message, &[&bytes]);
                let to = Peer::Link(Link(link));
                self.network.perform(NetworkEffect::Send { to, record });
            }
            Effect::Disk(job) => self.disk.give(job),
            Effect::Completed { ticket, output, .. } => {
                let Some(Asked::Transfer(transfer)) = self.asked.remove(&ticket) else {
                    return Ok(());
                };
                let Transfer { client, number, .. } = transfer;
                match output {
                    Some(reply) => {
                        self.say(&format!(
                            "done {client} {number} {} {}",
                            reply.index, reply.moved
                        ));
                    }
                    None => {
                        self.say(&format!("failed {client} {number} it is older than the last"))
                    }
                }
            }
            Effect::Changed { ticket, .. } => {
                self.asked.remove(&ticket);
                self.say("changed");
            }
            Effect::ReadReady { ticket, index } => {
                self.asked.remove(&ticket);
                let bank = self.member.state();
                let replies = bank.books().replies.iter();
                let last: Vec<String> =
                    replies.map(|(client, reply)| format!("{client}:{}", reply.number)).collect();
                self.say(&format!("sum {} {index} {}", bank.sum(), last.join(",")));
            }
            Effect::Failed { ticket, failure } => match self.asked.remove(&ticket) {
                Some(Asked::Transfer(Transfer { client, number, .. })) => {
                    self.say(&format!("failed {client} {number} {failure}"));
                }
                Some(Asked::Change) => self.say(&format!("unchanged {failure}")),
                Some(Asked::Sum) => self.say("unread"),
                None => {}
            },
            Effect::LeaderChanged { role: Role::Leader, term, .. } => {
                self.say(&format!("leads {term}"));
            }
            Effect::Installed { .. } => self.say("installed"),
            Effect::Halt { reason } => return Err(format!("the member stopped: {reason}")),
            Effect::LeaderChanged { .. }
            | Effect::Applied { .. }
            | Effect::MembersChanged { .. } => {}
        }
        Ok(())
    }
}
