//! What the supervisor tells other commands of its processes: a file that is replaced whenever one
//! starts or ends.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::supervisor::Change;
use crate::failure::{During, Failure};

const FILE: &str = "processes.json";

/// The newest of one process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    /// Its name.
    pub(crate) name: String,
    /// Its number; `None` where it does not run.
    pub(crate) pid: Option<u32>,
    /// How often it was started since the supervisor was.
    pub(crate) starts: u64,
    /// How it ended last.
    pub(crate) ended: Option<String>,
}

/// The file and what stands in it.
#[derive(Debug)]
pub(crate) struct Record {
    path: PathBuf,
    processes: Vec<Process>,
}

impl Record {
    /// A record of processes that were not started yet.
    pub(crate) fn new(folder: &Path, names: impl Iterator<Item = String>) -> Record {
        let process = |name| Process { name, pid: None, starts: 0, ended: None };
        Record { path: folder.join(FILE), processes: names.map(process).collect() }
    }

    /// Writes down what happened.
    pub(crate) fn change(&mut self, position: usize, change: &Change) -> Result<(), Failure> {
        if let Some(process) = self.processes.get_mut(position) {
            match change {
                Change::Started { pid } => {
                    process.pid = Some(*pid);
                    process.starts += 1;
                }
                Change::Ended { how, .. } => {
                    process.pid = None;
                    process.ended = Some(how.clone());
                }
            }
        }
        let text = serde_json::to_string(&self.processes).during(|| "write JSON".into())?;
        super::replace(&self.path, &text)
    }
}

/// What stands in a folder's record; nothing where no supervisor wrote one.
pub(crate) fn read(folder: &Path) -> Vec<Process> {
    let text = std::fs::read_to_string(folder.join(FILE)).unwrap_or_default();
    // The file is replaced as a whole; one that cannot be read says as little as none.
    serde_json::from_str(&text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_read_what_happened() {
        let folder = tempfile::tempdir().unwrap();
        assert!(read(folder.path()).is_empty());
        let names = ["master-1", "worker-1"].map(str::to_owned);
        let mut record = Record::new(folder.path(), names.into_iter());
        record.change(1, &Change::Started { pid: 77 }).unwrap();
        record.change(1, &Change::Ended { how: "exit code 1".into(), wanted: false }).unwrap();
        record.change(1, &Change::Started { pid: 78 }).unwrap();
        let found = read(folder.path());
        assert_eq!((found[0].pid, found[0].starts), (None, 0));
        assert_eq!((found[1].pid, found[1].starts), (Some(78), 2));
        assert_eq!(found[1].ended.as_deref(), Some("exit code 1"));
    }
}
