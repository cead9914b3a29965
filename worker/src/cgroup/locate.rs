//! Where cgroups can be made below the worker's own, of whichever version a controller has.
//!
//! Deliberately not here: what they limit.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::set;

/// Which of the kernel's two interfaces a controller has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    V2,
}

/// The folder below which cgroups with limits of a controller can be made.
///
/// # Errors
/// A sentence for the log.
pub(super) fn folder_of(controller: &str) -> Result<(Version, PathBuf), String> {
    let read = |path: &str| fs::read_to_string(path).map_err(|it| format!("{path}: {it}"));
    let (own, mounts) = (read("/proc/self/cgroup")?, read("/proc/self/mountinfo")?);
    let (version, own) = locate(controller, &own, &mounts)?;
    let folder = match version {
        Version::V1 => own,
        Version::V2 => {
            handed_on(own, controller).map_err(|it| format!("hand on {controller}: {it}"))?
        }
    };
    Ok((version, folder))
}

/// The cgroup of version 2 whose children can have limits of a controller: the worker's own, or the
/// one around it where that was handed to the worker and the worker put into a child of it (systemd's
/// `Delegate` with `DelegateSubgroup`). One that has processes itself, but is not the root of all,
/// cannot hand any on.
fn handed_on(own: PathBuf, controller: &str) -> io::Result<PathBuf> {
    match hand_on(&own, controller) {
        Ok(()) => Ok(own),
        Err(error) => match own.parent() {
            Some(around) if is_delegated(around) => {
                hand_on(around, controller).map(|()| around.to_owned())
            }
            _ => Err(error),
        },
    }
}

/// Lets the children of a cgroup of version 2 have limits of a controller, and processes.
fn hand_on(cgroup: &Path, controller: &str) -> io::Result<()> {
    let file = cgroup.join("cgroup.subtree_control");
    let is_there = fs::read_to_string(&file)?.split_whitespace().any(|it| it == controller);
    if !is_there {
        set(&file, &format!("+{controller}"))?;
    }
    // Controllers of threads, such as `pids`, can be handed on by a cgroup that has processes; but
    // then its children can have threads of these only, and no process gets into them.
    let kind = match fs::read_to_string(cgroup.join("cgroup.type")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()), // The root.
        kind => kind?,
    };
    if kind.trim() == "domain" {
        return Ok(());
    }
    if !is_there {
        set(&file, &format!("-{controller}"))?;
    }
    Err(io::Error::other(format!("no process could get into a child of {}", cgroup.display())))
}

/// Whether systemd leaves what is below a cgroup to those who run in it.
fn is_delegated(cgroup: &Path) -> bool {
    ["user.delegate", "trusted.delegate"].iter().any(|name| {
        let mut value = [0; 1];
        rustix::fs::getxattr(cgroup, *name, &mut value).is_ok_and(|count| count == 1)
            && value == *b"1"
    })
}

/// The folder of a process's own cgroup that a controller looks at, from what `/proc/self/cgroup` and
/// `/proc/self/mountinfo` say.
fn locate(controller: &str, own: &str, mounts: &str) -> Result<(Version, PathBuf), String> {
    let lines = own.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':');
        Some((fields.next()?, fields.next()?, fields.next()?))
    });
    let is_among = |controllers: &str| controllers.split(',').any(|it| it == controller);
    let mut found = None;
    for (number, controllers, path) in lines {
        if is_among(controllers) {
            // Where both versions are there, the controller is with one of them only.
            found = Some((Version::V1, path));
        } else if number == "0" && found.is_none() {
            found = Some((Version::V2, path));
        }
    }
    let none = || format!("this process is in no cgroup that limits {controller}");
    let (version, path) = found.ok_or_else(none)?;
    for line in mounts.lines() {
        let Some((mount, kind)) = line.split_once(" - ") else { continue };
        let mount: Vec<&str> = mount.split(' ').collect();
        let kind: Vec<&str> = kind.split(' ').collect();
        let ([_, _, _, root, point, ..], [kind, _, options, ..]) = (&mount[..], &kind[..]) else {
            continue;
        };
        let is_it = match version {
            Version::V1 => *kind == "cgroup" && is_among(options),
            Version::V2 => *kind == "cgroup2",
        };
        // What was mounted may begin further down, and not contain this process.
        let Ok(below) = Path::new(path).strip_prefix(unescape(root)) else { continue };
        if is_it && !path.split('/').any(|part| part == "..") {
            return Ok((version, unescape(point).join(below)));
        }
    }
    Err(format!("the cgroup {path} is not mounted here"))
}

