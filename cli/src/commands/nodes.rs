//! `remuda nodes`: the roster of the cluster, and which of its nodes answer.

use serde::Serialize;

use super::connect::{Asked, connect};
use crate::failure::Failure;
use crate::flags::Listing;
use crate::output::human::Table;
use crate::output::{self, json};

/// A node as it is shown to programs.
#[derive(Debug, Serialize)]
struct Shown {
    node: String,
    tier: &'static str,
    leads: bool,
    /// Asked just now.
    answers: bool,
    address: String,
    telemetry: String,
    incarnation: u64,
    group: u64,
    slots: u32,
    zone: String,
}

/// Lists the nodes.
pub(crate) fn list(flags: &Listing) -> Result<(), Failure> {
    let client = connect(&flags.place)?;
    let nodes = client.nodes().asked()?;
    let answering = client.answering(&nodes).asked()?;
    let mut shown: Vec<Shown> = nodes
        .into_iter()
        .zip(answering)
        .map(|(node, answers)| Shown {
            answers,
            node: node.node.to_string(),
            tier: node.role.name(),
            leads: node.leads,
            address: node.address,
            telemetry: node.telemetry_address,
            incarnation: node.incarnation.0,
            group: node.group,
            slots: node.slot_count,
            zone: node.zone,
        })
        .collect();
    shown.sort_by(|one, other| (one.tier, &one.address).cmp(&(other.tier, &other.address)));
    if flags.json {
        return json::print(&shown);
    }
    let mut table = Table::new(&["tier", "node", "group", "leads", "answers", "address", "slots"]);
    for it in shown {
        let leads = if it.leads { "yes" } else { "" };
        let answers = if it.answers { "yes" } else { "no" };
        let count = |it: u64| if it > 0 { it.to_string() } else { String::new() };
        let (group, slots) = (count(it.group), count(it.slots.into()));
        let (leads, answers) = (leads.to_owned(), answers.to_owned());
        table.row(vec![it.tier.to_owned(), it.node, group, leads, answers, it.address, slots]);
    }
    output::print(&table.render())
}
