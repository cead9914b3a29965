//! A second address beside one that says nothing while a session is opened.
//!
//! The first master of a list may be dead, and a dead one is only known by its silence. So after a
//! moment another one is asked beside it, over a second link, and whichever accepts first has the
//! session. Only while a session is opened: then nothing but a probe is in flight, which may be
//! asked of several. What a master's death costs later is [`super::ATTEMPT`]'s matter.

use node::logic::calls::{CallPolicy, FailedCall};
use node::logic::network::Link;
use proto::ids::RequestId;
use proto::messages::session::Ping;
use proto::record::encode;
use proto::time::{Duration, Instant};

use super::{FOR_EVER, PROBE_ATTEMPT, Session, lines};

/// How long the first address may be silent before another one is asked beside it: longer than a
/// connection takes between continents, much shorter than one notices.
pub(super) const SCOUT_AFTER: Duration = Duration::from_millis(150);

/// What stands beside the line that a session is opened on.
#[derive(Debug)]
pub(super) struct Scouting {
    /// The link that the session does not use.
    pub(super) link: Link,
    /// When another address is asked; `None` where none is wanted, or one is asked already.
    pub(super) due: Option<Instant>,
    /// The probe of the other address, while it is asked.
    pub(super) probe: Option<RequestId>,
    /// Addresses in a row whose nodes live and lead to no masters.
    passed_over: usize,
    /// All of them were passed over: the next one is asked after a while.
    pub(super) is_resting: bool,
}

impl Scouting {
    pub(super) fn new(link: Link) -> Scouting {
        Scouting { link, due: None, probe: None, passed_over: 0, is_resting: false }
    }
}

impl Session {
    /// A probe went out that is to open the session.
    pub(super) fn scout_later(&mut self, now: Instant) {
        if self.opened.is_none() && self.scouting.probe.is_none() {
            self.scouting.due = Some(now + SCOUT_AFTER);
        }
    }

    /// Asks another address where the first was silent for long enough. Each line keeps to
    /// addresses of its own, as no node may be connected twice.
    pub(super) fn scout(&mut self, now: Instant) {
        if self.scouting.due.is_none_or(|due| now < due) {
            return;
        }
        self.scouting.due = None;
        if self.opened.is_some() || self.probe.is_none() {
            return;
        }
        let mut all = lines(&self.masters, &self.addresses);
        let Some(first) = self.calls.address(self.link) else {
            return;
        };
        let at = all.iter().position(|it| *it == first).map_or(0, |at| at + 1);
        all.rotate_left(at);
        all.retain(|it| *it != first);
        if all.is_empty() {
            return;
        }
        self.calls.set_line(self.link, vec![first]);
        self.calls.set_line(self.scouting.link, all);
        let number = self.next_number();
        let policy = CallPolicy { timeout: PROBE_ATTEMPT, attempts: u32::MAX, patience: FOR_EVER };
        let record = encode(&Ping::default(), &[]);
        let link = self.scouting.link;
        let called = self.calls.call(now, number, link, record, policy, &mut self.effects);
        self.scouting.probe = Some(number);
        if called.is_err() {
            self.end_scout(&mut Vec::new());
        }
    }

    /// The node that was asked lives, but named no masters: the next address is asked, at once unless
    /// that was the last of them.
    pub(super) fn pass_over(&mut self) {
        self.scouting.passed_over += 1;
        if self.is_scouting() {
            self.follow_scout(&mut Vec::new());
            return;
        }
        let mut all = lines(&self.masters, &self.addresses);
        if self.scouting.passed_over >= all.len() {
            self.scouting.passed_over = 0;
            self.scouting.is_resting = true;
        }
        let address = self.calls.address(self.link);
        let at = all.iter().position(|it| Some(it) == address.as_ref()).map_or(0, |at| at + 1);
        all.rotate_left(at);
        // Closed also where it is the only one: its next `hello` may name some. Nothing but the
        // probe was in flight.
        self.calls.remove_line(self.link, &mut self.effects, &mut Vec::new());
        self.calls.set_line(self.link, all);
    }

    /// The other address accepted first: the session goes on there.
    pub(super) fn follow_scout(&mut self, failed: &mut Vec<FailedCall>) {
        std::mem::swap(&mut self.link, &mut self.scouting.link);
        self.probe = self.scouting.probe;
        self.end_scout(failed);
    }

    /// Nobody is asked beside the session's own line any more.
    pub(super) fn end_scout(&mut self, failed: &mut Vec<FailedCall>) {
        self.scouting.due = None;
        if self.scouting.probe.take().is_none() {
            return;
        }
        self.calls.remove_line(self.scouting.link, &mut self.effects, failed);
        self.calls.set_line(self.link, lines(&self.masters, &self.addresses));
    }

