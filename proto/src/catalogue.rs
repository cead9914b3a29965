//! The message catalogue: one table from which numbers, names, layouts, the C header and
//! `docs/protocol.md` are derived. A number is never used again.

use crate::messages::file::{FileRequest, FileResponse};
use crate::messages::job::{JobAccepted, JobSubmit};
use crate::messages::raft::{MemberJoin, MemberJoined, RaftMessage};
use crate::messages::session::{ErrorReply, Hello, HelloReply, Ping, Pong};
use crate::messages::task::{WorkerRequest, WorkerStatus};
use crate::messages::telemetry::{
    TelemetryAlert, TelemetrySnapshot, TelemetrySnapshotRequest, TelemetryStatus,
};
use crate::record::{Layout, Message};

/// Version of the protocol that this program speaks. A peer of another one is refused at `hello`.
pub const PROTOCOL_VERSION: u32 = 1;

/// Number and name of a message; implemented by the table below and nowhere else.
pub trait Numbered {
    /// Byte 0 of the record.
    const NUMBER: u8;
    /// Its name in C.
    const NAME: &'static str;
}

macro_rules! catalogue {
    ($($number:literal $name:ident $type:ident $from:ident -> $to:ident;)*) => {
        $(impl Numbered for $type {
            const NUMBER: u8 = $number;
            const NAME: &'static str = stringify!($name);
        })*

        /// Every message, in the order of the numbers.
        pub const MESSAGES: &[Layout] = &[$(Layout {
            message_type: $number,
            name: stringify!($name),
            meaning: <$type as Message>::MEANING,
            from: stringify!($from),
            to: stringify!($to),
            length: size_of::<$type>(),
            given_length: <$type as Message>::GIVEN_LENGTH,
            envelope_offset: <$type as Message>::ENVELOPE_OFFSET,
            fields: <$type as Message>::FIELDS,
            parts: <$type as Message>::PARTS,
        },)*];
    };
}

catalogue! {
    // The given structs.
    0x01 worker_request             WorkerRequest            balancer -> worker;
    0x02 worker_status              WorkerStatus             worker   -> master;
    0x03 file_request               FileRequest              any      -> storage;
    0x04 file_response              FileResponse             storage  -> any;
    // Any connection.
    0x08 hello                      Hello                    any      -> any;
    0x09 hello_reply                HelloReply               any      -> any;
    0x0a error_reply                ErrorReply               any      -> any;
    0x0b ping                       Ping                     any      -> any;
    0x0c pong                       Pong                     any      -> any;
    // Client and masters.
    0x10 job_submit                 JobSubmit                client   -> master;
    0x11 job_accepted               JobAccepted              master   -> client;
    // Between masters.
    0x80 raft_message               RaftMessage              master   -> master;
    0x81 member_join                MemberJoin               master   -> master;
    0x82 member_joined              MemberJoined             master   -> master;
    // Telemetry.
    0x90 telemetry_status           TelemetryStatus          any      -> subscriber;
    0x91 telemetry_alert            TelemetryAlert           any      -> subscriber;
    0x92 telemetry_snapshot_request TelemetrySnapshotRequest any      -> any;
    0x93 telemetry_snapshot         TelemetrySnapshot        any      -> any;
}

/// Position of each number in [`MESSAGES`], for a look-up without search.
const POSITIONS: [u8; 256] = {
    let mut positions = [u8::MAX; 256];
    let mut at = 0;
    while at < MESSAGES.len() {
        let number = MESSAGES[at].message_type as usize;
        assert!(positions[number] == u8::MAX, "a message number is used twice");
        positions[number] = at as u8;
        at += 1;
    }
    positions
};

const _: () = assert!(MESSAGES.len() < u8::MAX as usize);

/// What the catalogue says of a number; `None` for one that it does not have.
#[must_use]
pub fn layout(message_type: u8) -> Option<&'static Layout> {
    MESSAGES.get(POSITIONS[message_type as usize] as usize)
}

/// The name of a number, for people.
#[must_use]
pub fn name(message_type: u8) -> &'static str {
    layout(message_type).map_or("unknown message", |layout| layout.name)
}
