//! What each command does, one file per noun.

mod accounting;
mod change;
pub(crate) mod cluster;
mod completion;
mod config;
pub(crate) mod connect;
mod df;
mod dry_run;
mod entries;
mod explain;
mod files;
mod follow;
mod health;
pub(crate) mod jobs;
mod logs;
mod mount;
mod names;
mod nodes;
mod outputs;
mod progress;
mod register;
mod retry;
mod ring;
mod ring_change;
pub(crate) mod serve;
mod source;
mod submit;

use crate::bench;
use crate::dev;
use crate::failure::Failure;
use crate::flags::{Command, DevCommand, Flags, NodesCommand};

/// Does what the command line asks for.
pub(crate) fn run(flags: Flags) -> Result<(), Failure> {
    match flags.command {
        Command::Submit(flags) => submit::run(&flags),
        Command::Wait(flags) => jobs::wait(&flags),
        Command::Status(flags) => jobs::status(&flags),
        Command::Jobs(flags) => jobs::list(&flags),
        Command::Tasks(flags) => jobs::tasks(&flags),
        Command::Logs(flags) => logs::run(&flags),
        Command::Explain(flags) => explain::run(&flags),
        Command::Accounting(flags) => accounting::run(&flags),
        Command::Progress(flags) => progress::tell(&flags),
        Command::Cancel(flags) => jobs::cancel(&flags),
        Command::Hold(flags) => change::hold(&flags),
        Command::Release(flags) => change::release(&flags),
        Command::Priority(flags) => change::priority(&flags),
        Command::Retry(flags) => retry::run(&flags),
        Command::Forget(flags) => change::forget(&flags),
        Command::Put(flags) => files::put(&flags),
        Command::Get(flags) => files::get(&flags),
        Command::Cat(flags) => files::cat(&flags),
        Command::Ls(flags) => names::list(&flags),
        Command::Rm(flags) => names::remove(&flags),
        Command::Mount(flags) => mount::run(&flags),
        Command::Register(flags) => register::run(&flags),
        Command::Nodes(flags) => match flags.command {
            Some(NodesCommand::Forget(flags)) => nodes::forget(&flags),
            None if flags.follow => follow::follow(&flags.listing),
            None => nodes::list(&flags.listing),
        },
        Command::Health(flags) => health::run(&flags),
        Command::Df(flags) => df::run(&flags),
        Command::Ring(flags) => ring_change::run(&flags),
        Command::Dev(flags) => match flags.command {
            None => dev::start(&flags.start),
            Some(DevCommand::Stop(folder)) => dev::stop(&folder.dir),
            Some(DevCommand::Start { node, folder }) => dev::start_again(&folder.dir, &node),
            Some(DevCommand::Status { folder, json }) => dev::status(&folder.dir, json),
        },
        Command::Bench(flags) => bench::run(&flags),
        Command::Serve(flags) => serve::run(&flags),
        Command::Cluster(flags) => cluster::run(&flags),
        Command::Config(flags) => config::run(&flags),
        Command::Completion(flags) => completion::print(flags.shell),
        Command::Man(flags) => completion::write_pages(&flags.dir),
    }
}
