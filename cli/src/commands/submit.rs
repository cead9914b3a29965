//! `remuda submit`: a job of many tasks, accepted when this returns.
//!
//! From flags to a draft; whether it can be made is the client library's matter, and what to do
//! about it where not is said here.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use client::logic::jobs::JobSelector;
use client::{
    Client, Draft, DraftError, DraftInput, DraftProgram, InputFrom, LinesFrom, Tasks, Work,
};
use proto::description::{Array, JobDescription, Noop};
use proto::ids::JobId;
use proto::status::Reason;
use proto::time::Duration;
use serde::Serialize;

use super::connect::{Asked, connect};
use super::source::Source;
use crate::failure::{During, Failure};
use crate::flags::Submit;
use crate::output::progress::Progress;
use crate::output::{self, json};
use crate::owner;

/// Longest script that is read into memory (eyeballed).
const SCRIPT_BYTES: u64 = 16 << 20;

/// Longest text that is read from standard input: what is longer belongs into a file.
const INPUT_BYTES: u64 = 1 << 30;

/// A job as it is shown to programs.
#[derive(Debug, Serialize)]
struct Shown {
    job: String,
    tasks: u64,
}

/// Submits a job; its UUID goes to standard output.
pub(crate) fn run(flags: &Submit) -> Result<(), Failure> {
    let checked = draft(flags)?.check().map_err(|error| refused(&error))?;
    if flags.dry_run {
        note_forgotten_lines(flags);
        return super::dry_run::run(&checked, &flags.listing);
    }
    let tasks = checked.task_count();
    let job = flags.job.map_or_else(client::new_job_id, Ok).asked()?;
    let mut client = connect(&flags.listing.place)?;
    client.set_replicas(flags.replicas.unwrap_or(0));
    let mut bar = Progress::files();
    let submission = client.upload(checked, job, &mut |so_far| bar.count(so_far));
    drop(bar);
    client.submit(submission.asked()?).asked()?;
    if flags.listing.json {
        json::print(&Shown { job: job.to_string(), tasks })?;
    } else {
        output::print(&format!("{job}\n"))?;
    }
    note_forgotten_lines(flags);
    note_large_tasks(flags, &client, job)?;
    if flags.wait {
        super::jobs::wait_for(&client, &JobSelector::Id(job))?;
    }
    Ok(())
}

/// Says where `{line}` stands for no line: that is allowed, and seldom meant.
fn note_forgotten_lines(flags: &Submit) {
    let mut arguments = flags.command.iter().map(|it| it.as_bytes());
    let has_place = arguments.any(|it| it.windows(6).any(|bytes| bytes == b"{line}"));
    if has_place && flags.each_line.is_none() {
        output::note("{line} stays as it is: tasks have lines with --each-line FILE");
    }
}

/// Says where no worker has room for a task.
fn note_large_tasks(flags: &Submit, client: &Client, job: JobId) -> Result<(), Failure> {
    if flags.cpus.is_none_or(|milli| milli <= 1_000) && flags.mem.is_none() {
        return Ok(());
    }
    let told = client.explained_by_masters(job, None).asked()?.told;
    if let Some(told) = told.iter().find(|it| it.reason == Reason::TooLarge) {
        output::note(&format!(
            "no worker is large enough for one of the tasks: the largest has {}; they wait until \
             there is one (remuda explain {job})",
            told.text
        ));
    } else if told.iter().any(|it| it.reason == Reason::NoWorker) {
        output::note("no worker is there: the tasks wait until one comes that is large enough");
    }
    Ok(())
}

/// What the flags say.
fn draft(flags: &Submit) -> Result<Draft, Failure> {
    let is_stdin = |path: &Option<PathBuf>| path.as_deref() == Some(Path::new("-"));
    if is_stdin(&flags.script) && is_stdin(&flags.each_line) {
        return Err(Failure::usage("--script and --each-line both ask for standard input")
            .hint("give one of them a file"));
    }
    let mut draft = Draft::new(work(flags)?);
    draft.tasks = match (&flags.each_line, &flags.array) {
        (Some(_), _) if is_stdin(&flags.each_line) => {
            Tasks::EachLine(LinesFrom::Memory(standard_input("--each-line", INPUT_BYTES)?))
        }
        (Some(path), _) => Tasks::EachLine(LinesFrom::Local(path.clone())),
        (None, Some(text)) => Numbers::parse(text)?.tasks(),
        (None, None) => Numbers::ONE.tasks(),
    };
    draft.inputs = flags.inputs.iter().map(|text| input(text)).collect::<Result<_, _>>()?;
    let settings = &mut draft.settings;
    settings.name = flags.name.clone().unwrap_or_default();
    settings.outputs = flags.outputs.clone();
    settings.environment =
        flags.environment.iter().map(|text| variable(text)).collect::<Result<_, _>>()?;
    settings.cpu_milli = flags.cpus.unwrap_or(settings.cpu_milli);
    settings.memory_bytes = flags.mem.unwrap_or(settings.memory_bytes);
    settings.time_limit = flags.time_limit;
    settings.retries = flags.retries.unwrap_or(settings.retries);
    settings.max_crashes = flags.max_crashes.unwrap_or(settings.max_crashes);
    settings.max_fails = flags.max_fails;
    settings.priority = flags.priority.unwrap_or(settings.priority);
    settings.is_held = flags.hold;
    settings.owner = owner::of_this_process();
    settings.keep_scratch = flags.keep_scratch;
    check_once(settings)?;
    Ok(draft)
}

