//! Clients that speak the protocol over sockets of their own and keep to nothing else: as many as a
//! test wants, and as rude.

use proto::catalogue::PROTOCOL_VERSION;
use proto::ids::{JobId, NodeId, RequestId};
use proto::messages::job::JobSubmit;
use proto::messages::session::Hello;
use proto::record::{encode, set_request_id, stamp};
use proto::status::{ProgramKind, Role};

/// A connection to one node.
pub(crate) struct Stranger {
    socket: zmq::Socket,
    node: NodeId,
    generation: u64,
    sequence: u64,
}

impl Stranger {
    /// Connects and says hello.
    #[track_caller]
    pub(crate) fn connect(context: &zmq::Context, address: &str, node: NodeId) -> Stranger {
        let socket = context.socket(zmq::DEALER).expect("a socket");
        socket.set_linger(0).expect("an option");
        socket.set_sndtimeo(20_000).expect("an option");
        socket.connect(address).expect("an address");
        let mut stranger = Stranger { socket, node, generation: 0, sequence: 0 };
        stranger.hello();
        stranger
    }

    /// Says hello, as on a new connection.
    #[track_caller]
    pub(crate) fn hello(&mut self) {
        self.generation += 1;
        self.sequence = 0;
        let role = Role::Client.to_wire();
        let hello = Hello { protocol_version: PROTOCOL_VERSION, role, ..Hello::default() };
        self.send(encode(&hello, &[b"stranger", b""]), 1);
    }

    /// A record as this client's next one.
    pub(crate) fn stamped(&mut self, mut record: Vec<u8>, request: u64) -> Vec<u8> {
        self.sequence += 1;
        set_request_id(&mut record, RequestId(request));
        stamp(&mut record, self.node, self.generation, self.sequence);
        record
    }

    /// Sends a record.
    #[track_caller]
    pub(crate) fn send(&mut self, record: Vec<u8>, request: u64) {
        let record = self.stamped(record, request);
        self.send_frame(record);
    }

    /// Sends a frame as it is.
    #[track_caller]
    pub(crate) fn send_frame(&self, frame: Vec<u8>) {
        self.socket.send(frame, 0).expect("the node takes frames");
    }

    /// A frame that has come.
    pub(crate) fn receive(&self) -> Option<Vec<u8>> {
        self.socket.recv_bytes(zmq::DONTWAIT).ok()
    }
}

/// A submission of one task.
pub(crate) fn submission(job: JobId, description: &[u8]) -> Vec<u8> {
    let submit = JobSubmit {
        job_uuid: job.to_wire(),
        task_count: 1,
        program_kind: ProgramKind::Described.to_wire(),
        ..JobSubmit::default()
    };
    encode(&submit, &[b"", b"", description])
}

/// A number that the environment may make larger than it is in the ordinary tests.
pub(crate) fn count(variable: &str, ordinary: usize) -> usize {
    std::env::var(variable).map_or(ordinary, |text| text.parse().expect("a number"))
}

/// The most memory that a process has had, in MiB.
pub(crate) fn most_memory_mib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a figure");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
}
