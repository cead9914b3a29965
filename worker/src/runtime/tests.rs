//! The command runtime with real processes, started by a real helper: this test binary again.

mod hostile;
mod memory;
mod outputs;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;

use proto::description::{Array, JobDescription, Program, Retry};
use proto::ids::{Incarnation, JobId};
use proto::segment::OutputContent;
use rustix::process::{Pid, Signal, kill_process};

use super::*;
use crate::config::{InputsWay, WorkerConfig};
use crate::logic::{EXIT_NOT_STARTED, Event};
use crate::slots::Slots;
use crate::spawn::{HelperProgram, helper_main};

#[test]
#[ignore = "is the helper of the tests below"]
fn helper_process() {
    // Only what starts the helper has a socket there; for all others this returns at once.
    let _ = helper_main();
}

struct Bench {
    data: tempfile::TempDir,
    spawner: Spawner,
}

impl Bench {
    fn new() -> Bench {
        let data = tempfile::tempdir().unwrap();
        let spawner = open(data.path());
        Bench { data, spawner }
    }

    fn runtimes(&self) -> Runtimes {
        Runtimes::new(equipment(self.data.path(), &self.spawner))
    }

    fn execute(&self, spec: &JobSpec, index: u64) -> TaskEnd {
        let task = Task { spec, index: TaskIndex(index), attempt: 3, started: Instant(0) };
        let cancel = Cancel::new(std::thread::current());
        self.runtimes().execute(0, task, Duration::ZERO, &cancel)
    }

    /// Executes a task on another thread.
    fn start(&self, spec: JobSpec) -> (Cancel, JoinHandle<TaskEnd>) {
        let mut runtimes = self.runtimes();
        let (send, receive) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let cancel = Cancel::new(std::thread::current());
            send.send(cancel.clone()).unwrap();
            let task = Task { spec: &spec, index: TaskIndex(0), attempt: 3, started: Instant(0) };
            runtimes.execute(0, task, Duration::ZERO, &cancel)
        });
        (receive.recv().unwrap(), thread)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.data.path().join(name)
    }

    /// What is left of the folders of tasks.
    fn folders(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.spawner.folder()).unwrap();
        entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect()
    }

    fn kept(&self, index: u64) -> PathBuf {
        self.file("kept").join(format!("{}-{index}-3", JobId(1)))
    }
}

fn open(data: &Path) -> Spawner {
    Spawner::open(data, helper_program()).unwrap()
}

fn helper_program() -> HelperProgram {
    let arguments = ["--exact", "runtime::tests::helper_process", "--ignored", "--nocapture"];
    let program = std::env::current_exe().unwrap();
    let arguments = arguments.iter().map(|&argument| argument.into()).collect();
    HelperProgram { program, arguments, user: None }
}

/// What tasks here have: nothing of theirs is on storage, so no address is asked.
fn equipment(data: &Path, spawner: &Spawner) -> Equipment {
    let (clock, client) = (Clock::start(), Arc::new(Client::connect(Vec::new()).unwrap()));
    let settings = WorkerConfig { inputs: InputsWay::Materialise, ..WorkerConfig::default() };
    let inputs = Inputs::open(data, Incarnation(1), &settings, clock, client.clone()).unwrap();
    Equipment::new(clock, spawner.clone(), client, inputs, &["tcp://127.0.0.1:1".to_owned()])
}

fn job(program: Program, arguments: &[&str]) -> JobSpec {
    let arguments = arguments.iter().map(|it| it.as_bytes().to_vec()).collect();
    let kind = RuntimeKind::Command { program, arguments };
    let mut description = JobDescription::new(kind);
    description.keep_scratch = true;
    JobSpec {
        job: JobId(1),
        task_count: 1_000,
        program: Vec::new(),
        input_files: Vec::new(),
        description,
    }
}

fn named(program: &str, arguments: &[&str]) -> JobSpec {
    job(Program::Path(program.into()), arguments)
}

fn shell(script: &str) -> JobSpec {
    named("sh", &["-c", script])
}

