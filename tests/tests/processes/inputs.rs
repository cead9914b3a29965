//! What tasks see: inputs, programs, lines and long descriptions, from real storage on real workers.

use std::collections::BTreeSet;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use client::logic::answers::OutcomeRun;
use client::logic::jobs::{JobSelector, Submission};
use client::{Client, Times};
use cluster_tests::wait::until;
use cluster_tests::{Need, has};
use proto::description::{Input, InputSource, JobDescription, Lines, Program, Runtime};
use proto::ids::{FileId, JobId};
use proto::name::Pointer;
use proto::status::{Cause, JobState, TaskState};
use proto::time::Duration;
use rustix::process::{Pid, Signal, kill_process};

use crate::cluster::{Cluster, LONG, kill};

const SMALL: &[&str] =
    &["--masters", "1", "--balancers", "1", "--storage", "2", "--workers", "2", "--slots", "2"];

/// A cluster, a client of it, and a folder that its tasks write to.
struct Bench {
    cluster: Cluster,
    client: Client,
    told: PathBuf,
    last_job: std::cell::Cell<u128>,
}

impl Bench {
    #[track_caller]
    fn start(shape: &[&str]) -> Bench {
        Bench::of(Cluster::start(shape))
    }

    #[track_caller]
    fn of(cluster: Cluster) -> Bench {
        let masters = cluster.tier("master").into_iter().map(|it| it.address);
        let client = Client::connect(masters.collect()).expect("a client");
        let told = cluster.place().join("told");
        std::fs::create_dir(&told).expect("make a folder");
        Bench { cluster, client, told, last_job: 0.into() }
    }

    /// Submits a job whose tasks find the folder to write to as `$TOLD`.
    #[track_caller]
    fn submit(&self, mut description: JobDescription, task_count: u64, program: &[u8]) -> JobId {
        let told = self.told.to_str().expect("UTF-8").to_owned();
        description.environment.push(("TOLD".to_owned(), told));
        description.keep_scratch = true;
        self.last_job.set(self.last_job.get() + 1);
        let job = JobId(self.last_job.get());
        let submission = Submission::new(job, &description, task_count, program.to_vec());
        self.client.submit(submission.expect("it can be sent")).expect("it is accepted");
        job
    }

    #[track_caller]
    fn wait(&self, job: JobId) -> JobState {
        until("the end of a job", LONG, || {
            let job = self.client.status(JobSelector::Id(job)).expect("it is known");
            job.state.is_final().then_some(job.state)
        })
    }

    #[track_caller]
    fn outcomes(&self, job: JobId) -> Vec<OutcomeRun> {
        self.client.outcomes(job, 0, 1_000).expect("it ended").items
    }

    /// Executes a job all of whose tasks succeed, or says what they complain of.
    #[track_caller]
    fn execute(&self, description: JobDescription, task_count: u64, program: &[u8]) {
        let job = self.submit(description, task_count, program);
        let state = self.wait(job);
        assert!(state == JobState::Done, "{:?}: {}", self.outcomes(job), self.complaints(job));
    }

    /// What the tasks of a job said on standard error.
    fn complaints(&self, job: JobId) -> String {
        let folders = std::fs::read_dir(self.cluster.folder()).expect("a cluster");
        let kept = folders.map(|entry| entry.expect("a folder").path().join("kept"));
        let tasks = kept.filter_map(|kept| std::fs::read_dir(kept).ok()).flatten();
        let tasks = tasks.map(|task| task.expect("a folder").path());
        let of_job = tasks.filter(|task| {
            let name = task.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(&job.to_string())
        });
        of_job
            .map(|task| std::fs::read_to_string(task.join("stderr")).unwrap_or_default())
            .collect()
    }

    #[track_caller]
    fn put(&self, bytes: &[u8]) -> InputSource {
        let file = self.client.put_bytes(bytes).expect("it is stored");
        InputSource::File { file, length: bytes.len() as u64, is_executable: false }
    }

    fn told(&self, name: &str) -> String {
        std::fs::read_to_string(self.told.join(name)).unwrap_or_default()
    }
}

fn input(name: &str, source: InputSource) -> Input {
    Input { name: name.to_owned(), source }
}

fn tree(pointer: Pointer) -> InputSource {
    InputSource::Tree { tree: pointer.file, length: pointer.length }
}

fn command(program: Program, arguments: &[&str]) -> JobDescription {
    let arguments = arguments.iter().map(|it| it.as_bytes().to_vec()).collect();
    JobDescription::new(Runtime::Command { program, arguments })
}

