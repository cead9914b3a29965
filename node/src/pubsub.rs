//! Telemetry over ZeroMQ's PUB/SUB: the sockets around [`crate::logic::updates`].
//!
//! Responsible for publishing records, for receiving those of many nodes and for waiting on them.
//! A snapshot is asked for and answered over an ordinary connection of the node, which belongs to
//! whoever runs the loop: [`Subscriber`] says what to send there and is told what came back
//! ([`crate::logic::following`]). Neither side ever waits for the other: what does not fit is dropped, and the
//! numbering shows it.

use proto::catalogue::Numbered;
use proto::limits;
use proto::messages::telemetry::{TelemetryAlert, TelemetrySnapshotRequest, TelemetryStatus};
use proto::record::{RecordError, Records};
use proto::time::Instant;

use crate::exposure::{self, Exposed};
use crate::logic::following::{Following, FollowingEffect};
use crate::logic::network::{Link, NetworkEffect, NetworkEvent};
use crate::logic::updates::{AlertLevel, Publications, STATUS_BYTES, Updates};
use crate::network::Exposure;

/// Publications that wait on either side of one connection. Few: the newest status makes the older
/// ones worthless, and alerts come back with a snapshot.
const QUEUED: i32 = 64;

/// Publications that one call of [`Subscriber::receive`] takes at most.
const BUDGET: usize = 1_000;

/// Telemetry that cannot be published or received.
#[derive(Debug, thiserror::Error)]
pub enum PubSubError {
    /// The address is not one to listen at without keys.
    #[error(transparent)]
    Exposed(#[from] Exposed),
    /// ZeroMQ refuses.
    #[error("{operation} {address}")]
    Socket {
        /// What was tried.
        operation: &'static str,
        /// The address.
        address: String,
        /// What ZeroMQ says.
        source: zmq::Error,
    },
}

impl PubSubError {
    fn of(operation: &'static str, address: &str) -> impl Fn(zmq::Error) -> PubSubError {
        move |source| PubSubError::Socket { operation, address: address.to_owned(), source }
    }
}

/// Publishes what one node says of itself.
pub struct Publisher {
    socket: zmq::Socket,
    address: String,
    publications: Publications,
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Publisher {
    /// Listens for subscribers at `tcp://HOST:PORT`; port 0 takes a free one.
    ///
    /// # Errors
    /// [`PubSubError`] where the address cannot be bound, or must not be.
    pub fn bind(
        context: &zmq::Context,
        address: &str,
        exposure: Exposure,
        publications: Publications,
    ) -> Result<Publisher, PubSubError> {
        exposure::check(exposure, address)?;
        let failed = PubSubError::of("publish telemetry at", address);
        let socket = context.socket(zmq::PUB).map_err(&failed)?;
        socket.set_linger(0).map_err(&failed)?;
        socket.set_sndhwm(QUEUED).map_err(&failed)?;
        socket.set_ipv6(address.contains('[')).map_err(&failed)?;
        socket.set_handshake_ivl(5_000).map_err(&failed)?;
        socket.bind(address).map_err(&failed)?;
        let bound = socket.get_last_endpoint().map_err(&failed)?;
        let address = bound.unwrap_or_else(|_| address.to_owned());
        Ok(Publisher { socket, address, publications })
    }

    /// Where it listens, with the port that was taken.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Publishes what the node says of itself: a JSON object of at most
    /// [`STATUS_BYTES`], to be called when something changed and at least every
    /// two seconds.
    ///
    /// # Panics
    /// If it is larger.
    pub fn status(&mut self, json: &[u8]) {
        publish(&self.socket, self.publications.status(json));
    }

    /// Publishes and keeps something that a person should know.
    pub fn alert(&mut self, level: AlertLevel, text: &str) {
        publish(&self.socket, self.publications.alert(level, text));
    }

    /// The answer to whoever missed publications and asks for a snapshot; `None` for everything
    /// else that happens on the node's ordinary connections.
    #[must_use]
    pub fn answer(&self, event: &NetworkEvent<'_>) -> Option<NetworkEffect> {
        let NetworkEvent::Record { sender, record } = event else { return None };
        let is_asked = record.message_type() == TelemetrySnapshotRequest::NUMBER;
        is_asked.then(|| NetworkEffect::Send {
            to: sender.peer,
            record: self.publications.snapshot(record.request_id()),
        })
    }
}

fn publish(socket: &zmq::Socket, record: &[u8]) {
    // A PUB socket drops what a subscriber has no room for; whatever else should keep a record from
    // being sent, subscribers see it as a gap and ask.
    if let Err(error) = socket.send(record, zmq::DONTWAIT) {
        tracing::debug!(%error, "a publication was not sent");
    }
}

/// Receives what many nodes publish.
pub struct Subscriber {
    socket: zmq::Socket,
    following: Following,
    malformed: u64,
}

impl std::fmt::Debug for Subscriber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscriber").field("following", &self.following).finish_non_exhaustive()
    }
}

