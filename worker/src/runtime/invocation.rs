//! What is started for a task: its program, arguments and environment.
//!
//! Deliberately not here: starting it, and fetching what it needs.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use client::find;
use proto::description::{Program, Runtime as RuntimeKind};
use proto::ids::TaskIndex;
use proto::status::Cause;

use super::Task;
use super::folder::TaskFolder;
use crate::inputs::{Missing, View};
use crate::spawn::processes::{MARK, OUTPUTS_VARIABLE};
use crate::spawn::{Command, TaskUser};

/// The environment that tasks have of a worker, with what it is where the worker lacks it too.
const OWN_VARIABLES: [(&str, &str); 3] =
    [("PATH", "/usr/local/bin:/usr/bin:/bin"), ("HOME", "/"), ("LANG", "C.UTF-8")];

/// Most bytes of all arguments: three quarters of the stack that Linux counts with, whatever the
/// limits of a process. A long line that is put in often would fill the worker's memory.
const ARGUMENTS_BYTES: usize = 6 << 20;

/// What differs from task to task or from worker to worker.
pub(super) struct Invocation<'a> {
    pub(super) task: &'a Task<'a>,
    /// The task that gives `{index}` and `{line}` their values.
    pub(super) origin: TaskIndex,
    pub(super) folder: &'a TaskFolder,
    /// What was fetched for its job; `None` where nothing was needed.
    pub(super) view: Option<&'a View>,
    /// What `{line}` stands for.
    pub(super) line: Option<Vec<u8>>,
    /// Addresses of masters, as a client takes them.
    pub(super) cluster: &'a str,
    /// Who it runs as, where that is another user than the worker's.
    pub(super) user: Option<TaskUser>,
    /// Where `remuda` lies.
    pub(super) programs: Option<&'a Path>,
}

impl Invocation<'_> {
    /// What is to be started.
    pub(super) fn command(&self) -> Result<Command, Missing> {
        let RuntimeKind::Command { program, arguments } = &self.task.spec.description.runtime
        else {
            unreachable!("whoever chooses the runtime goes by the description");
        };
        let environment = self.environment();
        let fetched = self.view.and_then(|view| view.program.as_ref());
        let (program, name) = match (program, fetched) {
            (Program::Path(path), _) => {
                (look_up(path, environment.get(OsStr::new("PATH")))?, path.clone())
            }
            (Program::Inline | Program::File(_), Some(path)) => {
                (path.clone(), into_bytes(path.clone()))
            }
            (Program::Inline | Program::File(_), None) => {
                unreachable!("a program that the job brought is prepared before")
            }
        };
        let index = self.index();
        let line = self.line.as_ref().map(|line| ("{line}", line.as_slice()));
        let places: Vec<_> = [("{index}", index.as_bytes())].into_iter().chain(line).collect();
        let mut room = ARGUMENTS_BYTES;
        let mut filled = Vec::with_capacity(arguments.len());
        for argument in arguments {
            let argument = substitute(argument, &places, room).ok_or_else(|| {
                let text = "with {line} and {index} put in, the arguments take more than 6 MiB, \
                            which is more than Linux takes";
                Missing::Job(Cause::NotStarted, text.to_owned())
            })?;
            room -= argument.len();
            filled.push(argument);
        }
        let folder = self.folder;
        Ok(Command {
            program: into_bytes(program),
            name,
            arguments: filled,
            environment: environment
                .into_iter()
                .map(|(name, value)| (name.into_vec(), value.into_vec()))
                .collect(),
            folder: into_bytes(folder.scratch()),
            stdout: into_bytes(folder.stdout()),
            stderr: into_bytes(folder.stderr()),
            mark: into_bytes(folder.path().join(MARK)),
        })
    }

    /// The worker's own, below the job's, below Remuda's.
    fn environment(&self) -> BTreeMap<OsString, OsString> {
        let own = OWN_VARIABLES.iter().map(|&(name, default)| {
            let value = std::env::var_os(name).unwrap_or_else(|| default.into());
            let value = match name {
                "PATH" => self.with_own_programs(value),
                // The worker's is not his.
                "HOME" if self.user.is_some() => self.folder.scratch().into(),
                _ => value,
            };
            (name.into(), value)
        });
        let jobs = &self.task.spec.description.environment;
        let jobs = jobs.iter().map(|(name, value)| (name.into(), value.into()));
        let inputs = self.view.map_or_else(|| self.folder.inputs(), |view| view.inputs.clone());
        let remudas: [(&str, OsString); 7] = [
            ("REMUDA_JOB", self.task.spec.job.to_string().into()),
            ("REMUDA_TASK", self.task.index.to_string().into()),
            ("REMUDA_ATTEMPT", self.task.attempt.to_string().into()),
            ("REMUDA_INDEX", self.index().into()),
            ("REMUDA_INPUTS", inputs.into()),
            (OUTPUTS_VARIABLE, self.folder.outputs().into()),
            ("REMUDA_PROGRESS", progress(self.folder).into()),
        ];
        let remudas = remudas.into_iter().map(|(name, value)| (name.into(), value));
        let line = self.line.clone().map(|line| ("REMUDA_LINE".into(), OsString::from_vec(line)));
        let cluster =
            (!self.cluster.is_empty()).then(|| (find::VARIABLE.into(), self.cluster.into()));
        own.chain(jobs).chain(remudas).chain(line).chain(cluster).collect()
    }

    /// Tasks find `remuda`, behind all else.
    fn with_own_programs(&self, path: OsString) -> OsString {
        let folders = std::env::split_paths(&path).chain(self.programs.map(Path::to_owned));
        std::env::join_paths(folders).unwrap_or(path)
    }

    /// What `{index}` stands for.
    fn index(&self) -> String {
        self.task.spec.description.array.number(self.origin).to_string()
    }
}

