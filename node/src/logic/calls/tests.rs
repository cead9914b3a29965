//! Requests against scripted peers: time-outs, new sockets, late answers, refusals, bounds.

use proto::ids::NodeId;
use proto::messages::node::{RingQuery, RingReply};
use proto::record::{Envelope, Records, encode};
use proto::status::Role;

use super::*;
use crate::logic::network::Sender;

const LINE: Link = Link(1);

const BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(10), longest: Duration::from_millis(100) };

const POLICY: CallPolicy = CallPolicy {
    timeout: Duration::from_millis(50),
    attempts: 4,
    patience: Duration::from_secs(10),
};

/// Requests in virtual time, and what was asked of the network.
struct Asker {
    now: Instant,
    calls: Calls,
    effects: Vec<NetworkEffect>,
    failed: Vec<FailedCall>,
}

impl Asker {
    fn new(addresses: &[&str]) -> Asker {
        let limits = CallLimits { calls: 3, bytes: 10_000 };
        let mut calls = Calls::new(BACKOFF, limits, fastrand::Rng::with_seed(5));
        calls.set_line(LINE, addresses.iter().map(ToString::to_string).collect());
        Asker { now: Instant(1_000), calls, effects: Vec::new(), failed: Vec::new() }
    }

    fn call(&mut self, request: u64) -> Result<(), CallError> {
        self.call_with(request, POLICY)
    }

    fn call_with(&mut self, request: u64, policy: CallPolicy) -> Result<(), CallError> {
        let record = encode(&RingQuery::default(), &[]);
        let request = RequestId(request);
        let called = self.calls.call(self.now, request, LINE, record, policy, &mut self.effects);
        self.calls.check_invariants();
        called
    }

    fn hear(&mut self, record: &[u8]) -> Handled {
        let record = Records::of(record).next().unwrap().unwrap();
        let peer = Peer::Link(LINE);
        let sender =
            Sender { peer, node: NodeId(9), role: Role::Master, incarnation: Default::default() };
        self.event(&NetworkEvent::Record { sender, record })
    }

    fn event(&mut self, event: &NetworkEvent<'_>) -> Handled {
        let handled = self.calls.handle(self.now, event, &mut self.effects, &mut self.failed);
        self.calls.check_invariants();
        handled
    }

    fn refuse(&mut self, request: u64, code: ErrorCode, instead: &str) -> Handled {
        let mut refusal = Refusal::new(code, 1, "no");
        refusal.instead = instead.into();
        self.hear(&refusal.to_record(RequestId(request)))
    }

    /// Goes to the next deadline; returns how long that was.
    fn wait(&mut self) -> Duration {
        let due = self.calls.next_deadline().unwrap();
        let waited = due.since(self.now);
        self.now = due;
        self.calls.tick(due, &mut self.effects, &mut self.failed);
        self.calls.check_invariants();
        waited
    }

    /// The effects since the last look, in short.
    fn done(&mut self) -> Vec<String> {
        let effects = self.effects.drain(..).map(|effect| match effect {
            NetworkEffect::Open { address, .. } => format!("open {address}"),
            NetworkEffect::Close { .. } => "close".into(),
            NetworkEffect::Send { record, .. } => {
                format!("send {}", Records::of(&record).next().unwrap().unwrap().request_id())
            }
        });
        effects.collect()
    }
}

fn reply(request: u64) -> Vec<u8> {
    let envelope = Envelope { request_id: request, ..Default::default() };
    encode(&RingReply { envelope, ..Default::default() }, &vec![&b""[..]; RingReply::PARTS.len()])
}

#[test]
fn an_answer_ends_a_request_and_a_second_one_is_late() {
    let mut asker = Asker::new(&["a"]);
    asker.call(1).unwrap();
    assert_eq!(asker.done(), ["open a", "send 1"]);
    assert_eq!(asker.hear(&reply(1)), Handled::Reply(RequestId(1)));
    assert!(asker.calls.is_waiting(RequestId(1)));
    assert!(asker.calls.answered(RequestId(1)));
    assert!(asker.calls.is_empty());
    assert_eq!(asker.hear(&reply(1)), Handled::Done);
    assert!(!asker.calls.answered(RequestId(1)));
    assert_eq!(asker.calls.next_deadline(), None);
    let counters = *asker.calls.counters();
    assert_eq!((counters.called, counters.answered, counters.late), (1, 1, 1));
    // The line stays open for the next.
    asker.call(2).unwrap();
    assert_eq!(asker.done(), ["send 2"]);
}

