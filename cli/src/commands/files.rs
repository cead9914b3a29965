//! Files and folders on storage: putting one there, and getting it back.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use client::logic::transfer::PutReport;
use client::{Client, FileProgress, Resolved, Stored, Times};
use proto::ids::FileId;
use proto::name;

use super::connect::{Asked, connect};
use super::outputs;
use super::source::Source;
use crate::failure::Failure;
use crate::flags::{Cat, Get, Put};
use crate::output;
use crate::output::progress::Progress;
use crate::quantity::shown_bytes;

/// Larger files than this are worth a bar of their own (eyeballed: about a second).
const LARGE_BYTES: u64 = 64 << 20;

/// `remuda put`: the source goes to standard output.
pub(crate) fn put(flags: &Put) -> Result<(), Failure> {
    let path = &flags.path;
    // What other commands take as a source is taken too: a name that begins so would confuse.
    let name = flags.name.as_deref().map(|it| it.strip_prefix("name:").unwrap_or(it));
    if let Some(name) = name {
        name::key(name).map_err(|error| Failure::usage(error.to_string()))?;
    }
    let metadata = std::fs::metadata(path)
        .map_err(|error| Failure::usage(format!("look at {}: {error}", path.display())))?;
    let mut client = connect(&flags.place)?;
    client.set_replicas(flags.replicas.unwrap_or(0));
    let Stored { pointer, report } = if metadata.is_dir() {
        let times = if flags.times { Times::Keep } else { Times::Without };
        let mut bar = Progress::files();
        client.put_tree(path, times, &mut |so_far| bar.count(so_far)).asked()?
    } else {
        let mut bar = None;
        client.put_file_with(path, &mut |so_far| show(&mut bar, so_far)).asked()?
    };
    if let Some(name) = name {
        client.set_name(name, pointer).asked()?;
    }
    output::print(&format!("file:{}\n", pointer.file))?;
    for note in notes(report, flags.replicas) {
        output::note(&note);
    }
    Ok(())
}

/// What is worth saying about what was stored.
fn notes(report: PutReport, replicas: Option<u8>) -> Vec<String> {
    let mut notes = Vec::new();
    let PutReport { block_count, block_bytes, present_count, present_bytes, .. } = report;
    if present_count > 0 {
        let (present, all) = (shown_bytes(present_bytes), shown_bytes(block_bytes));
        notes.push(format!(
            "{present_count} of {block_count} blocks, {present} of {all}, were on storage already"
        ));
    }
    if let Some(wanted) = replicas.filter(|wanted| usize::from(*wanted) > report.replica_count) {
        notes.push(format!(
            "{wanted} replicas are wanted, and there are nodes for {}: others get theirs when they \
             join",
            report.replica_count
        ));
    }
    notes
}

/// Shows how far a file is, where it is one that takes long.
fn show(bar: &mut Option<Progress>, so_far: FileProgress) {
    if so_far.whole > LARGE_BYTES {
        bar.get_or_insert_with(|| Progress::bytes(so_far.whole)).show(so_far.done);
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
    let stored = match source {
        Source::Stored(stored) => stored,
        Source::Written(written) => return outputs::get(&client, &written, &to),
    };
    match stored.resolve(&client)? {
        Resolved::File { file, .. } => get_file(&client, file, &to),
        Resolved::Folder(folder) => {
            refuse_used(&to)?;
            let mut bar = Progress::files();
            client.get_folder(&folder, &to, &mut |so_far| bar.count(so_far)).asked()?;
            Ok(())
        }
        Resolved::Link(target) => Err(is_link(&target)),
    }
}

/// Fetches a file to a path.
pub(super) fn get_file(client: &Client, file: FileId, to: &Path) -> Result<(), Failure> {
    let mut bar = None;
    client.get_file_with(file, to, &mut |so_far| show(&mut bar, so_far)).asked().map(|_| ())
}

/// Refuses to put a folder where something is.
pub(super) fn refuse_used(to: &Path) -> Result<(), Failure> {
    if to.symlink_metadata().is_err() {
        return Ok(());
    }
    Err(Failure::usage(format!("{} exists already", to.display()))
        .hint("name a new folder: remuda get SOURCE TO"))
}

fn refuse_missing_folder(to: &Path) -> Result<(), Failure> {
    match to.parent() {
        Some(folder) if !folder.as_os_str().is_empty() && !folder.is_dir() => {
            Err(Failure::usage(format!("there is no folder {}", folder.display())))
        }
        _ => Ok(()),
    }
}

/// What is said of a link where a file is wanted.
pub(super) fn is_link(target: &[u8]) -> Failure {
    let target = String::from_utf8_lossy(target);
    Failure::failed(format!("it is a link to {target:?}: links in a tree are not followed"))
        .hint("name what it leads to, or get the whole folder")
}

/// `remuda cat`.
pub(crate) fn cat(flags: &Cat) -> Result<(), Failure> {
    let source = Source::parse(&flags.source)?;
    let client = connect(&flags.place)?;
    let stored = match source {
        Source::Stored(stored) => stored,
        Source::Written(written) => return outputs::cat(&client, &written),
    };
    match stored.resolve(&client)? {
        Resolved::File { file, .. } => print(&client, file),
        Resolved::Folder(_) => Err(Failure::failed(format!("{:?} is a folder", flags.source))
            .hint("list it: remuda ls SOURCE; or fetch it: remuda get SOURCE")),
        Resolved::Link(target) => Err(is_link(&target)),
    }
}

/// Writes a file to standard output as it arrives. Pieces that overtook others wait for them; how
/// many can is bounded by what the client has under way.
pub(super) fn print(client: &Client, file: FileId) -> Result<(), Failure> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_and_too_few_nodes_are_said() {
        let fresh = PutReport {
            block_count: 5,
            block_bytes: 20 << 20,
            replica_count: 2,
            ..PutReport::default()
        };
        assert!(notes(fresh, None).is_empty());
        assert!(notes(fresh, Some(2)).is_empty());
        let again = PutReport { present_count: 3, present_bytes: 12 << 20, ..fresh };
        assert_eq!(
            notes(again, Some(5)),
            [
                "3 of 5 blocks, 12.0 MiB of 20.0 MiB, were on storage already",
                "5 replicas are wanted, and there are nodes for 2: others get theirs when they \
                 join",
            ]
        );
    }
}
