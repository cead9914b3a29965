//! `remuda health`: one line for each tier, from what every node says of itself.
//!
//! Works as long as one master answers, with a leader or without. What a tier's answers mean is
//! decided here and nowhere else: *ok* is as it should be, *degraded* works with less than there
//! should be, *down* does not do its work.

use std::collections::BTreeMap;

use client::logic::rings::RingStanding;
use client::{Client, NodeState, survey};
use proto::status::{RingState, Role};
use serde::Serialize;
use serde_json::Value;

use super::connect::{Asked, find};
use super::ring;
use crate::failure::Failure;
use crate::flags::Listing;
use crate::output::human::Table;
use crate::output::{self, json};
use crate::quantity::shown_bytes;

/// A storage node with less room than this stores nothing for long: less than a second of what a
/// cluster writes. Eyeballed.
const ROOM: u64 = 1 << 30;

/// Silent nodes that are named.
const NAMED: usize = 5;

/// How a tier is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Ok,
    Degraded,
    Down,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            State::Ok => "ok",
            State::Degraded => "degraded",
            State::Down => "down",
        }
    }
}

/// A tier as it is shown.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Tier {
    tier: &'static str,
    state: State,
    /// Nodes that answer.
    answering: usize,
    /// Nodes that there are.
    nodes: usize,
    /// What else there is to know, for people.
    text: String,
    /// Addresses of nodes that do not answer.
    silent: Vec<String>,
}

/// All tiers.
#[derive(Debug, Serialize)]
struct Health {
    /// The worst of the tiers'.
    state: State,
    tiers: Vec<Tier>,
}

/// `remuda health`.
pub(crate) fn run(flags: &Listing) -> Result<(), Failure> {
    let found = find(&flags.place)?;
    let nodes = survey(&found.addresses).asked()?;
    let client = Client::connect(found.addresses).asked()?;
    let health = health(&nodes, ring::beside(&client).as_ref());
    if flags.json {
        json::print(&health)?;
    } else {
        output::print(&table(&health))?;
        for tier in &health.tiers {
            for address in tier.silent.iter().take(NAMED) {
                output::note(&format!("{} {address} does not answer", tier.tier));
            }
            if let Some(more) = tier.silent.len().checked_sub(NAMED).filter(|more| *more > 0) {
                output::note(&format!("{more} more of tier {} do not answer", tier.tier));
            }
        }
    }
    match health.state {
        State::Ok => Ok(()),
        // The table has said it.
        State::Degraded | State::Down => Err(Failure::said(Some(1))),
    }
}

fn table(health: &Health) -> String {
    let mut table = Table::new(&["tier", "state", "answer", "detail"]);
    for it in &health.tiers {
        table.row(vec![
            it.tier.to_owned(),
            it.state.name().to_owned(),
            format!("{} of {}", it.answering, it.nodes),
            it.text.clone(),
        ]);
    }
    table.render()
}

fn health(nodes: &[NodeState], standing: Option<&RingStanding>) -> Health {
    let of = |role: Role| -> Vec<&NodeState> {
        let mut of_role: Vec<&NodeState> = nodes.iter().filter(|it| it.node.role == role).collect();
        of_role.sort_by(|one, other| one.node.address.cmp(&other.node.address));
        of_role
    };
    let tiers = vec![
        masters(&of(Role::Master)),
        balancers(&of(Role::Balancer)),
        workers(&of(Role::Worker)),
        storage(&of(Role::Storage), standing),
    ];
    let state = tiers.iter().map(|tier| tier.state).max().unwrap_or(State::Down);
    Health { state, tiers }
}

/// A tier of which nothing is known but who answers.
fn tier(role: Role, nodes: &[&NodeState]) -> Tier {
    let silent = nodes.iter().filter(|it| it.status.is_none());
    let silent: Vec<String> = silent.map(|it| it.node.address.clone()).collect();
    let answering = nodes.len() - silent.len();
    let state = match answering {
        0 => State::Down,
        _ if silent.is_empty() => State::Ok,
        _ => State::Degraded,
    };
    let text = if nodes.is_empty() { "there is none" } else { "" }.to_owned();
    Tier { tier: role.name(), state, answering, nodes: nodes.len(), text, silent }
}

/// What a node says of itself; nothing where it does not answer or has said nothing yet.
fn status(node: &NodeState) -> Value {
    let text = node.status.as_deref().unwrap_or_default();
    serde_json::from_str(text).unwrap_or_default()
}

fn number(status: &Value, name: &str) -> u64 {
    status.get(name).and_then(Value::as_u64).unwrap_or(0)
}

fn is_true(status: &Value, name: &str) -> bool {
    status.get(name).and_then(Value::as_bool).unwrap_or(false)
}

