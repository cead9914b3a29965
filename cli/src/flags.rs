//! The command line: every command and flag, with its help.
//!
//! Syntax only. What a value means, and whether it goes with the others, is the command's matter.

mod change;
mod live;
mod overview;
mod register;
mod ring;
mod submit;
mod why;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use proto::limits::{REPLICAS, TASKS_PER_JOB};
use proto::status::Role;

pub(crate) use change::{ChangeJob, Forget, Priority, Retry};
pub(crate) use live::{Logs, Progress};
pub(crate) use overview::{VERSION, command, parse};
pub(crate) use register::{GetRegister, Register, SetRegister, WatchRegister};
pub(crate) use ring::{Ring, Waiting};
pub(crate) use submit::Submit;
pub(crate) use why::{Accounting, Explain};

use crate::quantity::number;

/// Runs many tasks on many machines and loses none of them.
#[derive(Debug, Parser)]
#[command(name = "remuda", version = overview::VERSION, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 success, 1 the job or the command failed, 2 wrong usage, \
                        3 the cluster cannot be reached, 130 interrupted while waiting.")]
pub(crate) struct Flags {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What is asked for.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Submit a job and print its UUID
    Submit(Box<Submit>),
    /// Wait until a job is done; exit code 1 where it failed or was cancelled
    Wait(OneJob),
    /// Show the state of a job
    Status(Status),
    /// List the jobs, newest first
    Jobs(Jobs),
    /// List what became of a job's tasks
    Tasks(Tasks),
    /// Show what tasks print
    Logs(Logs),
    /// Say what holds a job or task up, and what to do about it
    Explain(Explain),
    /// List what the tasks of a job used: time, CPU, memory, worker, attempts
    Accounting(Accounting),
    /// Tell how far a task is, inside of it
    Progress(Progress),
    /// Cancel what has no outcome of a job
    Cancel(Cancel),
    /// Deal no more tasks of a job until it is released; those that run go on
    Hold(ChangeJob),
    /// Deal the tasks of a job that is on hold
    Release(ChangeJob),
    /// Change the priority of a job
    Priority(Priority),
    /// Submit the failed or cancelled tasks of a job as a new job
    Retry(Retry),
    /// Take a job that ended, and what it wrote, out of all listings
    Forget(Forget),
    /// Store a file or folder and print what it is called there
    Put(Put),
    /// Fetch a file or folder
    Get(Get),
    /// Print a file
    Cat(Cat),
    /// List the names of files and folders, or what is in a stored folder
    Ls(Ls),
    /// Remove a name; what it points to stays
    Rm(Rm),
    /// Show files, names and the inputs of jobs as a read-only folder, until interrupted
    Mount(Mount),
    /// Read and write registers: small values that all tasks and clients share
    #[command(subcommand)]
    Register(Register),
    /// List the nodes of the cluster, and which of them answer
    Nodes(Nodes),
    /// Ask every node how it is; exit code 1 where something is degraded or down
    #[command(after_help = "Exit codes: 0 all is well, 1 something is degraded or down, 2 wrong \
                            usage, 3 no master answers.")]
    Health(Listing),
    /// List the storage nodes with the space that they have
    Df(Listing),
    /// Change which storage nodes keep what, and see how far that is
    #[command(subcommand)]
    Ring(Ring),
    /// Run a whole cluster on this machine
    Dev(Dev),
    /// Measure this machine: figures of a cluster that is started for them
    Bench(Bench),
    /// Run one node of a tier in the foreground
    Serve(Serve),
    /// Make a cluster
    #[command(subcommand)]
    Cluster(Cluster),
    /// Look at configuration files
    #[command(subcommand)]
    Config(Config),
    /// Print a script that completes commands and flags in a shell
    Completion(Completion),
    /// Write the manual: a page for the program and one for each command
    Man(Man),
}

/// Which cluster is meant.
#[derive(Debug, Args)]
pub(crate) struct Where {
    /// Cluster: addresses of any of its nodes (tcp://HOST:PORT, separated by commas), the folder of
    /// a local one, a file, or a name [default: $REMUDA_CLUSTER, the nearest .remuda, or the only
    /// local one that runs]
    #[arg(long, value_name = "CLUSTER")]
    pub(crate) cluster: Option<String>,
}