fn program(file: FileId) -> JobDescription {
    command(Program::File(file), &[])
}

fn shell(script: &str) -> JobDescription {
    command(Program::Path("sh".into()), &["-euxc", script])
}

/// A folder of all that a tree holds.
fn make_folder(folder: &Path) {
    std::fs::create_dir_all(folder.join("empty")).expect("make it");
    std::fs::create_dir_all(folder.join("deep/er")).expect("make it");
    std::fs::write(folder.join("deep/er/file"), "deep").expect("make it");
    std::fs::write(folder.join("program"), "#!/bin/sh\necho \"I am $0\"\n").expect("make it");
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(folder.join("program"), mode).expect("make it");
    symlink("deep/er/file", folder.join("link")).expect("make it");
    symlink("/no/where", folder.join("broken")).expect("make it");
    // A list that is long enough for a tree file of its own.
    std::fs::create_dir(folder.join("wide")).expect("make it");
    for number in 0..300 {
        let name = format!("{number:0>200}");
        std::fs::write(folder.join("wide").join(name), format!("{number}")).expect("make it");
    }
}

#[test]
fn tasks_see_files_and_trees_through_a_plain_mount() {
    if has(Need::Fuse) {
        check_inputs("plain", "test \"$(stat -f -c %T $REMUDA_INPUTS/tree/deep)\" = fuseblk");
    }
}

#[test]
fn tasks_see_files_and_trees_mounted_as_erofs() {
    if has(Need::Fuse) && has(Need::Root) && has(Need::Erofs) {
        check_inputs("erofs", "test \"$(stat -f -c %T $REMUDA_INPUTS/tree/deep)\" = erofs");
    }
}

#[test]
fn tasks_see_files_and_trees_as_files_that_nobody_may_write() {
    check_inputs("materialise", "test -z \"$(find -L $REMUDA_INPUTS ! -type l -perm /222)\"");
}

#[track_caller]
fn check_inputs(way: &str, beside: &str) {
    let bench = Bench::start(&[SMALL, &["--inputs", way]].concat());
    let folder = bench.cluster.place().join("folder");
    make_folder(&folder);
    let stored = bench.client.put_tree(&folder, Times::Without, &mut |_| {});
    let pointer = stored.expect("it is stored").pointer;
    let large: Vec<u8> = (0..9_500_000u32).map(|at| (at % 251) as u8).collect();
    std::fs::write(bench.cluster.place().join("large"), &large).expect("it is written");
    let InputSource::File { file, length, .. } = bench.put(b"#!/bin/sh\necho called\n") else {
        panic!("bytes are a file");
    };
    let mut description = shell(&format!(
        "cd $REMUDA_INPUTS
         cmp large $TOLD/../large
         test \"$(cat in/side/few)\" = few
         test ! -s none
         test \"$(in/tool)\" = called
         cd tree
         test \"$(cat link)\" = deep
         test \"$(readlink broken)\" = /no/where
         test -d empty && test -z \"$(ls empty)\"
         test \"$(./program)\" = 'I am ./program'
         test -z \"$(stat -c %a deep/er/file | tr -dc 1357)\"
         test \"$(stat -c %a program | tr -dc 1357 | wc -c)\" = 3
         test \"$(ls wide | wc -l)\" = 300
         test \"$(cat wide/*7 | wc -c)\" = 79
         {beside}
         find . -type f -print0 | sort -z | xargs -0 sha256sum > $TOLD/$REMUDA_INDEX"
    ));
    description.array.first = 100;
    description.inputs = vec![
        input("large", bench.put(&large)),
        input("none", bench.put(b"")),
        input("in/side/few", bench.put(b"few")),
        input("in/tool", InputSource::File { file, length, is_executable: true }),
        input("tree", tree(pointer)),
    ];
    bench.execute(description, 20, b"");
    let told: BTreeSet<String> = (100..120).map(|it| bench.told(&it.to_string())).collect();
    assert_eq!(told.len(), 1, "all see the same");
    assert_eq!(told.first().expect("somebody told").lines().count(), 302);
}

