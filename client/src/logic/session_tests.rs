//! A session against scripted masters: what it sends, to whom, under which number, and what it
//! makes of the answers.

use node::logic::network::{Peer, Sender};
use node::logic::refusal::Refusal;
use proto::ids::{Incarnation, JobId, NodeId};
use proto::messages::job::{JobAccepted, JobQuery, JobStatus, JobSubmit, ListEnd};
use proto::messages::keyspace::KeyResult;
use proto::messages::session::Pong;
use proto::record::{Message, Records};
use proto::status::{ErrorCode, JobState, ProgramKind};
use proto::wire::WireUuid;

use super::*;
use crate::logic::answers::Answer;
use crate::logic::jobs::{JobSelector, Submission, Until, Write};

const LINK: Link = Link(3);
const OTHER: Link = Link(4);
const PATIENCE: Duration = Duration::from_secs(30);

/// A session and what it did last.
struct Talk {
    session: Session,
    now: Instant,
    /// Where its link leads; `None` while it is closed.
    open: Option<String>,
    /// Where the link beside it leads, while another address is asked.
    scout: Option<String>,
    /// Records sent and not looked at.
    sent: Vec<Vec<u8>>,
}

impl Talk {
    fn new(addresses: &[&str]) -> Talk {
        let addresses = addresses.iter().map(|&it| it.to_owned()).collect();
        let session = Session::new([LINK, OTHER], addresses, fastrand::Rng::with_seed(1));
        Talk { session, now: Instant(1_000_000), open: None, scout: None, sent: Vec::new() }
    }

    /// A session that a master has accepted.
    fn opened(applied_index: u64) -> Talk {
        let mut talk = Talk::new(&["master1"]);
        let call = talk.call(nodes());
        assert_eq!(talk.take_sent().len(), 1, "a probe only");
        talk.connected(Role::Master, applied_index, "master1,master2");
        let sent = talk.take_sent();
        talk.answer(&list_end(number(&sent[0]), 0, 5));
        assert_eq!(talk.session.next_ended().map(|it| it.call), Some(call));
        talk
    }

    fn perform(&mut self, effects: Vec<NetworkEffect>) {
        for effect in effects {
            match effect {
                NetworkEffect::Open { link, address } if link == OTHER => {
                    self.scout = Some(address);
                }
                NetworkEffect::Open { link, address } => {
                    assert_eq!(link, LINK);
                    self.open = Some(address);
                    self.sent.clear();
                }
                NetworkEffect::Close { link } if link == OTHER => self.scout = None,
                NetworkEffect::Close { .. } => self.open = None,
                NetworkEffect::Send { to, record } => {
                    let is_open = match to {
                        Peer::Link(LINK) => self.open.is_some(),
                        Peer::Link(OTHER) => self.scout.is_some(),
                        _ => panic!("sent to {to:?}"),
                    };
                    assert!(is_open, "sent on a closed link");
                    self.sent.push(record);
                }
            }
        }
        self.session.check_invariants();
    }

    fn try_call(&mut self, request: Request) -> Result<CallId, NotCalled> {
        let mut effects = Vec::new();
        let call = self.session.call(self.now, request, PATIENCE, &mut effects);
        self.perform(effects);
        call
    }

    fn call(&mut self, request: Request) -> CallId {
        self.try_call(request).unwrap()
    }

    fn sender(role: Role) -> Sender {
        let peer = Peer::Link(LINK);
        Sender { peer, node: NodeId(9), role, incarnation: Incarnation(1) }
    }

    fn connected(&mut self, role: Role, applied_index: u64, masters: &str) {
        let event = NetworkEvent::Connected {
            link: LINK,
            sender: Talk::sender(role),
            cluster: ClusterId(5),
            applied_index: LogIndex(applied_index),
            window: 64,
            masters: masters.to_owned(),
            again: false,
        };
        let mut effects = Vec::new();
        assert!(self.session.handle(self.now, &event, &mut effects));
        self.perform(effects);
    }

    fn answer(&mut self, record: &[u8]) {
        let record = Records::of(record).next().unwrap().unwrap();
        let event = NetworkEvent::Record { sender: Talk::sender(Role::Master), record };
        let mut effects = Vec::new();
        assert!(self.session.handle(self.now, &event, &mut effects));
        self.perform(effects);
    }

    fn refuse(&mut self, number: RequestId, code: ErrorCode, instead: &str) {
        let mut refusal = Refusal::new(code, 0, "refused");
        refusal.instead = instead.to_owned();
        self.answer(&refusal.to_record(number));
    }

