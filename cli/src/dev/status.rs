//! `remuda dev status`: every process of a local cluster, and who leads.

use std::path::Path;

use proto::ids::NodeId;
use proto::status::Role;
use proto::time::Duration;
use serde::Serialize;

use super::lock;
use super::plan::{Plan, Planned};
use super::record::{self, Process};
use crate::failure::Failure;
use crate::identity::identity_of;
use crate::output;
use crate::output::human::Table;

/// How long a cluster that is electing a leader is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// One process as it is shown.
#[derive(Debug, Serialize)]
struct Shown {
    name: String,
    tier: &'static str,
    /// Its node UUID; `None` before its first start.
    node: Option<String>,
    /// `None` where it does not run.
    pid: Option<u32>,
    address: String,
    telemetry: String,
    /// `None` where no master could be asked.
    leads: Option<bool>,
    starts: u64,
    ended: Option<String>,
}

/// Lists the processes of a folder's cluster.
pub(crate) fn status(folder: &Path, json: bool) -> Result<(), Failure> {
    let plan = super::plan_of(folder)?;
    let runs = lock::is_held(folder);
    let processes = if runs { record::read(folder) } else { Vec::new() };
    let leaders = if runs { leaders(&plan, folder)? } else { None };
    let show = |planned: &Planned| {
        let name = planned.name();
        let nothing = Process { name: name.clone(), pid: None, starts: 0, ended: None };
        let process = processes.iter().find(|process| process.name == name).unwrap_or(&nothing);
        let node = identity_of(&Plan::folder_of(folder, planned)).map(|it| it.node);
        let leads = leaders.as_ref().map(|leaders| {
            process.pid.is_some() && node.is_some_and(|node| leaders.contains(&node))
        });
        Shown {
            name,
            tier: planned.tier.name(),
            node: node.map(|node| node.to_string()),
            pid: process.pid,
            address: planned.listen.clone(),
            telemetry: planned.telemetry.clone(),
            leads,
            starts: process.starts,
            ended: process.ended.clone(),
        }
    };
    let shown: Vec<Shown> = plan.processes.iter().map(show).collect();
    if json {
        return output::json::print(&shown);
    }
    if !runs {
        let folder = folder.display();
        eprintln!("the cluster in {folder} does not run; start it: remuda dev --dir {folder}");
    }
    output::print(&table(&shown))
}

/// The leading master and the primary balancers; `None` where no master answers.
fn leaders(plan: &Plan, folder: &Path) -> Result<Option<Vec<NodeId>>, Failure> {
    match super::client_of(plan, folder, PATIENCE)?.nodes() {
        Ok(nodes) => Ok(Some(nodes.iter().filter(|it| it.leads).map(|it| it.node).collect())),
        Err(error) => {
            eprintln!("who leads is not known: {}", node::log::chain(&error));
            Ok(None)
        }
    }
}

/// The process of the leading master of a folder's cluster.
pub(crate) fn leader_pid(folder: &Path) -> Result<u32, Failure> {
    Ok(leading(folder, Role::Master)?.1)
}

/// Name and process of who leads a tier of a folder's cluster.
pub(crate) fn leading(folder: &Path, tier: Role) -> Result<(String, u32), Failure> {
    let leaders = leaders(&super::plan_of(folder)?, folder)?.unwrap_or_default();
    for (name, pid) in running(folder, tier)? {
        if leaders.contains(&node(folder, &name)?) {
            return Ok((name, pid));
        }
    }
    Err(Failure::failed(format!("no {tier} leads at present")))
}

/// Names and processes of a tier of a folder's cluster, as far as they run.
pub(crate) fn running(folder: &Path, tier: Role) -> Result<Vec<(String, u32)>, Failure> {
    let plan = super::plan_of(folder)?;
    let names: Vec<String> = plan.of(tier).map(Planned::name).collect();
    let processes = record::read(folder).into_iter();
    let is_one = |it: &Process| names.contains(&it.name);
    Ok(processes.filter(is_one).filter_map(|it| Some((it.name, it.pid?))).collect())
}

/// Whether a process of a folder's cluster runs, as far as its parent noticed.
pub(crate) fn is_running(folder: &Path, name: &str) -> bool {
    record::read(folder).iter().any(|it| it.name == name && it.pid.is_some())
}

/// The node of a process of a folder's cluster.
pub(crate) fn node(folder: &Path, name: &str) -> Result<NodeId, Failure> {
    let identity = identity_of(&folder.join(name));
    let unknown = || Failure::failed(format!("{name} has no data folder"));
    Ok(identity.ok_or_else(unknown)?.node)
}

fn table(shown: &[Shown]) -> String {
    let mut table = Table::new(&["name", "pid", "leads", "address", "node", "starts", "ended"]);
    for it in shown {
        let leads = match it.leads {
            Some(true) => "yes",
            Some(false) => "no",
            None => "?",
        };
        table.row(vec![
            it.name.clone(),
            it.pid.map(|pid| pid.to_string()).unwrap_or_default(),
            leads.into(),
            it.address.clone(),
            it.node.clone().unwrap_or_default(),
            it.starts.to_string(),
            it.ended.clone().unwrap_or_default(),
        ]);
    }
    table.render()
}
