//! The peers that connected to this node: strangers until their `hello`, then sessions.

use proto::catalogue::PROTOCOL_VERSION;
use proto::ids::{Generation, Incarnation, RequestId};
use proto::messages::session::{Hello, HelloReply};
use proto::record::{Envelope, Message, Record, RecordError, Records, encode};
use proto::status::{ErrorCode, Role};

use super::{
    ANSWERED_ERRORS_PER_FRAME, Admission, Deliver, Heard, Inbound, NetworkEvent, Outgoing, Peer,
    RoutingId, Sender, Sessions, claimed_type, is_error_reply, mismatch,
};
use crate::logic::outgoing::Packing;
use crate::logic::refusal::{Refusal, read_text};

/// Bytes that may wait for a peer that never said `hello`; room for one answer of any size.
const STRANGER_BYTES: usize = 1 << 20;

/// Bytes that may wait for a client of a master or balancer, which send it listings and no files: a
/// window of requests for them. Clients are many, and one that never reads must not cost much.
const CLIENT_BYTES: usize = 16 << 20;

#[derive(Debug)]
pub(super) struct InboundState {
    pub(super) route: RoutingId,
    pub(super) outgoing: Outgoing,
    /// `None` for a stranger: it may ask in the given forms, nothing else.
    pub(super) session: Option<Session>,
    /// Number of the frame that was heard last.
    heard_at: u64,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Session {
    pub(super) sender: Sender,
    heard: Heard,
}

impl InboundState {
    pub(super) fn idle_key(&self, inbound: Inbound) -> (bool, u64, Inbound) {
        let of_tier = self.session.is_some_and(|it| it.sender.role != Role::Client);
        (of_tier, self.heard_at, inbound)
    }
}

impl Sessions {
    pub(super) fn receive_inbound(&mut self, id: &[u8], frame: &[u8], deliver: &mut Deliver<'_>) {
        self.frames_heard += 1;
        self.touch(id);
        let mut errors = 0;
        for record in Records::of(frame) {
            let handled = record.and_then(|it| self.record_inbound(id, &it, deliver));
            let Err(error) = handled else { continue };
            self.counters.malformed.count(error);
            errors += 1;
            let refused_type = claimed_type(error);
            if !is_error_reply(refused_type) {
                let code = match error {
                    RecordError::UnknownType { .. } => ErrorCode::UnknownType,
                    RecordError::TooLong { .. } => ErrorCode::TooLarge,
                    _ => ErrorCode::Malformed,
                };
                let refusal = Refusal::new(code, refused_type, error.to_string());
                self.refuse(id, RequestId(0), &refusal, deliver);
            }
            if errors == ANSWERED_ERRORS_PER_FRAME {
                self.counters.abandoned_frames += 1;
                return;
            }
        }
    }

    fn record_inbound(
        &mut self,
        id: &[u8],
        record: &Record<'_>,
        deliver: &mut Deliver<'_>,
    ) -> Result<(), RecordError> {
        if record.message_type() == Hello::TYPE {
            return self.hello(id, record, deliver);
        }
        let known = self.routes.get(id).and_then(|it| self.inbound.get_mut(it));
        let Some(session) = known.and_then(|it| it.session.as_mut()) else {
            self.record_of_stranger(id, record, deliver);
            return Ok(());
        };
        let sender = session.sender;
        if record.node() != sender.node {
            self.counters.other_node += 1;
            if !is_error_reply(record.message_type()) {
                let text = format!(
                    "this connection is {}'s; a record of {} does not belong on it",
                    sender.node,
                    record.node()
                );
                let refused_type = record.message_type();
                let refusal = Refusal::new(ErrorCode::NotAllowed, refused_type, text);
                self.refuse(id, record.request_id(), &refusal, deliver);
            }
            return Ok(());
        }
        // Given forms have no place for numbers, answers to what could not be read have zeros.
        let uncounted = record.envelope().generation == 0
            && (record.is_given_form() || is_error_reply(record.message_type()));
        if !uncounted {
            match session.heard.admit(record.envelope()) {
                Admission::Next { missing } => self.counters.note_missing(missing),
                Admission::Repeated => {
                    self.counters.repeated += 1;
                    return Ok(());
                }
                Admission::OldGeneration => {
                    self.counters.old_generation += 1;
                    return Ok(());
                }
                Admission::NewGeneration => {
                    self.refuse_without_hello(id, record, deliver);
                    return Ok(());
                }
            }
        }
        self.deliver_record(sender, *record, deliver);
        Ok(())
    }

