//! Tasks that turn against their worker, and workers whose machine lets them down: each ends with a
//! clear result, nothing is lost, and the next task finds a slot that is as good as before.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use cluster_tests::wait::until;
use cluster_tests::{Need, has};
use proto::limits::STREAM_BYTES;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::cluster::{Cluster, LONG, runs};
use crate::small_disk::SmallDisk;

/// Everything but a worker.
const WORKERLESS: &[&str] =
    &["--masters", "1", "--balancers", "1", "--storage", "1", "--workers", "0"];

/// The same with one.
const SMALL: &[&str] = &["--masters", "1", "--balancers", "1", "--storage", "1", "--workers", "1"];

/// A bomb that never needs the machine's last number of a process, also where nothing bounds it.
const FUSE: &str = "ulimit -u 500";

/// A worker beside a local cluster, as an operator would start it: tasks run as somebody else where
/// it is root.
struct Worker {
    process: Child,
    log: PathBuf,
}

impl Worker {
    /// Starts it on a data folder with these settings, by way of a shell script that executes what
    /// it is called with.
    #[track_caller]
    fn start(cluster: &Cluster, data: &Path, settings: &str, script: Option<&str>) -> Worker {
        let master = cluster.tier("master").remove(0).address;
        let place = cluster.place();
        // The user of tasks passes through.
        fs::set_permissions(place, fs::Permissions::from_mode(0o711)).expect("open the folder");
        let (config, log) = (place.join("worker.toml"), place.join("worker.log"));
        let text = format!(
            "[node]\ndata = {data:?}\nlisten = \"tcp://127.0.0.1:0\"\n\
             telemetry = \"tcp://127.0.0.1:0\"\nmasters = [{master:?}]\n[worker]\n{settings}\n"
        );
        fs::write(&config, text).expect("write the settings");
        let worker = cluster.command(&["serve", "worker", "--config"]);
        let mut command = match script {
            None => Command::new(worker.get_program()),
            Some(script) => {
                let mut command = Command::new("unshare");
                command.args(["--mount", "sh", "-euc", script]).arg(worker.get_program());
                command
            }
        };
        let said = fs::File::create(&log).expect("make the log");
        command.args(worker.get_args()).arg(&config).current_dir(place);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said);
        let process = command.spawn().expect("start the worker");
        let mut worker = Worker { process, log };
        until("a registered worker", LONG, || {
            assert!(worker.runs(), "it ended: {}", worker.said());
            let nodes = cluster.run(&["nodes", "--json"]).json();
            let is_worker = |it: &Value| it["tier"] == "worker" || it["role"] == "worker";
            nodes.as_array()?.iter().any(is_worker).then_some(())
        });
        worker
    }

    fn runs(&mut self) -> bool {
        self.process.try_wait().expect("ask for it").is_none()
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The most memory that it had at a time.
    #[track_caller]
    fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()));
        let status = status.expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its peak");
        let kib = line.trim().strip_suffix(" kB").and_then(|kib| kib.parse::<u64>().ok());
        kib.expect("a number") << 10
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = kill_process(Pid::from_child(&self.process), Signal::TERM);
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("the worker said:\n{}", self.said());
        }
    }
}

/// A cluster without a worker whose tasks, whoever they run as, may write to the folder `told`.
#[track_caller]
fn workerless() -> (Cluster, String) {
    // Others may not pass through the folder that this repository is in.
    let cluster = Cluster::home_in(&std::env::temp_dir());
    cluster.dev(WORKERLESS).ok();
    let told = told(&cluster);
    (cluster, told)
}

#[track_caller]
fn told(cluster: &Cluster) -> String {
    let told = cluster.place().join("told");
    fs::create_dir(&told).expect("make a folder");
    fs::set_permissions(&told, fs::Permissions::from_mode(0o777)).expect("open it");
    told.to_str().expect("UTF-8").to_owned()
}

/// Submits shell scripts with flags; the job.
#[track_caller]
fn submit(cluster: &Cluster, flags: &[&str], script: &str) -> String {
    cluster.submit(&[flags, &["--", "bash", "-c", script]].concat())
}

/// Waits for the end of a job; its record.
#[track_caller]
fn ended(cluster: &Cluster, job: &str) -> Value {
    cluster.run(&["wait", job]);
    cluster.job(job)
}

/// State, exit code and cause of a job's first task.
#[track_caller]
fn outcome(cluster: &Cluster, job: &str) -> (String, i64, String) {
    ended(cluster, job);
    let runs = cluster.run(&["tasks", job, "--json"]).json();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (text(&runs[0]["state"]), runs[0]["exit_code"].as_i64().unwrap_or(-1), text(&runs[0]["cause"]))
}