    /// Lets time pass until something is sent or a call ends.
    fn wait(&mut self) {
        for _ in 0..1000 {
            let due = self.session.next_deadline().expect("something to wait for");
            self.now = self.now.max(due);
            let mut effects = Vec::new();
            self.session.tick(self.now, &mut effects);
            self.perform(effects);
            if !self.sent.is_empty() || !self.session.ended.is_empty() {
                return;
            }
        }
        panic!("nothing happens");
    }

    fn take_sent(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.sent)
    }

    fn only_sent(&mut self) -> Vec<u8> {
        let mut sent = self.take_sent();
        assert_eq!(sent.len(), 1, "{:?}", sent.iter().map(|it| it[0]).collect::<Vec<_>>());
        sent.remove(0)
    }

    fn begin_as_new_node(&mut self) {
        self.open = None;
        self.sent.clear();
        let mut effects = Vec::new();
        let random = fastrand::Rng::with_seed(2);
        self.session.begin_as_new_node(self.now, random, &mut effects);
        self.perform(effects);
    }

    fn ended(&mut self) -> Result<Answer, CallFailure> {
        self.session.next_ended().expect("a call that ended").result
    }
}

fn number(record: &[u8]) -> RequestId {
    Records::of(record).next().unwrap().unwrap().request_id()
}

fn read<T: Message>(record: &[u8]) -> T {
    Records::of(record).next().unwrap().unwrap().read().unwrap()
}

fn answer_to<T: Message>(number: RequestId, message: &T, parts: &[&[u8]]) -> Vec<u8> {
    let mut record = encode(message, parts);
    proto::record::set_request_id(&mut record, number);
    record
}

fn list_end(number: RequestId, count: u64, index: u64) -> Vec<u8> {
    answer_to(number, &ListEnd { count, index, ..Default::default() }, &[])
}

fn status(number: RequestId, state: JobState, index: u64) -> Vec<u8> {
    let state = state.to_wire();
    let job_uuid = WireUuid::new(7);
    answer_to(number, &JobStatus { job_uuid, state, index, ..Default::default() }, &[b"", b""])
}

fn accepted(number: RequestId, index: u64) -> Vec<u8> {
    let job_uuid = WireUuid::new(7);
    answer_to(number, &JobAccepted { job_uuid, index, ..Default::default() }, &[])
}

fn nodes() -> Request {
    Request::Nodes
}

fn submit() -> Request {
    Request::Submit(Submission {
        job: JobId(7),
        task_count: 1,
        program: Vec::new(),
        program_kind: ProgramKind::Described,
        inputs: Vec::new(),
        description: Vec::new(),
        pin: 0,
    })
}

fn transaction() -> Request {
    let write = Write { key: b"k".to_vec(), value: None };
    Request::Transaction { compares: Vec::new(), writes: vec![write], pin: 0 }
}

fn job(until: Until) -> Request {
    Request::Job { job: JobSelector::Id(JobId(7)), until }
}

#[test]
fn the_masters_are_found_through_any_tier() {
    let mut talk = Talk::new(&["storage1"]);
    let call = talk.call(submit());
    assert_eq!(talk.open.as_deref(), Some("storage1"));
    talk.take_sent();
    talk.connected(Role::Storage, 0, "master1,master2");
    assert_eq!(talk.open.as_deref(), Some("master1"));
    let probe = talk.take_sent();
    talk.connected(Role::Master, 30, "master2,master1");
    assert_eq!(talk.session.masters(), ["master2", "master1"]);
    let sent = talk.only_sent();
    assert_eq!({ read::<JobSubmit>(&sent).session_index }, 30);
    talk.answer(&answer_to(number(&probe[0]), &Pong::default(), &[]));
    talk.answer(&accepted(number(&sent), 31));
    let ended = talk.session.next_ended().unwrap();
    assert_eq!(ended.call, call);
    assert_eq!(ended.result, Ok(Answer::Accepted { job: JobId(7), index: LogIndex(31) }));
    assert_eq!((talk.session.seen(), talk.session.cluster()), (LogIndex(31), ClusterId(5)));
    assert!(talk.session.is_idle());
}

#[test]
fn a_node_that_knows_no_masters_is_passed_over() {
    let mut talk = Talk::new(&["storage1", "storage2"]);
    talk.call(nodes());
    talk.take_sent();
    talk.connected(Role::Storage, 0, "");
    talk.wait();
    assert_eq!(talk.scout.as_deref(), Some("storage2"));
}

