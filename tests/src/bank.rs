//! The state machine of the simulator's first clusters: accounts, transfers, a sum that never
//! changes.
//!
//! Deduplicates by (client, number) and remembers the last [`WINDOW`] answers of each client, as
//! the masters do. Pure: its behaviour depends on nothing but the commands and their order. The
//! consensus crate's trait is implemented in `process/member.rs`.

use std::collections::BTreeMap;

use crate::trace::digest;

/// Accounts of a bank.
pub(crate) const ACCOUNTS: u64 = 16;

/// What each account holds at the beginning.
pub(crate) const INITIAL: u64 = 1000;

/// Requests of one client whose answers are remembered, and so how many it may have in flight.
pub(crate) const WINDOW: u64 = 8;

/// A request to move money, or (with an amount of 0) to look at two accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Transfer {
    /// Who asks.
    pub(crate) client: u64,
    /// The client's number of the request, from 1.
    pub(crate) number: u64,
    /// Account that pays.
    pub(crate) from: u64,
    /// Account that receives.
    pub(crate) to: u64,
    /// How much.
    pub(crate) amount: u64,
}

/// What became of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    /// The money moved.
    Moved,
    /// The paying account held too little.
    Refused,
    /// The client numbered it below what is remembered.
    TooOld,
}

/// The answer to a transfer; the same however often it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Answer {
    /// What became of it.
    pub(crate) verdict: Verdict,
    /// Log index at which it took effect.
    pub(crate) index: u64,
    /// The paying account afterwards.
    pub(crate) from_balance: u64,
    /// The receiving account afterwards.
    pub(crate) to_balance: u64,
}

fn numbers<const N: usize>(bytes: &[u8]) -> Option<[u64; N]> {
    let (words, rest) = bytes.as_chunks::<8>();
    let words: &[[u8; 8]; N] = words.try_into().ok()?;
    rest.is_empty().then(|| words.map(u64::from_le_bytes))
}

fn bytes(numbers: impl IntoIterator<Item = u64>) -> Vec<u8> {
    numbers.into_iter().flat_map(u64::to_le_bytes).collect()
}

impl Transfer {
    pub(crate) fn encode(&self) -> Vec<u8> {
        bytes([self.client, self.number, self.from, self.to, self.amount])
    }

    pub(crate) fn decode(content: &[u8]) -> Option<Transfer> {
        let [client, number, from, to, amount] = numbers(content)?;
        Some(Transfer { client, number, from, to, amount })
    }
}

impl Answer {
    pub(crate) fn encode(&self) -> Vec<u8> {
        bytes([self.verdict as u64, self.index, self.from_balance, self.to_balance])
    }

    pub(crate) fn decode(content: &[u8]) -> Option<Answer> {
        let [verdict, index, from_balance, to_balance] = numbers(content)?;
        let verdict = match verdict {
            0 => Verdict::Moved,
            1 => Verdict::Refused,
            2 => Verdict::TooOld,
            _ => return None,
        };
        Some(Answer { verdict, index, from_balance, to_balance })
    }
}

/// The answer to an audit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Audit {
    /// Newest command that the sum contains.
    pub(crate) index: u64,
    /// All money together.
    pub(crate) sum: u64,
}

impl Audit {
    pub(crate) fn encode(&self) -> Vec<u8> {
        bytes([self.index, self.sum])
    }

    pub(crate) fn decode(content: &[u8]) -> Option<Audit> {
        let [index, sum] = numbers(content)?;
        Some(Audit { index, sum })
    }
}

/// Whether a request had its effect now or before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// This command caused it.
    Now,
    /// An earlier one did; the answer comes from memory.
    Before,
}

/// The replicated state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bank {
    accounts: Vec<u64>,
    clients: BTreeMap<u64, BTreeMap<u64, Answer>>,
    /// Log index of the newest command.
    index: u64,
}

impl Default for Bank {
    fn default() -> Bank {
        Bank { accounts: vec![INITIAL; ACCOUNTS as usize], clients: BTreeMap::new(), index: 0 }
    }
}

