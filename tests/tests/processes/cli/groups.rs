//! What is shown of a cluster with two groups of balancers.

use crate::cluster::Cluster;
use crate::groups::until_shared;

use super::session;

const SHAPE: &[&str] = &[
    "--masters",
    "1",
    "--balancers",
    "3",
    "--storage",
    "1",
    "--workers",
    "2",
    "--slots",
    "2",
    "--no-restart",
];

/// A line of the listing without what differs from run to run: the node and its address.
fn without_places(line: &str) -> String {
    let cells = line.split_whitespace().enumerate().filter(|(at, _)| ![1, 6].contains(at));
    cells.map(|(_, cell)| cell).collect::<Vec<_>>().join("  ")
}

#[test]
fn nodes_of_two_groups_are_shown_with_their_groups() {
    let cluster = Cluster::start(SHAPE);
    until_shared(&cluster, &[(1, 2, 1), (2, 1, 1)]);
    let said = cluster.run(&["nodes"]).ok();
    let mut lines: Vec<String> = said.lines().map(without_places).collect();
    // Which balancer came first, and has which seat, differs as well.
    lines[1..].sort_unstable();
    session::check("groups", &format!("$ remuda nodes\n{}\n", lines.join("\n")));
}
