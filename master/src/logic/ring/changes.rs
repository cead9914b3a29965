//! What users change of the ring: add, drain, remove, rebalance, scrub.
//!
//! Part of `apply`. One change at a time, unless it is forced: two removals in a row, for instance,
//! take both replicas of some blocks before the first was repaired.

use proto::ids::NodeId;
use proto::limits;
use proto::status::ErrorCode;

use super::super::commands::{Output, RingChange};
use super::{CHANGE_VERSIONS, Membership, Rings, Standing};

/// Why a change is refused.
type Refusal = Output;

impl Rings {
    /// Changes the ring; what is so already stays as it is.
    ///
    /// # Errors
    /// The refusal that the user gets; nothing is changed then.
    pub(in super::super) fn change(
        &mut self,
        change: &RingChange,
        is_forced: bool,
    ) -> Result<(), Refusal> {
        let standing = match change {
            RingChange::Rebalance => {
                self.pass_round += 1;
                return Ok(());
            }
            RingChange::Scrub => {
                self.scrub_round += 1;
                return Ok(());
            }
            RingChange::Add { node, weight, zone } => {
                self.added(*node, *weight, zone.as_deref())?
            }
            RingChange::Drain { node } => self.drained(*node)?,
            RingChange::Remove { node } => self.removed(*node)?,
        };
        let node = standing.place.node;
        if self.standing(node) == Some(&standing) {
            return Ok(());
        }
        self.check_room(is_forced)?;
        self.standings.insert(node, standing);
        self.announce(CHANGE_VERSIONS);
        self.settle();
        Ok(())
    }

    fn known(&self, node: NodeId) -> Result<Standing, Refusal> {
        let text =
            || format!("{node} is no storage node of this cluster: see `remuda ring status`");
        self.standing(node).cloned().ok_or_else(|| Output::refused(ErrorCode::NotFound, text()))
    }

    fn added(&self, node: NodeId, weight: u32, zone: Option<&str>) -> Result<Standing, Refusal> {
        let mut standing = self.known(node)?;
        if weight > 0 {
            standing.place.weight = weight;
        }
        if let Some(zone) = zone {
            zone.clone_into(&mut standing.place.zone);
        }
        if standing.place.weight == 0 {
            let text = format!(
                "storage node {node} was started with weight 0: say which one it gets, \
                 --weight 100 is that of a node that was not told otherwise"
            );
            return Err(Output::refused(ErrorCode::Invalid, text));
        }
        if standing.place.zone.len() > limits::NAME_BYTES {
            let text = format!("the name of a zone has at most {} bytes", limits::NAME_BYTES);
            return Err(Output::refused(ErrorCode::TooLarge, text));
        }
        if !standing.is_member() && self.wanted_members().len() >= limits::RING_MEMBERS {
            let text =
                format!("the ring has {} members, and no room for more", limits::RING_MEMBERS);
            return Err(Output::refused(ErrorCode::NotAllowed, text));
        }
        standing.membership = Membership::Member;
        Ok(standing)
    }

    fn drained(&self, node: NodeId) -> Result<Standing, Refusal> {
        let mut standing = self.leaving(node, "be drained")?;
        standing.membership = Membership::Draining;
        Ok(standing)
    }

    fn removed(&self, node: NodeId) -> Result<Standing, Refusal> {
        let mut standing = self.leaving(node, "be removed")?;
        standing.membership = Membership::Removed;
        Ok(standing)
    }

    /// A member that may leave.
    fn leaving(&self, node: NodeId, what: &str) -> Result<Standing, Refusal> {
        let standing = self.known(node)?;
        if !standing.is_member() {
            let state = self.state(node);
            let text =
                format!("storage node {node} is {state}: only a member of the ring can {what}");
            return Err(Output::refused(ErrorCode::Invalid, text));
        }
        if self.is_last(node) {
            let text = format!(
                "storage node {node} is the last one with a weight, and there would be nowhere to \
                 keep anything: add another one first, `remuda ring add NODE`"
            );
            return Err(Output::refused(ErrorCode::NotAllowed, text));
        }
        Ok(standing)
    }

    /// Refused while an earlier change is under way, unless it is forced; and where too many are.
    fn check_room(&self, is_forced: bool) -> Result<(), Refusal> {
        let count = self.undrained_count();
        let text = if count >= CHANGE_VERSIONS {
            format!(
                "{count} versions of the ring are not drained, and no more than {CHANGE_VERSIONS} \
                 may be: wait until `remuda ring status` shows that nothing moves"
            )
        } else if !is_forced && self.is_changing() {
            format!(
                "an earlier change is under way (blocks still lie by ring version {} and newer, the \
                 newest is {}): wait until `remuda ring status` shows that nothing moves, or add \
                 --force",
                self.oldest, self.newest
            )
        } else {
            return Ok(());
        };
        Err(Output::refused(ErrorCode::NotAllowed, text))
    }

    /// True while a version is not drained, or what shall be is not announced yet.
    fn is_changing(&self) -> bool {
        self.oldest < self.newest || self.wanted_members() != self.members(self.newest)
    }
}
