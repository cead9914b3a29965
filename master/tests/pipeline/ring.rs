//! Storage nodes and users of the ring, as one master hears and answers them.

use proto::ids::StoreId;
use proto::messages::node::{
    RegisterActivate, RegisterActivated, RegisterMove, RingChange, RingChanged, RingNode,
    RingQuery, RingReply, RingStatus, RingStatusQuery, StorageProgress, StorageReport, StorageTold,
};
use proto::status::{RingAction, RingState};

use super::*;

/// The store of the node behind a link.
fn store(link: Link) -> StoreId {
    StoreId(who(link).0.0 * 10)
}

fn report(link: Link, passed_version: u64) -> Vec<u8> {
    let progress = StorageProgress { passed_version, block_count: 7, ..Default::default() };
    let store_uuid = store(link).to_wire();
    let report = StorageReport { incarnation: 1, store_uuid, ..Default::default() };
    encode(&report, &[bytes_of(&[progress])])
}

fn change(action: RingAction, link: Link, is_forced: bool) -> Vec<u8> {
    let change = RingChange {
        action: action.to_wire(),
        node_uuid: who(link).0.to_wire(),
        is_forced: u8::from(is_forced),
        ..RingChange::default()
    };
    encode(&change, &[b""])
}

impl Driven {
    /// A master with two storage nodes that have registered.
    fn with_storage(folder: &Path) -> Driven {
        Driven::bootstrap(folder);
        let mut driven = Driven::start(folder, 1);
        for link in [STORAGE, OTHER_STORAGE] {
            let register = NodeRegister {
                role: Role::Storage.to_wire(),
                incarnation: 1,
                store_uuid: store(link).to_wire(),
                weight: 100,
                ..Default::default()
            };
            driven.say(link, encode(&register, &[b"tcp://127.0.0.1:2", b"", b"zone"]));
            driven.heard(link, |_, _: NodeRegistered| ());
        }
        driven
    }

    /// What a storage node is told when it reports.
    fn told(&mut self, link: Link, passed_version: u64) -> StorageTold {
        self.say(link, report(link, passed_version));
        self.heard(link, |_, told: StorageTold| told)
    }

    /// Virtual seconds in which these nodes report.
    fn seconds(&mut self, count: u64, reporting: &[Link]) {
        for _ in 0..count {
            let until = self.now + Duration::from_secs(1);
            while self.now < until {
                let next = self.master.next_deadline().unwrap_or(until);
                self.now = next.max(self.now + Duration::from_millis(1)).min(until);
                self.handle(Event::Tick);
            }
            for &link in reporting {
                self.told(link, 0);
            }
        }
    }

    /// How the ring stands: the oldest and the newest version, and what is said of each node.
    fn ring(&mut self) -> ((u64, u64), Vec<(RingNode, StorageProgress)>) {
        self.say(CLIENT, encode(&RingStatusQuery::default(), &[]));
        self.heard(CLIENT, |record, status: RingStatus| {
            let [nodes, progress] = record.parts().expect("nodes and progress");
            let nodes = items_of::<RingNode>(nodes).expect("nodes");
            let progress = items_of::<StorageProgress>(progress).expect("progress");
            let both = nodes.iter().copied().zip(progress.iter().copied()).collect();
            (({ status.oldest_version }, { status.ring_version }), both)
        })
    }

    /// What a change of the ring is refused with.
    fn refusal(&mut self, link: Link, record: Vec<u8>) -> (Option<ErrorCode>, String) {
        self.say(link, record);
        self.heard(link, |record, error: ErrorReply| {
            let [text, _] = record.parts().expect("text and instead");
            (ErrorCode::from_wire(error.code), String::from_utf8_lossy(text).into_owned())
        })
    }
}

#[test]
fn what_storage_nodes_report_is_shown_and_nothing_of_it_is_logged_but_passes() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut driven = Driven::with_storage(&folder.path().join("consensus"));
    let told = driven.told(STORAGE, 0);
    assert_eq!(({ told.ring_version }, { told.lease_ms }), (2, 10_000));
    driven.say(STORAGE, encode(&RingQuery::default(), &[]));
    driven.heard(STORAGE, |_, reply: RingReply| {
        let counts = ({ reply.member_count }, { reply.older_count }, { reply.register_run_count });
        assert_eq!(counts, (2, 1, 1));
    });
    let (versions, nodes) = driven.ring();
    assert_eq!(versions, (1, 2));
    let shown: Vec<_> = nodes
        .iter()
        .map(|(node, progress)| ({ node.silent_ms }, node.state, { progress.block_count }))
        .collect();
    let member = RingState::Member.to_wire();
    assert_eq!(shown, [(0, member, 7), (u64::MAX, member, 0)]);

    driven.told(STORAGE, 2);
    assert_eq!(driven.ring().0, (1, 2));
    driven.told(OTHER_STORAGE, 2);
    assert_eq!(driven.ring().0, (2, 2));
    let applied = driven.master.cluster().applied;
    for passed in [2, 2, 0, 1] {
        driven.seconds(3, &[STORAGE, OTHER_STORAGE]);
        driven.told(STORAGE, passed);
    }
    assert_eq!(driven.master.cluster().applied, applied, "nothing is logged while nothing moves");
}

