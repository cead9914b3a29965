//! `remuda ring add`, `drain`, `remove`, `rebalance` and `scrub`: asked for, and waited for where
//! somebody wants to.
//!
//! What follows from a change goes on by itself: whoever waits merely looks how far it is.

use client::Client;
use client::logic::answers::NodeSummary;
use client::logic::jobs::RingOrder;
use client::logic::rings::RingStanding;
use node::stop::Stop;
use proto::ids::RingVersion;
use proto::status::{RingAction, Role};

use super::connect::{Asked, connect};
use super::nodes::{described, named};
use super::ring::{passes, rounds, scrubs, status, takes_part};
use crate::failure::{During, Failure};
use crate::flags::{Ring, Waiting};
use crate::output;
use crate::output::progress::Progress;
use crate::quantity::shown_bytes;

/// How often it is looked how far a change is: nodes report once a second.
const LOOK: std::time::Duration = std::time::Duration::from_millis(500);

/// `remuda ring`.
pub(crate) fn run(flags: &Ring) -> Result<(), Failure> {
    let order = |action| RingOrder::new(action, None);
    match flags {
        Ring::Status(listing) => status(listing),
        Ring::Add(it) => {
            let (weight, zone) = (it.weight, it.zone.clone());
            let add = RingOrder { weight, zone, is_forced: it.force, ..order(RingAction::Add) };
            change_node(add, &it.node, &it.waiting)
        }
        Ring::Drain(it) => {
            let drain = RingOrder { is_forced: it.force, ..order(RingAction::Drain) };
            change_node(drain, &it.node, &it.waiting)
        }
        Ring::Remove(it) => {
            let remove = RingOrder { is_forced: it.force, ..order(RingAction::Remove) };
            change_node(remove, &it.node, &it.waiting)
        }
        Ring::Rebalance(it) => change_all(order(RingAction::Rebalance), &it.waiting),
        Ring::Scrub(it) => change_all(order(RingAction::Scrub), &it.waiting),
    }
}

/// Orders something for one storage node.
fn change_node(order: RingOrder, node: &str, waiting: &Waiting) -> Result<(), Failure> {
    let client = connect(&waiting.place)?;
    let node = of_storage(&client.nodes().asked()?, node)?;
    let order = RingOrder { node: Some(node.node), ..order };
    change(&client, order, &described(&node), waiting)
}

/// Orders something for all of them.
fn change_all(order: RingOrder, waiting: &Waiting) -> Result<(), Failure> {
    change(&connect(&waiting.place)?, order, "", waiting)
}

/// The storage node that somebody means.
fn of_storage(roster: &[NodeSummary], text: &str) -> Result<NodeSummary, Failure> {
    let node = named(roster, text)?;
    if node.role != Role::Storage {
        let what = format!("{} is no storage node", described(node));
        return Err(Failure::usage(what).hint("see which there are: remuda ring status"));
    }
    Ok(node.clone())
}

/// Changes the ring, says what follows from it, and waits for that where it is wanted.
fn change(client: &Client, order: RingOrder, node: &str, waiting: &Waiting) -> Result<(), Failure> {
    let before = client.ring_status().asked()?;
    let action = order.action;
    let version = client.change_ring(order).asked()?;
    output::print(&format!("{}\n", said(action, node, before.version, version)))?;
    if !waiting.wait {
        return Ok(());
    }
    let after = wait_for(client, action, version, moved(&before))?;
    let moved = shown_bytes(moved(&after).saturating_sub(moved(&before)));
    output::print(&match action {
        RingAction::Add | RingAction::Drain | RingAction::Remove => {
            format!(
                "all blocks and registers lie where ring version {version} says; {moved} were moved\n"
            )
        }
        RingAction::Rebalance => format!("all blocks were looked at; {moved} were moved\n"),
        RingAction::Scrub => {
            let of = |it: &RingStanding| (damaged(it), mended(it));
            let ((damaged, mended), (damaged_before, mended_before)) = (of(&after), of(&before));
            format!(
                "the digests of all blocks were checked: {} were damaged, {} were mended\n",
                damaged.saturating_sub(damaged_before),
                mended.saturating_sub(mended_before)
            )
        }
    })
}

/// What was asked for, in a sentence.
fn said(action: RingAction, node: &str, before: RingVersion, version: RingVersion) -> String {
    match action {
        RingAction::Rebalance => "every storage node looks whether its blocks lie right".to_owned(),
        RingAction::Scrub => "every storage node checks the digests of its blocks".to_owned(),
        _ if version <= before => {
            format!("{node}: nothing is to be changed, ring version {version}")
        }
        RingAction::Add => format!("{node} is a member by ring version {version}"),
        RingAction::Drain => format!("{node} hands over what it has by ring version {version}"),
        RingAction::Remove => format!("{node} is no member any more by ring version {version}"),
    }
}

fn moved(standing: &RingStanding) -> u64 {
    standing.nodes.iter().map(|it| it.progress.moved_bytes).sum()
}

fn damaged(standing: &RingStanding) -> u64 {
    standing.nodes.iter().map(|it| it.progress.damaged_count).sum()
}

