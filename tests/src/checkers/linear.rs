//! Registers are linearizable: what clients did with each of them, many at the same time, could have
//! been done one after the other, each operation at one moment between its begin and its end.
//!
//! Values are written once, so every read names its write, and the answer is exact and quick:
//! a write and the reads of its value are a *cluster*, and clusters must not lie within each other
//! (Gibbons and Korach, "Testing shared memories", SIAM Journal on Computing 26, 1997).

use std::collections::BTreeMap;
use std::fmt;

/// What an operation did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It put this value into the register; no other write has the same.
    Write(u64),
    /// It got this value; `None` where the register was empty.
    Read(Option<u64>),
}

/// An operation as a client saw it. An operation whose `end` is another's `begin` may come first or
/// last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Who did it, for people.
    pub client: usize,
    /// The register.
    pub register: u64,
    /// What it did.
    pub action: Action,
    /// When it was begun, by one clock for all clients.
    pub begin: u64,
    /// When it ended; `None` for a write of which nobody knows whether, and when, it took effect.
    /// A read without an answer does not belong into a history.
    pub end: Option<u64>,
}

impl Operation {
    fn ends(&self) -> u64 {
        self.end.unwrap_or(u64::MAX)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Operation { client, register, action, begin, .. } = self;
        write!(f, "client {client} ")?;
        match action {
            Action::Write(value) => write!(f, "wrote {value} to register {register}")?,
            Action::Read(Some(value)) => write!(f, "read {value} from register {register}")?,
            Action::Read(None) => write!(f, "found register {register} empty")?,
        }
        match self.end {
            Some(end) => write!(f, " from {begin} to {end}"),
            None => write!(f, " from {begin} on"),
        }
    }
}

/// Operations that cannot have happened one after the other, with what is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotLinearizable {
    what: &'static str,
    operations: Vec<Operation>,
}

impl fmt::Display for NotLinearizable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what)?;
        self.operations.iter().try_for_each(|operation| write!(f, "\n  {operation}"))
    }
}

impl std::error::Error for NotLinearizable {}

/// A write and the reads of its value. `None` is the write that made the register empty.
#[derive(Clone, Debug)]
struct Cluster {
    write: Option<Operation>,
    /// The operation that ends first, and its end: the value is there by then.
    first: (u64, Option<Operation>),
    /// The operation that begins last, and its begin: the value is still there then.
    last: (u64, Option<Operation>),
}

impl Cluster {
    fn of(write: Option<Operation>) -> Cluster {
        let first = write.map_or(0, |write| write.ends());
        let last = write.map_or(0, |write| write.begin);
        Cluster { write, first: (first, write), last: (last, write) }
    }

    fn read(&mut self, read: Operation) {
        if read.ends() < self.first.0 {
            self.first = (read.ends(), Some(read));
        }
        if read.begin > self.last.0 {
            self.last = (read.begin, Some(read));
        }
    }

    /// True where the register has to hold the value from the first end to the last begin.
    fn is_span(&self) -> bool {
        self.first.0 < self.last.0
    }

    fn witnesses(&self) -> impl Iterator<Item = Operation> {
        [self.write, self.first.1, self.last.1].into_iter().flatten()
    }
}

/// Checks a history of any number of registers, all of them empty before it.
///
/// # Errors
/// [`NotLinearizable`] with the operations that show it.
pub fn check(history: &[Operation]) -> Result<(), NotLinearizable> {
    let mut registers: BTreeMap<u64, Vec<Operation>> = BTreeMap::new();
    for operation in history {
        registers.entry(operation.register).or_default().push(*operation);
    }
    registers.values().try_for_each(|operations| check_register(operations))
}

fn check_register(operations: &[Operation]) -> Result<(), NotLinearizable> {
    let clusters = clusters(operations)?;
    let (mut spans, moments): (Vec<Cluster>, Vec<Cluster>) =
        clusters.into_iter().partition(Cluster::is_span);
    spans.sort_by_key(|span| span.first.0);
    for pair in spans.windows(2) {
        if let [one, other] = pair
            && other.first.0 < one.last.0
        {
            return Err(together("a register had two values at a time:", one, other));
        }
    }
    for moment in &moments {
        // Spans do not overlap, so one alone can hold all of a moment.
        let before = spans.partition_point(|span| span.first.0 < moment.last.0);
        let span = before.checked_sub(1).and_then(|at| spans.get(at));
        if let Some(span) = span.filter(|span| moment.first.0 < span.last.0) {
            let what = "a register had a value, and the same one before and after it:";
            return Err(together(what, moment, span));
        }
    }
    Ok(())
}

fn together(what: &'static str, one: &Cluster, other: &Cluster) -> NotLinearizable {
    let mut operations: Vec<Operation> = one.witnesses().chain(other.witnesses()).collect();
    operations.sort_by_key(|operation| (operation.begin, operation.ends(), operation.client));
    operations.dedup();
    NotLinearizable { what, operations }
}

