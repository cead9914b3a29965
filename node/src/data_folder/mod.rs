//! The folder that holds all that a daemon keeps, and who it therefore is.
//!
//! Opening it takes its lock (one daemon per folder), checks that it belongs to this tier and
//! cluster, and counts the start durably before anything can be sent under the new incarnation.
//! What the tiers keep beside the identity is their own business.

mod identity;

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use proto::ids::{ClusterId, Incarnation, NodeId, StoreId};
use proto::status::Role;
use rustix::fs::FlockOperation;

use crate::files::{Files, RealFiles};
use identity::Identity;

/// A data folder that this process may not use, or cannot.
#[derive(Debug, thiserror::Error)]
pub enum DataFolderError {
    /// Another process has it open.
    #[error(
        "data folder {} is in use by {}: each daemon needs one of its own",
        path.display(),
        pid.map_or("another process".into(), |pid| format!("process {pid}"))
    )]
    InUse {
        /// The folder.
        path: PathBuf,
        /// The process, where its number could be read.
        pid: Option<u32>,
    },
    /// It belongs to a node of another tier.
    #[error(
        "data folder {} belongs to a {found}, this is a {wanted}: name another folder",
        path.display()
    )]
    OtherTier {
        /// The folder.
        path: PathBuf,
        /// The tier that it belongs to.
        found: Role,
        /// This process's tier.
        wanted: Role,
    },
    /// It belongs to a node of another cluster.
    #[error(
        "data folder {} belongs to cluster {found}, this node is to be part of {wanted}: \
         name another folder or correct the cluster",
        path.display()
    )]
    OtherCluster {
        /// The folder.
        path: PathBuf,
        /// The cluster that it belongs to.
        found: ClusterId,
        /// The cluster that was asked for.
        wanted: ClusterId,
    },
    /// It holds files, but no identity: another program's, or an identity was lost.
    #[error(
        "{} is not empty (it has {}) and not a data folder of Remuda: name another folder",
        path.display(),
        found.display()
    )]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// One of the files.
        found: PathBuf,
    },
    /// The identity is torn, was edited, or is of a later version.
    #[error(
        "{}: {text}; put it back from a backup, or remove the whole folder, and the node joins as \
         a new one",
        path.display()
    )]
    Identity {
        /// The identity file.
        path: PathBuf,
        /// What is wrong with it.
        text: String,
    },
    /// The operating system refused something.
    #[error("open data folder {}", path.display())]
    Io {
        /// The folder.
        path: PathBuf,
        /// Operation, file and reason.
        source: io::Error,
    },
}

/// An open data folder. The lock is given back when it is dropped or the process ends, however
/// that happens.
#[derive(Debug)]
pub struct DataFolder {
    path: PathBuf,
    identity: Identity,
    _lock: Lock,
}

impl DataFolder {
    /// Opens a folder, which is made where it is missing, for a node of this tier. With `cluster`,
    /// a folder of another cluster is refused and one that belongs to none yet is bound to it.
    ///
    /// # Errors
    /// [`DataFolderError`]; nothing was changed then, except that the folder may have been made.
    pub fn open(
        path: &Path,
        tier: Role,
        cluster: Option<ClusterId>,
    ) -> Result<DataFolder, DataFolderError> {
        let failed = |source| DataFolderError::Io { path: path.to_owned(), source };
        make(path).map_err(failed)?;
        let lock = lock(path)?;
        let identity = identity::start(&RealFiles, path, tier, cluster, &mut crate::random::bits)?;
        Ok(DataFolder { path: path.to_owned(), identity, _lock: lock })
    }

    /// Binds a folder that belongs to no cluster yet to one, durably. Does nothing where it belongs
    /// to this one already.
    ///
    /// # Errors
    /// [`DataFolderError::OtherCluster`], or that the identity could not be written.
    pub fn join(&mut self, cluster: ClusterId) -> Result<(), DataFolderError> {
        identity::join(&RealFiles, &self.path, &mut self.identity, cluster)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Who this node is; the same at every start.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.identity.node
    }

    /// Whose blocks these are; another one where the folder was emptied in between.
    #[must_use]
    pub fn store(&self) -> StoreId {
        self.identity.store
    }

    /// The cluster that it belongs to; `None` before the node has joined one.
    #[must_use]
    pub fn cluster(&self) -> Option<ClusterId> {
        self.identity.cluster
    }

    /// How often it has been opened, this time included: from 1, never twice the same.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.identity.incarnation
    }
}

/// Makes the folder and those above it, durably.
fn make(path: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = path
        .ancestors()
        .take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists())
        .collect();
    RealFiles.create_dir_all(path)?;
    for folder in missing {
        let above = folder.parent().filter(|above| !above.as_os_str().is_empty());
        RealFiles.sync_dir(above.unwrap_or(Path::new(".")))?;
    }
    Ok(())
}

/// Name of the file that is locked and holds the number of the process that did.
const LOCK: &str = "lock";

/// The locked file.
#[derive(Debug)]
struct Lock(fs::File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing would not do: a child that another thread is just starting holds a copy of the
        // descriptor until it executes its program. Nothing can be done about a failure.
        let _ = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}

fn lock(path: &Path) -> Result<Lock, DataFolderError> {
    let failed = |source| DataFolderError::Io { path: path.to_owned(), source };
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let mut file = options.open(path.join(LOCK)).map_err(failed)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut text = String::new();
            // Another process writes it just now, or wrote something else: then there is no pid.
            let read = file.take(32).read_to_string(&mut text);
            let pid = read.ok().and_then(|_| text.trim().parse().ok());
            return Err(DataFolderError::InUse { path: path.to_owned(), pid });
        }
        Err(error) => return Err(failed(error.into())),
    }
    let pid = format!("{}\n", std::process::id());
    file.set_len(0).and_then(|()| file.write_all(pid.as_bytes())).map_err(failed)?;
    Ok(Lock(file))
}

#[cfg(test)]
mod tests;
