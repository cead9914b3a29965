//! Who waits for what, and what they are told in the end: replies and refusals.

use consensus::{Failure, Term};
use node::logic::network::{NetworkEffect, Peer, Sender};
use proto::ids::{Epoch, Incarnation, JobId, LogIndex, NodeId, RequestId};
use proto::limits;
use proto::messages::job::{JobAccepted, SegmentFolded};
use proto::messages::keyspace::KeyResult;
use proto::messages::node::{
    LeaseRenew, LeaseReply, NodeForgotten, NodeRegistered, RunsUnfinished,
};
use proto::messages::raft::{MemberJoin, MemberJoined};
use proto::messages::session::ErrorReply;
use proto::messages::task::{TaskRun, WorkerStatusReply};
use proto::record::{Message, Record, encode, set_request_id};
use proto::status::{AuxiliaryState, ErrorCode, Role, Verdict};
use proto::time::{Duration, Instant};
use proto::wire::bytes_of;

use super::commands::{AnsweredRun, Output};
use super::jobs::verdict_run;
use super::leases::{Fate, LEASE, Serial};
use super::queries::{self, Asked, Query};
use super::ring_requests::TellWanted;
use super::storage_watch::Matter;
use super::{Effect, Master};

/// What a refused asker waits before it asks again, in milliseconds.
const RETRY_MS: u32 = 50;

/// What a worker waits before it reports segments again that are too many, in milliseconds: a
/// fold takes seconds.
const SEGMENTS_RETRY_MS: u32 = 1_000;

/// What is said where the disk is full and no other master has room.
const NO_ROOM: &str = "the masters' disk is full: free space on the leading master's, or forget \
                       finished jobs (remuda forget)";

/// Who waits for a command or a read.
#[derive(Clone, Debug)]
pub(super) enum Waiting {
    /// Whoever sent a record.
    Peer(Waiter),
    /// This master, for its own registration.
    OwnRegistration,
    /// This master, for members that it promoted.
    Promotion,
    /// This master, for what it proposed of a balancer group.
    Group(u64, Serial),
    /// This master, for jobs that are due to be forgotten.
    Retention,
    /// This master, for workers that are silent.
    Silence,
    /// This master, for what it proposed of storage nodes.
    Storage(Matter),
}

/// A peer that waits for an answer.
#[derive(Clone, Debug)]
pub(super) struct Waiter {
    pub(super) peer: Peer,
    request: RequestId,
    wanted: Wanted,
}

/// What a peer waits for.
#[derive(Clone, Debug)]
pub(super) enum Wanted {
    /// A client, its change; of this job, nil where it is of none.
    Change { job: JobId },
    /// A node, its registration.
    Registration { node: NodeId, incarnation: Incarnation },
    /// A worker, its status frame.
    Frame { incarnation: Incarnation, frame: u64 },
    /// A balancer, which of the runs that it asked about are unfinished.
    Unfinished,
    /// A balancer, its lease.
    Lease(LeaseWanted),
    /// A storage node, what is wanted of it.
    Told(TellWanted),
    /// A user, a change of the ring.
    RingChange,
    /// A storage node, that what it moved of the registers is active.
    Activation,
    /// Anybody, an answer from a state that has all that was acknowledged before.
    Answer(Query),
    /// A new master, its place.
    Place,
}

/// Which lease a balancer wants.
#[derive(Clone, Copy, Debug)]
pub(super) struct LeaseWanted {
    pub(super) node: NodeId,
    pub(super) incarnation: Incarnation,
    /// The epoch that it holds; 0 from an auxiliary.
    pub(super) epoch: Epoch,
    /// When it was asked for, and in which term of this leader.
    pub(super) asked_at: Instant,
    pub(super) term: Term,
}

impl Waiting {
    /// Whoever sent this record.
    pub(super) fn peer(sender: &Sender, record: &Record<'_>, wanted: Wanted) -> Waiting {
        Waiting::Peer(Waiter { peer: sender.peer, request: record.request_id(), wanted })
    }
}

