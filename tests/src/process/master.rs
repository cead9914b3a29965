//! A master of the pipeline: the shipped logic, its log on a simulated disk, and what its service
//! does around them.
//!
//! The first master begins the cluster, the others join it through whoever is there, as the logic
//! itself does it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use ::master::logic::cluster::Cluster;
use ::master::logic::{Effect, Event as LogicEvent, Master, Setting};
use consensus::{Config, Disk, DiskError, Identity, LogShape, Member, MemberId};
use fastrand::Rng;
use node::files::Files;
use node::logic::network::{self, NetworkEffect, NetworkEvent};
use proto::ids::{Incarnation, JobId, LogIndex, RingVersion, TaskIndex};
use proto::record::Records;
use proto::status::Role;
use proto::time::{Duration, Instant};

use super::member::explain;
use super::mistakes::Mistakes;
use super::{Done, Edge, Event, Note, Queue, Recipe, Request, Start, Tier, node_id};
use crate::pipeline::{CLUSTER, masters};
use crate::report::{Happening, Report};

/// Where the log is on its machine.
const FOLDER: &str = "/data/consensus";

/// How often the whole state is looked through: all of it at each step would be most of a run.
pub(crate) const TELL: Duration = Duration::from_millis(200);

/// A job of the log's disk thread.
pub(crate) type Job = Box<consensus::Job<Cluster>>;

/// A running master.
pub(crate) struct MasterProcess {
    edge: Edge,
    logic: Master,
    disk: Disk,
    member_count: usize,
    /// What the checkers were told last.
    told: LogIndex,
    told_at: Instant,
    told_job: Option<LogIndex>,
    told_ring: RingVersion,
    /// The last segment of each job that the checkers were told of, and what was applied then.
    told_segments: BTreeMap<JobId, u64>,
    listed: LogIndex,
    /// How far the log was applied, and the newest snapshot, after the last step.
    applied: LogIndex,
    snapshot: LogIndex,
    led: Option<u64>,
    was_complete: bool,
    mistakes: Mistakes,
}

fn open(place: usize, start: &Start<'_>) -> Result<(Disk, consensus::Recovered), DiskError> {
    let files: Arc<dyn Files> = Arc::new(start.files.clone());
    let folder = Path::new(FOLDER);
    match Disk::open(&files, folder) {
        Err(DiskError::NotMade(_)) if !start.has_folder => {
            let member = MemberId(node_id(b'm', place, start.life).0 as u64);
            let file_bytes = start.tuning.log_file_bytes;
            let shape = LogShape { seed: start.seed as u32, file_bytes };
            let identity = Identity { cluster: CLUSTER, member, shape };
            if start.is_founder {
                let address = Recipe::Master { place }.address();
                Disk::bootstrap(&files, folder, &identity, &address, &Cluster::default())?;
            } else {
                Disk::join(&files, folder, &identity)?;
            }
            Disk::open(&files, folder)
        }
        opened => opened,
    }
}

impl MasterProcess {
    pub(crate) fn start(
        place: usize,
        start: &Start<'_>,
        requests: &mut Vec<Request>,
    ) -> Result<MasterProcess, String> {
        let (disk, recovered) = open(place, start).map_err(|error| explain(&error))?;
        let incarnation = Incarnation(start.life);
        let config = Config {
            incarnation,
            snapshot_after_bytes: start.tuning.snapshot_after,
            trailing_bytes: start.tuning.trailing,
            digest_every: Duration::from_secs(5),
            ..Config::default()
        };
        let own = recovered.identity().member;
        let mut rng = Rng::with_seed(start.seed);
        let member = Member::new(config, recovered, Cluster::default(), rng.fork(), start.now)
            .map_err(|error| explain(&error))?;
        let (node, address) = (node_id(b'm', place, 0), Recipe::Master { place }.address());
        let identity = network::Identity {
            node,
            role: Role::Master,
            cluster: CLUSTER,
            incarnation,
            version: "simulated".to_owned(),
            address: address.clone(),
        };
        let join = masters(start.member_count).into_iter().filter(|it| *it != address).collect();
        let setting = Setting {
            node,
            incarnation,
            member: own,
            address,
            telemetry_address: String::new(),
            zone: String::new(),
            join,
            repair_grace: start.grace,
        };
        let (applied, snapshot) = (member.applied_index(), member.snapshot_index());
        let logic = Master::new(setting, CLUSTER, member, rng);
        let mut process = MasterProcess {
            edge: Edge::new(identity, start.limits),
            logic,
            disk,
            member_count: start.member_count,
            told: LogIndex(0),
            told_at: start.now,
            told_job: None,
            told_ring: RingVersion(0),
            told_segments: BTreeMap::new(),
            listed: LogIndex(0),
            applied,
            snapshot,
            led: None,
            was_complete: false,
            mistakes: Mistakes::new(start.planted),
        };
        process.handle(start.now, Event::Tick, requests);
        Ok(process)
    }