#[test]
fn nodes_that_live_and_know_no_masters_are_passed_over_until_one_is_a_master() {
    let mut talk = Talk::new(&["worker1", "storage1", "master1"]);
    let call = talk.call(nodes());
    for address in ["worker1", "storage1"] {
        assert_eq!(talk.open.as_deref(), Some(address));
        let probe = talk.only_sent();
        talk.connected(Role::Worker, 0, "");
        talk.answer(&answer_to(number(&probe), &Pong::default(), &[]));
    }
    assert_eq!(talk.open.as_deref(), Some("master1"));
    assert_eq!(talk.only_sent()[0], Ping::TYPE);
    talk.connected(Role::Master, 30, "");
    talk.answer(&list_end(number(&talk.sent[0]), 0, 31));
    assert_eq!(talk.session.next_ended().map(|it| it.call), Some(call));
}

#[test]
fn where_nobody_knows_masters_all_are_asked_once_a_second() {
    for addresses in [&["worker1"][..], &["worker1", "worker2", "worker3"]] {
        let mut talk = Talk::new(addresses);
        talk.call(nodes());
        let began = talk.now;
        let mut asked = 0;
        while talk.now < began + Duration::from_secs(10) {
            let probe = talk.only_sent();
            asked += 1;
            assert!(asked <= 10 * addresses.len(), "too often");
            talk.connected(Role::Worker, 0, "");
            talk.answer(&answer_to(number(&probe), &Pong::default(), &[]));
            if talk.sent.is_empty() {
                assert_eq!((talk.open.as_ref(), asked % addresses.len()), (None, 0));
                talk.wait();
            }
            assert_eq!(talk.scout, None);
        }
        assert_eq!(asked, 10 * addresses.len());
    }
}

#[test]
fn of_two_that_are_asked_at_a_time_neither_needs_to_know_masters() {
    let mut talk = Talk::new(&["worker1", "worker2", "master1"]);
    talk.call(nodes());
    let first = talk.only_sent();
    talk.wait();
    assert_eq!(talk.scout.as_deref(), Some("worker2"));
    talk.take_sent();
    // The first one answers late; what it was asked beside goes on alone.
    talk.connected(Role::Worker, 0, "");
    talk.answer(&answer_to(number(&first), &Pong::default(), &[]));
    assert_eq!((talk.open.as_ref(), talk.scout.as_deref()), (None, Some("worker2")));
    assert!(talk.session.probe.is_some() && !talk.session.is_scouting());
}

#[test]
fn a_master_that_joined_later_is_asked_when_the_others_are_gone() {
    let mut talk = Talk::opened(10);
    let masters = "master1,master2,master3".to_owned();
    let event = NetworkEvent::Masters { link: LINK, masters };
    let mut effects = Vec::new();
    assert!(talk.session.handle(talk.now, &event, &mut effects));
    talk.perform(effects);
    assert_eq!(talk.open.as_deref(), Some("master1"), "the connection goes on");
    talk.call(submit());
    let sent = talk.only_sent();
    let mut asked = Vec::new();
    while !asked.contains(&"master3".to_owned()) {
        assert!(asked.len() < 3, "{asked:?}");
        talk.wait();
        asked.extend(talk.open.clone());
    }
    assert_eq!(number(&talk.only_sent()), number(&sent));
}

#[test]
fn nobody_there_is_told_after_the_patience() {
    let mut talk = Talk::new(&["master1", "master2"]);
    let began = talk.now;
    talk.call(nodes());
    while talk.session.ended.is_empty() {
        talk.take_sent();
        talk.wait();
    }
    assert!(matches!(talk.ended(), Err(CallFailure::Unreachable { .. })));
    assert!(talk.now.since(began) <= PATIENCE + Duration::from_secs(1));
    assert!(talk.session.is_idle());
}

#[test]
fn a_disk_that_stays_full_is_told_as_that_and_not_as_silence() {
    let mut talk = Talk::opened(10);
    let began = talk.now;
    talk.call(submit());
    while talk.session.ended.is_empty() {
        for record in talk.take_sent() {
            talk.refuse(number(&record), ErrorCode::DiskFull, "");
        }
        talk.wait();
    }
    let refused = CallFailure::Refused { code: ErrorCode::DiskFull, text: "refused".into() };
    assert_eq!(talk.ended(), Err(refused));
    assert!(talk.now.since(began) >= PATIENCE, "there may be room in a moment");
}

