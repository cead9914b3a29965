//! Two nodes without sockets: hello and its refusals, order, old connections, packing, garbage.

use proto::ids::{Incarnation, LogIndex, RequestId};
use proto::messages::file::FileRequest;
use proto::messages::job::JobQuery;
use proto::messages::session::Hello;
use proto::record::{Records, encode_given, set_request_id, stamp};

use super::*;
use crate::logic::refusal::Refusal;

const LINK: Link = Link(4);
const CLUSTER: ClusterId = ClusterId(0xc1);

fn identity(node: u128, role: Role) -> Identity {
    Identity {
        node: NodeId(node),
        role,
        cluster: CLUSTER,
        incarnation: Incarnation(1),
        version: "1.0".into(),
        address: String::new(),
    }
}

fn small_limits() -> NetworkLimits {
    NetworkLimits { peers: 4, queued_bytes: 10_000 }
}

/// An event with what it borrows, for comparing.
#[derive(Clone, Debug, PartialEq)]
enum Seen {
    Connected { again: bool, sender: Sender },
    Masters(String),
    Refused(ErrorCode, String),
    Joined(Sender),
    Gone(Sender),
    Overflowing(Peer),
    Record { type_: u8, request: u64, sender: Sender },
    Error { code: ErrorCode, refused: u8, request: u64 },
}

fn seen(event: NetworkEvent<'_>) -> Seen {
    match event {
        NetworkEvent::Connected { again, sender, .. } => Seen::Connected { again, sender },
        NetworkEvent::Masters { masters, .. } => Seen::Masters(masters),
        NetworkEvent::Refused { code, text, .. } => Seen::Refused(code, text),
        NetworkEvent::Joined { sender, .. } => Seen::Joined(sender),
        NetworkEvent::Gone { sender } => Seen::Gone(sender),
        NetworkEvent::Overflowing { peer } => Seen::Overflowing(peer),
        NetworkEvent::Record { sender, record } => match Refusal::from_record(&record) {
            Ok(Refusal { code, refused_type: refused, .. }) => {
                Seen::Error { code, refused, request: record.request_id().0 }
            }
            Err(_) => Seen::Record {
                type_: record.message_type(),
                request: record.request_id().0,
                sender,
            },
        },
    }
}

fn record(request: u64) -> Vec<u8> {
    let mut record = encode(&JobQuery::default(), &[b""]);
    set_request_id(&mut record, RequestId(request));
    record
}

/// A client with one link to a server, and what both saw. The wire is in the test's hands.
struct Pair {
    now: Instant,
    client: Sessions,
    server: Sessions,
    at_client: Vec<Seen>,
    at_server: Vec<Seen>,
}

impl Pair {
    fn new() -> Pair {
        Pair {
            now: Instant(0),
            client: Sessions::new(identity(1, Role::Worker), small_limits()),
            server: Sessions::new(identity(2, Role::Master), small_limits()),
            at_client: Vec::new(),
            at_server: Vec::new(),
        }
    }

    fn connected() -> Pair {
        let mut pair = Pair::new();
        pair.open();
        pair.exchange();
        assert!(matches!(pair.at_client[..], [Seen::Connected { again: false, .. }]));
        assert!(matches!(pair.at_server[..], [Seen::Joined(_)]));
        pair.at_client.clear();
        pair.at_server.clear();
        pair
    }

    fn open(&mut self) {
        let effect = NetworkEffect::Open { link: LINK, address: "tcp://server:1".into() };
        let change = self.client.perform(self.now, effect);
        assert!(matches!(change, Some(SocketChange::Open { link: LINK, .. })));
    }

    fn next_frame(&mut self) -> Option<Vec<u8>> {
        self.client.take_frame().map(|(_, frame)| frame)
    }

    fn server_hears(&mut self, frame: &[u8]) {
        self.server_hears_from(RoutingId::of(NodeId(1)).as_bytes(), frame);
    }

