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
    let leaders = if runs { leaders(&plan)? } else { None };
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
fn leaders(plan: &Plan) -> Result<Option<Vec<NodeId>>, Failure> {
    match super::client_of(plan, PATIENCE)?.nodes() {
        Ok(nodes) => Ok(Some(nodes.iter().filter(|it| it.leads).map(|it| it.node).collect())),
        Err(error) => {
            eprintln!("who leads is not known: {}", node::log::chain(&error));
            Ok(None)
        }
    }
}

/// The process of the leading master of a folder's cluster.
pub(crate) fn leader_pid(folder: &Path) -> Result<u32, Failure> {
    let plan = super::plan_of(folder)?;
    let leaders = leaders(&plan)?.unwrap_or_default();
    let leads = |planned: &&Planned| {
        let identity = identity_of(&Plan::folder_of(folder, planned));
        identity.is_some_and(|identity| leaders.contains(&identity.node))
    };
    let name = plan.of(Role::Master).find(leads).map(Planned::name);
    let process = record::read(folder).into_iter().find(|it| Some(&it.name) == name.as_ref());
    process.and_then(|it| it.pid).ok_or_else(|| Failure::failed("no master leads at present"))
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
