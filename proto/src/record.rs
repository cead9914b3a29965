//! Records and frames: how a message is framed, batched, versioned and refused.
//!
//! A *record* is a fixed part (a packed struct that begins with [`GenericMessage`]) followed by its
//! variable parts. A *frame* is one or more records back to back: one ZeroMQ message. A type grows
//! only by appended fields: a receiver reads the prefix that it knows and skips to
//! `header_length`. Nothing here allocates before a length was checked, and nothing panics on
//! bytes from outside.

use bytemuck::{Pod, Zeroable};

use crate::catalogue;
use crate::limits;
use crate::wire::{Field, Part, WireUuid};

/// The head of every record, as given: 25 bytes, packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C, packed)]
pub struct GenericMessage {
    /// Which record this is; see the catalogue.
    pub message_type: u8,
    /// The node that made the record.
    pub node_uuid: WireUuid,
    /// Bytes of the fixed part, counted from byte 0 of the record.
    pub header_length: u64,
}

/// Bytes of a bare [`GenericMessage`].
pub const GENERIC_LENGTH: usize = size_of::<GenericMessage>();
const _: () = assert!(GENERIC_LENGTH == 25);

// The lengths of the given structs never change.
const _: () = {
    use crate::messages::{file, task};
    assert!(<task::WorkerRequest as Message>::GIVEN_LENGTH == 57);
    assert!(<task::WorkerStatus as Message>::GIVEN_LENGTH == 42);
    assert!(<file::FileRequest as Message>::GIVEN_LENGTH == 41);
    assert!(<file::FileResponse as Message>::GIVEN_LENGTH == 49);
};

/// The first appended fields of every message: with them an unknown record can be skipped, a reply
/// finds its request and a message of an earlier connection is known as such.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C, packed)]
pub struct Envelope {
    /// Bytes that follow the fixed part.
    pub body_length: u64,
    /// Chosen by the asker, repeated in the reply; 0 where no reply is wanted.
    pub request_id: u64,
    /// The sender's connection; see [`crate::ids::Generation`]. Stamped when it is sent.
    pub generation: u64,
    /// Number of this record within the connection, from 1. Stamped when it is sent.
    pub sequence: u64,
}

/// Bytes of an [`Envelope`].
pub const ENVELOPE_LENGTH: usize = size_of::<Envelope>();
const _: () = assert!(ENVELOPE_LENGTH == 32);

/// A record type of the catalogue.
pub trait Message: Pod {
    /// Its number, byte 0 of the record.
    const TYPE: u8;
    /// Its name in C and in the documentation.
    const NAME: &'static str;
    /// What it is for.
    const MEANING: &'static str;
    /// Bytes of the fixed part as given (for the five given structs, else 0).
    const GIVEN_LENGTH: usize;
    /// Where the [`Envelope`] lies.
    const ENVELOPE_OFFSET: usize;
    /// Its fields in order; header and envelope, which every message has, are not listed.
    const FIELDS: &'static [Field];
    /// Its variable parts in order.
    const PARTS: &'static [Part];

    /// The values of fields that a shorter sender did not send.
    fn defaults() -> Self {
        Self::zeroed()
    }
}

/// What the framing needs to know about a type; one per line of the catalogue.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Byte 0 of the record.
    pub message_type: u8,
    /// Name in C.
    pub name: &'static str,
    /// What it is for.
    pub meaning: &'static str,
    /// Who sends it.
    pub from: &'static str,
    /// Who receives it.
    pub to: &'static str,
    /// Bytes of the fixed part in this version.
    pub length: usize,
    /// Bytes of the fixed part as given, 0 for messages of our own.
    pub given_length: usize,
    /// Where the envelope lies.
    pub envelope_offset: usize,
    /// Fields in order.
    pub fields: &'static [Field],
    /// Variable parts in order.
    pub parts: &'static [Part],
}

