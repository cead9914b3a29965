//! Registers on three storage nodes: the time of one read and one write after the other, as one
//! client sees it, and what many writers reach together.

use client::Client;
use node::bare;
use node::clock::Clock;
use proto::time::Duration;

use super::cluster::BenchCluster;
use super::{Line, Printer, ms, quantile};
use crate::commands::connect::Asked;
use crate::failure::{During, Failure};

const WARM_UP: u64 = 50;

const ROUNDS: u64 = 1_000;

/// Writers at a time, each on registers of its own, and what each of them writes.
const WRITERS: u64 = 16;
const WRITES: u64 = 200;

const VALUE_BYTES: usize = 64;

const WRITE_LIMIT: &str = "2 of ZeroMQ's round trips + 1 fdatasync";
const READ_LIMIT: &str = "1 of ZeroMQ's round trips";

/// Takes the figures. `sync` is the disk's median.
pub(super) fn run(cluster: &BenchCluster, sync: Duration, printer: Printer) -> Result<(), Failure> {
    let client = cluster.client();
    let clock = Clock::start();
    let trips = bare::round_trips(clock, ROUNDS as usize, VALUE_BYTES)
        .during(|| "measure ZeroMQ's round trip".into())?;
    let trip = ms(quantile(&trips, 0.5).unwrap_or_default());
    let (mut writes, mut reads) = (Vec::new(), Vec::new());
    for round in 0..WARM_UP + ROUNDS {
        let (write, read) = one_round(client, clock, round)?;
        if round >= WARM_UP {
            writes.push(write);
            reads.push(read);
        }
    }
    let of = [
        ("write_p50_ms", "write_p99_ms", &mut writes, 2.0 * trip + ms(sync), WRITE_LIMIT),
        ("read_p50_ms", "read_p99_ms", &mut reads, trip, READ_LIMIT),
    ];
    for (p50, p99, times, limit, limit_name) in of {
        times.sort_unstable();
        for (metric, share) in [(p50, 0.5), (p99, 0.99)] {
            let time = ms(quantile(times, share).unwrap_or_default());
            let line = Line::new("registers", metric, time, "ms").beside(limit, limit_name);
            printer.line(&line)?;
        }
    }
    let seconds = many_writers(client, clock)?.as_secs_f64();
    let rate = (WRITERS * WRITES) as f64 / seconds;
    printer.line(&Line::new("registers", "writes_per_s_16", rate, "1/s"))
}

/// A write, and a read that must see it.
fn one_round(client: &Client, clock: Clock, round: u64) -> Result<(Duration, Duration), Failure> {
    let mut value = round.to_le_bytes().to_vec();
    value.resize(VALUE_BYTES, 7);
    // Another register each time, so that all parts are used.
    let begin = clock.now();
    client.register_write(round, value.clone()).asked()?;
    let between = clock.now();
    let found = client.register_read(round).asked()?;
    let end = clock.now();
    if found != Some(value) {
        return Err(Failure::failed(format!("register {round} does not hold what was written")));
    }
    Ok((between.since(begin), end.since(between)))
}

fn many_writers(client: &Client, clock: Clock) -> Result<Duration, Failure> {
    let writer = |at: u64| {
        (0..WRITES).try_for_each(|round| {
            client.register_write(1 << 32 | at, [round as u8; VALUE_BYTES].as_slice())
        })
    };
    let begin = clock.now();
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS).map(|at| scope.spawn(move || writer(at))).collect();
        writers.into_iter().try_for_each(|writer| match writer.join() {
            Ok(result) => result.asked(),
            Err(_) => Err(Failure::failed("a writer panicked")),
        })
    })?;
    Ok(clock.now().since(begin))
}
