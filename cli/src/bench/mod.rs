//! `remuda bench`: figures of a whole cluster on this machine, each beside a limit that is measured
//! in the same run where there is one.
//!
//! The cluster is a real one, as `remuda dev` starts it, with its folder on a real disk. A figure
//! whose run did not give what it should is an error, never a number.

mod accounting;
mod cluster;
mod disk;
mod files;
mod idle;
mod latency;
mod mounted;
mod native;
mod noop;
mod processes;
mod recover;
mod registers;
mod scale;
mod spawn;
mod speedup;
mod submit;

use proto::time::Duration;
use serde::Serialize;

use crate::failure::{During, Failure};
use crate::flags::{Bench, Figure};
use crate::output;
use cluster::{BenchCluster, MASTERS, Room, Shape, TheDead};

/// One figure, as it is printed.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Line {
    bench: &'static str,
    metric: &'static str,
    value: f64,
    unit: &'static str,
    #[serde(flatten)]
    limit: Option<Limit>,
    #[serde(flatten)]
    spread: Option<Spread>,
    /// Masters of the cluster, where the figure is taken for several numbers of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    masters: Option<u32>,
}

/// The limit that was measured in the same run.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Limit {
    limit: f64,
    limit_name: &'static str,
    /// The value divided by the limit.
    ratio: f64,
}

/// How far values lie above their median.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Spread {
    p95: f64,
    max: f64,
}

impl Line {
    fn new(bench: &'static str, metric: &'static str, value: f64, unit: &'static str) -> Line {
        let value = rounded(value);
        Line { bench, metric, value, unit, limit: None, spread: None, masters: None }
    }

    fn beside(self, limit: f64, limit_name: &'static str) -> Line {
        let ratio = rounded(self.value / limit);
        Line { limit: Some(Limit { limit: rounded(limit), limit_name, ratio }), ..self }
    }

    fn up_to(self, p95: f64, max: f64) -> Line {
        Line { spread: Some(Spread { p95: rounded(p95), max: rounded(max) }), ..self }
    }

    fn text(&self) -> String {
        let figure = format!("{}.{}", self.bench, self.metric);
        let mut text = format!("{figure:28} {:>14} {}", self.value, self.unit);
        if let Some(masters) = self.masters {
            text += &format!(" with {masters} masters");
        }
        if let Some(Spread { p95, max }) = &self.spread {
            text += &format!("  (p95 {p95}, max {max})");
        }
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
    /// Masters of the cluster, where the figure is taken for several numbers of them.
    masters: Option<u32>,
}

impl Printer {
    fn line(self, line: &Line) -> Result<(), Failure> {
        let line = Line { masters: self.masters, ..line.clone() };
        if self.json {
            output::json::print(&line)
        } else {
            output::print(&format!("{}\n", line.text()))
        }
    }
}

/// All figures, in the order in which they are taken.
const ALL: [Figure; 10] = [
    Figure::Noop,
    Figure::Spawn,
    Figure::Latency,
    Figure::Submit,
    Figure::Speedup,
    Figure::Files,
    Figure::Registers,
    Figure::Idle,
    Figure::Recover,
    Figure::Scale,
];

/// Figures that tell what replication costs are taken for each of these numbers of masters, the
/// usual one last.
const REPLICATION: [u32; 3] = [1, 5, MASTERS];

/// Runs what the flags ask for, each figure on a new cluster.
pub(crate) fn run(flags: &Bench) -> Result<(), Failure> {
    if cfg!(debug_assertions) {
        eprintln!("warning: this is not a release build; measure with target/release/remuda");
    }
    let printer = Printer { json: flags.json, masters: None };
    let room = Room::open(flags)?;
    match flags.figure {
        Figure::All => ALL.iter().try_for_each(|figure| take(*figure, &room, flags, printer)),
        figure => take(figure, &room, flags, printer),
    }
}

fn take(figure: Figure, room: &Room, flags: &Bench, printer: Printer) -> Result<(), Failure> {
    let shape = Shape::of(flags);
    match figure {
        Figure::Speedup => speedup::run(room, shape.masters, printer),
        Figure::Scale => scale::run(room, shape, flags.tasks, printer),
        Figure::Noop | Figure::Latency | Figure::Submit if flags.masters.is_none() => {
            REPLICATION.iter().try_for_each(|masters| {
                let printer = Printer { masters: Some(*masters), ..printer };
                take_on(room, Shape { masters: *masters, ..shape }, figure, flags, printer)
            })
        }
        Figure::Recover if shape.masters < MASTERS => {
            Err(Failure::usage("with one master there is no other to take over from it")
                .hint("leave --masters out"))
        }
        figure => take_on(room, shape, figure, flags, printer),
    }
}

/// Takes a figure on a new cluster.
fn take_on(
    room: &Room,
    shape: Shape,
    figure: Figure,
    flags: &Bench,
    printer: Printer,
) -> Result<(), Failure> {
    let dead = if figure == Figure::Recover { TheDead::StayDead } else { TheDead::ComeBack };
    let cluster = room.start(shape, dead)?;
    let sync = print_sync(&cluster, printer)?;
    match figure {
        Figure::Noop => noop::run(&cluster, flags, printer)?,
        Figure::Spawn => spawn::run(&cluster, shape, flags, printer)?,
        Figure::Latency => latency::run(&cluster, sync, printer)?,
        Figure::Submit => submit::run(&cluster, printer)?,
        Figure::Files => files::run(&cluster, printer)?,
        Figure::Registers => registers::run(&cluster, sync, printer)?,
        Figure::Idle => idle::run(&cluster, printer)?,
        Figure::Recover => recover::run(&cluster, flags, printer)?,
        Figure::Speedup | Figure::Scale | Figure::All => {
            unreachable!("they have no cluster of their own")
        }
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
        let line = Line::new("recover", "worker_ms", 2.0, "ms").up_to(3.0, 4.0);
        let line = Line { masters: Some(5), ..line };
        assert_eq!(
            serde_json::to_string(&line).unwrap(),
            r#"{"bench":"recover","metric":"worker_ms","value":2.0,"unit":"ms","p95":3.0,"max":4.0,"masters":5}"#
        );
        assert!(line.text().ends_with("2 ms with 5 masters  (p95 3, max 4)"), "{}", line.text());
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
