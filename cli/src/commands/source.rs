//! What is stored, as users write it: `name:NAME[/PATH]`, `file:UUID[/PATH]` and
//! `job:JOB[/TASK[/PATH]]`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use client::logic::jobs::JobSelector;
use client::{Client, InputFrom, Resolved};
use proto::ids::{FileId, TaskIndex};
use proto::name;

use super::connect::Asked;
use super::jobs::selector;
use crate::failure::Failure;

/// Something of the cluster.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A file or folder that was put there.
    Stored(Stored),
    /// What tasks wrote.
    Written(Written),
}

/// A file or folder that was put there.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    root: Root,
    path: Vec<u8>,
}

/// What a source begins at.
#[derive(Debug, PartialEq, Eq)]
enum Root {
    Name(String),
    File(FileId),
}

/// What tasks of a job wrote.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Written {
    job: String,
    /// The task; `None` for all.
    pub(crate) task: Option<TaskIndex>,
    /// The path inside what it wrote; empty for all of it.
    pub(crate) path: Vec<u8>,
}

impl Source {
    /// Reads what the user wrote.
    pub(crate) fn parse(text: &OsStr) -> Result<Source, Failure> {
        let bytes = text.as_bytes();
        let wrong = || {
            let failure = Failure::usage(format!("{text:?} names nothing that is stored"));
            match text.to_str().filter(|text| !text.is_empty() && !text.contains(':')) {
                Some(text) => failure.hint(format!("write name:{text}, or job:{text} for a job")),
                None => failure.hint(
                    "write name:NAME[/PATH] or file:UUID[/PATH], as `remuda put` prints it, or \
                     job:JOB[/TASK[/PATH]]",
                ),
            }
        };
        let colon = bytes.iter().position(|byte| *byte == b':').ok_or_else(wrong)?;
        let (kind, rest) = bytes.split_at(colon);
        let (root, path) = first_part(rest.get(1..).unwrap_or_default());
        let root = std::str::from_utf8(root).map_err(|_| wrong())?;
        let usage = |error: &dyn std::error::Error| Failure::usage(error.to_string());
        if path.split(|byte| *byte == b'/').any(|part| part == b"." || part == b"..") {
            return Err(Failure::usage(format!("the path in {text:?} has a part . or .."))
                .hint("write the path from the stored folder on, without them"));
        }
        let root = match kind {
            b"name" => {
                name::key(root).map_err(|error| usage(&error))?;
                Root::Name(root.to_owned())
            }
            b"file" => Root::File(root.parse().map_err(|error| usage(&error))?),
            b"job" if !root.is_empty() => return Written::parse(root, path).map(Source::Written),
            _ => return Err(wrong()),
        };
        Ok(Source::Stored(Stored { root, path: path.to_vec() }))
    }

    /// True for a text that is meant as a source and not as a name or path.
    pub(crate) fn is_meant(text: &OsStr) -> bool {
        let kinds: [&[u8]; 3] = [b"name:", b"file:", b"job:"];
        kinds.iter().any(|kind| text.as_bytes().starts_with(kind))
    }

    /// What a copy of it is called where nothing else is said: the last part.
    pub(crate) fn file_name(&self) -> OsString {
        match self {
            Source::Stored(stored) => stored.file_name(),
            Source::Written(written) => written.file_name(),
        }
    }
}

impl Stored {
    /// Its last part.
    pub(crate) fn file_name(&self) -> OsString {
        match (last_part(&self.path), &self.root) {
            (Some(part), _) => part,
            (None, Root::Name(name)) => name.into(),
            (None, Root::File(file)) => file.to_string().into(),
        }
    }

    /// What tasks see it as where nothing else is said; `None` for a UUID, which nobody wants to
    /// write a second time.
    pub(crate) fn input_name(&self) -> Option<OsString> {
        let is_named = !matches!((last_part(&self.path), &self.root), (None, Root::File(_)));
        is_named.then(|| self.file_name())
    }

    /// As an input of a job.
    pub(crate) fn into_input(self) -> InputFrom {
        let path = if last_part(&self.path).is_none() { Vec::new() } else { self.path };
        match self.root {
            Root::Name(name) => InputFrom::Name { name, path },
            Root::File(file) => InputFrom::File { file, path },
        }
    }

