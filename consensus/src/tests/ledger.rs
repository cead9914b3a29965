//! A state machine for tests: writes down every command with its place and time.

use std::sync::Arc;

use proto::ids::LogIndex;

use crate::ids::{LogTime, MemberId};
use crate::state_machine::{Applied, RestoreError, StateMachine};

/// One command as it was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) index: LogIndex,
    pub(super) log_time: LogTime,
    pub(super) origin: MemberId,
    pub(super) command: Vec<u8>,
}

/// All commands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ledger {
    pub(super) lines: Arc<Vec<Line>>,
}

impl StateMachine for Ledger {
    /// The number of the line.
    type Output = usize;
    type Snapshot = Arc<Vec<Line>>;

    fn apply(&mut self, at: &Applied, command: &[u8]) -> usize {
        let &Applied { index, log_time, origin } = at;
        let lines = Arc::make_mut(&mut self.lines);
        lines.push(Line { index, log_time, origin, command: command.to_vec() });
        lines.len()
    }

    fn is_needed_without_room(command: &[u8]) -> bool {
        command == b"make room"
    }

    fn snapshot(&self) -> Arc<Vec<Line>> {
        self.lines.clone()
    }

    fn encode(lines: &Arc<Vec<Line>>) -> Vec<u8> {
        let mut bytes = Vec::new();
        for line in lines.iter() {
            for number in [line.index.0, line.log_time.0, line.origin.0, line.command.len() as u64]
            {
                bytes.extend(number.to_le_bytes());
            }
            bytes.extend_from_slice(&line.command);
        }
        bytes
    }

    fn restore(mut bytes: &[u8]) -> Result<Ledger, RestoreError> {
        let cut = || RestoreError("cut".to_owned());
        let mut lines = Vec::new();
        while !bytes.is_empty() {
            let (head, rest) = bytes.split_at_checked(32).ok_or_else(cut)?;
            let number = |at: usize| {
                u64::from_le_bytes(head[8 * at..8 * at + 8].try_into().expect("8 bytes"))
            };
            let (command, rest) = rest.split_at_checked(number(3) as usize).ok_or_else(cut)?;
            lines.push(Line {
                index: LogIndex(number(0)),
                log_time: LogTime(number(1)),
                origin: MemberId(number(2)),
                command: command.to_vec(),
            });
            bytes = rest;
        }
        Ok(Ledger { lines: Arc::new(lines) })
    }

    fn digest(&self) -> [u8; 32] {
        let mut digest = [0; 32];
        digest[..4].copy_from_slice(&crc32c::crc32c(&Ledger::encode(&self.lines)).to_le_bytes());
        digest
    }
}
