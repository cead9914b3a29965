//! The C header: every struct, number and limit, from the catalogue.

use std::fmt::Write;

use proto::catalogue::{MESSAGES, PROTOCOL_VERSION};
use proto::limits;
use proto::record::Layout;
use proto::wire::{Field, FieldKind};

use crate::enums::enumerations;
use crate::layout::items;

/// A doc comment as one line.
pub(crate) fn one_line(meaning: &str) -> String {
    meaning.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A C comment, broken into lines of at most 100 columns.
fn comment(meaning: &str, indent: &str) -> String {
    let mut lines = vec![format!("{indent}/*")];
    for word in meaning.split_whitespace() {
        let last = lines.last_mut().unwrap();
        if last.len() + 1 + word.len() + " */".len() <= 100 {
            last.push(' ');
            last.push_str(word);
        } else {
            lines.push(format!("{indent} * {word}"));
        }
    }
    lines.join("\n") + " */"
}

const HEAD: &str = r"/* Remuda's wire protocol, version VERSION. Made from the catalogue in proto/: do not edit.
 *
 * Packed little-endian structs, framed as docs/protocol.md says. A struct that was given has two
 * forms: as given, and `_extended` with the fields appended since; both are valid on the wire.
 * Needs C11 on a little-endian machine. */
#ifndef REMUDA_H
#define REMUDA_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#define REMUDA_PROTOCOL_VERSION VERSION

#pragma pack(push, 1)

/* The head of every record. */
struct generic_message {
    uint8_t message_type;
    uint64_t node_uuid_upper;
    uint64_t node_uuid_lower;
    uint64_t header_length;
};

/* The first appended fields of every message. */
struct envelope {
    uint64_t body_length;
    uint64_t request_id;
    uint64_t generation;
    uint64_t sequence;
};

/* A UUID where many follow each other. */
struct uuid {
    uint64_t upper;
    uint64_t lower;
};
";

/// The whole header.
pub(crate) fn c_header() -> String {
    let mut text = HEAD.replace("VERSION", &PROTOCOL_VERSION.to_string());
    for item in items().values() {
        write!(text, "\n{}\nstruct {} {{\n", comment(item.meaning, ""), item.name).unwrap();
        write_fields(&mut text, item.fields);
        writeln!(text, "}};").unwrap();
    }
    for message in MESSAGES {
        write_message(&mut text, message);
    }
    text.push_str("\n#pragma pack(pop)\n\n");
    text.push_str("/* What byte 0 of a record says. */\nenum remuda_message_type {\n");
    for message in MESSAGES {
        let name = message.name.to_uppercase();
        writeln!(text, "    REMUDA_{name} = {:#04x},", message.message_type).unwrap();
    }
    text.push_str("};\n");
    for enumeration in enumerations() {
        let name = enumeration.name;
        write!(text, "\nenum remuda_{name} {{\n").unwrap();
        for (value, variant, meaning) in enumeration.values {
            let constant = format!("REMUDA_{name}_{variant}").to_uppercase();
            let meaning = comment(meaning, "    ");
            writeln!(text, "{meaning}\n    {constant} = {value},").unwrap();
        }
        text.push_str("};\n");
    }
    write_limits(&mut text);
    write_assertions(&mut text);
    text.push_str("\n#endif\n");
    text
}

/// The limits that a foreign program must keep, with their names in C.
pub(crate) const LIMITS: &[(&str, u64, &str)] = &[
    ("BLOCK_BYTES", limits::BLOCK_BYTES as u64, "bytes of a file's blocks but the last"),
    ("FRAME_BYTES", limits::FRAME_BYTES as u64, "largest frame"),
    ("FIXED_PART_BYTES", limits::FIXED_PART_BYTES as u64, "largest fixed part of a record"),
    ("WHOLE_FILE_BYTES", limits::WHOLE_FILE_BYTES as u64, "largest answer to `file_request`"),
    ("DESCRIPTION_BYTES", limits::DESCRIPTION_BYTES as u64, "largest inline job description"),
    ("JOB_RECORD_BYTES", limits::JOB_RECORD_BYTES as u64, "largest `job_submit` record"),
    ("TASKS_PER_JOB", limits::TASKS_PER_JOB, "tasks of a job"),
    ("INPUTS_PER_JOB", limits::INPUTS_PER_JOB as u64, "input files of a job"),
    (
        "CLIENT_WINDOW",
        limits::CLIENT_WINDOW as u64,
        "requests in flight, unless `hello_reply` differs",
    ),
    ("NAME_BYTES", limits::NAME_BYTES as u64, "bytes of a name"),
    ("BLOCKS_PER_FILE", limits::BLOCKS_PER_FILE as u64, "blocks of a file"),
    ("TREE_BYTES", limits::TREE_BYTES as u64, "largest tree file"),
    (
        "INLINE_FOLDER_BYTES",
        limits::INLINE_FOLDER_BYTES as u64,
        "longer folders are tree files of their own",
    ),
    ("TREE_DEPTH", limits::TREE_DEPTH as u64, "folders inside each other"),
    ("LINK_TARGET_BYTES", limits::LINK_TARGET_BYTES as u64, "bytes of a symbolic link's target"),
];

fn write_limits(text: &mut String) {
    text.push_str("\n/* Limits. */\n");
    for (name, value, meaning) in LIMITS {
        writeln!(text, "#define REMUDA_{name} UINT64_C({value}) /* {meaning} */").unwrap();
    }
}

fn write_fields(text: &mut String, fields: &[Field]) {
    for Field { name, kind, .. } in fields {
        match kind {
            FieldKind::U8 => writeln!(text, "    uint8_t {name};"),
            FieldKind::U16 => writeln!(text, "    uint16_t {name};"),
            FieldKind::U32 => writeln!(text, "    uint32_t {name};"),
            FieldKind::I32 => writeln!(text, "    int32_t {name};"),
            FieldKind::U64 => writeln!(text, "    uint64_t {name};"),
            FieldKind::Digest => writeln!(text, "    uint8_t {name}[32];"),
            FieldKind::Uuid => {
                writeln!(text, "    uint64_t {name}_upper;\n    uint64_t {name}_lower;")
            }
        }
        .unwrap();
    }
}

fn write_message(text: &mut String, message: &Layout) {
    let Layout { name, given_length, fields, .. } = message;
    let (given, appended): (Vec<_>, Vec<_>) =
        fields.iter().copied().partition(|field| field.offset < *given_length);
    let begin = |text: &mut String, meaning: &str, suffix: &str| {
        write!(
            text,
            "\n{}\nstruct {name}{suffix} {{\n    struct generic_message header;\n",
            comment(meaning, "")
        )
        .unwrap();
        write_fields(text, &given);
    };
    let meaning = message.meaning;
    if given.is_empty() {
        begin(text, meaning, "");
    } else {
        begin(text, &format!("As given. {meaning}"), "");
        text.push_str("};\n");
        begin(text, &format!("`{name}` with what was appended to it."), "_extended");
    }
    text.push_str("    struct envelope envelope;\n");
    write_fields(text, &appended);
    text.push_str("};\n");
}

fn write_assertions(text: &mut String) {
    text.push_str("\nstatic_assert(sizeof(struct generic_message) == 25, \"packed\");\n");
    let mut size = |name: &str, bytes: usize| {
        writeln!(text, "static_assert(sizeof(struct {name}) == {bytes}, \"packed\");").unwrap();
    };
    items().values().for_each(|item| size(item.name, item.size));
    for message in MESSAGES {
        if message.given_length == 0 {
            size(message.name, message.length);
        } else {
            size(message.name, message.given_length);
            size(&format!("{}_extended", message.name), message.length);
        }
    }
}