fn how(end: &TaskEnd) -> (TaskState, i32, Cause) {
    (end.state, end.exit_code, end.cause)
}

/// Waits until a file has a whole line, and tells it.
fn line_of(path: &Path) -> String {
    let clock = Clock::start();
    let until = clock.now() + Duration::from_secs(60);
    loop {
        match fs::read_to_string(path) {
            Ok(text) if text.ends_with('\n') => return text.trim_end().to_owned(),
            _ => assert!(clock.now() < until, "{} is not written", path.display()),
        }
        std::thread::park_timeout(std::time::Duration::from_millis(5));
    }
}

/// Waits until a process ended. Nobody may be there to collect it, so a zombie counts as ended.
fn expect_end(pid: &str) {
    let clock = Clock::start();
    let until = clock.now() + Duration::from_secs(60);
    let stat = format!("/proc/{pid}/stat");
    while fs::read_to_string(&stat).is_ok_and(|text| !text.contains(") Z ")) {
        assert!(clock.now() < until, "process {pid} runs on");
        std::thread::park_timeout(std::time::Duration::from_millis(5));
    }
}

#[test]
fn exit_codes_and_signals_are_told() {
    let bench = Bench::new();
    for (script, wanted) in [
        ("exit 0", (TaskState::Done, 0, Cause::None)),
        ("exit 7", (TaskState::Failed, 7, Cause::None)),
        ("exit 255", (TaskState::Failed, 255, Cause::None)),
        ("kill -TERM $$", (TaskState::Failed, -15, Cause::Signal)),
        ("kill -KILL $$", (TaskState::Failed, -9, Cause::Signal)),
    ] {
        assert_eq!(how(&bench.execute(&shell(script), 0)), wanted, "{script}");
    }
}

#[test]
fn what_a_task_used_is_told() {
    let bench = Bench::new();
    let end = bench.execute(&shell("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"), 0);
    assert_eq!(how(&end), (TaskState::Done, 0, Cause::None));
    assert!(end.cpu > Duration::ZERO && end.peak_memory_bytes > 100_000, "{end:?}");
}

#[test]
fn a_task_has_its_folder_arguments_and_environment() {
    let bench = Bench::new();
    let script = "pwd; echo $1; echo $REMUDA_JOB $REMUDA_TASK $REMUDA_ATTEMPT; echo $OWN; \
                  echo $REMUDA_INPUTS; echo $REMUDA_OUTPUTS; ls $REMUDA_OUTPUTS $REMUDA_INPUTS; \
                  echo $LC_ALL; echo $REMUDA_INDEX $REMUDA_CLUSTER; test -n \"$HOME\" && test -n \"$CARGO_MANIFEST_DIR\"; echo $?; cat; \
                  echo problem >&2";
    let mut spec = named("sh", &["-c", script, "sh", "no. {index}"]);
    spec.description.environment = vec![
        ("OWN".into(), "1".into()),
        ("OWN".into(), "2 3".into()),
        ("LC_ALL".into(), "C".into()),
    ];
    spec.description.array = Array { first: 100, step: 2 };
    assert_eq!(how(&bench.execute(&spec, 5)), (TaskState::Done, 0, Cause::None));
    let folder = bench.spawner.folder().join(format!("{}-5-3", JobId(1)));
    let folder = folder.display();
    let wanted = format!(
        "{folder}/scratch\nno. 110\n{} 5 3\n2 3\n{folder}/inputs\n{folder}/scratch/outputs\n\
         {folder}/inputs:\n\n{folder}/scratch/outputs:\nC\n110 tcp://127.0.0.1:1\n1\n",
        JobId(1)
    );
    assert_eq!(fs::read_to_string(bench.kept(5).join("stdout")).unwrap(), wanted);
    assert_eq!(fs::read_to_string(bench.kept(5).join("stderr")).unwrap(), "problem\n");
}