/// Why bytes are not the record that they should be. The text goes to the log and to the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordError {
    /// Fewer bytes than a generic message.
    TooShort {
        /// How many bytes there were.
        length: usize,
    },
    /// `header_length` is neither a given length nor at least this version's.
    HeaderLength {
        /// The record's type.
        message_type: u8,
        /// What it said.
        header_length: u64,
    },
    /// Fixed or variable part reaches past the end of the frame.
    Truncated {
        /// The record's type.
        message_type: u8,
        /// Bytes that the record claims.
        claimed: u64,
        /// Bytes left in the frame.
        left: usize,
    },
    /// A length above its limit.
    TooLong {
        /// The record's type.
        message_type: u8,
        /// What it said.
        length: u64,
    },
    /// A type that this version does not know. What follows it in the frame is still read where
    /// the record has an envelope.
    UnknownType {
        /// The record's type.
        message_type: u8,
    },
    /// Another type than the one asked for.
    OtherType {
        /// The type that was asked for.
        wanted: u8,
        /// The record's type.
        message_type: u8,
    },
    /// A variable part's length does not fit its elements or the record.
    Part {
        /// The record's type.
        message_type: u8,
        /// The part.
        part: &'static str,
    },
    /// A value that its type does not have.
    Value {
        /// The record's type.
        message_type: u8,
        /// The field.
        field: &'static str,
    },
}

impl std::fmt::Display for RecordError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = |message_type: &u8| catalogue::name(*message_type);
        match self {
            RecordError::TooShort { length } => {
                write!(f, "{length} bytes are no record: it has at least {GENERIC_LENGTH}")
            }
            RecordError::HeaderLength { message_type, header_length } => write!(
                f,
                "{}: header_length {header_length} is no length that this type has had",
                name(message_type)
            ),
            RecordError::Truncated { message_type, claimed, left } => write!(
                f,
                "{}: truncated: the record claims {claimed} bytes, the frame has {left}",
                name(message_type)
            ),
            RecordError::TooLong { message_type, length } => {
                write!(f, "{}: {length} bytes are above the limit", name(message_type))
            }
            RecordError::UnknownType { message_type } => {
                write!(f, "message type {message_type:#04x} is unknown to this version")
            }
            RecordError::OtherType { wanted, message_type } => {
                write!(f, "{} where {} is expected", name(message_type), name(wanted))
            }
            RecordError::Part { message_type, part } => {
                write!(f, "{}: the length of part {part} does not fit", name(message_type))
            }
            RecordError::Value { message_type, field } => {
                write!(f, "{}: field {field} has a value that does not exist", name(message_type))
            }
        }
    }
}

impl std::error::Error for RecordError {}

/// One record inside a frame, its lengths checked.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    header: GenericMessage,
    envelope: Envelope,
    fixed: &'a [u8],
    body: &'a [u8],
    layout: &'static Layout,
}

impl<'a> Record<'a> {
    /// The record's type number.
    #[must_use]
    pub fn message_type(&self) -> u8 {
        self.header.message_type
    }

    /// The sender's node UUID as the record claims it.
    #[must_use]
    pub fn node(&self) -> crate::ids::NodeId {
        self.header.node_uuid.into()
    }

    /// The envelope; zeros where a record of given length has none.
    #[must_use]
    pub fn envelope(&self) -> Envelope {
        self.envelope
    }

    /// The id to repeat in a reply.
    #[must_use]
    pub fn request_id(&self) -> crate::ids::RequestId {
        crate::ids::RequestId(self.envelope.request_id)
    }

    /// True for a record as given, without any appended field.
    #[must_use]
    pub fn is_given_form(&self) -> bool {
        self.layout.given_length != 0 && self.fixed.len() == self.layout.given_length
    }

    /// What the catalogue says of this type.
    #[must_use]
    pub fn layout(&self) -> &'static Layout {
        self.layout
    }

    /// Bytes of the whole record.
    #[must_use]
    pub fn length(&self) -> usize {
        self.fixed.len() + self.body.len()
    }

    /// All bytes behind the fixed part.
    #[must_use]
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    /// The fixed part as `T`: the prefix that both versions know, defaults for the rest.
    ///
    /// # Errors
    /// [`RecordError::OtherType`] where the record is another message.
    pub fn read<T: Message>(&self) -> Result<T, RecordError> {
        if self.header.message_type != T::TYPE {
            return Err(RecordError::OtherType {
                wanted: T::TYPE,
                message_type: self.header.message_type,
            });
        }
        let mut message = T::defaults();
        let bytes = bytemuck::bytes_of_mut(&mut message);
        let known = bytes.len().min(self.fixed.len());
        bytes[..known].copy_from_slice(&self.fixed[..known]);
        Ok(message)
    }

    /// The `N` variable parts, in the order of the catalogue. Parts that a newer sender appended
    /// are passed over; parts that an older one did not know are empty.
    ///
    /// # Errors
    /// [`RecordError::Part`] where a length reaches past the record.
    pub fn parts<const N: usize>(&self) -> Result<[&'a [u8]; N], RecordError> {
        debug_assert_eq!(N, self.layout.parts.len(), "{} parts", self.layout.name);
        let mut parts = [&[][..]; N];
        let mut rest = self.body;
        for (slot, part) in parts.iter_mut().zip(self.layout.parts) {
            let length = part_length(self.layout, part, self.fixed)?;
            let Some((bytes, behind)) = rest.split_at_checked(length) else {
                return Err(RecordError::Part {
                    message_type: self.header.message_type,
                    part: part.name,
                });
            };
            *slot = bytes;
            rest = behind;
        }
        Ok(parts)
    }

    /// Fixed part and variable parts together.
    ///
    /// # Errors
    /// As [`Record::read`] and [`Record::parts`].
    pub fn open<T: Message, const N: usize>(&self) -> Result<(T, [&'a [u8]; N]), RecordError> {
        Ok((self.read()?, self.parts()?))
    }
}