    fn server_hears_from(&mut self, id: &[u8], frame: &[u8]) {
        let at_server = &mut self.at_server;
        self.server.receive(self.now, Source::Bound(id), frame, &mut |it| at_server.push(seen(it)));
        self.server.check_invariants();
    }

    fn client_hears(&mut self, generation: Generation, frame: &[u8]) {
        let source = Source::Link(LINK, generation);
        let at_client = &mut self.at_client;
        self.client.receive(self.now, source, frame, &mut |it| at_client.push(seen(it)));
        self.client.check_invariants();
    }

    fn generation(&self) -> Generation {
        self.client.links[&LINK].outgoing.generation()
    }

    /// Carries frames until nothing moves.
    fn exchange(&mut self) {
        loop {
            let up = self.next_frame();
            let down = self.server.take_frame();
            if up.is_none() && down.is_none() {
                return;
            }
            if let Some(frame) = up {
                self.server_hears(&frame);
            }
            if let Some((_, frame)) = down {
                self.client_hears(self.generation(), &frame);
            }
        }
    }

    fn tick(&mut self, now: Instant) {
        self.now = now;
        let at_client = &mut self.at_client;
        self.client.tick(now, &mut |it| at_client.push(seen(it)));
        let at_server = &mut self.at_server;
        self.server.tick(now, &mut |it| at_server.push(seen(it)));
    }

    fn restart_server(&mut self) {
        let mut identity = identity(2, Role::Master);
        identity.incarnation = self.server.identity().incarnation.next();
        self.server = Sessions::new(identity, small_limits());
    }

    fn requests_at_server(&mut self) -> Vec<u64> {
        let requests = self.at_server.drain(..).filter_map(|it| match it {
            Seen::Record { request, .. } => Some(request),
            _ => None,
        });
        requests.collect()
    }

    /// What the server would send to the peer of a routing id: the errors among it.
    fn errors_of_server(&mut self) -> Vec<(ErrorCode, u8, u64)> {
        let mut errors = Vec::new();
        while let Some((_, frame)) = self.server.take_frame() {
            for record in Records::of(&frame) {
                let record = record.unwrap();
                if let Ok(refusal) = Refusal::from_record(&record) {
                    errors.push((refusal.code, refusal.refused_type, record.request_id().0));
                }
            }
        }
        errors
    }
}

fn hello(node: u128, generation: u64, sequence: u64, role: Role) -> Vec<u8> {
    let hello = Hello {
        protocol_version: PROTOCOL_VERSION,
        role: role.to_wire(),
        cluster_uuid: CLUSTER.to_wire(),
        ..Default::default()
    };
    let mut record = encode(&hello, &[b"1.0", b""]);
    stamp(&mut record, NodeId(node), generation, sequence);
    record
}

fn stamped(node: u128, generation: u64, sequence: u64) -> Vec<u8> {
    let mut record = record(sequence);
    stamp(&mut record, NodeId(node), generation, sequence);
    record
}

#[test]
fn records_follow_the_hello_at_once_in_one_frame_and_arrive_in_order() {
    let mut pair = Pair::new();
    pair.server.set_greeting(Greeting {
        applied_index: LogIndex(9),
        window: 64,
        masters: "tcp://a:1,tcp://b:2".into(),
    });
    pair.open();
    for request in 1..=20 {
        pair.client.send(Peer::Link(LINK), record(request));
    }
    let frame = pair.next_frame().unwrap();
    assert_eq!(pair.next_frame(), None);
    pair.server_hears(&frame);
    let Seen::Joined(sender) = pair.at_server[0] else { panic!("{:?}", pair.at_server) };
    assert_eq!((sender.node, sender.role), (NodeId(1), Role::Worker));
    assert_eq!(sender.incarnation, Incarnation(1));
    assert_eq!(pair.requests_at_server(), (1..=20).collect::<Vec<_>>());

    let (route, frame) = pair.server.take_frame().unwrap();
    assert!(matches!(route, Route::Bound(_, id) if id == RoutingId::of(NodeId(1))));
    let mut told = None;
    let generation = pair.generation();
    pair.client.receive(pair.now, Source::Link(LINK, generation), &frame, &mut |event| {
        if let NetworkEvent::Connected { applied_index, window, masters, cluster, .. } = event {
            told = Some((applied_index, window, masters, cluster));
        }
    });
    assert_eq!(told, Some((LogIndex(9), 64, "tcp://a:1,tcp://b:2".into(), CLUSTER)));
}

