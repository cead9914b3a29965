//! How much faster a job of sleeping tasks gets by more workers: what dealing, starting and
//! reporting cost beside the tasks themselves.

use super::cluster::{Room, Shape, TheDead};
use super::{Line, Printer, print_sync, processes};
use crate::failure::{During, Failure};

/// Tasks of a job.
const TASKS: u64 = 500;

/// What each of them sleeps, in seconds, as `sleep` reads it.
const SECONDS: &str = "0.05";

/// Metrics by the number of workers, from one on.
const METRICS: [&str; 5] = ["at_1", "at_2", "at_3", "at_4", "at_5"];

/// Tasks of a job that comes first, so that every worker is there and the rate is known.
const WARM_UP_TASKS: u64 = 50;

const LIMIT: &str = "as many times as there are workers";

/// Takes the figures, each on a cluster of its own with one slot a worker.
pub(super) fn run(room: &Room, masters: u32, printer: Printer) -> Result<(), Failure> {
    let mut alone = None;
    for (workers, metric) in (1..).zip(METRICS) {
        let cluster = room.start(Shape { masters, workers, slots: 1 }, TheDead::ComeBack)?;
        if alone.is_none() {
            print_sync(&cluster, printer)?;
        }
        processes::job(cluster.client(), "/bin/sleep", &[SECONDS], WARM_UP_TASKS)?;
        let time = processes::job(cluster.client(), "/bin/sleep", &[SECONDS], TASKS)?;
        cluster.end().during(|| "end the cluster".into())?;
        let alone = *alone.get_or_insert(time);
        let times = alone.as_secs_f64() / time.as_secs_f64();
        let line = Line::new("speedup", metric, times, "x");
        printer.line(&line.beside(f64::from(workers), LIMIT))?;
    }
    Ok(())
}
