//! stub: scratch
use super::{Request, Start, Event, Note};
use super::edge::Edge;
use proto::time::Instant;
use node::logic::network::*;
use proto::ids::*;
use proto::status::*;
use proto::messages::keyspace::*;
use proto::messages::session::*;
use proto::record::*;
use crate::bank::*;
use crate::checkers::history::Applied;
#[derive(Debug)]
pub(crate) struct Job;
#[derive(Debug)]
pub(crate) struct Done;
pub(crate) struct MemberProcess { edge: Edge, place: usize, bank: Bank, index: u64 }
impl MemberProcess {
    pub(crate) fn start(place: usize, start: &Start<'_>, _requests: &mut Vec<Request>) -> Result<MemberProcess, String> {
        let identity = Identity { node: NodeId(1000 + place as u128), role: Role::Master, cluster: ClusterId(7), incarnation: Incarnation(start.life), version: String::new(), address: String::new() };
        Ok(MemberProcess { edge: Edge::new(identity, start.limits), place, bank: Bank::default(), index: 0 })
    }
    pub(crate) fn edge(&mut self) -> &mut Edge { &mut self.edge }
    pub(crate) fn handle(&mut self, now: Instant, event: Event<'_>, requests: &mut Vec<Request>) {
        let mut got = Vec::new();
        match event {
            Event::Arrived { source, frame } => self.edge.receive(now, &source, frame, |event| if let NetworkEvent::Record { sender, record } = event {
                if let Ok((_, [_, _, bytes])) = record.open::<KeyTransaction, 3>() {
                    got.push((sender.peer, record.request_id(), Transfer::decode(bytes).unwrap()));
                }
            }),
            Event::Tick => self.edge.tick(now, |_| ()),
            _ => {}
        }
        for (peer, id, transfer) in got {
            let mut record = if self.place == 0 {
                self.index += 1;
                let (answer, _) = self.bank.apply(self.index, transfer);
                requests.push(Request::Note(Note::Applied(Applied { index: self.index, log_time: Instant(0), command: transfer.encode(), state: self.bank.digest() })));
                encode(&KeyEntry::default(), &[&[], &answer.encode()])
            } else {
                encode(&ErrorReply { code: ErrorCode::NoLeader.to_wire(), ..Default::default() }, &[b"no", b""])
            };
            set_request_id(&mut record, id);
            self.edge.perform(now, NetworkEffect::Send { to: peer, record }, requests);
        }
    }
    pub(crate) fn work(&mut self, _job: Job) -> Done { Done }
    pub(crate) fn next_deadline(&self) -> Option<Instant> { self.edge.next_deadline() }
    pub(crate) fn check_invariants(&self) { self.edge.check_invariants() }
    pub(crate) fn describe(&self) -> String { "stub".into() }
    pub(crate) fn has_reached(&self, wanted: (u64, u64)) -> bool { self.place > 0 || self.index == wanted.0 }
}
