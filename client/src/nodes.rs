//! Asking every node of a cluster how it is.
//!
//! The masters say which nodes there are and none of them whether it lives: that only the node
//! itself can tell. So it also works while the masters have no leader, with a roster that may be a
//! little old then. What the answers mean for the cluster is whoever's who asks.

use proto::ids::{Incarnation, LogIndex, NodeId};
use proto::messages::file::{StorageCounters, StorageQuery, StorageSpace};
use proto::messages::node::NodeList;
use proto::messages::session::Ping;
use proto::messages::telemetry::{TelemetrySnapshot, TelemetrySnapshotRequest, TelemetryStatus};
use proto::record::{Message, Record, RecordError, Records, encode};
use proto::status::Role;
use proto::wire::items_of;

use crate::blocking::Client;
use crate::direct::{Direct, Heard, Took};
use crate::error::ClientError;
use crate::logic::answers::{Answer, AnswerReader, NodeSummary};
use crate::logic::jobs::Request;
use crate::logic::session::CallFailure;

/// A roster as new as the first entry of a log: any master answers with the one that it has, also
/// without a leader.
const ANY_STATE: u64 = 1;

/// A node of the roster and what it says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeState {
    /// The node.
    pub node: NodeSummary,
    /// What it published last, a JSON object; empty where it published nothing yet. `None` where
    /// the node does not answer.
    pub status: Option<String>,
    /// What a storage node that answers has; `None` of others.
    pub storage: Option<StorageState>,
}

/// What a storage node has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StorageState {
    /// Bytes of the file system that holds its data folder.
    pub total_bytes: u64,
    /// Bytes that are free there.
    pub free_bytes: u64,
    /// What it holds, and what it did since its start.
    pub counters: StorageCounters,
}

/// Asks every node of the cluster how it is, that has nodes, of any tier, at these addresses.
/// Takes a few seconds where nodes do not answer.
///
/// # Errors
/// [`ClientError::Call`] where no master answers; [`ClientError::Network`] and
/// [`ClientError::Start`] where the process gets no socket or no randomness.
pub fn survey(addresses: &[String]) -> Result<Vec<NodeState>, ClientError> {
    let mut direct = Direct::new()?;
    let began = direct.now();
    let mut roster = read_roster(&mut direct, addresses);
    if roster.is_none() {
        // Nodes of other tiers name the masters.
        let named = direct.masters().to_vec();
        let new: Vec<String> = named.into_iter().filter(|it| !addresses.contains(it)).collect();
        roster = read_roster(&mut direct, &new);
    }
    let Some(nodes) = roster else {
        let waited = direct.now().since(began);
        return Err(CallFailure::Unreachable { waited, last: None }.into());
    };
    let statuses = ask_statuses(&mut direct, &nodes);
    let is_storage = |node: &&NodeSummary| node.role == Role::Storage;
    let storage_nodes: Vec<NodeSummary> = nodes.iter().filter(is_storage).cloned().collect();
    let spaces = ask_storage(&mut direct, &storage_nodes);
    let state_of = |node: &NodeSummary| {
        storage_nodes.iter().zip(&spaces).find(|(it, _)| it.node == node.node)?.1.as_ref().copied()
    };
    let states = nodes.into_iter().zip(statuses).map(|(node, status)| NodeState {
        storage: state_of(&node),
        node,
        status,
    });
    Ok(states.collect())
}

fn ask_statuses(direct: &mut Direct, nodes: &[NodeSummary]) -> Vec<Option<String>> {
    let request = encode(&TelemetrySnapshotRequest::default(), &[]);
    let mut statuses: Vec<Option<String>> = vec![None; nodes.len()];
    direct.ask(questions(nodes, &request), &mut |at, heard| {
        if let (Heard::Record(record), Some(status)) = (heard, statuses.get_mut(at))
            && is_of(record, &nodes[at])
        {
            *status = read_status(record).ok();
        }
        Took::<()>::All
    });
    statuses
}

fn ask_storage(direct: &mut Direct, nodes: &[NodeSummary]) -> Vec<Option<StorageState>> {
    let request = encode(&StorageQuery::default(), &[]);
    let mut states: Vec<Option<StorageState>> = vec![None; nodes.len()];
    direct.ask(questions(nodes, &request), &mut |at, heard| {
        if let (Heard::Record(record), Some(state)) = (heard, states.get_mut(at))
            && is_of(record, &nodes[at])
        {
            *state = read_storage(record).ok();
        }
        Took::<()>::All
    });
    states
}

