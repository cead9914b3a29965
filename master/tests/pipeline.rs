//! One master on a real disk, driven event by event: a job from its submission to its end, and the
//! same job again after a restart.

#[path = "pipeline/ring.rs"]
mod ring;

use std::path::Path;
use std::sync::Arc;

use consensus::{Disk, Identity, Member, MemberId};
use master::logic::cluster::Cluster;
use master::logic::folds::{FOLD_AT_KEY, LISTED_KEY};
use master::logic::{Effect, Event, Master, Setting};
use node::files::{Files, RealFiles};
use node::logic::network::{Link, NetworkEffect, NetworkEvent, Peer, Sender};
use proto::description::{JobDescription, Noop, Runtime};
use proto::ids::{ClusterId, Incarnation, JobId, NodeId, RequestId};
use proto::messages::job::{
    JobAccepted, JobCancel, JobDescribe, JobDescribed, JobQuery, JobStatus, JobSubmit, SegmentFold,
    SegmentFolded,
};
use proto::messages::keyspace::{KeyResult, KeyTransaction, KeyWrite};
use proto::messages::node::{
    FeedBatch, FeedItem, FeedPull, LeaseRenew, LeaseReply, NodeForget, NodeForgotten, NodeRegister,
    NodeRegistered, RunsLost, RunsUnfinished, SilentWorker, WorkersSilent,
};
use proto::messages::session::ErrorReply;
use proto::messages::task::{TaskRun, WorkerStatus, WorkerStatusReply};
use proto::record::{Message, Record, Records, encode, set_request_id, stamp};
use proto::status::{AuxiliaryState, ErrorCode, FeedKind, JobState, ProgramKind, Role, TaskState};
use proto::time::{Duration, Instant};
use proto::wire::{WireUuid, bytes_of, items_of};

const CLUSTER: ClusterId = ClusterId(1 << 70);
const CLIENT: Link = Link(101);
const BALANCER: Link = Link(102);
const AUXILIARY: Link = Link(9);
const OTHER_GROUP: Link = Link(104);
const WORKER: Link = Link(103);
const STORAGE: Link = Link(105);
const OTHER_STORAGE: Link = Link(106);

/// A master and its disk, in virtual time.
struct Driven {
    master: Master,
    disk: Disk,
    now: Instant,
    /// The disk does nothing for now.
    is_disk_slow: bool,
    jobs: Vec<consensus::Job<Cluster>>,
    /// What the master sent, by link.
    sent: Vec<(Link, Vec<u8>)>,
    last_request: u64,
}

impl Driven {
    fn bootstrap(folder: &Path) {
        let files: Arc<dyn Files> = Arc::new(RealFiles);
        let identity = Identity::new(CLUSTER, MemberId(7), 99);
        Disk::bootstrap(&files, folder, &identity, "tcp://127.0.0.1:1", &Cluster::default())
            .expect("an empty folder is made a member's");
    }

    fn start(folder: &Path, incarnation: u64) -> Driven {
        let mut driven = Driven::begin(folder, incarnation);
        driven.run(|driven| driven.master.leads());
        driven
    }

    /// A master that has just been started.
    fn begin(folder: &Path, incarnation: u64) -> Driven {
        let files: Arc<dyn Files> = Arc::new(RealFiles);
        let (disk, recovered) = Disk::open(&files, folder).expect("the folder is a member's");
        let config = consensus::Config {
            incarnation: Incarnation(incarnation),
            // So that one that is started again knows what it knew before it has a leader.
            snapshot_after_bytes: 1,
            ..consensus::Config::default()
        };
        let now = Instant(1);
        let random = fastrand::Rng::with_seed(5);
        let member = Member::new(config, recovered, Cluster::default(), random.clone(), now)
            .expect("a member starts from its disk");
        let setting = Setting {
            node: NodeId(1),
            incarnation: Incarnation(incarnation),
            member: MemberId(7),
            address: "tcp://127.0.0.1:1".into(),
            telemetry_address: String::new(),
            zone: String::new(),
            join: Vec::new(),
            repair_grace: Duration::from_secs(300),
        };
        let master = Master::new(setting, CLUSTER, member, random);
        Driven {
            master,
            disk,
            now,
            is_disk_slow: false,
            jobs: Vec::new(),
            sent: Vec::new(),
            last_request: 0,
        }
    }

