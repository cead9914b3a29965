//! What a cluster does is counted: blocks for what many tasks print, bytes at the tiers that
//! contents never pass.

use std::io::Write;

use cluster_tests::{Need, has};
use proto::description::Noop;
use proto::ids::TaskIndex;

use crate::cluster::Cluster;
use crate::counters::{SocketBytes, storage_counters};

const SMALL: &[&str] =
    &["--masters", "1", "--balancers", "1", "--storage", "3", "--workers", "2", "--slots", "2"];

/// Replicas of every block where nothing else was asked for.
const REPLICAS: u64 = 2;

/// Bytes that tasks read, unless `REMUDA_READ_MIB` says more.
const READ_MIB: u64 = 256;

/// Tasks that read them.
const READERS: u64 = 12;

/// What heartbeats, logs and answers may come to while the tasks read.
const SMALL_TALK_BYTES: u64 = 4 << 20;

/// Blocks that a cluster has stored, copies not counted.
#[track_caller]
fn stored_blocks(cluster: &Cluster) -> u64 {
    let blocks = storage_counters(cluster).put_count / REPLICAS;
    assert!(blocks > 0, "what tasks print is stored");
    blocks
}

#[test]
fn a_hundred_thousand_tasks_that_print_make_few_blocks() {
    let cluster = Cluster::start(SMALL);
    let flags = ["--noop", "7", "--noop-printed", "20", "--array", "0-99999", "--wait"];
    let job = cluster.submit(&flags);
    let blocks = stored_blocks(&cluster);
    println!("{blocks} blocks of 100,000 tasks");
    assert!(blocks < 1_000, "{blocks} blocks of 100,000 tasks");
    let noop = Noop { seed: 7, output_bytes: 20, ..Noop::default() };
    for task in [0, 1, 49_999, 99_999] {
        let printed = cluster.run(&["cat", &format!("job:{job}/{task}/stdout")]).ok();
        assert_eq!(printed.into_bytes(), noop.printed(TaskIndex(task)));
    }
}

#[test]
fn processes_that_print_make_few_blocks() {
    let cluster = Cluster::start(SMALL);
    let tasks = ["--array", "0-4999", "--wait", "--", "echo", "nineteen letters {index}"];
    let job = cluster.submit(&tasks);
    let blocks = stored_blocks(&cluster);
    println!("{blocks} blocks of 5,000 tasks");
    // On an idle machine they are about 20: one a second and worker. The slower the machine, the more.
    assert!(blocks < 200, "{blocks} blocks of 5,000 tasks");
    for task in [0, 2_500, 4_999] {
        let printed = cluster.run(&["cat", &format!("job:{job}/{task}/stdout")]).ok();
        assert_eq!(printed, format!("nineteen letters {task}\n"));
    }
}

/// Writes a file of numbers, no two blocks of which are equal.
fn make_numbers(path: &std::path::Path, bytes: u64) {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path).expect("make a file"));
    for number in 0..bytes / 8 {
        file.write_all(&number.to_le_bytes()).expect("write a file");
    }
    file.flush().expect("write a file");
}

#[test]
fn contents_pass_neither_masters_nor_balancers() {
    if !has(Need::Ss) {
        return;
    }
    let told = std::env::var("REMUDA_READ_MIB").ok().and_then(|told| told.parse().ok());
    let mib: u64 = told.unwrap_or(READ_MIB);
    let bytes = mib << 20;
    let cluster = Cluster::start(&["--workers", "2", "--slots", "2"]);
    let place = cluster.place();
    make_numbers(&place.join("numbers"), bytes);

    let pids = |tier| cluster.tier(tier).into_iter().filter_map(|it| it.pid);
    let passed = SocketBytes::of(pids("master").chain(pids("balancer")).collect());
    let workers = SocketBytes::of(pids("worker").collect());
    cluster.run(&["put", "numbers", "numbers"]).ok();
    let before = storage_counters(&cluster);
    // Each task reads its share, in words of eight bytes, and prints what its first one is.
    let share = bytes / READERS / 8;
    let script = format!(
        "dd if=$REMUDA_INPUTS/numbers bs=65536 iflag=skip_bytes,count_bytes \
         skip=$((REMUDA_TASK * {share} * 8)) count=$(({share} * 8)) status=none \
         | od -A n -t u8 -v | awk 'NR == 1 {{ first = $1 }} END {{ print first, NR }}'"
    );
    let array = format!("0-{}", READERS - 1);
    let input = ["--input", "numbers=name:numbers", "--array", &array, "--wait"];
    let job = cluster.submit(&[&input[..], &["--", "sh", "-c", &script]].concat());
    let (passed, connections) = passed.end();
    let (fetched, _) = workers.end();
    for task in 0..READERS {
        let printed = cluster.run(&["cat", &format!("job:{job}/{task}/stdout")]).ok();
        assert_eq!(printed, format!("{} {}\n", task * share, share.div_ceil(2)));
    }
    let read = storage_counters(&cluster).get_bytes - before.get_bytes;
    println!(
        "{mib} MiB read, {} MiB from storage, {passed} B at {connections} connections",
        read >> 20
    );
    // The rest of a division, in words.
    let wanted = share * 8 * READERS;
    assert!(read >= wanted, "storage nodes gave {read} of {wanted} bytes");
    assert!(fetched >= wanted, "workers got {fetched} of {wanted} bytes");
    assert!(connections >= 10, "{connections} connections of masters and balancers were seen");
    assert!(passed > 0 && passed < SMALL_TALK_BYTES, "{passed} bytes passed masters and balancers");
}
