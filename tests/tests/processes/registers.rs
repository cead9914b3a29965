//! Registers on real storage nodes: who keeps what, tasks that share them, and histories under kills
//! and freezes that are linearizable.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use client::logic::jobs::RingOrder;
use client::logic::registers::RegisterError;
use client::{Client, ClientError};
use cluster_tests::linear::{self, Action, Operation};
use cluster_tests::wait::until;
use node::clock::Clock;
use proto::ids::NodeId;
use proto::register::{majority, part_count, part_of, replicas};
use proto::status::RingAction;
use proto::time::Duration;
use rustix::process::{Pid, Signal, kill_process};

use crate::cluster::{Cluster, Frozen, LONG, kill, program};

const FIVE: &[&str] =
    &["--masters", "1", "--balancers", "1", "--storage", "5", "--workers", "0", "--no-restart"];

#[track_caller]
fn connect(cluster: &Cluster) -> Client {
    Client::connect(vec![cluster.leader("master").address]).expect("a client")
}

/// The nodes that keep a register.
fn owners(client: &Client, address: u64) -> Vec<NodeId> {
    let ring = client.ring().expect("the ring");
    let part = part_of(address, part_count(&ring.ring));
    replicas(ring.of_part(part).expect("a part"), part)
}

#[test]
fn a_register_is_on_its_own_nodes_and_read_through_any() {
    let cluster = Cluster::start(FIVE);
    let client = connect(&cluster);
    // While nodes join, who owns it changes, and whoever is one no longer forgets it.
    until("a ring of five that is at rest", LONG, || {
        let ring = client.ring().ok()?;
        (ring.ring.members().len() == 5 && ring.older.is_empty()).then_some(())
    });
    // By a client that lives on: one that ends with its majority may leave out the third.
    client.register_write(17, b"shared".to_vec()).expect("a write");
    let owners = owners(&client, 17);
    assert_eq!((owners.len(), majority(owners.len())), (3, 2));
    for node in cluster.tier("storage") {
        let is_owner = owners.iter().any(|owner| owner.to_string() == node.node);
        let at_it = ["register", "get", "17", "--node", &node.node];
        if is_owner {
            until("the copy of an owner", LONG, || {
                let copy = cluster.run(&at_it);
                (copy.exit == 0 && copy.stdout == "shared").then_some(())
            });
        } else {
            let copy = cluster.run(&at_it);
            assert_eq!((copy.exit, copy.stdout.as_str()), (1, ""), "{copy:?}");
            assert!(copy.stderr.contains("no copy of register 17"), "{copy:?}");
        }
        let through = cluster.run(&["register", "get", "17", "--cluster", &node.address]);
        assert_eq!(through.ok(), "shared");
    }
    let found = cluster.run(&["register", "get", "0x11", "--json"]).json();
    assert_eq!((found["text"].as_str(), found["sequence"].as_u64()), (Some("shared"), Some(1)));
}

#[test]
fn what_is_wrong_with_a_register_is_said() {
    let cluster = Cluster::start(FIVE);
    let empty = cluster.run(&["register", "get", "5"]);
    assert_eq!((empty.exit, empty.stdout.as_str()), (1, ""));
    assert!(empty.stderr.contains("nobody wrote register 5"), "{empty:?}");
    let place = cluster.place();
    std::fs::write(place.join("fits"), vec![b'x'; 64 << 10]).expect("write a file");
    std::fs::write(place.join("long"), vec![b'x'; (64 << 10) + 1]).expect("write a file");
    cluster.run(&["register", "set", "5", "--file", "fits"]).ok();
    let long = cluster.run(&["register", "set", "5", "--file", "long"]);
    assert_eq!(long.exit, 2, "{long:?}");
    assert!(long.stderr.contains("65536 bytes that a register holds"), "{long:?}");
    assert_eq!(cluster.run(&["register", "get", "5"]).ok().len(), 64 << 10);
    for usage in [
        &["register", "set", "5"][..],
        &["register", "set", "5", "x", "--file", "fits"],
        &["register", "set", "5", "--file", "missing"],
        &["register", "get", "five"],
        &["register", "get", "-1"],
    ] {
        assert_eq!(cluster.run(usage).exit, 2, "{usage:?}");
    }
    let client = connect(&cluster);
    let error = client.register_write(5, vec![0; (64 << 10) + 1]).expect_err("it is too long");
    assert!(matches!(error, ClientError::Register(RegisterError::TooLong { .. })), "{error}");
    let stranger = client.register_local(5, NodeId(1)).expect_err("there is no such node");
    assert!(matches!(stranger, ClientError::Register(RegisterError::NoNode { .. })), "{stranger}");

    // Two of its three nodes are gone: it is not answered, and not for ever.
    let owners = owners(&client, 5);
    let dead = owners.iter().take(2).map(ToString::to_string).collect::<Vec<_>>();
    for node in cluster.tier("storage") {
        if dead.contains(&node.node) {
            kill(node.pid.expect("it runs"));
        }
    }
    let lost = cluster.run(&["register", "get", "5"]);
    assert_eq!((lost.exit, lost.stdout.as_str()), (1, ""), "{lost:?}");
    assert!(lost.stderr.contains("register 5 is unavailable"), "{lost:?}");
    let lost = cluster.run(&["register", "set", "5", "new"]);
    assert!(lost.exit == 1 && lost.stderr.contains("register 5 is unavailable"), "{lost:?}");
}