    fn handle(&mut self, event: Event<'_>) {
        let mut effects = Vec::new();
        self.master.handle(self.now, event, &mut effects);
        self.master.check_invariants();
        for effect in effects {
            match effect {
                Effect::Network(NetworkEffect::Send { to: Peer::Link(link), record }) => {
                    self.sent.push((link, record));
                }
                Effect::Disk(job) => self.jobs.push(*job),
                Effect::Halt(reason) => panic!("the master stopped itself: {reason}"),
                Effect::Network(_) | Effect::Greet(_) => {}
            }
        }
        if self.is_disk_slow {
            return;
        }
        let jobs = std::mem::take(&mut self.jobs);
        for done in self.disk.perform::<Cluster>(jobs) {
            self.handle(Event::Disk(done));
        }
    }

    /// Lets virtual time pass until something holds.
    fn run(&mut self, is_so: impl Fn(&Driven) -> bool) {
        for _ in 0..1_000 {
            if is_so(self) {
                return;
            }
            let next = self.master.next_deadline().unwrap_or(self.now);
            self.now = next.max(self.now + Duration::from_millis(1));
            self.handle(Event::Tick);
        }
        panic!("it did not come to that within a thousand deadlines");
    }

    /// Sends a record as one of the peers.
    fn say(&mut self, link: Link, mut record: Vec<u8>) {
        self.last_request += 1;
        let (node, role) = who(link);
        set_request_id(&mut record, RequestId(self.last_request));
        stamp(&mut record, node, 1, self.last_request);
        let incarnation = Incarnation(u64::from(role != Role::Client));
        let sender = Sender { peer: Peer::Link(link), node, role, incarnation };
        let record = Records::of(&record).next().expect("one").expect("a record");
        self.handle(Event::Network(NetworkEvent::Record { sender, record }));
    }

    /// Registers peers one after the other; what each of them is told.
    fn register<const N: usize>(&mut self, links: [Link; N]) -> [NodeRegistered; N] {
        links.map(|link| {
            self.say(link, registration(who(link).1));
            self.heard(link, |_, registered: NodeRegistered| registered)
        })
    }

    /// The last record of a type that a peer was sent, read by `read`.
    fn heard<T: Message, R>(&mut self, link: Link, read: impl FnOnce(&Record<'_>, T) -> R) -> R {
        let at = self.sent.iter().rposition(|(to, record)| *to == link && record[0] == T::TYPE);
        let Some(at) = at else { panic!("no {} in {:?}", T::NAME, self.names()) };
        let (_, bytes) = self.sent.remove(at);
        let record = Records::of(&bytes).next().expect("one").expect("a record");
        read(&record, record.read::<T>().expect("of that type"))
    }

    fn names(&self) -> Vec<&'static str> {
        self.sent.iter().map(|(_, record)| proto::catalogue::name(record[0])).collect()
    }
}

/// The node at the other end of a link.
fn who(link: Link) -> (NodeId, Role) {
    match link {
        CLIENT => (NodeId(500), Role::Client),
        BALANCER => (NodeId(600), Role::Balancer),
        AUXILIARY => (NodeId(601), Role::Balancer),
        OTHER_GROUP => (NodeId(602), Role::Balancer),
        STORAGE => (NodeId(800), Role::Storage),
        OTHER_STORAGE => (NodeId(801), Role::Storage),
        _ => (NodeId(700), Role::Worker),
    }
}