#[test]
fn a_program_of_the_job_runs_wherever_it_comes_from() {
    let bench = Bench::start(SMALL);
    let script = b"#!/bin/sh\necho \"$REMUDA_TASK $1\" >> $TOLD/lines\n";
    let InputSource::File { file, .. } = bench.put(script) else { panic!("bytes are a file") };
    bench.execute(command(Program::File(file), &["{index}"]), 40, b"");
    bench.execute(command(Program::Inline, &["{index}"]), 40, script);
    let lines = bench.told("lines");
    let lines: BTreeSet<&str> = lines.lines().collect();
    assert_eq!(lines.len(), 40);
    // A real executable, started at once by all slots as soon as it is there.
    let program = std::fs::read("/bin/sh").unwrap();
    let InputSource::File { file, .. } = bench.put(&program) else { panic!("bytes are a file") };
    bench.execute(command(Program::File(file), &["-c", "exit 0"]), 40, b"");
}

#[test]
fn every_task_has_its_line() {
    let bench = Bench::start(SMALL);
    let mut lines: Vec<Vec<u8>> = (0..2_000).map(|it| format!("line {it}").into_bytes()).collect();
    lines[3] = b"raw \xff $HOME `false` {index}".to_vec();
    lines[4].clear();
    // They cross the end of the first block of the text.
    lines.extend((0..80).map(|it| vec![b'a' + it % 26; 60_000]));
    let (mut text, mut offsets) = (Vec::new(), Vec::new());
    for line in &lines {
        offsets.extend((text.len() as u64).to_le_bytes());
        text.extend_from_slice(line);
        text.push(b'\n');
    }
    // The last one has no line feed.
    text.pop();
    offsets.extend((text.len() as u64).to_le_bytes());
    assert!(text.len() > 4 << 20);
    let text_length = text.len() as u64;
    let text = bench.client.put_bytes(text).unwrap();
    let offsets = bench.client.put_bytes(offsets).unwrap();
    let script = "test \"$1\" = \"$REMUDA_LINE\"; printf %s \"$1\" > $TOLD/$REMUDA_INDEX";
    let mut description = command(Program::Path("sh".into()), &["-euc", script, "sh", "{line}"]);
    description.lines = Some(Lines { text, text_length, offsets });
    let count = lines.len() as u64;
    bench.execute(description.clone(), count, b"");
    for (line, number) in lines.iter().zip(0..) {
        assert!(&std::fs::read(bench.told.join(format!("{number}"))).unwrap() == line, "{number}");
    }
    // There is no line for one more.
    let job = bench.submit(description, count + 1, b"");
    assert_eq!(bench.wait(job), JobState::Failed);
    let last = bench.outcomes(job).pop().unwrap();
    assert_eq!((last.tasks, last.cause), (count..count + 1, Cause::InputFailed));
    let said = bench.complaints(job);
    assert_eq!(said, format!("remuda: line {count} of --each-line does not exist\n"));
}

#[test]
fn a_long_description_is_fetched() {
    let bench = Bench::start(SMALL);
    let mut stored = shell("test \"$(cat $REMUDA_INPUTS/one/few)\" = few; echo $LONG > $TOLD/$1");
    let Runtime::Command { arguments, .. } = &mut stored.runtime else { panic!("it is a shell") };
    arguments.extend([b"sh".to_vec(), b"{index}".to_vec()]);
    stored.environment = vec![
        ("LONG".to_owned(), "x".repeat(20_000)),
        ("TOLD".to_owned(), bench.told.to_str().unwrap().to_owned()),
    ];
    stored.inputs = vec![input("one/few", bench.put(b"few"))];
    let encoded = stored.encode().unwrap();
    let length = encoded.len() as u64;
    let file = bench.client.put_bytes(encoded).unwrap();
    let description = JobDescription::new(Runtime::Stored { file, length });
    bench.execute(description, 3, b"");
    assert_eq!(bench.told("2"), "x".repeat(20_000) + "\n");
}

#[test]
fn what_does_not_exist_fails_the_task_with_a_sentence() {
    check_missing("materialise");
    if has(Need::Fuse) {
        check_missing("mount");
    }
}

