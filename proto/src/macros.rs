//! The two macros that declare wire structs once: the packed struct, its fields' names, offsets
//! and meanings (for the C header, the protocol description and the layout test).

/// Declares a packed struct that occurs many times in a variable part.
macro_rules! item {
    (
        $(#[doc = $meaning:literal])+
        $cname:literal $name:ident {
            $($(#[doc = $doc:literal])+ $field:ident: $type:ty,)+
        }
    ) => {
        $(#[doc = $meaning])+
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
        #[repr(C, packed)]
        pub struct $name {
            $($(#[doc = $doc])+ pub $field: $type,)+
        }

        impl $crate::wire::Element for $name {
            const ITEM: Option<&'static $crate::wire::ItemLayout> =
                Some(&$crate::wire::ItemLayout {
                    name: $cname,
                    meaning: concat!($($meaning),+),
                    size: size_of::<$name>(),
                    fields: &[$($crate::wire::Field {
                        name: stringify!($field),
                        kind: <$type as $crate::wire::FieldType>::KIND,
                        offset: std::mem::offset_of!($name, $field),
                        size: size_of::<$type>(),
                        meaning: concat!($($doc),+),
                    },)+],
                });
        }
    };
}
pub(crate) use item;

/// Declares a message: a record's fixed part and what follows it.
///
/// `given { … }` holds the fields of a given struct, in front of the envelope; `absent { … }` the
/// values that a sender of the given form means by not sending a field.
macro_rules! message {
    (
        $(#[doc = $meaning:literal])+
        $name:ident {
            $(given { $($(#[doc = $gdoc:literal])+ $gfield:ident: $gtype:ty,)+ })?
            $($(#[doc = $doc:literal])+ $field:ident: $type:ty,)*
        }
        $(parts {
            $($(#[doc = $pdoc:literal])+ $part:ident: [$element:ty; $ename:literal] by $length:ident,)+
        })?
        $(absent { $($afield:ident: $avalue:expr,)+ })?
    ) => {
        $(#[doc = $meaning])+
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
        #[repr(C, packed)]
        pub struct $name {
            /// The head of every record.
            pub header: $crate::record::GenericMessage,
            $($($(#[doc = $gdoc])+ pub $gfield: $gtype,)+)?
            /// Body length, request id, generation, sequence.
            pub envelope: $crate::record::Envelope,
            $($(#[doc = $doc])+ pub $field: $type,)*
        }

        impl $crate::record::Message for $name {
            const TYPE: u8 = <$name as $crate::catalogue::Numbered>::NUMBER;
            const NAME: &'static str = <$name as $crate::catalogue::Numbered>::NAME;
            const MEANING: &'static str = concat!($($meaning),+);
            const GIVEN_LENGTH: usize = {
                let given: &[&str] = &[$($(stringify!($gfield)),+)?];
                if given.is_empty() { 0 } else { std::mem::offset_of!($name, envelope) }
            };
            const ENVELOPE_OFFSET: usize = std::mem::offset_of!($name, envelope);
            const FIELDS: &'static [$crate::wire::Field] = &[
                $($($crate::wire::Field {
                    name: stringify!($gfield),
                    kind: <$gtype as $crate::wire::FieldType>::KIND,
                    offset: std::mem::offset_of!($name, $gfield),
                    size: size_of::<$gtype>(),
                    meaning: concat!($($gdoc),+),
                },)+)?
                $($crate::wire::Field {
                    name: stringify!($field),
                    kind: <$type as $crate::wire::FieldType>::KIND,
                    offset: std::mem::offset_of!($name, $field),
                    size: size_of::<$type>(),
                    meaning: concat!($($doc),+),
                },)*
            ];
            const PARTS: &'static [$crate::wire::Part] = &[$($($crate::wire::Part {
                name: stringify!($part),
                element_size: size_of::<$element>(),
                element: $ename,
                item: <$element as $crate::wire::Element>::ITEM,
                length_offset: std::mem::offset_of!($name, $length),
                length_field: stringify!($length),
                meaning: concat!($($pdoc),+),
            },)+)?];

            $(fn defaults() -> $name {
                $name { $($afield: $avalue,)+ ..Default::default() }
            })?
        }

        // The framing reads every length field as eight bytes.
        $($(const _: fn($name) -> u64 = |message| message.$length;)+)?
    };
}
pub(crate) use message;