#[test]
fn a_task_that_is_tried_again_has_the_number_that_it_had() {
    let bench = Bench::new();
    let mut spec = named("sh", &["-c", "echo {index} $REMUDA_INDEX $REMUDA_TASK"]);
    spec.description.array = Array { first: 100, step: 2 };
    spec.description.retry = Some(Retry { job: JobId(9), tasks: vec![3..4, 7..9] });
    assert_eq!(how(&bench.execute(&spec, 2)), (TaskState::Done, 0, Cause::None));
    assert_eq!(fs::read_to_string(bench.kept(2).join("stdout")).unwrap(), "116 116 2\n");
    // One that the other job did not have is none.
    let ending = bench.execute(&spec, 3);
    assert_eq!(how(&ending), (TaskState::Failed, EXIT_NOT_STARTED, Cause::NotStarted));
}

#[test]
fn folders_are_removed_whatever_is_in_them() {
    let bench = Bench::new();
    let mut spec = shell("mkdir -p a/b && touch a/b/c && chmod 500 a/b a . && exit 1");
    spec.description.keep_scratch = false;
    assert_eq!(how(&bench.execute(&spec, 0)), (TaskState::Failed, 1, Cause::None));
    assert!(bench.folders().is_empty() && !bench.file("kept").exists());
}

#[test]
fn a_script_runs_by_its_first_line() {
    let bench = Bench::new();
    let mut spec = job(Program::Inline, &["{index}"]);
    spec.program = b"#!/bin/sh\necho \"script $1\"\nexit 4\n".to_vec();
    assert_eq!(how(&bench.execute(&spec, 9)), (TaskState::Failed, 4, Cause::None));
    assert_eq!(fs::read_to_string(bench.kept(9).join("stdout")).unwrap(), "script 9\n");
}

#[test]
fn what_cannot_be_started_fails_with_a_reason() {
    let bench = Bench::new();
    let plain = bench.file("plain");
    fs::write(&plain, "text").unwrap();
    fs::set_permissions(&plain, fs::Permissions::from_mode(0o644)).unwrap();
    let mut text = job(Program::Inline, &[]);
    text.program = b"neither a script nor an executable".to_vec();
    for (spec, reason) in [
        (named("no-such-program-here", &[]), "no program \"no-such-program-here\""),
        (named("/no/such/program", &[]), "or not the interpreter"),
        (named(plain.to_str().unwrap(), &[]), "Permission denied"),
        (text, "Exec format error"),
        (job(Program::Inline, &[]), "is empty"),
    ] {
        let end = bench.execute(&spec, 0);
        assert_eq!(how(&end), (TaskState::Failed, EXIT_NOT_STARTED, Cause::NotStarted));
        let told = fs::read_to_string(bench.kept(0).join("stderr")).unwrap();
        assert!(told.contains(reason), "{told}");
    }
}

#[test]
fn a_time_limit_kills_grandchildren_too() {
    let bench = Bench::new();
    let child = bench.file("child");
    let mut spec = shell(&format!("sleep 3600 & echo $! > {}; wait", child.display()));
    // Long enough for the child to be started before it.
    spec.description.time_limit = Some(Duration::from_secs(2));
    let end = bench.execute(&spec, 0);
    assert_eq!(how(&end), (TaskState::Failed, -9, Cause::TimeLimit));
    assert!(end.wall >= Duration::from_secs(2));
    expect_end(&line_of(&child));
}

#[test]
fn a_memory_limit_kills() {
    let bench = Bench::new();
    // The shell keeps the whole text of the variable.
    let mut spec =
        shell("x=0123456789abcdef; while [ ${#x} -lt 67108864 ]; do x=$x$x; done; sleep 3600");
    spec.description.memory_bytes = 32 << 20;
    let end = bench.execute(&spec, 0);
    assert_eq!(how(&end), (TaskState::Failed, -9, Cause::MemoryLimit));
    assert!(end.peak_memory_bytes > 32 << 20);
}

#[test]
fn cancelling_kills_the_group() {
    let bench = Bench::new();
    let child = bench.file("child");
    let script = format!("sleep 3600 & echo $! > {}; wait", child.display());
    let (cancel, thread) = bench.start(shell(&script));
    let pid = line_of(&child);
    cancel.cancel();
    assert_eq!(how(&thread.join().unwrap()), (TaskState::Lost, -9, Cause::Cancelled));
    expect_end(&pid);
}

