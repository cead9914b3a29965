//! What a test needs of the machine, and what becomes of one whose machine lacks it.
//!
//! It is skipped and says so in the file that `REMUDA_SKIPPED` names, or fails where
//! `REMUDA_REQUIRE` lists what it lacks. Either way nobody takes it for a test that passed.

use std::fs::OpenOptions;
use std::io::Write;
use std::process::{Command, Stdio};

/// Something that not every machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Mounting with FUSE.
    Fuse,
    /// Being root.
    Root,
    /// Making network namespaces.
    Netns,
    /// Filtering packets with `nft`.
    Nft,
    /// Watching another process's system calls with `strace`.
    Strace,
    /// Seeing the bytes of each connection with `ss`.
    Ss,
    /// Checking images of file systems with `fsck.erofs`.
    FsckErofs,
    /// A kernel that mounts such images.
    Erofs,
    /// Showing files as block devices with `losetup`.
    Loop,
}

impl Need {
    /// As `REMUDA_REQUIRE` names it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Need::Fuse => "fuse",
            Need::Root => "root",
            Need::Netns => "netns",
            Need::Nft => "nft",
            Need::Strace => "strace",
            Need::Ss => "ss",
            Need::FsckErofs => "fsck.erofs",
            Need::Erofs => "erofs",
            Need::Loop => "loop",
        }
    }

    fn is_met(self) -> bool {
        let runs = |program: &str, arguments: &[&str]| {
            let mut command = Command::new(program);
            command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
            command.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
        };
        match self {
            Need::Fuse => OpenOptions::new().read(true).write(true).open("/dev/fuse").is_ok(),
            Need::Root => rustix::process::geteuid().is_root(),
            Need::Netns => runs("unshare", &["--net", "true"]),
            Need::Nft => runs("unshare", &["--net", "nft", "list", "ruleset"]),
            Need::Strace => runs("strace", &["-o", "/dev/null", "true"]),
            Need::Ss => runs("ss", &["-t", "-i", "-n"]),
            Need::FsckErofs => runs("fsck.erofs", &["--help"]),
            Need::Erofs => runs("grep", &["-qw", "erofs", "/proc/filesystems"]),
            Need::Loop => runs("losetup", &["--find"]),
        }
    }
}

/// True where the machine has what the calling test needs. Where it is false, the test returns.
///
/// # Panics
/// Where it is missing and `REMUDA_REQUIRE` lists it.
#[must_use]
#[track_caller]
pub fn has(need: Need) -> bool {
    if need.is_met() {
        return true;
    }
    let required = std::env::var("REMUDA_REQUIRE").unwrap_or_default();
    assert!(!lists(&required, need), "this machine has no {}, which is required", need.name());
    let thread = std::thread::current();
    let line = format!("{}: no {} here\n", thread.name().unwrap_or("a test"), need.name());
    eprint!("skipped {line}");
    if let Some(path) = std::env::var_os("REMUDA_SKIPPED") {
        let file = OpenOptions::new().create(true).append(true).open(path);
        file.and_then(|mut file| file.write_all(line.as_bytes())).expect("note the skipped test");
    }
    false
}

fn lists(required: &str, need: Need) -> bool {
    required.split(',').any(|name| name.trim() == need.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_required_is_named_in_a_list() {
        for need in [Need::Fuse, Need::Root, Need::Netns] {
            assert!(lists("fuse, root,netns", need));
            assert!(!lists("", need) && !lists("strace", need));
        }
    }

    #[test]
    fn root_is_who_may_write_where_nobody_else_may() {
        let user = std::fs::metadata("/proc/self").unwrap();
        let is_root = std::os::unix::fs::MetadataExt::uid(&user) == 0;
        assert_eq!(Need::Root.is_met(), is_root);
    }
}