#[test]
fn silence_resets_the_socket_goes_on_at_the_next_address_and_gives_up() {
    let mut asker = Asker::new(&["a", "b"]);
    asker.call(1).unwrap();
    asker.call(2).unwrap();
    assert_eq!(asker.done(), ["open a", "send 1", "send 2"]);
    for address in ["b", "a", "b"] {
        assert_eq!(asker.wait(), POLICY.timeout);
        assert_eq!(asker.done(), ["close"]);
        asker.wait();
        assert_eq!(asker.done(), [format!("open {address}"), "send 1".into(), "send 2".into()]);
    }
    asker.wait();
    assert_eq!(asker.failed.len(), 2);
    let CallError::GaveUp { attempts, waited, last: None } = asker.failed[0].error else {
        panic!("{:?}", asker.failed)
    };
    assert_eq!(attempts, POLICY.attempts);
    assert!(waited >= POLICY.timeout.times(4));
    assert!(asker.calls.is_empty());
    assert_eq!(asker.calls.counters().repeated, 6);
}

#[test]
fn waits_between_sockets_grow_up_to_the_cap_and_an_answer_resets_them() {
    let mut asker = Asker::new(&["a"]);
    let patient = CallPolicy { attempts: u32::MAX, patience: Duration::from_secs(9999), ..POLICY };
    asker.call_with(1, patient).unwrap();
    let mut waits = Vec::new();
    for failures in 1..200 {
        asker.wait();
        let wait = asker.wait();
        assert!(wait <= BACKOFF.bound(failures), "{wait} after {failures} failures");
        waits.push(wait.as_micros());
    }
    // Drawn, not fixed; and once capped, over the whole span.
    let capped = &waits[10..];
    let mean = capped.iter().sum::<u64>() / capped.len() as u64;
    assert!((40_000..60_000).contains(&mean), "{mean}");
    assert!(capped.iter().any(|wait| *wait < 10_000) && capped.iter().any(|wait| *wait > 90_000));

    asker.hear(&reply(1));
    asker.wait();
    assert!(asker.wait() <= BACKOFF.first);
}

#[test]
fn the_answer_to_a_repeated_request_counts_whichever_attempt_it_belongs_to() {
    let mut asker = Asker::new(&["a"]);
    asker.call(1).unwrap();
    asker.wait();
    // The request is held for its next socket; an answer that got through all the same is good.
    assert_eq!(asker.hear(&reply(1)), Handled::Reply(RequestId(1)));
    assert!(asker.calls.answered(RequestId(1)));
    asker.done();
    assert_eq!(asker.calls.next_deadline(), None);
    // The line is not opened for nobody, but for the next request, without its old wait.
    asker.now += Duration::from_secs(1);
    asker.call(2).unwrap();
    while asker.done() != ["open a", "send 2"] {
        asker.wait();
    }
}

#[test]
fn patience_ends_a_request_in_whatever_state_it_is() {
    let short = CallPolicy { patience: Duration::from_millis(60), attempts: 100, ..POLICY };
    for code in [None, Some(ErrorCode::Busy)] {
        let mut asker = Asker::new(&["a"]);
        let began = asker.now;
        asker.call_with(1, short).unwrap();
        while asker.failed.is_empty() {
            asker.wait();
            if let Some(code) = code {
                asker.refuse(1, code, "");
            }
        }
        assert_eq!(asker.now.since(began), short.patience);
        let CallError::GaveUp { last, .. } = &asker.failed[0].error else { panic!() };
        assert_eq!(last.as_ref().map(|it| it.code), code);
    }
}

#[test]
fn a_refusal_that_is_final_ends_the_request_and_no_other() {
    let mut asker = Asker::new(&["a"]);
    asker.call(1).unwrap();
    asker.call(2).unwrap();
    assert_eq!(asker.refuse(1, ErrorCode::NotFound, ""), Handled::Done);
    let [FailedCall { request: RequestId(1), error: CallError::Refused(refusal) }] =
        &asker.failed[..]
    else {
        panic!("{:?}", asker.failed)
    };
    assert_eq!(refusal.code, ErrorCode::NotFound);
    assert!(asker.calls.is_waiting(RequestId(2)));
}

#[test]
fn busy_waits_as_long_as_it_says_on_the_same_socket() {
    let mut asker = Asker::new(&["a", "b"]);
    asker.call(1).unwrap();
    asker.done();
    let mut refusal = Refusal::new(ErrorCode::Busy, 1, "later");
    refusal.retry_after = Duration::from_millis(40);
    asker.hear(&refusal.to_record(RequestId(1)));
    assert_eq!(asker.wait(), Duration::from_millis(40));
    assert_eq!(asker.done(), ["send 1"]);
}

