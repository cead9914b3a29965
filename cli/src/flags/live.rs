//! The flags of `remuda logs` and `remuda progress`.

use clap::Args;

use super::Where;

/// `remuda logs`.
#[derive(Debug, Args)]
#[command(
    after_help = "What tasks printed on standard output goes to standard output, the rest to \
                        standard error, both as it was printed. Of a job of many tasks, those \
                        that have ended are shown, each as a whole."
)]
pub(crate) struct Logs {
    /// The job, or one of its tasks: the job's UUID, an unambiguous beginning of it, its name, or
    /// `last`; a task by its index from 0
    #[arg(default_value = "last", value_name = "JOB[/TASK]")]
    pub(crate) job: String,
    /// Go on until the end: with a single task as it prints, with more whenever one ends
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Only standard output
    #[arg(long)]
    pub(crate) stdout: bool,
    /// Only standard error, and to standard output
    #[arg(long, conflicts_with = "stdout")]
    pub(crate) stderr: bool,
    /// Begin each line with the index of its task
    #[arg(long)]
    pub(crate) prefix: bool,
    #[command(flatten)]
    pub(crate) place: Where,
}

/// `remuda progress`.
#[derive(Debug, Args)]
#[command(
    after_help = "For programs of jobs: it is shown by `remuda tasks JOB --running`. A program \
                        may as well write the same words into the file $REMUDA_PROGRESS."
)]
pub(crate) struct Progress {
    /// How much is done: 40%, 0.4 or 3/7
    pub(crate) part: String,
    /// What to show beside it
    pub(crate) text: Vec<String>,
}
