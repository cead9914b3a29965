//! `remuda dev`: starts a local cluster, or goes on with the one of the folder, and stays until it
//! is asked to end.
//!
//! The thread that calls this supervises; another one asks the masters until the cluster answers.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use node::clock::Clock;
use node::stop::Stop;
use proto::ids::ClusterId;
use proto::status::Role;
use proto::time::Duration;

use super::control::Requests;
use super::detach;
use super::lock::{self, Holder, Lock};
use super::plan::{Plan, Planned};
use super::record::Record;
use super::registry::{self, Entry};
use super::roster;
use super::supervisor::{Change, Program, Report, Restart, Starter, Supervisor};
use crate::commands::cluster::{self, Founding};
use crate::commands::serve;
use crate::failure::{During, Failure};
use crate::flags::DevStart;
use crate::identity::identity_of;
use crate::output;

/// How long a process that was asked to end may take before it is killed.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long the processes of a supervisor that was killed may take to end after it.
const LEFTOVER_PATIENCE: Duration = Duration::from_secs(15);

/// How long a starting cluster may take until it answers: recovery of large logs included.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// How long one question to the masters of a starting cluster may take.
const QUESTION_PATIENCE: Duration = Duration::from_secs(2);

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(50);

/// Starts the cluster that the flags ask for.
pub(crate) fn start(flags: &DevStart) -> Result<(), Failure> {
    if flags.detach {
        return detach::detach(flags);
    }
    if let Some(parent) = flags.parent {
        serve::end_with(parent)?;
    }
    if flags.detached {
        detach::leave_session()?;
    }
    let made = prepare(flags)?;
    let stop = Stop::on_signals().during(|| "watch for signals".into())?;
    let entry = Entry::add(&registry::folder(), made.cluster, &made.folder)?;
    let failure = Arc::new(Mutex::new(None));
    let (waiting, given_up, asked) = (made.clone(), Arc::clone(&failure), stop.clone());
    let told = match (flags.detached, flags.parent) {
        (true, _) => Told::WhoWaits,
        (false, Some(_)) => Told::Program,
        (false, None) => Told::Person,
    };
    std::thread::spawn(move || {
        if let Err(failure) = announce(&waiting, told, &asked) {
            *given_up.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
            asked.request();
        }
    });
    let restart = if flags.no_restart { Restart::Never } else { Restart::AfterASecond };
    let programs = programs(&made)?;
    let report = report(&made, &programs, restart);
    let mut supervisor = Supervisor::new(programs, restart, PATIENCE, report);
    obey(made.clone(), Requests::open(&made.folder)?, supervisor.starter());
    supervisor.run(&stop);
    clean_mounts(&made);
    drop(entry);
    let failure = failure.lock().unwrap_or_else(PoisonError::into_inner).take();
    failure.map_or(Ok(()), Err)
}

/// Starts what other commands ask for, on a thread of its own. What belongs into a process's folder
/// is put there again: it may have been taken away since.
fn obey(made: Made, mut requests: Requests, starter: Starter) {
    std::thread::spawn(move || {
        while let Ok(name) = requests.next() {
            let mut planned = made.plan.processes.iter().enumerate();
            let Some((position, planned)) = planned.find(|(_, it)| it.name() == name) else {
                continue;
            };
            let folder = Plan::folder_of(&made.folder, planned);
            let is_ready = std::fs::create_dir_all(&folder)
                .during(|| format!("make {}", folder.display()))
                .and_then(|()| write_config(&made.folder, &made.plan, planned, Some(made.cluster)));
            match is_ready {
                Ok(_) => starter.start(position),
                Err(failure) => drop(failure.report()),
            }
        }
    });
}

/// Takes away the mounts of workers that were killed, so that the folder can be removed.
fn clean_mounts(made: &Made) {
    for planned in made.plan.of(Role::Worker) {
        let folder = Plan::folder_of(&made.folder, planned);
        // These lead into the others.
        mount::clean_trees(&folder.join(worker::inputs::TREES));
        for at in [worker::inputs::IMAGES, worker::inputs::MOUNT].map(|name| folder.join(name)) {
            if let Err(error) = mount::clean(&at) {
                eprintln!("warning: {} stays mounted: {error}", at.display());
            }
        }
    }
}

