//! `remuda nodes --follow`: what all nodes of the cluster say of themselves, as they say it.
//!
//! Subscribes to every node of the roster; what was missed is fetched from the node itself. Nodes
//! that join later are found when the roster is read again.

use std::collections::{BTreeMap, BTreeSet};

use client::logic::answers::NodeSummary;
use node::clock::{self, Clock};
use node::logic::following::FollowingEffect;
use node::logic::network::{Identity, Link};
use node::logic::updates::{AlertLevel, News, Update};
use node::network::Network;
use node::pubsub::Subscriber;
use node::stop::Stop;
use proto::ids::{ClusterId, Incarnation, NodeId};
use proto::status::Role;
use proto::time::{Duration, Instant};
use serde::Serialize;

use super::connect::{Asked, connect};
use crate::failure::Failure;
use crate::flags::Listing;
use crate::output;

/// How often the roster is read again.
const ROSTER: Duration = Duration::from_secs(5);

/// How long a publication may wait until it is printed: the network is waited for, the
/// subscription looked at.
const LOOK: Duration = Duration::from_millis(50);

/// One line for programs.
#[derive(Serialize)]
struct Line<'a> {
    node: String,
    tier: &'static str,
    incarnation: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    level: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    alert: Option<&'a str>,
}

/// Prints what the nodes say, a line each, until interrupted: all of it for programs, for people
/// what differs from what the node said before.
pub(crate) fn follow(flags: &Listing) -> Result<(), Failure> {
    let failed = |error: &dyn std::error::Error| Failure::failed(node::log::chain(error));
    let client = connect(&flags.place)?;
    let stop = Stop::on_signals().map_err(|error| failed(&error))?;
    let clock = Clock::start();
    let identity = Identity {
        node: NodeId::from_random(node::random::bits().map_err(|error| failed(&error))?),
        role: Role::Client,
        cluster: ClusterId::default(),
        incarnation: Incarnation::default(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        address: String::new(),
    };
    let mut network = Network::client(identity, clock).map_err(|error| failed(&error))?;
    let waker = network.waker();
    stop.on_request(move || waker.wake());
    let mut subscriber = Subscriber::new(network.context()).map_err(|error| failed(&error))?;
    let mut followed: BTreeSet<String> = BTreeSet::new();
    let mut latest: BTreeMap<NodeId, Vec<u8>> = BTreeMap::new();
    let mut roster_due = Instant(0);
    let mut effects = Vec::new();
    while !stop.is_requested() {
        let now = clock.now();
        if roster_due <= now {
            roster_due = now + ROSTER;
            for node in client.nodes().asked()? {
                begin(&node, &mut followed, &mut subscriber, &mut effects)
                    .map_err(|error| failed(&error))?;
            }
        }
        let has_more = subscriber.receive(now, &mut effects);
        for effect in effects.drain(..) {
            match effect {
                FollowingEffect::Network(effect) => network.perform(effect),
                FollowingEffect::Deliver(update) => {
                    if flags.json || is_new(&update, &mut latest) {
                        print(&update, flags.json)?;
                    }
                }
            }
        }
        let until = if has_more { now } else { now + LOOK };
        network.poll(Some(until), &mut |event| {
            subscriber.network(clock.now(), &event, &mut effects);
        });
    }
    Ok(())
}

/// Follows a node that publishes and is not followed yet.
fn begin(
    node: &NodeSummary,
    followed: &mut BTreeSet<String>,
    subscriber: &mut Subscriber,
    effects: &mut Vec<FollowingEffect>,
) -> Result<(), node::pubsub::PubSubError> {
    if node.telemetry_address.is_empty() || !followed.insert(node.telemetry_address.clone()) {
        return Ok(());
    }
    let link = Link(u32::try_from(followed.len()).unwrap_or(u32::MAX));
    subscriber.follow(&node.telemetry_address, link, &node.address, effects)
}

/// True unless the node said just that before. A node says its state every second, changed or not.
fn is_new(update: &Update, latest: &mut BTreeMap<NodeId, Vec<u8>>) -> bool {
    let News::Status(status) = &update.news else { return true };
    let before = latest.insert(update.publisher, status.clone());
    before.as_ref() != Some(status)
}

/// A node's state for people: `leads=true term=2`.
fn fields(status: &str) -> String {
    let Ok(serde_json::Value::Object(fields)) = serde_json::from_str(status) else {
        return status.to_owned();
    };
    let fields = fields.iter().map(|(name, value)| format!("{name}={value}"));
    fields.collect::<Vec<_>>().join(" ")
}

fn print(update: &Update, as_json: bool) -> Result<(), Failure> {
    let (status, level, alert) = match &update.news {
        News::Status(status) => (Some(String::from_utf8_lossy(status)), None, None),
        News::Alert { level, text } => (None, Some(name_of(*level)), Some(text.as_str())),
    };
    if as_json {
        let line = Line {
            node: update.publisher.to_string(),
            tier: update.role.name(),
            incarnation: update.incarnation.0,
            status: status.and_then(|status| serde_json::from_str(&status).ok()),
            level,
            alert,
        };
        return output::json::print(&line);
    }
    let said = status.map(|status| fields(&status)).or_else(|| alert.map(str::to_owned));
    let said = said.unwrap_or_default();
    let level = level.map(|level| format!("{level}: ")).unwrap_or_default();
    let seconds = clock::time_of_day().as_micros() / 1_000_000 % 86_400;
    let (hours, minutes) = (seconds / 3_600, seconds / 60 % 60);
    output::print(&format!(
        "{hours:02}:{minutes:02}:{:02}Z  {:<8}  {}  {level}{said}\n",
        seconds % 60,
        update.role.name(),
        update.publisher,
    ))
}

fn name_of(level: AlertLevel) -> &'static str {
    match level {
        AlertLevel::Change => "change",
        AlertLevel::Unexpected => "unexpected",
        AlertLevel::Act => "act",
    }
}