#[track_caller]
fn check_missing(way: &str) {
    let bench = Bench::start(&[SMALL, &["--inputs", way]].concat());
    let absent = FileId(u128::from_be_bytes(
        *b"\x01\x02\x03\x04\x05\x06\x87\x08\x89\x0a\x0b\x0c\x0d\x0e\x0f\x01",
    ));
    let few = bench.client.put_bytes(b"few".as_slice()).expect("it is stored");
    let with = |source| {
        let mut description = shell("exit 0");
        description.inputs = vec![input("data/x", source)];
        description
    };
    let file = |file, length| InputSource::File { file, length, is_executable: false };
    for (description, cause, said) in [
        (
            with(file(absent, 3)),
            Cause::InputFailed,
            "the input \"data/x\" cannot be fetched: no st",
        ),
        (with(file(few, 4)), Cause::InputFailed, "has 3 bytes, and the job was submitted with 4"),
        (
            with(InputSource::Tree { tree: few, length: 3 }),
            Cause::InputFailed,
            "the input \"data/x\" cannot be fetched: not a tree",
        ),
        (program(absent), Cause::NotStarted, "the program "),
        (
            JobDescription::new(Runtime::Stored { file: few, length: 3 }),
            Cause::NotStarted,
            "the description ",
        ),
    ] {
        let job = bench.submit(description, 3, b"");
        assert_eq!(bench.wait(job), JobState::Failed);
        for run in bench.outcomes(job) {
            assert_eq!((run.state, run.cause), (TaskState::Failed, cause), "{said}");
        }
        let complaints = bench.complaints(job);
        assert_eq!(complaints.lines().count(), 3, "{complaints}");
        assert!(complaints.lines().all(|line| line.starts_with("remuda: ")), "{complaints}");
        assert!(complaints.contains(said), "{said}: {complaints}");
    }
}

/// The folders of inputs that a worker has.
fn fetched(bench: &Bench) -> Vec<PathBuf> {
    let inputs = bench.cluster.folder().join("worker-1/inputs");
    let incarnations = std::fs::read_dir(inputs).into_iter().flatten();
    let jobs = incarnations.filter_map(|it| std::fs::read_dir(it.ok()?.path()).ok());
    jobs.flatten().map(|it| it.expect("a folder").path()).collect()
}

#[test]
fn a_worker_killed_while_it_fetches_costs_an_attempt_and_leaves_nothing() {
    let shape = ["--masters", "1", "--balancers", "1", "--storage", "1", "--workers", "1"];
    let bench = Bench::start(&shape);
    let large: Vec<u8> = (0..9_500_000u32).map(|at| (at % 251) as u8).collect();
    let mut description = shell("wc -c < $REMUDA_INPUTS/large > $TOLD/told");
    description.inputs = vec![input("large", bench.put(&large))];
    let storage = bench.cluster.tier("storage").remove(0).pid.unwrap();
    let storage = Pid::from_raw(i32::try_from(storage).unwrap()).unwrap();
    // Its storage node does not answer, so the fetch is under way until it does.
    kill_process(storage, Signal::STOP).unwrap();
    let job = bench.submit(description, 1, b"");
    let before = until("a fetch", LONG, || fetched(&bench).pop());
    let worker = bench.cluster.tier("worker").remove(0);
    kill(worker.pid.unwrap());
    until("another start", LONG, || {
        let again = bench.cluster.tier("worker").remove(0);
        (again.starts > worker.starts && again.pid.is_some()).then_some(())
    });
    kill_process(storage, Signal::CONT).unwrap();
    assert_eq!(bench.wait(job), JobState::Done, "{}", bench.complaints(job));
    assert_eq!(bench.told("told"), "9500000\n");
    until("what was left is removed", LONG, || (!before.exists()).then_some(()));
    assert_eq!(fetched(&bench).len(), 1, "what the second start fetched is there");
}

#[test]
fn a_task_that_cannot_read_what_is_mounted_is_attempted_again() {
    if !has(Need::Fuse) {
        return;
    }
    let shape = ["--masters", "1", "--balancers", "1", "--storage", "1", "--workers", "1"];
    // EROFS refuses direct reads, with which this task asks once.
    let bench = Bench::start(&[&shape[..], &["--inputs", "plain"]].concat());
    bench.cluster.provokes("inputs could not be read while a task ran");
    bench.cluster.provokes("a block cannot be read");
    let large: Vec<u8> = (0..13_000_000u32).map(|at| (at % 251) as u8).collect();
    let mut description = shell(
        "echo begun >> $TOLD/begun
         until test -e $TOLD/go; do sleep 0.05; done
         dd if=$REMUDA_INPUTS/large of=$TOLD/head bs=4096 count=1 iflag=direct
         cmp $REMUDA_INPUTS/large $TOLD/../large",
    );
    std::fs::write(bench.cluster.place().join("large"), &large).unwrap();
    description.inputs = vec![input("large", bench.put(&large))];
    let storage = bench.cluster.tier("storage").remove(0).pid.unwrap();
    let storage = Pid::from_raw(i32::try_from(storage).unwrap()).unwrap();
    let job = bench.submit(description, 1, b"");
    until("the task", LONG, || (bench.told("begun") == "begun\n").then_some(()));
    // What storage does not give in time is an input/output error, and no fault of the task.
    kill_process(storage, Signal::STOP).unwrap();
    std::fs::write(bench.told.join("go"), "").unwrap();
    // The kernel would ask twice for what it caches, and each time half a minute passes.
    until("a lost attempt", Duration::from_secs(120), || {
        let status = bench.client.status(JobSelector::Id(job)).unwrap();
        (status.lost_attempts > 0).then_some(())
    });
    kill_process(storage, Signal::CONT).unwrap();
    assert_eq!(bench.wait(job), JobState::Done, "{}", bench.complaints(job));
}

