//! Which local clusters this user runs: one link for each, named by its cluster's UUID, that leads
//! to its folder.
//!
//! A link says only where to look: the cluster runs if the lock of its folder is held. Links whose
//! cluster does not run are removed by whoever comes by.

use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use client::find::Surroundings;
use proto::ids::ClusterId;

use crate::failure::{During, Failure};

/// The folder of links, where clients look too.
pub(crate) fn folder() -> PathBuf {
    Surroundings::of_process(None).registry
}

/// A cluster's entry; removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Entry {
    link: PathBuf,
}

impl Entry {
    /// Lists a cluster that lives in `folder`, which must be an absolute path.
    pub(crate) fn add(
        registry: &Path,
        cluster: ClusterId,
        folder: &Path,
    ) -> Result<Entry, Failure> {
        let failed = || format!("list the cluster in {}", registry.display());
        make(registry).during(failed)?;
        remove_ended(registry);
        let link = registry.join(cluster.to_string());
        match std::fs::remove_file(&link) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).during(failed)?,
            _ => symlink(folder, &link).during(failed)?,
        }
        Ok(Entry { link })
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        // A link that stays is found to lead to no running cluster.
        let _ = std::fs::remove_file(&self.link);
    }
}

/// Makes the folder where it is missing, for this user alone, and refuses one of another user's.
fn make(registry: &Path) -> io::Result<()> {
    match std::fs::DirBuilder::new().mode(0o700).create(registry) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let found = std::fs::symlink_metadata(registry)?;
    let mine = found.uid() == rustix::process::getuid().as_raw();
    if !found.is_dir() || !mine || found.mode() & 0o022 != 0 {
        return Err(io::Error::other("it belongs to another user, or others may write to it"));
    }
    Ok(())
}

fn remove_ended(registry: &Path) {
    let Ok(entries) = std::fs::read_dir(registry) else {
        return;
    };
    for link in entries.flatten().map(|entry| entry.path()) {
        if std::fs::read_link(&link).is_ok_and(|folder| !super::lock::is_held(&folder)) {
            let _ = std::fs::remove_file(&link);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::lock::Lock;
    use super::*;

    #[test]
    fn running_clusters_are_listed_and_ended_ones_are_not() {
        let outer = tempfile::tempdir().unwrap();
        let registry = outer.path().join("registry");
        let folder = |name: &str| {
            let path = outer.path().join(name);
            std::fs::create_dir(&path).unwrap();
            path
        };
        let (runs, ended) = (folder("runs"), folder("ended"));
        let _lock = Lock::take(&runs).unwrap().unwrap();
        let first = Entry::add(&registry, ClusterId(1), &runs).unwrap();
        // Its process was killed: nobody took its link away.
        std::mem::forget(Entry::add(&registry, ClusterId(2), &ended).unwrap());
        let third = Entry::add(&registry, ClusterId(3), &ended).unwrap();
        let listed = || {
            let entries = std::fs::read_dir(&registry).unwrap();
            let mut found: Vec<PathBuf> =
                entries.map(|entry| std::fs::read_link(entry.unwrap().path()).unwrap()).collect();
            found.sort();
            found
        };
        assert_eq!(listed(), [ended, runs.clone()]);
        drop(third);
        assert_eq!(listed(), [runs]);
        drop(first);
        assert!(listed().is_empty());
    }

    #[test]
    fn a_folder_that_others_may_write_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let outer = tempfile::tempdir().unwrap();
        let registry = outer.path().join("registry");
        std::fs::create_dir(&registry).unwrap();
        std::fs::set_permissions(&registry, std::fs::Permissions::from_mode(0o777)).unwrap();
        let refused = Entry::add(&registry, ClusterId(1), outer.path()).unwrap_err();
        assert!(format!("{refused:?}").contains("others may write"), "{refused:?}");
    }
}