fn submission(job: JobId, task_count: u64) -> Vec<u8> {
    let description = JobDescription::new(Runtime::Noop(Noop::default()));
    let submit = JobSubmit {
        job_uuid: job.to_wire(),
        task_count,
        program_kind: ProgramKind::Described.to_wire(),
        ..JobSubmit::default()
    };
    encode(&submit, &[b"", b"", &description.encode().expect("short")])
}

fn registration(role: Role) -> Vec<u8> {
    let register =
        NodeRegister { role: role.to_wire(), incarnation: 1, slot_count: 2, ..Default::default() };
    encode(&register, &[b"tcp://127.0.0.1:2", b"", b""])
}

fn query(job: JobId, until_final: bool) -> Vec<u8> {
    let query = JobQuery {
        job_uuid: job.to_wire(),
        until_final: u8::from(until_final),
        ..JobQuery::default()
    };
    encode(&query, &[b""])
}

#[test]
fn a_job_goes_from_submission_to_its_end_and_survives_a_restart() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("consensus");
    Driven::bootstrap(&path);
    let job = JobId(77);
    {
        let mut driven = Driven::start(&path, 1);
        driven.say(BALANCER, registration(Role::Balancer));
        let group = driven.heard(BALANCER, |record, registered: NodeRegistered| {
            let [balancers] = record.parts().expect("addresses");
            assert_eq!(balancers, b"tcp://127.0.0.1:2");
            assert_eq!((registered.is_primary, { registered.epoch }), (1, 1));
            registered.group
        });
        let [worker] = driven.register([WORKER]);
        assert_eq!({ worker.group }, group);

        driven.say(BALANCER, encode(&FeedPull { group, ..FeedPull::default() }, &[]));
        let after = driven.heard(BALANCER, |_, batch: FeedBatch| {
            assert_eq!((batch.is_complete, { batch.item_count }), (1, 0));
            batch.up_to_index
        });
        let pull = FeedPull { group, after_index: after, ..FeedPull::default() };
        driven.say(BALANCER, encode(&pull, &[]));
        assert!(!driven.names().contains(&"feed_batch"), "nothing new: the pull is parked");

        driven.say(CLIENT, submission(job, 100));
        driven.heard(CLIENT, |_, accepted: JobAccepted| assert!({ accepted.index } > 0));
        driven.heard(BALANCER, |record, batch: FeedBatch| {
            let [items, jobs] = record.parts().expect("items and jobs");
            let items = items_of::<FeedItem>(items).expect("items");
            assert_eq!(items.len(), 1);
            assert_eq!(items[0].kind, FeedKind::Grant.to_wire());
            assert_eq!(({ items[0].first_task }, { items[0].task_count }), (0, 100));
            assert!(!jobs.is_empty() && batch.is_complete == 0);
        });
        driven.say(CLIENT, query(job, true));
        assert!(!driven.names().contains(&"job_status"), "the job is not final: parked");

        let status = |position, first_task, task_count, state: TaskState| {
            let status = WorkerStatus {
                job_uuid: job.to_wire(),
                state: state.to_wire(),
                first_task,
                task_count,
                attempt: (1 << 32) | 1,
                exit_code: i32::from(state == TaskState::Failed),
                worker_incarnation: 1,
                frame: 1,
                frame_position: position,
                frame_count: 2,
                ..WorkerStatus::default()
            };
            encode(&status, &[])
        };
        driven.say(WORKER, status(0, 0, 60, TaskState::Done));
        driven.say(WORKER, status(1, 60, 1, TaskState::Failed));
        driven.heard(WORKER, |_, reply: WorkerStatusReply| {
            assert_eq!(({ reply.frame }, { reply.run_count }), (1, 0));
        });
    }
    // The process is gone; everything that was acknowledged is on the disk.
    let mut driven = Driven::start(&path, 2);
    driven.say(CLIENT, query(job, false));
    driven.run(|driven| driven.names().contains(&"job_status"));
    driven.heard(CLIENT, |_, status: JobStatus| {
        assert_eq!(JobState::from_wire(status.state), Some(JobState::Running));
        assert_eq!(({ status.done_count }, { status.failed_count }), (60, 1));
    });
    driven.say(CLIENT, encode(&JobDescribe::default(), &[b"last"]));
    driven.run(|driven| driven.names().contains(&"job_described"));
    driven.heard(CLIENT, |record, described: JobDescribed| {
        assert_eq!((JobId::from(described.job_uuid), { described.task_count }), (job, 100));
        let [_, _, description] = record.parts().expect("program, files, description");
        let noop = JobDescription::new(Runtime::Noop(Noop::default()));
        assert_eq!(JobDescription::decode(description), Ok(noop));
    });
    driven.say(CLIENT, encode(&JobDescribe::default(), &[b"first"]));
    driven.run(|driven| driven.names().contains(&"error_reply"));
    driven.heard(CLIENT, |_, error: ErrorReply| assert_eq!({ error.code }, 105));
    driven.say(BALANCER, encode(&LeaseRenew { group: 1, epoch: 1, ..Default::default() }, &[b""]));
    driven.run(|driven| driven.names().contains(&"lease_reply"));
    driven.heard(BALANCER, |_, lease: LeaseReply| assert_eq!(lease.is_primary, 1));
    // Tasks of a worker that fell silent: the leader tells which are to be dealt again.
    let lost = TaskRun {
        job_uuid: job.to_wire(),
        first_task: 50,
        task_count: 50,
        attempt: (1 << 32) | 2,
        state: TaskState::Lost.to_wire(),
    };
    let message = RunsLost { group: 1, epoch: 1, ..RunsLost::default() };
    driven.say(BALANCER, encode(&message, &[bytes_of(&[lost])]));
    driven.heard(BALANCER, |record, _: RunsUnfinished| {
        let [runs] = record.parts().expect("runs");
        let runs = items_of::<TaskRun>(runs).expect("runs");
        let ranges: Vec<_> =
            runs.iter().map(|run| ({ run.first_task }, { run.task_count })).collect();
        assert_eq!(ranges, [(61, 39)]);
    });
    let old = RunsLost { group: 1, epoch: 0, ..RunsLost::default() };
    driven.say(BALANCER, encode(&old, &[bytes_of(&[lost])]));
    driven.heard(BALANCER, |_, error: ErrorReply| assert_eq!({ error.code }, 108));
}

