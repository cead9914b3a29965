//! A primary's side of the marks: what it tells its auxiliary, and what it must not deal before the
//! auxiliary knows.
//!
//! An auxiliary is told everything once (*learning*) and is *in step* from then on: nothing is
//! dealt that it does not know may be dealt. One that does not answer for [`PATIENCE`] is *leaving*
//! until the masters logged that it is absent; only then the primary goes on without it. How far
//! the marks go is `marks.rs`' business.

use std::collections::{BTreeSet, VecDeque};

use node::logic::network::{Link, NetworkEffect, Peer, Sender};
use proto::ids::{Epoch, Incarnation, JobId, LogIndex, NodeId, RequestId};
use proto::messages::node::{DealBound, DealMark, DealMarkReply, LeaseReply};
use proto::record::encode;
use proto::status::AuxiliaryState;
use proto::time::{Duration, Instant};
use proto::wire::bytes_of;

use super::marks::Bound;
use super::tasks::Tasks;

/// The link to the auxiliary.
pub(super) const AUXILIARY_LINK: Link = Link(1);

/// How long a mark may stay unacknowledged.
const PATIENCE: Duration = Duration::from_millis(500);

/// When a mark is sent again: twice before patience ends.
const REPEAT: Duration = Duration::from_millis(150);

/// How long one that did not answer is left alone.
const PAUSE: Duration = Duration::from_millis(500);

/// How long a link may take until the other side has answered.
const OPENING: Duration = Duration::from_secs(2);

/// Marks of one message: 32 KiB.
const BOUNDS: usize = 1_000;

/// Who the auxiliary is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    node: NodeId,
    incarnation: Incarnation,
    address: String,
}

/// How far the auxiliary is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// It is told nothing, and nothing waits for it.
    #[default]
    Absent,
    /// It is being told everything, and what is dealt waits for it already.
    Learning,
    /// It knows everything, and the masters are told so.
    InStep,
    /// It does not answer, and the masters are told so.
    Leaving,
}

/// The message that was not acknowledged yet.
#[derive(Clone, Debug)]
struct UnderWay {
    bounds: Vec<Bound>,
    record: Vec<u8>,
    sent_at: Instant,
    repeat_at: Instant,
}

/// What the primary does for its auxiliary under one epoch.
#[derive(Clone, Debug, Default)]
pub(super) struct Auxiliary {
    place: Option<Place>,
    epoch: Epoch,
    phase: Phase,
    /// The last request before it was found that it does not answer: what the masters say to that
    /// or an earlier one may be older than the note that it is in step.
    left_after: RequestId,
    /// Whom the masters may have logged as in step under `epoch`, until they say otherwise.
    claimed: Option<(NodeId, Incarnation)>,
    /// How the masters last said that it stands.
    shown: Option<AuxiliaryState>,
    is_connected: bool,
    /// When the link is opened, or opened anew unless the other side answers.
    open_at: Instant,
    is_open: bool,
    /// Number of the last mark under `epoch`: an auxiliary that is told everything again takes no
    /// number for news that it knows.
    last_mark: u64,
    under_way: Option<UnderWay>,
    /// What is still to be told of everything.
    rest: VecDeque<Bound>,
}

/// What a message of marks says beside them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Primary {
    pub(super) group: u64,
    /// How far its feed goes; unknown while it is read anew: then the auxiliary must not take a job
    /// that it does not know for one that ended.
    pub(super) feed: Option<LogIndex>,
    /// Slots of its workers.
    pub(super) slot_count: u32,
    /// What it last asked the masters.
    pub(super) last_request: RequestId,
}

impl Auxiliary {
    /// What the masters are told with a renewal: how it stands, and whom that is about.
    pub(super) fn state(&self) -> (AuxiliaryState, Incarnation) {
        let state = match self.phase {
            Phase::InStep => AuxiliaryState::InStep,
            Phase::Leaving => AuxiliaryState::Absent,
            _ if self.is_claimed() => AuxiliaryState::Absent,
            Phase::Absent | Phase::Learning => AuxiliaryState::Unknown,
        };
        let incarnation = self.place.as_ref().map_or(Incarnation(0), |place| place.incarnation);
        (state, incarnation)
    }

    /// True where the masters should hear at once how it stands.
    pub(super) fn is_news(&self) -> bool {
        let (state, _) = self.state();
        state != AuxiliaryState::Unknown && self.shown != Some(state)
    }

    /// True where it knows everything, as far as this primary can tell.
    pub(super) fn is_in_step(&self) -> bool {
        self.phase == Phase::InStep
    }

