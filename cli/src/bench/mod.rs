//! `remuda bench`: figures of a whole cluster on this machine, each beside a limit that is measured
//! in the same run where there is one.
//!
//! The cluster is a real one, as `remuda dev` starts it, with its folder on a real disk. A figure
//! whose run did not give what it should is an error, never a number.

mod accounting;
mod cluster;
mod disk;
mod files;
mod latency;
mod native;
mod noop;
mod processes;
mod spawn;
mod speedup;
mod submit;

use proto::time::Duration;
use serde::Serialize;

use crate::failure::{During, Failure};
use crate::flags::{Bench, Figure};
use crate::output;
use cluster::{BenchCluster, Room, Shape};

/// One figure, as it is printed.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Line {
    bench: &'static str,
    metric: &'static str,
    value: f64,
    unit: &'static str,
    #[serde(flatten)]
    limit: Option<Limit>,
}

/// The limit that was measured in the same run.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Limit {
    limit: f64,
    limit_name: &'static str,
    /// The value divided by the limit.
    ratio: f64,
}

impl Line {
    fn new(bench: &'static str, metric: &'static str, value: f64, unit: &'static str) -> Line {
        Line { bench, metric, value: rounded(value), unit, limit: None }
    }

    fn beside(self, limit: f64, limit_name: &'static str) -> Line {
        let ratio = rounded(self.value / limit);
        Line { limit: Some(Limit { limit: rounded(limit), limit_name, ratio }), ..self }
    }

    fn text(&self) -> String {
        let figure = format!("{}.{}", self.bench, self.metric);
        let text = format!("{figure:28} {:>14} {}", self.value, self.unit);
        match &self.limit {
            Some(Limit { limit, limit_name, ratio }) => {
                format!("{text}  ({ratio} of {limit}: {limit_name})")
            }
            None => text,
        }
    }
}

/// Three digits behind the point are more than any run repeats.
fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn ms(time: Duration) -> f64 {
    time.as_micros() as f64 / 1e3
}

/// The value below which this share of the sorted times lies.
fn quantile(sorted: &[Duration], share: f64) -> Option<Duration> {
    let last = sorted.len().checked_sub(1)?;
    sorted.get((last as f64 * share).round() as usize).copied()
}

/// Prints figures as they come, for people or for programs.
#[derive(Clone, Copy, Debug)]
struct Printer {
    json: bool,
}

impl Printer {
    fn line(self, line: &Line) -> Result<(), Failure> {
        if self.json {
            output::json::print(line)
        } else {
            output::print(&format!("{}\n", line.text()))
        }
    }
}

/// All figures, in the order in which they are taken.
const ALL: [Figure; 6] =
    [Figure::Noop, Figure::Spawn, Figure::Latency, Figure::Submit, Figure::Speedup, Figure::Files];

/// Runs what the flags ask for, each figure on a new cluster.
pub(crate) fn run(flags: &Bench) -> Result<(), Failure> {
    if cfg!(debug_assertions) {
        eprintln!("warning: this is not a release build; measure with target/release/remuda");
    }
    let printer = Printer { json: flags.json };
    let room = Room::open(flags)?;
    match flags.figure {
        Figure::All => ALL.iter().try_for_each(|figure| take(*figure, &room, flags, printer)),
        figure => take(figure, &room, flags, printer),
    }
}

fn take(figure: Figure, room: &Room<'_>, flags: &Bench, printer: Printer) -> Result<(), Failure> {
    if figure == Figure::Speedup {
        return speedup::run(room, printer);
    }
    let shape = Shape::of(flags);
    let cluster = room.start(shape)?;
    let sync = print_sync(&cluster, printer)?;
    match figure {
        Figure::Noop => noop::run(&cluster, flags, printer)?,
        Figure::Spawn => spawn::run(&cluster, shape, flags, printer)?,
        Figure::Latency => latency::run(&cluster, sync, printer)?,
        Figure::Submit => submit::run(&cluster, printer)?,
        Figure::Files => files::run(&cluster, printer)?,
        Figure::Speedup | Figure::All => unreachable!("it was taken above"),
    }
    cluster.end().during(|| "end the cluster".into())
}

/// Prints the disk's median time of a sync, which every figure lives on.
fn print_sync(cluster: &BenchCluster, printer: Printer) -> Result<Duration, Failure> {
    let sync = disk::sync_p50(cluster.folder())?;
    printer.line(&Line::new("disk", "fdatasync_p50_ms", ms(sync), "ms"))?;
    Ok(sync)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_one_line_of_json() {
        let line = Line::new("noop", "tasks_per_s", 1_234.567_8, "tasks/s");
        let json = serde_json::to_string(&line).unwrap();
        let plain = r#"{"bench":"noop","metric":"tasks_per_s","value":1234.568,"unit":"tasks/s"}"#;
        assert_eq!(json, plain);
        let line = Line::new("latency", "p50_ms", 2.0, "ms").beside(0.8, "the least there can be");
        assert_eq!(
            serde_json::to_string(&line).unwrap(),
            r#"{"bench":"latency","metric":"p50_ms","value":2.0,"unit":"ms","limit":0.8,"limit_name":"the least there can be","ratio":2.5}"#
        );
        assert!(line.text().contains("(2.5 of 0.8: the least"), "{}", line.text());
    }

    #[test]
    fn quantiles_are_values_that_occurred() {
        let times: Vec<Duration> = (1..=100).map(Duration).collect();
        assert_eq!(quantile(&times, 0.5), Some(Duration(51)));
        assert_eq!(quantile(&times, 0.99), Some(Duration(99)));
        assert_eq!(quantile(&times, 1.0), Some(Duration(100)));
        assert_eq!(quantile(&[], 0.5), None);
    }
}
