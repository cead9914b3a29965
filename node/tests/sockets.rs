//! Real sockets over loopback: two processes, lost servers, late and garbled answers, order.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use node::clock::Clock;
use node::logic::backoff::Backoff;
use node::logic::calls::{CallError, CallPolicy};
use node::logic::network::{
    Identity, Link, NetworkEffect, NetworkEvent, NetworkLimits, Peer, RoutingId,
};
use node::logic::refusal::Refusal;
use node::logic::sessions::{Route, Sessions, SocketChange, Source};
use node::network::{Exposure, Network, NetworkError};
use node::rpc::{RpcClient, RpcError};
use node::waker::Waker;
use proto::catalogue::PROTOCOL_VERSION;
use proto::ids::{ClusterId, Incarnation, NodeId, RequestId};
use proto::messages::keyspace::{KeyRange, KeyResult};
use proto::messages::session::{Hello, HelloReply, Ping, Pong};
use proto::record::{Envelope, Message, Record, RecordError, Records, encode, stamp};
use proto::status::{ErrorCode, Role};
use proto::time::{Duration, Instant};

const LINK: Link = Link(1);
const SERVER: NodeId = NodeId(0x5e);
const CLIENT: NodeId = NodeId(0xc1);

/// A hang is a failure: no wait of these tests is longer.
const LONGEST_WAIT: Duration = Duration::from_secs(20);

fn identity(node: NodeId, role: Role, incarnation: u64) -> Identity {
    Identity {
        node,
        role,
        cluster: ClusterId(7),
        incarnation: Incarnation(incarnation),
        version: "test".into(),
        address: String::new(),
    }
}

fn server(address: &str, incarnation: u64) -> Network {
    let identity = identity(SERVER, Role::Master, incarnation);
    Network::bind(identity, address, Exposure::Loopback, Clock::start()).unwrap()
}

/// A record that asks, with a number to be repeated.
fn question(number: u64) -> Vec<u8> {
    let envelope = Envelope { request_id: number, ..Default::default() };
    let parts = vec![&b""[..]; KeyRange::PARTS.len()];
    encode(&KeyRange { envelope, ..Default::default() }, &parts)
}

/// The record that answers it; `by` tells who did.
fn answer(number: u64, by: u64) -> Vec<u8> {
    let envelope = Envelope { request_id: number, ..Default::default() };
    let parts = vec![&b""[..]; KeyResult::PARTS.len()];
    encode(&KeyResult { envelope, index: by, ..Default::default() }, &parts)
}

fn read_answer(record: &Record<'_>) -> Result<Option<u64>, RecordError> {
    let result: KeyResult = record.read()?;
    Ok(Some(result.index))
}

fn until(network: &mut Network, clock: Clock, mut done: impl FnMut(NetworkEvent<'_>) -> bool) {
    let end = clock.now() + LONGEST_WAIT;
    let mut is_done = false;
    while !is_done {
        assert!(clock.now() < end, "nothing came: {:?}", network.counters());
        network.poll(Some(end), &mut |event| is_done |= done(event));
    }
}

/// A server in a thread of its own, ended when it goes out of scope.
struct Serving {
    address: String,
    stop: Arc<AtomicBool>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

impl Serving {
    /// Answers each question in the name of its incarnation.
    fn new(address: &str, incarnation: u64) -> Serving {
        let mut network = server(address, incarnation);
        let address = network.bound_address().unwrap().to_owned();
        let (stop, waker) = (Arc::new(AtomicBool::new(false)), network.waker());
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                serve_once(&mut network, incarnation);
            }
        });
        Serving { address, stop, waker, thread: Some(thread) }
    }
}

fn serve_once(network: &mut Network, incarnation: u64) {
    let mut answers = Vec::new();
    network.poll(None, &mut |event| {
        if let NetworkEvent::Record { sender, record } = event {
            answers.push((sender.peer, answer(record.request_id().0, incarnation)));
        }
    });
    for (to, record) in answers {
        network.perform(NetworkEffect::Send { to, record });
    }
    network.flush();
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.waker.wake();
        if let Some(thread) = self.thread.take() {
            assert!(thread.join().is_ok() || std::thread::panicking());
        }
    }
}

/// Set for the process that a test starts: address to bind, incarnation and what it does.
const CHILD: &str = "REMUDA_TEST_SOCKETS";

