//! What processes say, for the checkers, and what a story sees.

use std::collections::BTreeMap;

use ::master::logic::cluster::Cluster;
use proto::ids::NodeId;
use proto::record::Records;

use crate::bank::{Effect, Transfer};
use crate::checkers::Violation;
use crate::checkers::history::{Applied, Seen};
use crate::checkers::leaders::Change;
use crate::network::Source;
use crate::process::master::TELL;
use crate::process::{Note, ProcessId, place_of};
use crate::report::Happening;
use crate::story::{Plot, Scene, Turn, What};
use crate::world::{Delivery, World};

impl World {
    /// Tells a story beside the faults that are entered.
    pub(crate) fn tell(&mut self, plot: Plot) {
        self.plot = Some(plot);
    }

    /// What a story sees, and what it wants. True where it loses the record that it saw.
    pub(super) fn show(&mut self, at: ProcessId, what: What<'_>) -> bool {
        let Some(plot) = &mut self.plot else { return false };
        if let What::Begins(job, tasks, attempt) = &what {
            self.notes.begins(*job, tasks, *attempt);
        }
        let (now, machines) = (self.agenda.now(), &self.machines[..]);
        let mut turn = Turn::default();
        plot(&Scene { now, at: &machines[at.0].name, what, machines }, &mut turn);
        for (after, fault) in turn.faults {
            self.agenda.after(after, Delivery::Fault(fault));
        }
        turn.facts.into_iter().for_each(|fact| self.notes.fact(fact));
        turn.is_lost
    }

    /// What of a frame the story does not lose.
    pub(super) fn told(&mut self, to: ProcessId, source: &Source, frame: Vec<u8>) -> Vec<u8> {
        if self.plot.is_none() {
            return frame;
        }
        let from = self.network.sender(to, source).map(|from| self.machines[from.0].name.clone());
        let from = from.unwrap_or_default();
        let (mut left, mut at) = (Vec::new(), 0);
        for record in Records::of(&frame) {
            let Ok(record) = record else { break };
            let end = at + record.length();
            if !self.show(to, What::Arrives(&from, &record)) {
                left.extend_from_slice(&frame[at..end]);
            }
            at = end;
        }
        left
    }

    /// Takes note of which balancers are which group.
    fn seat(&mut self, cluster: &Cluster) {
        if cluster.applied <= self.newest {
            return;
        }
        let before = std::mem::replace(&mut self.newest, cluster.applied);
        let nodes = &cluster.nodes;
        let groups: BTreeMap<u64, Vec<ProcessId>> = nodes
            .groups
            .iter()
            .map(|(&number, group)| {
                let seats = [group.primary, group.auxiliary].into_iter().flatten();
                (number, seats.filter_map(|node| self.balancer(node)).collect())
            })
            .collect();
        let is_lost = |group: &&u64| !groups.contains_key(group);
        let lost_count = self.groups.keys().filter(is_lost).count();
        self.report.add(Happening::GroupsLost, lost_count as u64);
        self.groups = groups;
        let grants = cluster.jobs.values().flat_map(|job| &job.grants);
        let ranges = grants.filter(|grant| grant.move_number.0 > 0 && grant.index > before);
        self.report.add(Happening::RangesMoved, ranges.count() as u64);
        if nodes.last_move > before {
            let workers = nodes.workers().filter(|node| node.index == nodes.last_move);
            self.report.add(Happening::WorkersMoved, workers.count() as u64);
        }
    }

    /// Looks through the whole state of a master: of one at a time, since what they applied equally
    /// is compared.
    fn look_through(&mut self, cluster: &Cluster) {
        let now = self.agenda.now();
        if now.since(self.looked_at) >= TELL {
            self.looked_at = now;
            cluster.check_invariants();
        }
    }

    /// The process of a balancer.
    fn balancer(&self, node: NodeId) -> Option<ProcessId> {
        self.balancers.get(place_of(node)).copied()
    }