#[test]
fn a_silent_node_is_removed_and_comes_back_by_itself() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut driven = Driven::with_storage(&folder.path().join("consensus"));
    driven.told(OTHER_STORAGE, 0);
    driven.seconds(290, &[STORAGE]);
    let (versions, nodes) = driven.ring();
    assert_eq!(versions.1, 2);
    assert!({ nodes[1].0.silent_ms } >= 289_000 && { nodes[1].0.removal_ms } <= 11_000);
    assert_eq!({ nodes[0].0.removal_ms }, u64::MAX);
    driven.seconds(12, &[STORAGE]);
    let (versions, nodes) = driven.ring();
    assert_eq!((versions.1, nodes[1].0.state), (3, RingState::Removed.to_wire()));
    // What it says shows that it lives; the next answer has the new ring.
    driven.told(OTHER_STORAGE, 0);
    let told = driven.told(OTHER_STORAGE, 0);
    assert_eq!(({ told.ring_version }, { told.lease_ms }), (4, 10_000));
    assert_eq!(driven.ring().1[1].0.state, RingState::Member.to_wire());
}

#[test]
fn users_change_the_ring_and_what_answers_is_not_removed_without_force() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut driven = Driven::with_storage(&folder.path().join("consensus"));
    let remove = |is_forced| change(RingAction::Remove, OTHER_STORAGE, is_forced);
    let (code, text) = driven.refusal(CLIENT, remove(false));
    assert_eq!(code, Some(ErrorCode::Busy), "{text}");
    driven.seconds(4, &[STORAGE, OTHER_STORAGE]);
    let (code, text) = driven.refusal(CLIENT, remove(false));
    assert_eq!(code, Some(ErrorCode::NotAllowed));
    assert!(text.contains("answers: have it hand over"), "{text}");
    let (_, text) = driven.refusal(CLIENT, change(RingAction::Drain, OTHER_STORAGE, false));
    assert!(text.contains("an earlier change is under way"), "{text}");
    for link in [STORAGE, OTHER_STORAGE] {
        driven.told(link, 2);
    }
    driven.say(CLIENT, change(RingAction::Drain, OTHER_STORAGE, false));
    let changed = driven.heard(CLIENT, |_, changed: RingChanged| changed);
    assert_eq!({ changed.ring_version }, 3);
    assert_eq!({ driven.told(OTHER_STORAGE, 0).lease_ms }, 10_000, "it is still a member");
    for link in [STORAGE, OTHER_STORAGE] {
        driven.say(CLIENT, change(RingAction::Scrub, link, false));
        driven.heard(CLIENT, |_, _: RingChanged| ());
    }
    assert_eq!({ driven.told(STORAGE, 0).scrub_round }, 2);
    driven.say(CLIENT, remove(true));
    assert_eq!({ driven.heard(CLIENT, |_, it: RingChanged| it).ring_version }, 4);
    let told = driven.told(OTHER_STORAGE, 0);
    assert_eq!(({ told.ring_version }, { told.lease_ms }), (4, 0));
    // Nor does it come back: a user said so.
    driven.seconds(3, &[STORAGE, OTHER_STORAGE]);
    assert_eq!(driven.ring().0.1, 4);
    let stranger = change(RingAction::Add, WORKER, false);
    assert_eq!(driven.refusal(CLIENT, stranger).0, Some(ErrorCode::NotFound));
}

#[test]
fn parts_of_the_registers_are_activated_for_storage_nodes() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut driven = Driven::with_storage(&folder.path().join("consensus"));
    let parts = 0..256;
    let moves: Vec<RegisterMove> =
        parts.map(|part| RegisterMove { part, from_version: 1, to_version: 2 }).collect();
    let activate =
        |moves: &[RegisterMove]| encode(&RegisterActivate::default(), &[bytes_of(moves)]);
    for link in [STORAGE, OTHER_STORAGE] {
        driven.say(link, activate(&moves));
        driven.heard(link, |_, activated: RegisterActivated| assert!({ activated.index } > 0));
    }
    assert_eq!(driven.master.cluster().rings.part_count_elsewhere(), 0);
    assert_eq!(driven.refusal(WORKER, activate(&moves)).0, Some(ErrorCode::NotAllowed));
    let twice = [moves.clone(), moves].concat();
    assert_eq!(driven.refusal(STORAGE, activate(&twice)).0, Some(ErrorCode::TooLarge));
}

#[test]
fn reports_of_others_and_of_strangers_are_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut driven = Driven::with_storage(&folder.path().join("consensus"));
    assert_eq!(driven.refusal(WORKER, report(WORKER, 0)).0, Some(ErrorCode::NotAllowed));
    let empty = encode(&StorageReport { incarnation: 1, ..Default::default() }, &[b""]);
    assert_eq!(driven.refusal(STORAGE, empty).0, Some(ErrorCode::Malformed));
    // Another store than the one that registered.
    assert_eq!(driven.refusal(STORAGE, report(OTHER_STORAGE, 0)).0, Some(ErrorCode::OldEpoch));
    let unknown = RingChange { action: 9, ..RingChange::default() };
    let refusal = driven.refusal(CLIENT, encode(&unknown, &[b""]));
    assert_eq!(refusal.0, Some(ErrorCode::Malformed));
}