/// A local cluster whose folder is ready to be started.
#[derive(Clone, Debug)]
struct Made {
    folder: PathBuf,
    plan: Plan,
    cluster: ClusterId,
    _lock: Arc<Lock>,
}

/// Locks the folder and puts into it what the processes need.
fn prepare(flags: &DevStart) -> Result<Made, Failure> {
    let named = &flags.folder.dir;
    std::fs::create_dir_all(named).during(|| format!("make {}", named.display()))?;
    // Absolute, because daemons and other commands have other working folders.
    let folder = named.canonicalize().during(|| format!("find {}", named.display()))?;
    refuse_foreign(&folder)?;
    let Some(lock) = Lock::take(&folder)? else {
        let holder = Holder::find(&folder);
        let who = holder.map_or("another process".into(), |it| format!("process {}", it.pid));
        let text = format!("the cluster in {} runs already, by {who}", folder.display());
        let dir = named.display();
        return Err(Failure::usage(text).hint(format!(
            "see it: remuda dev status --dir {dir}; end it: remuda dev stop --dir {dir}"
        )));
    };
    let plan = Plan::settle(Plan::read(&folder)?, flags)?;
    plan.write(&folder)?;
    for planned in &plan.processes {
        let path = Plan::folder_of(&folder, planned);
        std::fs::create_dir_all(&path).during(|| format!("make {}", path.display()))?;
        wait_until_free(&path)?;
    }
    let cluster = founded(&folder, &plan)?;
    for planned in &plan.processes {
        write_config(&folder, &plan, planned, Some(cluster))?;
    }
    Ok(Made { folder, plan, cluster, _lock: Arc::new(lock) })
}

/// A mistyped `--dir` must not fill somebody's folder.
fn refuse_foreign(folder: &Path) -> Result<(), Failure> {
    if Plan::read(folder)?.is_some() {
        return Ok(());
    }
    let mut entries =
        std::fs::read_dir(folder).during(|| format!("read {}", folder.display()))?.flatten();
    match entries.find(|entry| entry.file_name() != "lock") {
        None => Ok(()),
        Some(found) => Err(Failure::usage(format!(
            "{} is not empty (it has {}) and holds no local cluster",
            folder.display(),
            found.file_name().display()
        ))
        .hint("name an empty folder, or one that does not exist, with --dir")),
    }
}

/// Waits for a process that outlived its supervisor, which ends by itself.
fn wait_until_free(data: &Path) -> Result<(), Failure> {
    let clock = Clock::start();
    while lock::is_held(data) {
        if clock.now().0 > LEFTOVER_PATIENCE.0 {
            let who = Holder::find(data).map_or(String::new(), |it| format!(" by {}", it.pid));
            return Err(Failure::failed(format!("{} is in use{who}", data.display())));
        }
        std::thread::park_timeout(PAUSE.to_std());
    }
    Ok(())
}

/// The cluster's UUID; makes the cluster where its first master has none yet.
fn founded(folder: &Path, plan: &Plan) -> Result<ClusterId, Failure> {
    let Some((first, others)) = plan.processes.split_first() else {
        return Err(Failure::failed(format!("{} has no master", folder.display())));
    };
    // Whoever else knows a cluster joined it: a first master whose folder is lost must not make
    // another one beside it.
    let cluster_of = |it| identity_of(&Plan::folder_of(folder, it)).and_then(|it| it.cluster);
    if let Some(cluster) = others.iter().find_map(cluster_of) {
        return Ok(cluster);
    }
    let config = write_config(folder, plan, first, None)?;
    match cluster::found(Some(&config))? {
        Founding::Now(cluster) | Founding::Before(cluster) => Ok(cluster),
    }
}

fn config_of(folder: &Path, planned: &Planned) -> PathBuf {
    Plan::folder_of(folder, planned).join(format!("{}.toml", planned.tier))
}