/// A command that is killed at the latest when the test ends.
struct Watching(Child);

impl Drop for Watching {
    fn drop(&mut self) {
        // It may have ended, as it should.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn who_watches_a_register_sees_what_tasks_write() {
    let shape = ["--masters", "1", "--balancers", "1", "--storage", "3", "--workers", "1"];
    let cluster = Cluster::start(&shape);
    let mut watcher = cluster.command(&["register", "watch", "100", "--interval", "20ms"]);
    let mut watcher = Watching(watcher.stdout(Stdio::piped()).spawn().expect("run the program"));
    let mut lines = BufReader::new(watcher.0.stdout.take().expect("a pipe")).lines();
    let mut next = || lines.next().expect("a line").expect("it can be read");
    cluster.run(&["register", "set", "100", "begun"]).ok();
    assert_eq!(next(), "begun");

    // Each task finds the cluster by itself, reads what was there before it and writes.
    let remuda = program();
    let script = format!(
        "set -e; r={}; test \"$($r register get 100)\" = begun; \
         echo task $REMUDA_TASK | $r register set $((200 + REMUDA_TASK)) -",
        remuda.display()
    );
    let job = cluster.submit(&["--array", "0-3", "--wait", "--", "sh", "-c", &script]);
    assert_eq!(cluster.job(job.trim())["done"], 4);
    let client = connect(&cluster);
    for task in 0..4 {
        let value = client.register_read(200 + task).expect("it can be read");
        assert_eq!(value, Some(format!("task {task}\n").into_bytes()));
    }
    client.register_write(100, [0xff, 0].as_slice()).expect("it is written");
    assert_eq!(next(), "0xff00");
    kill_process(Pid::from_child(&watcher.0), Signal::INT).expect("it runs");
    assert_eq!(watcher.0.wait().expect("it ends").code(), Some(0));
}

/// Clients of the history, and the registers that they share.
const CLIENTS: usize = 6;
const REGISTERS: u64 = 8;

/// Reads and writes that there are at least.
const EACH: u64 = 1_000;

/// What the clients of a history have in common.
struct Shared {
    clock: Clock,
    address: String,
    history: Mutex<Vec<Operation>>,
    last_value: AtomicU64,
    writes: AtomicU64,
    reads: AtomicU64,
    is_over: AtomicBool,
}

impl Shared {
    fn note(&self, operation: Operation) {
        self.history.lock().expect("nobody panicked").push(operation);
        let count = match operation.action {
            Action::Write(_) => &self.writes,
            Action::Read(_) => &self.reads,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// One client: reads and writes in turn until it is over.
    fn live(&self, client: usize) {
        let mut random = fastrand::Rng::with_seed(client as u64);
        let connected = Client::connect(vec![self.address.clone()]).expect("a client");
        while !self.is_over.load(Ordering::Relaxed) {
            let register = random.u64(0..REGISTERS);
            let begin = self.clock.now().0;
            let (action, is_known) = if random.bool() {
                let value = self.last_value.fetch_add(1, Ordering::Relaxed) + 1;
                let written = connected.register_write(register, value.to_le_bytes().as_slice());
                match written {
                    Ok(()) => (Action::Write(value), true),
                    Err(ClientError::Register(RegisterError::OutcomeUnknown { .. })) => {
                        (Action::Write(value), false)
                    }
                    // It is said not to be written: its value must not be read.
                    Err(_) => continue,
                }
            } else {
                let Ok(found) = connected.register_read(register) else { continue };
                let value = found.map(|it| u64::from_le_bytes(it.try_into().expect("8 bytes")));
                (Action::Read(value), true)
            };
            let end = is_known.then(|| self.clock.now().0);
            self.note(Operation { client, register, action, begin, end });
            std::thread::park_timeout(Duration::from_micros(random.u64(0..4_000)).to_std());
        }
    }

    fn done(&self) -> u64 {
        self.reads.load(Ordering::Relaxed).min(self.writes.load(Ordering::Relaxed))
    }

    /// Waits until so many more of each were done, which proves that they go on.
    #[track_caller]
    fn go_on(&self, count: u64) {
        let enough = self.done() + count;
        until("reads and writes", LONG, || (self.done() >= enough).then_some(()));
    }
}

/// Ends the clients, also where the test fails: the scope waits for them.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Lets clients read and write while `disturb` does what it does, until there is enough of each, and
/// checks the history.
#[track_caller]
fn check_history(cluster: &Cluster, disturb: impl FnOnce(&Shared)) {
    let shared = Shared {
        clock: Clock::start(),
        address: cluster.leader("master").address,
        history: Mutex::default(),
        last_value: AtomicU64::new(0),
        writes: AtomicU64::new(0),
        reads: AtomicU64::new(0),
        is_over: AtomicBool::new(false),
    };
    std::thread::scope(|scope| {
        let _ends = Ends(&shared.is_over);
        for client in 0..CLIENTS {
            let shared = &shared;
            scope.spawn(move || shared.live(client));
        }
        shared.go_on(100);
        disturb(&shared);
        until("all reads and writes", LONG, || (shared.done() >= EACH).then_some(()));
    });
    let history = shared.history.into_inner().expect("nobody panicked");
    let unknown = history.iter().filter(|it| it.end.is_none()).count();
    println!("{} operations, {unknown} writes of unknown outcome", history.len());
    if let Err(error) = linear::check(&history) {
        panic!("{error}");
    }
}

#[test]
fn histories_under_kills_and_freezes_are_linearizable() {
    let cluster = Cluster::start(FIVE);
    let nodes = cluster.tier("storage");
    let pids: Vec<u32> = nodes.iter().map(|node| node.pid.expect("it runs")).collect();
    check_history(&cluster, |shared| {
        for pid in &pids[1..4] {
            let frozen = Frozen::freeze(*pid);
            shared.go_on(100);
            drop(frozen);
            shared.go_on(20);
        }
        // It stays dead from here on; another one hangs meanwhile.
        kill(pids[0]);
        shared.go_on(100);
        for pid in &pids[1..] {
            let frozen = Frozen::freeze(*pid);
            // Registers of both have no majority, and wait.
            std::thread::park_timeout(std::time::Duration::from_millis(700));
            drop(frozen);
            shared.go_on(50);
        }
    });
}

#[test]
fn histories_through_changes_of_the_ring_are_linearizable() {
    let cluster = Cluster::start(FIVE);
    let client = connect(&cluster);
    let nodes = client.ring().expect("the ring").ring.members().to_vec();
    let moved = |shared: &Shared, order: RingOrder| {
        let version = client.change_ring(order).expect("the ring changes");
        until("registers and blocks by the new version", LONG, || {
            let ring = client.ring_status().ok()?;
            let is_moved = ring.oldest >= version && ring.register_parts == 0;
            is_moved.then_some(())
        });
        shared.go_on(50);
    };
    check_history(&cluster, |shared| {
        for node in nodes.iter().take(2).map(|member| Some(member.node)) {
            moved(shared, RingOrder::new(RingAction::Drain, node));
            moved(shared, RingOrder::new(RingAction::Add, node));
        }
        // Two changes in a row, the second before the first is activated everywhere.
        let [first, second] = [0, 1].map(|at| nodes.get(at).map(|member| member.node));
        let order = RingOrder::new(RingAction::Drain, first);
        client.change_ring(order).expect("the ring changes");
        let order = RingOrder::new(RingAction::Drain, second);
        moved(shared, RingOrder { is_forced: true, ..order });
    });
}
