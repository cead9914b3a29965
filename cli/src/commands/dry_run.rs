//! `remuda submit --dry-run`: what would be stored and submitted, after every check.
//!
//! Stores and submits nothing. The cluster is asked only where the draft names something that it
//! should have; else no cluster is needed.

use std::collections::BTreeMap;

use client::{
    CheckedDraft, Draft, DraftProgram, Extent, InputFrom, LinesFrom, Survey, Tasks, Work,
};
use serde::Serialize;

use super::connect::{Asked, connect};
use crate::failure::Failure;
use crate::flags::Listing;
use crate::output::{self, json};

/// A job that would be submitted as it is shown to programs.
#[derive(Debug, Serialize)]
struct Shown {
    name: String,
    tasks: u64,
    /// The number of the first task and the distance to the next; `None` with lines.
    first_index: Option<u64>,
    step: Option<u64>,
    /// `None` for tasks that do nothing.
    program: Option<String>,
    /// `worker`, `upload` or `script`.
    program_from: Option<&'static str>,
    arguments: Vec<String>,
    inputs: Vec<ShownInput>,
    outputs: Vec<String>,
    environment: BTreeMap<String, String>,
    cpus: f64,
    memory_bytes: Option<u64>,
    time_limit_seconds: Option<f64>,
    retries: u32,
    max_crashes: u32,
    max_fails: Option<u64>,
    priority: i32,
    held: bool,
    keep_scratch: bool,
    /// At most: what the cluster has already is not sent again.
    upload_files: u64,
    upload_bytes: u64,
}

/// An input as it is shown to programs.
#[derive(Debug, Serialize)]
struct ShownInput {
    name: String,
    source: String,
    /// `None` where the cluster has it.
    files: Option<u64>,
    bytes: Option<u64>,
}

/// Checks what only storing a draft would find, and prints what it is.
pub(super) fn run(draft: &CheckedDraft, flags: &Listing) -> Result<(), Failure> {
    let survey = draft.survey().asked()?;
    if draft.draft().inputs.iter().any(|it| !matches!(it.from, InputFrom::Local(_))) {
        connect(&flags.place)?.look_up_inputs(draft).asked()?;
    }
    let shown = shown(draft, &survey);
    if flags.json {
        return json::print(&shown);
    }
    output::print(&text(draft.draft(), &shown, &survey))
}

fn shown(draft: &CheckedDraft, survey: &Survey) -> Shown {
    let settings = draft.settings();
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (program, program_from, arguments) = match &draft.draft().work {
        Work::Noop(_) => (None, None, Vec::new()),
        Work::Command { program, arguments } => {
            let (name, from) = match program {
                DraftProgram::Installed(path) => (lossy(path), "worker"),
                DraftProgram::Local(path) => (path.display().to_string(), "upload"),
                DraftProgram::Script(_) => ("script".to_owned(), "script"),
            };
            (Some(name), Some(from), arguments.iter().map(|it| lossy(it)).collect())
        }
    };
    let (first_index, step) = match &draft.draft().tasks {
        Tasks::Array { array, .. } => (Some(array.first), Some(array.step)),
        Tasks::EachLine(_) => (None, None),
    };
    let inputs = draft.draft().inputs.iter().zip(&survey.inputs);
    let whole = survey.whole();
    Shown {
        name: settings.name.clone(),
        tasks: draft.task_count(),
        first_index,
        step,
        program,
        program_from,
        arguments,
        inputs: inputs
            .map(|(input, extent)| ShownInput {
                name: input.name.clone(),
                source: source(&input.from),
                files: extent.map(|it| it.files),
                bytes: extent.map(|it| it.bytes),
            })
            .collect(),
        outputs: settings.outputs.clone(),
        environment: settings.environment.iter().cloned().collect(),
        cpus: f64::from(settings.cpu_milli) / 1_000.0,
        memory_bytes: Some(settings.memory_bytes).filter(|it| *it > 0),
        time_limit_seconds: settings.time_limit.map(|it| it.as_secs_f64()),
        retries: settings.retries,
        max_crashes: settings.max_crashes,
        max_fails: settings.max_fails,
        priority: settings.priority,
        held: settings.is_held,
        keep_scratch: settings.keep_scratch,
        upload_files: whole.files,
        upload_bytes: whole.bytes,
    }
}