impl Client {
    /// Which of these nodes answer at present.
    ///
    /// # Errors
    /// [`ClientError::Network`] and [`ClientError::Start`] where the process gets no socket or no
    /// randomness.
    pub fn answering(&self, nodes: &[NodeSummary]) -> Result<Vec<bool>, ClientError> {
        let mut answering = vec![false; nodes.len()];
        let request = encode(&Ping::default(), &[]);
        Direct::new()?.ask(questions(nodes, &request), &mut |at, heard| {
            if let (Heard::Record(record), Some(answers)) = (heard, answering.get_mut(at)) {
                *answers = is_of(record, &nodes[at]);
            }
            Took::<()>::All
        });
        Ok(answering)
    }

    /// What these nodes published of themselves last, a JSON object each, which is empty where that
    /// is nothing yet; `None` for one that does not answer.
    ///
    /// # Errors
    /// As [`Client::answering`].
    pub fn statuses(&self, nodes: &[NodeSummary]) -> Result<Vec<Option<String>>, ClientError> {
        Ok(ask_statuses(&mut Direct::new()?, nodes))
    }

    /// Takes a worker, balancer or storage node that left for good out of the roster, in the
    /// incarnation that is gone. Whether it still answers is the caller's to ask before, by
    /// [`Client::answering`]: one that is alive registers again within seconds. Returns the log
    /// index of the change.
    ///
    /// # Errors
    /// [`ClientError`]; among them that it has a seat, was started again, or is not in the roster.
    pub fn forget_node(
        &self,
        node: NodeId,
        incarnation: Incarnation,
    ) -> Result<LogIndex, ClientError> {
        match self.begin(Request::ForgetNode { node, incarnation }).wait()?? {
            Answer::NodeForgotten { index } => Ok(index),
            _ => Err(ClientError::OtherAnswer),
        }
    }

    /// The storage nodes with what they have; `None` for one that does not answer.
    ///
    /// # Errors
    /// [`ClientError`] where the masters do not say which nodes there are.
    pub fn storage(&self) -> Result<Vec<(NodeSummary, Option<StorageState>)>, ClientError> {
        let mut nodes = self.nodes()?;
        nodes.retain(|node| node.role == Role::Storage);
        let states = ask_storage(&mut Direct::new()?, &nodes);
        Ok(nodes.into_iter().zip(states).collect())
    }
}

/// True where the node itself answered, and not one that has its address by now. A master that was
/// replaced has its successor's address: that one speaks for it.
fn is_of(record: &Record<'_>, node: &NodeSummary) -> bool {
    record.node() == node.node || node.role == Role::Master
}

fn questions<'a>(nodes: &'a [NodeSummary], request: &[u8]) -> Vec<(&'a str, Vec<u8>)> {
    nodes.iter().map(|node| (&*node.address, request.to_vec())).collect()
}

/// The newest roster of the masters among the nodes at these addresses.
fn read_roster(direct: &mut Direct, addresses: &[String]) -> Option<Vec<NodeSummary>> {
    let request = encode(&NodeList { seen_index: ANY_STATE, ..NodeList::default() }, &[]);
    let mut readers = vec![AnswerReader::of(&Request::Nodes); addresses.len()];
    let mut newest = None;
    let questions = addresses.iter().map(|address| (&**address, request.clone())).collect();
    direct.ask(questions, &mut |at, heard| {
        let (Heard::Record(record), Some(reader)) = (heard, readers.get_mut(at)) else {
            return Took::<()>::All;
        };
        match reader.take(record) {
            Ok(None) => Took::More,
            Ok(Some((Answer::Nodes(nodes), index))) => {
                let is_newer = newest.as_ref().is_none_or(|(known, _)| index > *known);
                if is_newer {
                    newest = Some((index, nodes));
                }
                Took::All
            }
            // What cannot be read is as good as silence.
            Ok(Some(_)) | Err(_) => Took::All,
        }
    });
    newest.map(|(_, nodes)| nodes)
}

/// The newest status of a snapshot; empty where there is none.
fn read_status(record: &Record<'_>) -> Result<String, RecordError> {
    let (_, [records]) = record.open::<TelemetrySnapshot, 1>()?;
    let mut newest = String::new();
    for inner in Records::of(records) {
        let inner = inner?;
        if inner.message_type() == TelemetryStatus::TYPE {
            let (_, [status]) = inner.open::<TelemetryStatus, 1>()?;
            newest = String::from_utf8_lossy(status).into_owned();
        }
    }
    Ok(newest)
}

fn read_storage(record: &Record<'_>) -> Result<StorageState, RecordError> {
    let (space, [counters]) = record.open::<StorageSpace, 1>()?;
    let counters = items_of::<StorageCounters>(counters).and_then(|items| items.first().copied());
    let part = RecordError::Part { message_type: StorageSpace::TYPE, part: "counters" };
    Ok(StorageState {
        total_bytes: space.total_bytes,
        free_bytes: space.free_bytes,
        counters: counters.ok_or(part)?,
    })
}
