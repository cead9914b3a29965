//! What tasks wrote: getting it, printing it, listing it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use client::logic::answers::JobSummary;
use client::{Client, OutputAt, output_length, output_path};
use proto::segment::{Output, OutputContent};
use proto::status::OutputKind;
use serde::Serialize;

use super::connect::Asked;
use super::entries::{self, ShownEntry};
use super::files;
use super::source::Written;
use crate::failure::Failure;
use crate::output::human::Table;
use crate::output::progress::Progress;
use crate::output::{self, json};

/// Fetches what a source means to a new folder or file.
pub(super) fn get(client: &Client, source: &Written, to: &Path) -> Result<(), Failure> {
    let job = client.status(source.job()).asked()?;
    let mut bar = Progress::files();
    let Some(task) = source.task else {
        files::refuse_used(to)?;
        client.get_job_outputs(job.job, to, &mut |so_far| bar.count(so_far)).asked()?;
        drop(bar);
        note_rest(&job);
        return Ok(());
    };
    match client.output_at(job.job, task, &source.path).asked()? {
        OutputAt::Folder(outputs) => {
            files::refuse_used(to)?;
            client.get_outputs(&outputs, to, &mut |so_far| bar.count(so_far)).asked()?;
            drop(bar);
            outputs.iter().for_each(note_cut);
            Ok(())
        }
        OutputAt::One(output) => {
            drop(bar);
            note_cut(&output);
            get_one(client, &output, to)
        }
    }
}

fn get_one(client: &Client, output: &Output, to: &Path) -> Result<(), Failure> {
    match &output.content {
        OutputContent::Packed(target) if output.kind == OutputKind::Link => {
            Err(files::is_link(target))
        }
        OutputContent::Packed(bytes) => {
            let mut file = File::create(to).map_err(|error| cannot("make", to, &error))?;
            file.write_all(bytes).map_err(|error| cannot("write", to, &error))
        }
        OutputContent::File { file, .. } => files::get_file(client, *file, to),
    }
}

fn cannot(what: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(format!("{what} {}: {error}", path.display()))
}

/// Prints one output.
pub(super) fn cat(client: &Client, source: &Written) -> Result<(), Failure> {
    let is_folder = || {
        Failure::usage("what a task wrote is a folder")
            .hint("print a file of it: remuda cat job:JOB/TASK/stdout")
    };
    let Some(task) = source.task else {
        return Err(is_folder());
    };
    let job = client.status(source.job()).asked()?.job;
    match client.output_at(job, task, &source.path).asked()? {
        OutputAt::Folder(_) => Err(is_folder()),
        OutputAt::One(output) => {
            note_cut(&output);
            match &output.content {
                OutputContent::Packed(target) if output.kind == OutputKind::Link => {
                    Err(files::is_link(target))
                }
                OutputContent::Packed(bytes) => output::print_bytes(bytes),
                OutputContent::File { file, .. } => files::print(client, *file),
            }
        }
    }
}

/// What a task wrote as it is shown to programs.
#[derive(Debug, Serialize)]
struct ShownTask {
    task: u64,
    outputs: usize,
    bytes: u64,
}

/// Lists what a source means.
pub(super) fn list(client: &Client, source: &Written, as_json: bool) -> Result<(), Failure> {
    let job = client.status(source.job()).asked()?;
    let Some(task) = source.task else {
        return list_tasks(client, &job, as_json);
    };
    let outputs = match client.output_at(job.job, task, &source.path).asked()? {
        OutputAt::Folder(outputs) => outputs,
        OutputAt::One(output) => vec![output],
    };
    let mut outputs: Vec<&Output> = outputs.iter().collect();
    outputs.sort_by_key(|output| output_path(output));
    entries::print(outputs.into_iter().map(ShownEntry::of_output).collect(), as_json)
}

fn list_tasks(client: &Client, job: &JobSummary, as_json: bool) -> Result<(), Failure> {
    // They come in the order in which they were recorded.
    let mut tasks = BTreeMap::new();
    let mut written = client.outputs(job.job, 0..u64::MAX);
    while let Some(task) = written.next_task().asked()? {
        let bytes: u64 = task.outputs.iter().map(output_length).sum();
        tasks.insert(task.task_index, (task.outputs.len(), bytes));
    }
    let shown =
        tasks.into_iter().map(|(task, (outputs, bytes))| ShownTask { task, outputs, bytes });
    if as_json {
        json::print(&shown.collect::<Vec<_>>())?;
    } else {
        let mut table = Table::new(&["task", "outputs", "bytes"]);
        for it in shown {
            table.row(vec![it.task.to_string(), it.outputs.to_string(), it.bytes.to_string()]);
        }
        output::print(&table.render())?;
    }
    note_rest(job);
    Ok(())
}

/// Says that there may be more.
fn note_rest(job: &JobSummary) {
    if !job.state.is_final() {
        let ended = job.done_count + job.failed_count;
        output::note(&format!(
            "the job is {}: this is what {ended} of {} tasks wrote",
            job.state, job.task_count
        ));
    }
}

/// Says that something is not whole.
fn note_cut(written: &Output) {
    if written.is_cut {
        let path = String::from_utf8_lossy(output_path(written));
        output::note(&format!("the task wrote more to {path} than is kept"));
    }
}