    /// Tells the checkers what a process says.
    pub(super) fn observe(&mut self, process: ProcessId, note: Note) -> Result<(), Violation> {
        match note {
            Note::Applied(applied) => {
                let Applied { index, state, .. } = applied;
                self.trace(process, "applied", &[index, state], || {
                    format!("{index}: {:?} -> {state:016x}", Transfer::decode(&applied.command))
                });
                if self.history.applied(process.0, &applied)? == Seen::First
                    && self.transfers.applied(&applied)? == Effect::Before
                {
                    self.report.add(Happening::Duplicates, 1);
                }
            }
            Note::Restored { index, state } => {
                self.trace(process, "restored", &[index, state], || {
                    format!("{index} {state:016x}")
                });
                self.history.restored(process.0, index, state)?;
            }
            Note::Leads { term } => match self.leaders.leads(process.0, term)? {
                Change::None => {}
                Change::Elected => self.report.add(Happening::Elections, 1),
                Change::FailOver => {
                    self.report.add(Happening::Elections, 1);
                    self.report.add(Happening::FailOvers, 1);
                }
            },
            Note::Votes => {
                let machine = &mut self.machines[process.0];
                if machine.votes_since.is_none() {
                    machine.votes_since = Some(self.agenda.now());
                    self.report.add(Happening::Replacements, u64::from(machine.is_successor));
                }
            }
            Note::Sent(transfer) => self.transfers.sent(transfer),
            Note::Acknowledged { transfer, answer } => {
                let numbers = [transfer.number, answer.index];
                self.trace(process, "answered", &numbers, || format!("{transfer:?}: {answer:?}"));
                self.report.add(Happening::Acknowledged, 1);
                self.transfers.acknowledged(transfer.client, transfer.number, answer)?;
            }
            Note::AuditSent { client } => self.transfers.audit_sent(client),
            Note::Audited { client, index, sum } => {
                self.trace(process, "audited", &[index, sum], || format!("{sum} at {index}"));
                self.report.add(Happening::Audits, 1);
                self.transfers.audited(client, index, sum)?;
            }
            Note::State(cluster) => {
                self.trace(process, "applied", &[cluster.applied.0], || {
                    cluster.applied.to_string()
                });
                self.report.add(Happening::States, 1);
                self.follow_rings(&cluster);
                self.seat(&cluster);
                self.look_through(&cluster);
                let newest = cluster.rings.newest();
                let members = cluster.rings.members(newest).iter();
                let owners = members.filter(|place| place.weight > 0);
                let nodes = &cluster.nodes;
                for (&group, now) in &nodes.groups {
                    let Some(primary) = now.primary else { continue };
                    let known = self.primaries.entry(group).or_insert((now.epoch, primary));
                    if now.epoch > known.0 {
                        let is_other = known.1 != primary;
                        self.report.add(Happening::TakeOvers, u64::from(is_other));
                        *known = (now.epoch, primary);
                    }
                }
                self.blocks.ring(newest, owners.count());
                if let Some(jobs) = &mut self.jobs {
                    jobs.state(process.0, &cluster)?;
                }
            }
            Note::Segments(segments) => {
                for segment in segments {
                    if self.blocks.committed(segment)? {
                        self.report.add(Happening::Segments, 1);
                    }
                }
            }
            Note::Stored { file, blocks } => {
                self.trace(process, "stored", &[file.0 as u64], || file.to_string());
                self.report.add(Happening::FilesStored, 1);
                self.blocks.acknowledged(file, blocks)?;
            }
            Note::Broken(violation) => return Err(violation),
            Note::Asked { file } => self.blocks.asked(file),
            Note::NotFound { file } => self.blocks.not_found(file)?,
            Note::Unreadable { file, why } => {
                self.trace(process, "no file", &[file.0 as u64], || format!("{file}: {why}"));
                self.blocks.unreadable(file, &why)?;
            }
            Note::Accepted { job, index } => {
                self.trace(process, "accepted", &[index], || format!("{job} at {index}"));
                if let Some(jobs) = &mut self.jobs {
                    let is_first = jobs.accepted(job, index)?;
                    self.report.add(Happening::Jobs, u64::from(is_first));
                }
            }
            Note::Told { client, summary } => {
                self.trace(process, "told", &[summary.index.0], || format!("{summary:?}"));
                self.report.add(Happening::Acknowledged, 1);
                if let Some(jobs) = &mut self.jobs {
                    jobs.told(client, &summary)?;
                }
            }
            Note::Dealt(deal) => {
                let moved_count = self.deals.dealt(&deal)?;
                self.report.add(Happening::DealtByHeirs, moved_count);
            }
            Note::Begins { job, tasks, attempt } => {
                self.show(process, What::Begins(job, &tasks, attempt));
            }
            Note::Count(happening, count) => self.report.add(happening, count),
        }
        Ok(())
    }
}