impl Master {
    /// A command was carried out.
    pub(super) fn on_completed(
        &mut self,
        who: Waiting,
        index: LogIndex,
        output: Output,
        effects: &mut Vec<Effect>,
    ) {
        let Waiter { peer, request, wanted } = match who {
            Waiting::Peer(waiter) => waiter,
            Waiting::OwnRegistration => {
                self.is_registered = true;
                return;
            }
            Waiting::Promotion | Waiting::Silence => return,
            Waiting::Storage(matter) => return self.storage.settled(matter),
            Waiting::Group(group, serial) => {
                return self.leases.settled(group, serial, Fate::Applied);
            }
            Waiting::Retention => {
                self.is_retaining = false;
                if matches!(output, Output::Retained { is_more: true }) {
                    self.retention_due = self.now;
                }
                return;
            }
        };
        match (wanted, output) {
            (_, refusal @ Output::Refused { .. }) => {
                self.send_refusal(peer, request, 0, &refusal, effects);
            }
            (_, Output::Accepted { job, index }) => {
                let accepted = JobAccepted {
                    job_uuid: job.to_wire(),
                    index: index.0,
                    ..JobAccepted::default()
                };
                send(peer, request, encode(&accepted, &[]), effects);
            }
            (Wanted::Change { job }, Output::Cancelled { .. } | Output::Changed { .. }) => {
                let cluster = self.cluster();
                let Some(state) = cluster.jobs.get(&job) else {
                    // It was forgotten after this was done.
                    let refusal = cluster.no_job(job);
                    return self.send_refusal(peer, request, 0, &refusal, effects);
                };
                let (running, time) = (self.running_count(job), self.log_time_us());
                let record = queries::job_status(cluster, job, state, running, time);
                send(peer, request, record, effects);
            }
            (_, Output::Forgotten { record }) => send(peer, request, record, effects),
            (_, Output::Transaction { is_applied, index }) => {
                let result = KeyResult {
                    is_applied: u8::from(is_applied),
                    index: index.0,
                    ..KeyResult::default()
                };
                send(peer, request, encode(&result, &[]), effects);
            }
            (_, Output::Folded { index, is_listed }) => {
                let folded = SegmentFolded {
                    index: index.0,
                    is_listed: u8::from(is_listed),
                    ..SegmentFolded::default()
                };
                send(peer, request, encode(&folded, &[]), effects);
            }
            (_, Output::NodeForgotten { index }) => {
                let forgotten = NodeForgotten { index: index.0, ..NodeForgotten::default() };
                send(peer, request, encode(&forgotten, &[]), effects);
            }
            (_, Output::RingChanged { version, index }) => {
                Master::reply_ring_changed(peer, request, (version, index), effects);
            }
            (_, Output::RegistersActivated { index }) => {
                Master::reply_activated(peer, request, index, effects);
            }
            (Wanted::Registration { node, .. }, Output::Registered { .. }) => {
                self.reply_registered(peer, request, node, effects);
            }
            (Wanted::Frame { incarnation, frame }, Output::Runs { index, again, refused }) => {
                let reply = WorkerStatusReply {
                    worker_incarnation: incarnation.0,
                    frame,
                    index: index.0,
                    ..WorkerStatusReply::default()
                };
                let mut runs = answered_runs(&again, Verdict::Again);
                runs.extend(answered_runs(&refused, Verdict::Final));
                send(peer, request, encode(&reply, &[bytes_of(&runs)]), effects);
            }
            (Wanted::Unfinished, Output::Runs { again, .. }) => {
                let reply = RunsUnfinished { index: index.0, ..RunsUnfinished::default() };
                let runs = answered_runs(&again, Verdict::Again);
                send(peer, request, encode(&reply, &[bytes_of(&runs)]), effects);
            }
            _ => {}
        }
    }

    /// The members were changed as somebody asked.
    pub(super) fn on_changed(&mut self, who: &Waiting, index: LogIndex, effects: &mut Vec<Effect>) {
        match who {
            Waiting::Peer(Waiter { peer, request, .. }) => {
                let joined = MemberJoined {
                    cluster_uuid: self.cluster_uuid.to_wire(),
                    index: index.0,
                    ..MemberJoined::default()
                };
                send(*peer, *request, encode(&joined, &[]), effects);
            }
            Waiting::Promotion => self.members.promotion_ended(),
            Waiting::OwnRegistration
            | Waiting::Retention
            | Waiting::Silence
            | Waiting::Storage(_)
            | Waiting::Group(..) => {}
        }
    }

