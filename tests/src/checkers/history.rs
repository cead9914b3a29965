//! The committed log as all members together show it: invariant 10, and that nothing committed
//! ever changes.

use proto::time::Instant;

use crate::checkers::{Violation, check};
use crate::trace::digest;

/// What a member says after it applied an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Applied {
    /// The entry's position.
    pub(crate) index: u64,
    /// Log time of the entry.
    pub(crate) log_time: Instant,
    /// The command as it stood in the log.
    pub(crate) command: Vec<u8>,
    /// Digest of the whole state afterwards.
    pub(crate) state: u64,
}

#[derive(Clone, Debug)]
struct Entry {
    log_time: Instant,
    command: u64,
    state: u64,
}

/// The entries that any member applied, by index. Indices without a command of users (Raft's own
/// entries) are absent.
#[derive(Debug, Default)]
pub(crate) struct History {
    entries: std::collections::BTreeMap<u64, Entry>,
    /// Highest index that each member applied, by its place in the cluster; forgotten when it
    /// starts again.
    applied: std::collections::BTreeMap<usize, u64>,
}

/// What the caller learns about an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// No member had applied it before.
    First,
    /// Another one had.
    Again,
}

impl History {
    /// A member applied an entry.
    pub(crate) fn applied(&mut self, member: usize, applied: &Applied) -> Result<Seen, Violation> {
        let Applied { index, log_time, .. } = *applied;
        let before = self.applied.insert(member, index).unwrap_or(0);
        check(before < index, "a member applies each entry once, in order", || {
            format!("member {member} applied {index} after {before}")
        })?;
        let entry = Entry { log_time, command: digest(&applied.command), state: applied.state };
        let Some(known) = self.entries.get(&index) else {
            let newest = self.entries.last_key_value();
            check(
                newest.is_none_or(|(&newest, _)| newest < index),
                "every member applies the same commands",
                || format!("member {member} applied a command at {index} where others had none"),
            )?;
            check(
                newest.is_none_or(|(_, entry)| entry.log_time <= log_time),
                "log time never decreases",
                || format!("entry {index} has log time {log_time}, one before it a later one"),
            )?;
            self.entries.insert(index, entry);
            return Ok(Seen::First);
        };
        check(known.command == entry.command, "what is committed never changes", || {
            format!("member {member} applied another command at {index} than others did")
        })?;
        check(known.log_time == log_time, "log time is the same for all", || {
            format!("entry {index} has log time {log_time} and {}", known.log_time)
        })?;
        check(
            known.state == entry.state,
            "invariant 10: equal applied index, equal state",
            || format!("the state of member {member} at {index} differs from that of others"),
        )?;
        Ok(Seen::Again)
    }

    /// A member took over a state as of `index`, from a snapshot of its own or of another.
    pub(crate) fn restored(
        &mut self,
        member: usize,
        index: u64,
        state: u64,
    ) -> Result<(), Violation> {
        self.applied.insert(member, index);
        let Some((at, entry)) = self.entries.range(..=index).next_back() else { return Ok(()) };
        check(entry.state == state, "a snapshot is the state of its index", || {
            format!("member {member} restored {index}, which differs from the state at {at}")
        })
    }

    /// A member starts from its disk and will apply again.
    pub(crate) fn started(&mut self, member: usize) {
        self.applied.remove(&member);
    }

    /// Highest index with a command.
    pub(crate) fn newest(&self) -> u64 {
        self.entries.last_key_value().map_or(0, |(&index, _)| index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, command: u8, state: u64) -> Applied {
        Applied { index, log_time: Instant(index), command: vec![command], state }
    }

    #[test]
    fn differing_members_are_found() {
        let mut history = History::default();
        assert_eq!(history.applied(0, &entry(1, 1, 7)), Ok(Seen::First));
        assert_eq!(history.applied(1, &entry(1, 1, 7)), Ok(Seen::Again));
        assert!(history.applied(2, &entry(1, 1, 8)).is_err());
        assert!(history.applied(1, &entry(1, 1, 7)).is_err());
        history.started(1);
        assert!(history.applied(1, &entry(1, 2, 7)).is_err());
    }

    #[test]
    fn a_command_that_only_one_member_has_is_found() {
        let mut history = History::default();
        history.applied(0, &entry(3, 1, 7)).unwrap();
        assert!(history.applied(1, &entry(2, 1, 7)).is_err());
    }

    #[test]
    fn a_wrong_snapshot_is_found() {
        let mut history = History::default();
        history.applied(0, &entry(3, 1, 7)).unwrap();
        history.restored(1, 5, 7).unwrap();
        assert!(history.restored(1, 5, 8).is_err());
    }
}
