//! One link to one of several interchangeable nodes, for whoever needs any of them.
//!
//! A balancer or worker talks to one master at a time, the leader where it knows it, and moves on
//! when that one refuses, falls silent or names another. Which requests are sent, and when silence
//! is too long, is the owner's matter: everything sent this way must be safe to send again.

use fastrand::Rng;
use proto::time::{Duration, Instant};

use super::network::{Link, NetworkEffect, Peer};

/// First wait before the next address is tried; doubled with each round of failures.
const FIRST_WAIT: Duration = Duration::from_millis(50);

/// Longest wait: a cluster that comes back is noticed within this.
const LONGEST_WAIT: Duration = Duration::from_millis(1_000);

/// How long an opened link may take until it is connected, at first; what a dead node costs whoever
/// begins with it. Doubled with each of the first rounds of failures, as all may merely be busy.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// How often that is doubled.
const CONNECT_ROUNDS: u32 = 2;

/// Most addresses that are kept; more than any cluster has masters.
const ADDRESSES: usize = 64;

/// Where the link stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not open; the next address is tried then.
    Waiting(Instant),
    /// Open, and the other end has not accepted it; given up then.
    Opening(Instant),
    /// Accepted.
    Connected,
}

/// One link that moves from node to node.
#[derive(Clone, Debug)]
pub struct Rotation {
    link: Link,
    addresses: Vec<String>,
    /// Position of the address that is, or was last, tried.
    at: usize,
    failures: u32,
    state: State,
    random: Rng,
}

impl Rotation {
    /// A rotation over `addresses` (at least one, else it never connects), which begins at the
    /// first tick.
    #[must_use]
    pub fn new(link: Link, addresses: Vec<String>, random: Rng) -> Rotation {
        let at = addresses.len().saturating_sub(1);
        Rotation { link, addresses, at, failures: 0, state: State::Waiting(Instant(0)), random }
    }

    /// The link that it opens.
    #[must_use]
    pub fn link(&self) -> Link {
        self.link
    }

