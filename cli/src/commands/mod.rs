//! What each command does, one file per noun.

pub(crate) mod cluster;
pub(crate) mod connect;
mod entries;
mod files;
mod follow;
pub(crate) mod jobs;
mod logs;
mod mount;
mod names;
mod nodes;
mod outputs;
mod progress;
pub(crate) mod serve;
mod source;
mod submit;

use crate::bench;
use crate::dev;
use crate::failure::Failure;
use crate::flags::{Command, DevCommand, Flags};

/// Does what the command line asks for.
pub(crate) fn run(flags: Flags) -> Result<(), Failure> {
    match flags.command {
        Command::Submit(flags) => submit::run(&flags),
        Command::Wait(flags) => jobs::wait(&flags),
        Command::Status(flags) => jobs::status(&flags),
        Command::Jobs(flags) => jobs::list(&flags),
        Command::Tasks(flags) => jobs::tasks(&flags),
        Command::Logs(flags) => logs::run(&flags),
        Command::Progress(flags) => progress::tell(&flags),
        Command::Cancel(flags) => jobs::cancel(&flags),
        Command::Put(flags) => files::put(&flags),
        Command::Get(flags) => files::get(&flags),
        Command::Cat(flags) => files::cat(&flags),
        Command::Ls(flags) => names::list(&flags),
        Command::Rm(flags) => names::remove(&flags),
        Command::Mount(flags) => mount::run(&flags),
        Command::Nodes(flags) if flags.follow => follow::follow(&flags.listing),
        Command::Nodes(flags) => nodes::list(&flags.listing),
        Command::Dev(flags) => match flags.command {
            None => dev::start(&flags.start),
            Some(DevCommand::Stop(folder)) => dev::stop(&folder.dir),
            Some(DevCommand::Status { folder, json }) => dev::status(&folder.dir, json),
        },
        Command::Bench(flags) => bench::run(&flags),
        Command::Serve(flags) => serve::run(&flags),
        Command::Cluster(flags) => cluster::run(&flags),
    }
}
