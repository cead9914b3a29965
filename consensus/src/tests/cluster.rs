//! A cluster of members in one thread: virtual time, links that keep order, disks in memory.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::sync::Arc;

use fastrand::Rng;
use node::files::Files;
use proto::ids::{ClusterId, Incarnation, LogIndex};
use proto::time::{Duration, Instant};

use super::ledger::Ledger;
use super::memory_files::MemoryFiles;
use crate::disk::Disk;
use crate::identity::Identity;
use crate::ids::{MemberId, Ticket};
use crate::job::Job;
use crate::logic::{
    Config, Effect, EffectOf, Event, Failure, HaltReason, Member, MemberChange, MemberInfo, Role,
};
use crate::state_machine::StateMachine;

/// Latency of a message and of a disk job.
const STEP: Duration = Duration::from_millis(1);

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Completed(LogIndex, usize),
    Changed(LogIndex),
    Failed(Failure),
    ReadReady(LogIndex),
}

pub(super) struct Node {
    pub(super) files: MemoryFiles,
    pub(super) member: Option<Member<Ledger>>,
    disk: Option<Disk>,
    jobs: Vec<Job<<Ledger as StateMachine>::Snapshot>>,
    incarnation: u64,
    /// The disk does nothing while it is set.
    pub(super) disk_stands: bool,
    pub(super) halted: Option<HaltReason>,
    pub(super) installed: usize,
    /// The members as the effects named them.
    told: BTreeMap<MemberId, MemberInfo>,
}

pub(super) struct Cluster {
    pub(super) now: Instant,
    pub(super) nodes: BTreeMap<MemberId, Node>,
    links: BTreeMap<(MemberId, MemberId), VecDeque<Vec<u8>>>,
    pub(super) cut: BTreeSet<MemberId>,
    outcomes: BTreeMap<Ticket, Outcome>,
    next_ticket: u64,
    pub(super) config: Config,
}

pub(super) fn id(number: u64) -> MemberId {
    MemberId(number)
}

pub(super) fn identity(member: MemberId) -> Identity {
    let mut identity = Identity::new(ClusterId(5), member, u128::from(member.0));
    identity.shape.file_bytes = 16 << 10;
    identity
}

pub(super) fn folder() -> &'static Path {
    Path::new("/data/member")
}

impl Cluster {
    /// Member 1, bootstrapped and leading.
    pub(super) fn of_one() -> Cluster {
        Cluster::with(Config::default())
    }

    pub(super) fn with(config: Config) -> Cluster {
        let mut cluster = Cluster {
            now: Instant(1_000_000),
            nodes: BTreeMap::new(),
            links: BTreeMap::new(),
            cut: BTreeSet::new(),
            outcomes: BTreeMap::new(),
            next_ticket: 0,
            config,
        };
        let files = MemoryFiles::default();
        let shared: Arc<dyn Files> = Arc::new(files.clone());
        let first = Ledger::default();
        Disk::bootstrap(&shared, folder(), &identity(id(1)), "address 1", &first).unwrap();
        cluster.insert(id(1), files);
        cluster.start(id(1));
        cluster.run_until("member 1 leads", |cluster| cluster.leader() == Some(id(1)));
        cluster
    }

    /// Three voters; member 1 leads.
    pub(super) fn of_three() -> Cluster {
        Cluster::three_with(Config::default())
    }

    pub(super) fn three_with(config: Config) -> Cluster {
        let mut cluster = Cluster::with(config);
        cluster.join(id(2));
        cluster.join(id(3));
        let promote = MemberChange::Promote { voters: vec![id(2), id(3)], removed: vec![] };
        let outcome = cluster.change_until_taken(id(1), &promote);
        assert!(matches!(outcome, Outcome::Changed(_)), "{outcome:?}");
        // Until the others know that the second step is committed, they need the first member.
        cluster.agree();
        cluster
    }

    fn insert(&mut self, member: MemberId, files: MemoryFiles) {
        let node = Node {
            files,
            member: None,
            disk: None,
            jobs: Vec::new(),
            incarnation: 0,
            disk_stands: false,
            halted: None,
            installed: 0,
            told: BTreeMap::new(),
        };
        self.nodes.insert(member, node);
    }

