//! The worker's side of its group: links to primary and auxiliary, heartbeats on both.
//!
//! A worker that was moved to another group keeps its links to the balancers of the one before
//! while it holds what those dealt and they answer: it tells them what becomes of it, and takes
//! nothing more from them.

use node::logic::network::{Link, NetworkEffect, Peer};
use proto::ids::{Epoch, Incarnation};
use proto::messages::task::WorkerHeartbeat;
use proto::record::encode;
use proto::time::{Duration, Instant};
use proto::wire::bytes_of;

use super::held::Held;
use super::round_trip::RoundTrip;

/// How often a balancer hears of a worker that has nothing else to say.
pub const HEARTBEAT: Duration = Duration::from_millis(500);

/// How long a balancer may be silent before the link to it is opened anew.
const SILENCE: Duration = Duration::from_millis(3_000);

/// The first of the links; the master's is below it.
const FIRST_LINK: u32 = 1;

/// Most balancers of a group: primary and auxiliary, and both of the group before for a moment.
const MOST: usize = 4;

/// Balancers of a group that is complete.
const SEATS: usize = 2;

/// Links from here on are not used for masters and balancers.
pub(super) const LINKS_END: u32 = FIRST_LINK + MOST as u32;

/// What a worker that belongs to another group by now says of whether it takes tasks.
const MOVED: u8 = 3;

/// Where the worker belongs, or belonged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Membership {
    /// The group; 0 before the first registration.
    pub(super) group: u64,
    /// Number of the log entry that gave this worker to it; 0 before.
    pub(super) assignment: u64,
    /// Highest epoch seen under it.
    pub(super) epoch: Epoch,
}

/// What a heartbeat says beside the inventory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heartbeat {
    pub(super) incarnation: Incarnation,
    pub(super) membership: Membership,
    pub(super) slot_count: u32,
    pub(super) free_slot_count: u32,
    pub(super) cpu_milli: u64,
    pub(super) memory_bytes: u64,
    pub(super) refusing: u8,
}

/// Where a balancer's link belongs that the worker was moved away from.
#[derive(Clone, Copy, Debug)]
struct Former {
    membership: Membership,
    /// Until then it is told that the worker was moved, whatever is held.
    tell_until: Instant,
}

/// One balancer of the group, or of one before.
#[derive(Clone, Debug)]
struct Balancer {
    link: Link,
    address: String,
    /// Of one that the worker was moved away from.
    former: Option<Former>,
    is_connected: bool,
    /// When the next heartbeat is due.
    heartbeat_due: Instant,
    /// When the link is opened anew unless something is heard.
    silent_at: Instant,
    /// The last deal that it says it sent on this connection.
    last_deal: u64,
    /// How far away it is: it deals that much more ahead.
    round_trip: RoundTrip,
}

/// The balancers of the group.
#[derive(Clone, Debug, Default)]
pub(super) struct Balancers {
    balancers: Vec<Balancer>,
    /// One of them fell silent since this was last asked.
    is_one_silent: bool,
}

impl Balancers {
    /// The balancers of the group, without those of groups before.
    fn current(&self) -> impl Iterator<Item = &Balancer> {
        self.balancers.iter().filter(|balancer| balancer.former.is_none())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.current().next().is_none()
    }

    /// True where a balancer's place is not taken, as far as the masters told.
    pub(super) fn is_short(&self) -> bool {
        self.current().count() < SEATS
    }

    /// True where no balancer of the group is there: the group may be gone.
    pub(super) fn are_all_gone(&self) -> bool {
        !self.current().any(|balancer| balancer.is_connected)
    }

    /// True once after a balancer fell silent: the masters may know another one.
    pub(super) fn take_silent(&mut self) -> bool {
        std::mem::take(&mut self.is_one_silent)
    }

