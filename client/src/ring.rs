//! The ring of storage nodes: how it stands, and changes of it.

use proto::ids::RingVersion;

use crate::blocking::Client;
use crate::error::ClientError;
use crate::logic::answers::Answer;
use crate::logic::jobs::{Request, RingOrder};
use crate::logic::rings::RingStanding;

impl Client {
    /// How the ring of storage nodes stands, as the leading master sees it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn ring_status(&self) -> Result<RingStanding, ClientError> {
        match self.begin(Request::RingStatus).wait()?? {
            Answer::RingStatus(standing) => Ok(standing),
            _ => Err(ClientError::OtherAnswer),
        }
    }

    /// Changes the ring of storage nodes and returns its version then; what follows from it goes on
    /// by itself: see [`Client::ring_status`].
    ///
    /// # Errors
    /// [`ClientError`]; among them that an earlier change is under way, or that no node with a
    /// weight would be left. After [`CallFailure::OutcomeUnknown`] look before doing it again.
    ///
    /// [`CallFailure::OutcomeUnknown`]: crate::logic::session::CallFailure::OutcomeUnknown
    pub fn change_ring(&self, order: RingOrder) -> Result<RingVersion, ClientError> {
        match self.begin(Request::ChangeRing(order)).wait()?? {
            Answer::RingChanged { version, .. } => Ok(version),
            _ => Err(ClientError::OtherAnswer),
        }
    }
}