fn masters(nodes: &[&NodeState]) -> Tier {
    let mut masters = tier(Role::Master, nodes);
    let leading = nodes.iter().map(|it| (it, status(it))).filter(|(_, it)| is_true(it, "leads"));
    // One that was cut off may believe for a moment that it leads: it has a lower term.
    let leader = leading.max_by_key(|(_, status)| number(status, "term"));
    let has_majority = masters.answering > masters.nodes / 2;
    match leader {
        Some((leader, status)) if has_majority => {
            let (address, term) = (&leader.node.address, number(&status, "term"));
            masters.text = format!("{address} leads in term {term}");
        }
        _ => {
            masters.state = State::Down;
            let missing = if has_majority { "" } else { ": no majority answers" };
            masters.text = format!("no leader{missing}");
        }
    }
    masters
}

fn balancers(nodes: &[&NodeState]) -> Tier {
    let mut balancers = tier(Role::Balancer, nodes);
    let mut groups: BTreeMap<u64, Vec<&NodeState>> = BTreeMap::new();
    // One without a seat is in no group: where it is silent, that is said already.
    for node in nodes.iter().filter(|it| it.node.group != 0) {
        groups.entry(node.node.group).or_default().push(node);
    }
    let mut texts = Vec::new();
    for (group, members) in groups {
        let primary = members.iter().map(|it| (it, status(it)));
        let primary = primary.filter(|(_, status)| is_true(status, "is_primary"));
        let primary = primary.max_by_key(|(_, status)| number(status, "epoch"));
        let Some((primary, status)) = primary else {
            balancers.state = State::Down;
            texts.push(format!("nobody deals in group {group}"));
            continue;
        };
        let (address, epoch) = (&primary.node.address, number(&status, "epoch"));
        let others = members.iter().filter(|it| it.status.is_some()).count() - 1;
        let auxiliary = match others {
            0 => "no auxiliary",
            _ => "with an auxiliary",
        };
        texts.push(format!("{address} deals in group {group} under epoch {epoch}, {auxiliary}"));
    }
    if texts.is_empty() && !nodes.is_empty() {
        balancers.state = State::Down;
        texts.push("none of them is in a group".to_owned());
    }
    if !texts.is_empty() {
        balancers.text = texts.join("; ");
    }
    balancers
}

fn workers(nodes: &[&NodeState]) -> Tier {
    let mut workers = tier(Role::Worker, nodes);
    let sum = |name: &str| -> u64 { nodes.iter().map(|it| number(&status(it), name)).sum() };
    let (slots, free) = (sum("slots"), sum("free_slots"));
    if workers.answering > 0 {
        workers.text = format!("{} of {slots} slots are busy", slots.saturating_sub(free));
    }
    workers
}

fn storage(nodes: &[&NodeState], standing: Option<&RingStanding>) -> Tier {
    let mut storage = tier(Role::Storage, nodes);
    let states = || nodes.iter().filter_map(|it| Some((it, it.storage?)));
    if let Some(least) = states().map(|(_, it)| it.free_bytes).min() {
        let free: u64 = states().map(|(_, it)| it.free_bytes).sum();
        storage.text = format!("{} free", shown_bytes(free));
        let full = states().filter(|(_, it)| it.free_bytes < ROOM).count();
        if full > 0 {
            storage.state = storage.state.max(State::Degraded);
            let least = shown_bytes(least);
            storage.text += &format!("; {full} nodes are nearly full, one has {least}");
        }
        let damaged: u64 = states().map(|(_, it)| it.counters.damaged_count).sum();
        if damaged > 0 {
            storage.state = storage.state.max(State::Degraded);
            storage.text += &format!("; {damaged} blocks were found damaged");
        }
    }
    let Some(standing) = standing else {
        return storage;
    };
    let mut say = |text: String| {
        let before = if storage.text.is_empty() { "" } else { "; " };
        storage.text += &format!("{before}{text}");
    };
    for state in [RingState::Draining, RingState::Drained, RingState::Spare, RingState::Removed] {
        let count = standing.nodes.iter().filter(|it| it.state == state).count();
        if count > 0 {
            say(format!("{count} {state}"));
        }
    }
    if standing.oldest < standing.version {
        say(format!("blocks move to ring version {}", standing.version));
    }
    let lacking = ring::lacking(standing);
    if lacking > 0 {
        say(format!("{lacking} blocks have fewer replicas than they should"));
        storage.state = storage.state.max(State::Degraded);
    }
    storage
}

#[cfg(test)]
mod tests {
    use client::StorageState;
    use client::logic::answers::NodeSummary;
    use proto::ids::{Incarnation, LogIndex, NodeId};
    use proto::messages::file::StorageCounters;

    use super::*;

