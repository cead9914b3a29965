//! `remuda nodes`: the roster of the cluster.

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
    address: String,
    telemetry: String,
    incarnation: u64,
    group: u64,
    slots: u32,
    zone: String,
}

/// Lists the nodes.
pub(crate) fn list(flags: &Listing) -> Result<(), Failure> {
    let nodes = connect(&flags.place)?.nodes().asked()?;
    let mut shown: Vec<Shown> = nodes
        .into_iter()
        .map(|node| Shown {
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
    let mut table = Table::new(&["tier", "node", "leads", "address", "slots"]);
    for it in shown {
        let leads = if it.leads { "yes" } else { "" };
        let slots = if it.slots > 0 { it.slots.to_string() } else { String::new() };
        table.row(vec![it.tier.to_owned(), it.node, leads.to_owned(), it.address, slots]);
    }
    output::print(&table.render())
}