/// A worker beside the local cluster, as an operator would start it.
struct Worker(std::process::Child);

impl Drop for Worker {
    fn drop(&mut self) {
        let pid = Pid::from_child(&self.0);
        // It may have ended by itself, which the test has seen then.
        let _ = kill_process(pid, Signal::TERM);
        let _ = self.0.wait();
    }
}

#[test]
fn tasks_of_a_worker_that_is_root_run_as_another_user() {
    if !has(Need::Root) {
        return;
    }
    // Others may not pass through the folder that this repository is in.
    let cluster = Cluster::home_in(&std::env::temp_dir());
    cluster.dev(&["--masters", "1", "--balancers", "1", "--storage", "1", "--workers", "0"]).ok();
    let bench = Bench::of(cluster);
    let master = bench.cluster.tier("master").remove(0).address;
    let data = bench.cluster.place().join("worker");
    let config = bench.cluster.place().join("worker.toml");
    let text = format!(
        "[node]\ndata = {data:?}\nlisten = \"tcp://127.0.0.1:0\"\n\
         telemetry = \"tcp://127.0.0.1:0\"\nmasters = [{master:?}]\n[worker]\nslots = 2\n"
    );
    std::fs::write(&config, text).unwrap();
    let mut command = bench.cluster.command(&["serve", "worker", "--config"]);
    command.arg(&config).stderr(std::process::Stdio::null());
    // Nobody else may pass through the folder, and the worker says so.
    let closed = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(bench.cluster.place(), closed).unwrap();
    let status = command.status().unwrap();
    assert!(!status.success());
    let passable = std::fs::Permissions::from_mode(0o711);
    std::fs::set_permissions(bench.cluster.place(), passable).unwrap();
    let all = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(&bench.told, all).unwrap();
    let worker = Worker(command.spawn().unwrap());

    let InputSource::File { file, .. } = bench.put(b"#!/bin/sh\nid -u\nid -G\n") else {
        panic!("bytes are a file")
    };
    let mut description = shell(
        "test \"$(id -u)\" = 65534
         test \"$(id -G)\" = 65534
         test \"$(cat $REMUDA_INPUTS/few)\" = few
         test -w . && test -w $HOME && test $HOME = $(pwd)
         test ! -w $REMUDA_INPUTS && test ! -w ..
         echo out; echo err >&2
         echo 40% > $REMUDA_PROGRESS
         echo kept > $REMUDA_OUTPUTS/kept
         echo done > $TOLD/$REMUDA_TASK",
    );
    description.inputs = vec![input("few", bench.put(b"few"))];
    bench.execute(description, 4, b"");
    assert_eq!(bench.told("3"), "done\n");

    // What nobody but its owner may read is an input like any other.
    let closed = bench.cluster.place().join("closed");
    std::fs::create_dir(&closed).unwrap();
    std::fs::write(closed.join("file"), "closed").unwrap();
    for (path, mode) in [(closed.join("file"), 0o600), (closed, 0o700)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let read = "test \"$(cat $REMUDA_INPUTS/closed/file)\" = closed";
    let submit = ["submit", "--wait", "--input", "closed", "--", "/bin/sh", "-c", read];
    bench.cluster.run(&submit).ok();
    bench.execute(program(file), 1, b"");
    // Its processes end with a limit as everybody's do.
    let mut description = shell("sleep 3600 & wait");
    description.time_limit = Some(Duration::from_secs(1));
    let job = bench.submit(description, 1, b"");
    assert_eq!(bench.wait(job), JobState::Failed);
    assert_eq!(bench.outcomes(job)[0].cause, Cause::TimeLimit);
    drop(worker);
}