#[test]
fn a_request_keeps_its_number_on_the_next_master() {
    let mut talk = Talk::opened(10);
    talk.call(submit());
    let first = talk.only_sent();
    // The master dies without a word.
    talk.wait();
    assert_eq!(talk.open.as_deref(), Some("master2"));
    let second = talk.only_sent();
    assert_eq!(number(&first), number(&second));
    assert_eq!(read::<JobSubmit>(&first), read::<JobSubmit>(&second));
    talk.connected(Role::Master, 99, "master2");
    let third = talk.take_sent();
    assert!(third.is_empty(), "once for each connection");
    talk.answer(&accepted(number(&second), 12));
    assert!(talk.ended().is_ok());
    // The session stays the one that was opened first.
    talk.call(submit());
    let next = talk.only_sent();
    assert_eq!({ read::<JobSubmit>(&next).session_index }, 10);
    assert!(number(&next) > number(&second));
}

#[test]
fn the_leader_that_is_named_is_followed() {
    let mut talk = Talk::opened(10);
    talk.call(submit());
    let first = talk.only_sent();
    talk.refuse(number(&first), ErrorCode::NotLeader, "master9");
    assert_eq!(talk.open.as_deref(), Some("master9"));
    let second = talk.only_sent();
    assert_eq!(number(&first), number(&second));
}

#[test]
fn what_exceeds_the_window_is_handed_back() {
    let mut talk = Talk::opened(10);
    let calls: Vec<CallId> = (0..63).map(|_| talk.call(nodes())).collect();
    assert_eq!(talk.try_call(nodes()), Err(NotCalled::Full(Box::new(nodes()))));
    // The ring's place is its own.
    talk.call(Request::Ring);
    assert_eq!(talk.try_call(Request::Ring), Err(NotCalled::Full(Box::new(Request::Ring))));
    let sent = talk.take_sent();
    assert_eq!(sent.len(), 64);
    let numbers: Vec<RequestId> = sent.iter().map(|it| number(it)).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "they ascend");
    talk.answer(&list_end(numbers[5], 0, 0));
    assert_eq!(talk.session.next_ended().unwrap().call, calls[5]);
    talk.session.cancel(calls[6]);
    talk.call(nodes());
}

#[test]
fn changes_wait_for_the_oldest_unanswered_one() {
    let mut talk = Talk::opened(10);
    let oldest = talk.call(submit());
    talk.take_sent();
    for _ in 0..63 {
        talk.call(submit());
        let sent = talk.only_sent();
        talk.answer(&accepted(number(&sent), 11));
        assert_ne!(talk.session.next_ended().unwrap().call, oldest);
    }
    assert!(matches!(talk.try_call(submit()), Err(NotCalled::Full(_))));
    talk.call(nodes());
    talk.session.cancel(oldest);
    talk.call(submit());
}

#[test]
fn waiting_for_many_jobs_leaves_room_for_others() {
    let mut talk = Talk::opened(10);
    for _ in 0..32 {
        talk.call(job(Until::Final));
    }
    assert!(matches!(talk.try_call(job(Until::Final)), Err(NotCalled::Full(_))));
    talk.call(submit());
}

#[test]
fn a_parked_request_survives_the_death_of_its_master() {
    let mut talk = Talk::opened(10);
    talk.call(job(Until::Final));
    let parked = talk.only_sent();
    // The master lives for an hour, then it dies.
    for _ in 0..3600 {
        talk.wait();
        let probe = talk.only_sent();
        assert_eq!(probe[0], Ping::TYPE);
        talk.answer(&answer_to(number(&probe), &Pong::default(), &[]));
    }
    assert_eq!(talk.open.as_deref(), Some("master1"));
    talk.wait();
    talk.take_sent();
    talk.wait();
    assert_eq!(talk.open.as_deref(), Some("master2"));
    let again: Vec<_> = talk.take_sent().into_iter().filter(|it| it[0] != Ping::TYPE).collect();
    assert_eq!(again, std::slice::from_ref(&parked));
    talk.answer(&status(number(&parked), JobState::Done, 70));
    let Ok(Answer::Job(job)) = talk.ended() else { panic!("no job") };
    assert_eq!(job.state, JobState::Done);
}

#[test]
fn reads_carry_the_highest_index_seen() {
    let mut talk = Talk::opened(10);
    talk.call(job(Until::Now));
    let sent = talk.only_sent();
    assert_eq!({ read::<JobQuery>(&sent).seen_index }, 5);
    talk.answer(&status(number(&sent), JobState::Running, 80));
    talk.call(job(Until::Now));
    let sent = talk.only_sent();
    assert_eq!({ read::<JobQuery>(&sent).seen_index }, 80);
}

