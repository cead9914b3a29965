//! What is in a folder, as it is shown: of a stored tree, or of what a task wrote.

use client::{output_length, output_path};
use proto::segment::{Output, OutputContent};
use proto::status::OutputKind;
use proto::tree::{Entry, Node};
use serde::Serialize;

use crate::failure::Failure;
use crate::output::human::Table;
use crate::output::{self, json};

/// Something in a folder as it is shown to programs; names that are not UTF-8 have replacement
/// characters.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct ShownEntry {
    pub(super) name: String,
    pub(super) kind: &'static str,
    pub(super) mode: Option<u16>,
    pub(super) file: Option<String>,
    pub(super) bytes: Option<u64>,
    pub(super) target: Option<String>,
    /// Whether a task wrote more than is kept.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) is_cut: bool,
}

impl ShownEntry {
    /// An entry of a tree.
    pub(super) fn of_tree(entry: &Entry) -> ShownEntry {
        let (kind, file, bytes, target) = match &entry.node {
            Node::File { file, length } => ("file", Some(file.to_string()), Some(*length), None),
            Node::Folder(_) => ("folder", None, None, None),
            Node::Tree { tree, .. } => ("folder", Some(tree.to_string()), None, None),
            Node::Link { target } => ("link", None, None, Some(lossy(target))),
        };
        let (name, mode) = (lossy(&entry.name), Some(entry.mode));
        ShownEntry { name, kind, mode, file, bytes, target, is_cut: false }
    }

    /// Something that a task wrote.
    pub(super) fn of_output(output: &Output) -> ShownEntry {
        let (file, target) = match (&output.content, output.kind) {
            (OutputContent::File { file, .. }, _) => (Some(file.to_string()), None),
            (OutputContent::Packed(target), OutputKind::Link) => (None, Some(lossy(target))),
            (OutputContent::Packed(_), _) => (None, None),
        };
        let has_bytes = !matches!(output.kind, OutputKind::Link | OutputKind::Folder);
        let has_mode = matches!(output.kind, OutputKind::File | OutputKind::Folder);
        ShownEntry {
            name: lossy(output_path(output)),
            kind: output.kind.name(),
            mode: has_mode.then_some(output.mode),
            file,
            bytes: has_bytes.then(|| output_length(output)),
            target,
            is_cut: output.is_cut,
        }
    }
}

/// Prints entries as a table or as a JSON array.
pub(super) fn print(entries: Vec<ShownEntry>, as_json: bool) -> Result<(), Failure> {
    if as_json {
        return json::print(&entries);
    }
    let mut table = Table::new(&["name", "kind", "mode", "bytes", "source"]);
    for it in entries {
        let mode = it.mode.map(|mode| format!("{mode:04o}")).unwrap_or_default();
        let cut = if it.is_cut { " (cut)" } else { "" };
        let bytes = it.bytes.map(|bytes| format!("{bytes}{cut}")).unwrap_or_default();
        let source = match (it.file, it.target) {
            (Some(file), _) => format!("file:{file}"),
            (None, Some(target)) => format!("-> {}", plain(&target)),
            (None, None) => String::new(),
        };
        table.row(vec![plain(&it.name), it.kind.to_owned(), mode, bytes, source]);
    }
    output::print(&table.render())
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A name for a terminal: what would move the cursor or break the line is a question mark.
fn plain(text: &str) -> String {
    text.chars().map(|it| if it.is_control() { '?' } else { it }).collect()
}

#[cfg(test)]
mod tests {
    use proto::ids::FileId;

    use super::*;

    #[test]
    fn entries_are_shown_as_what_they_are() {
        let entry = |node| Entry { name: b"a\n\xff".to_vec(), mode: 0o755, modified: None, node };
        let file = ShownEntry::of_tree(&entry(Node::File { file: FileId(1), length: 5 }));
        assert_eq!((file.kind, file.bytes, file.mode), ("file", Some(5), Some(0o755)));
        assert_eq!(plain(&file.name), "a?\u{fffd}");
        let link = ShownEntry::of_tree(&entry(Node::Link { target: b"../x".to_vec() }));
        assert_eq!((link.kind, link.target.as_deref()), ("link", Some("../x")));
        let tree = ShownEntry::of_tree(&entry(Node::Tree { tree: FileId(2), length: 9 }));
        assert_eq!((tree.kind, tree.bytes, tree.file.is_some()), ("folder", None, true));
    }

    #[test]
    fn outputs_are_shown_as_what_they_are() {
        let output = |kind, name: &str, content| {
            ShownEntry::of_output(&Output {
                kind,
                name: name.as_bytes().to_vec(),
                mode: 0o640,
                is_cut: kind == OutputKind::Stdout,
                content,
            })
        };
        let text = || OutputContent::Packed(b"text".to_vec());
        let stream = output(OutputKind::Stdout, "", text());
        assert_eq!((&*stream.name, stream.mode, stream.bytes), ("stdout", None, Some(4)));
        assert!(stream.is_cut);
        let link = output(OutputKind::Link, "a/b", text());
        assert_eq!((link.bytes, link.target.as_deref()), (None, Some("text")));
        let content = OutputContent::File { file: FileId(3), length: 7 };
        let file = output(OutputKind::File, "a/c", content);
        assert_eq!((file.mode, file.bytes, file.file.is_some()), (Some(0o640), Some(7), true));
    }
}