/// A command about one job.
#[derive(Debug, Args)]
pub(crate) struct OneJob {
    /// The job: its UUID, an unambiguous beginning of it, its name, or `last`
    pub(crate) job: String,
    #[command(flatten)]
    pub(crate) place: Where,
}

/// `remuda cancel`.
#[derive(Debug, Args)]
pub(crate) struct Cancel {
    /// The job: its UUID, an unambiguous beginning of it, its name, or `last`
    pub(crate) job: String,
    #[command(flatten)]
    pub(crate) listing: Listing,
}

/// `remuda status`.
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// The job: its UUID, an unambiguous beginning of it, its name, or `last`
    #[arg(default_value = "last")]
    pub(crate) job: String,
    #[command(flatten)]
    pub(crate) listing: Listing,
}

/// `remuda jobs`.
#[derive(Debug, Args)]
pub(crate) struct Jobs {
    /// At most this many
    #[arg(long, value_name = "N", default_value_t = 100)]
    #[arg(value_parser = number(1..=u32::MAX, "default: 100"))]
    pub(crate) limit: u32,
    #[command(flatten)]
    pub(crate) listing: Listing,
}

/// `remuda tasks`.
#[derive(Debug, Args)]
pub(crate) struct Tasks {
    /// The job: its UUID, an unambiguous beginning of it, its name, or `last`
    #[arg(default_value = "last")]
    pub(crate) job: String,
    /// Only tasks in this state
    #[arg(long, value_parser = ["queued", "running", "done", "failed", "cancelled"])]
    pub(crate) state: Option<String>,
    /// Only tasks that run at present: since when, on which worker, and how far they say they are
    #[arg(long, conflicts_with = "state")]
    pub(crate) running: bool,
    /// Only tasks that failed for good, as --state failed
    #[arg(long, conflicts_with_all = ["state", "running"])]
    pub(crate) failed: bool,
    #[command(flatten)]
    pub(crate) listing: Listing,
}

/// How and from where something is listed.
#[derive(Debug, Args)]
pub(crate) struct Listing {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) place: Where,
}

/// `remuda nodes`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Nodes {
    #[command(subcommand)]
    pub(crate) command: Option<NodesCommand>,
    /// Go on with what the nodes say of themselves, until interrupted: state and alerts
    #[arg(long)]
    pub(crate) follow: bool,
    #[command(flatten)]
    pub(crate) listing: Listing,
}

/// What is done with nodes of the roster.
#[derive(Debug, Subcommand)]
pub(crate) enum NodesCommand {
    /// Take nodes that left for good out of the listing, and their slots out of the count
    Forget(ForgetNodes),
}

/// `remuda nodes forget`.
#[derive(Debug, Args)]
#[command(
    after_help = "Refused are a node that answers, a balancer that has a seat, and a storage \
                        node with a place in the ring. A node that comes back registers again."
)]
pub(crate) struct ForgetNodes {
    /// The nodes: of each its UUID, an unambiguous beginning of it, or its address
    #[arg(required = true, value_name = "NODE")]
    pub(crate) nodes: Vec<String>,
    #[command(flatten)]
    pub(crate) listing: Listing,
}

/// `remuda put`.
#[derive(Debug, Args)]
pub(crate) struct Put {
    /// The file or folder
    pub(crate) path: PathBuf,
    /// A name that points to it from now on
    pub(crate) name: Option<String>,
    /// Keep the times of last change in a folder; equal folders then differ by them
    #[arg(long)]
    pub(crate) times: bool,
    /// Storage nodes that keep a copy of it; all of them where there are fewer [default: the
    /// cluster's, as remuda df shows it]
    #[arg(long, value_name = "N")]
    #[arg(value_parser = number(1..=REPLICAS as u8, "default: the cluster's"))]
    pub(crate) replicas: Option<u8>,
    #[command(flatten)]
    pub(crate) place: Where,
}

/// `remuda get`.
#[derive(Debug, Args)]
pub(crate) struct Get {
    /// What: name:NAME[/PATH] or file:UUID[/PATH]; job:JOB for all that its tasks wrote, a folder
    /// for each task with its stdout and stderr; job:JOB/TASK[/PATH] for one task, from 0 on
    pub(crate) source: OsString,
    /// Where to: a new file or folder, or a folder to put it into [default: this folder]
    pub(crate) to: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) place: Where,
}