    pub(super) fn is_scouting(&self) -> bool {
        self.scouting.probe.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use node::logic::network::{NetworkEffect, NetworkEvent, Peer, Sender};
    use proto::ids::{ClusterId, Incarnation, LogIndex, NodeId};
    use proto::messages::node::NodeList;
    use proto::messages::session::Ping;
    use proto::record::{Message, Records};
    use proto::status::{ErrorCode, Role};

    use super::*;
    use crate::logic::jobs::Request;

    const LINKS: [Link; 2] = [Link(3), Link(4)];
    const PATIENCE: Duration = Duration::from_secs(30);
    const START: Instant = Instant(1_000_000);

    /// A session that has something to ask, and what it did.
    struct Scene {
        session: Session,
        now: Instant,
        open: BTreeMap<Link, String>,
        sent: Vec<(Link, u8)>,
    }

    impl Scene {
        fn new(addresses: &[&str]) -> Scene {
            let addresses = addresses.iter().map(|&it| it.to_owned()).collect();
            let session = Session::new(LINKS, addresses, fastrand::Rng::with_seed(1));
            let (open, sent) = (BTreeMap::new(), Vec::new());
            let mut scene = Scene { session, now: START, open, sent };
            let mut effects = Vec::new();
            scene.session.call(START, Request::Nodes, PATIENCE, &mut effects).unwrap();
            scene.perform(effects);
            scene
        }

        fn perform(&mut self, effects: Vec<NetworkEffect>) {
            for effect in effects {
                match effect {
                    NetworkEffect::Open { link, address } => {
                        assert!(!self.open.values().any(|it| *it == address), "twice to {address}");
                        self.open.insert(link, address);
                    }
                    NetworkEffect::Close { link } => {
                        self.open.remove(&link);
                    }
                    NetworkEffect::Send { to: Peer::Link(link), record } => {
                        let record = Records::of(&record).next().unwrap().unwrap();
                        self.sent.push((link, record.message_type()));
                    }
                    NetworkEffect::Send { .. } => panic!("nobody connected to it"),
                }
            }
            self.session.check_invariants();
        }

        /// Lets time pass until the next thing that is due.
        fn step(&mut self) {
            self.now = self.now.max(self.session.next_deadline().expect("something to do"));
            assert!(self.now < START + PATIENCE, "it never happens");
            let mut effects = Vec::new();
            self.session.tick(self.now, &mut effects);
            self.perform(effects);
        }

        /// Lets time pass until so many links are open.
        fn wait_for(&mut self, links: usize) {
            while self.open.len() != links {
                self.step();
            }
        }

        fn hear(&mut self, event: &NetworkEvent<'_>) {
            let mut effects = Vec::new();
            assert!(self.session.handle(self.now, event, &mut effects));
            self.perform(effects);
        }

        fn connected(&mut self, link: Link, role: Role, masters: &str) {
            let (peer, incarnation) = (Peer::Link(link), Incarnation(1));
            self.hear(&NetworkEvent::Connected {
                link,
                sender: Sender { peer, node: NodeId(9), role, incarnation },
                cluster: ClusterId(5),
                applied_index: LogIndex(7),
                window: 64,
                masters: masters.to_owned(),
                again: false,
            });
        }

        /// The links to which something else than a probe was sent.
        fn asked(&self) -> Vec<Link> {
            let asked = self.sent.iter().filter(|(_, what)| *what == NodeList::TYPE);
            asked.map(|(link, _)| *link).collect()
        }
    }

    #[test]
    fn a_dead_first_master_costs_a_moment() {
        let mut scene = Scene::new(&["dead", "alive", "other"]);
        scene.wait_for(2);
        assert_eq!(scene.now.since(START), SCOUT_AFTER);
        assert_eq!(scene.open[&LINKS[1]], "alive");
        assert_eq!(scene.sent, [(LINKS[0], Ping::TYPE), (LINKS[1], Ping::TYPE)]);
        scene.connected(LINKS[1], Role::Master, "alive,other,dead");
        assert_eq!(scene.open, BTreeMap::from([(LINKS[1], "alive".to_owned())]));
        assert_eq!(scene.asked(), [LINKS[1]]);
        assert_eq!(scene.session.masters(), ["alive", "other", "dead"]);
    }

    #[test]
    fn a_slow_first_master_may_still_be_the_first_to_accept() {
        let mut scene = Scene::new(&["slow", "dead"]);
        scene.wait_for(2);
        scene.connected(LINKS[0], Role::Master, "slow,dead");
        assert_eq!(scene.open, BTreeMap::from([(LINKS[0], "slow".to_owned())]));
        assert_eq!(scene.asked(), [LINKS[0]]);
    }

    #[test]
    fn one_address_is_never_asked_twice_at_a_time() {
        let mut scene = Scene::new(&["dead", "dead too", "alive"]);
        scene.wait_for(2);
        // Opening one twice, or two lines at one address, is noticed by the scene.
        while scene.open.get(&LINKS[1]).is_none_or(|address| address != "alive") {
            scene.step();
        }
        scene.connected(LINKS[1], Role::Master, "");
        assert_eq!(scene.asked(), [LINKS[1]]);
    }

    #[test]
    fn what_the_other_address_says_counts_where_the_first_refuses() {
        let mut scene = Scene::new(&["stranger", "alive"]);
        scene.wait_for(2);
        let (code, text) = (ErrorCode::OtherCluster, "another cluster".to_owned());
        scene.hear(&NetworkEvent::Refused { link: LINKS[0], code, text });
        assert!(scene.session.next_ended().is_none());
        scene.connected(LINKS[1], Role::Master, "alive");
        assert_eq!(scene.asked(), [LINKS[1]]);
    }

    #[test]
    fn the_masters_that_another_tier_names_may_be_dead_as_well() {
        let mut scene = Scene::new(&["worker"]);
        scene.connected(LINKS[0], Role::Worker, "dead,alive");
        assert_eq!(scene.open[&LINKS[0]], "dead");
        let began = scene.now;
        scene.wait_for(2);
        assert_eq!((scene.now.since(began), &*scene.open[&LINKS[1]]), (SCOUT_AFTER, "alive"));
    }

    #[test]
    fn nobody_else_is_asked_where_there_is_no_other_or_no_need() {
        let mut scene = Scene::new(&["only"]);
        for _ in 0..5 {
            scene.step();
            assert!(!scene.open.contains_key(&LINKS[1]));
        }
        let mut scene = Scene::new(&["quick", "other"]);
        scene.connected(LINKS[0], Role::Master, "quick,other");
        assert_eq!((scene.open.len(), scene.asked()), (1, vec![LINKS[0]]));
        assert_eq!(scene.session.scouting.due, None);
    }
}
