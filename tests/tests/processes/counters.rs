//! What processes of a cluster count: storage nodes of blocks, the kernel of the bytes that went
//! through a process's sockets.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use node::clock::Clock;
use node::logic::backoff::Backoff;
use node::logic::calls::CallPolicy;
use node::logic::network::Identity;
use node::rpc::RpcClient;
use proto::ids::{ClusterId, Incarnation, NodeId};
use proto::messages::file::{StorageCounters, StorageQuery, StorageSpace};
use proto::record::encode;
use proto::status::Role;
use proto::time::Duration;
use proto::wire::items_of;

use crate::cluster::{Cluster, LONG};

/// Between two looks at the sockets.
const PAUSE: Duration = Duration::from_millis(200);

/// The counters of all storage nodes together.
#[track_caller]
pub(crate) fn storage_counters(cluster: &Cluster) -> StorageCounters {
    let mut sum = StorageCounters::default();
    for node in cluster.tier("storage") {
        let of = ask(&node.address);
        sum.block_count += of.block_count;
        sum.block_bytes += of.block_bytes;
        sum.put_count += of.put_count;
        sum.put_bytes += of.put_bytes;
        sum.get_count += of.get_count;
        sum.get_bytes += of.get_bytes;
        sum.damaged_count += of.damaged_count;
    }
    sum
}

fn ask(address: &str) -> StorageCounters {
    let identity = Identity {
        node: NodeId::from_random(node::random::bits().expect("random bits")),
        role: Role::Client,
        cluster: ClusterId::default(),
        incarnation: Incarnation::default(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        address: String::new(),
    };
    let policy = CallPolicy { timeout: LONG, attempts: 3, patience: LONG };
    let backoff = Backoff { first: Duration::from_millis(10), longest: Duration::from_millis(100) };
    let addresses = vec![address.to_owned()];
    let client = RpcClient::new(identity, Clock::start(), addresses, policy, backoff);
    client
        .expect("a client")
        .call(encode(&StorageQuery::default(), &[]), |answer| {
            let (_, [counters]) = answer.open::<StorageSpace, 1>()?;
            Ok(items_of::<StorageCounters>(counters).and_then(|it| it.first().copied()))
        })
        .expect("a storage node answers")
}

/// Both ends of a connection, as `ss` prints them.
type Ends = (String, String);

/// Looks at the sockets of processes until it is asked what went through them. A connection that
/// is opened and closed between two looks is not seen; none of ours is.
pub(crate) struct SocketBytes {
    stop: Sender<()>,
    looking: JoinHandle<BTreeMap<Ends, (u64, u64)>>,
}

impl SocketBytes {
    /// Begins to look.
    pub(crate) fn of(pids: Vec<u32>) -> SocketBytes {
        let (stop, stopped) = channel();
        let looking = std::thread::spawn(move || look(&pids, &stopped));
        SocketBytes { stop, looking }
    }

    /// Bytes in both directions since the beginning, and how many connections there were.
    pub(crate) fn end(self) -> (u64, usize) {
        self.stop.send(()).expect("it looks");
        let seen = self.looking.join().expect("it looked");
        (seen.values().map(|(first, last)| last - first).sum(), seen.len())
    }
}

/// Bytes of each connection at its first and last look; one that was not there at the beginning
/// began with none.
fn look(pids: &[u32], stopped: &Receiver<()>) -> BTreeMap<Ends, (u64, u64)> {
    let mut seen: BTreeMap<Ends, (u64, u64)> =
        connections(pids).into_iter().map(|(ends, bytes)| (ends, (bytes, bytes))).collect();
    loop {
        let is_last = stopped.recv_timeout(PAUSE.to_std()).is_ok();
        for (ends, bytes) in connections(pids) {
            let (_, last) = seen.entry(ends).or_insert((0, 0));
            *last = bytes.max(*last);
        }
        if is_last {
            return seen;
        }
    }
}

/// The connections of processes, and the bytes that each has sent and received.
fn connections(pids: &[u32]) -> Vec<(Ends, u64)> {
    let output = Command::new("ss").args(["-t", "-i", "-n", "-p", "-H", "-O"]).output();
    let output = output.expect("`make setup` installs ss");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let is_wanted = |line: &&str| pids.iter().any(|pid| line.contains(&format!("pid={pid},")));
    text.lines()
        .filter(is_wanted)
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let bytes = words.iter().filter_map(|word| {
                let number =
                    word.strip_prefix("bytes_sent:").or(word.strip_prefix("bytes_received:"));
                number.and_then(|number| number.parse::<u64>().ok())
            });
            // State, two queues, then both ends.
            ((words[3].to_owned(), words[4].to_owned()), bytes.sum())
        })
        .collect()
}