#[test]
fn whoever_is_connected_learns_of_a_new_master() {
    let mut pair = Pair::connected();
    let mut named = |masters: &str| {
        let greeting = Greeting { masters: masters.into(), ..Greeting::default() };
        pair.server.set_greeting(greeting);
        pair.exchange();
        std::mem::take(&mut pair.at_client)
    };
    assert_eq!(named("a,b"), [Seen::Masters("a,b".into())]);
    assert_eq!(named("b,a"), [], "another leader is no news");
    assert_eq!(named("b"), [], "nor is one master less");
    assert_eq!(named("b,c"), [Seen::Masters("b,c".into())]);
    // A client that knows no sessions is not told what it did not ask for.
    let mut foreign = encode(&Hello { protocol_version: 1, ..Hello::default() }, &[b"", b""]);
    stamp(&mut foreign, NodeId(9), 0, 0);
    pair.server_hears_from(b"foreign", &foreign);
    while pair.server.take_frame().is_some() {}
    let greeting = Greeting { masters: "b,c,d".into(), ..Greeting::default() };
    pair.server.set_greeting(greeting);
    let told: Vec<Route> =
        std::iter::from_fn(|| pair.server.take_frame()).map(|(route, _)| route).collect();
    assert!(matches!(&told[..], [Route::Bound(_, id)] if *id == RoutingId::of(NodeId(1))));
}

#[test]
fn ping_is_answered_without_the_logic() {
    let mut pair = Pair::connected();
    let mut ping = encode(&Ping::default(), &[]);
    set_request_id(&mut ping, RequestId(77));
    pair.client.send(Peer::Link(LINK), ping);
    pair.exchange();
    assert_eq!(pair.at_server, []);
    let [Seen::Record { type_, request, .. }] = pair.at_client[..] else {
        panic!("{:?}", pair.at_client)
    };
    assert_eq!((type_, request), (Pong::TYPE, 77));
}

#[test]
fn a_restarted_server_is_told_hello_again_once() {
    let mut pair = Pair::connected();
    let generation = pair.generation();
    pair.restart_server();
    // Both leave before the answer to the first can be there.
    pair.client.send(Peer::Link(LINK), record(1));
    let first = pair.next_frame().unwrap();
    pair.client.send(Peer::Link(LINK), record(2));
    let second = pair.next_frame().unwrap();
    pair.server_hears(&first);
    pair.server_hears(&second);
    assert_eq!(pair.at_server, []);
    pair.exchange();
    let [Seen::Connected { again: true, sender }] = pair.at_client[..] else {
        panic!("{:?}", pair.at_client)
    };
    assert_eq!(sender.incarnation, Incarnation(2));
    assert_eq!(pair.generation(), generation);
    assert!(matches!(pair.at_server[..], [Seen::Joined(_)]));
    pair.at_server.clear();
    pair.client.send(Peer::Link(LINK), record(3));
    pair.exchange();
    assert_eq!(pair.requests_at_server(), [3]);
    assert_eq!(pair.server.counters().without_hello, 2);
}

#[test]
fn a_lost_hello_is_said_again_but_not_one_that_waits_to_leave() {
    let mut pair = Pair::new();
    pair.open();
    let due = pair.client.next_deadline().unwrap();
    // It has not left: nobody is connected.
    pair.tick(due);
    let hello = pair.next_frame().unwrap();
    assert_eq!(Records::of(&hello).count(), 1);
    // It left and is lost with its connection.
    let due = pair.client.next_deadline().unwrap();
    pair.tick(due);
    pair.exchange();
    assert!(matches!(pair.at_client[..], [Seen::Connected { again: false, .. }]));
    assert_eq!(pair.client.next_deadline(), None);
}