fn is(state: &str, exit_code: i64, cause: &str) -> (String, i64, String) {
    (state.to_owned(), exit_code, cause.to_owned())
}

#[track_caller]
fn wait_for_file(path: &str) -> String {
    until(path, LONG, || fs::read_to_string(path).ok().filter(|text| text.ends_with('\n')))
}

/// Processes with a variable in their environment.
fn with_variable(variable: &str) -> Vec<u32> {
    let processes = fs::read_dir("/proc").expect("processes").flatten();
    let numbers = processes.filter_map(|it| it.file_name().to_str()?.parse::<u32>().ok());
    let has_it = |pid: &u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|&byte| byte == 0).any(|it| it == variable.as_bytes())
    };
    numbers.filter(has_it).collect()
}

#[test]
fn a_task_that_prints_a_gibibyte_costs_neither_memory_nor_other_tasks() {
    let (cluster, _told) = workerless();
    let data = cluster.place().join("worker");
    let mut worker = Worker::start(&cluster, &data, "slots = 2", None);
    let script = "if [ $REMUDA_TASK = 1 ]; then head -c 1G /dev/zero; else echo $REMUDA_TASK; fi";
    let job = submit(&cluster, &["--array", "0-5"], script);
    assert_eq!(ended(&cluster, &job)["done"], 6);
    let printed = cluster.run(&["logs", &format!("{job}/1")]);
    assert_eq!(printed.exit, 0, "{}", printed.stderr);
    assert_eq!(printed.stdout.len() as u64, STREAM_BYTES);
    let note = "task 1 printed more; what is kept of stdout ends here";
    assert!(printed.stderr.contains(note), "{}", printed.stderr);
    for task in ["0", "2", "3", "4", "5"] {
        assert_eq!(cluster.run(&["logs", &format!("{job}/{task}")]).ok(), format!("{task}\n"));
    }
    let peak = worker.peak_memory();
    assert!(peak < 256 << 20, "the worker had {peak} bytes");
    assert!(worker.runs());
}

#[test]
fn a_task_that_forks_without_end_fails_and_nothing_of_it_is_left() {
    if !has(Need::Root) {
        return;
    }
    let (cluster, _told) = workerless();
    let data = cluster.place().join("worker");
    let mut worker = Worker::start(&cluster, &data, "slots = 1\ntask_processes = 100", None);
    if !worker.said().contains("processes of tasks are bounded by cgroups") {
        eprintln!("skipped: no cgroups of processes here");
        return;
    }
    let variable = format!("BOMB={}", cluster.place().display());
    let bombs = [
        // All in the task's group.
        "exec perl -e 'fork while 1'",
        // Each in a session of its own, and the first one ends.
        "perl -MPOSIX -e 'while (1) { fork; POSIX::setsid() }' & sleep 0.3; exit 0",
    ];
    for bomb in bombs {
        let script = format!("{FUSE}; export {variable}; {bomb}");
        let job = submit(&cluster, &["--time-limit", "60s"], &script);
        assert_eq!(outcome(&cluster, &job), is("failed", -9, "process_limit"), "{bomb}");
        let printed = cluster.run(&["logs", &job]).stderr;
        let reason = "remuda: the task started more than 100 processes and threads";
        assert!(printed.contains(reason), "{printed}");
        let left = with_variable(&variable);
        assert!(left.is_empty(), "{bomb}: {left:?} run on");
        // The slot is as good as before, up to the limit.
        let many = "for i in $(seq 60); do sleep 0.5 & done; wait; echo done";
        let job = submit(&cluster, &[], many);
        assert_eq!(outcome(&cluster, &job), is("done", 0, ""));
    }
    assert!(worker.runs());
}

#[test]
fn a_task_that_ignores_signals_is_killed_all_the_same() {
    let cluster = Cluster::start(&[SMALL, &["--slots", "1"]].concat());
    let told = told(&cluster);
    let stubborn = |name: &str| {
        format!(
            "trap '' TERM INT HUP QUIT USR1; echo $$ > {told}/{name}
             while :; do sleep 0.2 || :; done"
        )
    };
    let pid = |name: &str| -> u32 {
        let text = wait_for_file(&format!("{told}/{name}"));
        text.trim().parse().expect("a process")
    };
    let job = submit(&cluster, &["--time-limit", "2s"], &stubborn("limit"));
    assert_eq!(outcome(&cluster, &job), is("failed", -9, "time_limit"));
    assert!(!runs(pid("limit")));

    let job = submit(&cluster, &[], &stubborn("cancelled"));
    let process = pid("cancelled");
    cluster.run(&["cancel", &job]).ok();
    until("the end of a cancelled task", LONG, || (!runs(process)).then_some(()));
    assert_eq!(ended(&cluster, &job)["state"], "cancelled");

    // A worker that stops does not wait for it either, and the task is attempted again.
    let job = submit(&cluster, &[], &stubborn("stopped"));
    let process = pid("stopped");
    let worker = cluster.tier("worker").remove(0);
    let number = worker.pid.and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    fs::remove_file(format!("{told}/stopped")).expect("it is there");
    kill_process(number.expect("it runs"), Signal::TERM).expect("it runs");
    until("the end of a task whose worker stops", LONG, || (!runs(process)).then_some(()));
    let again = pid("stopped");
    assert_ne!(again, process);
    let job_now = cluster.job(&job);
    assert_eq!((&job_now["failed"], &job_now["lost_attempts"]), (&0.into(), &1.into()));
    cluster.run(&["cancel", &job]).ok();
    until("the end of all", LONG, || (!runs(again)).then_some(()));
}