    fn record_of_stranger(&mut self, id: &[u8], record: &Record<'_>, deliver: &mut Deliver<'_>) {
        if self.is_of_earlier_connection(record) {
            self.counters.old_generation += 1;
        } else if record.is_given_form() {
            let inbound = self.inbound_at(id, deliver);
            let sender = Sender {
                peer: Peer::Inbound(inbound),
                node: record.node(),
                role: Role::Client,
                incarnation: Incarnation(0),
            };
            self.deliver_record(sender, *record, deliver);
        } else {
            self.refuse_without_hello(id, record, deliver);
        }
    }

    /// After a reconnection the socket may hand out the rest of the old connection under a routing
    /// id of its own making.
    fn is_of_earlier_connection(&self, record: &Record<'_>) -> bool {
        let newest = self.nodes.get(&record.node()).and_then(|it| self.inbound.get(it));
        let newest = newest.and_then(|it| it.session);
        let generation = Generation(record.envelope().generation);
        generation.0 != 0 && newest.is_some_and(|it| generation < it.heard.generation)
    }

    fn refuse_without_hello(&mut self, id: &[u8], record: &Record<'_>, deliver: &mut Deliver<'_>) {
        self.counters.without_hello += 1;
        if is_error_reply(record.message_type()) {
            return;
        }
        let text = format!("this {} does not know you: say hello first", self.identity.role);
        let refusal = Refusal::new(ErrorCode::HelloFirst, record.message_type(), text);
        self.refuse(id, record.request_id(), &refusal, deliver);
    }

    fn refuse(
        &mut self,
        id: &[u8],
        request: RequestId,
        refusal: &Refusal,
        deliver: &mut Deliver<'_>,
    ) {
        let inbound = self.inbound_at(id, deliver);
        self.send(Peer::Inbound(inbound), refusal.to_record(request));
    }

    fn hello(
        &mut self,
        id: &[u8],
        record: &Record<'_>,
        deliver: &mut Deliver<'_>,
    ) -> Result<(), RecordError> {
        let (hello, [version, address]) = record.open::<Hello, 2>()?;
        let wrong = RecordError::Value { message_type: Hello::TYPE, field: "role" };
        let role = Role::from_wire(hello.role).ok_or(wrong)?;
        if self.is_of_earlier_connection(record) {
            self.counters.old_generation += 1;
            return Ok(());
        }
        let cluster = hello.cluster_uuid.into();
        if let Some((code, text)) = mismatch(&self.identity, role, hello.protocol_version, cluster)
        {
            self.counters.hellos_refused += 1;
            let refusal = Refusal::new(code, Hello::TYPE, text);
            self.refuse(id, record.request_id(), &refusal, deliver);
            return Ok(());
        }
        let heard = Heard::from(record.envelope());
        let node = record.node();
        let existing = self.routes.get(id).copied();
        let session = existing.and_then(|it| self.inbound.get_mut(&it)?.session.as_mut());
        if let (Some(inbound), Some(session)) = (existing, session) {
            let same_connection = session.sender.node == node
                && heard.generation.0 != 0
                && session.heard.generation == heard.generation;
            if same_connection {
                match session.heard.admit(record.envelope()) {
                    Admission::Next { missing } => self.counters.note_missing(missing),
                    Admission::Repeated | Admission::OldGeneration | Admission::NewGeneration => {
                        self.counters.repeated += 1;
                        return Ok(());
                    }
                }
                self.answer_hello(inbound, record.request_id());
                return Ok(());
            }
            self.forget_inbound(inbound, deliver);
        }
        if heard.generation.0 != 0
            && let Some(older) = self.nodes.get(&node).copied()
        {
            self.forget_inbound(older, deliver);
        }
        let inbound = self.inbound_at(id, deliver);
        let incarnation = Incarnation(hello.incarnation);
        let sender = Sender { peer: Peer::Inbound(inbound), node, role, incarnation };
        self.begin_session(inbound, Session { sender, heard });
        self.answer_hello(inbound, record.request_id());
        let (address, version) = (read_text(address), read_text(version));
        deliver(NetworkEvent::Joined { sender, address, version });
        Ok(())
    }

