//! `remuda nodes`: the roster of the cluster, which of its nodes answer, and those that left for
//! good.

use client::logic::answers::NodeSummary;
use serde::Serialize;

use super::connect::{Asked, connect};
use crate::failure::Failure;
use crate::flags::{ForgetNodes, Listing};
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

impl Shown {
    fn of((node, answers): (NodeSummary, bool)) -> Shown {
        Shown {
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
        }
    }
}

/// Lists the nodes.
pub(crate) fn list(flags: &Listing) -> Result<(), Failure> {
    let client = connect(&flags.place)?;
    let nodes = client.nodes().asked()?;
    let answering = client.answering(&nodes).asked()?;
    let mut shown: Vec<Shown> = nodes.into_iter().zip(answering).map(Shown::of).collect();
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

/// Takes nodes that left for good out of the roster; none of them where one answers.
pub(crate) fn forget(flags: &ForgetNodes) -> Result<(), Failure> {
    let client = connect(&flags.listing.place)?;
    let roster = client.nodes().asked()?;
    let mut gone: Vec<NodeSummary> = Vec::new();
    for text in &flags.nodes {
        let node = named(&roster, text)?;
        if !gone.contains(node) {
            gone.push(node.clone());
        }
    }
    let answering = client.answering(&gone).asked()?;
    if let Some((node, _)) = gone.iter().zip(answering).find(|(_, answers)| *answers) {
        return Err(Failure::failed(format!("{} answers: it has not left", described(node)))
            .hint("stop it first; what is listed and answers is part of the cluster"));
    }
    let mut forgotten = Vec::new();
    let mut failure = None;
    for node in gone {
        match client.forget_node(node.node, node.incarnation).asked() {
            Ok(_) => forgotten.push(node),
            Err(error) => {
                failure = Some(error);
                break;
            }
        }
    }
    if failure.is_none() || !forgotten.is_empty() {
        show_forgotten(forgotten, flags.listing.json)?;
    }
    failure.map_or(Ok(()), Err)
}

fn show_forgotten(forgotten: Vec<NodeSummary>, as_json: bool) -> Result<(), Failure> {
    if as_json {
        let shown = forgotten.into_iter().map(|node| Shown::of((node, false)));
        return json::print(&shown.collect::<Vec<Shown>>());
    }
    let lines = forgotten.iter().map(|node| format!("{} is forgotten\n", described(node)));
    output::print(&lines.collect::<String>())
}

/// A node as a sentence names it.
fn described(node: &NodeSummary) -> String {
    format!("{} {} at {}", node.role, node.node, node.address)
}

/// The node that somebody means.
fn named<'a>(roster: &'a [NodeSummary], text: &str) -> Result<&'a NodeSummary, Failure> {
    let digits: String = text.chars().filter(|digit| *digit != '-').collect();
    let is_beginning = !digits.is_empty() && digits.chars().all(|digit| digit.is_ascii_hexdigit());
    let digits = digits.to_lowercase();
    let is_meant = |node: &&NodeSummary| {
        node.address == text || is_beginning && format!("{:032x}", node.node.0).starts_with(&digits)
    };
    let mut meant = roster.iter().filter(is_meant);
    match (meant.next(), meant.next()) {
        (Some(node), None) => Ok(node),
        (Some(one), Some(other)) => {
            let (one, other) = (described(one), described(other));
            Err(Failure::usage(format!("{text:?} is {one}, or {other}"))
                .hint("give more digits of its UUID"))
        }
        (None, _) => Err(Failure::failed(format!("there is no node {text:?}"))
            .hint("see which there are: remuda nodes")),
    }
}

#[cfg(test)]
mod tests {
    use proto::ids::{Incarnation, LogIndex, NodeId};
    use proto::status::Role;

    use super::*;

    fn node(number: u128, address: &str) -> NodeSummary {
        NodeSummary {
            node: NodeId(number),
            role: Role::Worker,
            incarnation: Incarnation(1),
            leads: false,
            group: 1,
            slot_count: 1,
            index: LogIndex(1),
            address: address.to_owned(),
            telemetry_address: String::new(),
            zone: String::new(),
        }
    }

    #[test]
    fn a_node_is_named_by_its_uuid_the_beginning_of_it_or_its_address() {
        let (one, other) = (0x12ab << 112, 0x12cd << 112);
        let roster = [node(one, "tcp://a:1"), node(other, "tcp://a:2"), node(7, "tcp://a:2")];
        let meant = |text: &str| named(&roster, text).ok().map(|it| it.node.0);
        assert_eq!(meant("12ab"), Some(one));
        assert_eq!(meant("12CD0000-00"), Some(other));
        assert_eq!(meant(&NodeId(7).to_string()), Some(7));
        assert_eq!(meant("tcp://a:1"), Some(one));
        // One that has another's address by now.
        for text in ["12", "tcp://a:2", "tcp://a:3", "", "-", "worker"] {
            assert_eq!(meant(text), None, "{text}");
        }
    }
}
