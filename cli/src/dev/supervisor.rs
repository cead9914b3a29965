//! Keeps processes running: starts them, starts again what dies, ends them tier by tier.
//!
//! It knows programs, not tiers. A process is signalled through a descriptor that was opened before
//! anybody could reap it, so a signal never reaches another process that got its number. That the
//! processes end with this one is their own doing (`serve --parent`).

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};

use node::clock::Clock;
use node::stop::Stop;
use proto::time::{Duration, Instant};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// How long a process stays dead before it is started again; as systemd would with
/// `RestartSec=1`.
const RESTART_DELAY: Duration = Duration::from_secs(1);

/// A program that is to run.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// What it is called in reports.
    pub(crate) name: String,
    /// The executable.
    pub(crate) executable: PathBuf,
    /// Its arguments.
    pub(crate) arguments: Vec<OsString>,
    /// Where its output is appended.
    pub(crate) log: PathBuf,
    /// Programs of the highest stage are ended first, those of the next when these are gone.
    pub(crate) stage: usize,
}

/// What becomes of a process that dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Restart {
    /// It is started again after a second.
    AfterASecond,
    /// It stays dead.
    Never,
}

/// What happened to a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It runs.
    Started {
        /// Its number.
        pid: u32,
    },
    /// It does not run any more, or could not be started.
    Ended {
        /// How it ended.
        how: String,
        /// True where it was asked to.
        wanted: bool,
    },
}

/// Who is told of changes: the position of the program and what happened.
pub(crate) type Report = Box<dyn FnMut(usize, &Change)>;

struct Running {
    start: u64,
    process: OwnedFd,
}

#[derive(Default)]
struct State {
    running: Option<Running>,
    /// When it is started again.
    due: Option<Instant>,
}

enum Happened {
    Exited { position: usize, start: u64, status: io::Result<ExitStatus> },
    Start { position: usize },
    Stop,
}

/// Asks a supervisor to start what does not run.
#[derive(Clone)]
pub(crate) struct Starter {
    sender: Sender<Happened>,
}

impl Starter {
    /// Starts a program now, unless it runs.
    pub(crate) fn start(&self, position: usize) {
        // Nobody receives it where the supervisor is gone.
        let _ = self.sender.send(Happened::Start { position });
    }
}

/// Starts programs and watches over them.
pub(crate) struct Supervisor {
    programs: Vec<Program>,
    states: Vec<State>,
    restart: Restart,
    /// How long a process that was asked to end may take.
    patience: Duration,
    report: Report,
    clock: Clock,
    starts: u64,
    sender: Sender<Happened>,
    happened: Receiver<Happened>,
}

impl Supervisor {
    /// A supervisor of programs that do not run yet.
    pub(crate) fn new(
        programs: Vec<Program>,
        restart: Restart,
        patience: Duration,
        report: Report,
    ) -> Supervisor {
        let (sender, happened) = channel();
        let states = programs.iter().map(|_| State::default()).collect();
        let (clock, starts) = (Clock::start(), 0);
        Supervisor { programs, states, restart, patience, report, clock, starts, sender, happened }
    }

    /// What asks this one to start a program again.
    pub(crate) fn starter(&self) -> Starter {
        Starter { sender: self.sender.clone() }
    }

    /// Runs all programs until the end is asked for, then ends them. Must be called on a thread
    /// that lives as long as the process: the kernel tells the children when it ends.
    pub(crate) fn run(&mut self, stop: &Stop) {
        let sender = self.sender.clone();
        // Nobody receives it where this returned already.
        stop.on_request(move || drop(sender.send(Happened::Stop)));
        for position in 0..self.programs.len() {
            self.start(position);
        }
        while let Some(happened) = self.next() {
            match happened {
                Happened::Stop => break,
                Happened::Exited { position, start, status } => {
                    self.exited(position, start, &status, false);
                }
                Happened::Start { position } => {
                    let state = self.states.get_mut(position);
                    if let Some(state) = state.filter(|state| state.running.is_none()) {
                        state.due = None;
                        self.start(position);
                    }
                }
            }
        }
        self.end_all();
    }

    /// What happens next; starts what is due meanwhile.
    fn next(&mut self) -> Option<Happened> {
        loop {
            let due = self.states.iter().filter_map(|state| state.due).min();
            let Some(due) = due else {
                return self.happened.recv().ok();
            };
            match self.happened.recv_timeout(due.since(self.clock.now()).to_std()) {
                Ok(happened) => return Some(happened),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => self.start_due(),
            }
        }
    }

    fn start_due(&mut self) {
        let now = self.clock.now();
        for position in 0..self.states.len() {
            if self.states[position].due.is_some_and(|due| due <= now) {
                self.states[position].due = None;
                self.start(position);
            }
        }
    }