#[test]
fn nothing_of_an_earlier_connection_is_taken_for_one_of_the_new() {
    let mut pair = Pair::connected();
    let old_generation = pair.generation();
    // A request on its way, and an answer on its way, when the socket is replaced.
    pair.client.send(Peer::Link(LINK), record(1));
    let late_request = pair.next_frame().unwrap();
    let old_peer = Peer::Inbound(pair.server.routes[&RoutingId::of(NodeId(1))]);
    pair.server.send(old_peer, record(1));
    let (_, late_answer) = pair.server.take_frame().unwrap();

    pair.open();
    assert!(pair.generation() > old_generation);
    pair.exchange();
    assert!(matches!(pair.at_server[..], [Seen::Gone(_), Seen::Joined(_)]));
    pair.at_server.clear();
    pair.at_client.clear();

    pair.server_hears(&late_request);
    pair.server_hears_from(b"\0rest of the old connection", &late_request);
    pair.client_hears(old_generation, &late_answer);
    assert_eq!(pair.at_server, []);
    assert_eq!(pair.at_client, []);
    assert_eq!(pair.server.counters().old_generation, 2);
    assert_eq!(pair.client.counters().old_generation, 1);
    // Nor is what the server's logic still has to say to the earlier one.
    pair.server.send(old_peer, record(1));
    assert_eq!(pair.server.take_frame(), None);
    assert_eq!(pair.server.counters().unroutable, 1);
    // An answer of the earlier server session, even delivered on the new socket, is old as well.
    pair.client_hears(pair.generation(), &late_answer);
    assert_eq!(pair.at_client, []);
}

#[test]
fn a_late_hello_does_not_bring_an_earlier_connection_back() {
    let mut pair = Pair::new();
    pair.server_hears(&hello(1, 5, 1, Role::Worker));
    pair.server_hears(&hello(1, 4, 1, Role::Worker));
    pair.server_hears_from(b"other", &hello(1, 4, 1, Role::Worker));
    assert_eq!(pair.at_server.len(), 1);
    assert_eq!(pair.server.counters().old_generation, 2);
    // A newer one from elsewhere ends the older.
    pair.server_hears_from(b"other", &hello(1, 6, 1, Role::Worker));
    assert!(matches!(pair.at_server[1..], [Seen::Gone(_), Seen::Joined(_)]));
}

#[test]
fn a_higher_generation_begins_with_hello() {
    let mut pair = Pair::new();
    pair.server_hears(&hello(1, 5, 1, Role::Worker));
    pair.errors_of_server();
    pair.server_hears(&stamped(1, 6, 1));
    assert_eq!(pair.errors_of_server(), [(ErrorCode::HelloFirst, JobQuery::TYPE, 1)]);
    assert_eq!(pair.requests_at_server(), []);
}

#[test]
fn repeated_numbers_are_dropped_and_gaps_counted() {
    let mut pair = Pair::new();
    pair.server_hears(&hello(1, 5, 1, Role::Worker));
    for sequence in [2, 2, 5, 4, 6] {
        pair.server_hears(&stamped(1, 5, sequence));
    }
    assert_eq!(pair.requests_at_server(), [2, 5, 6]);
    assert_eq!(pair.server.counters().repeated, 2);
    assert_eq!(pair.server.counters().missing, 2);
}

