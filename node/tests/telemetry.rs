//! Telemetry over real sockets: what PUB/SUB loses comes back by a snapshot.

#![expect(clippy::unwrap_used, reason = "a test: what fails is to end it")]

use node::clock::Clock;
use node::logic::following::FollowingEffect;
use node::logic::network::{Identity, Link};
use node::logic::updates::{AlertLevel, News, Publications, Update};
use node::network::{Exposure, Network};
use node::pubsub::{Publisher, Subscriber};
use proto::ids::{ClusterId, Incarnation, NodeId};
use proto::status::Role;
use proto::time::{Duration, Instant};

const NODE: NodeId = NodeId(0x1234);
const CLUSTER: ClusterId = ClusterId(0x77);
const LINK: Link = Link(5);

/// How long anything may take before a test gives up; nothing is expected to take a second.
const LIMIT: Duration = Duration::from_secs(60);

fn identity(node: NodeId, role: Role, incarnation: u64) -> Identity {
    Identity {
        node,
        role,
        cluster: if role == Role::Client { ClusterId(0) } else { CLUSTER },
        incarnation: Incarnation(incarnation),
        version: "of the test".into(),
        address: String::new(),
    }
}

/// A node that publishes and answers on its ordinary port.
struct Node {
    context: zmq::Context,
    publisher: Publisher,
    network: Network,
    clock: Clock,
    incarnation: u64,
    published: u64,
    relay: Option<Relay>,
}

/// Stands between publisher and subscribers and loses what it is told to.
struct Relay {
    from: zmq::Socket,
    to: zmq::Socket,
    loses: bool,
    lost: u64,
}

impl Relay {
    fn work(&mut self) {
        while let Ok(publication) = self.from.recv_bytes(zmq::DONTWAIT) {
            if self.loses {
                self.lost += 1;
            } else {
                self.to.send(publication, zmq::DONTWAIT).unwrap();
            }
        }
    }
}

impl Node {
    fn start(incarnation: u64, telemetry: &str, ordinary: &str) -> Option<Node> {
        let context = zmq::Context::new();
        let clock = Clock::start();
        let publications = Publications::new(NODE, Role::Worker, Incarnation(incarnation));
        let publisher =
            Publisher::bind(&context, telemetry, Exposure::Loopback, publications).ok()?;
        let identity = identity(NODE, Role::Worker, incarnation);
        let network = Network::bind(identity, ordinary, Exposure::Loopback, clock).ok()?;
        Some(Node { context, publisher, network, clock, incarnation, published: 0, relay: None })
    }

    fn new(incarnation: u64) -> Node {
        Node::start(incarnation, "tcp://127.0.0.1:0", "tcp://127.0.0.1:*").unwrap()
    }

    /// One that publishes through a relay.
    fn with_relay(incarnation: u64) -> Node {
        let mut node = Node::new(incarnation);
        let (from, to) = (node.context.socket(zmq::SUB), node.context.socket(zmq::PUB));
        let (from, to) = (from.unwrap(), to.unwrap());
        from.connect(node.publisher.address()).unwrap();
        from.set_subscribe(b"").unwrap();
        to.bind("tcp://127.0.0.1:*").unwrap();
        node.relay = Some(Relay { from, to, loses: false, lost: 0 });
        node
    }

    /// Ends this one and starts its next incarnation on the same ports.
    fn restart(self, incarnation: u64) -> Node {
        let (telemetry, ordinary) = self.addresses();
        drop(self);
        let clock = Clock::start();
        loop {
            // The ports are given back by a thread of ZeroMQ's own.
            if let Some(node) = Node::start(incarnation, &telemetry, &ordinary) {
                return node;
            }
            assert!(clock.now().since(Instant(0)) < LIMIT, "{telemetry} is not given back");
            std::thread::yield_now();
        }
    }

    fn addresses(&self) -> (String, String) {
        let ordinary = self.network.bound_address().unwrap();
        let relayed = self.relay.as_ref().map(|it| it.to.get_last_endpoint().unwrap().unwrap());
        let telemetry = relayed.unwrap_or_else(|| self.publisher.address().to_owned());
        (telemetry, ordinary.to_owned())
    }

