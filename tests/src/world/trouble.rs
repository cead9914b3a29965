//! Carrying out faults: dying, starting again, standing still, and the mending of all that.

use std::collections::BTreeSet;

use proto::ids::FileId;
use proto::time::Duration;

use crate::checkers::blocks::DiskId;
use crate::checkers::{Violation, check};
use crate::faults::{Death, Fault, Targets};
use crate::machine::LocalClock;
use crate::network::SILENCE;
use crate::process::{Event, Process, ProcessId, Start};
use crate::random::{chance, span};
use crate::report::Happening;
use crate::world::{Delivery, Mend, World};

/// Operations on files that a start may take; where within them a crash in recovery falls.
const OPERATIONS_OF_A_START: u64 = 60;

/// Operations on files that one job may take; an ordinary one writes and syncs.
const OPERATIONS_OF_A_JOB: u64 = 10;

impl World {
    /// Draws the next faults and when the ones after them come.
    pub(super) fn trouble(&mut self) -> Result<(), Violation> {
        if self.is_healed {
            return Ok(());
        }
        let pause = self.swarm.pause(&mut self.faults_rng);
        self.agenda.after(pause, Delivery::Trouble);
        let groups: Vec<Vec<ProcessId>> = self.groups.values().cloned().collect();
        let targets = Targets {
            members: &self.disks,
            others: &self.others,
            masters: &self.members,
            balancers: &self.balancers,
            groups: &groups,
            workers: &self.workers,
            storage: self.jobs.is_some().then_some(&self.storage[..]),
            weak: self.weak,
        };
        let faults = self.swarm.faults(&mut self.faults_rng, targets);
        let is_blackout = |(_, fault): &(Duration, Fault)| {
            matches!(fault, Fault::Crash { death: Death::PowerLoss, .. })
        };
        if faults.len() == self.disks.len() && faults.iter().all(is_blackout) {
            self.report.add(Happening::Blackouts, 1);
        }
        let killed = |(_, fault): &(Duration, Fault)| match fault {
            Fault::Crash { process, death: Death::Killed, .. } => Some(*process),
            _ => None,
        };
        let together: Vec<ProcessId> = faults.iter().filter_map(killed).collect();
        if together.len() == self.machines.len() {
            self.report.add(Happening::AllKilled, 1);
        } else if together == self.members {
            self.report.add(Happening::MastersDown, 1);
        }
        for (after, fault) in faults {
            self.agenda.after(after, Delivery::Fault(fault));
        }
        Ok(())
    }

