//! `remuda submit`: a job of many tasks, accepted when this returns.

use client::logic::jobs::{JobSelector, Submission};
use proto::description::{Array, JobDescription, Noop, Runtime};
use proto::ids::JobId;
use proto::time::Duration;

use super::connect::{Asked, connect};
use crate::failure::{During, Failure};
use crate::flags::Submit;
use crate::output;

/// Submits a job; its UUID goes to standard output.
pub(crate) fn run(flags: &Submit) -> Result<(), Failure> {
    let Some(seed) = flags.noop else {
        return Err(Failure::usage("nothing says what the tasks are").hint("--noop"));
    };
    let array = flags.array.as_deref().map_or(Ok(Numbers::ONE), Numbers::parse)?;
    let mut description = JobDescription::new(Runtime::Noop(Noop {
        seed,
        shortest: Duration::from_micros(flags.noop_shortest),
        longest: Duration::from_micros(flags.noop_longest.max(flags.noop_shortest)),
        failed_per_million: flags.noop_failed,
        output_bytes: flags.noop_printed,
    }));
    description.name = flags.name.clone().unwrap_or_default();
    description.array = array.array;
    description.validate().map_err(|invalid| Failure::usage(invalid.to_string()))?;
    let job = match flags.job {
        Some(job) => job,
        None => JobId::from_random(node::random::bits().during(|| "draw a job UUID".into())?),
    };
    let client = connect(&flags.place)?;
    let submission = Submission::new(job, &description, array.count, Vec::new())
        .map_err(|error| Failure::usage(error.to_string()))?;
    client.submit(submission).asked()?;
    output::print(&format!("{job}\n"))?;
    if flags.wait {
        super::jobs::wait_for(&client, &JobSelector::Id(job))?;
    }
    Ok(())
}

/// The numbers of the tasks, and how many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Numbers {
    array: Array,
    count: u64,
}

impl Numbers {
    const ONE: Numbers = Numbers { array: Array { first: 0, step: 1 }, count: 1 };

    /// `A-B[:STEP]`: from A to B, B included where the step meets it.
    fn parse(text: &str) -> Result<Numbers, Failure> {
        let wrong = |why: &str| {
            Failure::usage(format!("--array {text}: {why}"))
                .hint("write the first and the last number, such as 0-999 or 0-999:10")
        };
        let (range, step) = match text.split_once(':') {
            Some((range, step)) => {
                (range, step.parse().map_err(|_| wrong("the step is no number"))?)
            }
            None => (text, 1u64),
        };
        let bounds = range.split_once('-').and_then(|(first, last)| {
            Some((first.parse::<u64>().ok()?, last.parse::<u64>().ok()?))
        });
        let (first, last) = bounds.ok_or_else(|| wrong("it has no two numbers"))?;
        if step == 0 {
            return Err(wrong("the step is 0"));
        }
        if last < first {
            return Err(wrong("it is empty"));
        }
        let count = ((last - first) / step).checked_add(1);
        match count.filter(|count| *count <= proto::limits::TASKS_PER_JOB) {
            Some(count) => Ok(Numbers { array: Array { first, step }, count }),
            None => {
                let limit = proto::limits::TASKS_PER_JOB;
                Err(wrong(&format!("a job has at most {limit} tasks")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<(u64, u64, u64), String> {
        match Numbers::parse(text) {
            Ok(Numbers { array, count }) => Ok((array.first, array.step, count)),
            Err(failure) => Err(format!("{failure:?}")),
        }
    }

    #[test]
    fn arrays_include_both_ends() {
        assert_eq!(parse("0-999"), Ok((0, 1, 1000)));
        assert_eq!(parse("7-7"), Ok((7, 1, 1)));
        assert_eq!(parse("10-20:5"), Ok((10, 5, 3)));
        assert_eq!(parse("10-19:5"), Ok((10, 5, 2)));
        let most = format!("1-{}", proto::limits::TASKS_PER_JOB);
        assert_eq!(parse(&most), Ok((1, 1, proto::limits::TASKS_PER_JOB)));
    }

    #[test]
    fn what_is_no_array_is_refused_with_the_reason() {
        let too_many = format!("0-{}", proto::limits::TASKS_PER_JOB);
        let all = format!("0-{}", u64::MAX);
        for (text, why) in [
            ("5-4", "it is empty"),
            ("0-9:0", "the step is 0"),
            ("0-9:x", "the step is no number"),
            ("9", "it has no two numbers"),
            ("", "it has no two numbers"),
            ("-5-4", "it has no two numbers"),
            (&too_many, "at most 4294967296 tasks"),
            (&all, "at most 4294967296 tasks"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
