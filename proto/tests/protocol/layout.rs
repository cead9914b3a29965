//! Size and offset of every struct, held by a text file: no change of the wire goes unseen.

use std::collections::BTreeMap;
use std::fmt::Write;

use proto::catalogue::{MESSAGES, layout};
use proto::record::{ENVELOPE_LENGTH, GENERIC_LENGTH, Layout};
use proto::wire::{Field, FieldKind, ItemLayout};

use crate::generated::check;

/// Every struct that stands in a variable part, by name.
pub(crate) fn items() -> BTreeMap<&'static str, &'static ItemLayout> {
    let parts = MESSAGES.iter().flat_map(|message| message.parts);
    parts.filter_map(|part| part.item).map(|item| (item.name, item)).collect()
}

fn write_fields(text: &mut String, fields: &[Field]) {
    for field in fields {
        let Field { name, offset, size, .. } = field;
        let kind = format!("{:?}", field.kind).to_lowercase();
        writeln!(text, "  {offset:4} {size:3} {kind:6} {name}").unwrap();
    }
}

fn write_message(text: &mut String, message: &Layout) {
    let Layout { message_type, name, length, given_length, envelope_offset, .. } = message;
    writeln!(text, "\n{message_type:#04x} {name}: {length} bytes").unwrap();
    if *given_length != 0 {
        writeln!(text, "  given as {given_length} bytes").unwrap();
    }
    writeln!(text, "  {envelope_offset:4}  {ENVELOPE_LENGTH}        envelope").unwrap();
    write_fields(text, message.fields);
    for part in message.parts {
        writeln!(text, "  part {} of {} x {}", part.name, part.length_field, part.element_size)
            .unwrap();
    }
}

#[test]
fn no_struct_changes_unseen() {
    let mut text = String::from("Offset, size, type and name of every field on the wire.\n");
    MESSAGES.iter().for_each(|message| write_message(&mut text, message));
    for item in items().values() {
        writeln!(text, "\nitem {}: {} bytes", item.name, item.size).unwrap();
        write_fields(&mut text, item.fields);
    }
    check("proto/tests/layout.txt", &text);
}

#[test]
fn the_given_lengths_are_kept() {
    assert_eq!(GENERIC_LENGTH, 25);
    let given = |name| MESSAGES.iter().find(|it| it.name == name).unwrap().given_length;
    assert_eq!(given("worker_request"), 57);
    assert_eq!(given("worker_status"), 42);
    assert_eq!(given("file_request"), 41);
    assert_eq!(given("file_response"), 49);
}

#[test]
fn the_table_fits_together() {
    for message in MESSAGES {
        let name = message.name;
        assert_eq!(layout(message.message_type).map(|it| it.name), Some(name));
        // Fields and envelope follow each other without a gap.
        let mut end = GENERIC_LENGTH;
        for field in message.fields {
            if end == message.envelope_offset {
                end += ENVELOPE_LENGTH;
            }
            assert_eq!(field.offset, end, "{name}.{}", field.name);
            end += field.size;
        }
        if end == message.envelope_offset {
            end += ENVELOPE_LENGTH;
        }
        assert_eq!(end, message.length, "{name}");
        assert!(message.length <= proto::limits::FIXED_PART_BYTES);
        if message.given_length == 0 {
            assert_eq!(message.envelope_offset, GENERIC_LENGTH, "{name}");
        } else {
            assert_eq!(message.envelope_offset, message.given_length, "{name}");
        }
        for part in message.parts {
            let field = message.fields.iter().find(|field| field.name == part.length_field);
            let field = field.unwrap_or_else(|| panic!("{name}: {}", part.length_field));
            assert_eq!((field.offset, field.kind), (part.length_offset, FieldKind::U64));
            if let Some(item) = part.item {
                assert_eq!((part.element, part.element_size), (item.name, item.size), "{name}");
            }
        }
    }
    assert!(layout(0).is_none() && layout(0xff).is_none());
}
