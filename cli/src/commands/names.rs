//! Names of files and folders: listing them and what is in a stored folder, removing one.

use std::ffi::OsStr;

use client::Resolved;
use proto::tree::{Entry, Node};
use serde::Serialize;

use super::connect::{Asked, connect};
use super::source::Source;
use crate::failure::Failure;
use crate::flags::{Listing, Ls, Rm};
use crate::output::human::Table;
use crate::output::{self, json};

/// Names asked for at once.
const PAGE: u32 = 1_000;

/// A name as it is shown to programs.
#[derive(Debug, Serialize)]
struct ShownName {
    name: String,
    kind: &'static str,
    file: String,
    bytes: u64,
}

/// Something in a folder as it is shown to programs; names that are not UTF-8 have replacement
/// characters.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct ShownEntry {
    name: String,
    kind: &'static str,
    mode: Option<u16>,
    file: Option<String>,
    bytes: Option<u64>,
    target: Option<String>,
}

/// `remuda ls`.
pub(crate) fn list(flags: &Ls) -> Result<(), Failure> {
    if Source::is_meant(&flags.source) {
        return list_folder(&Source::parse(&flags.source)?, &flags.listing);
    }
    list_names(&flags.source, &flags.listing)
}

fn list_names(prefix: &OsStr, flags: &Listing) -> Result<(), Failure> {
    let prefix =
        prefix.to_str().ok_or_else(|| Failure::usage(format!("no name begins with {prefix:?}")))?;
    let client = connect(&flags.place)?;
    let mut shown = Vec::new();
    let mut after = String::new();
    loop {
        let page = client.names(prefix, &after, PAGE).asked()?;
        shown.extend(page.items.into_iter().map(|it| ShownName {
            name: it.name,
            kind: if it.pointer.is_tree { "tree" } else { "file" },
            file: it.pointer.file.to_string(),
            bytes: it.pointer.length,
        }));
        match page.next {
            Some(next) => after = next,
            None => break,
        }
    }
    if flags.json {
        return json::print(&shown);
    }
    let mut table = Table::new(&["name", "kind", "bytes", "source"]);
    for it in shown {
        // The bytes of a tree file say nothing of what the folder holds.
        let bytes = if it.kind == "tree" { String::new() } else { it.bytes.to_string() };
        table.row(vec![it.name, it.kind.to_owned(), bytes, format!("file:{}", it.file)]);
    }
    output::print(&table.render())
}

fn list_folder(source: &Source, flags: &Listing) -> Result<(), Failure> {
    let client = connect(&flags.place)?;
    let shown: Vec<ShownEntry> = match source.resolve(&client)? {
        Resolved::Folder(folder) => folder.entries().iter().map(shown).collect(),
        Resolved::File { file, length } => vec![ShownEntry {
            name: printable(&source.file_name()),
            kind: "file",
            mode: None,
            file: Some(file.to_string()),
            bytes: length,
            target: None,
        }],
        Resolved::Link(target) => vec![ShownEntry {
            name: printable(&source.file_name()),
            kind: "link",
            mode: None,
            file: None,
            bytes: None,
            target: Some(String::from_utf8_lossy(&target).into_owned()),
        }],
    };
    if flags.json {
        return json::print(&shown);
    }
    let mut table = Table::new(&["name", "kind", "mode", "bytes", "source"]);
    for it in shown {
        let mode = it.mode.map(|mode| format!("{mode:04o}")).unwrap_or_default();
        let bytes = it.bytes.map(|bytes| bytes.to_string()).unwrap_or_default();
        let source = match (it.file, it.target) {
            (Some(file), _) => format!("file:{file}"),
            (None, Some(target)) => format!("-> {}", plain(&target)),
            (None, None) => String::new(),
        };
        table.row(vec![plain(&it.name), it.kind.to_owned(), mode, bytes, source]);
    }
    output::print(&table.render())
}

fn shown(entry: &Entry) -> ShownEntry {
    let (kind, file, bytes, target) = match &entry.node {
        Node::File { file, length } => ("file", Some(file.to_string()), Some(*length), None),
        Node::Folder(_) => ("folder", None, None, None),
        Node::Tree { tree, .. } => ("folder", Some(tree.to_string()), None, None),
        Node::Link { target } => {
            ("link", None, None, Some(String::from_utf8_lossy(target).into_owned()))
        }
    };
    let name = String::from_utf8_lossy(&entry.name).into_owned();
    ShownEntry { name, kind, mode: Some(entry.mode), file, bytes, target }
}

fn printable(name: &OsStr) -> String {
    name.to_string_lossy().into_owned()
}

/// A name for a terminal: what would move the cursor or break the line is a question mark.
fn plain(text: &str) -> String {
    text.chars().map(|it| if it.is_control() { '?' } else { it }).collect()
}

/// `remuda rm`.
pub(crate) fn remove(flags: &Rm) -> Result<(), Failure> {
    // What `ls` and `put` print as a source is taken too.
    let name = flags.name.strip_prefix("name:").unwrap_or(&flags.name);
    connect(&flags.place)?.remove_name(name).asked()
}

#[cfg(test)]
mod tests {
    use proto::ids::FileId;

    use super::*;

    #[test]
    fn entries_are_shown_as_what_they_are() {
        let entry = |node| Entry { name: b"a\n\xff".to_vec(), mode: 0o755, modified: None, node };
        let file = shown(&entry(Node::File { file: FileId(1), length: 5 }));
        assert_eq!((file.kind, file.bytes, file.mode), ("file", Some(5), Some(0o755)));
        assert_eq!(plain(&file.name), "a?\u{fffd}");
        let link = shown(&entry(Node::Link { target: b"../x".to_vec() }));
        assert_eq!((link.kind, link.target.as_deref()), ("link", Some("../x")));
        let tree = shown(&entry(Node::Tree { tree: FileId(2), length: 9 }));
        assert_eq!((tree.kind, tree.bytes, tree.file.is_some()), ("folder", None, true));
    }
}
