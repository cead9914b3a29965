//! What is stored, as users write it: `name:NAME[/PATH]` and `file:UUID[/PATH]`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use client::{Client, Resolved};
use proto::ids::FileId;
use proto::name;

use super::connect::Asked;
use crate::failure::Failure;

/// What a source begins at.
#[derive(Debug, PartialEq, Eq)]
enum Root {
    Name(String),
    File(FileId),
}

/// A file or folder of the cluster.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Source {
    root: Root,
    path: Vec<u8>,
}

impl Source {
    /// Reads what the user wrote.
    pub(crate) fn parse(text: &OsStr) -> Result<Source, Failure> {
        let bytes = text.as_bytes();
        let wrong = || {
            Failure::usage(format!("{text:?} names nothing that is stored"))
                .hint("write name:NAME[/PATH] or file:UUID[/PATH], as `remuda put` prints it")
        };
        let colon = bytes.iter().position(|byte| *byte == b':').ok_or_else(wrong)?;
        let (kind, rest) = bytes.split_at(colon);
        let rest = rest.get(1..).unwrap_or_default();
        let slash = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
        let (root, path) = rest.split_at(slash);
        let root = std::str::from_utf8(root).map_err(|_| wrong())?;
        let usage = |error: &dyn std::error::Error| Failure::usage(error.to_string());
        let root = match kind {
            b"name" => {
                name::key(root).map_err(|error| usage(&error))?;
                Root::Name(root.to_owned())
            }
            b"file" => Root::File(root.parse().map_err(|error| usage(&error))?),
            _ => return Err(wrong()),
        };
        if path.split(|byte| *byte == b'/').any(|part| part == b"." || part == b"..") {
            return Err(Failure::usage(format!("the path in {text:?} has a part . or .."))
                .hint("write the path from the stored folder on, without them"));
        }
        Ok(Source { root, path: path.to_vec() })
    }

    /// True for a text that is meant as a source and not as a name.
    pub(crate) fn is_meant(text: &OsStr) -> bool {
        text.as_bytes().starts_with(b"name:") || text.as_bytes().starts_with(b"file:")
    }

    /// What a copy of it is called where nothing else is said: the last part.
    pub(crate) fn file_name(&self) -> OsString {
        let last = self.path.split(|byte| *byte == b'/').rfind(|part| !part.is_empty());
        match (last, &self.root) {
            (Some(part), _) => OsStr::from_bytes(part).to_owned(),
            (None, Root::Name(name)) => name.into(),
            (None, Root::File(file)) => file.to_string().into(),
        }
    }

    /// What stands there.
    pub(crate) fn resolve(&self, client: &Client) -> Result<Resolved, Failure> {
        match &self.root {
            Root::Name(name) => {
                let pointer = client.name(name).asked()?.pointer;
                client.resolve(pointer, &self.path).asked()
            }
            Root::File(file) => client.resolve_file(*file, &self.path).asked(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_names_or_files_with_a_path_behind() {
        let file = FileId(7);
        let parse = |text: &str| Source::parse(OsStr::new(text));
        let source = parse(&format!("file:{file}")).unwrap();
        assert_eq!(source, Source { root: Root::File(file), path: Vec::new() });
        assert_eq!(source.file_name(), OsString::from(file.to_string()));
        let source = parse("name:data/a:b/c d/").unwrap();
        assert_eq!(source.path, b"/a:b/c d/");
        assert_eq!(source.file_name(), "c d");
        assert_eq!(parse("name:data").unwrap().file_name(), "data");
        let raw = Source::parse(OsStr::from_bytes(b"name:data/\xff")).unwrap();
        assert_eq!(raw.file_name(), OsStr::from_bytes(b"\xff"));
        for wrong in
            ["", "data", "file:", "file:x", "name:", "name:..", "name:a/../b", "job:x", "name:a/."]
        {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
