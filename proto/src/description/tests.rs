//! Descriptions: round trips, defaults, refusals, and bytes from outside.

use std::cell::Cell;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;

fn command(program: Program) -> JobDescription {
    JobDescription::new(Runtime::Command { program, arguments: vec![b"{index}".to_vec()] })
}

fn example() -> JobDescription {
    JobDescription {
        name: "example".into(),
        environment: vec![("LANG".into(), "C".into())],
        inputs: vec![
            Input {
                name: "data/table.csv".into(),
                source: InputSource::File { file: FileId(5), length: 100, is_executable: false },
            },
            Input { name: "code".into(), source: InputSource::Tree { tree: FileId(6), length: 9 } },
            Input { name: "old".into(), source: InputSource::Name("old:3".into()) },
        ],
        outputs: vec!["*.png".into()],
        lines: Some(Lines { text: FileId(7), text_length: 70, offsets: FileId(8) }),
        array: Array { first: 10, step: 2 },
        resources: BTreeMap::from([("gpu".into(), 1)]),
        time_limit: Some(Duration::from_secs(60)),
        max_fails: Some(3),
        owner: "ann@field".into(),
        retry: Some(Retry { job: JobId(9), tasks: vec![2..5, 70..71] }),
        ..command(Program::File(FileId(4)))
    }
}

#[test]
fn a_description_is_read_as_it_was_written() {
    let noop = JobDescription::new(Runtime::Noop(Noop::default()));
    for description in [example(), noop, command(Program::Inline)] {
        assert_eq!(description.validate(), Ok(()));
        let bytes = description.encode().unwrap();
        assert_eq!(JobDescription::decode(&bytes), Ok(description.clone()));
        assert_eq!(JobDescription::decode_file(&bytes), Ok(description));
    }
}

#[test]
fn the_encoding_never_changes() {
    let bytes = example().encode().unwrap();
    let digest = crate::digest::Digest::of(crate::status::BlockKind::Content, &bytes);
    assert_eq!(
        (bytes.len(), digest.file_id().to_string().as_str()),
        (120, "d39df714-f82d-8807-8945-3393a4ff56c6")
    );
}

#[test]
fn a_retried_task_is_one_of_the_other_job() {
    let retry = Retry { job: JobId(9), tasks: vec![2..5, 70..71] };
    let origins: Vec<_> = (0..5).map(|task| retry.origin(TaskIndex(task))).collect();
    assert_eq!(origins[..4], [2, 3, 4, 70].map(|task| Some(TaskIndex(task))));
    assert_eq!(origins[4], None);
    let beyond = limits::TASKS_PER_JOB + 1;
    for tasks in [&[(3, 3)][..], &[(4, 6), (5, 7)], &[(0, beyond)]] {
        let tasks = tasks.iter().map(|&(start, end)| start..end).collect();
        let retry = Some(Retry { job: JobId(9), tasks });
        assert!(JobDescription { retry, ..example() }.validate().is_err());
    }
}

#[test]
fn lengths_and_versions_are_checked() {
    let bytes = example().encode().unwrap();
    let inline = Runtime::Command { program: Program::Inline, arguments: vec![] };
    assert_eq!(JobDescription::decode(&[]), Ok(JobDescription::new(inline)));
    for length in 1..bytes.len() {
        assert_eq!(JobDescription::decode(&bytes[..length]), Err(NotADescription::Damaged));
    }
    let longer = [&bytes[..], &[0]].concat();
    assert_eq!(JobDescription::decode(&longer), Err(NotADescription::Damaged));
    let newer = [&[9], &bytes[1..]].concat();
    assert_eq!(JobDescription::decode(&newer), Err(NotADescription::Version { version: 9 }));

    let mut large = example();
    large.environment = vec![("A".into(), "b".repeat(limits::DESCRIPTION_BYTES))];
    let bytes = large.encode().unwrap();
    let length = bytes.len();
    assert_eq!(JobDescription::decode(&bytes), Err(NotADescription::TooLarge { length }));
    assert_eq!(JobDescription::decode_file(&bytes), Ok(large.clone()));
    large.environment[0].1 = "b".repeat(limits::DESCRIPTION_FILE_BYTES);
    assert!(matches!(large.encode(), Err(NotADescription::TooLarge { .. })));
}

#[test]
fn an_array_numbers_its_tasks() {
    let array = Array { first: 10, step: 3 };
    assert_eq!([0, 1, 7].map(|task| array.number(TaskIndex(task))), [10, 13, 31]);
    assert_eq!(Array::default().number(TaskIndex(5)), 5);
    assert_eq!(array.number(TaskIndex(u64::MAX)), u64::MAX);
}