#[test]
fn cancelling_kills_a_leader_that_left_its_group() {
    let bench = Bench::new();
    let marker = bench.file("marker");
    let perl =
        "setpgrp(0, getppid()) or die; open F, '>', shift; print F qq($$\\n); close F; sleep";
    let (cancel, thread) = bench.start(named("perl", &["-e", perl, marker.to_str().unwrap()]));
    let pid = line_of(&marker);
    cancel.cancel();
    assert_eq!(how(&thread.join().unwrap()), (TaskState::Lost, -9, Cause::Cancelled));
    expect_end(&pid);
}

#[test]
fn what_the_leader_leaves_in_its_group_ends_with_it() {
    let bench = Bench::new();
    let child = bench.file("child");
    let script = format!("sleep 3600 & echo $! > {}", child.display());
    assert_eq!(how(&bench.execute(&shell(&script), 0)), (TaskState::Done, 0, Cause::None));
    expect_end(&line_of(&child));
}

#[test]
fn what_left_its_group_and_its_environment_ends_with_its_task() {
    let bench = Bench::new();
    let child = bench.file("child");
    let script = format!(
        "setsid env -i /bin/sh -c 'echo $$ > {child}; exec sleep 3600' & \
         while ! [ -s {child} ]; do sleep 0.01; done",
        child = child.display()
    );
    assert_eq!(how(&bench.execute(&shell(&script), 0)), (TaskState::Done, 0, Cause::None));
    expect_end(&line_of(&child));
}

#[test]
fn a_task_finds_nothing_of_the_one_before_it() {
    let bench = Bench::new();
    let mut runtimes = bench.runtimes();
    let cancel = Cancel::new(std::thread::current());
    let script = "ls -A . .. $REMUDA_OUTPUTS $REMUDA_INPUTS | tr '\\n' ' '; stat -c %a .; pwd";
    let mut spec = shell(&format!("{script}; test $REMUDA_TASK -lt 4 || touch a ../told/b"));
    spec.description.keep_scratch = false;
    let mut printed = Vec::new();
    for index in 0..7 {
        let task = Task { spec: &spec, index: TaskIndex(index), attempt: 3, started: Instant(0) };
        let end = runtimes.execute(0, task, Duration::ZERO, &cancel);
        assert_eq!(how(&end), (TaskState::Done, 0, Cause::None));
        let [Output { content: OutputContent::Packed(text), .. }] = end.outputs.as_slice() else {
            panic!("{end:?}")
        };
        let text = String::from_utf8(text.clone()).unwrap();
        printed.push(text.replace(&format!("{}-{index}-3", JobId(1)), "TASK"));
        // Those before the fifth leave it as it was.
        assert_eq!(bench.folders().len(), usize::from(index < 4));
    }
    assert!(printed.iter().all(|text| text == &printed[0]), "{printed:?}");
    assert!(printed[0].contains("TASK/scratch\n"));
}

#[test]
fn a_dead_helper_loses_its_tasks_and_another_one_serves() {
    let bench = Bench::new();
    let child = bench.file("child");
    let script = format!("echo $$ > {}; exec sleep 3600", child.display());
    let (_, thread) = bench.start(shell(&script));
    let pid = line_of(&child);
    kill_process(bench.spawner.helper().unwrap(), Signal::KILL).unwrap();
    assert_eq!(how(&thread.join().unwrap()), (TaskState::Lost, 0, Cause::CutOff));
    expect_end(&pid);
    assert_eq!(how(&bench.execute(&shell("exit 3"), 1)), (TaskState::Failed, 3, Cause::None));
}