#[test]
fn a_listing_that_lost_records_is_asked_again() {
    let mut talk = Talk::opened(10);
    talk.call(Request::Jobs { before: LogIndex(0), limit: 10 });
    let first = talk.only_sent();
    talk.answer(&status(number(&first), JobState::Done, 20));
    talk.answer(&list_end(number(&first), 2, 20));
    let second = talk.only_sent();
    assert!(number(&second) > number(&first));
    talk.answer(&status(number(&second), JobState::Done, 20));
    talk.answer(&list_end(number(&second), 1, 20));
    let Ok(Answer::Jobs { jobs, .. }) = talk.ended() else { panic!("no list") };
    assert_eq!(jobs.len(), 1);
}

#[test]
fn a_refusal_for_good_is_the_answer() {
    let mut talk = Talk::opened(10);
    talk.call(submit());
    let sent = talk.only_sent();
    talk.refuse(number(&sent), ErrorCode::JobDiffers, "");
    let text = "refused".to_owned();
    assert_eq!(talk.ended(), Err(CallFailure::Refused { code: ErrorCode::JobDiffers, text }));
}

#[test]
fn a_forgotten_client_goes_on_as_a_new_one() {
    let mut talk = Talk::opened(10);
    let submitted = talk.call(submit());
    let written = talk.call(transaction());
    let read_call = talk.call(job(Until::Now));
    let sent = talk.take_sent();
    talk.refuse(number(&sent[0]), ErrorCode::TooOld, "");
    assert!(!talk.session.wants_new_node(), "the transaction is waited for");
    talk.refuse(number(&sent[1]), ErrorCode::TooOld, "");
    assert!(talk.session.wants_new_node());
    talk.begin_as_new_node();
    assert!(!talk.session.wants_new_node());
    talk.take_sent();
    talk.connected(Role::Master, 90, "master1");
    let again = talk.take_sent();
    assert_eq!(again.len(), 3);
    assert_eq!({ read::<JobSubmit>(&again[0]).session_index }, 90);
    assert!(number(&again[0]) > number(&sent[2]));
    talk.answer(&accepted(number(&again[0]), 91));
    let applied = KeyResult { is_applied: 1, index: 92, ..Default::default() };
    talk.answer(&answer_to(number(&again[1]), &applied, &[]));
    talk.answer(&status(number(&again[2]), JobState::Queued, 91));
    let ended: Vec<CallId> = std::iter::from_fn(|| talk.session.next_ended())
        .map(|it| {
            assert!(it.result.is_ok());
            it.call
        })
        .collect();
    assert_eq!(ended, [submitted, written, read_call]);
}

#[test]
fn a_forgotten_transaction_that_was_sent_twice_is_never_repeated() {
    let mut talk = Talk::opened(10);
    talk.call(transaction());
    talk.only_sent();
    talk.wait();
    let sent = talk.only_sent();
    talk.connected(Role::Master, 90, "");
    talk.refuse(number(&sent), ErrorCode::TooOld, "");
    assert_eq!(talk.ended(), Err(CallFailure::OutcomeUnknown));
    assert!(talk.session.is_idle());
}

#[test]
fn a_client_that_was_idle_for_long_changes_nothing_under_its_old_name() {
    let mut talk = Talk::opened(10);
    talk.call(submit());
    let sent = talk.only_sent();
    talk.answer(&accepted(number(&sent), 11));
    talk.now += Duration::from_secs(3000);
    talk.call(job(Until::Now));
    talk.only_sent();
    assert!(!talk.session.wants_new_node(), "reading is harmless");
    talk.call(submit());
    assert!(talk.session.wants_new_node());
    assert!(talk.take_sent().is_empty());
    talk.begin_as_new_node();
    talk.take_sent();
    talk.connected(Role::Master, 90, "master1");
    assert_eq!(talk.take_sent().len(), 2);
}

#[test]
fn masters_that_all_moved_are_found_through_the_users_addresses() {
    let mut talk = Talk::new(&["storage1"]);
    talk.call(nodes());
    talk.take_sent();
    talk.connected(Role::Storage, 0, "master1,master2");
    talk.take_sent();
    talk.connected(Role::Master, 10, "master1,master2");
    let sent = talk.take_sent();
    for _ in 0..20 {
        talk.wait();
        talk.take_sent();
        if talk.open.as_deref() == Some("storage1") {
            break;
        }
    }
    assert_eq!(talk.open.as_deref(), Some("storage1"));
    talk.connected(Role::Storage, 0, "master7");
    assert_eq!(talk.open.as_deref(), Some("master7"));
    let again = talk.take_sent();
    let again: Vec<_> =
        again.iter().filter(|it| it[0] != Ping::TYPE).map(|it| number(it)).collect();
    assert_eq!(again, [number(&sent[0])]);
}