#[test]
fn finished_jobs_are_forgotten_when_it_is_time_by_one_entry_a_minute() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("consensus");
    Driven::bootstrap(&path);
    let mut driven = Driven::start(&path, 1);
    for (job, pause) in [(JobId(1), 5), (JobId(2), 5), (JobId(3), 0)] {
        driven.say(CLIENT, submission(job, 10));
        driven.heard(CLIENT, |_, _: JobAccepted| ());
        if pause > 0 {
            driven.now += Duration::from_secs(pause);
            driven.say(
                CLIENT,
                encode(&JobCancel { job_uuid: job.to_wire(), ..Default::default() }, &[]),
            );
            driven.heard(CLIENT, |_, status: JobStatus| {
                assert_eq!(JobState::from_wire(status.state), Some(JobState::Cancelled));
                assert_eq!({ status.age_us }, pause * 1_000_000);
            });
        }
    }
    let second = Duration::from_secs(1);
    let retention = Duration::from_micros(master::logic::retention::RETENTION_US);
    let listed = |driven: &Driven| driven.master.cluster().jobs.len();
    driven.now += retention - Duration::from_secs(10);
    driven.handle(Event::Tick);
    let before = driven.master.cluster().applied;
    let mut passed = 0;
    while listed(&driven) == 3 {
        driven.now += second;
        driven.handle(Event::Tick);
        passed += 1;
        assert!(passed < 30, "the first job is due");
    }
    while listed(&driven) == 2 {
        driven.now += second;
        driven.handle(Event::Tick);
        passed += 1;
        assert!(passed < 100, "the second job is due");
    }
    // A digest of the state is an entry too, now and then.
    let entries = driven.master.cluster().applied.0 - before.0;
    assert!((2..=6).contains(&entries), "{entries} entries in little more than a minute");
    assert!(passed >= 60, "the second entry waits for its minute");
    driven.say(CLIENT, query(JobId(1), false));
    driven.run(|driven| driven.names().contains(&"error_reply"));
    driven.heard(CLIENT, |_, error: ErrorReply| assert_eq!({ error.code }, 107));
}

