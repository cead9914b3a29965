//! The links that this node opened: `hello` until it is answered, and what may come back.

use proto::catalogue::PROTOCOL_VERSION;
use proto::ids::{Generation, Incarnation, LogIndex};
use proto::messages::session::{Hello, HelloReply};
use proto::record::{Envelope, Message, Record, RecordError, Records, encode};
use proto::status::{ErrorCode, Role};
use proto::time::Instant;

use super::{
    ANSWERED_ERRORS_PER_FRAME, Admission, Deliver, HELLO_AGAIN, Heard, Link, NetworkEvent,
    Outgoing, Peer, Sender, Sessions, SocketChange, is_error_reply, mismatch,
};
use crate::logic::outgoing::Packing;
use crate::logic::refusal::{Refusal, read_text};

#[derive(Debug)]
pub(super) struct LinkState {
    pub(super) outgoing: Outgoing,
    state: State,
    /// The node that answered last, and what was heard of it. A node that was restarted in its
    /// place has a higher generation, another node has its own.
    peer: Option<(Sender, Heard)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// `hello` was said and is not answered; it is said again at the instant.
    Greeting {
        again: Instant,
    },
    Connected,
    Refused,
}

impl Sessions {
    pub(super) fn open(&mut self, now: Instant, link: Link, address: String) -> SocketChange {
        self.forget_link(link);
        let generation = self.next_generation();
        let queue = self.limits.queued_bytes;
        let outgoing = Outgoing::new(self.identity.node, generation, Packing::Packed, queue);
        let state = State::Greeting { again: now };
        self.links.insert(link, LinkState { outgoing, state, peer: None });
        self.say_hello(now, link);
        SocketChange::Open { link, generation, address }
    }

    pub(super) fn close(&mut self, link: Link) -> Option<SocketChange> {
        let mut state = self.forget_link(link)?;
        let last_frames = std::iter::from_fn(|| state.outgoing.pop()).collect();
        Some(SocketChange::Close { link, last_frames })
    }

    fn forget_link(&mut self, link: Link) -> Option<LinkState> {
        let state = self.links.remove(&link)?;
        if let State::Greeting { again } = state.state {
            self.hello_due.remove(&(again, link));
        }
        let peer = Peer::Link(link);
        self.ready.retain(|it| *it != peer);
        self.overflowing.retain(|it| *it != peer);
        self.unopened.retain(|(it, _)| *it != link);
        Some(state)
    }

    fn set_state(&mut self, link: Link, new: State) {
        let Some(state) = self.links.get_mut(&link) else { return };
        if let State::Greeting { again } = state.state {
            self.hello_due.remove(&(again, link));
        }
        if let State::Greeting { again } = new {
            self.hello_due.insert((again, link));
        }
        state.state = new;
    }

    fn say_hello(&mut self, now: Instant, link: Link) {
        let identity = &self.identity;
        let hello = Hello {
            // Any number serves: a link waits for one answer, whichever hello it answers.
            envelope: Envelope { request_id: 1, ..Default::default() },
            protocol_version: PROTOCOL_VERSION,
            role: identity.role.to_wire(),
            cluster_uuid: identity.cluster.to_wire(),
            incarnation: identity.incarnation.0,
            ..Default::default()
        };
        let parts = [identity.version.as_bytes(), identity.address.as_bytes()];
        let record = encode(&hello, &parts);
        self.send(Peer::Link(link), record);
        self.set_state(link, State::Greeting { again: now + HELLO_AGAIN });
    }

    pub(super) fn repeat_hellos(&mut self, now: Instant) {
        while let Some(&(due, link)) = self.hello_due.first()
            && due <= now
        {
            // A hello that has not left yet needs no second one.
            if self.queued_bytes(Peer::Link(link)) == 0 {
                self.say_hello(now, link);
            } else {
                self.set_state(link, State::Greeting { again: now + HELLO_AGAIN });
            }
        }
    }

    pub(super) fn receive_on_link(
        &mut self,
        now: Instant,
        link: Link,
        generation: Generation,
        frame: &[u8],
        deliver: &mut Deliver<'_>,
    ) {
        let mut errors = 0;
        for record in Records::of(frame) {
            // Looked up for each record: what it delivers may not, but what it does may change it.
            let current = self.links.get(&link).map(|it| it.outgoing.generation());
            if current != Some(generation) {
                self.counters.old_generation += 1;
                return;
            }
            let handled = record.and_then(|it| self.record_on_link(now, link, &it, deliver));
            // Nothing is answered: whoever sent it is a node that this one chose to ask.
            if let Err(error) = handled {
                self.counters.malformed.count(error);
                errors += 1;
                if errors == ANSWERED_ERRORS_PER_FRAME {
                    self.counters.abandoned_frames += 1;
                    return;
                }
            }
        }
    }