    fn begin_session(&mut self, inbound: Inbound, session: Session) {
        let generation = self.next_generation();
        let Some(state) = self.inbound.get_mut(&inbound) else { return };
        let counts = session.heard.generation.0 != 0;
        let packing = if counts { Packing::Packed } else { Packing::Single };
        let limit = match (self.identity.role, session.sender.role) {
            (Role::Master | Role::Balancer, Role::Client) => {
                self.limits.queued_bytes.min(CLIENT_BYTES)
            }
            _ => self.limits.queued_bytes,
        };
        state.outgoing.begin_session(generation, packing, limit);
        self.idle.remove(&state.idle_key(inbound));
        state.session = Some(session);
        self.idle.insert(state.idle_key(inbound));
        if counts {
            self.nodes.insert(session.sender.node, inbound);
        }
    }

    pub(super) fn answer_hello(&mut self, inbound: Inbound, request: RequestId) {
        let reply = HelloReply {
            envelope: Envelope { request_id: request.0, ..Default::default() },
            protocol_version: PROTOCOL_VERSION,
            role: self.identity.role.to_wire(),
            cluster_uuid: self.identity.cluster.to_wire(),
            incarnation: self.identity.incarnation.0,
            applied_index: self.greeting.applied_index.0,
            window: self.greeting.window,
            ..Default::default()
        };
        let parts = [self.identity.version.as_bytes(), self.greeting.masters.as_bytes()];
        let record = encode(&reply, &parts);
        self.send(Peer::Inbound(inbound), record);
    }

    /// The peer of a routing id; a new stranger where none is known, for whom another may have to
    /// be forgotten.
    fn inbound_at(&mut self, id: &[u8], deliver: &mut Deliver<'_>) -> Inbound {
        if let Some(inbound) = self.routes.get(id) {
            return *inbound;
        }
        while self.inbound.len() >= self.limits.peers.max(1)
            && let Some(&(_, _, longest_silent)) = self.idle.first()
        {
            self.counters.forgotten += 1;
            self.forget_inbound(longest_silent, deliver);
        }
        self.last_inbound += 1;
        let inbound = Inbound(self.last_inbound);
        let route = RoutingId::from_bytes(id);
        let (node, nothing) = (self.identity.node, Generation(0));
        let state = InboundState {
            route: route.clone(),
            outgoing: Outgoing::new(node, nothing, Packing::Single, STRANGER_BYTES),
            session: None,
            heard_at: self.frames_heard,
        };
        self.idle.insert(state.idle_key(inbound));
        self.routes.insert(route, inbound);
        self.inbound.insert(inbound, state);
        inbound
    }

    fn touch(&mut self, id: &[u8]) {
        let Some(inbound) = self.routes.get(id).copied() else { return };
        let Some(state) = self.inbound.get_mut(&inbound) else { return };
        self.idle.remove(&state.idle_key(inbound));
        state.heard_at = self.frames_heard;
        self.idle.insert(state.idle_key(inbound));
    }

    fn forget_inbound(&mut self, inbound: Inbound, deliver: &mut Deliver<'_>) {
        let Some(mut state) = self.inbound.remove(&inbound) else { return };
        self.idle.remove(&state.idle_key(inbound));
        self.routes.remove(&state.route);
        let peer = Peer::Inbound(inbound);
        self.ready.retain(|it| *it != peer);
        self.overflowing.retain(|it| *it != peer);
        self.counters.unroutable += state.outgoing.clear() as u64;
        if let Some(Session { sender, .. }) = state.session {
            if self.nodes.get(&sender.node) == Some(&inbound) {
                self.nodes.remove(&sender.node);
            }
            deliver(NetworkEvent::Gone { sender });
        }
    }
}