    fn start(&mut self, position: usize) {
        self.starts += 1;
        let start = self.starts;
        match spawn(&self.programs[position]) {
            Ok((mut child, process)) => {
                let pid = child.id();
                self.states[position].running = Some(Running { start, process });
                let sender = self.sender.clone();
                std::thread::spawn(move || {
                    let status = child.wait();
                    // Nobody receives it where the supervisor is gone.
                    let _ = sender.send(Happened::Exited { position, start, status });
                });
                (self.report)(position, &Change::Started { pid });
            }
            Err(error) => self.ended(position, format!("cannot be started: {error}"), false),
        }
    }

    fn exited(
        &mut self,
        position: usize,
        start: u64,
        status: &io::Result<ExitStatus>,
        wanted: bool,
    ) {
        let state = &mut self.states[position];
        if state.running.as_ref().is_some_and(|running| running.start == start) {
            state.running = None;
            self.ended(position, describe(status), wanted);
        }
    }

    fn ended(&mut self, position: usize, how: String, wanted: bool) {
        if !wanted && self.restart == Restart::AfterASecond {
            self.states[position].due = Some(self.clock.now() + RESTART_DELAY);
        }
        (self.report)(position, &Change::Ended { how, wanted });
    }

    /// Ends everything, the highest stage first.
    fn end_all(&mut self) {
        for state in &mut self.states {
            state.due = None;
        }
        let mut stages: Vec<usize> = self.programs.iter().map(|program| program.stage).collect();
        stages.sort_unstable();
        stages.dedup();
        for stage in stages.into_iter().rev() {
            self.signal(stage, Signal::TERM);
            if !self.wait_for(stage, Some(self.clock.now() + self.patience)) {
                self.signal(stage, Signal::KILL);
                self.wait_for(stage, None);
            }
        }
    }

    fn signal(&self, stage: usize, signal: Signal) {
        for (program, state) in self.programs.iter().zip(&self.states) {
            if let Some(running) = &state.running
                && program.stage == stage
            {
                // One that has just ended needs none.
                let _ = pidfd_send_signal(&running.process, signal);
            }
        }
    }

    /// Waits until all of a stage ended; false where they did not until the deadline.
    fn wait_for(&mut self, stage: usize, deadline: Option<Instant>) -> bool {
        loop {
            let mut of_stage = self.programs.iter().zip(&self.states);
            if !of_stage.any(|(program, state)| program.stage == stage && state.running.is_some()) {
                return true;
            }
            let happened = match deadline {
                None => self.happened.recv().ok(),
                Some(deadline) => {
                    let wait = deadline.since(self.clock.now());
                    self.happened.recv_timeout(wait.to_std()).ok()
                }
            };
            match happened {
                Some(Happened::Exited { position, start, status }) => {
                    self.exited(position, start, &status, true);
                }
                Some(Happened::Start { .. } | Happened::Stop) => {}
                None => return false,
            }
        }
    }
}

fn spawn(program: &Program) -> io::Result<(Child, OwnedFd)> {
    let log = OpenOptions::new().create(true).append(true).open(&program.log)?;
    let mut command = Command::new(&program.executable);
    command
        .args(&program.arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // A Ctrl-C at the terminal is this process's matter, which ends them in order.
        .process_group(0);
    // A variable that was meant for one daemon would change the settings of all of them.
    for (variable, _) in node::config::environment() {
        if variable != node::log::VARIABLE {
            command.env_remove(variable);
        }
    }
    let mut child = command.spawn()?;
    match pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
        Ok(process) => Ok((child, process)),
        Err(error) => {
            child.kill()?;
            child.wait()?;
            Err(error.into())
        }
    }
}

