//! `remuda nodes`: the roster of the cluster, which of its nodes answer, and those that left for
//! good.

use client::logic::answers::NodeSummary;
use client::logic::rings::RingStanding;
use serde::Serialize;

use super::connect::{Asked, connect};
use super::ring;
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
    /// What a storage node is to the ring, where that is known.
    ring: Option<&'static str>,
    /// How tasks of a worker that answers see their inputs.
    inputs: Option<String>,
}

impl Shown {
    fn of((node, answers): (NodeSummary, bool), ring: Option<&RingStanding>) -> Shown {
        Shown {
            answers,
            inputs: None,
            ring: ring::state_of(ring, node.node).map(|it| it.state.name()),
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
    let statuses = client.statuses(&nodes).asked()?;
    let standing = ring::beside(&client);
    let shown = nodes.into_iter().zip(statuses).map(|(node, status)| {
        let inputs = status.as_deref().and_then(inputs_of);
        let shown = Shown::of((node, status.is_some()), standing.as_ref());
        Shown { inputs, ..shown }
    });
    let mut shown: Vec<Shown> = shown.collect();
    shown.sort_by(|one, other| (one.tier, &one.address).cmp(&(other.tier, &other.address)));
    if flags.json {
        return json::print(&shown);
    }
    let head = ["tier", "node", "group", "leads", "ring", "answers", "address", "slots", "inputs"];
    let mut table = Table::new(&head);
    for it in shown {
        let leads = if it.leads { "yes" } else { "" };
        let answers = if it.answers { "yes" } else { "no" };
        let count = |it: u64| if it > 0 { it.to_string() } else { String::new() };
        let (group, slots) = (count(it.group), count(it.slots.into()));
        let (leads, answers) = (leads.to_owned(), answers.to_owned());
        let ring = it.ring.unwrap_or_default().to_owned();
        let tier = it.tier.to_owned();
        let inputs = it.inputs.unwrap_or_default();
        table.row(vec![tier, it.node, group, leads, ring, answers, it.address, slots, inputs]);
    }
    output::print(&table.render())
}

/// What a worker says of how its tasks see their inputs.
fn inputs_of(status: &str) -> Option<String> {
    let status: serde_json::Value = serde_json::from_str(status).ok()?;
    status.get("inputs")?.as_str().map(str::to_owned)
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
        let shown = forgotten.into_iter().map(|node| Shown::of((node, false), None));
        return json::print(&shown.collect::<Vec<Shown>>());
    }
    let lines = forgotten.iter().map(|node| format!("{} is forgotten\n", described(node)));
    output::print(&lines.collect::<String>())
}

/// A node as a sentence names it.
pub(super) fn described(node: &NodeSummary) -> String {
    format!("{} {} at {}", node.role, node.node, node.address)
}

/// The node that somebody means.
pub(super) fn named<'a>(roster: &'a [NodeSummary], text: &str) -> Result<&'a NodeSummary, Failure> {
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
    fn only_a_worker_says_how_its_tasks_see_inputs() {
        assert_eq!(inputs_of(r#"{"slots":1,"inputs":"erofs"}"#).as_deref(), Some("erofs"));
        for status in ["", "{}", r#"{"inputs":3}"#, "["] {
            assert_eq!(inputs_of(status), None, "{status}");
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