    /// True where the masters may still have it that it is in step, and it is not: whoever is
    /// promoted now takes what is dealt from now on for not dealt.
    pub(super) fn forbids_dealing(&self) -> bool {
        self.phase == Phase::Absent && self.is_claimed()
    }

    fn is_claimed(&self) -> bool {
        self.claimed.is_some() && self.claimed == self.whom()
    }

    fn whom(&self) -> Option<(NodeId, Incarnation)> {
        self.place.as_ref().map(|place| (place.node, place.incarnation))
    }

    /// This balancer is not the primary, or not under the same epoch.
    pub(super) fn dismiss(&mut self, tasks: &mut Tasks, effects: &mut Vec<NetworkEffect>) {
        self.let_go(tasks, effects);
        let (epoch, last_mark, claimed) = (self.epoch, self.last_mark, self.claimed);
        *self = Auxiliary { epoch, last_mark, claimed, ..Auxiliary::default() };
    }

    /// Nothing waits for it any more.
    fn let_go(&mut self, tasks: &mut Tasks, effects: &mut Vec<NetworkEffect>) {
        self.phase = Phase::Absent;
        self.under_way = None;
        self.rest.clear();
        tasks.unbind();
        if std::mem::take(&mut self.is_open) {
            effects.push(NetworkEffect::Close { link: AUXILIARY_LINK });
        }
        self.is_connected = false;
    }

    /// The masters say who the auxiliary is and how the log has it, in answer to a renewal.
    pub(super) fn told(
        &mut self,
        now: Instant,
        (request, reply): (RequestId, &LeaseReply),
        address: &str,
        tasks: &mut Tasks,
        effects: &mut Vec<NetworkEffect>,
    ) {
        let node = NodeId::from(reply.auxiliary_uuid);
        let place = (!node.is_nil() && !address.is_empty()).then(|| Place {
            node,
            incarnation: Incarnation(reply.auxiliary_incarnation),
            address: address.to_owned(),
        });
        let epoch = Epoch(reply.epoch);
        if (&place, epoch) != (&self.place, self.epoch) {
            // The log knows of nobody else that it is in step.
            self.dismiss(tasks, effects);
            if epoch != self.epoch {
                (self.epoch, self.last_mark, self.claimed) = (epoch, 0, None);
            }
            (self.place, self.open_at) = (place, now);
        }
        self.shown = AuxiliaryState::from_wire(reply.auxiliary);
        match (self.phase, self.shown) {
            (Phase::Leaving, Some(AuxiliaryState::Absent)) if request > self.left_after => {
                self.claimed = None;
                self.let_go(tasks, effects);
                self.open_at = now + PAUSE;
            }
            (Phase::Absent, Some(AuxiliaryState::Absent)) => self.claimed = None,
            (Phase::Absent, Some(AuxiliaryState::InStep)) => self.claimed = self.whom(),
            _ => {}
        }
    }

    /// The other side accepted the link, or accepted it again.
    pub(super) fn connected(
        &mut self,
        now: Instant,
        sender: &Sender,
        effects: &mut Vec<NetworkEffect>,
    ) {
        let is_meant =
            |place: &Place| (place.node, place.incarnation) == (sender.node, sender.incarnation);
        self.is_connected = self.place.as_ref().is_some_and(is_meant);
        if !self.is_connected {
            return;
        }
        if let Some(under_way) = &mut self.under_way {
            under_way.repeat_at = now + REPEAT;
            send(under_way.record.clone(), effects);
        }
    }

    /// The other side refuses the link.
    pub(super) fn refused(&mut self, now: Instant, effects: &mut Vec<NetworkEffect>) {
        self.close(now, effects);
    }

    fn close(&mut self, now: Instant, effects: &mut Vec<NetworkEffect>) {
        self.is_connected = false;
        self.open_at = now + PAUSE;
        if std::mem::take(&mut self.is_open) {
            effects.push(NetworkEffect::Close { link: AUXILIARY_LINK });
        }
    }

    /// It acknowledges marks. Returns true where more tasks may be dealt now.
    pub(super) fn acknowledged(&mut self, reply: &DealMarkReply, tasks: &mut Tasks) -> bool {
        let of = (Epoch(reply.epoch), Incarnation(reply.auxiliary_incarnation));
        let is_meant = |place: &Place| (self.epoch, place.incarnation) == of;
        if !self.place.as_ref().is_some_and(is_meant) || { reply.mark } != self.last_mark {
            return false;
        }
        let is_waited_for = matches!(self.phase, Phase::Learning | Phase::InStep);
        let Some(under_way) = self.under_way.take_if(|_| is_waited_for) else {
            return false;
        };
        tasks.admit(&under_way.bounds)
    }