/// A path of `mountinfo`, in which spaces and the like are backslashes with three octal digits.
fn unescape(text: &str) -> PathBuf {
    let mut parts = text.split('\\');
    let mut path = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) if code.is_ascii() => {
                path.push(char::from(code));
                path.push_str(&part[3..]);
            }
            _ => {
                path.push('\\');
                path.push_str(part);
            }
        }
    }
    path.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1_MOUNTS: &str = "\
        22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
        31 22 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
        32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
        35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:7 - cgroup cgroup rw,memory\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";

    #[test]
    fn the_own_cgroup_is_found() {
        let v2 = "30 22 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        let inner = "50 40 0:32 /docker/1f /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        let spaced = "30 22 0:26 / /a\\040b\\134 rw - cgroup2 none rw\n";
        let moved = "30 22 0:26 /other /elsewhere rw - cgroup2 none rw\n\
                     31 22 0:26 /batch /batch rw - cgroup2 none rw\n";
        for (own, mounts, version, path) in [
            (
                "4:memory:/a/b:c\n1:cpu,cpuacct:/\n0::/x\n",
                V1_MOUNTS,
                Version::V1,
                "/sys/fs/cgroup/memory/a/b:c",
            ),
            ("0::/x\n2:hugetlb,memory:/\n", V1_MOUNTS, Version::V1, "/sys/fs/cgroup/memory/"),
            ("1:name=systemd:/y\n0::/x\n", V1_MOUNTS, Version::V2, "/sys/fs/cgroup/unified/x"),
            ("0::/user.slice/s\n", v2, Version::V2, "/sys/fs/cgroup/user.slice/s"),
            ("0::/\n", v2, Version::V2, "/sys/fs/cgroup/"),
            ("4:memory:/docker/1f\n", inner, Version::V1, "/sys/fs/cgroup/memory/"),
            ("0::/x\n", spaced, Version::V2, "/a b\\/x"),
            ("0::/batch/x\n", moved, Version::V2, "/batch/x"),
        ] {
            let found = locate("memory", own, mounts).unwrap();
            assert_eq!(found, (version, PathBuf::from(path)), "{own}");
        }
    }

    #[test]
    fn what_cannot_be_reached_is_told() {
        let v2 = "30 22 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        for (own, mounts, reason) in [
            ("", V1_MOUNTS, "in no cgroup"),
            ("1:cpu:/\nmemory\n", V1_MOUNTS, "in no cgroup"),
            ("4:memory:/a\n", v2, "/a is not mounted"),
            ("0::/a\n", "", "/a is not mounted"),
            ("0::/a\n", "30 22 - cgroup2\n\n30 22 0:26 / /x rw cgroup2 - x\n", "not mounted"),
            ("0::/../a\n", v2, "/../a is not mounted"),
            ("0::/ab\n", "30 22 0:26 /a /x rw - cgroup2 cgroup2 rw\n", "/ab is not mounted"),
        ] {
            let error = locate("memory", own, mounts).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn a_cgroup_whose_children_can_have_no_processes_hands_nothing_on() {
        let folder = std::env::temp_dir().join(format!("remuda-locate-{}", fastrand::u64(..)));
        fs::create_dir(&folder).unwrap();
        let control = folder.join("cgroup.subtree_control");
        for (kind, before, is_of_use, after) in [
            (Some("domain\n"), "", true, "+pids"),
            (Some("domain\n"), "memory pids\n", true, "memory pids\n"),
            (None, "", true, "+pids"),
            (Some("domain threaded\n"), "", false, "-pids"),
            (Some("domain invalid\n"), "", false, "-pids"),
            (Some("domain threaded\n"), "cpu pids\n", false, "cpu pids\n"),
        ] {
            if let Some(kind) = kind {
                fs::write(folder.join("cgroup.type"), kind).unwrap();
            } else {
                fs::remove_file(folder.join("cgroup.type")).unwrap();
            }
            fs::write(&control, before).unwrap();
            assert_eq!(hand_on(&folder, "pids").is_ok(), is_of_use, "{kind:?}");
            assert_eq!(fs::read_to_string(&control).unwrap(), after, "{kind:?}");
        }
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn each_controller_has_its_own() {
        let own = "8:pids:/tasks\n4:memory:/a\n0::/x\n";
        let mounts = "33 31 0:30 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n".to_owned();
        let found = locate("pids", own, &(mounts + V1_MOUNTS)).unwrap();
        assert_eq!(found, (Version::V1, PathBuf::from("/sys/fs/cgroup/pids/tasks")));
    }
}
