//! Files on storage: putting one there, and getting it back.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use client::Client;
use proto::ids::FileId;

use super::connect::{Asked, connect};
use crate::failure::Failure;
use crate::flags::{Cat, Get, Put};
use crate::output;

/// `remuda put`: the file's source goes to standard output.
pub(crate) fn put(flags: &Put) -> Result<(), Failure> {
    let path = &flags.file;
    if path.is_dir() {
        return Err(Failure::usage(format!("{} is a folder", path.display()))
            .hint("name a file; a folder can be packed first: tar -cf FILE FOLDER"));
    }
    if !path.exists() {
        return Err(Failure::usage(format!("{} does not exist", path.display())));
    }
    let file = connect(&flags.place)?.put_file(path).asked()?;
    output::print(&format!("file:{file}\n"))
}

/// `remuda get`.
pub(crate) fn get(flags: &Get) -> Result<(), Failure> {
    let file = source(&flags.source)?;
    let to = match &flags.to {
        Some(to) if to.is_dir() => to.join(file.to_string()),
        Some(to) => to.clone(),
        None => PathBuf::from(file.to_string()),
    };
    refuse_missing_folder(&to)?;
    connect(&flags.place)?.get_file(file, &to).asked()?;
    Ok(())
}

fn refuse_missing_folder(to: &Path) -> Result<(), Failure> {
    match to.parent() {
        Some(folder) if !folder.as_os_str().is_empty() && !folder.is_dir() => {
            Err(Failure::usage(format!("there is no folder {}", folder.display())))
        }
        _ => Ok(()),
    }
}

/// `remuda cat`.
pub(crate) fn cat(flags: &Cat) -> Result<(), Failure> {
    let file = source(&flags.source)?;
    print(&connect(&flags.place)?, file)
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

/// `file:UUID`.
fn source(text: &str) -> Result<FileId, Failure> {
    let Some(id) = text.strip_prefix("file:") else {
        return Err(Failure::usage(format!("{text:?} names no file"))
            .hint("write file:UUID, as `remuda put` prints it"));
    };
    id.parse().map_err(|error| Failure::usage(format!("{error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_written_as_put_prints_them() {
        let file = FileId(7);
        assert_eq!(source(&format!("file:{file}")), Ok(file));
        for wrong in ["", "file:", "file:x", "name:x", &file.to_string()] {
            assert!(source(wrong).is_err(), "{wrong}");
        }
    }
}
