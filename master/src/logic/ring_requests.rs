//! What storage nodes and users ask of the ring: reports, changes, activations of registers.
//!
//! The rules stand in `ring` and are kept by `apply`; here is only what needs the leader's ear: who
//! reports keeps its lease, and who answers is not removed without force.

use consensus::Term;
use node::logic::network::{Peer, Sender};
use proto::ids::{Incarnation, LogIndex, NodeId, RequestId, RingVersion, StoreId};
use proto::limits;
use proto::messages::node::{
    RegisterActivate, RegisterActivated, RegisterMove, RingChange, RingChanged, StorageProgress,
    StorageReport, StorageTold,
};
use proto::record::{Message, Record, RecordError, encode};
use proto::status::{ErrorCode, RingAction, Role};
use proto::time::Instant;
use proto::wire::items_of;

use super::commands::{self, ClientChange, Command, Output};
use super::replies::{Waiting, Wanted, send};
use super::requests::asker;
use super::ring::PartMove;
use super::{Effect, Master};

/// What a storage node wants to be told.
#[derive(Clone, Copy, Debug)]
pub(super) struct TellWanted {
    node: NodeId,
    incarnation: Incarnation,
    store: StoreId,
    /// In which term of this leader it was asked for.
    term: Term,
}

impl Master {
    /// A storage node says how far it is.
    pub(super) fn on_storage_report(
        &mut self,
        now: Instant,
        sender: &Sender,
        record: &Record<'_>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), RecordError> {
        let (report, [progress]) = record.open::<StorageReport, 1>()?;
        if !self.leads() {
            self.refuse_follower(sender.peer, record.request_id(), StorageReport::TYPE, effects);
            return Ok(());
        }
        let message_type = StorageReport::TYPE;
        let [progress] = items_of::<StorageProgress>(progress).unwrap_or_default() else {
            return Err(RecordError::Value { message_type, field: "progress_count" });
        };
        let is_itself = sender.role == Role::Storage && report.incarnation == sender.incarnation.0;
        if !is_itself {
            let text = "a storage node reports of itself, as what its hello said it is";
            let refusal = Output::refused(ErrorCode::NotAllowed, text);
            self.refuse(sender, record, &refusal, effects);
            return Ok(());
        }
        let store = report.store_uuid.into();
        self.storage.reported(now, (sender.node, store), *progress, &self.member.state().rings);
        let wanted = TellWanted {
            node: sender.node,
            incarnation: sender.incarnation,
            store,
            term: self.member.term(),
        };
        self.read(now, Waiting::peer(sender, record, Wanted::Told(wanted)), effects);
        Ok(())
    }

    /// Tells a storage node what is wanted of it, with its lease: this master still leads.
    pub(super) fn tell_storage(
        &self,
        peer: Peer,
        request: RequestId,
        wanted: &TellWanted,
        effects: &mut Vec<Effect>,
    ) {
        let refused = StorageReport::TYPE;
        if !self.leads() || self.member.term() != wanted.term {
            return self.refuse_follower(peer, request, refused, effects);
        }
        let cluster = self.cluster();
        let known = cluster.nodes.nodes.get(&wanted.node).map(|node| &node.registration);
        if !known.is_some_and(|it| {
            (it.role, it.incarnation, it.store) == (Role::Storage, wanted.incarnation, wanted.store)
        }) {
            let text = "it has not registered, or was forgotten: it must register again";
            let refusal = Output::refused(ErrorCode::OldEpoch, text);
            return self.send_refusal(peer, request, refused, &refusal, effects);
        }
        let (pass_round, scrub_round) = cluster.rings.rounds();
        let lease = self.storage.lease_of(wanted.node, wanted.store, &cluster.rings);
        let told = StorageTold {
            ring_version: cluster.rings.newest().0,
            lease_ms: lease.as_millis(),
            pass_round,
            scrub_round,
            ..StorageTold::default()
        };
        send(peer, request, encode(&told, &[]), effects);
    }

