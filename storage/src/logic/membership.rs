//! This node's place in the cluster: registers with the masters and keeps the ring.
//!
//! One link goes to any master. The node registers once for its incarnation and then asks for the
//! ring every second, and at once where a request shows that there is a newer one. Deliberately
//! not here: moving blocks when the ring changes.

use std::collections::{BTreeMap, VecDeque};

use fastrand::Rng;
use node::logic::network::{Link, NetworkEffect};
use node::logic::refusal::Refusal;
use node::logic::rotation::Rotation;
use proto::ids::{BlockId, ClusterId, Incarnation, NodeId, RequestId, RingVersion, StoreId};
use proto::messages::node::{NodeRegister, NodeRegistered, RingMember, RingQuery, RingReply};
use proto::record::{self, Message, Record};
use proto::ring::{Member, Ring};
use proto::status::{ErrorCode, Role};
use proto::time::{Duration, Instant};
use proto::wire::items_of;

use super::Effect;

/// The link to a master.
const LINK: Link = Link(1);

/// How long a master may take: longer than an election.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(2_000);

/// How often the ring is asked for where nothing shows that there is a newer one.
const QUERY_PERIOD: Duration = Duration::from_millis(1_000);

/// How soon after a query the next may follow, however many requests name a newer ring.
const QUERY_PAUSE: Duration = Duration::from_millis(50);

/// What this node tells the masters about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Who it is.
    pub node: NodeId,
    /// How often its data folder was started.
    pub incarnation: Incarnation,
    /// Its data folder.
    pub store: StoreId,
    /// The cluster that it belongs to; nil where it joins the one of the first master it meets.
    pub cluster: ClusterId,
    /// Its share of the ring relative to the others'.
    pub weight: u32,
    /// Bytes of disk that it may use.
    pub capacity_bytes: u64,
    /// Its failure zone; empty where there is only one.
    pub zone: String,
    /// Where others reach it.
    pub address: String,
    /// Where it publishes telemetry; empty where it does not.
    pub telemetry_address: String,
    /// Masters; one that works is enough.
    pub masters: Vec<String>,
}

/// The ring with what is needed to reach its nodes.
#[derive(Debug)]
struct KnownRing {
    ring: Ring,
    replica_count: usize,
    addresses: BTreeMap<NodeId, String>,
}

#[derive(Debug)]
pub(super) struct Membership {
    registration: Registration,
    rotation: Rotation,
    is_registered: bool,
    ring: Option<KnownRing>,
    next_request: u64,
    /// What a master has been asked and until when it may answer.
    asked: Option<(RequestId, Instant)>,
    /// When the next question is due.
    next_question: Instant,
    last_question: Instant,
}

impl Membership {
    pub(super) fn new(registration: Registration, rng: Rng) -> Membership {
        let rotation = Rotation::new(LINK, registration.masters.clone(), rng);
        Membership {
            registration,
            rotation,
            is_registered: false,
            ring: None,
            next_request: 0,
            asked: None,
            next_question: Instant(0),
            last_question: Instant(0),
        }
    }

    /// The version of the ring that is known; 0 for none.
    pub(super) fn version(&self) -> RingVersion {
        self.ring.as_ref().map_or(RingVersion(0), |known| known.ring.version())
    }

    /// Other nodes that may hold a block: its owners, then those that take a dead owner's place.
    pub(super) fn others_with(&self, block: BlockId) -> VecDeque<(NodeId, String)> {
        let Some(known) = &self.ring else { return VecDeque::new() };
        let placement = known.ring.placement(known.ring.partition_of(block), known.replica_count);
        let nodes = placement.owners.into_iter().chain(placement.candidates);
        let others = nodes.filter(|node| *node != self.registration.node);
        others
            .filter_map(|node| Some((node, known.addresses.get(&node)?.clone())))
            .filter(|(_, address)| !address.is_empty())
            .collect()
    }

    /// A request went by this version of the ring.
    pub(super) fn saw(&mut self, now: Instant, version: RingVersion) {
        if version > self.version() && self.is_registered {
            let soon = now.max(self.last_question + QUERY_PAUSE);
            self.next_question = self.next_question.min(soon);
        }
    }

    pub(super) fn connected(
        &mut self,
        now: Instant,
        link: Link,
        cluster: ClusterId,
        masters: &str,
        effects: &mut Vec<Effect>,
    ) {
        if link != LINK {
            return;
        }
        if self.registration.cluster.is_nil() && !cluster.is_nil() {
            self.registration.cluster = cluster;
            effects.push(Effect::Join { cluster });
        }
        self.rotation.connected(masters);
        self.asked = None;
        self.next_question = now;
    }

    /// The master names the masters again.
    pub(super) fn named(&mut self, link: Link, masters: &str) {
        if link == LINK {
            self.rotation.learn(masters);
        }
    }

    /// The link cannot be used.
    pub(super) fn lost(&mut self, now: Instant, link: Link, effects: &mut Vec<Effect>) {
        if link == LINK {
            self.move_on(now, effects);
        }
    }