/// As the user would write it.
fn source(from: &InputFrom) -> String {
    let inside = |root: String, path: &[u8]| match path {
        [] => root,
        path => format!("{root}/{}", String::from_utf8_lossy(path)),
    };
    match from {
        InputFrom::Local(path) => path.display().to_string(),
        InputFrom::Name { name, path } => inside(format!("name:{name}"), path),
        InputFrom::File { file, path } => inside(format!("file:{file}"), path),
    }
}

/// The same for people.
fn text(draft: &Draft, shown: &Shown, survey: &Survey) -> String {
    let mut lines: Vec<(&str, String)> = Vec::new();
    if !shown.name.is_empty() {
        lines.push(("name", shown.name.clone()));
    }
    lines.push(("tasks", tasks(draft, shown)));
    lines.push(("program", program(shown, survey)));
    lines.extend(shown.arguments.iter().map(|argument| ("argument", argument.clone())));
    for input in &shown.inputs {
        let extent = match (input.files, input.bytes) {
            (Some(files), Some(bytes)) => amount(Extent { files, bytes }),
            _ => "the cluster has it".to_owned(),
        };
        lines.push(("input", format!("{} = {} ({extent})", input.name, input.source)));
    }
    lines.extend(shown.outputs.iter().map(|pattern| ("output", pattern.clone())));
    lines.extend(shown.environment.iter().map(|(name, value)| ("env", format!("{name}={value}"))));
    let or_none = |limit: Option<String>| limit.unwrap_or_else(|| "no limit".to_owned());
    lines.extend([
        ("cpus", shown.cpus.to_string()),
        ("memory", or_none(shown.memory_bytes.map(|it| format!("{it} bytes")))),
        ("time", or_none(shown.time_limit_seconds.map(|it| format!("{it} s an attempt")))),
        ("retries", shown.retries.to_string()),
        ("crashes", format!("at most {} of a task", shown.max_crashes)),
        ("fails", or_none(shown.max_fails.map(|it| format!("at most {it} tasks")))),
        ("priority", shown.priority.to_string()),
    ]);
    if shown.held {
        lines.push(("held", "until it is released".to_owned()));
    }
    if shown.keep_scratch {
        lines.push(("scratch", "stays on the worker".to_owned()));
    }
    let upload = match survey.whole() {
        Extent { files: 0, .. } => "nothing".to_owned(),
        whole => format!("at most {}", amount(whole)),
    };
    lines.push(("upload", upload));
    let lines = lines.iter().map(|(name, value)| format!("{name:8} {value}").trim_end().to_owned());
    lines.collect::<Vec<_>>().join("\n") + "\n"
}

fn tasks(draft: &Draft, shown: &Shown) -> String {
    let count = shown.tasks;
    match (&draft.tasks, shown.first_index, shown.step) {
        (Tasks::EachLine(LinesFrom::Local(path)), ..) => {
            format!("{count}, a line of {} each", path.display())
        }
        (Tasks::EachLine(LinesFrom::Memory(_)), ..) => {
            format!("{count}, a line of standard input each")
        }
        (_, Some(first), Some(step)) if count > 1 => {
            let last = first.saturating_add(step.saturating_mul(count - 1));
            let step = if step > 1 { format!(" in steps of {step}") } else { String::new() };
            format!("{count}, numbered {first} to {last}{step}")
        }
        _ => count.to_string(),
    }
}

fn program(shown: &Shown, survey: &Survey) -> String {
    let size = survey.program.map(|it| format!("{} bytes", it.bytes)).unwrap_or_default();
    match (&shown.program, shown.program_from) {
        (Some(_), Some("script")) => format!("a script of {size}"),
        (Some(program), Some("upload")) => format!("{program}, {size} from here"),
        (Some(program), _) => format!("{program}, as the workers have it"),
        (None, _) => "none: the tasks do nothing".to_owned(),
    }
}

fn amount(extent: Extent) -> String {
    let Extent { files, bytes } = extent;
    let files = if files == 1 { "1 file".to_owned() } else { format!("{files} files") };
    format!("{files}, {bytes} bytes")
}
