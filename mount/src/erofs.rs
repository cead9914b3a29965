//! The system calls that mount an image as EROFS, and what their errors mean.
//!
//! The newer calls (`fsopen`, Linux 5.2) and not `mount(2)`: options come one by one, so that a path
//! may contain commas, and the device number is known before anybody can see the mount.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fd::AsFd;
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, move_mount,
};

use crate::mounting;

/// What the kernel calls such a mount.
const KIND: &str = "erofs";

/// Why the kernel does not mount an image.
#[derive(Debug, thiserror::Error)]
#[error("mount an image as EROFS: {}", reason(self.0))]
pub(crate) struct Refused(Errno);

/// What to do about it, or why nothing can be done.
fn reason(errno: Errno) -> String {
    let known = match errno {
        Errno::PERM | Errno::ACCESS => {
            "this process may not mount file systems (it takes CAP_SYS_ADMIN, outside of a user \
             namespace)"
        }
        Errno::NODEV => "this kernel has no EROFS (CONFIG_EROFS_FS; modprobe erofs)",
        Errno::NOTBLK => {
            "this kernel mounts EROFS from disks only (it takes Linux 6.12 with \
             CONFIG_EROFS_FS_BACKED_BY_FILE)"
        }
        Errno::NOSYS => "this kernel is older than Linux 5.2",
        Errno::INVAL => "this kernel does not know images of this kind",
        _ => return io::Error::from(errno).to_string(),
    };
    known.to_owned()
}

/// Mounts an image at a folder; the device number of the mount. Answering the reads of the image
/// must be somebody else's: the kernel reads its first block now.
pub(crate) fn mount(image: &Path, big: Option<&Path>, at: &Path) -> Result<(u32, u32), Refused> {
    let mounted = || {
        let context = fsopen(KIND, FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(context.as_fd(), "source", image)?;
        if let Some(big) = big {
            fsconfig_set_string(context.as_fd(), "device", big)?;
        }
        fsconfig_create(context.as_fd())?;
        let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV;
        let tree = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
        let device = rustix::fs::fstat(&tree)?.st_dev;
        move_mount(tree.as_fd(), "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        Ok((rustix::fs::major(device), rustix::fs::minor(device)))
    };
    mounted().map_err(Refused)
}

/// Takes away every mounted image below a folder, as a process that is dead left it.
pub(crate) fn unmount_all(folder: &Path) {
    let stale: Vec<PathBuf> =
        mounting::list_of_kind(KIND).into_iter().filter(|at| at.parent() == Some(folder)).collect();
    for at in stale {
        tracing::info!(at = %at.display(), "an image that a dead process left is taken away");
        if let Err(error) = mounting::unmount(&at) {
            tracing::warn!(at = %at.display(), error = %error, "a mount stays behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_expected_refusal_says_what_it_would_take() {
        for (errno, said) in [
            (Errno::PERM, "CAP_SYS_ADMIN"),
            (Errno::NODEV, "CONFIG_EROFS_FS"),
            (Errno::NOTBLK, "6.12"),
            (Errno::NOSYS, "5.2"),
            (Errno::NOMEM, "memory"),
        ] {
            let text = Refused(errno).to_string();
            assert!(text.starts_with("mount an image") && text.contains(said), "{text}");
        }
    }
}
