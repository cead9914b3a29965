//! Operations on registers over the links of a transfer, because a node has one link to any other.
//!
//! Deliberately not for what is asked and what follows: see [`crate::logic::registers`].

use node::logic::network::NetworkEffect;
use proto::time::{Duration, Instant};

use super::Transfer;
use super::nodes::Asked;
use crate::logic::registers::{Ask, Ended, OperationId, RegisterError, RegisterRequest};

impl Transfer {
    /// Begins an operation on a register, which ends within `patience` with
    /// [`Transfer::next_register`].
    ///
    /// # Errors
    /// [`RegisterError::TooLong`] and [`RegisterError::TooMany`].
    pub fn register<E: From<NetworkEffect>>(
        &mut self,
        now: Instant,
        address: u64,
        request: RegisterRequest,
        patience: Duration,
        effects: &mut Vec<E>,
    ) -> Result<OperationId, RegisterError> {
        let begun = self.registers.begin(now, &mut self.view, address, request, patience);
        self.go_on(now, effects);
        begun
    }

    /// The next operation on a register that ended.
    pub fn next_register(&mut self) -> Option<Ended> {
        self.registers.next_ended()
    }

    pub(super) fn send_registers(&mut self, now: Instant) {
        while let Some(Ask { to, key, record }) = self.registers.next_ask() {
            let address = self.view.address(to).map(str::to_owned);
            let reached = address.and_then(|address| self.nodes.reach(to, &address));
            match reached.map(|node| node.has_room_for_register(now)) {
                None => self.registers.failed(now, to, key, "its address is not known"),
                Some(false) => self.registers.not_sent(now, to, key),
                Some(true) => {
                    let bytes = record.len() as u64;
                    if let Some(request) = self.nodes.book(now, to, Asked::Register(key), bytes) {
                        self.nodes.send(now, to, request, record);
                    }
                }
            }
        }
    }
}