    pub(super) fn begin(&mut self, fault: Fault) -> Result<(), Violation> {
        if self.is_healed {
            return Ok(());
        }
        let now = self.agenda.now();
        self.trace.event(now, "-", "fault", &[], || format!("{fault:?}"));
        let (mend, lasts) = match fault {
            Fault::Crash { process, death, down } => {
                let is_loss = matches!(death, Death::DiskLoss | Death::Gone);
                let is_too_much = is_loss && !self.may_lose_disk(process);
                let is_last = death == Death::ForGood && !self.may_stay_dead(process);
                if self.machines[process.0].process.is_none() || is_too_much || is_last {
                    return Ok(());
                }
                let has_disk = self.machines[process.0].recipe.has_disk();
                if has_disk
                    && !is_loss
                    && death != Death::ForGood
                    && chance(&mut self.faults_rng, 500)
                {
                    self.machines[process.0].doom = Some((death, down));
                    return Ok(());
                }
                self.crash(process, death);
                (Mend::Start(process), down)
            }
            Fault::Pause { process, lasts } => {
                let machine = &mut self.machines[process.0];
                if !machine.is_awake() {
                    return Ok(());
                }
                self.pauses += 1;
                let is_long = lasts >= Duration::from_secs(3);
                self.report.add(Happening::Freezes, u64::from(is_long));
                let pause = self.pauses;
                machine.pause = Some(pause);
                self.report.add(Happening::Pauses, 1);
                self.agenda.after(SILENCE, Delivery::Mend(Mend::CutOff { process, pause }));
                (Mend::Continue { process, pause }, lasts)
            }
            Fault::Block { ways, lasts } => {
                self.report.add(Happening::Partitions, 1);
                for &(from, to) in &ways {
                    self.network.block(&mut self.agenda, from, to);
                }
                (Mend::Unblock(ways), lasts)
            }
            Fault::Cut { between: (a, b) } => {
                self.network.cut(&mut self.agenda, &mut self.report, a, b);
                return Ok(());
            }
            Fault::SlowLink { way: (from, to), by, lasts } => {
                self.report.add(Happening::SlowLinks, 1);
                self.network.slow_down(from, to, by);
                (Mend::Link((from, to)), lasts)
            }
            Fault::Lossy { way: (from, to), per_mille, lasts } => {
                self.report.add(Happening::LossyLinks, 1);
                self.network.lose_some(from, to, per_mille);
                (Mend::Wire((from, to)), lasts)
            }
            Fault::SlowDisk { process, by, lasts } => {
                self.report.add(Happening::SlowDisks, 1);
                self.machines[process.0].slow_disk = by;
                (Mend::DiskSpeed(process), lasts)
            }
            Fault::BitRot { process, file, offset } => {
                let files = &self.machines[process.0].files;
                let names = files.files();
                let path = names.iter().find(|path| path.to_string_lossy().contains(file));
                let path = path.expect("the scenario names a file that is there");
                files.flip_bit(path, offset, 3).expect("the file was listed");
                return Ok(());
            }
            Fault::Rot { process, folder } => {
                self.report.add(Happening::BitRot, 1);
                self.blocks.spoil(self.disk_of(process));
                let files = &self.machines[process.0].files;
                files.rot(&mut self.disk_rng, std::path::Path::new(folder));
                return Ok(());
            }
            Fault::FullDisk { process, room, lasts } => {
                self.report.add(Happening::FullDisks, 1);
                let machine = &mut self.machines[process.0];
                machine.is_full = true;
                machine.files.limit_room(Some(room));
                (Mend::DiskRoom(process), lasts)
            }
        };
        self.agenda.after(lasts, Delivery::Mend(mend));
        Ok(())
    }

    pub(super) fn mend(&mut self, mend: Mend) -> Result<(), Violation> {
        let now = self.agenda.now();
        self.trace.event(now, "-", "mend", &[], || format!("{mend:?}"));
        match mend {
            Mend::Start(process) => return self.start(process),
            Mend::Continue { process, pause } => {
                if self.machines[process.0].pause == Some(pause) {
                    self.go_on(process);
                }
            }
            Mend::CutOff { process, pause } => {
                if self.machines[process.0].pause == Some(pause) {
                    self.network.cut_off(&mut self.agenda, &mut self.report, process);
                }
            }
            Mend::Unblock(ways) => {
                for (from, to) in ways {
                    self.network.unblock(&mut self.agenda, from, to);
                }
            }
            Mend::Link((from, to)) => self.network.slow_down(from, to, Duration::ZERO),
            Mend::Wire((from, to)) => self.network.lose_some(from, to, 0),
            Mend::DiskSpeed(process) => self.machines[process.0].slow_disk = Duration::ZERO,
            Mend::DiskRoom(process) => {
                let machine = &mut self.machines[process.0];
                machine.is_full = false;
                machine.files.limit_room(None);
            }
        }
        Ok(())
    }

    fn go_on(&mut self, process: ProcessId) {
        let machine = &mut self.machines[process.0];
        machine.pause = None;
        let now = self.agenda.now();
        for held in machine.held.drain(..) {
            self.agenda.at(now, held);
        }
        machine.alarm = None;
        self.set_alarm(process);
    }

    /// A process dies while its disk thread works.
    pub(super) fn meet_doom(&mut self, process: ProcessId, (death, down): (Death, Duration)) {
        self.crash(process, death);
        self.agenda.after(down, Delivery::Mend(Mend::Start(process)));
    }

    /// A process dies at once, perhaps in the middle of a job of its disk thread.
    fn crash(&mut self, process: ProcessId, death: Death) {
        self.trace(process, "dies", &[death as u64], || format!("{death:?}"));
        self.report.add(Happening::Crashes, 1);
        self.let_go(process);
        let machine = &mut self.machines[process.0];
        if !machine.disk.jobs.is_empty()
            && let Some(running) = &mut machine.process
            && chance(&mut self.disk_rng, 700)
        {
            let most = if chance(&mut self.disk_rng, 600) { 2 } else { OPERATIONS_OF_A_JOB };
            machine.files.fail_after(self.disk_rng.u64(0..most));
            // What it answers reaches nobody any more.
            drop(running.work(machine.disk.jobs.drain(..)));
        }
        self.end(process, death);
    }

