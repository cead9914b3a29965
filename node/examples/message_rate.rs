//! Records per second and round trips over loopback TCP, beside what bare ZeroMQ reaches.
//!
//! Two threads with a ZeroMQ context each, one connection. The bare figures are the limits that
//! this machine sets: PUSH/PULL for one direction, DEALER/ROUTER for what the sessions use. What
//! they lack is sequence numbers, sessions, bounded queues and the records' own checks.
//!
//! `cargo run --release -p node --example message_rate [MEBIBYTES]`

use std::thread::{self, JoinHandle};

use node::clock::Clock;
use node::logic::network::{Identity, Link, NetworkEffect, NetworkEvent, Peer, Sender};
use node::network::{Exposure, Network};
use proto::ids::{ClusterId, Incarnation, NodeId};
use proto::messages::session::Pong;
use proto::record::{GENERIC_LENGTH, encode};
use proto::status::Role;
use proto::time::Duration;

const LINK: Link = Link(1);
const ROUND_TRIPS: usize = 10_000;
const RUNS: usize = 3;

/// Bytes that the sender lets wait in its own queue before it polls.
const SENDER_QUEUE: usize = 4 << 20;

/// Records that are queued before the packed sender flushes, as a loop does after its events.
const BATCH: u64 = 256;

#[derive(Clone, Copy, PartialEq)]
enum Flush {
    EachRecord,
    EachBatch,
}

/// A record of this length: a `pong` with fields that a later version appended.
fn record(length: usize) -> Vec<u8> {
    let mut record = encode(&Pong::default(), &[]);
    record.resize(length, 0);
    record[GENERIC_LENGTH - 8..GENERIC_LENGTH].copy_from_slice(&(length as u64).to_le_bytes());
    record
}

fn identity(node: u128, role: Role) -> Identity {
    Identity {
        node: NodeId(node),
        role,
        cluster: ClusterId(1),
        incarnation: Incarnation(1),
        version: String::new(),
        address: String::new(),
    }
}

/// A server that answers every `answer_each`-th record.
fn serve(answer_each: u64, length: usize) -> (String, JoinHandle<()>) {
    let clock = Clock::start();
    let mut network =
        Network::bind(identity(2, Role::Master), "tcp://127.0.0.1:*", Exposure::Loopback, clock)
            .expect("bind a port of loopback");
    let address = network.bound_address().unwrap_or_default().to_owned();
    let thread = thread::spawn(move || {
        let (mut count, mut ended) = (0u64, false);
        while !ended {
            let mut answer_to: Vec<Sender> = Vec::new();
            network.poll(None, &mut |event| {
                if let NetworkEvent::Record { sender, record } = event {
                    count += 1;
                    ended |= record.request_id().0 == u64::MAX;
                    if count.is_multiple_of(answer_each) {
                        answer_to.push(sender);
                    }
                }
            });
            for sender in answer_to {
                let record = record(length);
                network.perform(NetworkEffect::Send { to: sender.peer, record });
            }
            network.flush();
        }
        assert_eq!(network.counters().missing, 0);
    });
    (address, thread)
}

struct Client {
    network: Network,
    clock: Clock,
}

impl Client {
    fn connected(address: &str) -> Client {
        let clock = Clock::start();
        let mut network = Network::client(identity(1, Role::Worker), clock).expect("a client");
        network.perform(NetworkEffect::Open { link: LINK, address: address.into() });
        let mut connected = false;
        while !connected {
            network.poll(None, &mut |event| {
                connected |= matches!(event, NetworkEvent::Connected { .. });
            });
        }
        Client { network, clock }
    }

    fn send(&mut self, record: Vec<u8>) {
        self.network.perform(NetworkEffect::Send { to: Peer::Link(LINK), record });
    }

    fn wait_for_record(&mut self) {
        let mut came = false;
        while !came {
            let came = &mut came;
            self.network.poll(None, &mut |event| {
                *came |= matches!(event, NetworkEvent::Record { .. });
            });
        }
    }

    /// Tells the server to end; it is no part of what is measured.
    fn end(mut self, server: JoinHandle<()>) {
        let mut last = record(64);
        proto::record::set_request_id(&mut last, proto::ids::RequestId(u64::MAX));
        self.send(last);
        self.network.flush();
        server.join().expect("the server ends");
    }
}

/// Records per second, and records per frame: while the socket is full, records pack even where
/// each is flushed.
fn ours(count: u64, length: usize, flush: Flush) -> (f64, f64) {
    let (address, server) = serve(count, length);
    let mut client = Client::connected(&address);
    let template = record(length);
    let began = client.clock.now();
    for number in 1..=count {
        client.send(template.clone());
        if flush == Flush::EachRecord || number.is_multiple_of(BATCH) {
            client.network.flush();
        }
        while client.network.queued_bytes(Peer::Link(LINK)) > SENDER_QUEUE {
            client.network.poll(None, &mut |_| {});
        }
    }
    client.wait_for_record();
    let took = client.clock.now().since(began);
    let per_frame = count as f64 / client.network.counters().frames_sent as f64;
    client.end(server);
    (count as f64 / took.as_secs_f64(), per_frame)
}

