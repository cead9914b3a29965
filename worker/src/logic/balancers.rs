//! The worker's side of its group: links to primary and auxiliary, heartbeats on both.

use node::logic::network::{Link, NetworkEffect, Peer};
use proto::ids::{Epoch, Incarnation};
use proto::messages::task::WorkerHeartbeat;
use proto::record::encode;
use proto::time::{Duration, Instant};
use proto::wire::bytes_of;

use super::held::Held;

/// How often a balancer hears of a worker that has nothing else to say.
const HEARTBEAT: Duration = Duration::from_millis(500);

/// How long a balancer may be silent before the link to it is opened anew.
const SILENCE: Duration = Duration::from_millis(3_000);

/// The first of the two links; the master's is below it.
const FIRST_LINK: u32 = 1;

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
}

impl Balancers {
    pub(super) fn is_empty(&self) -> bool {
        self.balancers.is_empty()
    }

    /// Takes over the group's addresses: links to those that are new, none to those that are gone.
    pub(super) fn set_addresses(
        &mut self,
        now: Instant,
        addresses: &str,
        network: &mut Vec<NetworkEffect>,
    ) {
        let named: Vec<&str> = addresses.split(',').filter(|address| !address.is_empty()).collect();
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
            let link = (FIRST_LINK..).find(|link| !is_used(link)).map_or(Link(FIRST_LINK), Link);
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

    /// A balancer accepted the link; one that was restarted numbers its deals from 1 again.
    pub(super) fn connected(&mut self, link: Link) {
        if let Some(balancer) = self.of(link) {
            balancer.is_connected = true;
            balancer.last_deal = 0;
            balancer.heartbeat_due = Instant(0);
        }
    }

    pub(super) fn refused(&mut self, now: Instant, link: Link, network: &mut Vec<NetworkEffect>) {
        if let Some(balancer) = self.of(link) {
            balancer.is_connected = false;
            balancer.silent_at = now + SILENCE;
            network.push(NetworkEffect::Close { link });
        }
    }

    pub(super) fn answered(&mut self, now: Instant, link: Link, last_deal: u64) {
        if let Some(balancer) = self.of(link) {
            balancer.silent_at = now + SILENCE;
            balancer.last_deal = last_deal;
        }
    }

    fn of(&mut self, link: Link) -> Option<&mut Balancer> {
        self.balancers.iter_mut().find(|balancer| balancer.link == link)
    }

    /// The balancers that can be told something.
    pub(super) fn peers(&self) -> impl Iterator<Item = Peer> + '_ {
        let connected = self.balancers.iter().filter(|balancer| balancer.is_connected);
        connected.map(|balancer| Peer::Link(balancer.link))
    }

    pub(super) fn send_all(&self, record: &[u8], network: &mut Vec<NetworkEffect>) {
        network.extend(
            self.peers().map(|to| NetworkEffect::Send { to, record: record.to_vec() }),
        );
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
