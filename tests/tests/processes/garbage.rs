//! Strangers send what is no message to every port of a cluster: each is told what is wrong where it
//! can be told, no process dies, and work goes on.

use cluster_tests::wait::until;
use proto::catalogue::MESSAGES;
use proto::ids::NodeId;
use proto::messages::session::{ErrorReply, Hello, HelloReply};
use proto::record::{Message, Records, encode, stamp};
use proto::status::{ErrorCode, Role};
use proto::time::Duration;

use crate::cluster::{Cluster, LONG};
use crate::strangers::{Stranger, count, most_memory_mib};

/// A hello that is accepted, and begins a session.
fn hello() -> Vec<u8> {
    let hello = Hello {
        protocol_version: proto::catalogue::PROTOCOL_VERSION,
        role: Role::Client.to_wire(),
        ..Hello::default()
    };
    let mut record = encode(&hello, &[b"garbage", b""]);
    stamp(&mut record, proto::ids::NodeId(0xbad), 1, 1);
    record
}

/// Frames that are wrong in one way each.
fn garbage() -> Vec<Vec<u8>> {
    let mut frames = vec![vec![], vec![0x08], vec![0xff; 24], vec![0; 64], vec![0x5a; 1 << 20]];
    let mut random = fastrand::Rng::with_seed(20);
    for layout in MESSAGES {
        // Claims a fixed part longer than the frame, than any limit, or shorter than it ever was.
        for header_length in [u64::MAX, 1 << 40, 4_000, 26, 0] {
            let mut frame = vec![0; layout.length];
            frame[0] = layout.message_type;
            frame[17..25].copy_from_slice(&header_length.to_le_bytes());
            frames.push(frame);
        }
        // The right length and any content: lengths of parts, enumerations and counts are wrong.
        for _ in 0..4 {
            let mut frame: Vec<u8> = (0..layout.length + 40).map(|_| random.u8(..)).collect();
            frame[0] = layout.message_type;
            frame[17..25].copy_from_slice(&(layout.length as u64).to_le_bytes());
            frames.push(frame);
        }
    }
    frames
}

/// Sends everything to one port; returns the codes of the refusals that came back.
fn attack(address: &str) -> Vec<u16> {
    let context = zmq::Context::new();
    let socket = context.socket(zmq::DEALER).expect("a socket");
    socket.set_linger(0).expect("an option");
    socket.set_sndtimeo(5_000).expect("an option");
    socket.set_rcvtimeo(1_000).expect("an option");
    socket.connect(address).expect("an address");
    socket.send(hello(), 0).expect("sent");
    for frame in garbage() {
        socket.send(frame, 0).expect("sent");
    }
    let mut codes = Vec::new();
    while let Ok(frame) = socket.recv_bytes(0) {
        for record in Records::of(&frame).flatten() {
            if record.message_type() == ErrorReply::TYPE
                && let Ok(error) = record.read::<ErrorReply>()
            {
                codes.push(error.code);
            }
        }
    }
    codes
}

/// Frames of a connection after which it says hello anew: a mutated number makes the node drop what
/// comes after it.
const FRAMES_PER_HELLO: usize = 100;

/// What became of mutated frames at one port.
#[derive(Debug, Default)]
struct Told {
    accepted: usize,
    refused: usize,
}

impl Told {
    fn count(&mut self, frame: &[u8]) {
        for record in Records::of(frame).flatten() {
            match record.message_type() {
                ErrorReply::TYPE => self.refused += 1,
                HelloReply::TYPE => {}
                _ => self.accepted += 1,
            }
        }
    }
}

/// A record of some type with nothing in it, in which nothing or a few bytes were changed.
fn mutated(stranger: &mut Stranger, random: &mut fastrand::Rng, request: u64) -> Vec<u8> {
    let layout = &MESSAGES[random.usize(..MESSAGES.len())];
    let mut frame = vec![0; layout.length];
    frame[0] = layout.message_type;
    frame[17..25].copy_from_slice(&(layout.length as u64).to_le_bytes());
    let mut frame = stranger.stamped(frame, request);
    for _ in 0..random.usize(..4) {
        let at = random.usize(..frame.len());
        match random.u8(..4) {
            0 => frame[at] ^= 1 << random.u8(..8),
            1 => frame[at] = random.u8(..),
            2 => frame.truncate(at),
            _ => frame.extend((0..random.usize(..40)).map(|_| random.u8(..))),
        }
        if frame.is_empty() {
            break;
        }
    }
    frame
}

/// Sends so many mutated frames to one port, and hears what is said to them.
fn bombard(address: &str, frames: usize) -> Told {
    let context = zmq::Context::new();
    let mut random = fastrand::Rng::with_seed(frames as u64);
    let mut stranger = Stranger::connect(&context, address, NodeId(0xbad));
    let mut told = Told::default();
    for number in 0..frames {
        if number % FRAMES_PER_HELLO == 0 {
            stranger.hello();
        }
        let frame = mutated(&mut stranger, &mut random, number as u64 + 2);
        stranger.send_frame(frame);
        while let Some(frame) = stranger.receive() {
            told.count(&frame);
        }
    }
    // What is answered last has come when nothing came for a while.
    let mut silent = 0;
    while silent < 20 {
        silent += 1;
        std::thread::park_timeout(Duration::from_millis(50).to_std());
        while let Some(frame) = stranger.receive() {
            told.count(&frame);
            silent = 0;
        }
    }
    told
}

/// `REMUDA_FRAMES` sets how many each port gets, 20,000 where it is not set.
#[test]
fn mutated_frames_at_every_port_are_accepted_or_refused_and_stop_nobody() {
    let cluster = Cluster::start(&["--masters", "1", "--workers", "1", "--slots", "1"]);
    let frames = count("REMUDA_FRAMES", 20_000);
    let before = cluster.status();
    for process in &before {
        let told = bombard(&process.address, frames);
        let most = most_memory_mib(process.pid.expect("it runs"));
        println!("{}: {told:?} of {frames}, {most} MiB at most", process.name);
        assert!(told.accepted > 0 && told.refused > 0, "{}: {told:?}", process.name);
        assert!(most < 400, "{}: {most} MiB", process.name);
    }
    let job = cluster.submit(&["--noop", "3", "--array", "0-999"]);
    cluster.run(&["wait", &job]).ok();
    for (before, after) in before.iter().zip(cluster.status()) {
        assert_eq!((&before.node, before.pid), (&after.node, after.pid), "{}", before.name);
    }
}

#[test]
fn garbage_at_every_port_is_refused_and_stops_nobody() {
    let cluster = Cluster::start(&["--masters", "3", "--workers", "1", "--slots", "1"]);
    let before = cluster.status();
    for process in &before {
        let codes = attack(&process.address);
        let told = codes.iter().filter(|&&code| code == ErrorCode::Malformed.to_wire()).count();
        assert!(told > 0, "{} said nothing of what was wrong: {codes:?}", process.tier);
    }
    let job = cluster.submit(&["--noop", "3", "--array", "0-999"]);
    cluster.run(&["wait", &job]).ok();
    until("a listing that shows everybody alive", LONG, || {
        let after = cluster.status();
        let starts = |list: &[crate::cluster::Listed]| -> Vec<(String, Option<u32>, u64)> {
            list.iter().map(|it| (it.node.clone(), it.pid, it.starts)).collect()
        };
        (starts(&after) == starts(&before)).then_some(())
    });
}