    /// What is left after a death: the disk, as far as it was synced.
    fn end(&mut self, process: ProcessId, death: Death) {
        self.network.die(&mut self.agenda, &mut self.report, process);
        let machine = &mut self.machines[process.0];
        if let Some(running) = &mut machine.process {
            running.report(&mut self.report);
        }
        machine.die();
        match death {
            Death::Killed => machine.files.stop_failing(),
            Death::ForGood => {
                machine.files.stop_failing();
                machine.is_broken = true;
                self.report.add(Happening::StayedDead, 1);
            }
            Death::DiskLoss | Death::Gone => {
                machine.is_broken = death == Death::Gone;
                let disk = DiskId { process: process.0, number: machine.lost_disks };
                self.blocks.spoil(disk);
                machine.lost_disks += 1;
                machine.files.wipe();
                machine.has_folder = false;
                machine.votes_since = None;
                machine.is_successor = true;
                self.report.add(Happening::EmptyDisks, 1);
            }
            Death::PowerLoss => {
                let lost = machine.files.lose_power(&mut self.disk_rng, self.swarm.survival);
                self.report.add(Happening::PowerLosses, 1);
                self.report.add(Happening::LostWrites, lost.writes);
                self.report.add(Happening::TornWrites, lost.torn);
                self.report.add(Happening::LostNames, lost.names);
            }
        }
    }

    /// A process ended itself. It may where its disk failed it, and is started again after a while.
    pub(super) fn gave_up(
        &mut self,
        process: ProcessId,
        reason: &str,
        is_disk: bool,
    ) -> Result<(), Violation> {
        let now = self.agenda.now();
        let machine = &self.machines[process.0];
        self.trace.event(now, &machine.name, "gives up", &[], || reason.to_owned());
        check(is_disk && machine.is_full, "no process gives up without a reason", || {
            format!("{}: {reason}", machine.name)
        })?;
        self.report.add(Happening::DiskFailures, 1);
        self.end(process, Death::Killed);
        self.agenda.after(Duration::from_secs(1), Delivery::Mend(Mend::Start(process)));
        Ok(())
    }

    fn start(&mut self, process: ProcessId) -> Result<(), Violation> {
        let now = self.agenda.now();
        let drift = i64::try_from(self.swarm.drift).unwrap_or(0);
        let member_count = self.members.len();
        let machine = &mut self.machines[process.0];
        if machine.process.is_some() || machine.is_broken {
            return Ok(());
        }
        machine.life += 1;
        let origin = self.process_rng.u64(0..3_600_000_000);
        machine.clock = LocalClock {
            origin: machine.origin.unwrap_or(origin),
            drift: self.process_rng.i64(-drift..=drift),
        };
        let stored_files: BTreeSet<FileId> = self.blocks.stored().collect();
        let start = Start {
            now: machine.clock.local(now),
            files: &machine.files,
            life: machine.life,
            seed: self.process_rng.u64(..),
            member_count,
            limits: self.swarm.limits,
            tuning: self.swarm.tuning,
            has_folder: machine.has_folder,
            is_founder: self.members.first() == Some(&process) && !self.is_founded,
            disk: machine.lost_disks,
            storage: self.swarm.storage,
            grace: self.swarm.grace,
            stored_files: &stored_files,
            planted: self.planted,
        };
        let dies = machine.life > 1
            && !self.is_healed
            && machine.recipe.has_disk()
            && chance(&mut self.faults_rng, self.swarm.recovery_crashes);
        if dies {
            machine.files.fail_after(self.disk_rng.u64(0..OPERATIONS_OF_A_START));
        }
        let mut requests = Vec::new();
        let started = Process::start(&machine.recipe, &start, &mut requests);
        if dies {
            self.report.add(Happening::CrashesInRecovery, 1);
            self.end(process, Death::PowerLoss);
            self.start_later(process);
            return Ok(());
        }
        match started {
            Ok(running) => {
                let disk = DiskId { process: process.0, number: machine.lost_disks };
                let gone = running.missing(&self.blocks.expected(disk));
                check(gone.is_none(), "invariant 5: what is durable survives a restart", || {
                    format!("{}: block {gone:?} is gone", machine.name)
                })?;
                for block in self.blocks.doubts(disk) {
                    self.blocks.resolved(disk, block, running.missing(&[block]).is_none());
                }
                let address = machine.recipe.address();
                machine.process = Some(running);
                machine.has_folder = true;
                self.is_founded = true;
                if !address.is_empty() {
                    self.network.listen(process, &address);
                }
                self.history.started(process.0);
                if let Some(jobs) = &mut self.jobs {
                    jobs.started(process.0);
                }
                self.trace(process, "starts", &[], String::new);
                self.perform(process, &mut requests)?;
                if self.is_healed { self.handle(process, Event::Finish) } else { Ok(()) }
            }
            Err(_) if machine.is_full => {
                self.start_later(process);
                Ok(())
            }
            Err(seen) => Err(Violation {
                promise: "a process starts again from its disk after any crash",
                seen: format!("{}: {seen}", machine.name),
            }),
        }
    }