impl Bank {
    /// Carries out one command of the log.
    pub(crate) fn apply(&mut self, index: u64, transfer: Transfer) -> (Answer, Effect) {
        self.index = index;
        let answers = self.clients.entry(transfer.client).or_default();
        if let Some(answer) = answers.get(&transfer.number) {
            return (*answer, Effect::Before);
        }
        let newest = answers.keys().next_back().copied().unwrap_or(0);
        let (from, to) = (transfer.from % ACCOUNTS, transfer.to % ACCOUNTS);
        let mut verdict = Verdict::Moved;
        if transfer.number + WINDOW <= newest {
            verdict = Verdict::TooOld;
        } else if self.accounts[from as usize] < transfer.amount {
            verdict = Verdict::Refused;
        } else {
            self.accounts[from as usize] -= transfer.amount;
            self.accounts[to as usize] += transfer.amount;
        }
        let from_balance = self.accounts[from as usize];
        let to_balance = self.accounts[to as usize];
        let answer = Answer { verdict, index, from_balance, to_balance };
        if verdict != Verdict::TooOld {
            answers.insert(transfer.number, answer);
            let newest = newest.max(transfer.number);
            answers.retain(|&number, _| number + WINDOW > newest);
        }
        (answer, Effect::Now)
    }

    /// Log index of the newest command that it contains.
    pub(crate) fn index(&self) -> u64 {
        self.index
    }

    /// All money together.
    pub(crate) fn sum(&self) -> u64 {
        self.accounts.iter().sum()
    }

    /// A digest of everything that `apply` reads.
    pub(crate) fn digest(&self) -> u64 {
        digest(&self.encode())
    }

    /// The whole state as bytes, in one canonical form.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut content = self.accounts.clone();
        content.push(self.index);
        for (client, answers) in &self.clients {
            for (number, answer) in answers {
                content.extend([*client, *number, answer.verdict as u64, answer.index]);
                content.extend([answer.from_balance, answer.to_balance]);
            }
        }
        bytes(content)
    }

    /// The state of bytes that [`Bank::encode`] made; `None` for others.
    pub(crate) fn decode(content: &[u8]) -> Option<Bank> {
        let (accounts, rest) = content.split_at_checked(ACCOUNTS as usize * 8)?;
        let (index, answers) = rest.split_at_checked(8)?;
        let accounts: [u64; ACCOUNTS as usize] = numbers(accounts)?;
        let [index] = numbers(index)?;
        let mut bank = Bank { accounts: accounts.to_vec(), clients: BTreeMap::new(), index };
        let (entries, rest) = answers.as_chunks::<48>();
        for entry in entries {
            let (key, answer) = entry.split_at(16);
            let [client, number] = numbers(key)?;
            bank.clients.entry(client).or_default().insert(number, Answer::decode(answer)?);
        }
        rest.is_empty().then_some(bank)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transfer(number: u64, amount: u64) -> Transfer {
        Transfer { client: 5, number, from: 1, to: 2, amount }
    }

    #[test]
    fn a_repeated_request_has_the_effect_of_one() {
        let mut bank = Bank::default();
        let first = bank.apply(10, transfer(1, 600));
        assert_eq!(first.1, Effect::Now);
        assert_eq!(bank.apply(11, transfer(1, 600)), (first.0, Effect::Before));
        assert_eq!(bank.apply(12, transfer(2, 600)).0.verdict, Verdict::Refused);
        assert_eq!(bank.sum(), ACCOUNTS * INITIAL);
    }

    #[test]
    fn a_number_below_the_window_is_too_old() {
        let mut bank = Bank::default();
        bank.apply(1, transfer(20, 1));
        assert_eq!(bank.apply(2, transfer(20 - WINDOW, 1)).0.verdict, Verdict::TooOld);
        assert_eq!(bank.apply(3, transfer(21 - WINDOW, 1)).0.verdict, Verdict::Moved);
    }

    #[test]
    fn state_and_messages_survive_encoding() {
        let mut bank = Bank::default();
        for number in 1..30 {
            bank.apply(number, transfer(number, number));
        }
        assert_eq!(Bank::decode(&bank.encode()).unwrap(), bank);
        assert_eq!(Transfer::decode(&transfer(3, 4).encode()), Some(transfer(3, 4)));
        assert_eq!(Bank::decode(&bank.encode()[1..]), None);
    }
}