/// Bytes of one variable part by its length field; 0 where the fixed part ends before the field.
fn part_length(layout: &Layout, part: &Part, fixed: &[u8]) -> Result<usize, RecordError> {
    let wrong = RecordError::Part { message_type: layout.message_type, part: part.name };
    let Some(bytes) = fixed.get(part.length_offset..part.length_offset + 8) else {
        return Ok(0);
    };
    let count = u64::from_le_bytes(bytes.try_into().map_err(|_| wrong)?);
    let length = count.checked_mul(part.element_size as u64).ok_or(wrong)?;
    if length > limits::FRAME_BYTES as u64 {
        return Err(RecordError::TooLong { message_type: layout.message_type, length });
    }
    usize::try_from(length).map_err(|_| wrong)
}

/// Reads the records of a frame one after the other. An error that tells no way on ends it; after
/// an unknown type with an envelope the next record follows.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Records<'a> {
    /// The records of one frame.
    #[must_use]
    pub fn of(frame: &'a [u8]) -> Records<'a> {
        Records { rest: frame }
    }

    fn take(&mut self) -> Result<Record<'a>, RecordError> {
        let rest = std::mem::take(&mut self.rest);
        let Some(header) = rest.get(..GENERIC_LENGTH) else {
            return Err(RecordError::TooShort { length: rest.len() });
        };
        let header: GenericMessage = bytemuck::pod_read_unaligned(header);
        let GenericMessage { message_type, header_length, .. } = header;
        if header_length > limits::FIXED_PART_BYTES as u64 {
            return Err(RecordError::TooLong { message_type, length: header_length });
        }
        let fixed_length = header_length as usize;
        if fixed_length > rest.len() {
            let left = rest.len();
            return Err(RecordError::Truncated { message_type, claimed: header_length, left });
        }
        let layout = catalogue::layout(message_type);
        let envelope_offset = layout.map_or(GENERIC_LENGTH, |layout| layout.envelope_offset);
        if let Some(layout) = layout
            && fixed_length < layout.length
            && (fixed_length != layout.given_length || layout.given_length == 0)
        {
            return Err(RecordError::HeaderLength { message_type, header_length });
        }
        let (fixed, behind) = rest.split_at(fixed_length);
        let envelope = fixed.get(envelope_offset..envelope_offset + ENVELOPE_LENGTH);
        let envelope: Option<Envelope> = envelope.map(bytemuck::pod_read_unaligned);
        let body_length = match (envelope, layout) {
            (Some(envelope), _) => envelope.body_length,
            (None, Some(layout)) => {
                let mut total = 0u64;
                for part in layout.parts {
                    total = total.saturating_add(part_length(layout, part, fixed)? as u64);
                }
                total
            }
            (None, None) => return Err(RecordError::UnknownType { message_type }),
        };
        if body_length > limits::FRAME_BYTES as u64 {
            return Err(RecordError::TooLong { message_type, length: body_length });
        }
        let Some((body, next)) = behind.split_at_checked(body_length as usize) else {
            let claimed = header_length.saturating_add(body_length);
            return Err(RecordError::Truncated { message_type, claimed, left: rest.len() });
        };
        self.rest = next;
        let Some(layout) = layout else {
            return Err(RecordError::UnknownType { message_type });
        };
        Ok(Record { header, envelope: envelope.unwrap_or_default(), fixed, body, layout })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() { None } else { Some(self.take()) }
    }
}