    /// The worker belongs to another group from now on: the balancers up to now are of the one
    /// `before`. Those that do not answer are left at once.
    pub(super) fn leave(
        &mut self,
        now: Instant,
        before: Membership,
        network: &mut Vec<NetworkEffect>,
    ) {
        self.balancers.retain_mut(|balancer| {
            if balancer.former.is_none() {
                let former = Former { membership: before, tell_until: now + HEARTBEAT };
                balancer.former = Some(former);
                balancer.heartbeat_due = now;
            }
            if !balancer.is_connected {
                network.push(NetworkEffect::Close { link: balancer.link });
            }
            balancer.is_connected
        });
    }

    /// Takes over the group's addresses: links to those that are new, none to those that are gone.
    pub(super) fn set_addresses(
        &mut self,
        now: Instant,
        addresses: &str,
        network: &mut Vec<NetworkEffect>,
    ) {
        let named = addresses.split(',').filter(|address| !address.is_empty());
        let named: Vec<&str> = named.take(MOST).collect();
        self.balancers.retain_mut(|balancer| {
            let is_named = named.contains(&balancer.address.as_str());
            if is_named && balancer.former.take().is_some() {
                balancer.heartbeat_due = now;
            }
            let is_kept = is_named || balancer.former.is_some();
            if !is_kept {
                network.push(NetworkEffect::Close { link: balancer.link });
            }
            is_kept
        });
        for address in named {
            if self.balancers.iter().any(|balancer| balancer.address == address) {
                continue;
            }
            let Some(link) = self.free_link(network) else { break };
            network.push(NetworkEffect::Open { link, address: address.to_owned() });
            self.balancers.push(Balancer {
                link,
                address: address.to_owned(),
                former: None,
                is_connected: false,
                heartbeat_due: now,
                silent_at: now + SILENCE,
                last_deal: 0,
                round_trip: RoundTrip::default(),
            });
        }
    }

    /// A link that is not used; that of the balancer that was left longest ago, where all are.
    fn free_link(&mut self, network: &mut Vec<NetworkEffect>) -> Option<Link> {
        if self.balancers.len() >= MOST {
            let left = self.balancers.iter().enumerate();
            let left = left.filter_map(|(at, it)| Some((it.former?.membership.assignment, at)));
            let (_, at) = left.min()?;
            network.push(NetworkEffect::Close { link: self.balancers.remove(at).link });
        }
        let is_used = |link: &u32| self.balancers.iter().any(|known| known.link.0 == *link);
        (FIRST_LINK..LINKS_END).find(|link| !is_used(link)).map(Link)
    }

    /// True for the link of a balancer of this group, or of one before.
    pub(super) fn has(&self, link: Link) -> bool {
        self.balancers.iter().any(|balancer| balancer.link == link)
    }

    /// A balancer accepted the link; one that was restarted numbers its deals from 1 again.
    pub(super) fn connected(&mut self, now: Instant, link: Link) {
        if let Some(balancer) = self.of(link) {
            balancer.is_connected = true;
            balancer.last_deal = 0;
            balancer.round_trip.connected();
            balancer.heartbeat_due = now;
            balancer.silent_at = now + SILENCE;
        }
    }

    /// A balancer does not want this worker at present: it is asked again later.
    pub(super) fn refused(&mut self, now: Instant, link: Link, network: &mut Vec<NetworkEffect>) {
        if let Some(balancer) = self.of(link) {
            balancer.is_connected = false;
            balancer.silent_at = now + SILENCE;
            network.push(NetworkEffect::Close { link });
        }
        // What was left is not asked again.
        self.balancers.retain(|balancer| balancer.link != link || balancer.former.is_none());
    }

    /// A balancer answered a heartbeat.
    pub(super) fn answered(&mut self, now: Instant, link: Link, last_deal: u64) {
        if let Some(balancer) = self.of(link) {
            balancer.silent_at = now + SILENCE;
            balancer.last_deal = last_deal;
            balancer.round_trip.answered(now);
        }
    }

