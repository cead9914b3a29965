//! What a task costs against the size of the job and of the cluster: jobs of tasks that do nothing,
//! of 10^3 to 10^8 tasks, and one job on 1 to 64 workers.

use proto::time::Duration;

use super::cluster::{BenchCluster, Room, Shape, TheDead, resident_memory};
use super::{Line, Printer, mib, ms, noop, print_sync, quantile};
use crate::failure::{During, Failure};

/// One size of a job: its tasks, how often it is run, and its metrics.
struct Size {
    tasks: u64,
    rounds: usize,
    time: &'static str,
    cost: &'static str,
    memory: &'static str,
}

/// Small jobs vary more, large ones take long.
const SIZES: [Size; 6] = [
    Size {
        tasks: 1_000,
        rounds: 9,
        time: "job_ms_1e3",
        cost: "us_per_task_1e3",
        memory: "leader_mib_1e3",
    },
    Size {
        tasks: 10_000,
        rounds: 9,
        time: "job_ms_1e4",
        cost: "us_per_task_1e4",
        memory: "leader_mib_1e4",
    },
    Size {
        tasks: 100_000,
        rounds: 9,
        time: "job_ms_1e5",
        cost: "us_per_task_1e5",
        memory: "leader_mib_1e5",
    },
    Size {
        tasks: 1_000_000,
        rounds: 5,
        time: "job_ms_1e6",
        cost: "us_per_task_1e6",
        memory: "leader_mib_1e6",
    },
    Size {
        tasks: 10_000_000,
        rounds: 3,
        time: "job_ms_1e7",
        cost: "us_per_task_1e7",
        memory: "leader_mib_1e7",
    },
    Size {
        tasks: 100_000_000,
        rounds: 1,
        time: "job_ms_1e8",
        cost: "us_per_task_1e8",
        memory: "leader_mib_1e8",
    },
];

/// Numbers of workers, of one slot each, with their metric.
const WORKERS: [(u32, &str); 7] = [
    (1, "tasks_per_s_at_1"),
    (2, "tasks_per_s_at_2"),
    (4, "tasks_per_s_at_4"),
    (8, "tasks_per_s_at_8"),
    (16, "tasks_per_s_at_16"),
    (32, "tasks_per_s_at_32"),
    (64, "tasks_per_s_at_64"),
];

/// Tasks of the job that is run on each number of workers.
const TASKS_OF_WORKERS: u64 = 1_000_000;

/// How often it is run.
const ROUNDS_OF_WORKERS: usize = 3;

/// Takes the figures: sizes up to `largest` tasks on a cluster of this shape, then the numbers of
/// workers, each on a cluster of its own.
pub(super) fn run(
    room: &Room,
    shape: Shape,
    largest: Option<u64>,
    printer: Printer,
) -> Result<(), Failure> {
    let largest = largest.unwrap_or(u64::MAX);
    let cluster = room.start(shape, TheDead::ComeBack)?;
    print_sync(&cluster, printer)?;
    noop::warm_up(&cluster)?;
    for size in SIZES.iter().filter(|size| size.tasks <= largest) {
        let time = median(&cluster, size.tasks, size.rounds)?;
        let cost = time.as_secs_f64() * 1e6 / size.tasks as f64;
        let memory = resident_memory(cluster.leader()?)?;
        printer.line(&Line::new("scale", size.time, ms(time), "ms"))?;
        printer.line(&Line::new("scale", size.cost, cost, "us"))?;
        printer.line(&Line::new("scale", size.memory, mib(memory), "MiB"))?;
    }
    cluster.end().during(|| "end the cluster".into())?;
    for (workers, metric) in WORKERS {
        let cluster = room.start(Shape { workers, slots: 1, ..shape }, TheDead::ComeBack)?;
        noop::warm_up(&cluster)?;
        let tasks = TASKS_OF_WORKERS.min(largest);
        let time = median(&cluster, tasks, ROUNDS_OF_WORKERS)?;
        printer.line(&Line::new("scale", metric, tasks as f64 / time.as_secs_f64(), "tasks/s"))?;
        cluster.end().during(|| "end the cluster".into())?;
    }
    Ok(())
}

/// The median time of so many jobs.
fn median(cluster: &BenchCluster, tasks: u64, rounds: usize) -> Result<Duration, Failure> {
    let mut times = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        times.push(noop::job(cluster, tasks)?);
    }
    times.sort_unstable();
    Ok(quantile(&times, 0.5).unwrap_or_default())
}
