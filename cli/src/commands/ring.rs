//! `remuda ring status`: the storage nodes as the leading master sees them, and how far a change of
//! the ring is.

use std::collections::BTreeMap;

use client::Client;
use client::logic::answers::{Answer, NodeSummary};
use client::logic::jobs::Request;
use client::logic::rings::{NodeStanding, RingStanding};
use proto::ids::NodeId;
use proto::messages::node::StorageProgress;
use proto::status::RingState;
use proto::time::Duration;
use serde::Serialize;

use super::connect::{Asked, connect};
use crate::failure::Failure;
use crate::flags::Listing;
use crate::output::human::Table;
use crate::output::{self, json};
use crate::quantity::{shown_bytes, span};

/// How long the ring is waited for where it is told beside something else. A cluster without a
/// leader is told of as well.
const BESIDE: Duration = Duration::from_secs(2);

/// A node that was not heard for this long is shown as silent: it reports every second.
const SILENT: Duration = Duration::from_secs(3);

/// A storage node as it is shown to programs.
#[derive(Debug, Serialize)]
struct Shown {
    node: String,
    address: String,
    zone: String,
    weight: u32,
    state: &'static str,
    silent_seconds: Option<f64>,
    removal_seconds: Option<f64>,
    ring_version: u64,
    passed_version: u64,
    pass_round: u64,
    scrub_round: u64,
    blocks: u64,
    block_bytes: u64,
    pass_done: u64,
    pass_total: u64,
    lacking: u64,
    foreign: u64,
    moved: u64,
    moved_bytes: u64,
    scrub_done: u64,
    scrub_total: u64,
    damaged: u64,
    mended: u64,
    total_bytes: u64,
    free_bytes: u64,
}

/// The ring as it is shown to programs.
#[derive(Debug, Serialize)]
struct Status {
    version: u64,
    oldest_version: u64,
    register_parts: u64,
    replicas: u32,
    partitions: u64,
    pass_round: u64,
    scrub_round: u64,
    /// What goes on, for people.
    text: Vec<String>,
    nodes: Vec<Shown>,
}

/// `remuda ring status`.
pub(super) fn status(flags: &Listing) -> Result<(), Failure> {
    let client = connect(&flags.place)?;
    let standing = client.ring_status().asked()?;
    let status = shown(&standing, &client.nodes().asked()?);
    if flags.json {
        return json::print(&status);
    }
    output::print(&table(&status))
}

/// How the ring stands, where that is told soon enough to stand beside something else.
pub(super) fn beside(client: &Client) -> Option<RingStanding> {
    match client.begin(Request::RingStatus).wait_for(BESIDE).ok()?? {
        Ok(Answer::RingStatus(standing)) => Some(standing),
        Ok(_) | Err(_) => None,
    }
}

/// What a node is to the ring, where that is known.
pub(super) fn state_of(standing: Option<&RingStanding>, node: NodeId) -> Option<&NodeStanding> {
    standing?.nodes.iter().find(|it| it.node == node)
}

/// Blocks that have fewer replicas than they should, as far as the nodes told.
pub(super) fn lacking(standing: &RingStanding) -> u64 {
    standing.nodes.iter().filter(|it| takes_part(it)).map(|it| it.progress.lacking_count).sum()
}

/// True for a node whose passes and scrubs are waited for.
pub(super) fn takes_part(node: &NodeStanding) -> bool {
    matches!(node.state, RingState::Member | RingState::Draining)
}

fn seconds(span: Duration) -> f64 {
    span.as_secs_f64()
}

fn shown(standing: &RingStanding, roster: &[NodeSummary]) -> Status {
    let roster: BTreeMap<NodeId, &NodeSummary> = roster.iter().map(|it| (it.node, it)).collect();
    let node = |it: &NodeStanding| {
        let known = roster.get(&it.node);
        let StorageProgress {
            ring_version,
            passed_version,
            pass_round,
            scrub_round,
            block_count,
            block_bytes,
            pass_done,
            pass_total,
            lacking_count,
            foreign_count,
            moved_count,
            moved_bytes,
            scrub_done,
            scrub_total,
            damaged_count,
            mended_count,
            total_bytes,
            free_bytes,
        } = it.progress;
        Shown {
            node: it.node.to_string(),
            address: known.map(|known| known.address.clone()).unwrap_or_default(),
            zone: known.map(|known| known.zone.clone()).unwrap_or_default(),
            weight: it.weight,
            state: it.state.name(),
            silent_seconds: it.silent.map(seconds),
            removal_seconds: it.removal.map(seconds),
            ring_version,
            passed_version,
            pass_round,
            scrub_round,
            blocks: block_count,
            block_bytes,
            pass_done,
            pass_total,
            lacking: lacking_count,
            foreign: foreign_count,
            moved: moved_count,
            moved_bytes,
            scrub_done,
            scrub_total,
            damaged: damaged_count,
            mended: mended_count,
            total_bytes,
            free_bytes,
        }
    };
    let mut nodes: Vec<Shown> = standing.nodes.iter().map(node).collect();
    nodes.sort_by(|one, other| (&one.address, &one.node).cmp(&(&other.address, &other.node)));
    Status {
        version: standing.version.0,
        oldest_version: standing.oldest.0,
        register_parts: standing.register_parts,
        replicas: standing.replica_count,
        partitions: standing.partition_count,
        pass_round: standing.pass_round,
        scrub_round: standing.scrub_round,
        text: told(standing, &roster),
        nodes,
    }
}