    fn record_on_link(
        &mut self,
        now: Instant,
        link: Link,
        record: &Record<'_>,
        deliver: &mut Deliver<'_>,
    ) -> Result<(), RecordError> {
        if record.message_type() == HelloReply::TYPE {
            return self.hello_reply(link, record, deliver);
        }
        let Some(state) = self.links.get(&link).map(|it| it.state) else { return Ok(()) };
        if is_error_reply(record.message_type()) {
            let refusal = Refusal::from_record(record)?;
            if refusal.code == ErrorCode::HelloFirst {
                self.hello_first(now, link, state);
                return Ok(());
            }
            if refusal.refused_type == Hello::TYPE {
                self.refused(link, refusal.code, refusal.text, deliver);
                return Ok(());
            }
        }
        let known = self.links.get_mut(&link).and_then(|it| it.peer.as_mut());
        let (State::Connected, Some((sender, heard))) = (state, known) else {
            self.counters.without_hello += 1;
            return Ok(());
        };
        if record.node() != sender.node {
            self.counters.other_node += 1;
            return Ok(());
        }
        let sender = *sender;
        // An answer to what could not be read is stamped with zeros, given forms with nothing.
        if record.envelope().generation != 0 || heard.generation.0 == 0 {
            match heard.admit(record.envelope()) {
                Admission::Next { missing } => self.counters.note_missing(missing),
                Admission::Repeated => {
                    self.counters.repeated += 1;
                    return Ok(());
                }
                Admission::OldGeneration => {
                    self.counters.old_generation += 1;
                    return Ok(());
                }
                // A restarted node does not know this one and answers hello before all else.
                Admission::NewGeneration => {
                    self.counters.without_hello += 1;
                    return Ok(());
                }
            }
        } else if !record.is_given_form() && !is_error_reply(record.message_type()) {
            self.counters.old_generation += 1;
            return Ok(());
        }
        self.deliver_record(sender, *record, deliver);
        Ok(())
    }

    fn hello_first(&mut self, now: Instant, link: Link, state: State) {
        self.counters.without_hello += 1;
        // Whatever was underway when the node was restarted is refused one by one; one hello
        // answers all. If that one is lost as well, `repeat_hellos` says it again.
        if state == State::Connected {
            self.say_hello(now, link);
        }
    }

    pub(super) fn refused(
        &mut self,
        link: Link,
        code: ErrorCode,
        text: String,
        deliver: &mut Deliver<'_>,
    ) {
        self.set_state(link, State::Refused);
        deliver(NetworkEvent::Refused { link, code, text });
    }

    fn hello_reply(
        &mut self,
        link: Link,
        record: &Record<'_>,
        deliver: &mut Deliver<'_>,
    ) -> Result<(), RecordError> {
        let (reply, [version, masters]) = record.open::<HelloReply, 2>()?;
        let message_type = HelloReply::TYPE;
        let wrong = RecordError::Value { message_type, field: "role" };
        let role = Role::from_wire(reply.role).ok_or(wrong)?;
        let cluster = reply.cluster_uuid.into();
        let mismatch = mismatch(&self.identity, role, reply.protocol_version, cluster);
        let Some(state) = self.links.get_mut(&link) else { return Ok(()) };
        let mut heard = Heard::from(record.envelope());
        let before = state.peer.filter(|(sender, _)| sender.node == record.node());
        if let Some((_, mut known)) = before {
            match known.admit(record.envelope()) {
                Admission::Next { missing } => {
                    self.counters.note_missing(missing);
                    heard = known;
                }
                Admission::NewGeneration => {}
                Admission::Repeated => {
                    self.counters.repeated += 1;
                    return Ok(());
                }
                Admission::OldGeneration => {
                    self.counters.old_generation += 1;
                    return Ok(());
                }
            }
        }
        if let Some((code, text)) = mismatch {
            self.refused(link, code, text, deliver);
            return Ok(());
        }
        let sender = Sender {
            peer: Peer::Link(link),
            node: record.node(),
            role,
            incarnation: Incarnation(reply.incarnation),
        };
        // An answer to a hello that was said twice, by a node that had not forgotten: no news.
        let is_news = state.state != State::Connected
            || before.is_none_or(|(_, known)| known.generation != heard.generation);
        let again = state.peer.replace((sender, heard)).is_some();
        self.set_state(link, State::Connected);
        if is_news {
            tracing::debug!(node = %sender.node, %role, version = %read_text(version), "connected");
            deliver(NetworkEvent::Connected {
                link,
                sender,
                cluster,
                applied_index: LogIndex(reply.applied_index),
                window: reply.window,
                masters: read_text(masters),
                again,
            });
        } else {
            deliver(NetworkEvent::Masters { link, masters: read_text(masters) });
        }
        Ok(())
    }
}
