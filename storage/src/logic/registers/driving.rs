//! The storage node around its registers: which events reach them and who performs what they want.

use std::collections::BTreeMap;

use node::logic::network::{Link, NetworkEffect, Peer};
use proto::ids::NodeId;
use proto::messages::node::RingReply;
use proto::record::{Message, Record};
use proto::time::{Duration, Instant};

use super::super::links::User;
use super::super::{Effect, Storage};
use super::{Act, Registers};
use crate::registers::Recovered;

/// Nodes that links are kept to.
const LINES: usize = 128;

/// A node that is asked and silent for this long gets a new connection.
const SILENCE: Duration = Duration::from_millis(3_000);

/// A link to another node.
#[derive(Debug)]
struct Line {
    link: Link,
    address: String,
    /// Since when it is asked and has not been heard.
    silent_since: Option<Instant>,
}

/// The links to nodes that keep registers.
#[derive(Debug, Default)]
pub(in crate::logic) struct Lines {
    by_node: BTreeMap<NodeId, Line>,
    next: u32,
}

impl Lines {
    fn send(
        &mut self,
        now: Instant,
        node: NodeId,
        address: &str,
        record: Vec<u8>,
        effects: &mut Vec<Effect>,
    ) {
        let is_usable = |line: &Line| {
            line.address == address && line.silent_since.is_none_or(|since| now < since + SILENCE)
        };
        if !self.by_node.get(&node).is_some_and(is_usable) {
            self.close(node, effects);
            if self.by_node.len() >= LINES
                && let Some(&first) = self.by_node.keys().next()
            {
                self.close(first, effects);
            }
            let link = User::Registers.link(self.next);
            self.next = self.next.wrapping_add(1);
            let line = Line { link, address: address.to_owned(), silent_since: None };
            self.by_node.insert(node, line);
            let address = address.to_owned();
            effects.push(Effect::Network(NetworkEffect::Open { link, address }));
        }
        if let Some(line) = self.by_node.get_mut(&node) {
            line.silent_since.get_or_insert(now);
            let to = Peer::Link(line.link);
            effects.push(Effect::Network(NetworkEffect::Send { to, record }));
        }
    }

    fn close(&mut self, node: NodeId, effects: &mut Vec<Effect>) {
        if let Some(Line { link, .. }) = self.by_node.remove(&node) {
            effects.push(Effect::Network(NetworkEffect::Close { link }));
        }
    }

    /// Whether a link is one of these; its node was heard.
    fn heard(&mut self, link: Link) -> bool {
        let line = self.by_node.values_mut().find(|line| line.link == link);
        line.map(|line| line.silent_since = None).is_some()
    }

    fn leads_to(&self, link: Link, node: NodeId) -> bool {
        self.by_node.get(&node).is_some_and(|line| line.link == link)
    }
}

impl Storage {
    /// Takes in the registers that a start found; before anything else happens.
    pub fn recover_registers(&mut self, recovered: Recovered) {
        self.registers.recover(recovered);
    }

    /// Registers with what they need.
    pub(in crate::logic) fn with_registers(
        &mut self,
        now: Instant,
        effects: &mut Vec<Effect>,
        act: impl FnOnce(&mut Registers, &mut Vec<Act>),
    ) {
        let mut acts = Vec::new();
        act(&mut self.registers, &mut acts);
        for act in acts {
            match act {
                Act::Change(job) => effects.push(Effect::Registers(job)),
                Act::Answer(asker, record) => self.send(asker, record, effects),
                Act::Refuse(asker, refusal) => self.refuse(asker, refusal, effects),
                Act::Ask(node, record) => {
                    let rings = self.membership.rings();
                    match rings.and_then(|rings| rings.address(node)) {
                        Some(address) => {
                            self.register_lines.send(now, node, address, record, effects);
                        }
                        None => self.membership.doubts(now),
                    }
                }
                Act::AskLeader(record) => self.membership.tell(record, effects),
                Act::AskRing => self.membership.ask_ring(now),
            }
        }
    }

    /// A master answered; the ring may be another.
    pub(in crate::logic) fn registers_learn(
        &mut self,
        now: Instant,
        record: &Record<'_>,
        effects: &mut Vec<Effect>,
    ) {
        if record.message_type() != RingReply::TYPE {
            return;
        }
        let mut acts = Vec::new();
        if let Some(rings) = self.membership.rings() {
            let all: Vec<_> = rings.all().collect();
            self.registers.learn(now, &all, rings.registers(), &mut acts);
        }
        self.with_registers(now, effects, |_, out| *out = acts);
    }

    /// Whether a link leads to this node, of which registers are asked: another one may have its
    /// address by now, and answers nothing for it.
    pub(in crate::logic) fn is_register_line_to(&mut self, link: Link, node: NodeId) -> bool {
        self.register_lines.leads_to(link, node) && self.register_lines.heard(link)
    }

    /// Whether a link leads to a node that was asked about registers.
    pub(in crate::logic) fn is_register_line(&mut self, link: Link) -> bool {
        self.register_lines.heard(link)
    }
}
