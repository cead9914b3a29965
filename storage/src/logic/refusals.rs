//! How requests are refused, and who is answered at all.

use node::logic::network::NetworkEffect;
use node::logic::refusal::Refusal;
use proto::ids::RingVersion;
use proto::record::RecordError;
use proto::status::ErrorCode;
use proto::time::{Duration, Instant};

use super::{Asker, Effect, Storage};

/// Longest delay that is told with `busy`; each refusal draws its own, so that the refused do not
/// come back together.
const BUSY_DELAY_MS: u64 = 50;

impl Storage {
    /// Whether this node may take a block on, or say that it has it, by this version of the ring;
    /// refuses otherwise.
    pub(super) fn takes_blocks(
        &mut self,
        now: Instant,
        asker: Asker,
        version: RingVersion,
        effects: &mut Vec<Effect>,
    ) -> bool {
        self.membership.saw(now, version);
        let own = self.membership.version();
        let text = if own.0 == 0 {
            "this node does not know the ring yet".to_owned()
        } else if version < own {
            self.stale_ring(asker, version, effects);
            return false;
        } else if version > own {
            format!("this node knows version {own} of the ring and asks for {version}")
        } else if !self.membership.has_lease(now) {
            "this node has not been heard by the masters lately, or is no member of the ring"
                .to_owned()
        } else {
            return true;
        };
        let mut refusal = Refusal::new(ErrorCode::Unavailable, asker.message_type, text);
        refusal.retry_after = Duration::from_millis(1 + self.rng.u64(0..BUSY_DELAY_MS));
        self.refuse(asker, refusal, effects);
        false
    }

    pub(super) fn stale_ring(&self, asker: Asker, version: RingVersion, effects: &mut Vec<Effect>) {
        let own = self.membership.version();
        let text = format!("the ring has version {own}, the request goes by {version}");
        let refusal = Refusal::new(ErrorCode::StaleRing, asker.message_type, text);
        self.refuse(asker, refusal, effects);
    }

    pub(super) fn busy(&mut self, asker: Asker, what: &str, effects: &mut Vec<Effect>) {
        let text = format!("{what} are in flight");
        let mut refusal = Refusal::new(ErrorCode::Busy, asker.message_type, text);
        refusal.retry_after = Duration::from_millis(1 + self.rng.u64(0..BUSY_DELAY_MS));
        self.refuse(asker, refusal, effects);
    }

    pub(super) fn malformed(&self, asker: Asker, error: &RecordError, effects: &mut Vec<Effect>) {
        let refusal = Refusal::new(ErrorCode::Malformed, asker.message_type, error.to_string());
        self.refuse(asker, refusal, effects);
    }

    pub(super) fn refuse(&self, asker: Asker, mut refusal: Refusal, effects: &mut Vec<Effect>) {
        refusal.refused_type = asker.message_type;
        self.send(asker, refusal.to_record(asker.request_id), effects);
    }

    pub(super) fn send(&self, asker: Asker, record: Vec<u8>, effects: &mut Vec<Effect>) {
        if asker.wants_answer() {
            effects.push(Effect::Network(NetworkEffect::Send { to: asker.peer, record }));
        }
    }
}
