//! The system calls of mounting: a connection at a path, its end, and what is left of dead ones.
//!
//! Done here and not by `fuser`, whose own end of a mount fails where it is busy and can hit a newer
//! mount at the same path. Who may not mount asks `fusermount3`, as every user's mount does.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::logic::mounts::{self, Mounted};

/// What the kernel calls our mounts.
const KIND: &str = "fuse.remuda";

const DEVICE: &str = "/dev/fuse";

/// Dead mounts over each other that are cleaned away at once.
const STALE: usize = 16;

/// Why nothing can be mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountingError {
    /// The kernel's end is not there.
    #[error(
        "{DEVICE} is missing: load the kernel module (modprobe fuse); a container needs \
         --device {DEVICE} --cap-add SYS_ADMIN"
    )]
    NoDevice,
    /// The kernel's end cannot be opened.
    #[error("open {DEVICE}")]
    Device(#[source] io::Error),
    /// The kernel refuses, and so does `fusermount3`.
    #[error("mount at {}: {why}", at.display())]
    Refused {
        /// Where.
        at: PathBuf,
        /// What was said.
        why: String,
    },
    /// The folder cannot be used.
    #[error("{operation} {}", path.display())]
    Folder {
        /// What was tried.
        operation: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Something else is mounted there.
    #[error("{} is a mount already ({kind})", at.display())]
    Taken {
        /// Where.
        at: PathBuf,
        /// What stands there.
        kind: String,
    },
    /// There are files in the folder, which a mount would hide.
    #[error("{} is not empty", at.display())]
    NotEmpty {
        /// The folder.
        at: PathBuf,
    },
    /// It is no folder.
    #[error("{} is no folder", at.display())]
    NotAFolder {
        /// The path.
        at: PathBuf,
    },
}

fn folder_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> MountingError {
    move |source| MountingError::Folder { operation, path: path.to_owned(), source }
}

/// Who may look into a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Visible {
    /// Every user of the machine.
    ToAll,
    /// Only who mounted it.
    ToOwner,
}

impl Visible {
    /// Root may show a mount to all, as tasks of other users need it; others only if the machine's
    /// configuration says so, so they do not ask.
    pub(crate) fn by_rights() -> Visible {
        if rustix::process::geteuid().is_root() { Visible::ToAll } else { Visible::ToOwner }
    }
}

/// All mounts that this process sees.
fn list() -> io::Result<Vec<Mounted>> {
    Ok(mounts::read(&fs::read("/proc/self/mountinfo")?))
}

/// Where file systems of a kind are mounted, the oldest first.
pub(crate) fn list_of_kind(kind: &str) -> Vec<PathBuf> {
    let mounts = list().unwrap_or_default().into_iter();
    mounts.filter(|mounted| mounted.kind == kind).map(|mounted| mounted.at).collect()
}

/// What is mounted at a path that is absolute and has no links.
pub(crate) fn mounted_at(at: &Path) -> Option<Mounted> {
    mounts::at(&list().ok()?, at).cloned()
}

/// A mount whose process is gone answers so.
fn is_dead(path: &Path) -> bool {
    let told = fs::metadata(path).err().and_then(|error| error.raw_os_error());
    matches!(told, Some(libc::ENOTCONN | libc::ECONNABORTED))
}

/// The folder to mount at, absolute and without links, free and empty. What a dead process of ours
/// left there is cleaned away.
pub(crate) fn prepare(at: &Path) -> Result<PathBuf, MountingError> {
    let at = absolute(at)?;
    for _ in 0..STALE {
        if !is_dead(&at) {
            break;
        }
        match mounted_at(&at) {
            Some(Mounted { kind, .. }) if kind != KIND => {
                return Err(MountingError::Taken { at, kind: format!("{kind}, and it is dead") });
            }
            _ => {
                tracing::info!(at = %at.display(), "a dead mount is cleaned away");
                unmount(&at)?;
            }
        }
    }
    let metadata = fs::metadata(&at).map_err(folder_error("look at", &at))?;
    if !metadata.is_dir() {
        return Err(MountingError::NotAFolder { at });
    }
    if let Some(Mounted { kind, .. }) = mounted_at(&at) {
        return Err(MountingError::Taken { at, kind });
    }
    let mut entries = fs::read_dir(&at).map_err(folder_error("list", &at))?;
    if entries.next().is_some() {
        return Err(MountingError::NotEmpty { at });
    }
    Ok(at)
}

/// Takes away a mount of ours whose process died, so that its folder can be removed. A mount that
/// is alive stays.
///
/// # Errors
/// [`MountingError`] where it cannot be taken away.
pub fn clean(at: &Path) -> Result<(), MountingError> {
    if is_dead(at) { prepare(at).map(|_| ()) } else { Ok(()) }
}