/// A variable that is given twice is a mistake for something else.
fn check_once(settings: &JobDescription) -> Result<(), Failure> {
    let mut names: Vec<&str> = settings.environment.iter().map(|(name, _)| &**name).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair.first() == pair.last()) {
        Some([name, _]) => Err(Failure::usage(format!("--env {name} is there twice"))),
        _ => Ok(()),
    }
}

fn work(flags: &Submit) -> Result<Work, Failure> {
    if let Some(seed) = flags.noop {
        return Ok(Work::Noop(Noop {
            seed,
            shortest: Duration::from_micros(flags.noop_shortest),
            longest: Duration::from_micros(flags.noop_longest.max(flags.noop_shortest)),
            failed_per_million: flags.noop_failed,
            output_bytes: flags.noop_printed,
        }));
    }
    let bytes = |it: &OsString| it.as_bytes().to_vec();
    if let Some(path) = &flags.script {
        if flags.upload {
            return Err(Failure::usage("--upload goes with a program, and --script is none")
                .hint("a script travels by itself: leave --upload out"));
        }
        let program = DraftProgram::Script(script(path)?);
        return Ok(Work::Command { program, arguments: flags.command.iter().map(bytes).collect() });
    }
    let Some((program, arguments)) = flags.command.split_first() else {
        return Err(Failure::usage("nothing says what the tasks are")
            .hint("name a program and its arguments: remuda submit [FLAGS] -- PROGRAM [ARGS]"));
    };
    let is_path = program.as_bytes().contains(&b'/');
    let is_absolute = program.as_bytes().starts_with(b"/");
    let program = if flags.upload && !is_path {
        DraftProgram::Local(look_up(program)?)
    } else if flags.upload || (is_path && !is_absolute) {
        DraftProgram::Local(program.into())
    } else {
        DraftProgram::Installed(bytes(program))
    };
    Ok(Work::Command { program, arguments: arguments.iter().map(bytes).collect() })
}

/// Where this machine has a program of that name, as a shell would find it.
fn look_up(program: &OsStr) -> Result<PathBuf, Failure> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let mut found = std::env::split_paths(&paths).map(|folder| folder.join(program));
    found.find(|path| path.is_file()).ok_or_else(|| {
        Failure::usage(format!("there is no program {program:?} on this machine's PATH"))
            .hint("without --upload, the workers look it up on theirs")
    })
}

fn script(path: &Path) -> Result<Vec<u8>, Failure> {
    if path == Path::new("-") {
        return standard_input("--script", SCRIPT_BYTES);
    }
    let with = |error: std::io::Error| {
        Failure::usage(format!("the script {} cannot be read: {error}", path.display()))
    };
    let file = std::fs::File::open(path).map_err(with)?;
    let mut content = Vec::new();
    file.take(SCRIPT_BYTES + 1).read_to_end(&mut content).map_err(with)?;
    if content.len() as u64 > SCRIPT_BYTES {
        return Err(Failure::usage(format!("the script {} is too long", path.display()))
            .hint("make it executable and name it as the program: remuda submit -- ./script"));
    }
    Ok(content)
}

fn standard_input(flag: &str, limit: u64) -> Result<Vec<u8>, Failure> {
    let mut content = Vec::new();
    let read = std::io::stdin().lock().take(limit + 1).read_to_end(&mut content);
    read.during(|| format!("read standard input for {flag}"))?;
    if content.len() as u64 > limit {
        let text = format!("standard input has more than {limit} bytes for {flag}");
        return Err(Failure::usage(text).hint("put it into a file and name that"));
    }
    Ok(content)
}