/// Encodes one record: fills in type, `header_length`, `body_length` and the length fields of the
/// variable parts. `parts` are the parts in the order of the catalogue, as bytes. Node UUID,
/// generation and sequence are stamped where it is sent; see [`stamp`].
///
/// # Panics
/// If the number of parts, or the length of one, does not fit the catalogue: a bug of ours.
#[must_use]
pub fn encode<T: Message>(message: &T, parts: &[&[u8]]) -> Vec<u8> {
    encode_parts(message, size_of::<T>(), parts)
}

/// A record that lacks nothing but its variable parts, with room for them: who appends as many bytes
/// as were told has the record that [`encode`] makes, without having held the parts elsewhere.
///
/// # Panics
/// As [`encode`].
#[must_use]
pub fn encode_head<T: Message>(message: &T, part_lengths: &[usize]) -> Vec<u8> {
    encode_fixed(message, size_of::<T>(), part_lengths.iter().copied())
}

/// As [`encode`], in the given form without any appended field, for a peer that asked in it.
///
/// # Panics
/// As [`encode`], and for a message that has no given form.
#[must_use]
pub fn encode_given<T: Message>(message: &T, parts: &[&[u8]]) -> Vec<u8> {
    assert!(T::GIVEN_LENGTH != 0, "{} has no given form", T::NAME);
    encode_parts(message, T::GIVEN_LENGTH, parts)
}

fn encode_parts<T: Message>(message: &T, fixed_length: usize, parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = encode_fixed(message, fixed_length, parts.iter().map(|part| part.len()));
    for content in parts {
        bytes.extend_from_slice(content);
    }
    bytes
}

fn encode_fixed<T: Message>(
    message: &T,
    fixed_length: usize,
    lengths: impl ExactSizeIterator<Item = usize> + Clone,
) -> Vec<u8> {
    assert_eq!(lengths.len(), T::PARTS.len(), "{} has {} parts", T::NAME, T::PARTS.len());
    let body_length: usize = lengths.clone().sum();
    let mut bytes = Vec::with_capacity(fixed_length + body_length);
    bytes.extend_from_slice(&bytemuck::bytes_of(message)[..fixed_length]);
    bytes[0] = T::TYPE;
    put_u64(&mut bytes, GENERIC_LENGTH - 8, fixed_length as u64);
    for (part, length) in T::PARTS.iter().zip(lengths) {
        assert_eq!(length % part.element_size, 0, "{}: part {}", T::NAME, part.name);
        let count = (length / part.element_size) as u64;
        if part.length_offset < fixed_length {
            put_u64(&mut bytes, part.length_offset, count);
        } else {
            assert!(length == 0, "{} as given has no part {}", T::NAME, part.name);
        }
    }
    if T::ENVELOPE_OFFSET < fixed_length {
        put_u64(&mut bytes, T::ENVELOPE_OFFSET, body_length as u64);
    }
    bytes
}

fn put_u64(bytes: &mut [u8], offset: usize, value: u64) {
    bytes[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
}

/// Stamps an encoded record at the moment of sending: who sends it, on which connection, as which
/// record of it. A record in the given form has no place for the last two.
pub fn stamp(record: &mut [u8], node: crate::ids::NodeId, generation: u64, sequence: u64) {
    record[1..17].copy_from_slice(bytemuck::bytes_of(&node.to_wire()));
    if let Some(offset) = envelope_offset(record) {
        put_u64(record, offset + 16, generation);
        put_u64(record, offset + 24, sequence);
    }
}

/// Sets the request id of an encoded record that has an envelope.
pub fn set_request_id(record: &mut [u8], request_id: crate::ids::RequestId) {
    if let Some(offset) = envelope_offset(record) {
        put_u64(record, offset + 8, request_id.0);
    }
}

fn envelope_offset(record: &[u8]) -> Option<usize> {
    let layout = catalogue::layout(*record.first()?)?;
    let length = record.get(GENERIC_LENGTH - 8..GENERIC_LENGTH)?;
    let length = u64::from_le_bytes(length.try_into().ok()?);
    (length >= (layout.envelope_offset + ENVELOPE_LENGTH) as u64).then_some(layout.envelope_offset)
}