    fn move_on(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        self.asked = None;
        self.rotate(effects, |rotation, effects| rotation.fail(now, effects));
    }

    fn rotate(
        &mut self,
        effects: &mut Vec<Effect>,
        turn: impl FnOnce(&mut Rotation, &mut Vec<NetworkEffect>),
    ) {
        let mut network = Vec::new();
        turn(&mut self.rotation, &mut network);
        effects.extend(network.into_iter().map(Effect::Network));
    }

    /// A master answered what it was asked.
    pub(super) fn answered(&mut self, now: Instant, record: &Record<'_>) {
        let Some((request_id, _)) = self.asked else { return };
        if record.request_id() != request_id {
            return;
        }
        self.asked = None;
        if record.message_type() == NodeRegistered::TYPE {
            self.is_registered = true;
            self.next_question = now;
            return;
        }
        self.next_question = now + QUERY_PERIOD;
        match read_ring(record) {
            Some(known) if known.ring.version() > self.version() => {
                tracing::info!(version = %known.ring.version(), "the ring is known");
                self.ring = Some(known);
            }
            Some(_) => {}
            None => tracing::warn!("a master's ring makes no sense"),
        }
    }

    /// A master refused what it was asked.
    pub(super) fn refused(
        &mut self,
        now: Instant,
        request_id: RequestId,
        refusal: &Refusal,
        effects: &mut Vec<Effect>,
    ) {
        if self.asked.is_none_or(|(asked, _)| asked != request_id) {
            return;
        }
        self.asked = None;
        if !refusal.code.is_retryable() {
            tracing::warn!(code = %refusal.code, text = refusal.text, "a master refuses this node");
        }
        match refusal.code {
            ErrorCode::NotLeader if !refusal.instead.is_empty() => {
                self.rotate(effects, |it, effects| it.follow(now, &refusal.instead, effects));
            }
            ErrorCode::Busy => {
                self.next_question = now + refusal.retry_after.max(QUERY_PAUSE);
            }
            _ => self.move_on(now, effects),
        }
    }

    pub(super) fn tick(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if self.asked.is_some_and(|(_, until)| until <= now) {
            self.move_on(now, effects);
        }
        self.rotate(effects, |rotation, effects| rotation.tick(now, effects));
        if self.rotation.is_connected() && self.asked.is_none() && self.next_question <= now {
            self.ask(now, effects);
        }
    }

    fn ask(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        self.next_request += 1;
        let request_id = RequestId(self.next_request);
        let mut question = if self.is_registered {
            let query = RingQuery { ring_version: self.version().0, ..RingQuery::default() };
            record::encode(&query, &[])
        } else {
            self.register()
        };
        record::set_request_id(&mut question, request_id);
        self.asked = Some((request_id, now + ANSWER_TIMEOUT));
        self.last_question = now;
        self.rotate(effects, |rotation, effects| rotation.send(question, effects));
    }

    fn register(&self) -> Vec<u8> {
        let own = &self.registration;
        let register = NodeRegister {
            role: Role::Storage.to_wire(),
            incarnation: own.incarnation.0,
            capacity_bytes: own.capacity_bytes,
            store_uuid: own.store.to_wire(),
            weight: own.weight,
            ..NodeRegister::default()
        };
        let texts = [&own.address, &own.telemetry_address, &own.zone];
        record::encode(&register, &texts.map(|text| text.as_bytes()))
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        if self.rotation.addresses().is_empty() {
            return None;
        }
        let question = match self.asked {
            Some((_, until)) => Some(until),
            None => self.rotation.is_connected().then_some(self.next_question),
        };
        [question, self.rotation.next_deadline()].into_iter().flatten().min()
    }

    pub(super) fn explain(&self) -> String {
        let masters = match (self.rotation.is_connected(), self.is_registered) {
            (_, true) => "registered with the masters",
            (true, false) => "registering with the masters",
            (false, false) => "looking for a master",
        };
        match &self.ring {
            None => format!("{masters}, refusing puts until it knows the ring"),
            Some(known) => format!(
                "{masters}, ring version {} of {} nodes",
                known.ring.version(),
                known.ring.members().len()
            ),
        }
    }
}

fn read_ring(record: &Record<'_>) -> Option<KnownRing> {
    let (reply, [members, addresses]) = record.open::<RingReply, 2>().ok()?;
    let items = items_of::<RingMember>(members)?;
    let mut rest = std::str::from_utf8(addresses).ok()?;
    let mut by_node = BTreeMap::new();
    for item in items {
        let length = usize::try_from(item.address_length).ok()?;
        let (address, behind) = rest.split_at_checked(length)?;
        by_node.insert(NodeId::from(item.node_uuid), address.to_owned());
        rest = behind;
    }
    let members = items.iter().map(Member::from).collect();
    let ring = Ring::new(RingVersion(reply.ring_version), reply.partition_count, members).ok()?;
    // More replicas than nodes changes nothing; this only bounds what a wrong number costs.
    let replica_count = (reply.replica_count as usize).clamp(1, items.len().max(1));
    Some(KnownRing { ring, replica_count, addresses: by_node })
}