#[test]
fn a_problem_is_told_in_a_sentence() {
    fn problem(change: impl FnOnce(&mut JobDescription)) -> String {
        let mut description = example();
        change(&mut description);
        description.validate().unwrap_err().to_string()
    }
    let program = |program| problem(|it| it.runtime = command(program).runtime);
    let input = |name: &str| problem(|it| it.inputs[0].name = name.into());
    let noop = |noop| problem(|it| it.runtime = Runtime::Noop(noop));
    let late = Noop { shortest: Duration(2), longest: Duration(1), ..Noop::default() };
    let many = Noop { failed_per_million: 1_000_001, ..Noop::default() };
    for (sentence, part) in [
        (problem(|it| it.name = "n".repeat(256)), "job's name"),
        (problem(|it| it.name = "a\nb".into()), "job's name"),
        (program(Program::Path(vec![])), "program is empty"),
        (program(Program::Path(b"./x".to_vec())), "is uploaded"),
        (program(Program::Path(b"/x\0".to_vec())), "contains NUL"),
        (program(Program::File(FileId(0))), "not named"),
        (noop(late), "longer than the longest"),
        (noop(many), "more than a million"),
        (
            problem(|it| {
                let arguments = vec![vec![]; 5000];
                it.runtime = Runtime::Command { program: Program::Inline, arguments };
            }),
            "5000 arguments",
        ),
        (
            problem(|it| {
                let arguments = vec![vec![], vec![0]];
                it.runtime = Runtime::Command { program: Program::Inline, arguments };
            }),
            "argument 2",
        ),
        (problem(|it| it.environment[0].0 = "A=B".into()), "environment variable"),
        (problem(|it| it.environment[0].0 = "REMUDA_TASK".into()), "Remuda's own"),
        (problem(|it| it.environment[0].1 = "\0".into()), "contains NUL"),
        (problem(|it| it.environment = vec![("A".into(), String::new()); 5000]), "5000 env"),
        (input("../x"), "without `..`"),
        (input("a/../x"), "without `..`"),
        (input("/etc"), "inside the inputs"),
        (input(""), "inside the inputs"),
        (input("a//b"), "inside the inputs"),
        (input("code"), "two inputs"),
        (input("code/x"), "inside the input \"code\""),
        (problem(|it| it.inputs = vec![it.inputs[0].clone(); 1025]), "1025 inputs"),
        (problem(|it| it.inputs[2].source = InputSource::Name(String::new())), "no name of a"),
        (
            problem(|it| it.inputs[1].source = InputSource::Tree { tree: FileId(0), length: 1 }),
            "names no file",
        ),
        (
            problem(|it| {
                it.inputs[1].source = InputSource::Tree { tree: FileId(1), length: u64::MAX };
            }),
            "longer than a file",
        ),
        (problem(|it| it.outputs = vec!["../*".into()]), "output pattern"),
        (problem(|it| it.outputs = vec!["/x".into()]), "output pattern"),
        (problem(|it| it.outputs = vec!["x".into(); 5000]), "5000 output"),
        (problem(|it| it.cpu_milli = 0), "thousandth of a CPU"),
        (problem(|it| it.resources = BTreeMap::from([("a b".into(), 1)])), "resource"),
        (problem(|it| it.time_limit = Some(Duration::ZERO)), "time limit"),
        (problem(|it| it.array.step = 0), "step"),
        (problem(|it| it.replica_count = 10), "10 replicas"),
        (
            problem(|it| {
                let lines = Lines { text: FileId(1), text_length: u64::MAX, offsets: FileId(2) };
                it.lines = Some(lines);
            }),
            "--each-line",
        ),
    ] {
        assert!(sentence.contains(part), "{sentence:?} does not contain {part:?}");
    }
}

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(cases) })
}

#[test]
fn bytes_from_outside_never_panic() {
    let [accepted, refused] = [Cell::new(0), Cell::new(0)];
    let flips = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    let good = example().encode().unwrap();
    runner(4000)
        .run(&flips, |flips| {
            let mut bytes = good.clone();
            for (at, value) in flips {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            match JobDescription::decode(&bytes) {
                Ok(description) if description.validate().is_ok() => {
                    accepted.set(accepted.get() + 1);
                    let again = description.encode().unwrap();
                    prop_assert_eq!(JobDescription::decode(&again), Ok(description));
                }
                Ok(_) | Err(_) => refused.set(refused.get() + 1),
            }
            Ok(())
        })
        .unwrap();
    let noise = prop::collection::vec(any::<u8>(), 0..300);
    runner(2000)
        .run(&noise, |noise| {
            let _ = JobDescription::decode(&[&[DESCRIPTION_VERSION], &noise[..]].concat());
            Ok(())
        })
        .unwrap();
    println!("mutated descriptions: {} accepted, {} refused", accepted.get(), refused.get());
    assert!(accepted.get() > 0 && refused.get() > 0);
}
