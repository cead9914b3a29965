//! `remuda register`: shared memory that tasks and clients read and write.

use std::ffi::OsStr;
use std::io::{IsTerminal, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use client::Client;
use client::logic::registers::Found;
use node::stop::Stop;
use proto::ids::NodeId;
use proto::limits::REGISTER_VALUE_BYTES;
use proto::time::Duration;
use serde::Serialize;

use super::connect::{Asked, connect};
use super::nodes::named;
use crate::failure::{During, Failure};
use crate::flags::{GetRegister, Register, SetRegister, WatchRegister};
use crate::output::{self, json};

/// How long a Ctrl-C may go unnoticed while replicas are waited for.
const LOOK: Duration = Duration::from_millis(100);

/// A register as it is shown to programs.
#[derive(Debug, PartialEq, Serialize)]
struct Shown {
    register: u64,
    /// False where nobody wrote it.
    written: bool,
    /// Where the value is text.
    text: Option<String>,
    /// The value, each byte in two digits.
    hex: Option<String>,
    sequence: u64,
    writer: String,
    operation: u64,
}

impl Shown {
    fn of(register: u64, found: Option<&Found>) -> Shown {
        let tag = found.map(|found| found.tag).unwrap_or_default();
        let value = found.map(|found| found.value.as_slice());
        let text = value.and_then(|value| std::str::from_utf8(value).ok());
        Shown {
            register,
            written: found.is_some(),
            text: text.map(str::to_owned),
            hex: value.map(hex),
            sequence: tag.sequence,
            writer: NodeId(tag.writer).to_string(),
            operation: tag.operation,
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A value in one line: text where it is that and has no control characters, else its bytes.
fn line(value: &[u8]) -> String {
    match std::str::from_utf8(value) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => format!("0x{}", hex(value)),
    }
}

/// `remuda register`.
pub(super) fn run(flags: &Register) -> Result<(), Failure> {
    match flags {
        Register::Get(flags) => get(flags),
        Register::Set(flags) => set(flags),
        Register::Watch(flags) => watch(flags),
    }
}

/// Prints the value as it is, so that it can go into a file.
fn get(flags: &GetRegister) -> Result<(), Failure> {
    let client = connect(&flags.listing.place)?;
    let address = flags.address;
    let (found, whose) = match &flags.node {
        None => (read(&client, address)?, "nobody wrote".to_owned()),
        Some(node) => {
            let roster = client.nodes().asked()?;
            let node = named(&roster, node)?.node;
            let whose = format!("storage node {node} has no copy of");
            (client.register_local(address, node).asked()?, whose)
        }
    };
    if flags.listing.json {
        json::print(&Shown::of(address, found.as_ref()))?;
    }
    let Some(found) = found else {
        return Err(Failure::failed(format!("{whose} register {address}")));
    };
    if flags.listing.json {
        return Ok(());
    }
    output::print_bytes(&found.value)?;
    let ends_line = found.value.last().is_none_or(|last| *last == b'\n');
    // The next prompt is to stand in a line of its own.
    if std::io::stdout().is_terminal() && !ends_line { output::print("\n") } else { Ok(()) }
}

fn read(client: &Client, address: u64) -> Result<Option<Found>, Failure> {
    let found = client.begin_register_read(address).wait().map_err(Into::into).flatten();
    let found = found.asked()?;
    Ok(found.is_written().then_some(found))
}

fn set(flags: &SetRegister) -> Result<(), Failure> {
    let value = match (&flags.file, &flags.value) {
        (Some(path), _) => file(path)?,
        (None, Some(value)) if value == OsStr::new("-") => {
            limited(std::io::stdin().lock(), "standard input")?
        }
        (None, value) => value.as_deref().unwrap_or_default().as_bytes().to_vec(),
    };
    let client = connect(&flags.listing.place)?;
    let stored = client.begin_register_write(flags.address, value);
    let stored = stored.wait().map_err(Into::into).flatten().asked()?;
    if flags.listing.json {
        json::print(&Shown::of(flags.address, Some(&stored)))?;
    }
    Ok(())
}

fn file(path: &Path) -> Result<Vec<u8>, Failure> {
    let opened = std::fs::File::open(path);
    let opened =
        opened.map_err(|error| Failure::usage(format!("open {}: {error}", path.display())));
    limited(opened?, &path.display().to_string())
}

/// All of a source, or one byte more than a register holds: enough to be told so.
fn limited(source: impl Read, what: &str) -> Result<Vec<u8>, Failure> {
    let mut value = Vec::new();
    let mut source = source.take(REGISTER_VALUE_BYTES as u64 + 1);
    source.read_to_end(&mut value).during(|| format!("read {what}"))?;
    if value.len() > REGISTER_VALUE_BYTES {
        return Err(Failure::usage(format!(
            "{what} has more than the {REGISTER_VALUE_BYTES} bytes that a register holds"
        ))
        .hint("store it as a file (remuda put), and its source in the register"));
    }
    Ok(value)
}

/// Prints each new value until interrupted. A majority that is missing for a while does not end it.
fn watch(flags: &WatchRegister) -> Result<(), Failure> {
    let client = connect(&flags.listing.place)?;
    let stop = Stop::on_signals().during(|| "watch for signals".into())?;
    let waiter = std::thread::current();
    stop.on_request(move || waiter.unpark());
    let mut latest = Found::default();
    while !stop.is_requested() {
        let mut pending = client.begin_register_read(flags.address);
        let found = loop {
            match pending.wait_for(LOOK) {
                Ok(Some(found)) => break found,
                Ok(None) if stop.is_requested() => return Ok(()),
                Ok(None) => {}
                Err(error) => return Err(Failure::failed(error.to_string())),
            }
        };
        match found {
            Ok(found) if found.tag != latest.tag => {
                if flags.listing.json {
                    json::print(&Shown::of(flags.address, Some(&found)))?;
                } else {
                    output::print(&format!("{}\n", line(&found.value)))?;
                }
                latest = found;
            }
            Ok(_) => {}
            Err(error) => output::note(&error.to_string()),
        }
        if !stop.is_requested() {
            std::thread::park_timeout(flags.interval.to_std());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proto::register::Tag;

    use super::*;

    #[test]
    fn values_are_shown_as_text_where_they_are_text() {
        assert_eq!(line(b"half done"), "half done");
        assert_eq!(line("größer".as_bytes()), "größer");
        assert_eq!(line(b"two\nlines"), "0x74776f0a6c696e6573");
        assert_eq!((line(&[0xff, 1]), line(b"")), ("0xff01".to_owned(), String::new()));
    }

    #[test]
    fn what_is_not_written_has_no_value() {
        let empty = Shown::of(7, None);
        assert_eq!((empty.written, empty.text, empty.hex), (false, None, None));
        let tag = Tag { sequence: 3, writer: 1, operation: 2 };
        let bytes = Shown::of(7, Some(&Found { tag, value: vec![0xff] }));
        assert_eq!((bytes.text, bytes.hex.as_deref()), (None, Some("ff")));
        let text = Shown::of(7, Some(&Found { tag, value: b"on".to_vec() }));
        assert_eq!((text.text.as_deref(), text.hex.as_deref()), (Some("on"), Some("6f6e")));
        assert_eq!((text.sequence, text.operation), (3, 2));
    }

    #[test]
    fn more_than_a_register_holds_is_not_read() {
        assert_eq!(limited(&[1; REGISTER_VALUE_BYTES][..], "it").unwrap().len(), 64 << 10);
        assert!(limited(std::io::repeat(1), "it").is_err());
    }
}
