//! The flags of what is done to jobs after their submission.

use clap::Args;

use super::Listing;
use crate::quantity::number;

/// `remuda hold` and `remuda release`.
#[derive(Debug, Args)]
pub(crate) struct ChangeJob {
    /// The job: its UUID, an unambiguous beginning of it, its name, or `last`
    pub(crate) job: String,
    #[command(flatten)]
    pub(crate) listing: Listing,
}

/// `remuda forget`.
#[derive(Debug, Args)]
#[command(
    after_help = "Finished jobs are forgotten by themselves after 7 days; of more than 10,000 the \
                        oldest first, none within its first hour. The UUID of a forgotten job is \
                        remembered for 7 days: submitting it again is refused. The space that its \
                        outputs take on the storage nodes is not freed yet."
)]
pub(crate) struct Forget {
    /// The job: its UUID, an unambiguous beginning of it, its name, or `last`
    pub(crate) job: String,
    #[command(flatten)]
    pub(crate) listing: Listing,
}

/// `remuda priority`.
#[derive(Debug, Args)]
pub(crate) struct Priority {
    /// The job: its UUID, an unambiguous beginning of it, its name, or `last`
    pub(crate) job: String,
    /// Its new priority: jobs of a higher one are dealt first; a job begins with 0 unless
    /// `submit --priority` says otherwise
    #[arg(value_name = "N", allow_negative_numbers = true)]
    #[arg(value_parser = number(i32::MIN..=i32::MAX, "a job begins with 0; higher is dealt first"))]
    pub(crate) priority: i32,
    #[command(flatten)]
    pub(crate) listing: Listing,
}

/// `remuda retry`.
#[derive(Debug, Args)]
#[command(after_help = "The new job has the same program, inputs, environment and limits. In it, \
                        {index}, {line}, $REMUDA_INDEX and $REMUDA_LINE stand for what they stood \
                        for in the old one; its tasks are counted from 0.")]
#[command(group = clap::ArgGroup::new("which").required(true).multiple(true))]
pub(crate) struct Retry {
    /// The job: its UUID, an unambiguous beginning of it, its name, or `last`
    pub(crate) job: String,
    /// Its tasks that failed for good
    #[arg(long, group = "which")]
    pub(crate) failed: bool,
    /// Its tasks that were cancelled before they had an outcome
    #[arg(long, group = "which")]
    pub(crate) cancelled: bool,
    /// Name of the new job, for people [default: that of the old one]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Wait until it is done, as `remuda wait` does
    #[arg(long)]
    pub(crate) wait: bool,
    #[command(flatten)]
    pub(crate) listing: Listing,
}
