//! Who leads: at most one member in a term, and how often that changed.

use std::collections::BTreeMap;

use crate::checkers::{Violation, check};

/// Leaders by term.
#[derive(Debug, Default)]
pub(crate) struct Leaders {
    by_term: BTreeMap<u64, usize>,
}

/// What an observation was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// This member was known to lead this term.
    None,
    /// It is the first leader, or leads again.
    Elected,
    /// Another member led before.
    FailOver,
}

impl Leaders {
    /// A member says that it leads a term.
    pub(crate) fn leads(&mut self, member: usize, term: u64) -> Result<Change, Violation> {
        if let Some(&known) = self.by_term.get(&term) {
            check(known == member, "at most one member leads a term", || {
                format!("members {known} and {member} both lead term {term}")
            })?;
            return Ok(Change::None);
        }
        let before = self.by_term.last_key_value().map(|(_, &member)| member);
        self.by_term.insert(term, member);
        Ok(if before.is_some_and(|before| before != member) {
            Change::FailOver
        } else {
            Change::Elected
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_leaders_of_a_term_are_found() {
        let mut leaders = Leaders::default();
        assert_eq!(leaders.leads(0, 1), Ok(Change::Elected));
        assert_eq!(leaders.leads(0, 1), Ok(Change::None));
        assert_eq!(leaders.leads(1, 2), Ok(Change::FailOver));
        assert!(leaders.leads(2, 2).is_err());
    }
}
