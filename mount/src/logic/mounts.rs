//! The kernel's list of mounts (`/proc/self/mountinfo`), as far as a mount needs it.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// Its device number, major and minor: a new one with each mount of a file system in user space.
    pub device: (u32, u32),
    /// Where it stands.
    pub at: PathBuf,
    /// Its type.
    pub kind: String,
}

/// What stands at a path: of several mounts over each other the newest.
#[must_use]
pub fn at<'a>(mounts: &'a [Mounted], path: &Path) -> Option<&'a Mounted> {
    mounts.iter().rfind(|mounted| mounted.at == path)
}

/// Reads the list, the oldest first. Lines of a form that is not known are passed over.
#[must_use]
pub fn read(list: &[u8]) -> Vec<Mounted> {
    list.split(|byte| *byte == b'\n').filter_map(line).collect()
}

/// `36 35 98:0 /root /at options optional… - type source options`
fn line(line: &[u8]) -> Option<Mounted> {
    let mut fields = line.split(|byte| *byte == b' ');
    let device = std::str::from_utf8(fields.nth(2)?).ok()?;
    let (major, minor) = device.split_once(':')?;
    let at = PathBuf::from(OsString::from_vec(unescape(fields.nth(1)?)));
    let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
    Some(Mounted {
        device: (major.parse().ok()?, minor.parse().ok()?),
        at,
        kind: String::from_utf8_lossy(kind).into_owned(),
    })
}

/// The kernel writes blanks, tabs, line feeds and backslashes as a backslash and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, behind)) = rest.split_first() {
        let digits = behind.get(..3).filter(|_| *first == b'\\');
        let byte = digits.and_then(|digits| {
            let text = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(text, 8).ok()
        });
        match byte {
            Some(byte) => {
                bytes.push(byte);
                rest = behind.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = behind;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &[u8] = b"22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw\n\
        40 22 0:35 / /mnt/a\\040b\\134c ro,nosuid - fuse.remuda remuda ro,user_id=0\n\
        41 22 0:36 / /mnt/two rw master:1 propagate_from:2 - fuse.other x rw\n\
        not a line\n\
        42 22 0:37 / /mnt/two rw - fuse.remuda remuda ro\n";

    #[test]
    fn the_newest_mount_at_a_path_counts() {
        let mounts = read(LIST);
        assert_eq!(mounts.len(), 4);
        let odd = at(&mounts, Path::new("/mnt/a b\\c")).unwrap();
        assert_eq!((odd.device, odd.kind.as_str()), ((0, 35), "fuse.remuda"));
        let two = at(&mounts, Path::new("/mnt/two")).unwrap();
        assert_eq!((two.device, two.kind.as_str()), ((0, 37), "fuse.remuda"));
        assert_eq!(at(&mounts, Path::new("/mnt")), None);
        assert_eq!(at(&mounts, Path::new("/")).unwrap().kind, "ext4");
    }

    #[test]
    fn what_is_no_escape_stays() {
        assert_eq!(unescape(br"a\1"), br"a\1");
        assert_eq!(unescape(br"\999\040"), br"\999 ");
    }
}
