//! What tasks wrote to a local folder.
//!
//! As with trees, everything is made inside one new folder that gets its name when it is complete.
//! The names come from whoever made the segment, so they are checked once more as a whole: nothing
//! may lie inside what is no folder, else a link could lead a file out of its task's folder.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use proto::ids::JobId;
use proto::segment::{Output, OutputContent};
use proto::status::OutputKind;

use super::output_path;
use crate::blocking::Client;
use crate::error::ClientError;
use crate::tree::TreeProgress;
use crate::tree::get::{Fetching, Finish, fill_new_folder};

/// How a folder is left that only lies on the way to an output.
const FOLDER_MODE: u16 = 0o755;

/// How a stream is left.
const STREAM_MODE: u16 = 0o644;

impl Client {
    /// Writes what all tasks of a job wrote into the folder `to`, which is absent or an empty
    /// folder: a folder for each task that wrote something, named by its index. Where the job is
    /// not final, what is there so far.
    ///
    /// # Errors
    /// [`ClientError`]; nothing of it is left then.
    pub fn get_job_outputs(
        &self,
        job: JobId,
        to: &Path,
        progress: &mut dyn FnMut(TreeProgress),
    ) -> Result<TreeProgress, ClientError> {
        fill_new_folder(to, |part| {
            let mut fetching = Fetching::new(self, progress);
            let mut outputs = self.outputs(job, 0..u64::MAX);
            while let Some(task) = outputs.next_task()? {
                let folder = part.join(task.task_index.to_string());
                std::fs::create_dir(&folder)
                    .map_err(|it| ClientError::file("make", &folder, it))?;
                write(&mut fetching, &task.outputs, &folder)?;
            }
            fetching.finish()
        })
    }

    /// Writes outputs of one task into the folder `to`, which is absent or an empty folder.
    ///
    /// # Errors
    /// [`ClientError`]; nothing of it is left then.
    pub fn get_outputs(
        &self,
        outputs: &[Output],
        to: &Path,
        progress: &mut dyn FnMut(TreeProgress),
    ) -> Result<TreeProgress, ClientError> {
        fill_new_folder(to, |part| {
            let mut fetching = Fetching::new(self, progress);
            write(&mut fetching, outputs, part)?;
            fetching.finish()
        })
    }
}

/// Writes the outputs of one task into a new folder.
fn write(fetching: &mut Fetching<'_>, outputs: &[Output], to: &Path) -> Result<(), ClientError> {
    for (name, planned) in plan(outputs)? {
        let path = to.join(OsStr::from_bytes(name));
        let output = match planned {
            Planned::Folder(mode) => {
                fetching.make_folder(Finish { path, mode, modified: None })?;
                continue;
            }
            Planned::Output(output) => output,
        };
        let mode = match output.kind {
            OutputKind::Stdout | OutputKind::Stderr => STREAM_MODE,
            _ => output.mode & 0o777,
        };
        match (&output.content, output.kind) {
            (OutputContent::Packed(target), OutputKind::Link) => {
                std::os::unix::fs::symlink(OsStr::from_bytes(target), &path)
                    .map_err(|it| ClientError::file("make the link", &path, it))?;
            }
            (OutputContent::Packed(bytes), _) => {
                fetching.packed(bytes, &Finish { path, mode, modified: None })?;
            }
            (OutputContent::File { file, length }, _) => {
                fetching.file(*file, *length, Finish { path, mode, modified: None })?;
            }
        }
    }
    Ok(())
}

/// What is made under a name.
enum Planned<'a> {
    Folder(u16),
    Output(&'a Output),
}

/// What is made, folders before what lies inside.
fn plan(outputs: &[Output]) -> Result<BTreeMap<&[u8], Planned<'_>>, ClientError> {
    let wrong =
        |name: &[u8]| ClientError::OutputNames { name: String::from_utf8_lossy(name).into_owned() };
    let mut planned = BTreeMap::new();
    for output in outputs {
        let name = output_path(output);
        let what = match output.kind {
            OutputKind::Folder => Planned::Folder(output.mode & 0o777),
            _ => Planned::Output(output),
        };
        if planned.insert(name, what).is_some() {
            return Err(wrong(name));
        }
    }
    for output in outputs {
        let name = output_path(output);
        for (at, _) in name.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
            let outer = name.get(..at).unwrap_or_default();
            let outer = planned.entry(outer).or_insert(Planned::Folder(FOLDER_MODE));
            if !matches!(outer, Planned::Folder(_)) {
                return Err(wrong(name));
            }
        }
    }
    Ok(planned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(kind: OutputKind, name: &str) -> Output {
        let content = OutputContent::Packed(b"../..".to_vec());
        Output { kind, name: name.as_bytes().to_vec(), mode: 0o600, is_cut: false, content }
    }

    #[test]
    fn folders_come_before_what_lies_inside() {
        let outputs = [
            output(OutputKind::File, "a/b/c"),
            output(OutputKind::Folder, "a/b-c"),
            output(OutputKind::Stdout, ""),
            output(OutputKind::Link, "a/link"),
        ];
        let planned = plan(&outputs).unwrap();
        let names: Vec<&[u8]> = planned.keys().copied().collect();
        let wanted: [&[u8]; 6] = [b"a", b"a/b", b"a/b-c", b"a/b/c", b"a/link", b"stdout"];
        assert_eq!(names, wanted);
        let modes = planned.values().filter_map(|it| match it {
            Planned::Folder(mode) => Some(*mode),
            Planned::Output(_) => None,
        });
        assert_eq!(modes.collect::<Vec<_>>(), [0o755, 0o755, 0o600]);
    }

    #[test]
    fn nothing_lies_inside_a_link_a_file_or_a_stream() {
        for (kind, outer) in
            [(OutputKind::Link, "a"), (OutputKind::File, "a"), (OutputKind::Stdout, "")]
        {
            let outer = output(kind, outer);
            let inner = [output_path(&outer), b"/deep/inner"].concat();
            let inner = output(OutputKind::File, std::str::from_utf8(&inner).unwrap());
            for outputs in [[outer.clone(), inner.clone()], [inner, outer]] {
                assert!(matches!(plan(&outputs), Err(ClientError::OutputNames { .. })));
            }
        }
        let twice = [output(OutputKind::File, "a"), output(OutputKind::Link, "a")];
        assert!(plan(&twice).is_err());
        let twice = [output(OutputKind::File, "stdout"), output(OutputKind::Stdout, "")];
        assert!(plan(&twice).is_err());
    }
}