#[test]
#[ignore = "is the process that the tests below start"]
fn process_that_serves() {
    let Ok(told) = std::env::var(CHILD) else { return };
    let [address, incarnation, task] = told.split(' ').collect::<Vec<_>>()[..] else { panic!() };
    let incarnation: u64 = incarnation.parse().unwrap();
    let mut network = server(address, incarnation);
    println!("bound {}", network.bound_address().unwrap());
    loop {
        if task == "dies" {
            network.poll(None, &mut |event| {
                if matches!(event, NetworkEvent::Record { .. }) {
                    // As kill -9 between request and reply: nothing is sent or closed.
                    let own = rustix::process::getpid();
                    rustix::process::kill_process(own, rustix::process::Signal::KILL).unwrap();
                }
            });
        } else {
            serve_once(&mut network, incarnation);
        }
    }
}

struct ServingProcess {
    child: Child,
    address: String,
}

impl ServingProcess {
    fn new(address: &str, incarnation: u64, task: &str) -> ServingProcess {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "process_that_serves", "--ignored", "--nocapture"])
            .env(CHILD, format!("{address} {incarnation} {task}"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let bound = lines.find_map(|line| {
            let line = line.unwrap();
            line.split_once("bound ").map(|(_, address)| address.to_owned())
        });
        ServingProcess { child, address: bound.unwrap() }
    }
}

impl Drop for ServingProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const QUICK: CallPolicy =
    CallPolicy { timeout: Duration::from_millis(150), attempts: 200, patience: LONGEST_WAIT };

const BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(5), longest: Duration::from_millis(50) };

fn client(address: &str, policy: CallPolicy) -> RpcClient {
    let identity = identity(CLIENT, Role::Client, 0);
    RpcClient::new(identity, Clock::start(), vec![address.into()], policy, BACKOFF).unwrap()
}

#[test]
fn two_processes_talk() {
    let serving = ServingProcess::new("tcp://127.0.0.1:*", 3, "answers");
    let mut client = client(&serving.address, CallPolicy { timeout: LONGEST_WAIT, ..QUICK });
    for number in 0..100 {
        assert_eq!(client.call(question(number), read_answer).unwrap(), 3);
    }
    assert_eq!(client.counters().repeated, 0);
    let pong = client.call(encode(&Ping::default(), &[]), |it| it.read::<Pong>().map(Some));
    assert!(pong.is_ok());
}

#[test]
fn a_server_killed_between_request_and_reply_answers_after_its_restart() {
    let mut first = ServingProcess::new("tcp://127.0.0.1:*", 1, "dies");
    let address = first.address.clone();
    let asked = address.clone();
    let asking = std::thread::spawn(move || {
        let mut client = client(&asked, QUICK);
        let answered = client.call(question(0), read_answer).unwrap();
        (answered, *client.counters())
    });
    // It ends by the request, not by this test.
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(first.child.wait().unwrap().signal(), Some(9));
    let _second = ServingProcess::new(&address, 2, "answers");
    let (answered, counters) = asking.join().unwrap();
    assert_eq!(answered, 2);
    assert!(counters.reset >= 1 && counters.repeated >= 1, "{counters:?}");
}

#[test]
fn a_client_without_server_gives_up_with_a_typed_error() {
    // A port that was free a moment ago.
    let address = Serving::new("tcp://127.0.0.1:*", 1).address.clone();
    let policy = CallPolicy { timeout: Duration::from_millis(10), attempts: 3, ..QUICK };
    let mut client = client(&address, policy);
    let error = client.call(question(0), read_answer).unwrap_err();
    let RpcError::Call(CallError::GaveUp { attempts: 3, last: None, .. }) = error else {
        panic!("{error:?}")
    };
    assert_eq!(client.counters().reset, 3);
}

/// A server made of a bare socket, which may say anything; ended when it goes out of scope.
struct BareServer {
    address: String,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl BareServer {
    /// `react` gets each frame and the routing id of its sender.
    fn new(mut react: impl FnMut(&zmq::Socket, &[u8], &[u8]) + Send + 'static) -> BareServer {
        let context = zmq::Context::new();
        let socket = context.socket(zmq::ROUTER).unwrap();
        socket.set_router_handover(true).unwrap();
        socket.set_linger(0).unwrap();
        // How often it looks whether it should end.
        socket.set_rcvtimeo(20).unwrap();
        socket.bind("tcp://127.0.0.1:*").unwrap();
        let address = socket.get_last_endpoint().unwrap().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                if let Ok(parts) = socket.recv_multipart(0) {
                    react(&socket, &parts[0], &parts[1]);
                }
            }
        });
        BareServer { address, stop, thread: Some(thread) }
    }
}