/// `remuda cat`.
#[derive(Debug, Args)]
pub(crate) struct Cat {
    /// The file: name:NAME[/PATH], file:UUID[/PATH], or job:JOB/TASK/stdout and the like
    pub(crate) source: OsString,
    #[command(flatten)]
    pub(crate) place: Where,
}

/// `remuda ls`.
#[derive(Debug, Args)]
pub(crate) struct Ls {
    /// What the names begin with, or a folder: name:NAME[/PATH], file:UUID[/PATH], or what tasks
    /// wrote: job:JOB[/TASK[/PATH]] [default: all names]
    #[arg(default_value = "", hide_default_value = true)]
    pub(crate) source: OsString,
    #[command(flatten)]
    pub(crate) listing: Listing,
}

/// `remuda rm`.
#[derive(Debug, Args)]
pub(crate) struct Rm {
    /// The name, with or without name: before it
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) place: Where,
}

/// `remuda mount`.
#[derive(Debug, Args)]
pub(crate) struct Mount {
    /// An empty folder: files/UUID, names/NAME and jobs/JOB/inputs appear in it
    pub(crate) dir: PathBuf,
    /// Folder for what was fetched; it is used again the next time [default: one of the user's
    /// own caches]
    #[arg(long, value_name = "DIR")]
    pub(crate) cache: Option<PathBuf>,
    /// Bytes that it may take, such as 512M or 20G
    #[arg(long, value_name = "BYTES", default_value = "4G", value_parser = crate::quantity::bytes)]
    pub(crate) cache_size: u64,
    #[command(flatten)]
    pub(crate) place: Where,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Figure {
    /// All of them, one after the other
    All,
    /// Tasks per second of a job of tasks that do nothing
    Noop,
    /// Tasks per second of a job of processes that do nothing, beside what this machine can start
    Spawn,
    /// Time of one task on an idle cluster
    Latency,
    /// Time until a job is accepted, and what it costs the leading master in memory
    Submit,
    /// How much faster a job of sleeping tasks gets by 2 to 5 workers
    Speedup,
    /// Storing and fetching files, beside the file system of this machine
    Files,
    /// Reading and writing registers
    Registers,
    /// What a cluster costs that has nothing to do
    Idle,
    /// How long a cluster needs after a process of each tier was killed
    Recover,
    /// What a task costs in jobs of 1000 to 10^8 tasks, and on 1 to 64 workers
    Scale,
}

/// `remuda bench`.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// What is measured
    #[arg(value_enum, default_value_t = Figure::All)]
    pub(crate) figure: Figure,
    /// Print one JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
    /// Folder in which the cluster gets one of its own; on a real disk [default: /var/tmp]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Masters: 1, 3 or 5 [default: 3; noop, latency and submit are taken for 1, 5 and 3]
    #[arg(long, value_name = "N", value_parser = odd_masters)]
    pub(crate) masters: Option<u32>,
    /// Workers; speedup and scale have their own
    #[arg(long, value_name = "N", default_value_t = 2)]
    #[arg(value_parser = number(1u32..=256, "default: 2"))]
    pub(crate) workers: u32,
    /// Slots of each worker [default: as many as cores, shared among the workers]
    #[arg(long, value_name = "N")]
    #[arg(value_parser = number(1u32..=4096, "default: as many as cores, shared among the workers"))]
    pub(crate) slots: Option<u32>,
    /// Tasks of a job of noop or spawn, of the largest of scale [default: 1000000, 10000, 10^8]
    #[arg(long, value_name = "N", value_parser = number(1..=TASKS_PER_JOB, ""))]
    pub(crate) tasks: Option<u64>,
    /// Jobs of noop and spawn, of which the median counts
    #[arg(long, value_name = "N", default_value_t = 3)]
    #[arg(value_parser = number(1..=u32::MAX, "default: 3"))]
    pub(crate) repeat: u32,
    /// How often recover kills a process of each tier
    #[arg(long, value_name = "N", default_value_t = 20)]
    #[arg(value_parser = number(1..=u32::MAX, "default: 20"))]
    pub(crate) kills: u32,
}