fn log_of(folder: &Path, planned: &Planned) -> PathBuf {
    Plan::folder_of(folder, planned).join(format!("{}.log", planned.tier))
}

/// Writes the configuration of a process; the path of the file.
fn write_config(
    folder: &Path,
    plan: &Plan,
    planned: &Planned,
    cluster: Option<ClusterId>,
) -> Result<PathBuf, Failure> {
    let mut node = toml::Table::new();
    let data = Plan::folder_of(folder, planned);
    let Some(data) = data.to_str() else {
        return Err(Failure::usage(format!("{} is not UTF-8", data.display()))
            .hint("choose another folder with --dir"));
    };
    node.insert("data".into(), data.into());
    node.insert("listen".into(), planned.listen.clone().into());
    node.insert("telemetry".into(), planned.telemetry.clone().into());
    // Until there is a cluster, its first master joins nobody.
    let joins = cluster.is_some() || planned.tier != Role::Master || planned.number > 1;
    let masters = if joins { plan.masters() } else { Vec::new() };
    let others = masters.into_iter().filter(|address| *address != planned.listen);
    node.insert("masters".into(), others.collect::<Vec<_>>().into());
    if let Some(cluster) = cluster {
        node.insert("cluster".into(), cluster.to_string().into());
    }
    let mut tables = toml::Table::new();
    tables.insert("node".into(), node.into());
    if planned.tier == Role::Worker {
        let mut worker = toml::Table::new();
        worker.insert("slots".into(), i64::from(plan.slots).into());
        // Whoever starts a local cluster runs tasks in it, also where that is root.
        let user = rustix::process::geteuid().as_raw();
        worker.insert("user".into(), user.to_string().into());
        if let Some(inputs) = &plan.inputs {
            let (inputs, way) = match inputs.as_str() {
                "erofs" | "plain" => ("mount", inputs.as_str()),
                inputs => (inputs, "auto"),
            };
            worker.insert("inputs".into(), inputs.into());
            worker.insert("mount_way".into(), way.into());
        }
        tables.insert("worker".into(), worker.into());
    }
    let text = toml::to_string(&tables).during(|| "write a configuration".into())?;
    let path = config_of(folder, planned);
    let head = "# Written by `remuda dev` at each start: not to be edited\n";
    super::replace(&path, &format!("{head}{text}"))?;
    Ok(path)
}

/// Masters end last, because all others tell them what they did.
fn stage(tier: Role) -> usize {
    match tier {
        Role::Master => 0,
        Role::Storage => 1,
        Role::Balancer => 2,
        Role::Client | Role::Worker | Role::Gateway => 3,
    }
}

fn programs(made: &Made) -> Result<Vec<Program>, Failure> {
    let executable = std::env::current_exe().during(|| "find this program".into())?;
    let program = |planned: &Planned| Program {
        name: planned.name(),
        executable: executable.clone(),
        arguments: vec![
            "serve".into(),
            planned.tier.name().into(),
            "--config".into(),
            config_of(&made.folder, planned).into(),
            "--parent".into(),
            std::process::id().to_string().into(),
        ],
        log: log_of(&made.folder, planned),
        stage: stage(planned.tier),
    };
    Ok(made.plan.processes.iter().map(program).collect())
}

/// Writes down what happens to the processes, and says what nobody asked for.
fn report(made: &Made, programs: &[Program], restart: Restart) -> Report {
    let names: Vec<String> = programs.iter().map(|program| program.name.clone()).collect();
    let logs: Vec<PathBuf> = programs.iter().map(|program| program.log.clone()).collect();
    let mut record = Record::new(&made.folder, names.iter().cloned());
    Box::new(move |position, change| {
        if let Err(failure) = record.change(position, change) {
            failure.report();
        }
        if let Change::Ended { how, wanted: false } = change {
            let then = match restart {
                Restart::AfterASecond => "it is started again in a second",
                Restart::Never => "it stays dead",
            };
            let (name, log) = (&names[position], &logs[position]);
            eprintln!("{name} ended ({how}): {then}; its log is {}", log.display());
            if let Some(line) = last_line(log) {
                eprintln!("  {line}");
            }
        }
    })
}