impl Drop for BareServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            assert!(thread.join().is_ok() || std::thread::panicking());
        }
    }
}

fn stamped(mut record: Vec<u8>, generation: u64, sequence: u64) -> Vec<u8> {
    stamp(&mut record, SERVER, generation, sequence);
    record
}

fn hello_reply(generation: u64) -> Vec<u8> {
    let reply = HelloReply {
        protocol_version: PROTOCOL_VERSION,
        role: Role::Master.to_wire(),
        cluster_uuid: ClusterId(7).to_wire(),
        ..Default::default()
    };
    stamped(encode(&reply, &[b"", b""]), generation, 1)
}

fn types(frame: &[u8]) -> Vec<u8> {
    Records::of(frame).filter_map(|it| it.ok().map(|it| it.message_type())).collect()
}

#[test]
fn an_answer_that_arrives_after_the_socket_was_reset_is_dropped() {
    let mut hellos = 0;
    let server = BareServer::new(move |socket, id, frame| {
        if !types(frame).contains(&Hello::TYPE) {
            return;
        }
        hellos += 1;
        let send = |record: Vec<u8>| socket.send_multipart([id, &record], 0).unwrap();
        send(hello_reply(hellos));
        // The first request, which came with its hello, stays without an answer. Its answer comes
        // on the next socket, before the right one.
        if hellos > 1 {
            send(stamped(answer(1, 666), hellos - 1, 2));
            send(stamped(answer(1, 42), hellos, 2));
        }
    });
    let mut client = client(&server.address, QUICK);
    assert_eq!(client.call(question(0), read_answer).unwrap(), 42);
    assert!(client.network().counters().old_generation >= 1);
    assert!(client.counters().repeated >= 1);
}

#[test]
fn a_server_that_answers_garbage_is_given_up() {
    let mut frames = 0u32;
    let server = BareServer::new(move |socket, id, _| {
        frames += 1;
        let garbage = [frames as u8; 100];
        socket.send_multipart([id, &garbage[..]], 0).unwrap();
    });
    let policy = CallPolicy { attempts: 3, ..QUICK };
    let mut client = client(&server.address, policy);
    for _ in 0..20 {
        let error = client.call(question(0), read_answer).unwrap_err();
        let RpcError::Call(CallError::GaveUp { attempts: 3, .. }) = error else {
            panic!("{error:?}")
        };
        // On a machine so busy that three attempts pass unconnected, it asks once more.
        if client.network().counters().malformed.total() > 0 {
            return;
        }
    }
    panic!("no garbage came");
}

#[test]
fn an_answer_of_another_type_is_a_typed_error() {
    let server = BareServer::new(move |socket, id, _| {
        socket.send_multipart([id, &hello_reply(1)], 0).unwrap();
        let other = Envelope { request_id: 1, ..Default::default() };
        let other = encode(&Pong { envelope: other, ..Default::default() }, &[]);
        socket.send_multipart([id, &stamped(other, 1, 2)], 0).unwrap();
    });
    let mut client = client(&server.address, QUICK);
    let error = client.call(question(0), read_answer).unwrap_err();
    assert!(matches!(error, RpcError::Answer(RecordError::OtherType { .. })), "{error:?}");
}