    fn tell_checkers(&mut self, now: Instant, requests: &mut Vec<Request>) {
        let cluster = self.logic.cluster();
        // A client may be told of a job that is new.
        let newest = cluster.jobs_by_index.get_max().map(|(index, _)| *index);
        let is_new_job = newest != self.told_job;
        // Storage nodes are about to go by a version that is new.
        let ring = cluster.rings.newest();
        let is_new = is_new_job || ring != self.told_ring;
        let is_due = now.since(self.told_at) >= TELL || is_new;
        if cluster.applied > self.told && is_due {
            self.logic.member().check_invariants();
            (self.told, self.told_at) = (cluster.applied, now);
            (self.told_job, self.told_ring) = (newest, ring);
            requests.push(Request::Note(Note::State(Box::new(cluster.clone()))));
        }
        self.tell_segments(requests);
        let member = self.logic.member();
        let (applied, snapshot) = (member.applied_index(), member.snapshot_index());
        // A snapshot of its own is of a state that it had already.
        if snapshot > self.snapshot && snapshot > self.applied {
            requests.push(Request::Note(Note::Count(Happening::Snapshots, 1)));
        }
        (self.applied, self.snapshot) = (applied, snapshot);
        let term = member.term().0;
        if self.logic.leads() && self.led != Some(term) {
            self.led = Some(term);
            requests.push(Request::Note(Note::Leads { term }));
        }
        let members = member.members();
        let is_complete =
            members.len() == self.member_count && members.values().all(|info| info.voter);
        if is_complete && !self.was_complete {
            requests.push(Request::Note(Note::Votes));
        }
        self.was_complete = is_complete;
    }

    /// Tells of segments at once, since what they promise must be true when they are committed.
    fn tell_segments(&mut self, requests: &mut Vec<Request>) {
        let cluster = self.logic.cluster();
        if std::mem::replace(&mut self.listed, cluster.applied) == cluster.applied {
            return;
        }
        let mut new = Vec::new();
        for (&id, job) in &cluster.jobs {
            let told = self.told_segments.entry(id).or_default();
            for segment in job.segments.behind(*told, 0) {
                new.push(segment.file);
                *told = segment.number;
            }
        }
        if !new.is_empty() {
            requests.push(Request::Note(Note::Segments(new)));
        }
    }
}

impl Tier for MasterProcess {
    fn edge(&mut self) -> &mut Edge {
        &mut self.edge
    }

    fn handle(&mut self, now: Instant, event: Event<'_>, requests: &mut Vec<Request>) {
        let mut effects = Vec::new();
        let logic = &mut self.logic;
        let (mistakes, mut early) = (&mut self.mistakes, Vec::new());
        self.edge.hear(now, &event, |event| {
            let NetworkEvent::Record { mut sender, record } = event else {
                return logic.handle(now, LogicEvent::Network(event), &mut effects);
            };
            let applied = logic.member().applied_index();
            early.extend(mistakes.master_answers(&record, applied).map(|it| (sender.peer, it)));
            let heard = mistakes.master_hears(&mut sender, &record);
            let altered = heard.as_deref().and_then(|heard| Records::of(heard).next());
            let record = altered.and_then(Result::ok).unwrap_or(record);
            let event = NetworkEvent::Record { sender, record };
            logic.handle(now, LogicEvent::Network(event), &mut effects);
        });
        for (to, record) in early {
            self.edge.perform(now, NetworkEffect::Send { to, record }, requests);
        }
        match event {
            Event::Tick => logic.handle(now, LogicEvent::Tick, &mut effects),
            Event::Worked(Done::Member(done)) => {
                for done in done {
                    logic.handle(now, LogicEvent::Disk(done), &mut effects);
                }
            }
            Event::Worked(Done::Storage(_)) => unreachable!("a master stores no blocks"),
            Event::Arrived { .. } | Event::Finish => {}
        }
        // Before anything is answered, so that the checkers know what an answer stands on.
        self.tell_checkers(now, requests);
        for effect in effects {
            match effect {
                Effect::Network(effect) => self.edge.perform(now, effect, requests),
                Effect::Disk(job) => requests.push(Request::Work(super::Job::Master(job))),
                Effect::Greet(greeting) => self.edge.set_greeting(greeting),
                Effect::Halt(reason) => {
                    let is_disk = matches!(reason, consensus::HaltReason::Disk(_));
                    requests.push(Request::GiveUp { reason: reason.to_string(), is_disk });
                }
            }
        }
    }

    fn work(&mut self, jobs: Vec<super::Job>) -> Done {
        let own = |job| match job {
            super::Job::Master(job) => *job,
            _ => unreachable!("a master's jobs are its own"),
        };
        Done::Member(self.disk.perform::<Cluster>(jobs.into_iter().map(own).collect()))
    }

    fn next_deadline(&self) -> Option<Instant> {
        [self.logic.next_deadline(), self.edge.next_deadline()].into_iter().flatten().min()
    }

    fn check_invariants(&self) {
        self.edge.check_invariants();
    }

    fn report(&self, _report: &mut Report) {
        self.logic.check_invariants();
    }

    fn cluster(&self) -> Option<&Cluster> {
        Some(self.logic.cluster())
    }

    fn leads(&self) -> bool {
        self.logic.leads()
    }

    fn queues(&self, each: &mut dyn FnMut(Queue)) {
        let (length, bound) = (self.logic.member().pending_count(), Config::default().pending_max);
        each(Queue { name: "requests that wait for the log", length, bound });
        self.edge.queues(each);
    }

    fn describe(&self) -> String {
        let role = if self.logic.leads() { "leads" } else { "follows" };
        let member = self.logic.member();
        format!("{role} term {} at {}", member.term().0, member.applied_index())
    }

    fn explain(&self, job: JobId, task: TaskIndex) -> String {
        let cluster = self.logic.cluster();
        let Some(found) = cluster.jobs.get(&job) else { return "no such job".to_owned() };
        format!(
            "{:?}, {} of {} done, {} failed, granted up to {}, task {task}: {}",
            found.state,
            found.done.len(),
            found.task_count,
            found.failed_count(),
            found.next_grant,
            if found.unfinished(task.0..task.0 + 1).is_empty() { "final" } else { "open" },
        )
    }
}
