//! `remuda dev`: a whole cluster on this machine, as child processes of one supervisor.
//!
//! Every process is this same binary under `serve`, with a configuration file and a data folder of
//! its own in the cluster's folder: nothing here is a stand-in for a tier.
//!
//! - `plan`: which processes there are and where they listen, kept in `dev.toml`.
//! - `lock`, `registry`: that it runs, and how others find it.
//! - `supervisor`: keeps processes running.
//! - `control`: what other commands ask of it.
//! - `start`, `detach`, `stop`, `status`: the commands.
//! - `roster`: what a starting cluster still lacks.
//! - `record`: what the supervisor tells others of its processes.

mod control;
mod detach;
mod lock;
mod plan;
mod record;
mod registry;
mod roster;
mod start;
mod status;
mod stop;
mod supervisor;

use std::path::Path;

use client::Client;
use proto::status::Role;
use proto::time::Duration;

pub(crate) use control::start_again;
pub(crate) use start::start;
pub(crate) use status::{is_running, leader_pid, leading, node, running, status};
pub(crate) use stop::stop;

use crate::commands::connect::Asked;
use crate::failure::{During, Failure};
use plan::{Plan, Planned};

/// Replaces a file in one step, so that nobody reads half of it.
fn replace(path: &Path, text: &str) -> Result<(), Failure> {
    let new = path.with_extension("new");
    std::fs::write(&new, text)
        .and_then(|()| std::fs::rename(&new, path))
        .during(|| format!("write {}", path.display()))
}

/// What the cluster of a folder lacks of its processes and leaders; empty where nothing is missing.
pub(crate) fn lacks(folder: &Path, client: &Client) -> Result<Vec<String>, Failure> {
    let nodes = client.nodes().asked()?;
    Ok(roster::lacks(&plan_of(folder)?, folder, &nodes))
}

/// The plan of a folder that must have one.
fn plan_of(folder: &Path) -> Result<Plan, Failure> {
    Plan::read(folder)?.ok_or_else(|| {
        Failure::usage(format!("{} holds no local cluster", folder.display()))
            .hint("name its folder with --dir, or start one: remuda dev --detach")
    })
}

/// A client of the masters of a plan that gives up after `patience`; it begins with one that runs.
fn client_of(plan: &Plan, folder: &Path, patience: Duration) -> Result<Client, Failure> {
    let mut masters: Vec<&Planned> = plan.of(Role::Master).collect();
    masters.sort_by_key(|planned| !is_running(folder, &planned.name()));
    let masters = masters.into_iter().map(|planned| planned.listen.clone()).collect();
    let mut client = Client::connect(masters).during(|| "start a client".into())?;
    client.set_patience(patience);
    Ok(client)
}