/// The tiers that can be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Tier {
    /// Owns jobs, results, names and membership
    Master,
    /// Deals tasks to workers
    Balancer,
    /// Executes tasks
    Worker,
    /// Keeps the blocks of files
    Storage,
}

impl Tier {
    /// The role that its nodes have.
    pub(crate) fn role(self) -> Role {
        match self {
            Tier::Master => Role::Master,
            Tier::Balancer => Role::Balancer,
            Tier::Worker => Role::Worker,
            Tier::Storage => Role::Storage,
        }
    }
}

/// `remuda serve`.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// The tier
    pub(crate) tier: Tier,
    /// Configuration file; what it does not set comes from REMUDA_<TABLE>_<KEY>, else a default
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Print the configuration that holds, with where each value comes from, and exit
    #[arg(long)]
    pub(crate) show_config: bool,
    /// Listen without keys on an address that other machines reach
    #[arg(long)]
    pub(crate) insecure: bool,
    /// End when this process ends, which must be the one that started this one
    #[arg(long, value_name = "PID", hide = true)]
    pub(crate) parent: Option<u32>,
}

/// `remuda cluster`.
#[derive(Debug, Subcommand)]
pub(crate) enum Cluster {
    /// Make a new cluster whose first master has this configuration, and print its UUID
    ///
    /// Only this makes a cluster. Every other master joins one.
    Init {
        /// Configuration file of the first master
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Make an empty data folder that of another master of a cluster that runs, and print the
    /// cluster's UUID
    ///
    /// The master takes part once it is started with `remuda serve master`. That does the same
    /// where the folder is empty and its configuration names `masters`; here you learn at once
    /// whether they answer.
    Join {
        /// Configuration file of the new master; its `masters` are those of the cluster
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
}

/// `remuda config`.
#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Tell all that is wrong with a configuration file, with its line; exit code 2 where anything is
    ///
    /// Looks at the file alone: not at the environment, and not at whether a folder or address can be
    /// had. What holds in the end is shown by `remuda serve TIER --config FILE --show-config`.
    Check {
        /// The file: of a node, or of a client (~/.config/remuda/NAME.toml)
        file: PathBuf,
        /// For whom it is [default: as its tables tell]
        #[arg(long = "for", value_name = "KIND")]
        kind: Option<ConfigKind>,
    },
}

/// For whom a configuration file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ConfigKind {
    /// A master
    Master,
    /// A balancer
    Balancer,
    /// A worker
    Worker,
    /// A storage node
    Storage,
    /// A client
    Client,
}

impl ConfigKind {
    /// What only a file of this kind has: a table, or a key outside of tables.
    pub(crate) const TABLES: [(&str, ConfigKind); 5] = [
        ("master", ConfigKind::Master),
        ("balancer", ConfigKind::Balancer),
        ("worker", ConfigKind::Worker),
        ("storage", ConfigKind::Storage),
        ("addresses", ConfigKind::Client),
    ];

    /// What it is called.
    pub(crate) fn name(self) -> &'static str {
        match self {
            ConfigKind::Master => "master",
            ConfigKind::Balancer => "balancer",
            ConfigKind::Worker => "worker",
            ConfigKind::Storage => "storage node",
            ConfigKind::Client => "client",
        }
    }
}

/// `remuda completion`.
#[derive(Debug, Args)]
#[command(after_help = "For bash: remuda completion bash > \
                        ~/.local/share/bash-completion/completions/remuda\n\
                        For zsh: the same with zsh, into _remuda in a folder of $fpath\n\
                        For fish: remuda completion fish > \
                        ~/.config/fish/completions/remuda.fish")]
pub(crate) struct Completion {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}

/// `remuda man`.
#[derive(Debug, Args)]
pub(crate) struct Man {
    /// The folder that they are written into; made where it is missing
    pub(crate) dir: PathBuf,
}

/// `remuda dev`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Dev {
    #[command(subcommand)]
    pub(crate) command: Option<DevCommand>,
    #[command(flatten)]
    pub(crate) start: DevStart,
}