#[test]
fn the_leader_that_is_named_is_asked_at_once() {
    let mut asker = Asker::new(&["a", "b"]);
    asker.call(1).unwrap();
    asker.done();
    asker.refuse(1, ErrorCode::NotLeader, "leader");
    assert_eq!(asker.done(), ["close", "open leader", "send 1"]);
    // It does not lead either and names the first: now there is a wait.
    asker.refuse(1, ErrorCode::NotLeader, "a");
    assert_eq!(asker.done(), ["close"]);
    asker.wait();
    assert_eq!(asker.done(), ["open a", "send 1"]);
    // Without a name, the next of the list.
    asker.refuse(1, ErrorCode::NoLeader, "");
    asker.wait();
    assert_eq!(asker.done(), ["close", "open b", "send 1"]);
    asker.refuse(1, ErrorCode::NoLeader, "");
    let CallError::GaveUp { attempts: 4, last: Some(last), .. } = &asker.failed[0].error else {
        panic!("{:?}", asker.failed)
    };
    assert_eq!(last.code, ErrorCode::NoLeader);
}

#[test]
fn a_node_that_forgot_this_one_is_asked_again_at_once() {
    let mut asker = Asker::new(&["a"]);
    asker.call(1).unwrap();
    asker.done();
    let sender = Sender {
        peer: Peer::Link(LINE),
        node: NodeId(9),
        role: Role::Master,
        incarnation: Default::default(),
    };
    for again in [false, true] {
        let event = NetworkEvent::Connected {
            link: LINE,
            sender,
            cluster: Default::default(),
            applied_index: Default::default(),
            window: 1,
            masters: String::new(),
            again,
        };
        assert_eq!(asker.event(&event), Handled::NotOurs);
        let sent = if again { vec!["send 1"] } else { vec![] };
        assert_eq!(asker.done(), sent);
    }
}

#[test]
fn a_refused_hello_is_final_only_where_there_is_nobody_else() {
    let refused = NetworkEvent::Refused {
        link: LINE,
        code: ErrorCode::OtherCluster,
        text: "another cluster".into(),
    };
    let mut asker = Asker::new(&["a"]);
    asker.call(1).unwrap();
    asker.event(&refused);
    assert!(matches!(&asker.failed[..], [FailedCall { error: CallError::Refused(_), .. }]));

    let mut asker = Asker::new(&["a", "b"]);
    asker.call(1).unwrap();
    asker.event(&refused);
    asker.wait();
    assert_eq!(asker.done(), ["open a", "send 1", "close", "open b", "send 1"]);
    assert_eq!(asker.failed, []);
}

#[test]
fn the_table_is_bounded_and_needs_an_address() {
    let mut asker = Asker::new(&["a"]);
    for request in 1..=3 {
        asker.call(request).unwrap();
    }
    assert_eq!(asker.call(4), Err(CallError::TooMany));
    asker.calls.answered(RequestId(2));
    asker.call(4).unwrap();
    asker.calls.set_line(Link(2), Vec::new());
    asker.calls.answered(RequestId(4));
    let query = encode(&RingQuery::default(), &[]);
    for link in [Link(2), Link(3)] {
        let now = asker.now;
        let called =
            asker.calls.call(now, RequestId(5), link, query.clone(), POLICY, &mut asker.effects);
        assert_eq!(called, Err(CallError::NoAddress));
    }
}

#[test]
fn a_removed_line_fails_what_is_in_flight_on_it() {
    let mut asker = Asker::new(&["a"]);
    asker.call(1).unwrap();
    asker.done();
    asker.calls.remove_line(LINE, &mut asker.effects, &mut asker.failed);
    assert_eq!(asker.done(), ["close"]);
    assert_eq!(asker.failed[0].error, CallError::Removed);
    assert_eq!(asker.calls.next_deadline(), None);
    asker.calls.check_invariants();
}

#[test]
fn new_addresses_leave_an_open_connection_alone() {
    let mut asker = Asker::new(&["a", "b"]);
    asker.call(1).unwrap();
    asker.calls.set_line(LINE, vec!["c".into(), "a".into()]);
    assert_eq!(asker.done(), ["open a", "send 1"]);
    asker.wait();
    asker.wait();
    assert_eq!(asker.done(), ["close", "open c", "send 1"]);
}