#[test]
fn a_task_that_destroys_its_folder_harms_nobody_else() {
    let (cluster, _told) = workerless();
    let data = cluster.place().join("worker");
    let mut users = vec![""];
    if rustix::process::geteuid().is_root() {
        // As its worker, it may do more.
        users.push("user = \"root\"");
    }
    for user in users {
        let settings = format!("slots = 1\n{user}");
        let mut worker = Worker::start(&cluster, &data, &settings, None);
        for script in [
            "rm -rf \"$PWD\"",
            "rm -rf \"$REMUDA_OUTPUTS\"",
            "rm -rf \"$PWD\" ../stdout ../stderr ../told ../inputs ../process",
            "echo x > $REMUDA_OUTPUTS/x; chmod 000 $REMUDA_OUTPUTS/x $REMUDA_OUTPUTS",
            "mkdir -p a/b; chmod 000 a/b a .",
            "chmod 000 .. ../stdout ../stderr",
            "cd /; rm -rf \"$OLDPWD\"; exit 7",
        ] {
            let job = submit(&cluster, &[], script);
            let (state, exit_code, cause) = outcome(&cluster, &job);
            let ends_well = script.starts_with("cd /") && exit_code == 7;
            let is_clear = match state.as_str() {
                "done" => exit_code == 0 && cause.is_empty(),
                "failed" => ends_well || exit_code != 0 || cause == "output_failed",
                _ => false,
            };
            assert!(is_clear, "{user} {script}: {state} {exit_code} {cause}");
            assert_eq!(cluster.job(&job)["lost_attempts"], 0, "{user} {script}");
            let next = "test -d \"$PWD\" && test -w . && test -z \"$(ls $REMUDA_OUTPUTS)\" \
                        && echo out && echo err >&2 && echo kept > $REMUDA_OUTPUTS/kept";
            let job = submit(&cluster, &[], next);
            assert_eq!(outcome(&cluster, &job), is("done", 0, ""), "{user} {script}");
            assert_eq!(cluster.run(&["logs", &job]).stdout, "out\n");
        }
        assert!(worker.runs());
        drop(worker);
        let left = fs::read_dir(data.join("tasks")).expect("the folder of all tasks");
        let left: Vec<_> = left.flatten().map(|it| it.path()).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn a_full_disk_fails_who_filled_it_and_delays_the_others() {
    if !has(Need::Root) {
        return;
    }
    let (cluster, told) = workerless();
    let disk = SmallDisk::mount(cluster.place().join("disk"), "128m");
    let data = disk.folder().join("worker");
    let mut worker = Worker::start(&cluster, &data, "slots = 2", None);

    // Who fills it fails and is told why, each time.
    let greedy = "head -c 500M /dev/zero > large; exit 3";
    let job = submit(&cluster, &["--retries", "1"], greedy);
    assert_eq!(outcome(&cluster, &job), is("failed", 3, "disk_full"));
    assert_eq!(cluster.job(&job)["lost_attempts"], 0);

    // Something else fills it while a task runs: what that did is recorded all the same.
    let script = format!("echo > {told}/begun; until test -e {told}/go; do sleep 0.1; done");
    let running = submit(&cluster, &[], &script);
    wait_for_file(&format!("{told}/begun"));
    let filler = disk.fill();
    until("a worker that takes no tasks", LONG, || {
        worker.said().contains("no tasks are begun until there is room").then_some(())
    });
    fs::write(format!("{told}/go"), "").expect("tell it");
    assert_eq!(outcome(&cluster, &running), is("done", 0, ""));
    let script = format!("echo $REMUDA_TASK >> {told}/later");
    let waiting = submit(&cluster, &["--array", "0-9"], &script);
    until("an explanation", LONG, || {
        let said = cluster.run(&["explain", &waiting]).stdout;
        (said.contains("0 of 10 tasks") && said.contains("takes no tasks")).then_some(())
    });
    let job = cluster.job(&waiting);
    assert_eq!(
        (&job["done"], &job["failed"], &job["lost_attempts"]),
        (&0.into(), &0.into(), &0.into())
    );
    assert!(worker.runs());

    // There is room again.
    fs::remove_file(filler).expect("it is there");
    assert_eq!(ended(&cluster, &waiting)["done"], 10);
    let later = fs::read_to_string(format!("{told}/later")).expect("they ran");
    assert_eq!(later.lines().count(), 10, "each ran once");
    assert!(worker.said().contains("there is room on the disk of the data folder again"));
    drop(worker);
}

#[test]
fn a_worker_without_fuse_or_cgroups_materialises_and_says_so() {
    if !has(Need::Root) {
        return;
    }
    let (cluster, _told) = workerless();
    let data = cluster.place().join("worker");
    // Nobody outside of its own view of the mounts sees any of this.
    let script = "mount --bind /dev/null /dev/fuse
                  umount -l /sys/fs/cgroup/pids /sys/fs/cgroup 2> /dev/null || :
                  exec \"$0\" \"$@\"";
    let settings = "slots = 2\ntask_processes = 300";
    let mut worker = Worker::start(&cluster, &data, settings, Some(script));
    let said = worker.said();
    assert!(said.contains("inputs are materialised: they cannot be mounted here"), "{said}");
    assert!(said.contains("no cgroups that bound the processes of tasks"), "{said}");
    fs::write(cluster.place().join("few"), "few\n").expect("write an input");
    let job = submit(
        &cluster,
        &["--input", "few=few"],
        "cat $REMUDA_INPUTS/few; stat -f -c %T $REMUDA_INPUTS/few; ulimit -u",
    );
    assert_eq!(outcome(&cluster, &job), is("done", 0, ""));
    let printed = cluster.run(&["logs", &job]).ok();
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!((lines[0], lines[2]), ("few", "602"), "{printed}");
    assert!(!lines[1].contains("fuse"), "{printed}");
    assert!(worker.runs());
}

#[test]
fn a_mount_that_dies_under_a_task_costs_an_attempt_not_a_wrong_result() {
    if has(Need::Root) && has(Need::Fuse) {
        end_the_connection("plain", "mount", "the mount was gone and is made again");
    }
}

#[test]
fn an_image_whose_connection_dies_under_a_task_costs_an_attempt_not_a_wrong_result() {
    if has(Need::Root) && has(Need::Fuse) && has(Need::Erofs) {
        end_the_connection(
            "erofs",
            "images",
            "the connection with images was gone and is made again",
        );
    }
}

/// Ends the connection that is mounted at a folder of a worker while a task reads through it.
#[track_caller]
fn end_the_connection(way: &str, folder: &str, said: &'static str) {
    let cluster = Cluster::start(&[SMALL, &["--slots", "1", "--inputs", way]].concat());
    cluster.provokes("inputs could not be read while a task ran");
    cluster.provokes(said);
    let told = told(&cluster);
    let large: Vec<u8> = (0..13_000_000u32).map(|at| (at % 251) as u8).collect();
    fs::write(cluster.place().join("large"), &large).expect("write an input");
    // The end of a pipe does not tell that its beginning failed: the task itself is content.
    let script = format!(
        "(head -c 1000 > /dev/null; echo $REMUDA_ATTEMPT >> {told}/begun
          until test -e {told}/go; do sleep 0.05; done; cat) < $REMUDA_INPUTS/large | wc -c
         exit 0"
    );
    let job = submit(&cluster, &["--input", "large=large"], &script);
    wait_for_file(&format!("{told}/begun"));
    let mount = cluster.folder().join("worker-1").join(folder);
    let device = fs::metadata(&mount).expect("it is mounted").dev();
    let abort = format!(
        "mount -t fusectl none /sys/fs/fuse/connections
         echo 1 > /sys/fs/fuse/connections/{}/abort",
        rustix::fs::minor(device)
    );
    let aborted = Command::new("unshare").args(["--mount", "sh", "-euc", &abort]).status();
    assert!(aborted.expect("run unshare").success(), "end the connection");
    fs::write(format!("{told}/go"), "").expect("tell it");
    assert_eq!(outcome(&cluster, &job), is("done", 0, ""));
    assert_eq!(cluster.run(&["logs", &job]).ok(), "12999000\n", "it read all of it");
    assert_eq!(cluster.job(&job)["lost_attempts"], 1);
    let begun = fs::read_to_string(format!("{told}/begun")).expect("it began");
    assert_eq!(begun.lines().count(), 2);
}