#[test]
fn an_auxiliary_learns_of_its_promotion_with_its_next_renewal() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("consensus");
    Driven::bootstrap(&path);
    let mut driven = Driven::start(&path, 1);
    driven.register([BALANCER, AUXILIARY]);
    let renewal = |epoch: u64, state: AuxiliaryState| {
        let renew = LeaseRenew {
            group: 1,
            epoch,
            reachable_count: 1,
            auxiliary: state.to_wire(),
            auxiliary_incarnation: 1,
            ..LeaseRenew::default()
        };
        encode(&renew, &[b""])
    };
    let renew = |driven: &mut Driven, link, epoch, state| -> LeaseReply {
        driven.say(link, renewal(epoch, state));
        driven.run(|driven| driven.names().contains(&"lease_reply"));
        driven.heard(link, |_, reply: LeaseReply| reply)
    };
    let reply = renew(&mut driven, BALANCER, 1, AuxiliaryState::Unknown);
    assert_eq!((reply.is_primary, reply.auxiliary), (1, AuxiliaryState::Absent.to_wire()));
    assert_eq!(NodeId::from(reply.auxiliary_uuid), NodeId(601));
    renew(&mut driven, BALANCER, 1, AuxiliaryState::InStep);
    let reply = renew(&mut driven, BALANCER, 1, AuxiliaryState::InStep);
    assert_eq!(reply.auxiliary, AuxiliaryState::InStep.to_wire());
    // The primary falls silent.
    let mut replies = Vec::new();
    for _ in 0..5 {
        replies.push(renew(&mut driven, AUXILIARY, 0, AuxiliaryState::Unknown));
        let until = driven.now + Duration::from_millis(250);
        driven.run(|driven| driven.now >= until);
    }
    let promoted = replies.iter().position(|reply| reply.is_primary == 1).expect("a promotion");
    assert!(promoted >= 3, "the lease lasts for 900 ms");
    assert_eq!({ replies[promoted].epoch }, 2);
    assert_eq!(replies[promoted].is_all_dealt, 0, "it was in step");
    assert_eq!(NodeId::from(replies[promoted].auxiliary_uuid), NodeId(600));
    // It was only frozen: what it asks for is over, and it is the auxiliary now.
    let thawed = renew(&mut driven, BALANCER, 1, AuxiliaryState::InStep);
    assert_eq!((thawed.is_primary, { thawed.epoch }), (0, 2));
    let reply = renew(&mut driven, AUXILIARY, 2, AuxiliaryState::Unknown);
    assert_eq!((reply.is_primary, reply.auxiliary), (1, AuxiliaryState::Absent.to_wire()));
}

