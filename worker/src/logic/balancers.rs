//! The worker's side of its group: links to primary and auxiliary, heartbeats on both.

use node::logic::network::{Link, NetworkEffect, Peer};
use proto::ids::{Epoch, Incarnation};
use proto::messages::task::WorkerHeartbeat;
use proto::record::encode;
use proto::time::{Duration, Instant};
use proto::wire::bytes_of;

use super::held::Held;

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

/// What a heartbeat says beside the inventory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heartbeat {
    pub(super) incarnation: Incarnation,
    pub(super) assignment: u64,
    pub(super) epoch: Epoch,
    pub(super) slot_count: u32,
    pub(super) free_slot_count: u32,
    pub(super) cpu_milli: u64,
    pub(super) memory_bytes: u64,
    pub(super) refusing: u8,
}

/// One balancer of the group.
#[derive(Clone, Debug)]
struct Balancer {
    link: Link,
    address: String,
    is_connected: bool,
    /// When the next heartbeat is due.
    heartbeat_due: Instant,
    /// When the link is opened anew unless something is heard.
    silent_at: Instant,
    /// The last deal that it says it sent on this connection.
    last_deal: u64,
}

/// The balancers of the group.
#[derive(Clone, Debug, Default)]
pub(super) struct Balancers {
    balancers: Vec<Balancer>,
    /// One of them fell silent since this was last asked.
    is_one_silent: bool,
}

impl Balancers {
    pub(super) fn is_empty(&self) -> bool {
        self.balancers.is_empty()
    }

    /// True where a balancer's place is not taken, as far as the masters told.
    pub(super) fn is_short(&self) -> bool {
        self.balancers.len() < SEATS
    }

    /// True once after a balancer fell silent: the masters may know another one.
    pub(super) fn take_silent(&mut self) -> bool {
        std::mem::take(&mut self.is_one_silent)
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
        self.balancers.retain(|balancer| {
            let is_named = named.contains(&balancer.address.as_str());
            if !is_named {
                network.push(NetworkEffect::Close { link: balancer.link });
            }
            is_named
        });
        for address in named {
            if self.balancers.iter().any(|balancer| balancer.address == address) {
                continue;
            }
            let is_used = |link: &u32| self.balancers.iter().any(|known| known.link.0 == *link);
            let Some(link) = (FIRST_LINK..LINKS_END).find(|link| !is_used(link)).map(Link) else {
                break;
            };
            network.push(NetworkEffect::Open { link, address: address.to_owned() });
            self.balancers.push(Balancer {
                link,
                address: address.to_owned(),
                is_connected: false,
                heartbeat_due: now,
                silent_at: now + SILENCE,
                last_deal: 0,
            });
        }
    }

    /// True for the link of a balancer of this group.
    pub(super) fn has(&self, link: Link) -> bool {
        self.balancers.iter().any(|balancer| balancer.link == link)
    }

    /// A balancer accepted the link; one that was restarted numbers its deals from 1 again.
    pub(super) fn connected(&mut self, now: Instant, link: Link) {
        if let Some(balancer) = self.of(link) {
            balancer.is_connected = true;
            balancer.last_deal = 0;
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
    }

    /// A balancer answered a heartbeat.
    pub(super) fn answered(&mut self, now: Instant, link: Link, last_deal: u64) {
        if let Some(balancer) = self.of(link) {
            balancer.silent_at = now + SILENCE;
            balancer.last_deal = last_deal;
        }
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
                let message = WorkerHeartbeat {
                    worker_incarnation: heartbeat.incarnation.0,
                    assignment: heartbeat.assignment,
                    epoch: heartbeat.epoch.0,
                    deal_echo: balancer.last_deal,
                    slot_count: heartbeat.slot_count,
                    free_slot_count: heartbeat.free_slot_count,
                    cpu_milli: heartbeat.cpu_milli,
                    memory_bytes: heartbeat.memory_bytes,
                    refusing: heartbeat.refusing,
                    ..WorkerHeartbeat::default()
                };
                let record = encode(&message, &[bytes_of(&held.inventory())]);
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
