//! `remuda df`: what the storage nodes have, and how much room is left.

use client::StorageState;
use client::logic::answers::NodeSummary;
use client::logic::rings::RingStanding;
use proto::status::RingState;
use serde::Serialize;

use super::connect::{Asked, connect};
use super::ring;
use crate::failure::Failure;
use crate::flags::Listing;
use crate::output::human::Table;
use crate::output::{self, json};
use crate::quantity::shown_bytes;

/// A storage node as it is shown to programs; what is not known of one that does not answer is
/// `None`.
#[derive(Debug, Serialize)]
struct Shown {
    node: String,
    address: String,
    zone: String,
    answers: bool,
    /// What it is to the ring.
    ring: Option<&'static str>,
    /// Blocks that have fewer replicas than they should, as far as the node knows.
    lacking: Option<u64>,
    /// Bytes of the file system.
    total_bytes: Option<u64>,
    /// Bytes that are free there.
    free_bytes: Option<u64>,
    /// Bytes of the blocks that are kept.
    used_bytes: Option<u64>,
    blocks: Option<u64>,
    /// Blocks that were found damaged since the node started.
    damaged: Option<u64>,
}

/// All storage nodes as they are shown to programs.
#[derive(Debug, Serialize)]
struct Space {
    /// Replicas of a file where nothing else was asked for.
    replicas: usize,
    nodes: Vec<Shown>,
}

/// `remuda df`.
pub(crate) fn run(flags: &Listing) -> Result<(), Failure> {
    let client = connect(&flags.place)?;
    let replicas = client.ring().asked()?.replica_count;
    let standing = ring::beside(&client);
    let nodes = client.storage().asked()?.into_iter();
    let mut nodes: Vec<Shown> = nodes.map(|it| shown(it, standing.as_ref())).collect();
    nodes.sort_by(|one, other| one.address.cmp(&other.address));
    let space = Space { replicas, nodes };
    if flags.json {
        return json::print(&space);
    }
    output::print(&table(&space))?;
    if let Some(count) = standing.as_ref().map(ring::lacking).filter(|count| *count > 0) {
        output::note(&format!(
            "{count} blocks have fewer replicas than they should: remuda ring status"
        ));
    }
    let silent = space.nodes.iter().filter(|it| !it.answers).count();
    if silent > 0 {
        output::note(&format!("{silent} storage nodes do not answer: remuda health"));
    }
    Ok(())
}

fn shown(
    (node, state): (NodeSummary, Option<StorageState>),
    standing: Option<&RingStanding>,
) -> Shown {
    let on_ring = ring::state_of(standing, node.node);
    Shown {
        ring: on_ring.map(|it| it.state.name()),
        lacking: on_ring.map(|it| it.progress.lacking_count),
        node: node.node.to_string(),
        address: node.address,
        zone: node.zone,
        answers: state.is_some(),
        total_bytes: state.map(|it| it.total_bytes),
        free_bytes: state.map(|it| it.free_bytes),
        used_bytes: state.map(|it| it.counters.block_bytes),
        blocks: state.map(|it| it.counters.block_count),
        damaged: state.map(|it| it.counters.damaged_count),
    }
}

/// Whether a node answers, and what it is to the ring where that is worth saying.
fn state(node: &Shown) -> &'static str {
    match node.ring {
        _ if !node.answers => "down",
        Some(ring) if ring != RingState::Member.name() => ring,
        _ => "ok",
    }
}

fn table(space: &Space) -> String {
    let bytes = |bytes: Option<u64>| bytes.map(shown_bytes).unwrap_or_default();
    let count = |count: Option<u64>| count.map(|it| it.to_string()).unwrap_or_default();
    let mut table = Table::new(&["address", "state", "used", "blocks", "free", "of", "node"]);
    for it in &space.nodes {
        table.row(vec![
            it.address.clone(),
            state(it).to_owned(),
            bytes(it.used_bytes),
            count(it.blocks),
            bytes(it.free_bytes),
            bytes(it.total_bytes),
            it.node.clone(),
        ]);
    }
    let known = space.nodes.iter().filter_map(|it| it.used_bytes);
    let used: u64 = known.sum();
    let sum = format!(
        "{} in use, with the {} replicas of each file\n",
        shown_bytes(used),
        space.replicas
    );
    table.render() + &sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_does_not_answer_is_listed_as_such() {
        let nodes = vec![
            Shown {
                node: "n1".into(),
                address: "tcp://a:1".into(),
                zone: String::new(),
                answers: true,
                ring: Some("draining"),
                lacking: Some(0),
                total_bytes: Some(10 << 30),
                free_bytes: Some(5 << 30),
                used_bytes: Some(3 << 20),
                blocks: Some(7),
                damaged: Some(0),
            },
            Shown {
                node: "n2".into(),
                address: "tcp://b:1".into(),
                zone: String::new(),
                answers: false,
                ring: Some("member"),
                lacking: Some(0),
                total_bytes: None,
                free_bytes: None,
                used_bytes: None,
                blocks: None,
                damaged: None,
            },
        ];
        assert_eq!(
            table(&Space { replicas: 2, nodes }),
            "ADDRESS    STATE     USED     BLOCKS  FREE     OF        NODE\n\
             tcp://a:1  draining  3.0 MiB  7       5.0 GiB  10.0 GiB  n1\n\
             tcp://b:1  down      -        -       -        -         n2\n\
             3.0 MiB in use, with the 2 replicas of each file\n"
        );
    }
}