#[test]
fn malformed_frames_get_typed_errors_and_other_peers_go_on() {
    let serving = Serving::new("tcp://127.0.0.1:*", 1);
    let mut honest = client(&serving.address, CallPolicy { timeout: LONGEST_WAIT, ..QUICK });
    let context = zmq::Context::new();
    let hostile = context.socket(zmq::DEALER).unwrap();
    hostile.set_linger(0).unwrap();
    hostile.set_rcvtimeo(LONGEST_WAIT.as_millis() as i32).unwrap();
    hostile.connect(&serving.address).unwrap();
    let mut truncated = question(1);
    truncated[25..33].copy_from_slice(&5_000u64.to_le_bytes());
    let mut unknown = question(1);
    unknown[0] = 0xee;
    let mut too_large = question(1);
    too_large[25..33].copy_from_slice(&u64::MAX.to_le_bytes());
    for (frame, code) in [
        (vec![7; 10], ErrorCode::Malformed),
        (truncated, ErrorCode::Malformed),
        (unknown, ErrorCode::UnknownType),
        (too_large, ErrorCode::TooLarge),
        (question(1), ErrorCode::HelloFirst),
    ] {
        // Something that has three parts is passed over without an answer.
        hostile.send_multipart([&b"a"[..], b"b", b"c"], 0).unwrap();
        hostile.send(&frame[..], 0).unwrap();
        let reply = hostile.recv_bytes(0).unwrap();
        let record = Records::of(&reply).next().unwrap().unwrap();
        assert_eq!(Refusal::from_record(&record).unwrap().code, code);
        assert_eq!(honest.call(question(0), read_answer).unwrap(), 1);
    }
    assert_eq!(honest.counters().repeated, 0);
}

/// What a server sees of a script: questions by number, and who came and went.
#[derive(Debug, PartialEq)]
enum Seen {
    Joined,
    Gone,
    Question(u64),
}

fn see(event: &NetworkEvent<'_>) -> Option<Seen> {
    match event {
        NetworkEvent::Joined { .. } => Some(Seen::Joined),
        NetworkEvent::Gone { .. } => Some(Seen::Gone),
        NetworkEvent::Record { record, .. } => Some(Seen::Question(record.request_id().0)),
        _ => None,
    }
}

/// Three connections one after the other, each with records of several sizes.
const CONNECTIONS: u64 = 3;
const QUESTIONS: u64 = 2_000;

fn script(connection: u64, address: &str) -> Vec<NetworkEffect> {
    let mut effects = vec![NetworkEffect::Open { link: LINK, address: address.into() }];
    for number in 0..QUESTIONS {
        let number = connection * QUESTIONS + number + 1;
        let mut record = question(number);
        if number.is_multiple_of(7) {
            let filling = vec![1; 20_000];
            let mut parts = vec![&b""[..]; KeyRange::PARTS.len()];
            parts[0] = &filling;
            let envelope = Envelope { request_id: number, ..Default::default() };
            record = encode(&KeyRange { envelope, ..Default::default() }, &parts);
        }
        effects.push(NetworkEffect::Send { to: Peer::Link(LINK), record });
    }
    effects
}

fn seen_through_real_sockets() -> Vec<Seen> {
    let clock = Clock::start();
    let mut server = server("tcp://127.0.0.1:*", 1);
    let address = server.bound_address().unwrap().to_owned();
    let (done, next) = std::sync::mpsc::channel();
    let asking = std::thread::spawn(move || {
        let identity = identity(CLIENT, Role::Worker, 1);
        let mut client = Network::client(identity, clock).unwrap();
        for connection in 0..CONNECTIONS {
            script(connection, &address).into_iter().for_each(|it| client.perform(it));
            while next.try_recv().is_err() {
                client.poll(Some(clock.now() + Duration::from_millis(5)), &mut |_| {});
            }
        }
    });
    let mut seen = Vec::new();
    for connection in 1..=CONNECTIONS {
        until(&mut server, clock, |event| {
            seen.extend(see(&event));
            seen.last() == Some(&Seen::Question(connection * QUESTIONS))
        });
        done.send(()).unwrap();
    }
    asking.join().unwrap();
    seen
}

/// The same two state machines without sockets, as the simulator drives them; every frame arrives
/// a second time when its connection is over.
fn seen_without_sockets() -> Vec<Seen> {
    let limits = NetworkLimits::NODE;
    let mut client = Sessions::new(identity(CLIENT, Role::Worker, 1), limits);
    let mut server = Sessions::new(identity(SERVER, Role::Master, 1), limits);
    let (mut seen, mut late) = (Vec::new(), Vec::new());
    let id = RoutingId::of(CLIENT);
    let source = Source::Bound(id.as_bytes());
    let mut now = Instant(0);
    for connection in 0..CONNECTIONS {
        let mut generation = None;
        for effect in script(connection, "tcp://x:1") {
            if let Some(SocketChange::Open { generation: opened, .. }) = client.perform(now, effect)
            {
                generation = Some(opened);
            }
        }
        let mut sent = Vec::new();
        while let Some((route, frame)) = client.take_frame() {
            assert_eq!(Some(route), generation.map(|it| Route::Link(LINK, it)));
            server.receive(now, source, &frame, &mut |event| seen.extend(see(&event)));
            sent.push(frame);
        }
        for frame in std::mem::replace(&mut late, sent) {
            server.receive(now, source, &frame, &mut |event| seen.extend(see(&event)));
        }
        now += Duration::from_secs(1);
    }
    assert!(server.counters().old_generation >= QUESTIONS);
    seen
}