    fn status(&mut self) {
        self.published += 1;
        self.publisher.status(self.newest().as_bytes());
    }

    fn newest(&self) -> String {
        format!("{{\"start\":{},\"published\":{}}}", self.incarnation, self.published)
    }

    fn work(&mut self) {
        if let Some(relay) = &mut self.relay {
            relay.work();
        }
        let mut answers = Vec::new();
        self.network.poll(Some(self.clock.now()), &mut |event| {
            answers.extend(self.publisher.answer(&event));
        });
        for answer in answers {
            self.network.perform(answer);
        }
        self.network.flush();
    }
}

/// A subscriber that follows one node.
struct Dashboard {
    _context: zmq::Context,
    subscriber: Subscriber,
    network: Network,
    clock: Clock,
    updates: Vec<Update>,
}

impl Dashboard {
    fn of(node: &Node) -> Dashboard {
        let context = zmq::Context::new();
        let clock = Clock::start();
        let subscriber = Subscriber::new(&context).unwrap();
        let network = Network::client(identity(NodeId(9), Role::Client, 0), clock).unwrap();
        let updates = Vec::new();
        let mut dashboard = Dashboard { _context: context, subscriber, network, clock, updates };
        dashboard.follow(node);
        dashboard
    }

    fn follow(&mut self, node: &Node) {
        let (telemetry, ordinary) = node.addresses();
        let mut effects = Vec::new();
        self.subscriber.follow(&telemetry, LINK, &ordinary, &mut effects).unwrap();
        self.perform(effects);
    }

    fn forget(&mut self, node: &Node) {
        let mut effects = Vec::new();
        self.subscriber.forget(&node.addresses().0, LINK, &mut effects).unwrap();
        self.perform(effects);
    }

    fn perform(&mut self, effects: Vec<FollowingEffect>) {
        for effect in effects {
            match effect {
                FollowingEffect::Network(effect) => self.network.perform(effect),
                FollowingEffect::Deliver(update) => self.updates.push(update),
            }
        }
        self.network.flush();
    }

    fn work(&mut self) {
        let mut effects = Vec::new();
        while self.subscriber.receive(self.clock.now(), &mut effects) {}
        let soon = self.clock.now() + Duration::from_millis(2);
        self.network.poll(Some(soon), &mut |event| {
            assert!(self.subscriber.network(self.clock.now(), &event, &mut effects), "{event:?}");
        });
        self.perform(effects);
        self.subscriber.updates().check_invariants();
    }

    /// Lets both work until publications come directly: the first time, a snapshot may have been
    /// what caught up.
    fn settle(&mut self, node: &mut Node) {
        self.catch_up(node);
        self.catch_up(node);
    }

    /// Lets both work, the node publishing now and then, until the newest status is known, the link
    /// has been used and no request is open.
    fn catch_up(&mut self, node: &mut Node) {
        let begin = self.clock.now();
        loop {
            node.status();
            for _ in 0..10 {
                node.work();
                self.work();
                let open = self.subscriber.next_deadline().is_some();
                let used = self.subscriber.updates().counters().asked > 0;
                if used && !open && self.newest() == Some(node.newest()) {
                    return;
                }
            }
            assert!(self.clock.now().since(begin) < LIMIT, "{:?}", self.subscriber);
        }
    }

    fn newest(&self) -> Option<String> {
        self.updates.iter().rev().find_map(|update| match &update.news {
            News::Status(json) => Some(String::from_utf8(json.clone()).unwrap()),
            News::Alert { .. } => None,
        })
    }

    fn alerts(&self) -> Vec<&str> {
        let texts = self.updates.iter().filter_map(|update| match &update.news {
            News::Alert { text, .. } => Some(text.as_str()),
            News::Status(_) => None,
        });
        texts.collect()
    }

    /// Numbers only ever grow, within an incarnation and from one to the next.
    fn check_order(&self) {
        let numbers: Vec<_> = self.updates.iter().map(|u| (u.incarnation, u.sequence)).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
        assert_eq!(self.subscriber.malformed(), 0);
    }
}