#[test]
fn a_primary_whose_renewal_was_refused_when_it_came_is_not_granted_it_a_moment_later() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("consensus");
    Driven::bootstrap(&path);
    {
        let mut driven = Driven::start(&path, 1);
        driven.register([BALANCER, AUXILIARY]);
    }
    let mut driven = Driven::begin(&path, 2);
    driven.run(|driven| driven.master.leads());
    // What the master reads is known to be the newest only when its disk went on.
    driven.is_disk_slow = true;
    let say = |driven: &mut Driven, link, epoch, reachable_count| {
        let renew = LeaseRenew { group: 1, epoch, reachable_count, ..LeaseRenew::default() };
        driven.say(link, encode(&renew, &[b""]));
    };
    // The primary reaches no worker, and its auxiliary some: it is not renewed any more.
    for _ in 0..10 {
        say(&mut driven, AUXILIARY, 0, 2);
        say(&mut driven, BALANCER, 1, 0);
        let until = driven.now + Duration::from_millis(250);
        driven.run(|driven| driven.now >= until);
    }
    // It reaches one again, and that is known before its answer is due.
    say(&mut driven, BALANCER, 1, 1);
    assert!(!driven.names().contains(&"lease_reply"), "nothing was read yet");
    driven.is_disk_slow = false;
    driven.run(|driven| driven.names().contains(&"lease_reply"));
    driven.heard(BALANCER, |_, reply: LeaseReply| assert_eq!(reply.is_primary, 0));
    say(&mut driven, BALANCER, 1, 1);
    driven.run(|driven| driven.names().contains(&"lease_reply"));
    driven.heard(BALANCER, |_, reply: LeaseReply| assert_eq!(reply.is_primary, 1));
}

#[test]
fn a_master_that_may_lag_does_not_tell_a_node_its_place_from_what_it_knows() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("consensus");
    Driven::bootstrap(&path);
    {
        let mut driven = Driven::start(&path, 1);
        driven.register([BALANCER]);
    }
    let mut driven = Driven::begin(&path, 2);
    driven.is_disk_slow = true;
    assert_eq!(driven.master.cluster().nodes.groups[&1].primary, Some(NodeId(600)));
    driven.say(BALANCER, registration(Role::Balancer));
    assert!(!driven.names().contains(&"node_registered"), "its log may say otherwise");
    driven.is_disk_slow = false;
    driven.run(|driven| driven.names().contains(&"node_registered"));
    driven.heard(BALANCER, |_, registered: NodeRegistered| assert_eq!({ registered.epoch }, 1));
}

#[test]
fn a_lease_is_renewed_by_a_registered_balancer_and_its_counts_told_by_the_primary() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("consensus");
    Driven::bootstrap(&path);
    let mut driven = Driven::start(&path, 1);
    let job = JobId(77);
    let renew = |driven: &mut Driven, link, group, epoch, count| {
        let run = TaskRun { job_uuid: job.to_wire(), task_count: count, ..TaskRun::default() };
        let renew = LeaseRenew { group, epoch, ..LeaseRenew::default() };
        driven.say(link, encode(&renew, &[bytes_of(&[run])]));
        driven.run(|driven| !driven.sent.is_empty());
    };
    let code = |driven: &mut Driven, link| driven.heard(link, |_, error: ErrorReply| error.code);
    renew(&mut driven, WORKER, 1, 1, 7);
    assert_eq!(code(&mut driven, WORKER), ErrorCode::NotAllowed.to_wire());
    renew(&mut driven, BALANCER, 1, 1, 7);
    assert_eq!(code(&mut driven, BALANCER), ErrorCode::OldEpoch.to_wire(), "it never registered");
    driven.register([BALANCER, AUXILIARY]);
    driven.say(CLIENT, submission(job, 100));
    driven.heard(CLIENT, |_, _: JobAccepted| ());
    let said =
        [(AUXILIARY, 1, 1, 7), (AUXILIARY, 9, 1, 7), (BALANCER, 1, 2, 7), (BALANCER, 9, 1, 5)];
    for (link, group, epoch, count) in said {
        renew(&mut driven, link, group, epoch, count);
        driven.heard(link, |_, _: LeaseReply| ());
    }
    driven.say(CLIENT, query(job, false));
    driven.run(|driven| driven.names().contains(&"job_status"));
    driven.heard(CLIENT, |_, status: JobStatus| assert_eq!({ status.running_count }, 5));
}

