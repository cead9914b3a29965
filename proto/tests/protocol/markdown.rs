//! `docs/protocol.md`: a text with places, and tables from the catalogue in them.

use std::fmt::Write;

use proto::catalogue::{MESSAGES, PROTOCOL_VERSION};
use proto::record::{ENVELOPE_LENGTH, Layout};
use proto::wire::{Field, FieldKind};

use crate::c_header::{LIMITS, one_line};
use crate::enums::enumerations;
use crate::layout::items;

/// The whole page.
pub(crate) fn protocol() -> String {
    let mut text =
        include_str!("protocol.md.in").replace("{version}", &PROTOCOL_VERSION.to_string());
    for (place, tables) in [
        ("{catalogue}", catalogue()),
        ("{messages}", messages()),
        ("{items}", item_tables()),
        ("{enumerations}", enumeration_tables()),
        ("{limits}", limit_table()),
        ("{content_context}", proto::digest::CONTENT_CONTEXT.to_owned()),
        ("{manifest_context}", proto::digest::MANIFEST_CONTEXT.to_owned()),
    ] {
        assert!(text.contains(place), "the text has no place {place}");
        text = text.replace(place, tables.trim_end());
    }
    text
}

fn catalogue() -> String {
    let mut text = String::from("| number | message | from | to |\n| --- | --- | --- | --- |\n");
    for Layout { message_type, name, from, to, .. } in MESSAGES {
        writeln!(text, "| {message_type:#04x} | [`{name}`](#{name}) | {from} | {to} |").unwrap();
    }
    text
}

fn messages() -> String {
    let mut text = String::new();
    for message in MESSAGES {
        let Layout { message_type, name, from, to, length, .. } = message;
        writeln!(text, "### {name}\n").unwrap();
        writeln!(text, "{}\n", one_line(message.meaning)).unwrap();
        write!(text, "Number {message_type:#04x}, {from} → {to}, fixed part {length} bytes")
            .unwrap();
        match message.given_length {
            0 => writeln!(text, ".\n").unwrap(),
            given => writeln!(text, "; as given, {given}.\n").unwrap(),
        }
        write_fields(&mut text, message.fields, Some(message.envelope_offset));
        if !message.parts.is_empty() {
            text.push_str("\n| part | elements | length field | meaning |\n");
            text.push_str("| --- | --- | --- | --- |\n");
        }
        for part in message.parts {
            let element = match part.element_size {
                1 => part.element.to_owned(),
                size => format!("`{}`, {size} bytes each", part.element),
            };
            let meaning = one_line(part.meaning);
            writeln!(text, "| {} | {element} | `{}` | {meaning} |", part.name, part.length_field)
                .unwrap();
        }
        text.push('\n');
    }
    text
}

fn write_fields(text: &mut String, fields: &[Field], envelope_offset: Option<usize>) {
    text.push_str("| offset | size | type | field | meaning |\n");
    text.push_str("| --- | --- | --- | --- | --- |\n");
    let mut envelope_offset = envelope_offset;
    if envelope_offset.is_some() {
        text.push_str("| 0 | 25 | | header | The head of every record. |\n");
    }
    let envelope = |text: &mut String, offset: usize| {
        let meaning = "Body length, request id, generation, sequence.";
        writeln!(text, "| {offset} | {ENVELOPE_LENGTH} | | envelope | {meaning} |").unwrap();
    };
    for Field { name, kind, offset, size, meaning } in fields {
        if let Some(at) = envelope_offset.filter(|at| at < offset) {
            envelope(text, at);
            envelope_offset = None;
        }
        let kind = match kind {
            FieldKind::U8 => "u8",
            FieldKind::U16 => "u16",
            FieldKind::U32 => "u32",
            FieldKind::I32 => "i32",
            FieldKind::U64 => "u64",
            FieldKind::Uuid => "uuid",
            FieldKind::Digest => "digest",
        };
        let meaning = one_line(meaning);
        writeln!(text, "| {offset} | {size} | {kind} | `{name}` | {meaning} |").unwrap();
    }
    if let Some(at) = envelope_offset {
        envelope(text, at);
    }
}

fn item_tables() -> String {
    let mut text = String::new();
    for item in items().values() {
        let meaning = one_line(item.meaning);
        writeln!(text, "### Item {}\n\n{meaning} {} bytes.\n", item.name, item.size).unwrap();
        write_fields(&mut text, item.fields, None);
        text.push('\n');
    }
    text
}

fn enumeration_tables() -> String {
    let mut text = String::new();
    for enumeration in enumerations() {
        let title = enumeration.list;
        writeln!(text, "### List of {title}\n\n| value | name | meaning |").unwrap();
        text.push_str("| --- | --- | --- |\n");
        for (value, name, meaning) in enumeration.values {
            writeln!(text, "| {value} | {name} | {} |", one_line(meaning)).unwrap();
        }
        text.push('\n');
    }
    text
}

fn limit_table() -> String {
    let mut text = String::from("| limit | value | meaning |\n| --- | --- | --- |\n");
    for (name, value, meaning) in LIMITS {
        writeln!(text, "| {name} | {value} | {meaning} |").unwrap();
    }
    text
}

#[test]
fn every_list_that_a_field_names_exists() {
    let lists = enumerations();
    let meanings = MESSAGES
        .iter()
        .flat_map(|message| {
            let parts = message.parts.iter().map(|part| part.meaning);
            message.fields.iter().map(|field| field.meaning).chain(parts)
        })
        .chain(items().into_values().flat_map(|item| item.fields.iter().map(|it| it.meaning)));
    let mut named = 0;
    for meaning in meanings {
        let meaning = one_line(meaning);
        for (at, _) in meaning.match_indices("the list of ") {
            let rest = &meaning[at + "the list of ".len()..];
            assert!(lists.iter().any(|list| rest.starts_with(list.list)), "{meaning:?}");
            named += 1;
        }
    }
    assert!(named > 0);
}
