//! As whom tasks run where the worker is root, and what that user must be able to reach.
//!
//! The helper becomes that user when it is started, before it starts anything. Deliberately not
//! here: whose a task's folder is.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Who tasks run as where a worker is root and its settings name nobody.
const NOBODY: &str = "nobody";

/// The bit that lets everybody pass through a folder.
const PASS: u32 = 0o001;

/// Another user than the worker's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskUser {
    /// The user.
    pub uid: u32,
    /// The only group.
    pub gid: u32,
}

impl TaskUser {
    /// The user that the settings mean, by name or number; empty for `nobody` where this process is
    /// root. `None` where tasks run as this process does.
    ///
    /// # Errors
    /// A sentence, where there is no such user, or this process cannot become it.
    pub fn of_setting(setting: &str) -> io::Result<Option<TaskUser>> {
        let own = rustix::process::geteuid().as_raw();
        let users = fs::read("/etc/passwd").unwrap_or_default();
        choose(setting, own, &String::from_utf8_lossy(&users)).map_err(io::Error::other)
    }

    /// Lets this user pass through a folder of the worker's, and tells where he cannot come so far.
    pub(super) fn admit(self, folder: &Path) -> io::Result<()> {
        let mode = fs::metadata(folder)?.permissions().mode();
        fs::set_permissions(folder, Permissions::from_mode(mode | PASS))?;
        match self.closed(folder)? {
            None => Ok(()),
            Some(closed) => Err(io::Error::other(format!(
                "tasks run as user {}, who cannot pass through {}: let everybody pass (chmod o+x), \
                 have the data folder elsewhere, or name another `user` in the settings",
                self.uid,
                closed.display()
            ))),
        }
    }

    /// The first folder on an absolute path that this user cannot pass through.
    fn closed(self, path: &Path) -> io::Result<Option<PathBuf>> {
        for folder in path.ancestors() {
            let metadata = fs::metadata(folder)?;
            let bit = match (metadata.uid() == self.uid, metadata.gid() == self.gid) {
                (true, _) => PASS << 6,
                (false, true) => PASS << 3,
                (false, false) => PASS,
            };
            if metadata.mode() & bit == 0 {
                return Ok(Some(folder.to_owned()));
            }
        }
        Ok(None)
    }
}

fn choose(setting: &str, own: u32, users: &str) -> Result<Option<TaskUser>, String> {
    let wanted = match setting {
        "" if own == 0 => NOBODY,
        "" => return Ok(None),
        name => name,
    };
    let Some(user) = find(users, wanted) else {
        return Err(format!("there is no user {wanted:?} for tasks: name another one as `user`"));
    };
    match user.uid {
        uid if uid == own => Ok(None),
        _ if own == 0 => Ok(Some(user)),
        _ => Err(format!("only a worker that is root can run tasks as another user ({wanted:?})")),
    }
}

/// A user by name or number. A number that has no line stands for a user of its own.
fn find(users: &str, wanted: &str) -> Option<TaskUser> {
    let number = wanted.parse::<u32>().ok();
    let mut lines = users.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, ..] = fields.as_slice() else { return None };
        Some((*name, TaskUser { uid: uid.parse().ok()?, gid: gid.parse().ok()? }))
    });
    let found = lines.find(|(name, user)| *name == wanted || Some(user.uid) == number);
    let alone = || number.map(|uid| TaskUser { uid, gid: uid });
    found.map(|(_, user)| user).or_else(alone)
}

#[cfg(test)]
mod tests {
    use super::*;

    const USERS: &str = "root:x:0:0:root:/root:/bin/sh\nbroken\nann:x:1000:1001::/home/ann:/bin/sh\n\
                         nobody:x:65534:65533:nobody:/nonexistent:/usr/sbin/nologin\n";

    #[test]
    fn who_tasks_run_as_follows_from_the_setting_and_from_who_the_worker_is() {
        let ann = Some(TaskUser { uid: 1000, gid: 1001 });
        let nobody = Some(TaskUser { uid: 65534, gid: 65533 });
        for (setting, own, wanted) in [
            ("", 0, nobody),
            ("", 1000, None),
            ("ann", 0, ann),
            ("1000", 0, ann),
            ("ann", 1000, None),
            ("root", 0, None),
            ("0", 0, None),
            ("77", 0, Some(TaskUser { uid: 77, gid: 77 })),
        ] {
            assert_eq!(choose(setting, own, USERS), Ok(wanted), "{setting:?} {own}");
        }
        assert!(choose("ann", 77, USERS).unwrap_err().contains("only a worker that is root"));
        assert!(choose("eve", 0, USERS).unwrap_err().contains("no user \"eve\""));
        assert!(choose("", 0, "").unwrap_err().contains("no user \"nobody\""));
    }

    #[test]
    fn a_closed_folder_on_the_way_is_told() {
        let place = tempfile::tempdir().unwrap();
        let stranger = TaskUser { uid: 4_000_000_000, gid: 4_000_000_000 };
        let inner = place.path().join("inner");
        fs::create_dir(&inner).unwrap();
        fs::set_permissions(place.path(), Permissions::from_mode(0o700)).unwrap();
        let error = stranger.admit(&inner).unwrap_err().to_string();
        assert!(error.contains(&format!("through {}:", place.path().display())), "{error}");
        fs::set_permissions(place.path(), Permissions::from_mode(0o711)).unwrap();
        fs::set_permissions(&inner, Permissions::from_mode(0o700)).unwrap();
        stranger.admit(&inner).unwrap();
        assert_eq!(fs::metadata(&inner).unwrap().permissions().mode() & 0o777, 0o701);
    }
}