/// `[NAME=]VALUE`.
fn input(text: &OsStr) -> Result<DraftInput, Failure> {
    let bytes = text.as_bytes();
    let (name, value) = match bytes.iter().position(|byte| *byte == b'=') {
        Some(at) => {
            let value = bytes.get(at + 1..).unwrap_or_default();
            (Some(OsString::from_vec(bytes.iter().take(at).copied().collect())), value)
        }
        None => (None, bytes),
    };
    let value = OsStr::from_bytes(value);
    if value.is_empty() {
        return Err(Failure::usage(format!("--input {text:?} says nothing behind the ="))
            .hint("write NAME=VALUE: VALUE is a path, name:N[/PATH] or file:UUID[/PATH]"));
    }
    let (from, last) = if Source::is_meant(value) {
        match Source::parse(value)? {
            Source::Stored(stored) => {
                let last = stored.input_name();
                (stored.into_input(), last)
            }
            Source::Written(_) => {
                return Err(Failure::usage(format!("--input {text:?}: outputs are no inputs"))
                    .hint("fetch them and name the folder: remuda get job:JOB FOLDER"));
            }
        }
    } else {
        let path = PathBuf::from(value);
        let last = path.file_name().map(OsStr::to_owned);
        (InputFrom::Local(path), last)
    };
    let Some(name) = name.or(last) else {
        return Err(Failure::usage(format!("--input {text:?} has no name"))
            .hint("say what tasks see it as: --input NAME=VALUE"));
    };
    let name = name.into_string().map_err(|name| {
        Failure::usage(format!("the input name {name:?} is not UTF-8"))
            .hint("say what tasks see it as: --input NAME=VALUE")
    })?;
    Ok(DraftInput { name, from })
}

/// `NAME=VALUE`.
fn variable(text: &str) -> Result<(String, String), Failure> {
    match text.split_once('=') {
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        None => Err(Failure::usage(format!("--env {text} has no ="))
            .hint(format!("write --env {text}=VALUE, or --env {text}=\"${text}\""))),
    }
}

/// What is wrong with a draft, and what to do about it.
fn refused(error: &DraftError) -> Failure {
    let failure = Failure::usage(node::log::chain(error));
    match error {
        DraftError::Unreadable { what: "program", .. } => {
            failure.hint("a program of the workers is an absolute path or a bare name")
        }
        DraftError::Unreadable { what: "input", .. } => {
            failure.hint("what is on the cluster already is name:N or file:UUID: remuda ls")
        }
        DraftError::OtherKind { what: "file of lines", found: "no ordinary file", .. } => {
            failure.hint("pipe the lines into it: COMMAND | remuda submit --each-line - ...")
        }
        DraftError::NotExecutable(path) => failure.hint(format!("chmod +x {}", path.display())),
        DraftError::NotAProgram(_) => {
            failure.hint("begin a script with its interpreter, such as #!/bin/sh")
        }
        DraftError::NoInterpreter => failure.hint("begin it with a line such as #!/bin/sh"),
        DraftError::TooManyLines => failure.hint("make several jobs of it"),
        _ => failure,
    }
}

/// The numbers of the tasks, and how many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Numbers {
    array: Array,
    count: u64,
}

impl Numbers {
    const ONE: Numbers = Numbers { array: Array { first: 0, step: 1 }, count: 1 };

    fn tasks(self) -> Tasks {
        Tasks::Array { array: self.array, count: self.count }
    }

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

    #[test]
    fn inputs_have_a_name_or_one_that_follows() {
        let read = |text: &str| input(OsStr::new(text));
        for (text, name) in [
            ("data=/tmp/x", "data"),
            ("a/b=x=y", "a/b"),
            ("/tmp/some file", "some file"),
            ("folder/", "folder"),
            ("name:data", "data"),
            ("name:data/inner/", "inner"),
            ("n=name:data", "n"),
            ("file:00000000-0000-0000-0000-000000000001/a", "a"),
        ] {
            assert_eq!(read(text).unwrap().name, name, "{text}");
        }
        let from = read("x=name:data/").unwrap().from;
        assert!(matches!(from, InputFrom::Name { path, .. } if path.is_empty()));
        let from = read("x=./name:data").unwrap().from;
        assert!(matches!(from, InputFrom::Local(path) if path == Path::new("./name:data")));
        for (text, why) in [
            ("a=", "nothing behind the ="),
            ("", "nothing behind the ="),
            ("..", "has no name"),
            ("/", "has no name"),
            ("file:00000000-0000-0000-0000-000000000001", "has no name"),
            ("file:x", "x"),
            ("job:last", "outputs are no inputs"),
        ] {
            let failure = format!("{:?}", read(text).unwrap_err());
            assert!(failure.contains(why), "{text}: {failure}");
        }
    }

    #[test]
    fn variables_have_a_name_and_a_value() {
        assert_eq!(variable("A=b=c"), Ok(("A".to_owned(), "b=c".to_owned())));
        assert_eq!(variable("A="), Ok(("A".to_owned(), String::new())));
        assert!(format!("{:?}", variable("A").unwrap_err()).contains("--env A=VALUE"));
    }
}