/// What goes on, in sentences.
fn told(standing: &RingStanding, roster: &BTreeMap<NodeId, &NodeSummary>) -> Vec<String> {
    let mut lines = Vec::new();
    let parts: Vec<&NodeStanding> = standing.nodes.iter().filter(|it| takes_part(it)).collect();
    let version = standing.version.0;
    if standing.oldest == standing.version {
        lines.push(format!("ring version {version}: nothing moves"));
    } else {
        let through = parts.iter().filter(|it| it.progress.passed_version >= version).count();
        let (done, total) = passes(standing);
        lines.push(format!(
            "ring version {version}: blocks still lie by versions from {} on; {through} of {} nodes \
             are through, {done} of {total} blocks are where they belong",
            standing.oldest,
            parts.len(),
        ));
    }
    for node in &parts {
        if let Some(silent) = node.silent.filter(|silent| *silent >= SILENT) {
            let address = roster.get(&node.node).map_or("", |it| it.address.as_str());
            let removal = node.removal.map_or_else(String::new, |removal| {
                format!(", and is taken off the ring in {}", span(removal))
            });
            lines.push(format!(
                "storage node {} at {address} is silent for {}{removal}",
                node.node,
                span(silent)
            ));
        }
    }
    if standing.register_parts > 0 {
        let count = standing.register_parts;
        lines.push(format!("{count} parts of the registers do not go by version {version} yet"));
    }
    let lacking = lacking(standing);
    if lacking > 0 {
        lines.push(format!("{lacking} blocks have fewer replicas than they should"));
    }
    let (done, total) = scrubs(standing);
    if parts.iter().any(|it| it.progress.scrub_round < standing.scrub_round) {
        lines.push(format!("{done} of {total} blocks are checked by the scrub that was asked for"));
    }
    let sum = |of: fn(&StorageProgress) -> u64| parts.iter().map(|it| of(&it.progress)).sum();
    let (damaged, mended): (u64, u64) = (sum(|it| it.damaged_count), sum(|it| it.mended_count));
    if damaged > 0 {
        lines.push(format!("{damaged} blocks were found damaged, {mended} of them were mended"));
    }
    lines
}

/// Blocks that are confirmed by all their owners at the newest version, and all blocks.
pub(super) fn passes(standing: &RingStanding) -> (u64, u64) {
    let of_node = |it: &NodeStanding| {
        let progress = &it.progress;
        if progress.passed_version >= standing.version.0 {
            (progress.block_count, progress.block_count)
        } else if progress.ring_version < standing.version.0 || progress.pass_total == 0 {
            (0, progress.block_count)
        } else {
            (progress.pass_done.min(progress.pass_total), progress.pass_total)
        }
    };
    sum(standing, of_node)
}

/// Blocks that are looked at by the round of passes that was asked for, and all blocks.
pub(super) fn rounds(standing: &RingStanding) -> (u64, u64) {
    let of_node = |it: &NodeStanding| {
        let progress = &it.progress;
        if progress.pass_round >= standing.pass_round {
            (progress.block_count, progress.block_count)
        } else if progress.pass_total == 0 {
            (0, progress.block_count)
        } else {
            (progress.pass_done.min(progress.pass_total), progress.pass_total)
        }
    };
    sum(standing, of_node)
}

/// Blocks that are checked by the scrub that was asked for, and all blocks.
pub(super) fn scrubs(standing: &RingStanding) -> (u64, u64) {
    let of_node = |it: &NodeStanding| {
        let progress = &it.progress;
        if progress.scrub_round >= standing.scrub_round {
            (progress.block_count, progress.block_count)
        } else if progress.scrub_total == 0 {
            (0, progress.block_count)
        } else {
            (progress.scrub_done.min(progress.scrub_total), progress.scrub_total)
        }
    };
    sum(standing, of_node)
}

fn sum(standing: &RingStanding, of_node: impl Fn(&NodeStanding) -> (u64, u64)) -> (u64, u64) {
    let parts = standing.nodes.iter().filter(|it| takes_part(it)).map(of_node);
    parts.fold((0, 0), |(done, total), (more, all)| {
        (done.saturating_add(more), total.saturating_add(all))
    })
}