#[test]
fn a_group_that_is_gone_is_another_groups_and_whoever_was_in_it_is_told() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("consensus");
    Driven::bootstrap(&path);
    let mut driven = Driven::start(&path, 1);
    let groups = driven.register([BALANCER, AUXILIARY, OTHER_GROUP]).map(|it| it.group);
    assert_eq!(groups, [1, 1, 2]);
    let sender = Sender {
        peer: Peer::Link(WORKER),
        node: NodeId(700),
        role: Role::Worker,
        incarnation: Incarnation(1),
    };
    let (address, version) = (String::new(), String::new());
    driven.handle(Event::Network(NetworkEvent::Joined { sender, address, version }));
    let [before] = driven.register([WORKER]);
    assert_eq!({ before.group }, 1);
    driven.say(CLIENT, submission(JobId(77), 100));
    // Only the other group's balancer is alive.
    let renew = |group, epoch| {
        let renew = LeaseRenew { group, epoch, ..LeaseRenew::default() };
        encode(&renew, &[b""])
    };
    for _ in 0..28 {
        driven.say(OTHER_GROUP, renew(2, 2));
        let until = driven.now + Duration::from_millis(250);
        driven.run(|driven| driven.now >= until);
    }
    driven.heard(WORKER, |record, it: NodeRegistered| {
        assert_eq!((record.request_id(), { it.group }), (RequestId(0), 2), "unasked");
        assert!(it.index > before.index);
    });
    driven.heard(OTHER_GROUP, |_, it: LeaseReply| assert_eq!(it.is_primary, 1));
    driven.say(OTHER_GROUP, encode(&FeedPull { group: 2, ..FeedPull::default() }, &[]));
    driven.heard(OTHER_GROUP, |record, _: FeedBatch| {
        let [items, _] = record.parts().expect("items and jobs");
        let items = items_of::<FeedItem>(items).expect("items");
        assert_eq!((items.len(), { items[0].task_count }), (1, 100));
        assert!(items[0].move_number > 2, "attempts are numbered behind those of the lost group");
    });
    // The old primary comes back: what it was is over.
    driven.sent.clear();
    driven.say(BALANCER, renew(1, 1));
    driven.run(|driven| !driven.sent.is_empty());
    let code = |driven: &mut Driven| driven.heard(BALANCER, |_, error: ErrorReply| error.code);
    assert_eq!(code(&mut driven), ErrorCode::OldEpoch.to_wire());
    let lost = RunsLost { group: 1, epoch: 1, ..RunsLost::default() };
    driven.say(BALANCER, encode(&lost, &[b""]));
    assert_eq!(code(&mut driven), ErrorCode::OldEpoch.to_wire());
    let newer = RunsLost { group: 1, epoch: 99, ..RunsLost::default() };
    driven.say(BALANCER, encode(&newer, &[b""]));
    assert_eq!(code(&mut driven), ErrorCode::NotLeader.to_wire(), "this master would lag");
    // In the same incarnation, it gets the seat that is free.
    let [seat] = driven.register([BALANCER]);
    assert_eq!((seat.group, seat.is_primary), (2, 0));
    assert!(seat.index > before.index, "a seat has a number of its own");
}