    /// Starts a member that nobody has added.
    pub(super) fn prepare(&mut self, member: MemberId) {
        let files = MemoryFiles::default();
        let shared: Arc<dyn Files> = Arc::new(files.clone());
        Disk::join(&shared, folder(), &identity(member)).unwrap();
        self.insert(member, files);
        self.start(member);
    }

    /// Adds a learner and waits until it has the log.
    pub(super) fn join(&mut self, member: MemberId) {
        self.prepare(member);
        let leader = self.leader().unwrap();
        let address = format!("address {member}");
        let outcome =
            self.change_until_taken(leader, &MemberChange::AddLearner { member, address });
        assert!(matches!(outcome, Outcome::Changed(_)), "{outcome:?}");
        let target = self.member(leader).applied_index();
        self.run_until("the learner has the log", |cluster| {
            cluster.member(member).applied_index() >= target
        });
    }

    /// Starts a member from its disk.
    pub(super) fn start(&mut self, member: MemberId) {
        let node = self.nodes.get_mut(&member).unwrap();
        node.incarnation += 1;
        let files: Arc<dyn Files> = Arc::new(node.files.clone());
        let (disk, recovered) = Disk::open(&files, folder()).unwrap();
        let config = Config { incarnation: Incarnation(node.incarnation), ..self.config.clone() };
        let rng = Rng::with_seed(member.0 * 1_000 + node.incarnation);
        let started = Member::new(config, recovered, Ledger::default(), rng, self.now).unwrap();
        node.member = Some(started);
        node.told.clear();
        node.disk = Some(disk);
        node.jobs.clear();
        self.give(member, Event::Tick);
    }

    /// Kills a member; its disk loses what was not synced, the others notice.
    pub(super) fn kill(&mut self, member: MemberId) {
        let node = self.nodes.get_mut(&member).unwrap();
        (node.member, node.disk) = (None, None);
        node.files.crash();
        self.links.retain(|&(from, to), _| from != member && to != member);
        let others: Vec<MemberId> = self.nodes.keys().copied().filter(|&id| id != member).collect();
        for other in others {
            self.give(other, Event::Unreachable(member));
        }
    }

    pub(super) fn member(&self, member: MemberId) -> &Member<Ledger> {
        self.nodes[&member].member.as_ref().expect("the member runs")
    }

    /// The leader that a majority of the living follows.
    pub(super) fn leader(&self) -> Option<MemberId> {
        let running = self.nodes.iter().filter_map(|(&id, node)| Some((id, node.member.as_ref()?)));
        let leading =
            running.filter(|(id, member)| member.role() == Role::Leader && !self.cut.contains(id));
        leading.max_by_key(|(_, member)| member.term()).map(|(id, _)| id)
    }

    /// Hands a member an event and carries out what it wants.
    pub(super) fn give(&mut self, member: MemberId, event: Event) {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(&member) else { return };
        let Some(running) = &mut node.member else { return };
        let mut effects = Vec::new();
        running.handle(now, event, &mut effects);
        running.check_invariants();
        for effect in effects {
            self.perform(member, effect);
        }
        let node = &self.nodes[&member];
        let known = node.member.as_ref().map(Member::members);
        assert_eq!(known, Some(&node.told), "whoever follows the effects knows the members");
    }

    fn perform(&mut self, member: MemberId, effect: EffectOf<Ledger>) {
        let node = self.nodes.get_mut(&member).unwrap();
        let ended = match effect {
            Effect::Send { to, bytes } => {
                if !self.cut.contains(&member) && !self.cut.contains(&to) {
                    self.links.entry((member, to)).or_default().push_back(bytes);
                }
                return;
            }
            Effect::Disk(job) => return node.jobs.push(job),
            Effect::Halt { reason } => {
                node.halted = Some(reason);
                return;
            }
            Effect::Installed { .. } => {
                node.installed += 1;
                return;
            }
            Effect::Completed { ticket, index, output } => {
                (ticket, Outcome::Completed(index, output))
            }
            Effect::Changed { ticket, index } => (ticket, Outcome::Changed(index)),
            Effect::Failed { ticket, failure } => (ticket, Outcome::Failed(failure)),
            Effect::ReadReady { ticket, index } => (ticket, Outcome::ReadReady(index)),
            Effect::MembersChanged { members } => {
                node.told = members;
                return;
            }
            Effect::Applied { .. } | Effect::LeaderChanged { .. } => return,
        };
        let before = self.outcomes.insert(ended.0, ended.1);
        assert_eq!(before, None, "a request ends once");
    }