#[test]
fn a_foreign_client_need_not_count_nor_say_hello_for_the_given_forms() {
    let mut pair = Pair::new();
    let given = encode_given(&FileRequest::default(), &[]);
    pair.server_hears_from(b"\0foreign", &given);
    let Seen::Record { type_, sender, .. } = pair.at_server[0] else {
        panic!("{:?}", pair.at_server)
    };
    assert_eq!((type_, sender.role), (FileRequest::TYPE, Role::Client));
    pair.server.send(sender.peer, record(1));
    pair.server.send(sender.peer, record(2));
    for _ in 0..2 {
        let (_, frame) = pair.server.take_frame().unwrap();
        assert_eq!(Records::of(&frame).count(), 1);
    }
    // With its hello the same connection, and the same handle, becomes a session.
    pair.at_server.clear();
    pair.server_hears_from(b"\0foreign", &hello(0, 0, 0, Role::Client));
    pair.server_hears_from(b"\0foreign", &stamped(0, 0, 0));
    pair.server_hears_from(b"\0foreign", &stamped(0, 0, 0));
    let [Seen::Joined(joined), Seen::Record { .. }, Seen::Record { .. }] = pair.at_server[..]
    else {
        panic!("{:?}", pair.at_server)
    };
    assert_eq!(joined.peer, sender.peer);
}

#[test]
fn a_peer_of_another_cluster_or_version_learns_which_side_to_change() {
    let mut pair = Pair::new();
    pair.client.set_cluster(ClusterId(0xbad));
    pair.open();
    pair.client.send(Peer::Link(LINK), record(1));
    pair.exchange();
    let [Seen::Refused(ErrorCode::OtherCluster, ref text)] = pair.at_client[..] else {
        panic!("{:?}", pair.at_client)
    };
    assert_eq!(
        *text,
        "this master belongs to cluster 00000000-0000-0000-0000-0000000000c1, the worker to \
         00000000-0000-0000-0000-000000000bad: give the worker an address of its own cluster or \
         another data folder"
    );
    assert_eq!(pair.at_server, []);
    assert_eq!(pair.client.next_deadline(), None);

    for (version, side) in [(PROTOCOL_VERSION + 1, "master"), (PROTOCOL_VERSION - 1, "worker")] {
        let own = identity(2, Role::Master);
        let (code, text) = mismatch(&own, Role::Worker, version, CLUSTER).unwrap();
        assert_eq!(code, ErrorCode::OtherVersion);
        assert!(text.ends_with(&format!("on the {side}'s side")), "{text}");
    }
}

#[test]
fn a_peer_that_does_not_know_its_cluster_is_told() {
    let mut pair = Pair::new();
    pair.client.set_cluster(ClusterId(0));
    pair.open();
    pair.exchange();
    assert!(matches!(pair.at_client[..], [Seen::Connected { .. }]));
}

#[test]
fn each_malformed_record_gets_its_typed_answer_and_is_counted() {
    let mut unknown = record(1);
    unknown[0] = 0xee;
    let mut header_length = record(1);
    header_length[17..25].copy_from_slice(&40u64.to_le_bytes());
    let mut too_long = record(1);
    too_long[17..25].copy_from_slice(&u64::MAX.to_le_bytes());
    let mut body = record(1);
    body[25..33].copy_from_slice(&1000u64.to_le_bytes());
    let mut role = hello(1, 9, 9, Role::Worker);
    role[size_of::<proto::record::GenericMessage>() + 32 + 4] = 200;
    let expected = [
        (vec![1, 2, 3], ErrorCode::Malformed, 0),
        (unknown, ErrorCode::UnknownType, 0xee),
        (header_length, ErrorCode::Malformed, JobQuery::TYPE),
        (too_long, ErrorCode::TooLarge, JobQuery::TYPE),
        (body, ErrorCode::Malformed, JobQuery::TYPE),
        (role, ErrorCode::Malformed, Hello::TYPE),
    ];
    for said_hello in [false, true] {
        let mut pair = Pair::new();
        if said_hello {
            pair.server_hears(&hello(1, 5, 1, Role::Worker));
            pair.errors_of_server();
        }
        for (frame, code, refused) in &expected {
            pair.server_hears(frame);
            assert_eq!(pair.errors_of_server(), [(*code, *refused, 0)]);
        }
        let malformed = pair.server.counters().malformed;
        assert_eq!(malformed.total(), 6);
        assert_eq!((malformed.too_short, malformed.unknown_type), (1, 1));
        assert_eq!((malformed.header_length, malformed.too_long), (1, 1));
        assert_eq!((malformed.truncated, malformed.content), (1, 1));
    }
}