    /// Where the worker belonged when the balancer behind this link was its own; `None` where it
    /// is of its group.
    pub(super) fn former(&mut self, link: Link) -> Option<&mut Membership> {
        let former = self.of(link)?.former.as_mut()?;
        Some(&mut former.membership)
    }

    /// Something that they must know changed: no waiting for the next heartbeat.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.balancers.iter_mut().for_each(|balancer| balancer.heartbeat_due = now);
    }

    fn of(&mut self, link: Link) -> Option<&mut Balancer> {
        self.balancers.iter_mut().find(|balancer| balancer.link == link)
    }

    /// Sends a record to all that accepted the link.
    pub(super) fn send_all(&self, record: &[u8], network: &mut Vec<NetworkEffect>) {
        let connected = self.balancers.iter().filter(|balancer| balancer.is_connected);
        network.extend(connected.map(|balancer| {
            let to = Peer::Link(balancer.link);
            NetworkEffect::Send { to, record: record.to_vec() }
        }));
    }

    pub(super) fn tick(
        &mut self,
        now: Instant,
        heartbeat: &Heartbeat,
        held: &Held,
        network: &mut Vec<NetworkEffect>,
    ) {
        self.balancers.retain_mut(|balancer| {
            let is_over = balancer.is_over(now, held);
            if is_over {
                network.push(NetworkEffect::Close { link: balancer.link });
            }
            !is_over
        });
        for balancer in &mut self.balancers {
            if now >= balancer.silent_at {
                self.is_one_silent = true;
                balancer.is_connected = false;
                balancer.silent_at = now + SILENCE;
                let address = balancer.address.clone();
                network.push(NetworkEffect::Open { link: balancer.link, address });
            }
            if balancer.is_connected && now >= balancer.heartbeat_due {
                balancer.heartbeat_due = now + HEARTBEAT;
                balancer.round_trip.asked(now);
                let record = heartbeat.record(balancer, held);
                network.push(NetworkEffect::Send { to: Peer::Link(balancer.link), record });
            }
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let due = |balancer: &Balancer| match balancer.is_connected {
            true => balancer.heartbeat_due.min(balancer.silent_at),
            false => balancer.silent_at,
        };
        self.balancers.iter().map(due).min()
    }
}

impl Balancer {
    /// True where it is of a group before, and has nothing more to hear: it was told that the
    /// worker was moved and what became of all that it dealt, or it does not answer.
    fn is_over(&mut self, now: Instant, held: &Held) -> bool {
        let Some(former) = &mut self.former else { return false };
        if now >= self.silent_at {
            return true;
        }
        if now < self.heartbeat_due {
            return false;
        }
        if held.holds_up_to(former.membership.assignment) {
            former.tell_until = now + HEARTBEAT;
        }
        now >= former.tell_until
    }
}

impl Heartbeat {
    /// What a balancer is told: one that was left, of the group that was left.
    fn record(&self, balancer: &Balancer, held: &Held) -> Vec<u8> {
        let (membership, refusing) = match balancer.former {
            Some(former) => (former.membership, MOVED),
            None => (self.membership, self.refusing),
        };
        let (runs, foreign_count) = held.inventory_for(membership.assignment);
        let round_trip = balancer.round_trip.mean().unwrap_or_default();
        let message = WorkerHeartbeat {
            worker_incarnation: self.incarnation.0,
            assignment: membership.assignment,
            epoch: membership.epoch.0,
            deal_echo: balancer.last_deal,
            slot_count: self.slot_count,
            free_slot_count: self.free_slot_count,
            cpu_milli: self.cpu_milli,
            memory_bytes: self.memory_bytes,
            refusing,
            group: membership.group,
            foreign_count,
            round_trip_us: round_trip.as_micros(),
            ..WorkerHeartbeat::default()
        };
        encode(&message, &[bytes_of(&runs)])
    }
}
