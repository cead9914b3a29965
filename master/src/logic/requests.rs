//! What a record asks of a master: checked, and made a command, a read or a question.
//!
//! What is answered, at once or when the log has it, stands in `replies`.

use consensus::{MemberChange, MemberId};
use node::logic::network::Sender;
use proto::ids::{ClusterId, Epoch, Incarnation, JobId, LogIndex};
use proto::messages::job::{JobCancel, JobChange, JobSubmit, SegmentFold};
use proto::messages::keyspace::{KeyCompare, KeyTransaction, KeyWrite};
use proto::messages::node::{
    FeedPull, LeaseRenew, NodeForget, NodeRegister, RegisterActivate, RingChange, RunsLost,
    SilentWorker, StorageReport, WorkersSilent,
};
use proto::messages::raft::{MemberJoin, MemberJoined, RaftMessage};
use proto::messages::session::ErrorReply;
use proto::messages::task::{TaskRun, WorkerSegment, WorkerStatus};
use proto::record::{Message, Record, RecordError, encode};
use proto::status::{AuxiliaryState, ErrorCode, JobChangeKind, Role};
use proto::time::Instant;
use proto::wire::items_of;

use super::commands::{self, Asker, ClientChange, Command, Compare, Output, Write};
use super::frames::{self, StatusFrame};
use super::jobs::ReportedRun;
use super::leases::{Renewal, group_of};
use super::nodes::{Group, Node, Registration};
use super::queries::{Asked, Query};
use super::replies::{LeaseWanted, Waiting, Wanted};
use super::submissions::Submission;
use super::{Effect, Master};

