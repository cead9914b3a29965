//! The other masters: links to them, joining them, and making newcomers voters.

use std::collections::BTreeMap;

use consensus::{MemberChange, MemberId, MemberInfo};
use fastrand::Rng;
use node::logic::network::{Link, NetworkEffect, Peer};
use node::logic::rotation::Rotation;
use proto::ids::ClusterId;
use proto::messages::raft::{MemberJoin, RaftMessage};
use proto::record::encode;
use proto::time::{Duration, Instant};

use super::{Effect, Setting};

/// The link through which a new master asks for its place.
const JOIN_LINK: Link = Link(0);

/// The first link to another master.
const FIRST_LINK: u32 = 1;

/// How often a new master asks, and the leader looks whether a newcomer has caught up.
const JOIN_INTERVAL: Duration = Duration::from_millis(500);

/// A link that the other end refused is opened again after this.
const REOPEN: Duration = Duration::from_millis(1_000);

/// A connection to another master, under its address: one that lost its folder and came back under
/// a new number is reached where it was.
#[derive(Clone, Debug)]
struct Other {
    link: Link,
    /// When the link is opened again, where it was refused.
    reopen_at: Option<Instant>,
}

/// The other masters as this one is connected to them.
#[derive(Clone, Debug)]
pub(super) struct Members {
    others: BTreeMap<String, Other>,
    addresses: BTreeMap<MemberId, String>,
    /// Where masters that connected to this one say that they are reached.
    inbound: BTreeMap<Peer, String>,
    last_link: u32,
    is_member: bool,
    join: Rotation,
    join_due: Instant,
    promotion_due: Instant,
    is_promoting: bool,
}

impl Members {
    pub(super) fn new(setting: &Setting, random: Rng) -> Members {
        Members {
            others: BTreeMap::new(),
            addresses: BTreeMap::new(),
            inbound: BTreeMap::new(),
            last_link: FIRST_LINK,
            is_member: setting.join.is_empty(),
            join: Rotation::new(JOIN_LINK, setting.join.clone(), random),
            join_due: Instant(0),
            promotion_due: Instant(0),
            is_promoting: false,
        }
    }

    /// The log says who the masters are: links to those that are new, none to those that are gone.
    pub(super) fn changed(
        &mut self,
        now: Instant,
        own: MemberId,
        members: &BTreeMap<MemberId, MemberInfo>,
        effects: &mut Vec<Effect>,
    ) {
        if members.contains_key(&own) {
            self.end_joining(effects);
        }
        self.addresses = members
            .iter()
            .filter(|(id, _)| **id != own)
            .map(|(id, info)| (*id, info.address.clone()))
            .collect();
        let own_address = members.get(&own).map(|info| info.address.as_str());
        self.others.retain(|address, other| {
            let stays = members.values().any(|info| info.address == *address);
            if !stays {
                effects.push(Effect::Network(NetworkEffect::Close { link: other.link }));
            }
            stays
        });
        let named: Vec<String> = self.addresses.values().cloned().collect();
        for address in named.iter().filter(|address| Some(address.as_str()) != own_address) {
            self.open(address, effects);
        }
        self.promotion_due = now;
        self.is_promoting = false;
    }

    fn open(&mut self, address: &str, effects: &mut Vec<Effect>) {
        if self.others.contains_key(address) {
            return;
        }
        self.last_link += 1;
        let link = Link(self.last_link);
        let address = address.to_owned();
        effects.push(Effect::Network(NetworkEffect::Open { link, address: address.clone() }));
        self.others.insert(address, Other { link, reopen_at: None });
    }

    /// Two links to one node would take each other's place there, so the one for asking goes first.
    fn end_joining(&mut self, effects: &mut Vec<Effect>) {
        if !self.is_member {
            self.is_member = true;
            effects.push(Effect::Network(NetworkEffect::Close { link: JOIN_LINK }));
        }
    }

    /// A master connected to this one.
    pub(super) fn arrived(&mut self, peer: Peer, address: String) {
        self.inbound.insert(peer, address);
    }

    /// A master's connection ended.
    pub(super) fn left(&mut self, peer: Peer) {
        self.inbound.remove(&peer);
    }

    /// A message of a member came. One that the log here does not name yet (it leads, and this
    /// master has no log) must be answered all the same: at the address that it gave itself.
    pub(super) fn heard(&mut self, from: MemberId, peer: Peer, effects: &mut Vec<Effect>) {
        if self.addresses.contains_key(&from) {
            return;
        }
        let Some(address) = self.inbound.get(&peer).cloned() else { return };
        self.end_joining(effects);
        self.open(&address, effects);
        self.addresses.insert(from, address);
    }

