//! Names: mutable pointers to files and trees, as keys and values of the masters' keyspace.
//!
//! Responsible for what a name may look like and for the bytes of key and value, which whoever
//! follows a name reads. Setting, listing and following names is the client's matter.

use std::fmt;

use crate::ids::FileId;
use crate::limits::{FILE_BYTES, NAME_BYTES};
use crate::wire::WireUuid;

/// What the keys of all names begin with.
pub const PREFIX: &[u8] = b"name/";

const VERSION: u8 = 1;
const FILE: u8 = 1;
const TREE: u8 = 2;

/// What a name points to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pointer {
    /// True where it is a tree.
    pub is_tree: bool,
    /// The file, or the tree file.
    pub file: FileId,
    /// Its bytes.
    pub length: u64,
}

/// Why something is no name, or no pointer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameError {
    /// A text that no name may be.
    Name {
        /// The text, shortened.
        text: String,
    },
    /// A value that this version does not know.
    Value,
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NameError::Name { text } => write!(
                f,
                "{text:?} is no name: it takes 1 to {NAME_BYTES} bytes without slash and control \
                 characters, and neither . nor .."
            ),
            NameError::Value => f.write_str("the name points to what this version does not know"),
        }
    }
}

impl std::error::Error for NameError {}

/// The key of a name.
///
/// # Errors
/// [`NameError::Name`] for an empty or too long one, one with a slash or control characters, and
/// for `.` and `..`: names stand beside each other in a folder of the mount.
pub fn key(name: &str) -> Result<Vec<u8>, NameError> {
    let is_name = (1..=NAME_BYTES).contains(&name.len())
        && !name.contains(|it: char| it == '/' || it.is_control())
        && !matches!(name, "." | "..");
    if is_name {
        Ok([PREFIX, name.as_bytes()].concat())
    } else {
        Err(NameError::Name { text: name.chars().take(80).collect() })
    }
}

/// The name of a key; `None` where it is the key of something else.
#[must_use]
pub fn of_key(found: &[u8]) -> Option<&str> {
    let name = std::str::from_utf8(found.strip_prefix(PREFIX)?).ok()?;
    key(name).is_ok().then_some(name)
}

impl Pointer {
    /// The bytes of the value: a version, the kind, UUID (upper, lower) and length, little-endian.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let kind = if self.is_tree { TREE } else { FILE };
        let mut bytes = vec![VERSION, kind];
        bytes.extend_from_slice(bytemuck::bytes_of(&self.file.to_wire()));
        bytes.extend_from_slice(&self.length.to_le_bytes());
        bytes
    }

    /// Reads a value.
    ///
    /// # Errors
    /// [`NameError::Value`] for everything that [`Pointer::encode`] does not write.
    pub fn decode(bytes: &[u8]) -> Result<Pointer, NameError> {
        let Some(([VERSION, kind], rest)) = bytes.split_first_chunk::<2>() else {
            return Err(NameError::Value);
        };
        let Some((uuid, length)) = rest.split_first_chunk::<16>() else {
            return Err(NameError::Value);
        };
        let Ok(length) = <[u8; 8]>::try_from(length) else {
            return Err(NameError::Value);
        };
        let is_tree = match *kind {
            FILE => false,
            TREE => true,
            _ => return Err(NameError::Value),
        };
        let length = u64::from_le_bytes(length);
        if length > FILE_BYTES {
            return Err(NameError::Value);
        }
        let uuid: WireUuid = bytemuck::pod_read_unaligned(uuid);
        Ok(Pointer { is_tree, file: FileId(uuid.value()), length })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_fits_into_a_folder_is_a_name() {
        let longest = "n".repeat(NAME_BYTES);
        for good in ["a", "data set", "...", "ü", &longest] {
            let key = key(good).unwrap();
            assert_eq!(of_key(&key), Some(good));
        }
        for bad in ["", ".", "..", "a/b", "../a", "a\0", "a\n", &format!("{longest}n")] {
            assert!(key(bad).is_err(), "{bad:?}");
        }
        for other in [&b"names/a"[..], b"name/", b"name/\xff", b"name/a/b", b""] {
            assert_eq!(of_key(other), None);
        }
    }

    #[test]
    fn a_pointer_has_one_encoding_and_nothing_else_is_one() {
        let pointer = Pointer { is_tree: true, file: FileId(0x0102 << 64 | 0x03), length: 0x0405 };
        let bytes = pointer.encode();
        assert_eq!(
            bytes,
            [1, 2, 2, 1, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 5, 4, 0, 0, 0, 0, 0, 0]
        );
        assert_eq!(Pointer::decode(&bytes), Ok(pointer));
        let file = Pointer { is_tree: false, ..pointer };
        assert_eq!(Pointer::decode(&file.encode()), Ok(file));
        for length in 0..bytes.len() {
            assert_eq!(Pointer::decode(&bytes[..length]), Err(NameError::Value));
        }
        for (at, value) in [(0, 2), (1, 0), (1, 3), (25, 0xff)] {
            let mut bytes = bytes.clone();
            bytes[at] = value;
            assert_eq!(Pointer::decode(&bytes), Err(NameError::Value), "{at}");
        }
        assert!(Pointer::decode(&[&bytes[..], &[0]].concat()).is_err());
    }
}
