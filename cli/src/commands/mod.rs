//! What each command does, one file per noun.

pub(crate) mod cluster;
pub(crate) mod serve;

use crate::dev;
use crate::failure::Failure;
use crate::flags::{Command, DevCommand, Flags};

/// Does what the command line asks for.
pub(crate) fn run(flags: Flags) -> Result<(), Failure> {
    match flags.command {
        Command::Serve(flags) => serve::run(&flags),
        Command::Cluster(flags) => cluster::run(&flags),
        Command::Dev(flags) => match flags.command {
            None => dev::start(&flags.start),
            Some(DevCommand::Stop(folder)) => dev::stop(&folder.dir),
            Some(DevCommand::Status { folder, json }) => dev::status(&folder.dir, json),
        },
    }
}