/// Bytes at the end of a log in which its last line is looked for.
const LOG_TAIL: u64 = 4_096;

fn last_line(log: &Path) -> Option<String> {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    let mut tail = vec![0; usize::try_from(length.min(LOG_TAIL)).ok()?];
    file.read_exact_at(&mut tail, length.saturating_sub(LOG_TAIL)).ok()?;
    let text = String::from_utf8_lossy(&tail);
    text.lines().rev().find(|line| !line.trim().is_empty()).map(str::to_owned)
}

/// Who is told that the cluster answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// Whoever looks at the terminal.
    Person,
    /// A program that reads standard output.
    Program,
    /// The process that waits for this one to detach itself.
    WhoWaits,
}

/// Waits until the cluster answers and says where it is.
fn announce(made: &Made, told: Told, stop: &Stop) -> Result<(), Failure> {
    let Some(()) = wait_until_it_answers(made, stop)? else {
        return Ok(());
    };
    let addresses = format!("{}\n", made.plan.masters().join(","));
    match told {
        Told::WhoWaits => return detach::let_go(&made.folder, &addresses),
        Told::Person => {
            eprintln!("the cluster in {} answers; Ctrl-C ends it", made.folder.display());
        }
        Told::Program => {}
    }
    output::print(&addresses)
}

/// Nothing where the end was asked for meanwhile.
fn wait_until_it_answers(made: &Made, stop: &Stop) -> Result<Option<()>, Failure> {
    let clock = Clock::start();
    let client = super::client_of(&made.plan, &made.folder, QUESTION_PATIENCE)?;
    loop {
        let missing = match client.nodes() {
            Ok(nodes) => {
                let lacks = roster::lacks(&made.plan, &made.folder, &nodes);
                if lacks.is_empty() {
                    return Ok(Some(()));
                }
                format!("it lacks {}", lacks.join(", "))
            }
            Err(error) => format!("no master answers: {}", node::log::chain(&error)),
        };
        if stop.is_requested() {
            return Ok(None);
        }
        if clock.now().0 > START_PATIENCE.0 {
            let text = format!("the cluster does not come up: {missing}");
            let logs = made.folder.join("*/*.log");
            return Err(Failure::unreachable(text)
                .hint(format!("its processes say why in {}", logs.display())));
        }
        std::thread::park_timeout(PAUSE.to_std());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_something_else_in_it_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        refuse_foreign(folder.path()).unwrap();
        std::fs::write(folder.path().join("thesis.tex"), "").unwrap();
        let refused = refuse_foreign(folder.path()).unwrap_err();
        assert!(format!("{refused:?}").contains("it has thesis.tex"), "{refused:?}");
    }

    #[test]
    fn a_first_master_whose_folder_is_lost_makes_no_other_cluster() {
        let outer = tempfile::tempdir().unwrap();
        let flags = DevStart { masters: Some(3), ..DevStart::default() };
        let plan = Plan::settle(None, &flags).unwrap();
        let folders = plan.processes.iter().map(|it| Plan::folder_of(outer.path(), it));
        folders.for_each(|folder| std::fs::create_dir(folder).unwrap());
        let second = Plan::folder_of(outer.path(), &plan.processes[1]);
        let cluster = ClusterId(77);
        drop(node::data_folder::DataFolder::open(&second, Role::Master, Some(cluster)).unwrap());
        assert_eq!(founded(outer.path(), &plan).unwrap(), cluster);
        let first = Plan::folder_of(outer.path(), &plan.processes[0]);
        assert!(identity_of(&first).is_none(), "it is left empty, to join the others");
    }

    #[test]
    fn the_last_line_of_a_log_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        assert_eq!(last_line(&log), None);
        std::fs::write(&log, format!("{}\nthe port is in use\n\n", "x".repeat(9_000))).unwrap();
        assert_eq!(last_line(&log).unwrap(), "the port is in use");
    }
}