impl Subscriber {
    /// Subscribes to nobody yet.
    ///
    /// # Errors
    /// [`PubSubError`] where there is no socket to be had.
    pub fn new(context: &zmq::Context) -> Result<Subscriber, PubSubError> {
        let failed = PubSubError::of("make a socket for", "telemetry");
        let socket = context.socket(zmq::SUB).map_err(&failed)?;
        socket.set_linger(0).map_err(&failed)?;
        socket.set_rcvhwm(QUEUED).map_err(&failed)?;
        socket.set_ipv6(true).map_err(&failed)?;
        socket.set_reconnect_ivl(100).map_err(&failed)?;
        socket.set_reconnect_ivl_max(5_000).map_err(&failed)?;
        socket.set_handshake_ivl(5_000).map_err(&failed)?;
        let largest = STATUS_BYTES + limits::FIXED_PART_BYTES;
        socket.set_maxmsgsize(largest as i64).map_err(&failed)?;
        // Against connections that are dead without having been closed: nothing is ever sent on
        // this one that would notice.
        socket.set_heartbeat_ivl(2_000).map_err(&failed)?;
        socket.set_heartbeat_timeout(6_000).map_err(&failed)?;
        for topic in [TelemetryStatus::NUMBER, TelemetryAlert::NUMBER] {
            socket.set_subscribe(&[topic]).map_err(&failed)?;
        }
        Ok(Subscriber { socket, following: Following::new(), malformed: 0 })
    }

    /// Begins to follow a node: receives what it publishes at `telemetry` and asks at `address`, its
    /// ordinary port, for what it missed, over `link`, which is used for nothing else. Goes on until
    /// [`Subscriber::forget`], however often the node goes away and comes back.
    ///
    /// # Errors
    /// [`PubSubError`] where an address makes no sense.
    pub fn follow(
        &mut self,
        telemetry: &str,
        link: Link,
        address: &str,
        effects: &mut Vec<FollowingEffect>,
    ) -> Result<(), PubSubError> {
        let failed = PubSubError::of("receive telemetry of", telemetry);
        self.socket.connect(telemetry).map_err(failed)?;
        self.following.follow(link, address.to_owned(), effects);
        Ok(())
    }

    /// Follows a node no longer.
    ///
    /// # Errors
    /// [`PubSubError`] where nothing is received from `telemetry`; the rest is done all the same.
    pub fn forget(
        &mut self,
        telemetry: &str,
        link: Link,
        effects: &mut Vec<FollowingEffect>,
    ) -> Result<(), PubSubError> {
        self.following.forget(link, effects);
        let failed = PubSubError::of("receive no more telemetry of", telemetry);
        self.socket.disconnect(telemetry).map_err(failed)
    }

    /// Takes what has arrived, up to a budget, and what is due by now. True where there may be
    /// more, so that the loop comes back without waiting.
    pub fn receive(&mut self, now: Instant, effects: &mut Vec<FollowingEffect>) -> bool {
        self.following.tick(now, effects);
        for _ in 0..BUDGET {
            let Ok(frame) = self.socket.recv_msg(zmq::DONTWAIT) else {
                return false;
            };
            for record in Records::of(&frame) {
                let taken =
                    record.and_then(|record| self.following.publication(now, &record, effects));
                self.count(taken.err());
            }
        }
        true
    }

    /// Something came from the network. True where it belongs to a link of this subscriber.
    pub fn network(
        &mut self,
        now: Instant,
        event: &NetworkEvent<'_>,
        effects: &mut Vec<FollowingEffect>,
    ) -> bool {
        let taken = self.following.network(now, event, effects);
        let ours = taken.as_ref().map_or(true, |ours| *ours);
        self.count(taken.err());
        ours
    }

    /// When [`Subscriber::receive`] wants to be called although nothing arrived.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.following.next_deadline()
    }

    /// For waiting together with other sockets, with [`zmq::poll`].
    #[must_use]
    pub fn as_poll_item(&self) -> zmq::PollItem<'_> {
        self.socket.as_poll_item(zmq::POLLIN)
    }

    /// Numbers, gaps and requests so far.
    #[must_use]
    pub fn updates(&self) -> &Updates {
        self.following.updates()
    }

    /// Records that were none.
    #[must_use]
    pub fn malformed(&self) -> u64 {
        self.malformed
    }

    fn count(&mut self, wrong: Option<RecordError>) {
        if let Some(error) = wrong {
            self.malformed += 1;
            tracing::debug!(%error, "malformed telemetry");
        }
    }
}
