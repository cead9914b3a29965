//! The flags of `remuda submit`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use proto::ids::JobId;
use proto::limits::{REPLICAS, TASKS_PER_JOB};
use proto::time::Duration;

use super::Listing;
use crate::quantity::{self, number};

/// `remuda submit`.
#[derive(Debug, Args)]
#[command(
    after_help = "A program given as ./x or dir/x is stored and runs everywhere; an absolute \
                        path or a bare name is the workers' own. In arguments, {index} stands for \
                        the task's number and {line} for its line. A task finds its inputs in \
                        $REMUDA_INPUTS and leaves its outputs in $REMUDA_OUTPUTS."
)]
pub(crate) struct Submit {
    /// Name of the job, for people
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Numbers of the tasks, both ends included [default: a single task]
    #[arg(long, value_name = "A-B[:STEP]", allow_hyphen_values = true)]
    pub(crate) array: Option<String>,
    /// A task for each line of this file (- for standard input), in place of --array
    #[arg(long, value_name = "FILE", conflicts_with = "array")]
    pub(crate) each_line: Option<PathBuf>,
    /// What tasks see as $REMUDA_INPUTS/NAME: a file or folder of this machine, name:N[/PATH] or
    /// file:UUID[/PATH]; NAME may be left out where VALUE has no = and ends in a name [repeatable]
    #[arg(long = "input", value_name = "[NAME=]VALUE")]
    pub(crate) inputs: Vec<OsString>,
    /// Storage nodes that keep a copy of what is stored for the job; all of them where there are
    /// fewer [default: the cluster's]
    #[arg(long, value_name = "N")]
    #[arg(value_parser = number(1..=REPLICAS as u8, "default: the cluster's"))]
    pub(crate) replicas: Option<u8>,
    /// Files of the working folder that are outputs too, beside all in $REMUDA_OUTPUTS [repeatable]
    #[arg(long = "output", value_name = "GLOB")]
    pub(crate) outputs: Vec<String>,
    /// A variable in the environment of tasks [repeatable]
    #[arg(long = "env", value_name = "NAME=VALUE")]
    pub(crate) environment: Vec<String>,
    /// CPUs of a task [default: 1]
    #[arg(long, value_name = "N", value_parser = quantity::cpu_milli)]
    pub(crate) cpus: Option<u32>,
    /// Memory that a task may use, such as 512M or 4G; above it is killed [default: no limit]
    #[arg(long, value_name = "SIZE", value_parser = quantity::bytes)]
    pub(crate) mem: Option<u64>,
    /// How long an attempt may take, such as 90s or 1h30m [default: no limit]
    #[arg(long, value_name = "DURATION", value_parser = quantity::duration)]
    pub(crate) time_limit: Option<Duration>,
    /// How often a failed task is attempted again [default: 0]
    #[arg(long, value_name = "N", value_parser = number(0..=u32::MAX, "default: 0"))]
    pub(crate) retries: Option<u32>,
    /// How often a task's worker may die with it before the task failed [default: 5]
    #[arg(long, value_name = "N", value_parser = number(0..=u32::MAX, "default: 5"))]
    pub(crate) max_crashes: Option<u32>,
    /// The job stops once more tasks than this failed [default: it goes on]
    #[arg(long, value_name = "N", value_parser = number(0..=TASKS_PER_JOB, "default: it goes on"))]
    pub(crate) max_fails: Option<u64>,
    /// Jobs of a higher priority are dealt first [default: 0]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    #[arg(value_parser = number(i32::MIN..=i32::MAX, "default: 0; higher is dealt first"))]
    pub(crate) priority: Option<i32>,
    /// Deal none of its tasks before `remuda release`
    #[arg(long)]
    pub(crate) hold: bool,
    /// A script (- for standard input) that begins with #!; what stands behind -- are its arguments
    #[arg(long, value_name = "FILE")]
    pub(crate) script: Option<PathBuf>,
    /// Store the program also where it is a bare name or an absolute path of this machine
    #[arg(long)]
    pub(crate) upload: bool,
    /// Leave the working folder of each task on its worker
    #[arg(long)]
    pub(crate) keep_scratch: bool,
    /// Check everything and print what would be submitted; stores and submits nothing
    #[arg(long, conflicts_with = "wait")]
    pub(crate) dry_run: bool,
    /// Wait until it is done, as `remuda wait` does
    #[arg(long)]
    pub(crate) wait: bool,
    /// UUID of the job: submitting the same under it again is harmless [default: a new one]
    #[arg(long, value_name = "UUID")]
    pub(crate) job: Option<JobId>,
    /// Tasks that do nothing, for measuring; their outcomes follow from the seed
    #[arg(long, value_name = "SEED", num_args = 0..=1, default_missing_value = "0")]
    #[arg(value_parser = number(0..=u64::MAX, "default: 0"))]
    #[arg(conflicts_with_all = ["script", "upload", "command"])]
    pub(crate) noop: Option<u64>,
    /// Shortest duration of a noop task in microseconds
    #[arg(long, value_name = "US", default_value_t = 0, hide = true, requires = "noop")]
    #[arg(value_parser = number(0..=u64::MAX, "microseconds"))]
    pub(crate) noop_shortest: u64,
    /// Longest duration of a noop task in microseconds
    #[arg(long, value_name = "US", default_value_t = 0, hide = true, requires = "noop")]
    #[arg(value_parser = number(0..=u64::MAX, "microseconds"))]
    pub(crate) noop_longest: u64,
    /// Noop tasks of a million that fail
    #[arg(long, value_name = "N", default_value_t = 0, hide = true, requires = "noop")]
    #[arg(value_parser = number(0..=u32::MAX, ""))]
    pub(crate) noop_failed: u32,
    /// Bytes that a noop task prints
    #[arg(long, value_name = "N", default_value_t = 0, hide = true, requires = "noop")]
    #[arg(value_parser = number(0..=u32::MAX, ""))]
    pub(crate) noop_printed: u32,
    #[command(flatten)]
    pub(crate) listing: Listing,
    /// The program and its arguments
    #[arg(last = true, value_name = "PROGRAM")]
    pub(crate) command: Vec<OsString>,
}