    /// True while the other end has accepted the link.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.state == State::Connected
    }

    /// The addresses that it moves over.
    #[must_use]
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// The other end accepted the link and names the nodes there are, the best first.
    pub fn connected(&mut self, addresses: &str) {
        self.state = State::Connected;
        self.failures = 0;
        self.learn(addresses);
    }

    /// The other end names the nodes there are, the best first. Those that it does not name stay
    /// behind them: it may have been asked before the others had joined.
    pub fn learn(&mut self, addresses: &str) {
        let current = self.addresses.get(self.at).cloned();
        let named = addresses.split(',').filter(|address| !address.is_empty()).map(str::to_owned);
        let known = std::mem::take(&mut self.addresses);
        for address in named.chain(known) {
            if !self.addresses.contains(&address) && self.addresses.len() < ADDRESSES {
                self.addresses.push(address);
            }
        }
        self.at = current
            .and_then(|current| self.addresses.iter().position(|address| *address == current))
            .unwrap_or(0);
    }

    /// The node at the other end is of no use: on to the next address, after a wait that grows.
    pub fn fail(&mut self, now: Instant, effects: &mut Vec<NetworkEffect>) {
        if matches!(self.state, State::Waiting(_)) {
            return;
        }
        effects.push(NetworkEffect::Close { link: self.link });
        let round = self.round();
        self.failures = self.failures.saturating_add(1);
        let longest = FIRST_WAIT.times(1 << round.min(10)).0.min(LONGEST_WAIT.0);
        let wait = Duration(longest / 2 + self.random.u64(0..=longest / 2));
        self.state = State::Waiting(now + wait);
    }

    /// The node at the other end names a better one: straight to it.
    pub fn follow(&mut self, now: Instant, address: &str, effects: &mut Vec<NetworkEffect>) {
        if self.addresses.get(self.at).is_some_and(|current| current == address) {
            self.fail(now, effects);
            return;
        }
        let known = self.addresses.iter().position(|known| known == address);
        self.at = known.unwrap_or_else(|| {
            self.addresses.push(address.to_owned());
            self.addresses.len() - 1
        });
        self.open(now, effects);
    }

    /// Opens the next address where it is time.
    pub fn tick(&mut self, now: Instant, effects: &mut Vec<NetworkEffect>) {
        if let State::Opening(until) = self.state
            && now >= until
        {
            self.fail(now, effects);
        }
        if let State::Waiting(until) = self.state
            && now >= until
            && !self.addresses.is_empty()
        {
            self.at = (self.at + 1) % self.addresses.len();
            self.open(now, effects);
        }
    }

    /// When [`Rotation::tick`] has something to do.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        match self.state {
            State::Waiting(until) | State::Opening(until) => Some(until),
            State::Connected => None,
        }
    }

    /// Sends a record to the node at the other end. While none is connected it is dropped: the
    /// owner sends again when it is told that one is.
    pub fn send(&self, record: Vec<u8>, effects: &mut Vec<NetworkEffect>) {
        if self.is_connected() {
            effects.push(NetworkEffect::Send { to: Peer::Link(self.link), record });
        }
    }

    /// How often all addresses failed since one was of use.
    fn round(&self) -> u32 {
        self.failures / u32::try_from(self.addresses.len().max(1)).unwrap_or(1)
    }

    fn open(&mut self, now: Instant, effects: &mut Vec<NetworkEffect>) {
        if let Some(address) = self.addresses.get(self.at) {
            effects.push(NetworkEffect::Open { link: self.link, address: address.clone() });
            let timeout = CONNECT_TIMEOUT.times(1 << self.round().min(CONNECT_ROUNDS));
            self.state = State::Opening(now + timeout);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rotation(addresses: &[&str]) -> Rotation {
        let addresses = addresses.iter().map(|&address| address.to_owned()).collect();
        Rotation::new(Link(1), addresses, Rng::with_seed(7))
    }

    fn opened(effects: &[NetworkEffect]) -> Vec<&str> {
        effects
            .iter()
            .filter_map(|effect| match effect {
                NetworkEffect::Open { address, .. } => Some(address.as_str()),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn it_moves_on_with_growing_waits() {
        let mut rotation = rotation(&["a", "b"]);
        let (mut now, mut effects) = (Instant(1), Vec::new());
        let mut waits = Vec::new();
        for _ in 0..12 {
            rotation.tick(now, &mut effects);
            rotation.fail(now, &mut effects);
            let due = rotation.next_deadline().expect("a next attempt");
            waits.push(due.since(now));
            now = due;
        }
        assert_eq!(opened(&effects)[..4], ["a", "b", "a", "b"]);
        assert!(waits[0] < waits[6] && waits[6] < waits[10], "{waits:?}");
        assert!(waits.iter().all(|wait| *wait <= LONGEST_WAIT));
    }

    #[test]
    fn silence_while_opening_is_a_failure() {
        let mut rotation = rotation(&["a", "b"]);
        let mut effects = Vec::new();
        rotation.tick(Instant(1), &mut effects);
        let due = rotation.next_deadline().expect("a time-out");
        rotation.tick(due, &mut effects);
        let again = rotation.next_deadline().expect("a next attempt");
        rotation.tick(again, &mut effects);
        assert_eq!(opened(&effects), ["a", "b"]);
    }

    #[test]
    fn who_is_not_named_is_not_forgotten() {
        let mut rotation = rotation(&["a", "b", "c"]);
        let mut effects = Vec::new();
        rotation.tick(Instant(1), &mut effects);
        rotation.connected("a");
        assert_eq!(rotation.addresses(), ["a", "b", "c"]);
        rotation.learn("c,a");
        assert_eq!(rotation.addresses(), ["c", "a", "b"]);
        assert!(rotation.is_connected());
        rotation.fail(Instant(2), &mut effects);
        let again = rotation.next_deadline().expect("a next attempt");
        rotation.tick(again, &mut effects);
        assert_eq!(opened(&effects), ["a", "b"], "from a on to the next");
    }

    #[test]
    fn it_follows_to_a_node_that_it_did_not_know() {
        let mut rotation = rotation(&["a"]);
        let mut effects = Vec::new();
        rotation.tick(Instant(1), &mut effects);
        rotation.connected("a,b");
        rotation.follow(Instant(2), "c", &mut effects);
        assert_eq!(opened(&effects), ["a", "c"]);
        assert_eq!(rotation.addresses(), ["a", "b", "c"]);
        rotation.send(vec![1], &mut effects);
        assert!(!effects.iter().any(|effect| matches!(effect, NetworkEffect::Send { .. })));
    }
}