fn our_round_trip(length: usize) -> Duration {
    let (address, server) = serve(1, length);
    let mut client = Client::connected(&address);
    let trips = (0..ROUND_TRIPS).map(|_| {
        let began = client.clock.now();
        client.send(record(length));
        client.wait_for_record();
        client.clock.now().since(began)
    });
    let median = median(trips.collect());
    client.end(server);
    median
}

fn median(mut values: Vec<Duration>) -> Duration {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn bound(socket_type: zmq::SocketType) -> (zmq::Context, zmq::Socket, String) {
    let context = zmq::Context::new();
    let socket = context.socket(socket_type).expect("a socket");
    socket.bind("tcp://127.0.0.1:*").expect("bind a port of loopback");
    let address = socket.get_last_endpoint().expect("an address").unwrap_or_default();
    (context, socket, address)
}

fn connected(socket_type: zmq::SocketType, address: &str) -> (zmq::Context, zmq::Socket) {
    let context = zmq::Context::new();
    let socket = context.socket(socket_type).expect("a socket");
    socket.connect(address).expect("an address to connect to");
    (context, socket)
}

/// Messages per second in one direction; the end is told on a second connection.
fn bare(count: u64, length: usize, from: zmq::SocketType, to: zmq::SocketType) -> f64 {
    let (_context, receiver, address) = bound(to);
    let (_ended_context, ended, ended_address) = bound(zmq::PULL);
    let parts = if to == zmq::ROUTER { 2 } else { 1 };
    let receiving = thread::spawn(move || {
        let (_context, end) = connected(zmq::PUSH, &ended_address);
        let mut message = zmq::Message::new();
        for _ in 0..count * parts {
            receiver.recv(&mut message, 0).expect("receive");
        }
        end.send(&b""[..], 0).expect("send");
    });
    let (_sender_context, sender) = connected(from, &address);
    let content = vec![0u8; length];
    let clock = Clock::start();
    let began = clock.now();
    for _ in 0..count {
        sender.send(&content[..], 0).expect("send");
    }
    ended.recv_bytes(0).expect("receive");
    let took = clock.now().since(began);
    receiving.join().expect("the receiver ends");
    count as f64 / took.as_secs_f64()
}

fn bare_round_trip(length: usize) -> Duration {
    let (_context, server, address) = bound(zmq::ROUTER);
    let serving = thread::spawn(move || {
        for _ in 0..ROUND_TRIPS {
            let parts = server.recv_multipart(0).expect("receive");
            server.send_multipart(parts, 0).expect("send");
        }
    });
    let (_client_context, client) = connected(zmq::DEALER, &address);
    let clock = Clock::start();
    let content = vec![0u8; length];
    let trips = (0..ROUND_TRIPS).map(|_| {
        let began = clock.now();
        client.send(&content[..], 0).expect("send");
        client.recv_bytes(0).expect("receive");
        clock.now().since(began)
    });
    let median = median(trips.collect());
    serving.join().expect("the server ends");
    median
}

/// The middle of several runs, in thousands per second, and its records per frame.
fn thousands(measure: impl Fn() -> (f64, f64)) -> (f64, f64) {
    let mut runs: Vec<(f64, f64)> = (0..RUNS).map(|_| measure()).collect();
    runs.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let (rate, per_frame) = runs.get(RUNS / 2).copied().unwrap_or_default();
    (rate / 1e3, per_frame)
}

fn main() {
    let told = std::env::args().nth(1).and_then(|it| it.parse().ok());
    let bytes = told.unwrap_or(128u64) << 20;
    println!("median of {RUNS} runs of {} MiB each, thousands of records per second", bytes >> 20);
    for length in [64usize, 512] {
        let count = bytes / length as u64;
        let rows = [
            ("ours, flushed per batch", thousands(|| ours(count, length, Flush::EachBatch))),
            ("ours, flushed per record", thousands(|| ours(count / 4, length, Flush::EachRecord))),
            ("bare PUSH/PULL", thousands(|| (bare(count, length, zmq::PUSH, zmq::PULL), 1.0))),
            (
                "bare DEALER/ROUTER",
                thousands(|| (bare(count / 4, length, zmq::DEALER, zmq::ROUTER), 1.0)),
            ),
        ];
        println!("{length} bytes:");
        for (name, (rate, per_frame)) in rows {
            println!("  {name:26} {rate:8.0}  ({per_frame:.0} records per frame)");
        }
        println!(
            "  round trip p50: ours {}, bare {}",
            our_round_trip(length),
            bare_round_trip(length)
        );
    }
}