    /// A user changes the ring.
    pub(super) fn on_ring_change(
        &mut self,
        now: Instant,
        sender: &Sender,
        record: &Record<'_>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), RecordError> {
        let (asked, [zone]) = record.open::<RingChange, 1>()?;
        if !self.leads() {
            // Who answers is known to the leader alone.
            self.refuse_follower(sender.peer, record.request_id(), RingChange::TYPE, effects);
            return Ok(());
        }
        let message_type = RingChange::TYPE;
        let action = RingAction::from_wire(asked.action)
            .ok_or(RecordError::Value { message_type, field: "action" })?;
        let node = asked.node_uuid.into();
        let zone = (asked.sets_zone == 1).then(|| String::from_utf8_lossy(zone).into_owned());
        let change = match action {
            RingAction::Add => commands::RingChange::Add { node, weight: asked.weight, zone },
            RingAction::Drain => commands::RingChange::Drain { node },
            RingAction::Remove => commands::RingChange::Remove { node },
            RingAction::Rebalance => commands::RingChange::Rebalance,
            RingAction::Scrub => commands::RingChange::Scrub,
        };
        let is_forced = asked.is_forced == 1;
        if action == RingAction::Remove
            && !is_forced
            && let Some(refusal) = self.removal_refusal(node)
        {
            self.refuse(sender, record, &refusal, effects);
            return Ok(());
        }
        let who = Waiting::peer(sender, record, Wanted::RingChange);
        let asker = asker(sender, record, asked.session_index);
        let command = Command::Client(asker, ClientChange::Ring { change, is_forced });
        self.invoke(now, &command, who, effects);
        Ok(())
    }

    /// Why a member is not removed without force, where it answers or may answer. One that is no
    /// member may have been removed by this very request.
    fn removal_refusal(&self, node: NodeId) -> Option<Output> {
        self.cluster().rings.place(node)?;
        if !self.storage.has_listened() {
            let text = "this master has just begun to lead, and does not know yet who answers";
            return Some(Output::refused(ErrorCode::Busy, text));
        }
        self.storage.answers(node).then(|| {
            let text = format!(
                "storage node {node} answers: have it hand over what it has, `remuda ring drain \
                 {node}`, or stop it first; with --force it is removed as it is, and what only it \
                 has is lost"
            );
            Output::refused(ErrorCode::NotAllowed, text)
        })
    }

    /// The change of the ring is in the log.
    pub(super) fn reply_ring_changed(
        peer: Peer,
        request: RequestId,
        (version, index): (RingVersion, LogIndex),
        effects: &mut Vec<Effect>,
    ) {
        let changed =
            RingChanged { ring_version: version.0, index: index.0, ..RingChanged::default() };
        send(peer, request, encode(&changed, &[]), effects);
    }

    /// A storage node moved parts of the registers.
    pub(super) fn on_activate(
        &mut self,
        now: Instant,
        sender: &Sender,
        record: &Record<'_>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), RecordError> {
        let (_, [moves]) = record.open::<RegisterActivate, 1>()?;
        let moves = items_of::<RegisterMove>(moves).unwrap_or_default();
        let most = limits::REGISTER_PARTITIONS as usize;
        let refusal = if sender.role != Role::Storage {
            let text = "parts of the registers are moved by storage nodes";
            Output::refused(ErrorCode::NotAllowed, text)
        } else if moves.len() > most {
            let text = format!("{} parts are moved, and there are {most}", moves.len());
            Output::refused(ErrorCode::TooLarge, text)
        } else {
            let moves = moves.iter().map(PartMove::from).collect();
            let who = Waiting::peer(sender, record, Wanted::Activation);
            self.invoke(now, &Command::RegistersActivated { moves }, who, effects);
            return Ok(());
        };
        self.refuse(sender, record, &refusal, effects);
        Ok(())
    }

    /// The activation is applied.
    pub(super) fn reply_activated(
        peer: Peer,
        request: RequestId,
        index: LogIndex,
        effects: &mut Vec<Effect>,
    ) {
        let activated = RegisterActivated { index: index.0, ..RegisterActivated::default() };
        send(peer, request, encode(&activated, &[]), effects);
    }
}