    /// A command, a read or a change of members ended without an answer.
    pub(super) fn on_failed(
        &mut self,
        now: Instant,
        who: &Waiting,
        failure: Failure,
        effects: &mut Vec<Effect>,
    ) {
        let Waiter { peer, request, wanted } = match who {
            Waiting::Peer(waiter) => waiter,
            Waiting::OwnRegistration => {
                self.register_due = now + Duration::from_millis(500);
                return;
            }
            Waiting::Promotion => return self.members.promotion_ended(),
            Waiting::Silence => return,
            Waiting::Storage(matter) => return self.storage.settled(*matter),
            Waiting::Group(group, serial) => {
                let is_over = failure.is_without_effect();
                let fate = if is_over { Fate::Nothing } else { Fate::Unknown };
                return self.leases.settled(*group, *serial, fate);
            }
            Waiting::Retention => {
                self.is_retaining = false;
                return;
            }
        };
        let code = match failure {
            Failure::NoLeader | Failure::Dropped => ErrorCode::NoLeader,
            Failure::Busy | Failure::Behind => ErrorCode::Busy,
            Failure::Unknown => ErrorCode::OutcomeUnknown,
            Failure::TooLarge => ErrorCode::TooLarge,
            Failure::Refused => ErrorCode::Invalid,
            // A worker keeps its outcomes and asks the same master again.
            Failure::NoRoom if matches!(wanted, Wanted::Frame { .. }) => ErrorCode::Busy,
            Failure::NoRoom => ErrorCode::DiskFull,
        };
        let text = match failure {
            Failure::NoRoom => NO_ROOM.to_owned(),
            _ => failure.to_string(),
        };
        let refusal = Output::refused(code, text);
        let refused = if matches!(wanted, Wanted::Place) { MemberJoin::TYPE } else { 0 };
        self.send_refusal(*peer, *request, refused, &refusal, effects);
    }

    /// The state has all that was acknowledged before the read.
    pub(super) fn on_read_ready(&mut self, who: Waiting, effects: &mut Vec<Effect>) {
        let Waiting::Peer(Waiter { peer, request, wanted }) = who else { return };
        let wanted = match wanted {
            Wanted::Answer(query) => {
                return self.ask(LogIndex(0), Asked { peer, request, query }, effects);
            }
            Wanted::Registration { node, incarnation } => {
                let known = self.cluster().nodes.nodes.get(&node);
                if known.is_none_or(|known| known.has_lost_seat()) {
                    // This master lagged when it was asked. The next question makes a log entry.
                    let text = "its group was given up, or its seat, or it was forgotten: register \
                                again";
                    let refusal = Output::refused(ErrorCode::Busy, text);
                    return self.send_refusal(peer, request, 0, &refusal, effects);
                }
                if known.is_some_and(|known| known.registration.incarnation == incarnation) {
                    return self.reply_registered(peer, request, node, effects);
                }
                let text = format!("incarnation {incarnation} of node {node} is over");
                let refusal = Output::refused(ErrorCode::OldEpoch, text);
                return self.send_refusal(peer, request, 0, &refusal, effects);
            }
            Wanted::Told(wanted) => return self.tell_storage(peer, request, &wanted, effects),
            Wanted::Lease(wanted) => wanted,
            _ => return,
        };
        let LeaseWanted { node, incarnation, epoch, asked_at, term } = wanted;
        let cluster = self.cluster();
        if !self.leads() {
            // Whoever leads now may have promoted another one.
            return self.refuse_follower(peer, request, LeaseRenew::TYPE, effects);
        }
        let known = cluster.nodes.nodes.get(&node);
        let Some(known) = known.filter(|known| known.registration.role == Role::Balancer) else {
            let refusal = Output::refused(ErrorCode::OldEpoch, "it has not registered");
            return self.send_refusal(peer, request, LeaseRenew::TYPE, &refusal, effects);
        };
        if known.has_lost_seat() {
            let text = "its group was given up, or its seat: it must register again";
            let refusal = Output::refused(ErrorCode::OldEpoch, text);
            return self.send_refusal(peer, request, LeaseRenew::TYPE, &refusal, effects);
        }
        let group = cluster.nodes.groups.get(&known.group).cloned().unwrap_or_default();
        let is_this_one = known.registration.incarnation == incarnation;
        let is_primary = is_this_one
            && group.primary == Some(node)
            && (epoch == group.epoch || epoch == Epoch(0))
            // What an earlier term counted is no matter of the leases of this one.
            && self.member.term() == term
            && self.leases.may_grant(self.now, known.group, group.epoch, asked_at);
        let auxiliary = cluster.nodes.auxiliary_of(&group);
        let (auxiliary_uuid, auxiliary_incarnation, is_in_step) =
            auxiliary.unwrap_or((NodeId(0), Incarnation(0), false));
        let state = match (auxiliary, is_in_step) {
            (None, _) => AuxiliaryState::Unknown,
            // What is being logged may say otherwise in a moment.
            _ if self.leases.is_noting(known.group) => AuxiliaryState::Unknown,
            (_, true) => AuxiliaryState::InStep,
            (_, false) => AuxiliaryState::Absent,
        };
        let address = cluster.nodes.nodes.get(&auxiliary_uuid);
        let address = address.map_or("", |node| node.registration.address.as_str());
        let reply = LeaseReply {
            epoch: group.epoch.0,
            is_primary: u8::from(is_primary),
            lease_ms: u32::try_from(LEASE.as_millis()).unwrap_or(u32::MAX),
            feed_index: cluster.feed_index().0,
            is_all_dealt: u8::from(group.is_all_dealt),
            auxiliary: state.to_wire(),
            auxiliary_uuid: auxiliary_uuid.to_wire(),
            auxiliary_incarnation: auxiliary_incarnation.0,
            group_worker_count: group.worker_count,
            ..LeaseReply::default()
        };
        send(peer, request, encode(&reply, &[address.as_bytes()]), effects);
    }