fn clusters(operations: &[Operation]) -> Result<Vec<Cluster>, NotLinearizable> {
    let mut clusters = BTreeMap::from([(None, Cluster::of(None))]);
    for write in operations {
        if let Action::Write(value) = write.action
            && let Some(twice) = clusters.insert(Some(value), Cluster::of(Some(*write)))
        {
            let operations = twice.write.into_iter().chain([*write]).collect();
            let what = "a value was written twice, so that nobody can tell which was read:";
            return Err(NotLinearizable { what, operations });
        }
    }
    for read in operations {
        let Action::Read(value) = read.action else { continue };
        let Some(cluster) = clusters.get_mut(&value) else {
            let what = "a value was read that nobody wrote:";
            return Err(NotLinearizable { what, operations: vec![*read] });
        };
        if let Some(write) = cluster.write.filter(|write| read.ends() < write.begin) {
            let what = "a value was read before it was written:";
            return Err(NotLinearizable { what, operations: vec![*read, write] });
        }
        cluster.read(*read);
    }
    Ok(clusters.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(client: usize, value: u64, begin: u64, end: u64) -> Operation {
        let end = (end > 0).then_some(end);
        Operation { client, register: 7, action: Action::Write(value), begin, end }
    }

    fn read(client: usize, value: u64, begin: u64, end: u64) -> Operation {
        let value = (value > 0).then_some(value);
        Operation { client, register: 7, action: Action::Read(value), begin, end: Some(end) }
    }

    fn refused(history: &[Operation], what: &str) {
        let text = check(history).unwrap_err().to_string();
        assert!(text.starts_with(what), "{text}");
        assert!(!is_linearizable(history), "{text}");
    }

    fn accepted(history: &[Operation]) {
        check(history).unwrap();
        assert!(is_linearizable(history));
    }

    #[test]
    fn histories_that_could_have_happened_are_accepted() {
        accepted(&[]);
        accepted(&[read(1, 0, 1, 2), write(1, 1, 3, 4), read(2, 1, 5, 6)]);
        // Whoever reads during a write may get either value, one after the other.
        accepted(&[write(1, 1, 1, 9), read(2, 0, 2, 3), read(2, 1, 4, 5), read(3, 1, 6, 7)]);
        // A write of which nobody knows the outcome: read late, or never.
        accepted(&[write(1, 1, 1, 0), read(2, 0, 2, 3), read(2, 1, 100, 101)]);
        accepted(&[write(1, 1, 1, 0), write(2, 2, 2, 3), read(2, 2, 100, 101)]);
        // Operations that meet at one moment have either order.
        accepted(&[write(1, 1, 1, 2), write(2, 2, 2, 3), read(3, 1, 3, 4)]);
    }

    #[test]
    fn a_read_of_an_older_value_is_refused() {
        let two = [write(1, 1, 1, 2), write(1, 2, 3, 4)];
        refused(&[two[0], two[1], read(2, 1, 5, 6)], "a register had");
        refused(&[two[0], read(2, 0, 3, 4)], "a register had");
        // Without write-back: the second reader does not see what the first one saw.
        let interrupted = write(1, 1, 1, 0);
        refused(&[interrupted, read(2, 1, 2, 3), read(3, 0, 4, 5)], "a register had");
    }

    #[test]
    fn a_value_from_nowhere_is_refused() {
        refused(&[read(2, 3, 1, 2)], "a value was read that nobody wrote");
        refused(&[read(2, 3, 1, 2), write(1, 3, 3, 4)], "a value was read before");
        assert!(check(&[write(1, 1, 1, 2), write(2, 1, 3, 4)]).is_err(), "cannot be told apart");
    }

    #[test]
    fn two_readers_that_disagree_about_the_order_are_refused() {
        let writes = [write(1, 1, 1, 20), write(2, 2, 1, 20)];
        let one = [read(3, 1, 2, 3), read(3, 2, 4, 5)];
        let other = [read(4, 2, 6, 7), read(4, 1, 8, 9)];
        accepted(&[&writes[..], &one].concat());
        refused(&[&writes[..], &one, &other].concat(), "a register had");
    }

    /// The definition itself: is there an order? For small histories.
    fn is_linearizable(history: &[Operation]) -> bool {
        fn goes_on(left: &[Operation], value: Option<u64>) -> bool {
            // A write of unknown outcome may be left out.
            left.iter().all(|it| it.end.is_none())
                || (0..left.len()).any(|at| {
                    let next = left[at];
                    let others = [&left[..at], &left[at + 1..]].concat();
                    let may_be_next = others.iter().all(|it| it.ends() >= next.begin);
                    let (fits, after) = match next.action {
                        Action::Write(written) => (true, Some(written)),
                        Action::Read(found) => (found == value, value),
                    };
                    may_be_next && fits && goes_on(&others, after)
                })
        }
        goes_on(history, None)
    }

    #[test]
    fn the_quick_answer_is_that_of_the_definition() {
        let mut rng = fastrand::Rng::with_seed(5);
        let mut accepted = 0;
        const HISTORIES: usize = 20_000;
        for _ in 0..HISTORIES {
            let writes = rng.u64(1..=3);
            let mut history = Vec::new();
            for at in 0..rng.usize(2..=6) as u64 {
                let begin = rng.u64(1..=12);
                let end = begin + rng.u64(1..=6);
                if at < writes {
                    let end = if rng.u8(0..4) == 0 { 0 } else { end };
                    history.push(write(1, at + 1, begin, end));
                } else {
                    history.push(read(2, rng.u64(0..=writes), begin, end));
                }
            }
            let quick = check(&history);
            let text = || format!("{history:?}: {quick:?}");
            assert_eq!(quick.is_ok(), is_linearizable(&history), "{}", text());
            accepted += usize::from(quick.is_ok());
        }
        assert!((HISTORIES / 10..HISTORIES * 9 / 10).contains(&accepted), "{accepted} accepted");
    }
}