fn table(status: &Status) -> String {
    let head = [
        "address", "node", "zone", "weight", "state", "blocks", "bytes", "lacking", "foreign",
        "moved", "silent",
    ];
    let mut table = Table::new(&head);
    for it in &status.nodes {
        let silent = it.silent_seconds.map(|silent| Duration::from_micros((silent * 1e6) as u64));
        let silent = match silent {
            Some(silent) if silent < SILENT => String::new(),
            Some(silent) => span(silent),
            None => "never heard".to_owned(),
        };
        table.row(vec![
            it.address.clone(),
            it.node.clone(),
            it.zone.clone(),
            it.weight.to_string(),
            it.state.to_owned(),
            it.blocks.to_string(),
            shown_bytes(it.block_bytes),
            it.lacking.to_string(),
            it.foreign.to_string(),
            shown_bytes(it.moved_bytes),
            silent,
        ]);
    }
    let lines = status.text.iter().map(|line| format!("{line}\n"));
    table.render() + &lines.collect::<String>()
}

#[cfg(test)]
pub(super) mod tests {
    use proto::ids::{Incarnation, LogIndex, RingVersion};
    use proto::status::Role;

    use super::*;

    pub(in crate::commands) fn node(
        number: u128,
        state: RingState,
        progress: StorageProgress,
    ) -> NodeStanding {
        let silent = Some(Duration::from_millis(200));
        let node = NodeId(number);
        NodeStanding { node, weight: 100, zone: 0, state, silent, removal: None, progress }
    }

    pub(in crate::commands) fn standing(nodes: Vec<NodeStanding>) -> RingStanding {
        RingStanding {
            version: RingVersion(7),
            oldest: RingVersion(7),
            register_parts: 0,
            replica_count: 2,
            partition_count: 1 << 16,
            pass_round: 0,
            scrub_round: 0,
            nodes,
        }
    }

    fn summary(number: u128) -> NodeSummary {
        NodeSummary {
            node: NodeId(number),
            role: Role::Storage,
            incarnation: Incarnation(1),
            leads: false,
            group: 0,
            slot_count: 0,
            index: LogIndex(1),
            address: format!("tcp://a:{number}"),
            telemetry_address: String::new(),
            zone: "east".to_owned(),
        }
    }

    fn moving() -> RingStanding {
        let passed = StorageProgress {
            ring_version: 7,
            passed_version: 7,
            block_count: 10,
            block_bytes: 3 << 20,
            moved_bytes: 1 << 20,
            damaged_count: 2,
            mended_count: 1,
            ..Default::default()
        };
        let busy = StorageProgress {
            ring_version: 7,
            passed_version: 5,
            block_count: 8,
            pass_done: 3,
            pass_total: 9,
            lacking_count: 4,
            foreign_count: 1,
            ..Default::default()
        };
        let behind = StorageProgress { pass_done: 6, pass_total: 6, ring_version: 6, ..busy };
        let gone = StorageProgress { block_count: 99, lacking_count: 99, ..Default::default() };
        let mut nodes = vec![
            node(1, RingState::Member, passed),
            node(2, RingState::Draining, busy),
            node(3, RingState::Member, behind),
            node(4, RingState::Removed, gone),
        ];
        nodes[2].silent = Some(Duration::from_secs(60));
        nodes[2].removal = Some(Duration::from_secs(240));
        nodes[3].silent = None;
        RingStanding {
            oldest: RingVersion(5),
            register_parts: 12,
            scrub_round: 1,
            ..standing(nodes)
        }
    }

    #[test]
    fn a_ring_that_changes_is_shown_with_who_is_waited_for() {
        let roster: Vec<NodeSummary> = (1..=3).map(summary).collect();
        let text = table(&shown(&moving(), &roster));
        let id = |number: u128| NodeId(number).to_string();
        assert_eq!(
            text,
            format!(
                "ADDRESS    NODE                                  ZONE  WEIGHT  STATE     BLOCKS  \
                 BYTES    LACKING  FOREIGN  MOVED    SILENT\n\
                 -          {}  -     100     removed   99      0 B      99       0        0 B      \
                 never heard\n\
                 tcp://a:1  {}  east  100     member    10      3.0 MiB  0        0        1.0 MiB  \
                 -\n\
                 tcp://a:2  {}  east  100     draining  8       0 B      4        1        0 B      \
                 -\n\
                 tcp://a:3  {}  east  100     member    8       0 B      4        1        0 B      \
                 1m 0s\n\
                 ring version 7: blocks still lie by versions from 5 on; 1 of 3 nodes are through, \
                 13 of 27 blocks are where they belong\n\
                 storage node {} at tcp://a:3 is silent for 1m 0s, and is taken off the ring in \
                 4m 0s\n\
                 12 parts of the registers do not go by version 7 yet\n\
                 8 blocks have fewer replicas than they should\n\
                 0 of 26 blocks are checked by the scrub that was asked for\n\
                 2 blocks were found damaged, 1 of them were mended\n",
                id(4),
                id(1),
                id(2),
                id(3),
                id(3)
            )
        );
    }

    #[test]
    fn a_ring_at_rest_says_that_nothing_moves() {
        let progress = StorageProgress { passed_version: 7, ..Default::default() };
        let at_rest = standing(vec![node(1, RingState::Member, progress)]);
        assert_eq!(shown(&at_rest, &[]).text, ["ring version 7: nothing moves"]);
        assert_eq!(lacking(&at_rest), 0);
    }
}
