//! What can be said of inputs where no storage node answers: who waits, who is told what, what is
//! left. That they are what was stored is tested with a real cluster.

use proto::description::{Input, InputSource, JobDescription};
use proto::ids::FileId;

use super::*;

fn spec(job: u128, runtime: Runtime) -> JobSpec {
    JobSpec {
        job: JobId(job),
        task_count: 10,
        program: Vec::new(),
        input_files: Vec::new(),
        description: JobDescription::new(runtime),
    }
}

fn command(program: Program) -> Runtime {
    Runtime::Command { program, arguments: Vec::new() }
}

struct Bench {
    inputs: Inputs,
    cancel: Cancel,
    data: tempfile::TempDir,
}

impl Bench {
    fn new(limit: u64) -> Bench {
        let data = tempfile::tempdir().unwrap();
        let inputs = open(data.path(), 1, limit);
        Bench { inputs, cancel: Cancel::new(std::thread::current()), data }
    }

    fn prepare(&self, spec: &JobSpec) -> Result<Prepared, Missing> {
        self.inputs.prepare(spec, &self.cancel)
    }

    fn folders(&self) -> usize {
        fs::read_dir(self.data.path().join("inputs/1")).unwrap().count()
    }
}

fn open(data: &Path, incarnation: u64, limit: u64) -> Inputs {
    let client = Arc::new(Client::connect(Vec::new()).unwrap());
    let settings = WorkerConfig {
        inputs: InputsWay::Materialise,
        inputs_bytes: limit,
        ..WorkerConfig::default()
    };
    Inputs::open(data, Incarnation(incarnation), &settings, Clock::start(), client).unwrap()
}

#[test]
fn a_way_that_cannot_be_is_refused_at_the_start() {
    let data = tempfile::tempdir().unwrap();
    let client = Arc::new(Client::connect(Vec::new()).unwrap());
    let settings = WorkerConfig {
        inputs: InputsWay::Materialise,
        mount_way: MountWay::Erofs,
        ..WorkerConfig::default()
    };
    let opened = Inputs::open(data.path(), Incarnation(1), &settings, Clock::start(), client);
    let error = opened.unwrap_err().to_string();
    assert!(error.starts_with("mount_way = \"erofs\" demands a mount"), "{error}");
}

#[test]
fn who_needs_nothing_waits_for_nothing() {
    let bench = Bench::new(0);
    let prepared = bench.prepare(&spec(1, command(Program::Path("sh".into())))).unwrap();
    assert!(prepared.view().is_none() && bench.folders() == 0);
    assert_eq!(prepared.line(TaskIndex(0), &bench.cancel), Ok(None));
    assert!(bench.inputs.status().limit > 0);
}

#[test]
fn a_program_that_travelled_is_written_once_for_all_tasks() {
    let bench = Bench::new(0);
    let mut spec = spec(1, command(Program::Inline));
    spec.program = b"#!/bin/sh\n".to_vec();
    let (first, second) = (bench.prepare(&spec).unwrap(), bench.prepare(&spec).unwrap());
    let path = |prepared: &Prepared| prepared.view().unwrap().program.clone().unwrap();
    assert_eq!(path(&first), path(&second));
    assert_eq!(fs::read(path(&first)).unwrap(), spec.program);
    assert_eq!(bench.folders(), 1);
    let state = |bench: &Bench| bench.inputs.owner.0.state().jobs[&JobId(1)].user_count;
    assert_eq!(state(&bench), 2);
    drop((first, second));
    assert_eq!(state(&bench), 0);
}

#[test]
fn a_cancelled_task_does_not_wait_and_a_fetch_that_nobody_wants_ends() {
    let bench = Bench::new(0);
    let spec = spec(1, command(Program::File(FileId(7))));
    let (inputs, cancel) = (bench.inputs.clone(), bench.cancel.clone());
    let waiting = std::thread::spawn(move || inputs.prepare(&spec, &cancel).map(|_| ()));
    while bench.inputs.status().jobs == 0 {
        std::thread::yield_now();
    }
    bench.cancel.cancel();
    assert_eq!(waiting.join().unwrap(), Err(Missing::Cancelled));
}

#[test]
fn what_is_the_jobs_fault_is_told_to_all_its_tasks() {
    let bench = Bench::new(0);
    let mut spec = spec(1, command(Program::Path("sh".into())));
    let source = InputSource::Name("data".to_owned());
    spec.description.inputs = vec![Input { name: "a/b".to_owned(), source }];
    for _ in 0..2 {
        let Err(Missing::Job(Cause::InputFailed, text)) = bench.prepare(&spec) else {
            panic!("a name is an input");
        };
        assert!(text.contains("\"a/b\" is still the name \"data\""), "{text}");
    }
    assert_eq!(bench.folders(), 0);
}

#[test]
fn an_empty_program_does_not_start() {
    let bench = Bench::new(0);
    let missing = bench.prepare(&spec(1, command(Program::Inline))).unwrap_err();
    let wanted = "the program of the job is empty".to_owned();
    assert_eq!(missing, Missing::Job(Cause::NotStarted, wanted));
}

#[test]
fn what_is_used_keeps_its_room_and_what_is_idle_gives_it() {
    let bench = Bench::new(100);
    let mut spec = spec(1, command(Program::Inline));
    spec.program = b"#!/bin/sh\n".to_vec();
    let used = bench.prepare(&spec).unwrap();
    let shared = &bench.inputs.owner.0;
    let number = shared.state().jobs[&JobId(1)].number;
    shared.reserve(JobId(1), number, 90).unwrap();
    let Err(Missing::Trouble(text)) = shared.reserve(JobId(2), 7, 20) else {
        panic!("more than the limit is kept");
    };
    assert!(text.contains("90 of 100 bytes"), "{text}");
    drop(used);
    shared.reserve(JobId(2), 7, 20).unwrap();
    assert_eq!((bench.inputs.status().bytes, bench.folders()), (20, 0));
}

#[test]
fn another_start_removes_what_was_left() {
    let data = tempfile::tempdir().unwrap();
    let left = data.path().join("inputs/1/left/inputs/folder");
    fs::create_dir_all(&left).unwrap();
    fs::write(left.join("file"), "").unwrap();
    fs::set_permissions(&left, std::os::unix::fs::PermissionsExt::from_mode(0o555)).unwrap();
    let _second = open(data.path(), 2, 0);
    while data.path().join("inputs/1").exists() {
        std::thread::yield_now();
    }
    assert!(data.path().join("inputs/2").exists());
}
