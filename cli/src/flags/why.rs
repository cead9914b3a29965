//! The flags of `remuda explain` and `remuda accounting`.

use clap::Args;
use proto::limits::TASKS_PER_JOB;

use super::{Listing, Where};
use crate::quantity::number;

/// `remuda explain`.
#[derive(Debug, Args)]
#[command(
    after_help = "The masters are asked, the balancer that deals the job's tasks, and the workers \
                        that have them; what stops most comes first. Nodes that do not answer \
                        are named."
)]
pub(crate) struct Explain {
    /// The job: its UUID, an unambiguous beginning of it, its name, or `last`
    pub(crate) job: String,
    /// One of its tasks, from 0 on [default: the job as a whole]
    #[arg(value_parser = number(0..=TASKS_PER_JOB - 1, "default: the job as a whole"))]
    pub(crate) task: Option<u64>,
    #[command(flatten)]
    pub(crate) listing: Listing,
}

/// `remuda accounting`.
#[derive(Debug, Args)]
#[command(
    after_help = "Times of CPU and wall are of the attempt that has the outcome. The percentiles \
                        are exact within one in a hundred. What a task used may follow its \
                        outcome by two seconds, and is lost with a worker that dies within them."
)]
pub(crate) struct Accounting {
    /// The job: its UUID, an unambiguous beginning of it, its name, or `last`
    #[arg(default_value = "last")]
    pub(crate) job: String,
    /// Print a line of comma-separated values for each task, below a line of their names; times
    /// are in microseconds
    #[arg(long, conflicts_with = "json")]
    pub(crate) csv: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) place: Where,
}