    /// Whether every member is or will be back.
    fn is_nobody_broken(&self) -> bool {
        self.members.iter().all(|member| !self.machines[member.0].is_broken)
    }

    /// Whether the failure model permits a machine to lose its disk now: of members one after the
    /// other was replaced, of storage nodes only one in a run and only once.
    fn may_lose_disk(&self, process: ProcessId) -> bool {
        if self.jobs.is_none() {
            return self.is_complete();
        }
        if self.members.contains(&process) {
            return self.is_complete() && self.is_nobody_broken();
        }
        self.weak == Some(process) && self.machines[process.0].lost_disks == 0
    }

    /// Whether a process may die for good: of each tier only one in a run, and never the last one; a
    /// master when all of them vote, a storage node where its disk may be lost, and balancers as
    /// long as one is left.
    fn may_stay_dead(&self, process: ProcessId) -> bool {
        if self.balancers.contains(&process) {
            let others = self.balancers.iter().filter(|&&other| other != process);
            return others.into_iter().any(|other| !self.machines[other.0].is_broken);
        }
        let tiers = [&self.members, &self.workers];
        let Some(tier) = tiers.into_iter().find(|tier| tier.contains(&process)) else {
            return self.storage.len() > 2 && self.may_lose_disk(process);
        };
        let is_master = self.members.contains(&process);
        tier.len() > 1
            && tier.iter().all(|other| !self.machines[other.0].is_broken)
            && (!is_master || self.is_complete())
    }

    fn start_later(&mut self, process: ProcessId) {
        let (low, high) = (Duration::from_millis(100), Duration::from_secs(2));
        let pause = span(&mut self.faults_rng, low, high);
        self.agenda.after(pause, Delivery::Mend(Mend::Start(process)));
    }

    /// Mends everything but a minority of the members, and asks the clients to come to an end.
    pub(super) fn heal(&mut self) -> Result<(), Violation> {
        if std::mem::replace(&mut self.is_healed, true) {
            return Ok(());
        }
        self.healed_at = self.agenda.now();
        let all: Vec<ProcessId> = (0..self.machines.len()).map(ProcessId).collect();
        let is_well = self.is_complete() && self.is_nobody_broken();
        if is_well && chance(&mut self.faults_rng, 300) {
            let minority = self.faults_rng.usize(0..self.members.len());
            let process = self.members[minority];
            if self.machines[process.0].process.is_some() {
                self.crash(process, Death::Killed);
            }
            self.machines[process.0].is_broken = true;
        }
        for &from in &all {
            for &to in &all {
                self.network.unblock(&mut self.agenda, from, to);
                self.network.slow_down(from, to, Duration::ZERO);
                self.network.lose_some(from, to, 0);
            }
            self.machines[from.0].doom = None;
            self.mend(Mend::DiskSpeed(from))?;
            self.mend(Mend::DiskRoom(from))?;
            if self.machines[from.0].pause.is_some() {
                self.go_on(from);
            }
        }
        for &process in &all {
            if self.machines[process.0].process.is_some() {
                self.handle(process, Event::Finish)?;
            } else {
                self.start(process)?;
            }
        }
        self.agenda.after(Duration::ZERO, Delivery::Look);
        Ok(())
    }
}
