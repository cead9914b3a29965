//! Names of files and folders: listing them and what is in a stored folder, removing one.

use std::ffi::OsStr;

use client::Resolved;
use serde::Serialize;

use super::connect::{Asked, connect};
use super::entries::{self, ShownEntry};
use super::outputs;
use super::source::{Source, Stored};
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

/// `remuda ls`.
pub(crate) fn list(flags: &Ls) -> Result<(), Failure> {
    if !Source::is_meant(&flags.source) {
        return list_names(&flags.source, &flags.listing);
    }
    match Source::parse(&flags.source)? {
        Source::Stored(stored) => list_folder(&stored, &flags.listing),
        Source::Written(written) => {
            outputs::list(&connect(&flags.listing.place)?, &written, flags.listing.json)
        }
    }
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

fn list_folder(source: &Stored, flags: &Listing) -> Result<(), Failure> {
    let client = connect(&flags.place)?;
    let name = source.file_name().to_string_lossy().into_owned();
    let alone = |kind| ShownEntry { name, kind, ..ShownEntry::default() };
    let shown = match source.resolve(&client)? {
        Resolved::Folder(folder) => folder.entries().iter().map(ShownEntry::of_tree).collect(),
        Resolved::File { file, length, mode } => {
            let file = Some(file.to_string());
            vec![ShownEntry { mode, file, bytes: length, ..alone("file") }]
        }
        Resolved::Link(target) => {
            let target = Some(String::from_utf8_lossy(&target).into_owned());
            vec![ShownEntry { target, ..alone("link") }]
        }
    };
    entries::print(shown, flags.json)
}

/// `remuda rm`.
pub(crate) fn remove(flags: &Rm) -> Result<(), Failure> {
    // What `ls` and `put` print as a source is taken too.
    let name = flags.name.strip_prefix("name:").unwrap_or(&flags.name);
    connect(&flags.place)?.remove_name(name).asked()
}