/// The task whose number and line a task has: itself, or what it tries again of another job.
pub(super) fn origin(task: &Task<'_>) -> Result<TaskIndex, Missing> {
    let Some(retry) = &task.spec.description.retry else { return Ok(task.index) };
    retry.origin(task.index).ok_or_else(|| {
        let text = format!("job {} has no task that task {} tries again", retry.job, task.index);
        Missing::Job(Cause::NotStarted, text)
    })
}

/// Where a task tells its progress: in a folder of its own, because it is replaced, not written.
pub(super) fn progress(folder: &TaskFolder) -> PathBuf {
    folder.told().join("progress")
}

fn into_bytes(path: PathBuf) -> Vec<u8> {
    path.into_os_string().into_vec()
}

/// The executable that an absolute path or a name means.
fn look_up(program: &[u8], path: Option<&OsString>) -> Result<PathBuf, Missing> {
    let name = OsStr::from_bytes(program);
    if program.contains(&b'/') {
        return Ok(name.into());
    }
    let folders = path.map(|path| std::env::split_paths(path).collect::<Vec<PathBuf>>());
    let mut candidates = folders.unwrap_or_default().into_iter().map(|folder| folder.join(name));
    candidates.find(|candidate| is_executable(candidate)).ok_or_else(|| {
        let text = format!(
            "there is no program {name:?} in the PATH of this worker; a program of your own is \
             uploaded with the job where it is given with a slash: ./{}",
            name.display()
        );
        Missing::Job(Cause::NotStarted, text)
    })
}

fn is_executable(path: &Path) -> bool {
    path.is_absolute()
        && path.metadata().is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0)
}

/// An argument with every place replaced by what it stands for; `None` where it is longer than
/// `room` then. What was put in is not looked through again.
fn substitute(argument: &[u8], places: &[(&str, &[u8])], room: usize) -> Option<Vec<u8>> {
    let (mut result, mut rest) = (Vec::with_capacity(argument.len()), argument);
    while result.len() <= room
        && let Some((&first, behind)) = rest.split_first()
    {
        let found = places.iter().find_map(|(place, value)| {
            rest.strip_prefix(place.as_bytes()).map(|behind| (behind, *value))
        });
        if let Some((behind, value)) = found {
            result.extend_from_slice(value);
            rest = behind;
        } else {
            result.push(first);
            rest = behind;
        }
    }
    (result.len() <= room).then_some(result)
}

#[cfg(test)]
mod tests {
    use super::substitute;

    #[test]
    fn every_place_is_replaced_and_nothing_else() {
        let index: (&str, &[u8]) = ("{index}", b"12");
        let line: (&str, &[u8]) = ("{line}", b"a {index} \xff");
        for (argument, wanted) in [
            ("{index}", &b"12"[..]),
            ("a{index}b{index}{index}", b"a12b1212"),
            ("{{index}}", b"{12}"),
            ("{index", b"{index"),
            ("{Index}", b"{Index}"),
            ("<{line}>{index}", b"<a {index} \xff>12"),
            ("", b""),
        ] {
            let filled = substitute(argument.as_bytes(), &[index, line], wanted.len());
            assert_eq!(filled.as_deref(), Some(wanted));
        }
        let filled = substitute(b"{line} {index}", &[index], 100);
        assert_eq!(filled.as_deref(), Some(&b"{line} 12"[..]));
        assert_eq!(substitute(&b"{index}".repeat(1 << 20), &[index], 100), None);
    }
}
