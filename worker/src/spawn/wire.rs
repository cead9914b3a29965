//! What worker and helper say to each other: records behind their length, over a socket pair; with
//! some of them comes a descriptor.
//!
//! Both ends are the same build of the same program, so there is no version in it. A length above
//! the limit or bytes that are no record end the connection.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Longest record: a description's arguments and environment, with room to spare.
const RECORD_BYTES: usize = 16 << 20;

/// What the worker asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
pub(super) enum Request {
    /// Start a process.
    Spawn {
        /// What answers name it by; never used twice.
        id: u64,
        /// What is started.
        command: Command,
        /// Whether the entrance of the cgroup that it is put into came with this record.
        has_cgroup: bool,
        /// Whether the worker wants to know when it runs, before it hears of its end.
        tells_start: bool,
    },
    /// Kill the process group of one, if it has not ended.
    Kill {
        /// Which.
        id: u64,
    },
}

/// A process to start, in a process group of its own and without an input. Paths are absolute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
pub(crate) struct Command {
    /// The executable.
    pub(crate) program: Vec<u8>,
    /// What it sees as its own name.
    pub(crate) name: Vec<u8>,
    /// Its arguments behind that.
    pub(crate) arguments: Vec<Vec<u8>>,
    /// All that it finds in its environment.
    pub(crate) environment: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where it runs.
    pub(crate) folder: Vec<u8>,
    /// The file that its standard output is appended to.
    pub(crate) stdout: Vec<u8>,
    /// The file that its standard error is appended to.
    pub(crate) stderr: Vec<u8>,
    /// The file that tells a later worker which process it was.
    pub(crate) mark: Vec<u8>,
}

/// What the helper answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
pub(crate) enum Answer {
    /// It runs.
    Started {
        /// The request.
        id: u64,
        /// Its process and process group.
        pid: u32,
    },
    /// It does not run, and nothing else will be said of it.
    NotStarted {
        /// The request.
        id: u64,
        /// What the system says.
        reason: String,
        /// True where the machine lacks something at present, false where it is the command's fault.
        is_of_machine: bool,
    },
    /// It ended, and its process group with it.
    Ended {
        /// The request.
        id: u64,
        /// Exit code, minus the signal's number where one ended it.
        exit_code: i32,
        /// CPU time of it and of what it waited for, in microseconds.
        cpu_us: u64,
        /// Largest resident memory of one process among them.
        peak_memory_bytes: u64,
        /// True where certainly no process is left that it started, directly or not.
        is_alone: bool,
    },
}

impl Answer {
    pub(super) fn id(&self) -> u64 {
        match self {
            Answer::Started { id, .. }
            | Answer::NotStarted { id, .. }
            | Answer::Ended { id, .. } => *id,
        }
    }
}

/// Bytes that are not what the other end may say.
#[derive(Debug)]
pub(super) struct Damaged;

/// A record behind its length.
pub(super) fn encode<T: Serialize>(record: &T) -> Result<Vec<u8>, Damaged> {
    let mut bytes = postcard::to_extend(record, vec![0; 4]).map_err(|_| Damaged)?;
    let length = bytes.len() - 4;
    if length > RECORD_BYTES {
        return Err(Damaged);
    }
    let length = u32::try_from(length).map_err(|_| Damaged)?;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    Ok(bytes)
}

/// Bytes that came and are not a whole record yet.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    bytes: Vec<u8>,
}

impl Incoming {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole record.
    pub(super) fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Damaged> {
        let Some((length, rest)) = self.bytes.split_first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes(*length) as usize;
        if length > RECORD_BYTES {
            return Err(Damaged);
        }
        let Some(record) = rest.get(..length) else { return Ok(None) };
        let (record, left) = postcard::take_from_bytes(record).map_err(|_| Damaged)?;
        if !left.is_empty() {
            return Err(Damaged);
        }
        self.bytes.drain(..4 + length);
        Ok(Some(record))
    }
}

/// Sends a record together with a descriptor, which arrives no later than the record's first byte.
pub(super) fn send_with(
    mut stream: &UnixStream,
    bytes: &[u8],
    descriptor: BorrowedFd<'_>,
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor];
    if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::other("there is no room for a descriptor"));
    }
    let sent = rustix::io::retry_on_intr(|| {
        sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)
    })?;
    stream.write_all(bytes.get(sent..).unwrap_or_default())
}

/// Reads what came; 0 at the end. Descriptors are put behind those that came before.
pub(super) fn receive(
    stream: &UnixStream,
    buffer: &mut [u8],
    descriptors: &mut VecDeque<OwnedFd>,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let parts = &mut [IoSliceMut::new(buffer)];
    // A program that is started finds none of them.
    let received = recvmsg(stream, parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(came) = message {
            descriptors.extend(came);
        }
    }
    Ok(received.bytes)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};

    use super::*;

    #[test]
    fn descriptors_come_with_their_records() {
        let (here, there) = UnixStream::pair().unwrap();
        for content in ["first", "second"] {
            (&here).write_all(&encode(&Request::Kill { id: 1 }).unwrap()).unwrap();
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(content.as_bytes()).unwrap();
            file.rewind().unwrap();
            let record = encode(&Request::Kill { id: 2 }).unwrap();
            send_with(&here, &record, std::os::fd::AsFd::as_fd(&file)).unwrap();
        }
        drop(here);
        let (mut incoming, mut descriptors) = (Incoming::default(), VecDeque::new());
        let (mut buffer, mut contents) = ([0; 3], Vec::new());
        loop {
            let count = receive(&there, &mut buffer, &mut descriptors).unwrap();
            if count == 0 {
                break;
            }
            incoming.push(&buffer[..count]);
            while let Some(record) = incoming.next::<Request>().unwrap() {
                if record == (Request::Kill { id: 2 }) {
                    let mut content = String::new();
                    let mut file = std::fs::File::from(descriptors.pop_front().unwrap());
                    file.read_to_string(&mut content).unwrap();
                    contents.push(content);
                }
            }
        }
        assert_eq!((contents, descriptors.len()), (vec!["first".into(), "second".into()], 0));
    }

    #[test]
    fn records_come_out_whole_however_they_are_cut() {
        let records = [Request::Kill { id: 7 }, Request::Kill { id: u64::MAX }];
        let bytes: Vec<u8> = records.iter().flat_map(|it| encode(it).unwrap()).collect();
        let (mut incoming, mut found) = (Incoming::default(), Vec::new());
        for byte in bytes {
            incoming.push(&[byte]);
            found.extend(incoming.next::<Request>().unwrap());
        }
        assert_eq!(found, records);
    }

    #[test]
    fn damaged_records_are_refused() {
        for bytes in [&[255; 4][..], &[1, 0, 0, 0, 9], &[3, 0, 0, 0, 1, 7, 7]] {
            let mut incoming = Incoming::default();
            incoming.push(bytes);
            assert!(incoming.next::<Request>().is_err(), "{bytes:?}");
        }
    }
}
