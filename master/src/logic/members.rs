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

/// Another master.
#[derive(Clone, Debug)]
struct Other {
    link: Link,
    address: String,
    /// When the link is opened again, where it was refused.
    reopen_at: Option<Instant>,
}

/// The other masters as this one is connected to them.
#[derive(Clone, Debug)]
pub(super) struct Members {
    others: BTreeMap<MemberId, Other>,
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
        self.is_member |= members.contains_key(&own);
        self.others.retain(|id, other| {
            let stays = members.get(id).is_some_and(|info| info.address == other.address);
            if !stays {
                effects.push(Effect::Network(NetworkEffect::Close { link: other.link }));
            }
            stays
        });
        for (id, info) in members {
            if *id == own || self.others.contains_key(id) {
                continue;
            }
            self.last_link += 1;
            let link = Link(self.last_link);
            let address = info.address.clone();
            effects.push(Effect::Network(NetworkEffect::Open { link, address: address.clone() }));
            self.others.insert(*id, Other { link, address, reopen_at: None });
        }
        self.promotion_due = now;
        self.is_promoting = false;
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
        let Some(other) = self.others.get(&to) else { return };
        let message = RaftMessage { from_member: own.0, to_member: to.0, ..RaftMessage::default() };
        let record = encode(&message, &[content]);
        effects.push(Effect::Network(NetworkEffect::Send { to: Peer::Link(other.link), record }));
    }

    pub(super) fn connected(&mut self, link: Link, masters: &str) {
        if link == JOIN_LINK {
            self.join.connected(masters);
            self.join_due = Instant(0);
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
            self.join_due = now + JOIN_INTERVAL;
        } else {
            self.join.follow(now, instead, &mut network);
        }
        effects.extend(network.into_iter().map(Effect::Network));
    }

    pub(super) fn promotion_failed(&mut self) {
        self.is_promoting = false;
    }

    /// Newcomers that are to become voters: in pairs, so that the number of voters stays odd.
    pub(super) fn promotion(
        &mut self,
        now: Instant,
        members: &BTreeMap<MemberId, MemberInfo>,
    ) -> Option<MemberChange> {
        if self.is_promoting || now < self.promotion_due {
            return None;
        }
        self.promotion_due = now + JOIN_INTERVAL;
        let learners = members.iter().filter(|(_, info)| !info.voter).map(|(id, _)| *id);
        let voters: Vec<MemberId> = learners.take(2).collect();
        if voters.len() < 2 {
            return None;
        }
        self.is_promoting = true;
        Some(MemberChange::Promote { voters, removed: Vec::new() })
    }

    pub(super) fn tick(
        &mut self,
        now: Instant,
        setting: &Setting,
        cluster: ClusterId,
        effects: &mut Vec<Effect>,
    ) {
        for other in self.others.values_mut() {
            if other.reopen_at.take_if(|due| now >= *due).is_some() {
                let (link, address) = (other.link, other.address.clone());
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