#[test]
fn real_sockets_and_the_bare_sessions_deliver_in_the_same_order() {
    let real = seen_through_real_sockets();
    assert!(real == seen_without_sockets());
    assert_eq!(real.len() as u64, CONNECTIONS * (QUESTIONS + 2) - 1);
}

#[test]
fn an_idle_network_sleeps_and_a_wake_ends_its_poll() {
    let serving = Serving::new("tcp://127.0.0.1:*", 1);
    let clock = Clock::start();
    let identity = identity(CLIENT, Role::Worker, 1);
    let mut network =
        Network::bind(identity, "tcp://127.0.0.1:*", Exposure::Loopback, clock).unwrap();
    network.perform(NetworkEffect::Open { link: LINK, address: serving.address.clone() });
    // A link to nobody, with something to send.
    let nobody = Link(2);
    network.perform(NetworkEffect::Open { link: nobody, address: "tcp://127.0.0.1:1".into() });
    network.perform(NetworkEffect::Send { to: Peer::Link(nobody), record: question(1) });
    until(&mut network, clock, |event| matches!(event, NetworkEvent::Connected { .. }));
    let before = network.wakeups();
    let end = clock.now() + Duration::from_millis(300);
    while clock.now() < end {
        network.poll(Some(end), &mut |_| {});
    }
    let wakeups = network.wakeups() - before;
    assert!(wakeups <= 20, "{wakeups} wake-ups in 300 ms without anything to do");

    // A wake before the poll is not forgotten, and one during it ends it.
    let waker = network.waker();
    waker.wake();
    assert_eq!(network.poll(None, &mut |_| {}), 0);
    let waking = std::thread::spawn(move || waker.wake());
    network.poll(None, &mut |_| {});
    waking.join().unwrap();
}

#[test]
fn an_address_that_strangers_reach_is_refused() {
    for address in ["tcp://0.0.0.0:*", "tcp://*:*", "nonsense"] {
        let identity = identity(SERVER, Role::Master, 1);
        let bound = Network::bind(identity, address, Exposure::Loopback, Clock::start());
        assert!(matches!(bound, Err(NetworkError::Exposed(_))), "{address}");
    }
    let identity = identity(SERVER, Role::Master, 1);
    let bound = Network::bind(identity, "tcp://0.0.0.0:*", Exposure::Insecure, Clock::start());
    assert!(bound.is_ok());
}

#[test]
fn an_address_in_use_or_unusable_is_a_typed_error() {
    let serving = Serving::new("tcp://127.0.0.1:*", 1);
    let taken = Network::bind(
        identity(CLIENT, Role::Worker, 1),
        &serving.address,
        Exposure::Loopback,
        Clock::start(),
    );
    assert!(matches!(taken, Err(NetworkError::Bind { .. })));
    // It is told at once, not when something else ends the poll.
    let clock = Clock::start();
    let mut network = Network::client(identity(CLIENT, Role::Worker, 1), clock).unwrap();
    network.perform(NetworkEffect::Open { link: LINK, address: "not an address".into() });
    assert_eq!(network.poll(None, &mut |_| {}), 1);
    let mut client = client("not an address", QUICK);
    let error = client.call(question(0), read_answer).unwrap_err();
    let RpcError::Call(CallError::Refused(refusal)) = error else { panic!("{error:?}") };
    assert_eq!(refusal.code, ErrorCode::Invalid);
}

#[test]
fn request_ids_travel_back() {
    let serving = Serving::new("tcp://127.0.0.1:*", 1);
    let mut client = client(&serving.address, QUICK);
    for expected in 1..5 {
        let id = client.call(question(0), |it| Ok(Some(it.request_id()))).unwrap();
        assert_eq!(id, RequestId(expected));
    }
}
