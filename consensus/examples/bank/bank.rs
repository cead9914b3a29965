//! The state machine: accounts, and the last reply of each client.
//!
//! A client has one request in flight and repeats it under its number until it is answered, so the
//! last reply is all that deduplication needs.

use std::collections::BTreeMap;
use std::sync::Arc;

use consensus::{Applied, RestoreError, StateMachine};

/// Accounts of the bank.
pub(crate) const ACCOUNTS: u64 = 32;

/// What each holds at the beginning.
pub(crate) const INITIAL: u64 = 1_000;

/// A request to move money.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Transfer {
    pub(crate) client: u64,
    /// From 1, without gaps.
    pub(crate) number: u64,
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) amount: u64,
}

/// The answer: the same however often it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) number: u64,
    /// Where the transfer stands in the log.
    pub(crate) index: u64,
    /// 1 where the money moved, 0 where the paying account held too little.
    pub(crate) moved: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Books {
    pub(crate) accounts: Vec<u64>,
    pub(crate) replies: BTreeMap<u64, Reply>,
}

/// The bank; snapshots share the books until they change.
#[derive(Clone, Debug)]
pub(crate) struct Bank {
    books: Arc<Books>,
}

impl Default for Bank {
    fn default() -> Bank {
        let accounts = vec![INITIAL; ACCOUNTS as usize];
        Bank { books: Arc::new(Books { accounts, replies: BTreeMap::new() }) }
    }
}

fn numbers<const N: usize>(bytes: &[u8]) -> Option<[u64; N]> {
    let (words, rest) = bytes.as_chunks::<8>();
    let words: &[[u8; 8]; N] = words.try_into().ok()?;
    rest.is_empty().then(|| words.map(u64::from_le_bytes))
}

impl Transfer {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let all = [self.client, self.number, self.from, self.to, self.amount];
        all.into_iter().flat_map(u64::to_le_bytes).collect()
    }

    fn decode(bytes: &[u8]) -> Option<Transfer> {
        let [client, number, from, to, amount] = numbers(bytes)?;
        let known = from < ACCOUNTS && to < ACCOUNTS;
        known.then_some(Transfer { client, number, from, to, amount })
    }
}

impl Bank {
    pub(crate) fn books(&self) -> &Books {
        &self.books
    }

    pub(crate) fn sum(&self) -> u64 {
        self.books.accounts.iter().sum()
    }
}

impl StateMachine for Bank {
    /// `None` for a command that is none, or older than the client's last.
    type Output = Option<Reply>;
    type Snapshot = Arc<Books>;

    fn apply(&mut self, at: &Applied, command: &[u8]) -> Option<Reply> {
        let transfer = Transfer::decode(command)?;
        let books = Arc::make_mut(&mut self.books);
        if let Some(last) = books.replies.get(&transfer.client)
            && last.number >= transfer.number
        {
            return Some(*last).filter(|last| last.number == transfer.number);
        }
        let (from, to) = (transfer.from as usize, transfer.to as usize);
        let moved = books.accounts[from] >= transfer.amount;
        if moved {
            books.accounts[from] -= transfer.amount;
            books.accounts[to] += transfer.amount;
        }
        let reply = Reply { number: transfer.number, index: at.index.0, moved: u64::from(moved) };
        books.replies.insert(transfer.client, reply);
        Some(reply)
    }

    fn snapshot(&self) -> Arc<Books> {
        self.books.clone()
    }

    fn encode(books: &Arc<Books>) -> Vec<u8> {
        let replies = books.replies.iter();
        let replies = replies.flat_map(|(&client, it)| [client, it.number, it.index, it.moved]);
        books.accounts.iter().copied().chain(replies).flat_map(u64::to_le_bytes).collect()
    }

    fn restore(bytes: &[u8]) -> Result<Bank, RestoreError> {
        let wrong = || RestoreError("not a bank's books".to_owned());
        let (accounts, replies) =
            bytes.split_at_checked(ACCOUNTS as usize * 8).ok_or_else(wrong)?;
        let accounts: [u64; ACCOUNTS as usize] = numbers(accounts).ok_or_else(wrong)?;
        let mut books = Books { accounts: accounts.to_vec(), replies: BTreeMap::new() };
        for entry in replies.chunks(32) {
            let [client, number, index, moved] = numbers(entry).ok_or_else(wrong)?;
            books.replies.insert(client, Reply { number, index, moved });
        }
        Ok(Bank { books: Arc::new(books) })
    }

    fn digest(&self) -> [u8; 32] {
        let mut digest = [0; 32];
        let bytes = Bank::encode(&self.books);
        for (slot, piece) in digest.iter_mut().zip(crc32c::crc32c(&bytes).to_le_bytes()) {
            *slot = piece;
        }
        digest
    }
}