    /// One millisecond: messages arrive, disks do what they were given, deadlines come.
    pub(super) fn step(&mut self) {
        self.now += STEP;
        let arriving = std::mem::take(&mut self.links);
        for ((from, to), messages) in arriving {
            for bytes in messages {
                if !self.cut.contains(&from) && !self.cut.contains(&to) {
                    self.give(to, Event::Message { from, bytes });
                }
            }
        }
        let ids: Vec<MemberId> = self.nodes.keys().copied().collect();
        for member in ids {
            let node = self.nodes.get_mut(&member).unwrap();
            if !node.disk_stands
                && let Some(disk) = &mut node.disk
            {
                let jobs = std::mem::take(&mut node.jobs);
                let done = disk.perform::<Ledger>(jobs);
                for done in done {
                    self.give(member, Event::Disk(done));
                }
            }
            let running = self.nodes[&member].member.as_ref();
            let due = running.and_then(Member::next_deadline).is_some_and(|at| at <= self.now);
            if due {
                self.give(member, Event::Tick);
            }
        }
    }

    pub(super) fn run(&mut self, span: Duration) {
        let end = self.now + span;
        while self.now < end {
            self.step();
        }
    }

    /// Runs until something holds, at most twenty virtual seconds.
    pub(super) fn run_until(&mut self, what: &str, holds: impl Fn(&Cluster) -> bool) {
        let end = self.now + Duration::from_secs(20);
        while !holds(self) {
            assert!(self.now < end, "it never came about that {what}:\n{}", self.explain());
            self.step();
        }
    }

    fn explain(&self) -> String {
        let running = self.nodes.values().filter_map(|node| node.member.as_ref());
        running.map(|member| member.explain() + "\n").collect()
    }

    fn ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket(self.next_ticket)
    }

    /// Asks a member for a command; the end comes later.
    pub(super) fn ask(&mut self, member: MemberId, command: &[u8]) -> Ticket {
        let ticket = self.ticket();
        self.give(member, Event::Invoke { ticket, command: command.to_vec() });
        ticket
    }

    pub(super) fn outcome(&self, ticket: Ticket) -> Option<Outcome> {
        self.outcomes.get(&ticket).copied()
    }

    fn end(&mut self, ticket: Ticket) -> Outcome {
        self.run_until("the request ends", |cluster| cluster.outcome(ticket).is_some());
        self.outcome(ticket).unwrap()
    }

    /// Asks a member for a command and waits for the end.
    pub(super) fn invoke(&mut self, member: MemberId, command: &[u8]) -> Outcome {
        let ticket = self.ask(member, command);
        self.end(ticket)
    }

    /// As [`Cluster::invoke`], which must succeed.
    pub(super) fn commit(&mut self, member: MemberId, command: &[u8]) -> LogIndex {
        match self.invoke(member, command) {
            Outcome::Completed(index, _) => index,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn read(&mut self, member: MemberId) -> Outcome {
        let ticket = self.ticket();
        self.give(member, Event::Read { ticket });
        self.end(ticket)
    }

    pub(super) fn change(&mut self, member: MemberId, change: &MemberChange) -> Outcome {
        let ticket = self.ticket();
        self.give(member, Event::ChangeMembers { ticket, change: change.clone() });
        self.end(ticket)
    }

    /// Repeats a change while the cluster has something else to do.
    pub(super) fn change_until_taken(
        &mut self,
        member: MemberId,
        change: &MemberChange,
    ) -> Outcome {
        loop {
            match self.change(member, change) {
                Outcome::Failed(Failure::Busy | Failure::Behind | Failure::NoLeader) => {
                    self.run(STEP);
                }
                other => return other,
            }
        }
    }

    pub(super) fn commands(&self, member: MemberId) -> Vec<Vec<u8>> {
        self.member(member).state().lines.iter().map(|line| line.command.clone()).collect()
    }

    /// All running members get to the same state.
    pub(super) fn agree(&mut self) {
        self.run_until("all agree", |cluster| {
            let running = cluster.nodes.values().filter_map(|node| node.member.as_ref());
            let mut seen = running.map(|member| (member.applied_index(), member.state_digest()));
            let first = seen.next();
            seen.all(|other| Some(other) == first)
        });
    }
}