#[test]
fn a_helper_ends_with_its_worker_and_kills_what_runs() {
    let bench = Bench::new();
    let child = bench.file("child");
    let script = format!("sleep 3600 & echo $! > {}; wait", child.display());
    let (_, thread) = bench.start(shell(&script));
    let pid = line_of(&child);
    let helper = bench.spawner.helper().unwrap();
    bench.spawner.hang_up();
    assert_eq!(how(&thread.join().unwrap()), (TaskState::Lost, 0, Cause::CutOff));
    expect_end(&pid);
    expect_end(&helper.to_string());
}

/// Who started a process, and the letter of its state.
fn parent_and_state(pid: &str) -> (String, String) {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let mut fields = fields.split(' ').map(str::to_owned);
    let state = fields.next().unwrap();
    (fields.next().unwrap(), state)
}

/// The data folder of the process that a test starts as a worker's predecessor.
const DATA: &str = "REMUDA_TEST_PREDECESSOR";

#[test]
#[ignore = "is the predecessor that the test below starts"]
fn predecessor_process() {
    let Some(data) = std::env::var_os(DATA) else { return };
    let spawner = open(Path::new(&data));
    let spec = shell("setsid sleep 3600 & echo $$ $! > ../../../child; wait");
    let task = Task { spec: &spec, index: TaskIndex(0), attempt: 3, started: Instant(0) };
    let cancel = Cancel::new(std::thread::current());
    Runtimes::new(equipment(Path::new(&data), &spawner)).execute(0, task, Duration::ZERO, &cancel);
}

#[test]
fn a_starting_worker_ends_what_its_predecessor_left() {
    let data = tempfile::tempdir().unwrap();
    let test = ["--exact", "runtime::tests::predecessor_process", "--ignored", "--nocapture"];
    let mut predecessor = std::process::Command::new(std::env::current_exe().unwrap())
        .args(test)
        .env(DATA, data.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    // The second process left its group, and is found by its environment.
    let tasks = line_of(&data.path().join("child"));
    // A helper that cannot do it itself: stopped, then at best ended by Linux, which sends SIGHUP to
    // stopped processes whose parent ends.
    let (parent, _) = parent_and_state(tasks.split(' ').next().unwrap());
    let helper = &parent;
    kill_process(Pid::from_raw(helper.parse().unwrap()).unwrap(), Signal::STOP).unwrap();
    while parent_and_state(helper).1 != "T" {
        std::thread::yield_now();
    }
    predecessor.kill().unwrap();
    predecessor.wait().unwrap();
    let running = |pid: &str| fs::exists(format!("/proc/{pid}/fd/0")).unwrap();
    assert!(tasks.split(' ').all(running));
    let spawner = open(data.path());
    expect_end(helper);
    tasks.split(' ').for_each(expect_end);
    assert_eq!(fs::read_dir(spawner.folder()).unwrap().count(), 0);
}

#[test]
fn two_hundred_tasks_share_four_slots() {
    let bench = Bench::new();
    let (wake, woken) = mpsc::channel();
    let wake = move || {
        // Nobody listens while the slots are dropped.
        let _ = wake.send(());
    };
    let mut slots = Slots::start(4, &equipment(bench.data.path(), &bench.spawner), wake).unwrap();
    let mut spec = shell("exit $((REMUDA_TASK % 3))");
    spec.description.keep_scratch = false;
    let spec = Arc::new(spec);
    for slot in 0..4 {
        let first = 50 * u64::from(slot);
        slots.execute(slot, spec.clone(), first..first + 50, 1);
    }
    let mut ends = Vec::new();
    while ends.len() < 200 {
        woken.recv().unwrap();
        if let Some(Event::Ended { ends: more, .. }) = slots.take() {
            ends.extend(more);
        }
    }
    ends.sort_by_key(|end: &TaskEnd| end.task);
    for (end, index) in ends.iter().zip(0..) {
        assert_eq!((end.task, end.exit_code), (TaskIndex(index), (index % 3) as i32));
    }
    assert!(bench.folders().len() <= 4, "one at most waits for the next task of a slot");
    let helper: Pid = bench.spawner.helper().unwrap();
    drop(slots);
    assert!(bench.folders().is_empty());
    drop(bench);
    expect_end(&helper.to_string());
}