impl Master {
    /// Takes one record.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub(super) fn on_record(
        &mut self,
        now: Instant,
        sender: &Sender,
        record: &Record<'_>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), RecordError> {
        if !self.has_window(sender, record, effects) {
            return Ok(());
        }
        if let Some((query, seen)) = Query::of(record)? {
            if seen == LogIndex(0) {
                // Somebody who has seen nothing must not be told less than another was before.
                self.read(now, Waiting::peer(sender, record, Wanted::Answer(query)), effects);
            } else {
                let asked = Asked { peer: sender.peer, request: record.request_id(), query };
                self.ask(seen, asked, effects);
            }
            return Ok(());
        }
        match record.message_type() {
            RaftMessage::TYPE if sender.role == Role::Master => {
                let (message, [content]) = record.open::<RaftMessage, 1>()?;
                if message.to_member == self.setting.member.0 {
                    let from = MemberId(message.from_member);
                    self.members.heard(from, sender.peer, effects);
                    let bytes = content.to_vec();
                    self.consensus(now, consensus::Event::Message { from, bytes }, effects);
                }
            }
            JobSubmit::TYPE => self.on_submit(now, sender, record, effects)?,
            JobCancel::TYPE => {
                let cancel = record.read::<JobCancel>()?;
                let job = cancel.job_uuid.into();
                let who = Waiting::peer(sender, record, Wanted::Change { job });
                let asker = asker(sender, record, cancel.session_index);
                let command = Command::Client(asker, ClientChange::Cancel { job });
                self.invoke(now, &command, who, effects);
            }
            JobChange::TYPE => {
                let asked = record.read::<JobChange>()?;
                let Some(change) = change_of(&asked) else {
                    let message_type = JobChange::TYPE;
                    return Err(RecordError::Value { message_type, field: "change" });
                };
                let job = asked.job_uuid.into();
                let who = Waiting::peer(sender, record, Wanted::Change { job });
                let asker = asker(sender, record, asked.session_index);
                let command = Command::Client(asker, ClientChange::Change { job, change });
                self.invoke(now, &command, who, effects);
            }
            KeyTransaction::TYPE => {
                let (transaction, parts) = record.open::<KeyTransaction, 3>()?;
                let Some(change) = transaction_of(parts) else {
                    return Err(RecordError::Part {
                        message_type: KeyTransaction::TYPE,
                        part: "bytes",
                    });
                };
                let who = Waiting::peer(sender, record, Wanted::Change { job: JobId(0) });
                let asker = asker(sender, record, transaction.session_index);
                self.invoke(now, &Command::Client(asker, change), who, effects);
            }
            SegmentFold::TYPE => {
                let fold = record.read::<SegmentFold>()?;
                let job = fold.job_uuid.into();
                let change = ClientChange::Fold {
                    job,
                    fold: fold.fold,
                    file: fold.segment_uuid.into(),
                    segment_count: fold.segment_count,
                    worker: fold.worker_uuid.into(),
                    incarnation: Incarnation(fold.worker_incarnation),
                };
                let who = Waiting::peer(sender, record, Wanted::Change { job });
                let asker = asker(sender, record, fold.session_index);
                self.invoke(now, &Command::Client(asker, change), who, effects);
            }
            NodeForget::TYPE => {
                let forget = record.read::<NodeForget>()?;
                let (node, incarnation) =
                    (forget.entry_uuid.into(), Incarnation(forget.incarnation));
                let who = Waiting::peer(sender, record, Wanted::Change { job: JobId(0) });
                let asker = asker(sender, record, forget.session_index);
                let change = ClientChange::ForgetNode { node, incarnation };
                self.invoke(now, &Command::Client(asker, change), who, effects);
            }
            RingChange::TYPE => self.on_ring_change(now, sender, record, effects)?,
            StorageReport::TYPE => self.on_storage_report(now, sender, record, effects)?,
            RegisterActivate::TYPE => self.on_activate(now, sender, record, effects)?,
            NodeRegister::TYPE => self.on_register(now, sender, record, effects)?,
            LeaseRenew::TYPE => self.on_renew(now, sender, record, effects)?,
            FeedPull::TYPE => {
                let pull = record.read::<FeedPull>()?;
                self.feeds.pull(sender.peer, record.request_id(), &pull);
                self.answer_feeds(effects);
            }
            RunsLost::TYPE => self.on_lost(now, sender, record, effects)?,
            WorkersSilent::TYPE => self.on_silent(now, sender, record, effects)?,
            WorkerStatus::TYPE | WorkerSegment::TYPE => {
                if record.is_given_form() || sender.role != Role::Worker {
                    let refusal = Output::refused(
                        ErrorCode::NotAllowed,
                        "outcomes are taken from registered workers only: say hello as one",
                    );
                    self.refuse(sender, record, &refusal, effects);
                } else if let Some(frame) = self.frames.take(sender, record)? {
                    self.on_frame(now, sender, record, frame, effects);
                }
            }
            MemberJoin::TYPE if sender.role == Role::Master => {
                self.on_join(now, sender, record, effects)?;
            }
            MemberJoined::TYPE => self.members.joined(),
            ErrorReply::TYPE => {
                let (error, [_, instead]) = record.open::<ErrorReply, 2>()?;
                if error.refused_type == MemberJoin::TYPE {
                    tracing::debug!(code = { error.code }, "joining is refused for now");
                    let instead = String::from_utf8_lossy(instead);
                    self.members.join_refused(now, &instead, effects);
                }
            }
            _ => {
                let name = record.layout().name;
                let text = format!("a master does not take {name}");
                let refusal = Output::refused(ErrorCode::UnknownType, text);
                self.refuse(sender, record, &refusal, effects);
            }
        }
        Ok(())
    }

    fn on_submit(
        &mut self,
        now: Instant,
        sender: &Sender,
        record: &Record<'_>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), RecordError> {
        let (submit, parts) = record.open::<JobSubmit, 3>()?;
        let job = submit.job_uuid.into();
        // What the same submission would carry from another client or at another time is cleared,
        // so that equal content is equal bytes.
        let canonical = JobSubmit {
            job_uuid: submit.job_uuid,
            task_count: submit.task_count,
            program_kind: submit.program_kind,
            ..JobSubmit::default()
        };
        let bytes = encode(&canonical, &parts);
        if let Err(refusal) = Submission::check(&bytes) {
            self.refuse(sender, record, &refusal, effects);
            return Ok(());
        }
        let who = Waiting::peer(sender, record, Wanted::Change { job });
        let asker = asker(sender, record, submit.session_index);
        let command = Command::Client(asker, ClientChange::Submit { job, record: bytes });
        self.invoke(now, &command, who, effects);
        Ok(())
    }

    fn on_register(
        &mut self,
        now: Instant,
        sender: &Sender,
        record: &Record<'_>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), RecordError> {
        let (register, parts) = record.open::<NodeRegister, 3>()?;
        let [address, telemetry_address, zone] =
            parts.map(|part| String::from_utf8_lossy(part).into_owned());
        let role = Role::from_wire(register.role)
            .ok_or(RecordError::Value { message_type: NodeRegister::TYPE, field: "role" })?;
        let is_itself = role == sender.role && register.incarnation == sender.incarnation.0;
        if !is_itself || !commands::registers(role) {
            let text = "a node registers as what its hello said it is";
            let refusal = Output::refused(ErrorCode::NotAllowed, text);
            self.refuse(sender, record, &refusal, effects);
            return Ok(());
        }
        if role == Role::Balancer && !self.leads() {
            // It lives by what the leader hears of it: one that reaches followers only would be given
            // a seat and lose it again, without end.
            self.refuse_follower(sender.peer, record.request_id(), NodeRegister::TYPE, effects);
            return Ok(());
        }
        let registration = Registration {
            node: sender.node,
            role,
            incarnation: sender.incarnation,
            address,
            telemetry_address,
            zone,
            slot_count: register.slot_count,
            cpu_milli: register.cpu_milli,
            capacity_bytes: register.capacity_bytes,
            store: register.store_uuid.into(),
            weight: register.weight,
            member: 0,
        };
        let (node, incarnation) = (sender.node, sender.incarnation);
        let who = Waiting::peer(sender, record, Wanted::Registration { node, incarnation });
        let known = self.cluster().nodes.nodes.get(&node);
        let is_away = self.cluster().rings.wants_back(node, registration.store);
        let is_same = |known: &Node| {
            let is_there = !known.has_lost_seat() && !known.is_silent && !is_away;
            known.registration == registration && is_there
        };
        if known.is_some_and(is_same) {
            // Asked again, for instance after a reconnect: no log entry is owed. But this master
            // may lag, and whoever asks is to hear of its seat and its balancers as they are.
            self.read(now, who, effects);
            return Ok(());
        }
        self.invoke(now, &Command::Register(registration), who, effects);
        Ok(())
    }

    fn on_renew(
        &mut self,
        now: Instant,
        sender: &Sender,
        record: &Record<'_>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), RecordError> {
        let (renew, [running]) = record.open::<LeaseRenew, 1>()?;
        if !self.leads() {
            self.refuse_follower(sender.peer, record.request_id(), LeaseRenew::TYPE, effects);
            return Ok(());
        }
        if sender.role != Role::Balancer {
            let text = "a balancer's lease is renewed by that balancer";
            let refusal = Output::refused(ErrorCode::NotAllowed, text);
            self.refuse(sender, record, &refusal, effects);
            return Ok(());
        }
        // One that has not registered is told so when this master has read what the log has.
        if let Some(number) = group_of(&self.cluster().nodes, sender.node, sender.incarnation) {
            self.count_renewal(now, sender, number, &renew, running, effects);
        }
        let wanted = Wanted::Lease(LeaseWanted {
            node: sender.node,
            incarnation: sender.incarnation,
            epoch: Epoch(renew.epoch),
            asked_at: now,
            term: self.member.term(),
        });
        self.read(now, Waiting::peer(sender, record, wanted), effects);
        Ok(())
    }

    /// Takes over what a balancer of a group says with a renewal.
    fn count_renewal(
        &mut self,
        now: Instant,
        sender: &Sender,
        number: u64,
        renew: &LeaseRenew,
        running: &[u8],
        effects: &mut Vec<Effect>,
    ) {
        let nodes = &self.member.state().nodes;
        let epoch = Epoch(renew.epoch);
        let group = nodes.groups.get(&number);
        if group.is_some_and(|group| group.primary == Some(sender.node) && group.epoch == epoch) {
            let running = items_of::<TaskRun>(running).unwrap_or_default();
            let counts = running.iter().map(|run| (run.job_uuid.into(), { run.task_count }));
            self.running.told(number, nodes, counts.collect());
        }
        let auxiliary = AuxiliaryState::from_wire(renew.auxiliary);
        let renewal = Renewal {
            node: sender.node,
            incarnation: sender.incarnation,
            epoch,
            reachable_count: renew.reachable_count,
            auxiliary: auxiliary.map(|state| (state, Incarnation(renew.auxiliary_incarnation))),
        };
        if let Some((serial, command)) = self.leases.renewed(now, number, &renewal, nodes) {
            self.invoke(now, &command, Waiting::Group(number, serial), effects);
        }
    }

    fn on_lost(
        &mut self,
        now: Instant,
        sender: &Sender,
        record: &Record<'_>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), RecordError> {
        let (lost, [runs]) = record.open::<RunsLost, 1>()?;
        let nodes = &self.cluster().nodes;
        let epoch = Epoch(lost.epoch);
        if nodes.last_epoch < epoch {
            // This master lags behind the one that granted the lease.
            self.refuse_follower(sender.peer, record.request_id(), RunsLost::TYPE, effects);
            return Ok(());
        }
        let group = nodes.groups.get(&{ lost.group });
        let is_primary = |it: &Group| it.epoch == epoch && it.primary == Some(sender.node);
        if !group.is_some_and(is_primary) {
            let text = format!("epoch {epoch} of group {} is over", { lost.group });
            let refusal = Output::refused(ErrorCode::OldEpoch, text);
            self.refuse(sender, record, &refusal, effects);
            return Ok(());
        }
        let runs = items_of::<TaskRun>(runs).unwrap_or_default();
        let runs: Option<Vec<ReportedRun>> = runs.iter().map(frames::lost_run).collect();
        let Some(runs) = runs else {
            return Err(RecordError::Value { message_type: RunsLost::TYPE, field: "runs" });
        };
        let who = Waiting::peer(sender, record, Wanted::Unfinished);
        self.invoke(now, &Command::RunsLost { runs }, who, effects);
        Ok(())
    }

    /// A balancer has not heard of workers for long. It waits for no answer: it says so again.
    fn on_silent(
        &mut self,
        now: Instant,
        sender: &Sender,
        record: &Record<'_>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), RecordError> {
        let (silent, [workers]) = record.open::<WorkersSilent, 1>()?;
        if sender.role != Role::Balancer {
            let text = "who is silent is told by the primary of a group";
            let refusal = Output::refused(ErrorCode::NotAllowed, text);
            self.refuse(sender, record, &refusal, effects);
            return Ok(());
        }
        let nodes = &self.member.state().nodes;
        let (number, epoch) = (silent.group, Epoch(silent.epoch));
        let is_primary = |it: &Group| it.epoch == epoch && it.primary == Some(sender.node);
        if !self.leads() || !nodes.groups.get(&number).is_some_and(is_primary) {
            return Ok(());
        }
        let said = items_of::<SilentWorker>(workers).unwrap_or_default();
        let workers = self.silences.news(now, number, said, nodes);
        if !workers.is_empty() {
            let command = Command::WorkersSilent { group: number, epoch, workers };
            self.invoke(now, &command, Waiting::Silence, effects);
        }
        Ok(())
    }

    fn on_frame(
        &mut self,
        now: Instant,
        sender: &Sender,
        record: &Record<'_>,
        frame: StatusFrame,
        effects: &mut Vec<Effect>,
    ) {
        let is_listing =
            !frame.segments.is_empty() || frame.runs.iter().any(|run| !run.segment.is_nil());
        // A master that does not lead knows no better than to say who does.
        let must_wait =
            is_listing && self.leads() && self.segment_patience.must_wait(now, self.member.state());
        if must_wait {
            self.refuse_segments(sender.peer, record.request_id(), effects);
            return;
        }
        let wanted = Wanted::Frame { incarnation: sender.incarnation, frame: frame.number };
        let who = Waiting::peer(sender, record, wanted);
        let command = Command::Complete {
            worker: sender.node,
            incarnation: sender.incarnation,
            frame: frame.number,
            runs: frame.runs,
            segments: frame.segments,
        };
        self.invoke(now, &command, who, effects);
    }

    fn on_join(
        &mut self,
        now: Instant,
        sender: &Sender,
        record: &Record<'_>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), RecordError> {
        let (join, [address]) = record.open::<MemberJoin, 1>()?;
        if ClusterId::from(join.cluster_uuid) != self.cluster_uuid {
            let text = format!("this is cluster {}", self.cluster_uuid);
            let refusal = Output::refused(ErrorCode::OtherCluster, text);
            self.refuse(sender, record, &refusal, effects);
            return Ok(());
        }
        if !self.leads() {
            self.refuse_follower(sender.peer, record.request_id(), MemberJoin::TYPE, effects);
            return Ok(());
        }
        tracing::info!(member = { join.member }, node = %sender.node, "a master asks for its place");
        let change = MemberChange::AddLearner {
            member: MemberId(join.member),
            address: String::from_utf8_lossy(address).into_owned(),
        };
        self.change_members(now, change, Waiting::peer(sender, record, Wanted::Place), effects);
        Ok(())
    }
}