    /// What is due at its time: the link, marks without answer, the next marks.
    pub(super) fn tick(
        &mut self,
        now: Instant,
        primary: &Primary,
        tasks: &mut Tasks,
        effects: &mut Vec<NetworkEffect>,
    ) {
        if let Some(under_way) = &mut self.under_way {
            if now >= under_way.sent_at + PATIENCE {
                match self.phase {
                    // The masters were not told that it is in step.
                    Phase::Learning => self.let_go(tasks, effects),
                    _ => {
                        (self.phase, self.left_after) = (Phase::Leaving, primary.last_request);
                    }
                }
                self.under_way = None;
                self.close(now, effects);
            } else if now >= under_way.repeat_at && self.is_connected {
                under_way.repeat_at = now + REPEAT;
                send(under_way.record.clone(), effects);
            }
        }
        if let Some(place) = &self.place
            && !self.is_connected
            && now >= self.open_at
        {
            let address = place.address.clone();
            effects.push(NetworkEffect::Open { link: AUXILIARY_LINK, address });
            (self.is_open, self.open_at) = (true, now + OPENING);
        }
        if self.is_connected && self.under_way.is_none() {
            self.tell(now, primary, tasks, effects);
        }
    }

    fn tell(
        &mut self,
        now: Instant,
        primary: &Primary,
        tasks: &mut Tasks,
        effects: &mut Vec<NetworkEffect>,
    ) {
        match self.phase {
            // What is in doubt would make it take far too much for dealt.
            Phase::Absent => {
                let is_settled = tasks.doubt.is_none() && !tasks.has_questions();
                if is_settled && self.shown == Some(AuxiliaryState::Absent) {
                    self.phase = Phase::Learning;
                    self.rest = tasks.bind(primary.slot_count).into();
                    let bounds = self.next_rest();
                    self.send(now, primary, bounds, 1, effects);
                }
            }
            Phase::Learning if !self.rest.is_empty() => {
                let bounds = self.next_rest();
                self.send(now, primary, bounds, 0, effects);
            }
            Phase::Learning | Phase::InStep => {
                (self.phase, self.claimed) = (Phase::InStep, self.whom());
                let bounds = tasks.next_bounds(primary.slot_count, BOUNDS);
                if !bounds.is_empty() {
                    self.send(now, primary, bounds, 0, effects);
                }
            }
            Phase::Leaving => {}
        }
    }

    fn next_rest(&mut self) -> Vec<Bound> {
        self.rest.drain(..self.rest.len().min(BOUNDS)).collect()
    }

    fn send(
        &mut self,
        now: Instant,
        primary: &Primary,
        bounds: Vec<Bound>,
        is_complete: u8,
        effects: &mut Vec<NetworkEffect>,
    ) {
        self.last_mark += 1;
        let message = DealMark {
            group: primary.group,
            epoch: self.epoch.0,
            auxiliary_incarnation: self.state().1.0,
            mark: self.last_mark,
            feed_index: primary.feed.map_or(u64::MAX, |feed| feed.0),
            is_complete,
            ..DealMark::default()
        };
        let items: Vec<DealBound> = bounds
            .iter()
            .map(|bound| DealBound {
                job_uuid: bound.job.to_wire(),
                first_task: bound.first,
                dealt_below: bound.below,
            })
            .collect();
        let record = encode(&message, &[bytes_of(&items)]);
        send(record.clone(), effects);
        let repeat_at = now + REPEAT;
        self.under_way = Some(UnderWay { bounds, record, sent_at: now, repeat_at });
    }

    /// Panics where tasks wait for this auxiliary and nothing is done about it.
    pub(super) fn check_invariants(&self, tasks: &Tasks) {
        assert_eq!(tasks.is_bound, self.phase != Phase::Absent, "bound by nobody");
        if matches!(self.phase, Phase::Learning | Phase::InStep) {
            let under_way = self.under_way.iter().flat_map(|under_way| &under_way.bounds);
            let told: BTreeSet<JobId> = under_way.chain(&self.rest).map(|it| it.job).collect();
            tasks.check_marks(|id| told.contains(&id));
        }
    }

    /// When [`Auxiliary::tick`] has something to do.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let under_way = self.under_way.as_ref().map(|under_way| {
            let patience = under_way.sent_at + PATIENCE;
            if self.is_connected { patience.min(under_way.repeat_at) } else { patience }
        });
        let open = (self.place.is_some() && !self.is_connected).then_some(self.open_at);
        [under_way, open].into_iter().flatten().min()
    }
}

fn send(record: Vec<u8>, effects: &mut Vec<NetworkEffect>) {
    effects.push(NetworkEffect::Send { to: Peer::Link(AUXILIARY_LINK), record });
}