#[test]
fn the_records_behind_an_unknown_one_are_read_and_the_answers_are_bounded() {
    let mut pair = Pair::new();
    pair.server_hears(&hello(1, 5, 1, Role::Worker));
    pair.errors_of_server();
    let mut unknown = stamped(1, 5, 2);
    unknown[0] = 0xee;
    let mut frame = unknown.clone();
    frame.extend(stamped(1, 5, 3));
    pair.server_hears(&frame);
    assert_eq!(pair.requests_at_server(), [3]);
    assert_eq!(pair.errors_of_server().len(), 1);

    let mut frame = unknown.repeat(1000);
    frame.extend(stamped(1, 5, 4));
    pair.server_hears(&frame);
    assert_eq!(pair.errors_of_server().len(), ANSWERED_ERRORS_PER_FRAME as usize);
    assert_eq!(pair.requests_at_server(), []);
    assert_eq!(pair.server.counters().abandoned_frames, 1);
}

#[test]
fn an_error_reply_is_never_answered_with_another() {
    let mut pair = Pair::new();
    let reply = Refusal::new(ErrorCode::Malformed, 1, "no").to_record(RequestId(3));
    pair.server_hears(&reply);
    pair.server_hears(&reply[..reply.len() - 1]);
    assert_eq!(pair.errors_of_server(), []);
    assert_eq!(pair.server.counters().without_hello, 1);
    assert_eq!(pair.server.counters().malformed.truncated, 1);
}

#[test]
fn garbage_on_a_link_is_counted_and_not_answered() {
    let mut pair = Pair::connected();
    pair.client_hears(pair.generation(), b"garbage");
    pair.client_hears(pair.generation(), &[0xff; 1000]);
    assert_eq!(pair.client.take_frame(), None);
    assert_eq!(pair.client.counters().malformed.total(), 2);
    assert_eq!(pair.at_client, []);
}

#[test]
fn a_record_of_another_node_is_refused() {
    let mut pair = Pair::new();
    pair.server_hears(&hello(1, 5, 1, Role::Worker));
    pair.errors_of_server();
    pair.server_hears(&stamped(9, 5, 2));
    assert_eq!(pair.errors_of_server(), [(ErrorCode::NotAllowed, JobQuery::TYPE, 2)]);
    assert_eq!(pair.requests_at_server(), []);
}

#[test]
fn the_longest_silent_client_is_forgotten_first_and_nodes_last() {
    let mut pair = Pair::new();
    pair.server_hears_from(b"worker", &hello(1, 1, 1, Role::Worker));
    for (node, id) in [(2, b"a"), (3, b"b"), (4, b"c")] {
        pair.server_hears_from(id, &hello(node, 1, 1, Role::Client));
    }
    pair.server_hears_from(b"a", &stamped(2, 1, 2));
    pair.at_server.clear();
    pair.server_hears_from(b"d", &hello(5, 1, 1, Role::Client));
    let [Seen::Gone(gone), Seen::Joined(joined)] = pair.at_server[..] else {
        panic!("{:?}", pair.at_server)
    };
    assert_eq!((gone.node, joined.node), (NodeId(3), NodeId(5)));
    // The forgotten one is told to say hello when it comes back.
    while pair.server.take_frame().is_some() {}
    pair.server_hears_from(b"b", &stamped(3, 1, 2));
    assert_eq!(pair.errors_of_server(), [(ErrorCode::HelloFirst, JobQuery::TYPE, 2)]);
    assert_eq!(pair.server.counters().forgotten, 2);
}