    /// What stands there.
    pub(crate) fn resolve(&self, client: &Client) -> Result<Resolved, Failure> {
        match &self.root {
            Root::Name(name) => {
                let pointer = client.name(name).asked()?.pointer;
                client.resolve(pointer, &self.path).asked()
            }
            Root::File(file) => client.resolve_file(*file, &self.path).asked(),
        }
    }
}

impl Written {
    fn parse(job: &str, path: &[u8]) -> Result<Written, Failure> {
        let inside = path.strip_prefix(b"/").unwrap_or_default();
        let (task, path) = first_part(inside);
        let task = match task {
            b"" => None,
            digits => {
                let task = std::str::from_utf8(digits).ok().and_then(|it| it.parse().ok());
                let task = task.ok_or_else(|| {
                    let task = String::from_utf8_lossy(digits);
                    Failure::usage(format!("{task:?} is no task of a job"))
                        .hint("write job:JOB/TASK[/PATH] with the task's index, from 0 on")
                })?;
                Some(TaskIndex(task))
            }
        };
        let parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty());
        let path = parts.collect::<Vec<_>>().join(&b'/');
        Ok(Written { job: job.to_owned(), task, path })
    }

    /// The job that is meant.
    pub(crate) fn job(&self) -> JobSelector {
        selector(&self.job)
    }

    fn file_name(&self) -> OsString {
        match (last_part(&self.path), self.task) {
            (Some(part), _) => part,
            (None, Some(task)) => task.0.to_string().into(),
            (None, None) => (&self.job).into(),
        }
    }
}

/// What stands before the first slash, and the rest from the slash on.
fn first_part(text: &[u8]) -> (&[u8], &[u8]) {
    text.split_at(text.iter().position(|byte| *byte == b'/').unwrap_or(text.len()))
}

fn last_part(path: &[u8]) -> Option<OsString> {
    let last = path.split(|byte| *byte == b'/').rfind(|part| !part.is_empty());
    last.map(|part| OsStr::from_bytes(part).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Source, Failure> {
        Source::parse(OsStr::new(text))
    }

    #[test]
    fn sources_are_names_or_files_with_a_path_behind() {
        let file = FileId(7);
        let source = parse(&format!("file:{file}")).unwrap();
        let stored = Stored { root: Root::File(file), path: Vec::new() };
        assert_eq!((stored.input_name(), source.file_name()), (None, file.to_string().into()));
        assert_eq!(source, Source::Stored(stored));
        let source = parse("name:data/a:b/c d/").unwrap();
        let (root, path) = (Root::Name("data".to_owned()), b"/a:b/c d/".to_vec());
        assert_eq!(source.file_name(), "c d");
        assert_eq!(source, Source::Stored(Stored { root, path }));
        assert_eq!(parse("name:data").unwrap().file_name(), "data");
        let raw = Source::parse(OsStr::from_bytes(b"name:data/\xff")).unwrap();
        assert_eq!(raw.file_name(), OsStr::from_bytes(b"\xff"));
        for wrong in
            ["", "data", "file:", "file:x", "name:", "name:..", "name:a/../b", "x:y", "name:a/."]
        {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_tasks_wrote_is_named_by_job_task_and_path() {
        for (text, job, task, path, file_name) in [
            ("job:last", "last", None, "", "last"),
            ("job:last/", "last", None, "", "last"),
            ("job:my job/7", "my job", Some(7), "", "7"),
            ("job:j/0/", "j", Some(0), "", "0"),
            ("job:j/3/stdout", "j", Some(3), "stdout", "stdout"),
            ("job:j/3//a/b/", "j", Some(3), "a/b", "b"),
        ] {
            let written = Written {
                job: job.to_owned(),
                task: task.map(TaskIndex),
                path: path.as_bytes().to_vec(),
            };
            let source = parse(text).unwrap();
            assert_eq!(source.file_name(), file_name, "{text}");
            assert_eq!(source, Source::Written(written), "{text}");
        }
        for wrong in ["job:", "job:/0", "job:j/x", "job:j/-1", "job:j/0/../a", "job:j/0x1"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
