//! Files and folders on storage: putting one there, and getting it back.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use client::{Client, Resolved, Times, TreeProgress};
use proto::ids::FileId;
use proto::name::{self, Pointer};

use super::connect::{Asked, connect};
use super::source::Source;
use crate::failure::{During, Failure};
use crate::flags::{Cat, Get, Put};
use crate::output;
use crate::output::progress::Progress;

/// `remuda put`: the source goes to standard output.
pub(crate) fn put(flags: &Put) -> Result<(), Failure> {
    let path = &flags.path;
    if let Some(name) = &flags.name {
        name::key(name).map_err(|error| Failure::usage(error.to_string()))?;
    }
    let metadata = std::fs::metadata(path)
        .map_err(|error| Failure::usage(format!("look at {}: {error}", path.display())))?;
    let client = connect(&flags.place)?;
    let pointer = if metadata.is_dir() {
        let times = if flags.times { Times::Keep } else { Times::Without };
        let mut bar = Progress::on_terminal();
        client.put_tree(path, times, &mut |so_far| show(&mut bar, so_far)).asked()?
    } else {
        let (file, length, begun) = client.begin_put_file(path).asked()?;
        begun.wait().during(|| format!("store {}", path.display()))?.asked()?;
        Pointer { is_tree: false, file, length }
    };
    if let Some(name) = &flags.name {
        client.set_name(name, pointer).asked()?;
    }
    output::print(&format!("file:{}\n", pointer.file))
}

fn show(bar: &mut Option<Progress>, so_far: TreeProgress) {
    if let Some(bar) = bar {
        bar.count(so_far.files, so_far.bytes);
    }
}

/// `remuda get`.
pub(crate) fn get(flags: &Get) -> Result<(), Failure> {
    let source = Source::parse(&flags.source)?;
    let to = match &flags.to {
        Some(to) if to.is_dir() => to.join(source.file_name()),
        Some(to) => to.clone(),
        None => PathBuf::from(source.file_name()),
    };
    refuse_missing_folder(&to)?;
    let client = connect(&flags.place)?;
    match source.resolve(&client)? {
        Resolved::File { file, .. } => client.get_file(file, &to).asked().map(|_| ()),
        Resolved::Folder(folder) => {
            if to.symlink_metadata().is_ok() {
                return Err(Failure::usage(format!("{} exists already", to.display()))
                    .hint("name a new folder: remuda get SOURCE TO"));
            }
            let mut bar = Progress::on_terminal();
            client.get_folder(&folder, &to, &mut |so_far| show(&mut bar, so_far)).asked()?;
            Ok(())
        }
        Resolved::Link(target) => Err(is_link(&target)),
    }
}

fn refuse_missing_folder(to: &Path) -> Result<(), Failure> {
    match to.parent() {
        Some(folder) if !folder.as_os_str().is_empty() && !folder.is_dir() => {
            Err(Failure::usage(format!("there is no folder {}", folder.display())))
        }
        _ => Ok(()),
    }
}

fn is_link(target: &[u8]) -> Failure {
    let target = String::from_utf8_lossy(target);
    Failure::failed(format!("it is a link to {target:?}: links in a tree are not followed"))
        .hint("name what it leads to, or get the whole folder")
}

/// `remuda cat`.
pub(crate) fn cat(flags: &Cat) -> Result<(), Failure> {
    let source = Source::parse(&flags.source)?;
    let client = connect(&flags.place)?;
    match source.resolve(&client)? {
        Resolved::File { file, .. } => print(&client, file),
        Resolved::Folder(_) => Err(Failure::failed(format!("{:?} is a folder", flags.source))
            .hint("list it: remuda ls SOURCE; or fetch it: remuda get SOURCE")),
        Resolved::Link(target) => Err(is_link(&target)),
    }
}

/// Writes a file to standard output as it arrives. Pieces that overtook others wait for them; how
/// many can is bounded by what the client has under way.
fn print(client: &Client, file: FileId) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    let mut pieces = client.stream(file, 0..u64::MAX);
    let mut early: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    let mut at = 0;
    while let Some(piece) = pieces.next_piece().asked()? {
        early.insert(piece.offset, piece.content);
        while let Some(content) = early.remove(&at) {
            stdout.write_all(&content).map_err(|error| Failure::output(&error))?;
            at += content.len() as u64;
        }
    }
    stdout.flush().map_err(|error| Failure::output(&error))
}