/// A dead mount cannot be looked at, so only its folder is resolved.
fn absolute(at: &Path) -> Result<PathBuf, MountingError> {
    match at.canonicalize() {
        Ok(path) => Ok(path),
        Err(_) if is_dead(at) => {
            let name = at.file_name().unwrap_or_default();
            let folder = match at.parent() {
                Some(folder) if !folder.as_os_str().is_empty() => folder,
                _ => Path::new("."),
            };
            let folder = folder.canonicalize().map_err(folder_error("look at", folder))?;
            Ok(folder.join(name))
        }
        Err(error) => Err(folder_error("look at", at)(error)),
    }
}

/// Mounts a connection, which nobody serves yet; the kernel's end of it.
pub(crate) fn mount(at: &Path, visible: Visible) -> Result<OwnedFd, MountingError> {
    let device = match OpenOptions::new().read(true).write(true).open(DEVICE) {
        Ok(device) => device,
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(MountingError::NoDevice),
        // Without rights to it, fusermount3 opens it.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            return mount_by_helper(at, visible);
        }
        Err(error) => return Err(MountingError::Device(error)),
    };
    match mount_ourselves(&device, at, visible) {
        Ok(()) => Ok(device.into()),
        Err(rustix::io::Errno::PERM) => mount_by_helper(at, visible),
        Err(error) => Err(MountingError::Refused { at: at.to_owned(), why: error.to_string() }),
    }
}

fn mount_ourselves(device: &File, at: &Path, visible: Visible) -> rustix::io::Result<()> {
    let all = if visible == Visible::ToAll { ",allow_other" } else { "" };
    let options = format!(
        "fd={},rootmode=40000,user_id={},group_id={},subtype=remuda{all}",
        device.as_raw_fd(),
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
    );
    let options = CString::new(options).map_err(|_| rustix::io::Errno::INVAL)?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount("remuda", at, "fuse", flags, options.as_c_str())
}

/// `fusermount3` mounts and sends the kernel's end over a socket, whose number it is told.
fn mount_by_helper(at: &Path, visible: Visible) -> Result<OwnedFd, MountingError> {
    let refused = |why: String| MountingError::Refused { at: at.to_owned(), why };
    let all = if visible == Visible::ToAll { ",allow_other" } else { "" };
    let options = format!("ro,nosuid,nodev,fsname=remuda,subtype=remuda{all}");
    let (ours, its) = UnixStream::pair().map_err(|error| refused(error.to_string()))?;
    let child = Command::new("fusermount3")
        .args(["-o", &options, "--"])
        .arg(at)
        // Standard input is the one number that a child has for sure.
        .stdin(OwnedFd::from(its))
        .env("_FUSE_COMMFD", "0")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let child = child.map_err(|error| match error.kind() {
        ErrorKind::NotFound => {
            refused("only root may mount without fusermount3 (Debian package fuse3)".to_owned())
        }
        _ => refused(format!("start fusermount3: {error}")),
    })?;
    let device = receive(&ours);
    let output = child.wait_with_output();
    let output = output.map_err(|error| refused(format!("wait for fusermount3: {error}")))?;
    match device {
        Some(device) if output.status.success() => Ok(device),
        _ => Err(refused(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
    }
}

fn receive(socket: &UnixStream) -> Option<OwnedFd> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut vectors = [IoSliceMut::new(&mut byte)];
    recvmsg(socket, &mut vectors, &mut ancillary, RecvFlags::CMSG_CLOEXEC).ok()?;
    ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut devices) => devices.next(),
        _ => None,
    })
}

/// Takes the newest mount at a path away from it. Whoever is in it stays in it until he leaves.
pub(crate) fn unmount(at: &Path) -> Result<(), MountingError> {
    match rustix::mount::unmount(at, UnmountFlags::DETACH) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::PERM) => {
            let output = Command::new("fusermount3").args(["-u", "-z", "--"]).arg(at).output();
            let output = output.map_err(folder_error("unmount", at))?;
            if output.status.success() {
                return Ok(());
            }
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(folder_error("unmount", at)(io::Error::other(said)))
        }
        Err(error) => Err(folder_error("unmount", at)(error.into())),
    }
}

/// Takes away what is mounted at a path if it is still this mount.
pub(crate) fn unmount_own(at: &Path, device: (u32, u32)) {
    if mounted_at(at).is_some_and(|mounted| mounted.device == device)
        && let Err(error) = unmount(at)
    {
        tracing::warn!(at = %at.display(), error = %error, "a mount stays behind");
    }
}

/// Lets the kernel read more at once than it does by itself; that is no loss where it may not be set.
pub(crate) fn set_read_ahead(device: (u32, u32), kib: u32) {
    let (major, minor) = device;
    let path = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    if let Err(error) = fs::write(&path, kib.to_string()) {
        tracing::debug!(path, %error, "the kernel's read-ahead stays as it is");
    }
}