    /// Tells a node its place.
    pub(super) fn reply_registered(
        &self,
        peer: Peer,
        request: RequestId,
        node: NodeId,
        effects: &mut Vec<Effect>,
    ) {
        let nodes = &self.cluster().nodes;
        let Some(known) = nodes.nodes.get(&node) else { return };
        let group = nodes.groups.get(&known.group).cloned().unwrap_or_default();
        let reply = NodeRegistered {
            // A seat begins when its balancer sat down; a later epoch does not make it another one.
            index: known.index.0,
            group: known.group,
            epoch: group.epoch.0,
            is_primary: u8::from(group.primary == Some(node)),
            ring_version: self.cluster().rings.newest().0,
            ..NodeRegistered::default()
        };
        let balancers = nodes.balancer_addresses(known.group);
        send(peer, request, encode(&reply, &[balancers.as_bytes()]), effects);
    }

    /// Refuses a record.
    pub(super) fn refuse(
        &self,
        sender: &Sender,
        record: &Record<'_>,
        refusal: &Output,
        effects: &mut Vec<Effect>,
    ) {
        let (peer, request) = (sender.peer, record.request_id());
        self.send_refusal(peer, request, record.message_type(), refusal, effects);
    }

    /// Refuses what only the leader can do.
    pub(super) fn refuse_follower(
        &self,
        peer: Peer,
        request: RequestId,
        refused_type: u8,
        effects: &mut Vec<Effect>,
    ) {
        let leader = self.member.leader();
        let code = if leader.is_some() { ErrorCode::NotLeader } else { ErrorCode::NoLeader };
        let refusal = Output::refused(code, "this master does not lead");
        self.send_refusal(peer, request, refused_type, &refusal, effects);
    }

    /// Tells a refusal, and where the leader is if that is the reason.
    pub(super) fn send_refusal(
        &self,
        peer: Peer,
        request: RequestId,
        refused_type: u8,
        refusal: &Output,
        effects: &mut Vec<Effect>,
    ) {
        self.send_refusal_for(RETRY_MS, peer, request, refused_type, refusal, effects);
    }

    /// Refuses a status frame that names segments until there are fewer. Its worker keeps it, and
    /// takes no more tasks when much waits behind it.
    pub(super) fn refuse_segments(
        &self,
        peer: Peer,
        request: RequestId,
        effects: &mut Vec<Effect>,
    ) {
        let listed = self.cluster().folds.listed();
        let text = format!("{listed} segments are listed: wait until some are folded into one");
        let refusal = Output::refused(ErrorCode::Busy, text);
        self.send_refusal_for(SEGMENTS_RETRY_MS, peer, request, 0, &refusal, effects);
    }

    fn send_refusal_for(
        &self,
        retry_ms: u32,
        peer: Peer,
        request: RequestId,
        refused_type: u8,
        refusal: &Output,
        effects: &mut Vec<Effect>,
    ) {
        let Output::Refused { code, text } = refusal else { return };
        let members = self.member.members();
        let leader = self.member.leader().and_then(|leader| members.get(&leader));
        let instead = match (code, leader) {
            (ErrorCode::NotLeader, Some(leader)) => leader.address.as_str(),
            _ => "",
        };
        let error = ErrorReply {
            code: code.to_wire(),
            refused_type,
            retry_after_ms: if code.is_retryable() { retry_ms } else { 0 },
            ..ErrorReply::default()
        };
        let cut = text.floor_char_boundary(limits::ERROR_TEXT_BYTES);
        let record = encode(&error, &[&text.as_bytes()[..cut], instead.as_bytes()]);
        send(peer, request, record, effects);
    }
}

/// Sends an answer.
pub(super) fn send(to: Peer, request: RequestId, mut record: Vec<u8>, effects: &mut Vec<Effect>) {
    set_request_id(&mut record, request);
    effects.push(Effect::Network(NetworkEffect::Send { to, record }));
}

fn answered_runs(runs: &[AnsweredRun], verdict: Verdict) -> Vec<TaskRun> {
    runs.iter().map(|run| verdict_run(run.job, &run.tasks, run.attempt, verdict)).collect()
}