    /// Sends a message of the consensus library; one to a master that is not known is dropped, as
    /// the network might have dropped it.
    pub(super) fn send(
        &self,
        own: MemberId,
        to: MemberId,
        content: &[u8],
        effects: &mut Vec<Effect>,
    ) {
        let other = self.addresses.get(&to).and_then(|address| self.others.get(address));
        let Some(other) = other else { return };
        let message = RaftMessage { from_member: own.0, to_member: to.0, ..RaftMessage::default() };
        let record = encode(&message, &[content]);
        effects.push(Effect::Network(NetworkEffect::Send { to: Peer::Link(other.link), record }));
    }

    /// The masters at the other end of a link.
    pub(super) fn behind(&self, link: Link) -> Vec<MemberId> {
        let is_it =
            |address: &String| self.others.get(address).is_some_and(|other| other.link == link);
        let there = self.addresses.iter().filter(|(_, address)| is_it(address));
        there.map(|(id, _)| *id).collect()
    }

    pub(super) fn connected(&mut self, link: Link, masters: &str) {
        if link == JOIN_LINK {
            self.join.connected(masters);
            self.join_due = Instant(0);
        }
    }

    /// Whoever is asked for a place names the masters again.
    pub(super) fn named(&mut self, link: Link, masters: &str) {
        if link == JOIN_LINK {
            self.join.learn(masters);
        }
    }

    pub(super) fn refused(&mut self, now: Instant, link: Link, effects: &mut Vec<Effect>) {
        if link == JOIN_LINK {
            let mut network = Vec::new();
            self.join.fail(now, &mut network);
            effects.extend(network.into_iter().map(Effect::Network));
        } else if let Some(other) = self.others.values_mut().find(|other| other.link == link) {
            other.reopen_at = Some(now + REOPEN);
        }
    }

    /// The place is in the log. Being told so by the log itself is what ends the asking.
    pub(super) fn joined(&mut self) {
        self.join_due = Instant(u64::MAX);
    }

    pub(super) fn join_refused(&mut self, now: Instant, instead: &str, effects: &mut Vec<Effect>) {
        let mut network = Vec::new();
        if instead.is_empty() {
            // It may be a newcomer as well, which knows no leader either.
            self.join.fail(now, &mut network);
        } else {
            self.join.follow(now, instead, &mut network);
        }
        effects.extend(network.into_iter().map(Effect::Network));
    }

    pub(super) fn promotion_ended(&mut self) {
        self.is_promoting = false;
    }

    /// Newcomers that are to become voters: one that came back without its folder takes the place
    /// of its predecessor at the same address, others come in pairs, so that the number of voters
    /// stays odd.
    pub(super) fn promotion(
        &mut self,
        now: Instant,
        members: &BTreeMap<MemberId, MemberInfo>,
    ) -> Option<MemberChange> {
        if self.is_promoting || now < self.promotion_due {
            return None;
        }
        self.promotion_due = now + JOIN_INTERVAL;
        let (mut voters, mut fresh, mut removed) = (Vec::new(), Vec::new(), Vec::new());
        for (id, info) in members.iter().filter(|(_, info)| !info.voter) {
            let predecessor = members
                .iter()
                .find(|(_, other)| other.voter && other.address == info.address)
                .map(|(id, _)| *id);
            match predecessor {
                Some(predecessor) if !removed.contains(&predecessor) => {
                    voters.push(*id);
                    removed.push(predecessor);
                }
                Some(_) => {}
                None => fresh.push(*id),
            }
        }
        fresh.truncate(fresh.len() / 2 * 2);
        voters.append(&mut fresh);
        if voters.is_empty() {
            return None;
        }
        self.is_promoting = true;
        Some(MemberChange::Promote { voters, removed })
    }

    pub(super) fn tick(
        &mut self,
        now: Instant,
        setting: &Setting,
        cluster: ClusterId,
        effects: &mut Vec<Effect>,
    ) {
        for (address, other) in &mut self.others {
            if other.reopen_at.take_if(|due| now >= *due).is_some() {
                let (link, address) = (other.link, address.clone());
                effects.push(Effect::Network(NetworkEffect::Open { link, address }));
            }
        }
        if self.is_member {
            return;
        }
        let mut network = Vec::new();
        self.join.tick(now, &mut network);
        if self.join.is_connected() && now >= self.join_due {
            self.join_due = now + JOIN_INTERVAL.times(4);
            let join = MemberJoin {
                member: setting.member.0,
                cluster_uuid: cluster.to_wire(),
                ..MemberJoin::default()
            };
            tracing::debug!(address = setting.address, "asking for a place among the masters");
            self.join.send(encode(&join, &[setting.address.as_bytes()]), &mut network);
        }
        effects.extend(network.into_iter().map(Effect::Network));
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let reopen = self.others.values().filter_map(|other| other.reopen_at).min();
        let join = (!self.is_member).then(|| match self.join.next_deadline() {
            Some(due) => due,
            None => self.join_due,
        });
        reopen.into_iter().chain(join).min()
    }
}
