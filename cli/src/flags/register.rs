//! The flags of `remuda register`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use proto::time::Duration;

use super::Listing;
use crate::quantity::{duration, register};

/// What is done with a register.
#[derive(Debug, Subcommand)]
pub(crate) enum Register {
    /// Print what a register holds; exit code 1 where nobody wrote it
    Get(GetRegister),
    /// Put a value into a register
    Set(SetRegister),
    /// Print each new value of a register, until interrupted
    Watch(WatchRegister),
}

/// `remuda register get`.
#[derive(Debug, Args)]
pub(crate) struct GetRegister {
    /// The register: a number of 64 bits, decimal or 0x…
    #[arg(value_name = "ADDR", value_parser = register)]
    pub(crate) address: u64,
    /// Only look at the copy of this storage node, which may be an older one: its UUID, an
    /// unambiguous beginning of it, or its address
    #[arg(long, value_name = "NODE")]
    pub(crate) node: Option<String>,
    #[command(flatten)]
    pub(crate) listing: Listing,
}

/// `remuda register set`.
#[derive(Debug, Args)]
#[command(
    after_help = "When this returns, a majority of the register's replicas has the value on \
                        disk. There is no compare-and-set of registers: that needs the agreement of \
                        the masters, and is Client::transact of the Rust library."
)]
#[command(group = clap::ArgGroup::new("what").required(true))]
pub(crate) struct SetRegister {
    /// The register: a number of 64 bits, decimal or 0x…
    #[arg(value_name = "ADDR", value_parser = register)]
    pub(crate) address: u64,
    /// The value, at most 64 KiB; - for standard input
    #[arg(group = "what")]
    pub(crate) value: Option<OsString>,
    /// A file that holds the value
    #[arg(long, value_name = "FILE", group = "what")]
    pub(crate) file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) listing: Listing,
}

/// `remuda register watch`.
#[derive(Debug, Args)]
pub(crate) struct WatchRegister {
    /// The register: a number of 64 bits, decimal or 0x…
    #[arg(value_name = "ADDR", value_parser = register)]
    pub(crate) address: u64,
    /// Time between two reads, such as 100ms or 2s; what is overwritten in between is not seen
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    pub(crate) interval: Duration,
    #[command(flatten)]
    pub(crate) listing: Listing,
}