/// How a local cluster is started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub(crate) struct DevStart {
    /// Masters: 1, 3 or 5 [default: 3]
    #[arg(long, value_name = "N", value_parser = odd_masters)]
    pub(crate) masters: Option<u32>,
    /// Balancers: each two are a group [default: 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) balancers: Option<u32>,
    /// Storage nodes [default: 3]
    #[arg(long, value_name = "N", value_parser = number(1u32..=64, "default: 3"))]
    pub(crate) storage: Option<u32>,
    /// Workers [default: 2]
    #[arg(long, value_name = "N", value_parser = number(0u32..=256, "default: 2"))]
    pub(crate) workers: Option<u32>,
    /// Slots of each worker [default: as many as cores, shared among the workers]
    #[arg(long, value_name = "N")]
    #[arg(value_parser = number(1u32..=4096, "default: as many as cores, shared among the workers"))]
    pub(crate) slots: Option<u32>,
    /// How tasks see their inputs: through a mount (one way of it: erofs, plain), as files fetched
    /// before [default: auto]
    #[arg(long, value_name = "WAY")]
    #[arg(value_parser = ["auto", "mount", "erofs", "plain", "materialise"])]
    pub(crate) inputs: Option<String>,
    #[command(flatten)]
    pub(crate) folder: DevFolder,
    /// Return when the cluster answers, and leave it running
    #[arg(long)]
    pub(crate) detach: bool,
    /// Leave a process that dies dead, instead of starting it again after a second
    #[arg(long)]
    pub(crate) no_restart: bool,
    /// Become a session of its own; how `--detach` starts the process that stays
    #[arg(long, hide = true, conflicts_with = "detach")]
    pub(crate) detached: bool,
    /// End when this process ends, which must be the one that started this one
    #[arg(long, value_name = "PID", hide = true)]
    pub(crate) parent: Option<u32>,
}

/// Where a local cluster lives.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub(crate) struct DevFolder {
    /// Folder that holds everything of the cluster
    #[arg(long, value_name = "DIR", default_value = ".remuda")]
    pub(crate) dir: PathBuf,
}

impl Default for DevFolder {
    fn default() -> DevFolder {
        DevFolder { dir: ".remuda".into() }
    }
}

/// What is done with a local cluster that runs.
#[derive(Debug, Subcommand)]
pub(crate) enum DevCommand {
    /// End all its processes; its jobs and files stay
    Stop(DevFolder),
    /// Start one of its processes that is dead
    Start {
        /// Its name, as `remuda dev status` shows it
        node: String,
        #[command(flatten)]
        folder: DevFolder,
    },
    /// List its processes
    Status {
        #[command(flatten)]
        folder: DevFolder,
        /// Print one JSON array
        #[arg(long)]
        json: bool,
    },
}

fn odd_masters(text: &str) -> Result<u32, String> {
    match text {
        "1" => Ok(1),
        "3" => Ok(3),
        "5" => Ok(5),
        _ => Err("1, 3 or 5 masters: an even number survives no more deaths than one fewer".into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Flags::command().debug_assert();
    }

    #[test]
    fn every_number_is_read_as_what_its_flag_holds() {
        for line in [
            "jobs --limit 5",
            "priority last -5",
            "explain last 5",
            "mount dir --cache-size 5G",
            "dev --masters 3 --balancers 2 --storage 5 --workers 5 --slots 5",
            "bench noop --masters 1 --workers 5 --slots 5 --tasks 5 --repeat 5 --kills 5",
            "submit --cpus 5 --mem 5G --time-limit 5s --retries 5 --max-crashes 5 --max-fails 5 \
             --priority 5 --noop 5 --noop-shortest 5 --noop-longest 5 --noop-failed 5 \
             --noop-printed 5",
        ] {
            let words = ["remuda"].into_iter().chain(line.split_whitespace());
            let parsed = Flags::try_parse_from(words);
            assert!(parsed.is_ok(), "{line}: {parsed:?}");
        }
    }

    #[test]
    fn masters_are_an_odd_few() {
        let parse = |count| Flags::try_parse_from(["remuda", "dev", "--masters", count]);
        assert!(parse("3").is_ok());
        let error = parse("2").unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("1, 3 or 5 masters"), "{error}");
    }
}
