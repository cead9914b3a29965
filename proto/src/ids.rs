//! Identifiers: one type for each idea, so that no bare number crosses a function as an id.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::wire::WireUuid;

/// A text that is not the identifier it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotAnId {
    what: &'static str,
    text: String,
}

impl fmt::Display for NotAnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not a {} (a UUID such as ", self.text, self.what)?;
        write!(f, "6ba7b810-9dad-41d1-80b4-00c04fd430c8)")
    }
}

impl std::error::Error for NotAnId {}

macro_rules! uuid_ids {
    ($($(#[$doc:meta])* $name:ident, $what:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        pub struct $name(pub u128);

        impl $name {
            /// The id as it travels: upper and lower half.
            #[must_use]
            pub const fn to_wire(self) -> WireUuid {
                WireUuid::new(self.0)
            }

            /// A random id (UUIDv4) from 128 random bits; the caller brings the randomness.
            #[must_use]
            pub const fn from_random(bits: u128) -> $name {
                $name(uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid().as_u128())
            }

            /// True for the all-zero id, which stands for "none".
            #[must_use]
            pub const fn is_nil(self) -> bool {
                self.0 == 0
            }
        }

        impl From<WireUuid> for $name {
            fn from(wire: WireUuid) -> $name {
                $name(wire.value())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&Uuid::from_u128(self.0).hyphenated(), f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }

        impl FromStr for $name {
            type Err = NotAnId;
            fn from_str(text: &str) -> Result<$name, NotAnId> {
                Uuid::parse_str(text)
                    .map(|uuid| $name(uuid.as_u128()))
                    .map_err(|_| NotAnId { what: $what, text: text.chars().take(80).collect() })
            }
        }
    )*};
}

uuid_ids! {
    /// A cluster: drawn by `cluster init`, carried by every `hello`.
    ClusterId, "cluster UUID";
    /// A process of a tier, or a client. Daemons keep theirs in the data folder; a client process
    /// draws a new one at each start.
    NodeId, "node UUID";
    /// A job; chosen by the client, so that submitting again is harmless.
    JobId, "job UUID";
    /// A file: made from the digest of its content (one block) or of its manifest (several).
    FileId, "file UUID";
    /// A block: made from the digest of its bytes.
    BlockId, "block UUID";
    /// A storage node's data folder; a folder that was emptied has another one.
    StoreId, "store UUID";
}

macro_rules! number_ids {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
        )]
        pub struct $name(pub u64);

        impl $name {
            /// The one after this.
            #[must_use]
            pub const fn next(self) -> $name {
                $name(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    )*};
}

number_ids! {
    /// Fences a lease; what carries an older one is refused. From one counter of the whole
    /// cluster that never restarts. 0 is older than every granted one.
    Epoch;
    /// One state of the ring of storage nodes.
    RingVersion;
    /// Position of an entry in the Raft log.
    LogIndex;
    /// How often a data folder has been started; tells a restarted process from its predecessor
    /// without comparing clocks.
    Incarnation;
    /// One connection of a node: (incarnation << 32) | sockets opened since. Later is higher.
    Generation;
    /// A request within its sender's life. For changing requests also the number under which the
    /// masters remember the reply.
    RequestId;
    /// One execution of a run of tasks: max(lease epoch, move number) << 32 | sequence. A later
    /// attempt is always the higher one.
    Attempt;
    /// Index of a task in its job.
    TaskIndex;
}

/// One task: a job and an index in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TaskId {
    /// The job.
    pub job: JobId,
    /// Which of its tasks.
    pub index: TaskIndex,
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.job, self.index)
    }
}

impl Generation {
    /// The generation of the `opened`-th socket of an incarnation.
    #[must_use]
    pub const fn of(incarnation: Incarnation, opened: u32) -> Generation {
        Generation((incarnation.0 << 32) | opened as u64)
    }
}
