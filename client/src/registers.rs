//! Registers: shared memory of a cluster that any client reads and writes, each read and write as if
//! it happened at one moment between its beginning and its end.
//!
//! The storage nodes keep them; a majority of a register's three is enough. Deliberately without a
//! compare-and-set: that needs consensus, which the keyspace of the masters has
//! ([`Client::transact`]).

use proto::ids::NodeId;

use crate::blocking::{Begun, Client};
use crate::error::ClientError;
use crate::logic::registers::{Found, RegisterRequest};

impl Client {
    /// Begins to read a register.
    pub fn begin_register_read(&self, address: u64) -> Begun<Found> {
        self.begin_register(address, RegisterRequest::Read)
    }

    /// Begins to write a register; what was found then is what was stored.
    pub fn begin_register_write(&self, address: u64, value: impl Into<Vec<u8>>) -> Begun<Found> {
        let (writer, value) = (self.writer(), value.into());
        self.begin_register(address, RegisterRequest::Write { writer, value })
    }

    /// What a register holds; `None` where nobody wrote it.
    ///
    /// # Errors
    /// [`ClientError`]; `Register(Unavailable)` where no majority of its replicas answered in time.
    pub fn register_read(&self, address: u64) -> Result<Option<Vec<u8>>, ClientError> {
        let found = self.begin_register_read(address).wait()??;
        Ok(found.is_written().then_some(found.value))
    }

    /// Puts a value, of at most [`proto::limits::REGISTER_VALUE_BYTES`], into a register. When this
    /// returns, a majority of its replicas has it durably, and no read that begins later returns an
    /// older one.
    ///
    /// # Errors
    /// [`ClientError`]. `Register(Unavailable)`: it was not written. `Register(OutcomeUnknown)`: it
    /// may be written now, or become so when somebody reads it.
    pub fn register_write(
        &self,
        address: u64,
        value: impl Into<Vec<u8>>,
    ) -> Result<(), ClientError> {
        self.begin_register_write(address, value).wait()??;
        Ok(())
    }

    /// The copy of a register that one storage node has, which may be an older one, or none; for
    /// looking how registers are spread, not for deciding.
    ///
    /// # Errors
    /// [`ClientError`]; `Register(NoNode)` where the ring does not have the node.
    pub fn register_local(&self, address: u64, node: NodeId) -> Result<Option<Found>, ClientError> {
        let found = self.begin_register(address, RegisterRequest::Local(node)).wait()??;
        Ok(found.is_written().then_some(found))
    }
}
