//! This node's place in the cluster: registers with the masters, reports to the leader, keeps the
//! ring and the lease.
//!
//! One link goes to the leader where it is known. The node registers once for its incarnation,
//! then reports once a second, which keeps the lease without which it takes no block, and asks for
//! the ring where a report's answer or a request shows that there is a newer one. Deliberately not
//! here: moving blocks when the ring changes (`reconcile/`).

use std::collections::{BTreeMap, VecDeque};

use fastrand::Rng;
use node::logic::network::{Link, NetworkEffect};
use node::logic::refusal::Refusal;
use node::logic::rotation::Rotation;
use proto::ids::{BlockId, ClusterId, Incarnation, NodeId, RequestId, RingVersion, StoreId};
use proto::messages::node::{
    NodeRegister, NodeRegistered, RingQuery, RingReply, StorageProgress, StorageReport, StorageTold,
};
use proto::record::{self, Message, Record};
use proto::status::{ErrorCode, Role};
use proto::time::{Duration, Instant};
use proto::wire::bytes_of;

use super::Effect;
use super::rings::Rings;

/// The link to a master.
const LINK: Link = Link(1);

/// How long a master may take: longer than an election.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(2_000);

/// How often the leader is told how far this node is.
const REPORT_PERIOD: Duration = Duration::from_millis(1_000);

/// How soon after a report the next may follow, whatever there is to say.
const REPORT_PAUSE: Duration = Duration::from_millis(100);

/// No lease is longer, whatever a master says.
const LONGEST_LEASE_MS: u64 = 60_000;

/// How often the ring is asked for where nothing changes: it is long where there are many nodes.
const QUERY_PERIOD: Duration = Duration::from_millis(10_000);

/// How often it is asked for while versions are being left or a node does not answer, which may
/// have got another address.
const MOVING_PERIOD: Duration = Duration::from_millis(1_000);

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

/// What a master is asked; each at most once at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    Register,
    Report,
    Ring,
}

/// A question on its way.
#[derive(Clone, Copy, Debug)]
struct Asked {
    question: Question,
    sent: Instant,
    /// Until when a master may answer.
    until: Instant,
}

/// Rounds of work that users asked for, as the leader told them last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rounds {
    /// Passes.
    pub(super) pass: u64,
    /// Checks of all digests.
    pub(super) scrub: u64,
}

#[derive(Debug)]
pub(super) struct Membership {
    registration: Registration,
    rotation: Rotation,
    is_registered: bool,
    rings: Option<Rings>,
    rounds: Rounds,
    /// Until when this node may take blocks on.
    lease_until: Instant,
    next_request: u64,
    asked: BTreeMap<RequestId, Asked>,
    register_due: Instant,
    report_due: Instant,
    last_report: Instant,
    query_due: Instant,
    last_query: Instant,
}

impl Membership {
    pub(super) fn new(registration: Registration, rng: Rng) -> Membership {
        let rotation = Rotation::new(LINK, registration.masters.clone(), rng);
        Membership {
            registration,
            rotation,
            is_registered: false,
            rings: None,
            rounds: Rounds::default(),
            lease_until: Instant(0),
            next_request: 0,
            asked: BTreeMap::new(),
            register_due: Instant(0),
            report_due: Instant(0),
            last_report: Instant(0),
            query_due: Instant(0),
            last_query: Instant(0),
        }
    }

    /// This node.
    pub(super) fn node(&self) -> NodeId {
        self.registration.node
    }

    /// The version of the ring that is known; 0 for none.
    pub(super) fn version(&self) -> RingVersion {
        self.rings.as_ref().map_or(RingVersion(0), |rings| rings.newest().version())
    }

    /// All versions that are known.
    pub(super) fn rings(&self) -> Option<&Rings> {
        self.rings.as_ref()
    }

    /// What the leader told last.
    pub(super) fn rounds(&self) -> Rounds {
        self.rounds
    }

    /// Whether the leader heard this node lately enough that it may take blocks on.
    pub(super) fn has_lease(&self, now: Instant) -> bool {
        now < self.lease_until
    }

