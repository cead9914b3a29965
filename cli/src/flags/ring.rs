//! The flags of `remuda ring`.

use clap::{Args, Subcommand};

use super::{Listing, Where};
use crate::quantity::number;

/// `remuda ring`.
#[derive(Debug, Subcommand)]
pub(crate) enum Ring {
    /// Show the storage nodes, what each has, and how far a change of the ring is
    Status(Listing),
    /// Make a storage node a member of the ring, or change its weight or zone
    #[command(after_help = "A storage node that registers for the first time with a weight joins \
                            by itself. This is for spares, for nodes that were drained or \
                            removed, and for other weights and zones. Files are read and written \
                            while blocks move.")]
    Add(AddNode),
    /// Have a storage node hand over all that it has; it may be stopped when it is drained
    Drain(DrainNode),
    /// Take a storage node that is gone off the ring; what it had is copied from the others
    #[command(after_help = "A node that is silent for long is taken off by itself. One that \
                            answers is refused without --force: what only it has would be lost. \
                            Have it hand over what it has instead: remuda ring drain NODE.")]
    Remove(RemoveNode),
    /// Let every storage node look at once whether all that it has lies where it belongs
    Rebalance(Round),
    /// Let every storage node check the digests of all that it has at once
    Scrub(Round),
}

/// Whether something that goes on by itself is waited for.
#[derive(Debug, Args)]
pub(crate) struct Waiting {
    /// Wait until it is done; a bar on a terminal shows how far it is
    #[arg(long)]
    pub(crate) wait: bool,
    #[command(flatten)]
    pub(crate) place: Where,
}

/// `remuda ring add`.
#[derive(Debug, Args)]
pub(crate) struct AddNode {
    /// The storage node: its UUID, an unambiguous beginning of it, or its address
    pub(crate) node: String,
    /// Its share relative to the others [default: the one that it has, or was started with]
    #[arg(long, value_name = "W")]
    #[arg(value_parser = number(1..=u32::MAX, "default: the one that it has"))]
    pub(crate) weight: Option<u32>,
    /// Its failure zone: the replicas of a block lie in different ones, as far as there are any
    /// [default: the one that it has, or was started with]
    #[arg(long, value_name = "Z")]
    pub(crate) zone: Option<String>,
    /// Do it although an earlier change is under way
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) waiting: Waiting,
}

/// `remuda ring drain`.
#[derive(Debug, Args)]
pub(crate) struct DrainNode {
    /// The storage node: its UUID, an unambiguous beginning of it, or its address
    pub(crate) node: String,
    /// Do it although an earlier change is under way
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) waiting: Waiting,
}

/// `remuda ring remove`.
#[derive(Debug, Args)]
pub(crate) struct RemoveNode {
    /// The storage node: its UUID, an unambiguous beginning of it, or its address
    pub(crate) node: String,
    /// Do it although it answers, or an earlier change is under way
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) waiting: Waiting,
}

/// `remuda ring rebalance` and `remuda ring scrub`.
#[derive(Debug, Args)]
pub(crate) struct Round {
    #[command(flatten)]
    pub(crate) waiting: Waiting,
}