#[test]
fn what_was_lost_on_the_way_comes_back() {
    let mut node = Node::with_relay(1);
    let mut dashboard = Dashboard::of(&node);
    dashboard.settle(&mut node);
    let before = dashboard.subscriber.updates().counters();
    node.relay.as_mut().unwrap().loses = true;
    node.publisher.alert(AlertLevel::Act, "missed");
    node.status();
    let begin = node.clock.now();
    while node.relay.as_ref().unwrap().lost < 2 {
        node.work();
        assert!(node.clock.now().since(begin) < LIMIT, "the relay gets nothing");
    }
    node.relay.as_mut().unwrap().loses = false;
    dashboard.catch_up(&mut node);
    assert_eq!(dashboard.alerts(), ["missed"]);
    let after = dashboard.subscriber.updates().counters();
    assert!(after.gaps > before.gaps && after.asked > before.asked, "{before:?} {after:?}");
    dashboard.check_order();
}

#[test]
fn who_is_forgotten_and_followed_again_is_new() {
    let mut node = Node::new(1);
    node.publisher.alert(AlertLevel::Change, "kept");
    let mut dashboard = Dashboard::of(&node);
    dashboard.catch_up(&mut node);
    dashboard.forget(&node);
    dashboard.updates.clear();
    dashboard.follow(&node);
    dashboard.catch_up(&mut node);
    assert_eq!(dashboard.alerts(), ["kept"]);
    dashboard.check_order();
}

#[test]
fn what_a_slow_subscriber_had_no_room_for_comes_back() {
    let mut node = Node::new(1);
    let mut dashboard = Dashboard::of(&node);
    dashboard.settle(&mut node);
    // Far more than the queues of both sides and of the kernel hold, and nobody reads.
    let large = format!("{{\"filler\":\"{}\"}}", "x".repeat(64 << 10));
    for _ in 0..1_000 {
        node.publisher.status(large.as_bytes());
    }
    node.publisher.alert(AlertLevel::Unexpected, "in the flood");
    dashboard.catch_up(&mut node);
    assert_eq!(dashboard.alerts(), ["in the flood"]);
    let counters = dashboard.subscriber.updates().counters();
    assert!(counters.delivered < 1_000, "nothing was lost: {counters:?}");
    assert!(counters.gaps > 0 && counters.asked > 0, "{counters:?}");
    dashboard.check_order();
}

#[test]
fn a_subscriber_that_comes_late_learns_what_is_kept() {
    let mut node = Node::new(3);
    node.publisher.alert(AlertLevel::Change, "long ago");
    node.status();
    let mut dashboard = Dashboard::of(&node);
    dashboard.catch_up(&mut node);
    assert_eq!(dashboard.alerts(), ["long ago"]);
    assert!(dashboard.subscriber.updates().counters().asked > 0);
    dashboard.check_order();
}

#[test]
fn a_publisher_that_comes_back_is_followed_in_its_new_incarnation() {
    let mut node = Node::new(1);
    let mut dashboard = Dashboard::of(&node);
    node.publisher.alert(AlertLevel::Change, "of the first");
    dashboard.catch_up(&mut node);
    let mut node = node.restart(2);
    // Nobody can have connected to it yet, so this is lost but for the snapshot.
    node.publisher.alert(AlertLevel::Change, "of the second");
    dashboard.catch_up(&mut node);
    assert_eq!(dashboard.alerts(), ["of the first", "of the second"]);
    assert_eq!(dashboard.updates.last().unwrap().incarnation, Incarnation(2));
    let counters = dashboard.subscriber.updates().counters();
    assert_eq!(counters.restarts, 1, "{counters:?}");
    dashboard.check_order();
}

#[test]
fn without_keys_telemetry_is_published_on_loopback_only() {
    let context = zmq::Context::new();
    let publications = || Publications::new(NODE, Role::Worker, Incarnation(1));
    let bind = |exposure| Publisher::bind(&context, "tcp://0.0.0.0:0", exposure, publications());
    let error = bind(Exposure::Loopback).unwrap_err();
    assert!(error.to_string().starts_with("listening at tcp://0.0.0.0:0 without keys"), "{error}");
    bind(Exposure::Insecure).unwrap();
}