/// Who asks, as far as a record and its session tell.
pub(super) fn asker(sender: &Sender, record: &Record<'_>, session_index: u64) -> Asker {
    Asker {
        client: sender.node,
        request: record.request_id(),
        session_index: LogIndex(session_index),
    }
}

/// What a `job_change` asks for; `None` where it is nothing known.
fn change_of(asked: &JobChange) -> Option<commands::JobChange> {
    Some(match JobChangeKind::from_wire(asked.change)? {
        JobChangeKind::Hold => commands::JobChange::Hold,
        JobChangeKind::Release => commands::JobChange::Release,
        JobChangeKind::Priority => commands::JobChange::Priority(asked.priority),
        JobChangeKind::Forget => commands::JobChange::Forget,
    })
}

/// The conditions and writes of a `key_transaction`; `None` where the lengths do not add up.
fn transaction_of([compares, writes, bytes]: [&[u8]; 3]) -> Option<ClientChange> {
    let mut rest = bytes;
    let mut take = |length: u64| -> Option<Vec<u8>> {
        let (taken, behind) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        rest = behind;
        Some(taken.to_vec())
    };
    let compares: Option<Vec<Compare>> = items_of::<KeyCompare>(compares)?
        .iter()
        .map(|item| Some(Compare { key: take(item.key_length)?, version: LogIndex(item.version) }))
        .collect();
    let writes: Option<Vec<Write>> = items_of::<KeyWrite>(writes)?
        .iter()
        .map(|item| {
            let (key, value) = (take(item.key_length)?, take(item.value_length)?);
            Some(Write { key, value: (item.is_delete == 0).then_some(value) })
        })
        .collect();
    Some(ClientChange::Transaction { compares: compares?, writes: writes? })
}