fn describe(status: &io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("killed by signal {signal}"),
            (None, None) => "ended".into(),
        },
        Err(error) => format!("cannot be watched: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::thread::JoinHandle;

    use super::*;

    /// A supervisor of shell scripts on a thread of its own; ends with the test.
    struct Supervised {
        stop: Stop,
        changes: Receiver<(usize, Change)>,
        starter: Starter,
        thread: Option<JoinHandle<()>>,
    }

    impl Supervised {
        fn scripts(folder: &Path, restart: Restart, scripts: &[&str]) -> Supervised {
            let program = |(position, script): (usize, &&str)| Program {
                name: format!("script-{position}"),
                executable: "/bin/sh".into(),
                arguments: vec!["-c".into(), (*script).into()],
                log: folder.join(format!("{position}.log")),
                stage: position,
            };
            let programs: Vec<Program> = scripts.iter().enumerate().map(program).collect();
            let (sender, changes) = channel();
            let stop = Stop::new();
            let asked = stop.clone();
            let (starters, started) = channel();
            let thread = std::thread::spawn(move || {
                let report: Report =
                    Box::new(move |position, change| drop(sender.send((position, change.clone()))));
                let patience = Duration::from_millis(300);
                let mut supervisor = Supervisor::new(programs, restart, patience, report);
                starters.send(supervisor.starter()).unwrap();
                supervisor.run(&asked);
            });
            let starter = started.recv().unwrap();
            Supervised { stop, changes, starter, thread: Some(thread) }
        }

        fn next(&self) -> (usize, Change) {
            self.changes.recv_timeout(std::time::Duration::from_secs(20)).unwrap()
        }

        /// Asks for the end; what happened from then on.
        fn end(mut self) -> Vec<(usize, Change)> {
            self.stop.request();
            self.thread.take().unwrap().join().unwrap();
            self.changes.try_iter().collect()
        }
    }

    impl Drop for Supervised {
        fn drop(&mut self) {
            self.stop.request();
            if let Some(thread) = self.thread.take() {
                let _ = thread.join();
            }
        }
    }

    fn ended(how: &str, wanted: bool) -> Change {
        Change::Ended { how: how.into(), wanted }
    }

    #[test]
    fn what_dies_is_started_again_and_its_output_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let script = "echo one more; kill -9 $$";
        let supervised = Supervised::scripts(folder.path(), Restart::AfterASecond, &[script]);
        for _ in 0..2 {
            assert!(matches!(supervised.next(), (0, Change::Started { .. })));
            assert_eq!(supervised.next(), (0, ended("killed by signal 9", false)));
        }
        supervised.end();
        let log = std::fs::read_to_string(folder.path().join("0.log")).unwrap();
        assert!(log.starts_with("one more\none more\n"), "{log}");
    }

    #[test]
    fn without_restart_the_dead_stay_dead_and_the_others_run() {
        let folder = tempfile::tempdir().unwrap();
        let scripts = ["exit 7", "sleep 1.5; exit 8", "exec sleep 60"];
        let supervised = Supervised::scripts(folder.path(), Restart::Never, &scripts);
        let mut starts = 0;
        let mut exits = Vec::new();
        while exits.len() < 2 {
            match supervised.next() {
                (_, Change::Started { .. }) => starts += 1,
                exit => exits.push(exit),
            }
        }
        assert_eq!(exits, [(0, ended("exit code 7", false)), (1, ended("exit code 8", false))]);
        assert_eq!(supervised.end(), [(2, ended("killed by signal 15", true))]);
        assert_eq!(starts, 3);
    }

    #[test]
    fn what_is_dead_is_started_when_asked_for_and_what_runs_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let scripts = ["exit 7", "exec sleep 60"];
        let supervised = Supervised::scripts(folder.path(), Restart::Never, &scripts);
        let next = || loop {
            match supervised.next() {
                (1, Change::Started { .. }) => {}
                other => return other,
            }
        };
        for _ in 0..2 {
            assert!(matches!(next(), (0, Change::Started { .. })));
            assert_eq!(next(), (0, ended("exit code 7", false)));
            supervised.starter.start(1);
            supervised.starter.start(9);
            supervised.starter.start(0);
        }
        let starts = supervised.end();
        assert!(!starts.iter().any(|it| matches!(it, (1, Change::Started { .. }))), "{starts:?}");
    }

    #[test]
    fn the_end_goes_stage_by_stage_and_takes_the_stubborn_along() {
        let folder = tempfile::tempdir().unwrap();
        let stubborn = "trap '' TERM; echo deaf; while :; do sleep 1; done";
        let polite = "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done";
        let scripts = [polite, stubborn, polite];
        let supervised = Supervised::scripts(folder.path(), Restart::AfterASecond, &scripts);
        for _ in 0..3 {
            supervised.next();
        }
        // Until the traps are set; the scripts say so.
        for position in 0..3 {
            let log = folder.path().join(format!("{position}.log"));
            while std::fs::read_to_string(&log).unwrap_or_default().is_empty() {
                std::thread::yield_now();
            }
        }
        let exits = supervised.end();
        assert_eq!(
            exits,
            [
                (2, ended("exit code 3", true)),
                (1, ended("killed by signal 9", true)),
                (0, ended("exit code 3", true)),
            ]
        );
    }

    #[test]
    fn a_program_that_is_not_there_is_reported() {
        let folder = tempfile::tempdir().unwrap();
        let (sender, changes) = channel();
        let report: Report = Box::new(move |_, change| drop(sender.send(change.clone())));
        let program = Program {
            name: "nothing".into(),
            executable: folder.path().join("nothing"),
            arguments: Vec::new(),
            log: folder.path().join("log"),
            stage: 0,
        };
        let stop = Stop::new();
        stop.request();
        Supervisor::new(vec![program], Restart::Never, Duration::ZERO, report).run(&stop);
        let change = changes.recv().unwrap();
        let Change::Ended { how, wanted: false } = change else {
            panic!("{change:?}");
        };
        assert!(how.starts_with("cannot be started: No such file"), "{how}");
    }
}