#[test]
fn a_worker_is_told_busy_where_too_many_segments_are_listed_until_some_are_folded() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("consensus");
    Driven::bootstrap(&path);
    let mut driven = Driven::start(&path, 1);
    driven.register([BALANCER, WORKER]);
    let job = JobId(77);
    driven.say(CLIENT, submission(job, 100));
    driven.heard(CLIENT, |_, _: JobAccepted| ());
    for (key, value) in [(FOLD_AT_KEY, b"2"), (LISTED_KEY, b"4")] {
        let writes = [KeyWrite { key_length: key.len() as u64, value_length: 1, is_delete: 0 }];
        let bytes = [key, &value[..]].concat();
        let parts: [&[u8]; 3] = [b"", bytes_of(&writes), &bytes];
        driven.say(CLIENT, encode(&KeyTransaction::default(), &parts));
        driven.heard(CLIENT, |_, result: KeyResult| assert_eq!(result.is_applied, 1));
    }
    // Ten tasks, and what they wrote in a segment.
    let report = |driven: &mut Driven, frame: u64| {
        let status = WorkerStatus {
            job_uuid: job.to_wire(),
            state: TaskState::Done.to_wire(),
            first_task: frame * 10,
            task_count: 10,
            attempt: (1 << 32) | 1,
            worker_incarnation: 1,
            frame,
            frame_count: 1,
            segment_uuid: WireUuid::new(u128::from(frame)),
            ..WorkerStatus::default()
        };
        driven.say(WORKER, encode(&status, &[]));
    };
    for frame in 1..=4 {
        report(&mut driven, frame);
        driven.heard(WORKER, |_, reply: WorkerStatusReply| assert_eq!({ reply.frame }, frame));
    }
    for _ in 0..2 {
        report(&mut driven, 5);
        driven.heard(WORKER, |_, error: ErrorReply| {
            assert_eq!({ error.code }, ErrorCode::Busy.to_wire());
            assert!(error.retry_after_ms >= 1_000, "a fold takes its time");
        });
    }
    // The first fold has the first two segments; it is taken in the name of a worker only.
    let fold = SegmentFold {
        job_uuid: job.to_wire(),
        fold: 1,
        segment_uuid: WireUuid::new(99),
        segment_count: 2,
        ..SegmentFold::default()
    };
    driven.say(CLIENT, encode(&fold, &[]));
    driven.heard(CLIENT, |_, error: ErrorReply| {
        assert_eq!({ error.code }, ErrorCode::NotAllowed.to_wire());
    });
    let worker = NodeId(700).to_wire();
    let fold = SegmentFold { worker_uuid: worker, worker_incarnation: 1, ..fold };
    driven.say(CLIENT, encode(&fold, &[]));
    driven.heard(CLIENT, |_, folded: SegmentFolded| assert_eq!(folded.is_listed, 1));
    report(&mut driven, 5);
    driven.heard(WORKER, |_, reply: WorkerStatusReply| assert_eq!({ reply.frame }, 5));
}

#[test]
fn a_worker_that_is_silent_or_forgotten_counts_again_when_it_asks_for_its_place() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("consensus");
    Driven::bootstrap(&path);
    let mut driven = Driven::start(&path, 1);
    driven.register([BALANCER, WORKER]);
    let slots = |driven: &Driven| driven.master.cluster().nodes.groups[&1].slot_count;
    assert_eq!(slots(&driven), 2);
    let worker_uuid = who(WORKER).0.to_wire();
    let silent = |epoch| {
        let worker = SilentWorker { worker_uuid, incarnation: 1 };
        let silent = WorkersSilent { group: 1, epoch, ..WorkersSilent::default() };
        encode(&silent, &[bytes_of(&[worker])])
    };
    driven.say(CLIENT, silent(1));
    driven.heard(CLIENT, |_, error: ErrorReply| {
        assert_eq!({ error.code }, ErrorCode::NotAllowed.to_wire());
    });
    driven.say(BALANCER, silent(2));
    assert_eq!(slots(&driven), 2, "of another epoch");
    driven.say(BALANCER, silent(1));
    assert_eq!(slots(&driven), 0);
    driven.register([WORKER]);
    assert_eq!(slots(&driven), 2);
    driven.say(BALANCER, silent(1));
    assert_eq!(slots(&driven), 2, "it said otherwise just now");
    let forget = NodeForget { entry_uuid: worker_uuid, incarnation: 1, ..NodeForget::default() };
    driven.say(CLIENT, encode(&forget, &[]));
    driven.heard(CLIENT, |_, forgotten: NodeForgotten| assert!({ forgotten.index } > 0));
    assert_eq!(slots(&driven), 0);
    driven.register([WORKER]);
    assert_eq!(slots(&driven), 2);
}