#[test]
fn a_peer_that_does_not_read_is_reported_once() {
    let mut pair = Pair::connected();
    let peer = Peer::Inbound(pair.server.routes[&RoutingId::of(NodeId(1))]);
    let count = 2 * small_limits().queued_bytes / record(1).len();
    for _ in 0..count {
        pair.server.send(peer, record(1));
    }
    assert_eq!(pair.server.next_deadline(), Some(Instant(0)));
    pair.tick(Instant(1));
    assert_eq!(pair.at_server, [Seen::Overflowing(peer)]);
    assert_eq!(pair.server.next_deadline(), None);
    assert!(pair.server.queued_bytes(peer) <= small_limits().queued_bytes);
    assert!(pair.server.counters().overflowed > 0);
}

#[test]
fn a_full_socket_keeps_the_order_and_holds_up_nobody_else() {
    let mut pair = Pair::new();
    pair.server_hears_from(b"a", &hello(1, 1, 1, Role::Worker));
    pair.server_hears_from(b"b", &hello(2, 1, 1, Role::Worker));
    let peers: Vec<Peer> = ["a", "b"]
        .map(|id| Peer::Inbound(pair.server.routes[&RoutingId::from_bytes(id.as_bytes())]))
        .into();
    let (route, frame) = pair.server.take_frame().unwrap();
    assert_eq!(route.peer(), peers[0]);
    pair.server.put_back(&route, frame);
    pair.server.check_invariants();
    pair.server.send(peers[0], record(1));
    let (other, _) = pair.server.take_frame().unwrap();
    assert_eq!(other.peer(), peers[1]);
    assert_eq!(pair.server.take_frame(), None);
    pair.server.unblock(peers[0]);
    pair.server.check_invariants();
    let mut sequences = Vec::new();
    while let Some((_, frame)) = pair.server.take_frame() {
        sequences.extend(Records::of(&frame).map(|it| it.unwrap().envelope().sequence));
    }
    assert_eq!(sequences, [1, 2]);
}

#[test]
fn a_link_without_socket_is_refused() {
    let mut pair = Pair::new();
    pair.open();
    pair.client.not_opened(LINK, "no such address".into());
    assert_eq!(pair.client.next_deadline(), Some(Instant(0)));
    pair.tick(Instant(1));
    assert_eq!(pair.at_client, [Seen::Refused(ErrorCode::Invalid, "no such address".into())]);
}

#[test]
fn whatever_comes_the_state_holds_together_and_honest_peers_go_on() {
    let mut random = fastrand::Rng::with_seed(42);
    let mut pair = Pair::connected();
    let valid: Vec<Vec<u8>> = vec![
        hello(7, 3, 1, Role::Client),
        stamped(7, 3, 2),
        encode_given(&FileRequest::default(), &[]),
        Refusal::new(ErrorCode::Busy, 1, "later").to_record(RequestId(3)),
        encode(&Ping::default(), &[]),
    ];
    let mut sent = 0;
    for _ in 0..20_000 {
        let mut frame: Vec<u8> = Vec::new();
        for _ in 0..random.usize(1..4) {
            frame.extend(&valid[random.usize(..valid.len())]);
        }
        for _ in 0..random.usize(..4) {
            let at = random.usize(..frame.len());
            frame[at] = random.u8(..);
        }
        frame.truncate(random.usize(..=frame.len()));
        let id = [random.u8(..3)];
        pair.server_hears_from(&id, &frame);
        pair.client_hears(pair.generation(), &frame);
        if random.u8(..) < 8 {
            sent += 1;
            pair.client.send(Peer::Link(LINK), record(1_000_000 + sent));
            pair.exchange();
        }
    }
    let honest = pair.at_server.iter().filter_map(|it| match it {
        Seen::Record { request, sender, .. } if sender.node == NodeId(1) => Some(*request),
        _ => None,
    });
    assert!(honest.eq(1_000_001..=1_000_000 + sent));
    let counters = pair.server.counters();
    assert!(counters.malformed.total() > 1_000, "{counters:?}");
    assert!(counters.records_delivered > 1_000, "{counters:?}");
}
