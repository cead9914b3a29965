//! Strangers send what is no message to every port of a cluster: each is told what is wrong where it
//! can be told, no process dies, and work goes on.

use cluster_tests::wait::until;
use proto::catalogue::MESSAGES;
use proto::messages::session::{ErrorReply, Hello};
use proto::record::{Message, Records, encode, stamp};
use proto::status::{ErrorCode, Role};

use crate::cluster::{Cluster, LONG};

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