fn mended(standing: &RingStanding) -> u64 {
    standing.nodes.iter().map(|it| it.progress.mended_count).sum()
}

/// Waits until what was asked for is done; how the ring stands then.
fn wait_for(
    client: &Client,
    action: RingAction,
    version: RingVersion,
    moved_before: u64,
) -> Result<RingStanding, Failure> {
    let stop = Stop::on_signals().during(|| "watch for signals".into())?;
    let waiter = std::thread::current();
    stop.on_request(move || waiter.unpark());
    let mut bar = Progress::blocks();
    let asked = client.ring_status().asked()?;
    let round = match action {
        RingAction::Scrub => asked.scrub_round,
        _ => asked.pass_round,
    };
    let mut standing = asked;
    while !is_done(&standing, action, version, round) {
        let (done, whole) = match action {
            RingAction::Scrub => scrubs(&standing),
            RingAction::Rebalance => rounds(&standing),
            RingAction::Add | RingAction::Drain | RingAction::Remove => passes(&standing),
        };
        let moved = moved(&standing).saturating_sub(moved_before);
        bar.show_blocks(done, whole, &shown_bytes(moved));
        if stop.is_requested() {
            drop(bar);
            output::note("it goes on without you; see how far it is: remuda ring status");
            return Err(Failure::interrupted());
        }
        std::thread::park_timeout(LOOK);
        standing = client.ring_status().asked()?;
    }
    Ok(standing)
}

/// True where nothing is left to be done: neither a block nor a register is needed from where they
/// were. Members that are gone are waited for until the masters take them off the ring.
fn is_done(standing: &RingStanding, action: RingAction, version: RingVersion, round: u64) -> bool {
    let mut parts = standing.nodes.iter().filter(|it| takes_part(it));
    match action {
        RingAction::Add | RingAction::Drain | RingAction::Remove => {
            standing.oldest >= version && standing.register_parts == 0
        }
        RingAction::Rebalance => parts.all(|it| it.progress.pass_round >= round),
        RingAction::Scrub => parts.all(|it| it.progress.scrub_round >= round),
    }
}

#[cfg(test)]
mod tests {
    use proto::ids::{Incarnation, LogIndex, NodeId};
    use proto::messages::node::StorageProgress;
    use proto::status::RingState;

    use super::super::ring::tests::{node, standing};
    use super::*;

    #[test]
    fn a_change_is_done_when_no_older_version_holds_anything() {
        let mut ring = standing(vec![node(1, RingState::Draining, StorageProgress::default())]);
        ring.oldest = RingVersion(6);
        let is_done = |ring: &RingStanding| is_done(ring, RingAction::Drain, RingVersion(7), 0);
        assert!(!is_done(&ring));
        ring.oldest = RingVersion(7);
        ring.register_parts = 1;
        assert!(!is_done(&ring), "a register is still where it was");
        ring.register_parts = 0;
        assert!(is_done(&ring));
    }

    #[test]
    fn a_round_is_done_when_every_member_has_done_it() {
        let done = StorageProgress { pass_round: 3, scrub_round: 2, ..Default::default() };
        let behind = StorageProgress { pass_round: 2, scrub_round: 2, ..Default::default() };
        let mut nodes = vec![
            node(1, RingState::Member, done),
            node(2, RingState::Draining, behind),
            // One that is no member any more is not waited for.
            node(3, RingState::Removed, StorageProgress::default()),
        ];
        let is_done = |nodes: &Vec<_>, action, round| {
            is_done(&standing(nodes.clone()), action, RingVersion(7), round)
        };
        assert!(is_done(&nodes, RingAction::Scrub, 2));
        assert!(!is_done(&nodes, RingAction::Rebalance, 3));
        nodes[1].progress = done;
        assert!(is_done(&nodes, RingAction::Rebalance, 3));
    }

    #[test]
    fn only_storage_nodes_are_on_the_ring() {
        let summary = |number: u128, role| NodeSummary {
            node: NodeId(number << 96),
            role,
            incarnation: Incarnation(1),
            leads: false,
            group: 0,
            slot_count: 0,
            index: LogIndex(1),
            address: format!("tcp://a:{number}"),
            telemetry_address: String::new(),
            zone: String::new(),
        };
        let roster = [summary(0x12ab_0000, Role::Storage), summary(0x34cd_0000, Role::Worker)];
        assert_eq!(of_storage(&roster, "12ab").ok().as_ref(), roster.first());
        let refused = of_storage(&roster, "34").unwrap_err();
        assert!(format!("{refused:?}").contains("is no storage node"), "{refused:?}");
        assert!(of_storage(&roster, "56").is_err());
    }

    #[test]
    fn what_is_so_already_is_said_to_be_so() {
        let text = said(RingAction::Drain, "storage n at a", RingVersion(7), RingVersion(7));
        assert_eq!(text, "storage n at a: nothing is to be changed, ring version 7");
        let text = said(RingAction::Drain, "storage n at a", RingVersion(7), RingVersion(8));
        assert_eq!(text, "storage n at a hands over what it has by ring version 8");
    }
}
