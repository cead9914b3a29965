//! What storing a draft would read and send, without sending any of it.
//!
//! Walks the same folders as storing them does and refuses what storing would refuse. What of it
//! the cluster has already it cannot know, so it tells the most that would be sent.

use std::path::Path;

use proto::description::JobDescription;
use proto::tree::TreeError;

use super::draft::{CheckedDraft, Draft, DraftInput, DraftProgram, InputFrom, Tasks, Work};
use crate::blocking::Client;
use crate::error::ClientError;
use crate::tree::{deeper, kind_name};

/// So many files and bytes of this machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What a draft has on this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// The program or script; `None` where the workers have it.
    pub program: Option<Extent>,
    /// The lines; `None` where tasks have none.
    pub lines: Option<Extent>,
    /// The inputs in the draft's order; `None` for one that the cluster has.
    pub inputs: Vec<Option<Extent>>,
}

impl Survey {
    /// All of it together.
    #[must_use]
    pub fn whole(&self) -> Extent {
        let parts = self.inputs.iter().chain([&self.program, &self.lines]).flatten();
        parts.fold(Extent::default(), |sum, it| Extent {
            files: sum.files + it.files,
            bytes: sum.bytes + it.bytes,
        })
    }
}

impl CheckedDraft {
    /// Everything but the work, the inputs and the tasks.
    #[must_use]
    pub fn settings(&self) -> &JobDescription {
        &self.draft.settings
    }

    /// The draft as it was looked at.
    #[must_use]
    pub fn draft(&self) -> &Draft {
        &self.draft
    }

    /// Looks at everything that would be stored; opens each file, and reads none.
    ///
    /// # Errors
    /// [`ClientError`], with the path of what could not be stored.
    pub fn survey(&self) -> Result<Survey, ClientError> {
        let memory = |bytes: &[u8]| Extent { files: 1, bytes: bytes.len() as u64 };
        let program = match &self.draft.work {
            Work::Command { program: DraftProgram::Local(path), .. } => Some(file(path)?),
            Work::Command { program: DraftProgram::Script(script), .. } => Some(memory(script)),
            Work::Command { program: DraftProgram::Installed(_), .. } | Work::Noop(_) => None,
        };
        let lines = match (&self.draft.tasks, &self.lines) {
            (Tasks::EachLine(_), Some(index)) => {
                let bytes = index.text_length + index.offsets.len() as u64;
                Some(Extent { files: 2, bytes })
            }
            _ => None,
        };
        let input = |input: &DraftInput| match &input.from {
            InputFrom::Local(path) => extent(path).map(Some),
            InputFrom::Name { .. } | InputFrom::File { .. } => Ok(None),
        };
        let inputs = self.draft.inputs.iter().map(input).collect::<Result<_, _>>()?;
        Ok(Survey { program, lines, inputs })
    }
}

impl Client {
    /// Asks whether the cluster has the inputs that a draft says it has.
    ///
    /// # Errors
    /// [`ClientError`], as [`Client::upload`] would return it.
    pub fn look_up_inputs(&self, draft: &CheckedDraft) -> Result<(), ClientError> {
        for input in &draft.draft.inputs {
            match &input.from {
                InputFrom::Local(_) => {}
                InputFrom::Name { name, path } => {
                    let pointer = self.name(name)?.pointer;
                    self.resolve(pointer, path)?;
                }
                InputFrom::File { file, path } => {
                    self.resolve_file(*file, path)?;
                }
            }
        }
        Ok(())
    }
}

/// A file or folder that is named by the user, and may be a link to one.
fn extent(path: &Path) -> Result<Extent, ClientError> {
    let metadata = std::fs::metadata(path);
    let metadata = metadata.map_err(|error| ClientError::file("look at", path, error))?;
    if !metadata.is_dir() {
        return file(path);
    }
    let mut sum = Extent::default();
    folder(path, 1, &mut sum)?;
    Ok(sum)
}

fn file(path: &Path) -> Result<Extent, ClientError> {
    let opened = std::fs::File::open(path).and_then(|file| file.metadata());
    let metadata = opened.map_err(|error| ClientError::file("read", path, error))?;
    Ok(Extent { files: 1, bytes: metadata.len() })
}

fn folder(path: &Path, depth: usize, sum: &mut Extent) -> Result<(), ClientError> {
    let failed = |source| ClientError::file("list", path, source);
    for found in std::fs::read_dir(path).map_err(failed)? {
        let found = found.map_err(failed)?;
        let path = found.path();
        let metadata = found.metadata().map_err(|it| ClientError::file("look at", &path, it))?;
        let kind = metadata.file_type();
        if kind.is_dir() {
            let depth = deeper(depth).map_err(|it: TreeError| ClientError::from(it).at(&path))?;
            folder(&path, depth, sum)?;
        } else if kind.is_file() {
            let it = file(&path)?;
            *sum = Extent { files: sum.files + 1, bytes: sum.bytes + it.bytes };
        } else if !kind.is_symlink() {
            return Err(ClientError::NotStorable { path, what: kind_name(kind) });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::upload::LinesFrom;

    fn draft(inputs: &[(&str, InputFrom)]) -> Draft {
        let work = Work::Command {
            program: DraftProgram::Script(b"#!/bin/sh\n".to_vec()),
            arguments: Vec::new(),
        };
        let input = |(name, from): &(&str, InputFrom)| DraftInput {
            name: (*name).to_owned(),
            from: from.clone(),
        };
        Draft { inputs: inputs.iter().map(input).collect(), ..Draft::new(work) }
    }

    #[test]
    fn what_would_be_stored_is_counted() {
        let here = tempfile::tempdir().unwrap();
        let folder = here.path().join("folder");
        std::fs::create_dir_all(folder.join("inner")).unwrap();
        std::fs::write(folder.join("a"), "12345").unwrap();
        std::fs::write(folder.join("inner/b"), "123").unwrap();
        symlink("nowhere", folder.join("link")).unwrap();
        let local = InputFrom::Local(folder.clone());
        let remote = InputFrom::Name { name: "data".into(), path: Vec::new() };
        let mut draft = draft(&[("local", local), ("remote", remote)]);
        draft.tasks = Tasks::EachLine(LinesFrom::Memory(b"a\nb\n".to_vec()));
        let survey = draft.check().unwrap().survey().unwrap();
        assert_eq!(survey.inputs, [Some(Extent { files: 2, bytes: 8 }), None]);
        assert_eq!(survey.program, Some(Extent { files: 1, bytes: 10 }));
        assert_eq!(survey.lines, Some(Extent { files: 2, bytes: 4 + 24 }));
        assert_eq!(survey.whole(), Extent { files: 5, bytes: 46 });
    }

    #[test]
    fn what_cannot_be_stored_is_refused_as_storing_does() {
        let here = tempfile::tempdir().unwrap();
        let pipe = here.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        std::fs::set_permissions(&pipe, PermissionsExt::from_mode(0o600)).unwrap();
        let local = InputFrom::Local(here.path().to_owned());
        let error = draft(&[("local", local)]).check().unwrap().survey().unwrap_err();
        assert!(matches!(error, ClientError::NotStorable { what: "a pipe", .. }), "{error}");
    }
}
