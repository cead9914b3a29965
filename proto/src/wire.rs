//! Field types of wire structs: packed, little-endian, alignment 1.
//!
//! A received frame has no alignment guarantee (libzmq hands out slices of its receive buffer), so
//! nothing here may have an alignment above 1.

use bytemuck::{Pod, Zeroable};

#[cfg(target_endian = "big")]
compile_error!("the wire structs are little-endian and decoded in place");

/// A UUID as two little-endian halves: `upper` is the 128-bit integer shifted right by 64
/// (RFC 9562 order), `lower` the rest.
#[derive(Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C, packed)]
pub struct WireUuid {
    upper: u64,
    lower: u64,
}

impl WireUuid {
    /// Splits a UUID.
    #[must_use]
    pub const fn new(value: u128) -> WireUuid {
        WireUuid { upper: (value >> 64) as u64, lower: value as u64 }
    }

    /// Puts the halves together.
    #[must_use]
    pub const fn value(self) -> u128 {
        ((self.upper as u128) << 64) | self.lower as u128
    }
}

impl std::fmt::Debug for WireUuid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.value())
    }
}

/// The type of a field, as the C header and the protocol description name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldKind {
    /// `uint8_t`
    U8,
    /// `uint16_t`
    U16,
    /// `uint32_t`
    U32,
    /// `int32_t`
    I32,
    /// `uint64_t`
    U64,
    /// Two `uint64_t`, `_upper` and `_lower`.
    Uuid,
    /// `uint8_t [32]`: a BLAKE3 digest.
    Digest,
}

/// A type that may be a field of a wire struct.
pub trait FieldType: Pod {
    /// What it is called in the C header.
    const KIND: FieldKind;
}

impl FieldType for u8 {
    const KIND: FieldKind = FieldKind::U8;
}
impl FieldType for u16 {
    const KIND: FieldKind = FieldKind::U16;
}
impl FieldType for u32 {
    const KIND: FieldKind = FieldKind::U32;
}
impl FieldType for i32 {
    const KIND: FieldKind = FieldKind::I32;
}
impl FieldType for u64 {
    const KIND: FieldKind = FieldKind::U64;
}
impl FieldType for WireUuid {
    const KIND: FieldKind = FieldKind::Uuid;
}
impl FieldType for [u8; 32] {
    const KIND: FieldKind = FieldKind::Digest;
}

/// One field of a wire struct.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its name in C and in the documentation.
    pub name: &'static str,
    /// Its type.
    pub kind: FieldKind,
    /// Bytes from the start of the struct.
    pub offset: usize,
    /// Its size in bytes.
    pub size: usize,
    /// What it means.
    pub meaning: &'static str,
}

/// One variable part behind the fixed part of a record.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// Its name.
    pub name: &'static str,
    /// Bytes of one element; the length field counts elements.
    pub element_size: usize,
    /// Name of the element's struct, or of how the bytes are encoded.
    pub element: &'static str,
    /// The element's struct, where it is one.
    pub item: Option<&'static ItemLayout>,
    /// Where in the fixed part its `u64` length field lies.
    pub length_offset: usize,
    /// Name of that field.
    pub length_field: &'static str,
    /// What it holds.
    pub meaning: &'static str,
}

/// What is known of a packed struct that occurs many times in a variable part.
#[derive(Clone, Copy, Debug)]
pub struct ItemLayout {
    /// Its name in C.
    pub name: &'static str,
    /// What it means.
    pub meaning: &'static str,
    /// Its size in bytes.
    pub size: usize,
    /// Its fields in order.
    pub fields: &'static [Field],
}

/// A type of which a variable part holds many.
pub trait Element: Pod {
    /// Its struct; `None` for bytes, numbers and UUIDs.
    const ITEM: Option<&'static ItemLayout>;
}

impl Element for u8 {
    const ITEM: Option<&'static ItemLayout> = None;
}
impl Element for WireUuid {
    const ITEM: Option<&'static ItemLayout> = None;
}
impl Element for [u8; 32] {
    const ITEM: Option<&'static ItemLayout> = None;
}

/// The bytes of a slice of items.
#[must_use]
pub fn bytes_of<T: Pod>(items: &[T]) -> &[u8] {
    bytemuck::cast_slice(items)
}

/// The items in a variable part; `None` where the length does not fit.
#[must_use]
pub fn items_of<T: Pod>(bytes: &[u8]) -> Option<&[T]> {
    const { assert!(align_of::<T>() == 1) };
    bytemuck::try_cast_slice(bytes).ok()
}