    /// Other nodes that may hold a block, and whether that is all of them.
    pub(super) fn others_with(&self, block: BlockId) -> (VecDeque<(NodeId, String)>, bool) {
        match &self.rings {
            Some(rings) => rings.holders(block, self.registration.node),
            // Who knows no ring does not know whom to ask, and so not that nobody has it.
            None => (VecDeque::new(), false),
        }
    }

    /// A request went by this version of the ring.
    pub(super) fn saw(&mut self, now: Instant, version: RingVersion) {
        if version > self.version() && self.is_registered {
            self.ask_ring(now);
        }
    }

    /// Something that only the masters know may have changed.
    pub(super) fn ask_ring(&mut self, now: Instant) {
        self.query_due = self.query_due.min(now.max(self.last_query + QUERY_PAUSE));
    }

    /// A node of the ring does not answer: perhaps it has another address by now.
    pub(super) fn doubts(&mut self, now: Instant) {
        self.query_due = self.query_due.min(now.max(self.last_query + MOVING_PERIOD));
    }

    /// There is something that the leader should hear before the next second.
    pub(super) fn report_soon(&mut self, now: Instant) {
        self.report_due = self.report_due.min(now.max(self.last_report + REPORT_PAUSE));
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
        self.asked.clear();
        self.register_due = now;
        self.report_due = now;
        self.query_due = now;
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
        self.asked.clear();
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
        let Some(asked) = self.asked.remove(&record.request_id()) else { return };
        match (asked.question, record.message_type()) {
            (Question::Register, NodeRegistered::TYPE) => {
                self.is_registered = true;
                self.report_due = now;
                self.query_due = now;
            }
            (Question::Report, StorageTold::TYPE) => self.told(now, asked.sent, record),
            (Question::Ring, RingReply::TYPE) => self.learn(now, record),
            _ => {
                tracing::warn!(question = ?asked.question, "a master answers something else");
            }
        }
    }

    fn told(&mut self, now: Instant, sent: Instant, record: &Record<'_>) {
        let Ok(told) = record.read::<StorageTold>() else { return };
        // A tenth early, as clocks may run at different speeds.
        let lease_ms = told.lease_ms.min(LONGEST_LEASE_MS);
        let lease = Duration::from_millis(lease_ms - lease_ms / 10);
        self.lease_until = self.lease_until.max(sent + lease);
        if told.lease_ms == 0 {
            self.lease_until = now;
        }
        self.rounds.pass = self.rounds.pass.max(told.pass_round);
        self.rounds.scrub = self.rounds.scrub.max(told.scrub_round);
        self.saw(now, RingVersion(told.ring_version));
    }

    fn learn(&mut self, now: Instant, record: &Record<'_>) {
        match Rings::read(record) {
            Some(rings) if rings.newest().version() > self.version() => {
                tracing::info!(version = %rings.newest().version(), "the ring is known");
                self.rings = Some(rings);
            }
            // Older versions may have been left, and nodes may have got other addresses.
            Some(rings) if rings.newest().version() == self.version() => self.rings = Some(rings),
            Some(_) => {}
            None => tracing::warn!("a master's ring makes no sense"),
        }
        let is_moving = self.rings.as_ref().is_none_or(Rings::is_moving);
        self.query_due = now + if is_moving { MOVING_PERIOD } else { QUERY_PERIOD };
    }

    /// A master refused what it was asked.
    pub(super) fn refused(
        &mut self,
        now: Instant,
        link: Link,
        request_id: RequestId,
        refusal: &Refusal,
        effects: &mut Vec<Effect>,
    ) {
        if link != LINK {
            return;
        }
        let Some(asked) = self.asked.remove(&request_id) else { return };
        if !refusal.code.is_retryable() {
            tracing::warn!(code = %refusal.code, text = refusal.text, "a master refuses this node");
        }
        match refusal.code {
            ErrorCode::NotLeader if !refusal.instead.is_empty() => {
                self.asked.clear();
                self.rotate(effects, |it, effects| it.follow(now, &refusal.instead, effects));
            }
            ErrorCode::Busy => {
                let due = now + refusal.retry_after.max(QUERY_PAUSE);
                match asked.question {
                    Question::Register => self.register_due = due,
                    Question::Report => self.report_due = due,
                    Question::Ring => self.query_due = due,
                }
            }
            // The masters have forgotten this node: it is told to them again.
            ErrorCode::OldEpoch if asked.question == Question::Report => {
                self.is_registered = false;
                self.register_due = now + REPORT_PAUSE;
            }
            _ => self.move_on(now, effects),
        }
    }

