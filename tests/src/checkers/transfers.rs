//! What clients were told against what the log says: an acknowledged transfer is never lost, has
//! its effect at most once, its answer is the one of the log, and answers respect the order in
//! which things were asked (invariants 1 and 11 for the bank).

use std::collections::BTreeMap;

use crate::bank::{ACCOUNTS, Answer, Bank, Effect, INITIAL, Transfer, Verdict};
use crate::checkers::history::Applied;
use crate::checkers::{Violation, check};

/// A request by (client, number).
type Request = (u64, u64);

/// A plain bank beside the cluster, fed with the committed log in order.
#[derive(Debug, Default)]
pub(crate) struct Transfers {
    model: Bank,
    answers: BTreeMap<Request, Answer>,
    acknowledged: BTreeMap<Request, Answer>,
    /// Highest index that had been acknowledged to anybody when a request was first sent.
    sent: BTreeMap<Request, (Transfer, u64)>,
    newest_acknowledged: u64,
    /// The same for audits that are not answered, by client.
    audits: BTreeMap<u64, u64>,
}

impl Transfers {
    /// A client sends a request for the first time.
    pub(crate) fn sent(&mut self, transfer: Transfer) {
        let key = (transfer.client, transfer.number);
        self.sent.entry(key).or_insert((transfer, self.newest_acknowledged));
    }

    /// The log has an entry that no member had applied before.
    pub(crate) fn applied(&mut self, applied: &Applied) -> Result<Effect, Violation> {
        let transfer = Transfer::decode(&applied.command);
        let asked = transfer.and_then(|transfer| {
            let (asked, _) = self.sent.get(&(transfer.client, transfer.number))?;
            (*asked == transfer).then_some(transfer)
        });
        let Some(transfer) = asked else {
            return Err(Violation {
                promise: "the log holds only what a client asked for",
                seen: format!("entry {}: {transfer:?}", applied.index),
            });
        };
        let (answer, effect) = self.model.apply(applied.index, transfer);
        check(self.model.sum() == ACCOUNTS * INITIAL, "the sum never changes", || {
            format!("it is {} after entry {}", self.model.sum(), applied.index)
        })?;
        check(
            self.model.digest() == applied.state,
            "the bank does what a plain bank does",
            || format!("its state after entry {} ({transfer:?}) differs", applied.index),
        )?;
        let key = (transfer.client, transfer.number);
        if effect == Effect::Now && answer.verdict != Verdict::TooOld {
            let before = self.answers.insert(key, answer);
            check(before.is_none(), "invariant 11: a request has its effect at most once", || {
                format!("{transfer:?} had it at {before:?} and {answer:?}")
            })?;
        }
        Ok(effect)
    }

    /// A client got an answer and takes its word for it.
    pub(crate) fn acknowledged(
        &mut self,
        client: u64,
        number: u64,
        answer: Answer,
    ) -> Result<(), Violation> {
        let key = (client, number);
        let known = self.answers.get(&key);
        check(
            known == Some(&answer),
            "invariant 1: an answer is what the committed log says",
            || {
                format!(
                    "client {client} was told {answer:?} for request {number}, the log: {known:?}"
                )
            },
        )?;
        let after = self.sent.get(&key).map_or(0, |(_, after)| *after);
        check(after < answer.index, "what is asked later takes effect later", || {
            format!(
                "request {number} of client {client} took effect at {}, but an answer from {after} \
                 was out before it was asked",
                answer.index
            )
        })?;
        self.newest_acknowledged = self.newest_acknowledged.max(answer.index);
        let before = self.acknowledged.insert(key, answer);
        check(before.is_none_or(|before| before == answer), "an answer stays the same", || {
            format!("request {number} of client {client}: {before:?}, then {answer:?}")
        })
    }

    /// A client asks for the sum of all accounts.
    pub(crate) fn audit_sent(&mut self, client: u64) {
        self.audits.insert(client, self.newest_acknowledged);
    }

    /// A client is told the sum of a state that goes up to `index`.
    pub(crate) fn audited(&mut self, client: u64, index: u64, sum: u64) -> Result<(), Violation> {
        check(sum == ACCOUNTS * INITIAL, "a read sees a sum that never changes", || {
            format!("client {client} was told {sum} at {index}")
        })?;
        let after = self.audits.remove(&client).unwrap_or(0);
        check(after <= index, "a read sees everything that was acknowledged before it", || {
            format!("client {client} was told of index {index}, {after} had been acknowledged")
        })
    }

    /// The state that every member must reach.
    pub(crate) fn state(&self) -> u64 {
        self.model.digest()
    }

    /// Requests sent, and how many of them were acknowledged.
    pub(crate) fn progress(&self) -> (usize, usize) {
        (self.sent.len(), self.acknowledged.len())
    }
}

#[cfg(test)]
mod tests {
    use proto::time::Instant;

    use super::*;

    const TRANSFER: Transfer = Transfer { client: 1, number: 1, from: 0, to: 1, amount: 5 };

    fn applied(index: u64, transfer: Transfer) -> Applied {
        let mut bank = Bank::default();
        bank.apply(index, transfer);
        let command = transfer.encode();
        Applied { index, log_time: Instant(index), command, state: bank.digest() }
    }

    #[test]
    fn an_answer_without_an_entry_is_found() {
        let mut transfers = Transfers::default();
        transfers.sent(TRANSFER);
        let (answer, _) = Bank::default().apply(1, TRANSFER);
        assert!(transfers.acknowledged(1, 1, answer).is_err());
        transfers.applied(&applied(1, TRANSFER)).unwrap();
        transfers.acknowledged(1, 1, answer).unwrap();
    }

    #[test]
    fn a_read_that_misses_something_is_found() {
        let mut transfers = Transfers::default();
        transfers.sent(TRANSFER);
        transfers.applied(&applied(7, TRANSFER)).unwrap();
        let (answer, _) = Bank::default().apply(7, TRANSFER);
        transfers.acknowledged(1, 1, answer).unwrap();
        for (index, sum) in [(6, ACCOUNTS * INITIAL), (7, 1)] {
            transfers.audit_sent(1);
            assert!(transfers.audited(1, index, sum).is_err());
        }
        transfers.audit_sent(1);
        transfers.audited(1, 7, ACCOUNTS * INITIAL).unwrap();
    }

    #[test]
    fn a_command_that_nobody_asked_for_is_found() {
        let mut transfers = Transfers::default();
        transfers.sent(Transfer { amount: 6, ..TRANSFER });
        assert!(transfers.applied(&applied(1, TRANSFER)).is_err());
    }

    #[test]
    fn an_effect_before_the_question_is_found() {
        let mut transfers = Transfers::default();
        transfers.sent(TRANSFER);
        transfers.applied(&applied(7, TRANSFER)).unwrap();
        let (answer, _) = Bank::default().apply(7, TRANSFER);
        transfers.acknowledged(1, 1, answer).unwrap();
        transfers.sent(Transfer { number: 2, ..TRANSFER });
        transfers.answers.insert((1, 2), Answer { index: 6, ..answer });
        assert!(transfers.acknowledged(1, 2, Answer { index: 6, ..answer }).is_err());
    }
}