    fn node(role: Role, number: u128, status: Option<&str>) -> NodeState {
        let summary = NodeSummary {
            node: NodeId(number),
            role,
            incarnation: Incarnation(1),
            leads: false,
            group: 1,
            slot_count: 0,
            index: LogIndex(1),
            address: format!("tcp://a:{number}"),
            telemetry_address: String::new(),
            zone: String::new(),
        };
        let storage = StorageState {
            total_bytes: 10 << 30,
            free_bytes: 4 << 30,
            counters: StorageCounters::default(),
        };
        let storage = (role == Role::Storage && status.is_some()).then_some(storage);
        NodeState { node: summary, status: status.map(str::to_owned), storage }
    }

    fn whole() -> Vec<NodeState> {
        vec![
            node(Role::Master, 1, Some(r#"{"leads":true,"term":2}"#)),
            node(Role::Master, 2, Some(r#"{"leads":false,"term":2}"#)),
            node(Role::Master, 3, Some(r#"{"leads":false,"term":2}"#)),
            node(Role::Balancer, 4, Some(r#"{"is_primary":true,"epoch":5}"#)),
            node(Role::Balancer, 5, Some(r#"{"is_primary":false,"epoch":5}"#)),
            node(Role::Worker, 6, Some(r#"{"slots":4,"free_slots":1}"#)),
            node(Role::Storage, 7, Some("{}")),
        ]
    }

    fn states(nodes: &[NodeState]) -> Vec<State> {
        health(nodes, None).tiers.iter().map(|tier| tier.state).collect()
    }

    #[test]
    fn a_whole_cluster_is_ok() {
        let health = health(&whole(), None);
        assert_eq!(health.state, State::Ok);
        assert_eq!(
            table(&health),
            "TIER      STATE  ANSWER  DETAIL\n\
             master    ok     3 of 3  tcp://a:1 leads in term 2\n\
             balancer  ok     2 of 2  tcp://a:4 deals in group 1 under epoch 5, with an auxiliary\n\
             worker    ok     1 of 1  3 of 4 slots are busy\n\
             storage   ok     1 of 1  4.0 GiB free\n"
        );
    }

    #[test]
    fn what_is_missing_degrades_its_tier_and_what_does_no_work_is_down() {
        use State::{Degraded, Down, Ok};
        let mut nodes = whole();
        nodes[1].status = None;
        nodes[4].status = None;
        nodes[6].storage.as_mut().unwrap().free_bytes = 1 << 20;
        assert_eq!(states(&nodes), [Degraded, Degraded, Ok, Degraded]);
        // The leader's word alone is not enough.
        nodes[2].status = None;
        nodes[3].status = None;
        nodes[5].status = None;
        (nodes[6].status, nodes[6].storage) = (None, None);
        assert_eq!(states(&nodes), [Down, Down, Down, Down]);
        assert_eq!(health(&nodes, None).tiers[0].silent, ["tcp://a:2", "tcp://a:3"]);
        assert_eq!(states(&[]), [Down; 4]);
    }

    #[test]
    fn a_balancer_without_a_seat_is_no_group() {
        let mut nodes = whole();
        (nodes[4].status, nodes[4].node.group) = (None, 0);
        assert_eq!(states(&nodes)[1], State::Degraded);
        let text = &health(&nodes, None).tiers[1].text;
        assert_eq!(text, "tcp://a:4 deals in group 1 under epoch 5, no auxiliary");
        nodes[3].node.group = 0;
        let health = health(&nodes, None);
        assert_eq!(
            (health.tiers[1].state, &*health.tiers[1].text),
            (State::Down, "none of them is in a group")
        );
    }

    #[test]
    fn of_two_that_say_that_they_lead_the_newer_one_does() {
        let mut nodes = whole();
        nodes[1].status = Some(r#"{"leads":true,"term":3}"#.into());
        assert_eq!(health(&nodes, None).tiers[0].text, "tcp://a:2 leads in term 3");
        nodes[4].status = Some(r#"{"is_primary":true,"epoch":6}"#.into());
        assert!(health(&nodes, None).tiers[1].text.starts_with("tcp://a:5 deals"), "{nodes:?}");
    }

    #[test]
    fn what_the_ring_lacks_degrades_storage_and_what_moves_does_not() {
        use super::super::ring::tests::{node as member, standing};
        use proto::ids::RingVersion;
        use proto::messages::node::StorageProgress;

        let mut ring = standing(vec![
            member(7, RingState::Member, StorageProgress::default()),
            member(8, RingState::Draining, StorageProgress::default()),
            member(9, RingState::Removed, StorageProgress::default()),
        ]);
        ring.oldest = RingVersion(6);
        let tier = health(&whole(), Some(&ring)).tiers.remove(3);
        let wanted = "4.0 GiB free; 1 draining; 1 removed; blocks move to ring version 7";
        assert_eq!((tier.state, &*tier.text), (State::Ok, wanted));
        ring.nodes[0].progress.lacking_count = 5;
        let tier = health(&whole(), Some(&ring)).tiers.remove(3);
        assert_eq!(tier.state, State::Degraded);
        assert!(tier.text.ends_with("; 5 blocks have fewer replicas than they should"));
    }
}