    /// Asks what is due; the report apart, see [`Membership::report`].
    pub(super) fn tick(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if self.asked.values().any(|asked| asked.until <= now) {
            self.move_on(now, effects);
        }
        self.rotate(effects, |rotation, effects| rotation.tick(now, effects));
        if !self.rotation.is_connected() {
            return;
        }
        if !self.is_registered {
            if self.register_due <= now && !self.is_asked(Question::Register) {
                self.ask(now, Question::Register, self.register(), effects);
            }
        } else if self.query_due <= now && !self.is_asked(Question::Ring) {
            let query = RingQuery { ring_version: self.version().0, ..RingQuery::default() };
            self.last_query = now;
            self.ask(now, Question::Ring, record::encode(&query, &[]), effects);
        }
    }

    /// Whether the leader shall be told now how far this node is.
    pub(super) fn is_report_due(&self, now: Instant) -> bool {
        self.can_report() && self.report_due <= now
    }

    fn can_report(&self) -> bool {
        self.rotation.is_connected() && self.is_registered && !self.is_asked(Question::Report)
    }

    /// Tells the leader how far this node is.
    pub(super) fn report(
        &mut self,
        now: Instant,
        progress: StorageProgress,
        effects: &mut Vec<Effect>,
    ) {
        let report = StorageReport {
            incarnation: self.registration.incarnation.0,
            store_uuid: self.registration.store.to_wire(),
            ..StorageReport::default()
        };
        self.last_report = now;
        self.report_due = now + REPORT_PERIOD;
        let report = record::encode(&report, &[bytes_of(&[progress])]);
        self.ask(now, Question::Report, report, effects);
    }

    /// Sends the leader a request whose owner asks again where it is not answered.
    pub(super) fn tell(&mut self, mut record: Vec<u8>, effects: &mut Vec<Effect>) {
        self.next_request += 1;
        record::set_request_id(&mut record, RequestId(self.next_request));
        self.rotate(effects, |rotation, effects| rotation.send(record, effects));
    }

    fn is_asked(&self, question: Question) -> bool {
        self.asked.values().any(|asked| asked.question == question)
    }

    fn ask(
        &mut self,
        now: Instant,
        question: Question,
        mut record: Vec<u8>,
        effects: &mut Vec<Effect>,
    ) {
        self.next_request += 1;
        let request_id = RequestId(self.next_request);
        record::set_request_id(&mut record, request_id);
        let asked = Asked { question, sent: now, until: now + ANSWER_TIMEOUT };
        self.asked.insert(request_id, asked);
        self.rotate(effects, |rotation, effects| rotation.send(record, effects));
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
        let mut due = vec![self.rotation.next_deadline()];
        due.extend(self.asked.values().map(|asked| Some(asked.until)));
        if self.rotation.is_connected() {
            due.push(self.can_report().then_some(self.report_due));
            if !self.is_registered {
                due.push((!self.is_asked(Question::Register)).then_some(self.register_due));
            } else if !self.is_asked(Question::Ring) {
                due.push(Some(self.query_due));
            }
        }
        due.into_iter().flatten().min()
    }

    /// Addresses of the masters, as far as they are known here.
    pub(super) fn masters(&self) -> &[String] {
        self.rotation.addresses()
    }

    pub(super) fn explain(&self) -> String {
        let masters = match (self.rotation.is_connected(), self.is_registered) {
            (_, true) => "registered with the masters",
            (true, false) => "registering with the masters",
            (false, false) => "looking for a master",
        };
        match &self.rings {
            None => format!("{masters}, refusing puts until it knows the ring"),
            Some(rings) => format!(
                "{masters}, ring version {} of {} nodes",
                rings.newest().version(),
                rings.newest().members().len()
            ),
        }
    }
}
