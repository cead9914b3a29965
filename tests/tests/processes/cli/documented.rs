//! `docs/json.md`, read: for each command with `--json` what it prints, so that real output can be
//! compared with it.
//!
//! A section is a heading with the command in back quotes, a sentence that says how values are put
//! together ("One object", "An array of objects", "One object a line"), and a table of fields:
//! name, type, meaning; or, in place of the table, "with the fields of" another command. A field of
//! an inner object is `outer.inner`, of objects in an array `outer[].inner`.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

/// What a command prints, as it is documented.
#[derive(Clone)]
pub(super) struct Documented {
    shape: Shape,
    fields: BTreeMap<String, Field>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Object,
    Array,
    Lines,
}

#[derive(Clone)]
struct Field {
    kinds: Vec<String>,
    may_be_missing: bool,
}

/// All sections by command, such as `remuda jobs`.
pub(super) fn read() -> BTreeMap<String, Documented> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/json.md");
    let text = std::fs::read_to_string(path).expect("docs/json.md is there");
    parse(&text)
}

fn parse(text: &str) -> BTreeMap<String, Documented> {
    let sections = text.split("\n## `").skip(1);
    let mut others = BTreeMap::new();
    let mut documented: BTreeMap<String, Documented> = sections
        .map(|section| {
            let (command, rest) = section.split_once('`').expect("a command in back quotes");
            let shape = if rest.contains("One object a line") {
                Shape::Lines
            } else if rest.contains("An array of objects") {
                Shape::Array
            } else {
                assert!(rest.contains("One object"), "{command}: nothing says how it is printed");
                Shape::Object
            };
            let fields: BTreeMap<String, Field> = rest.lines().filter_map(field).collect();
            let other = rest.split_once("with the fields of `").and_then(|it| it.1.split_once('`'));
            assert!(fields.is_empty() == other.is_some(), "{command}: which fields?");
            if let Some((other, _)) = other {
                others.insert(command.to_owned(), other.to_owned());
            }
            (command.to_owned(), Documented { shape, fields })
        })
        .collect();
    for (command, other) in others {
        let fields = documented.get(&other).map(|it| it.fields.clone());
        let fields = fields.unwrap_or_else(|| panic!("{command}: {other} is not documented"));
        documented.get_mut(&command).expect("it was read").fields = fields;
    }
    documented
}

/// A row of a table: `| \`name\` | type or null, may be missing | meaning |`.
fn field(line: &str) -> Option<(String, Field)> {
    let mut cells = line.strip_prefix("| `")?.split(" | ");
    let name = cells.next()?.trim_end_matches('`').to_owned();
    let kind = cells.next()?.trim();
    let may_be_missing = kind.ends_with(", may be missing");
    let kind = kind.trim_end_matches(", may be missing");
    let kinds = kind.split(" or ").map(str::to_owned).collect();
    Some((name, Field { kinds, may_be_missing }))
}

impl Documented {
    /// Compares what a command printed; what is different, in words. No object at all is a
    /// difference too: nothing would have been compared.
    pub(super) fn differences(&self, printed: &str) -> Vec<String> {
        let mut found = Vec::new();
        let mut objects = 0;
        for line in printed.lines() {
            let value: Value = match serde_json::from_str(line) {
                Ok(value) => value,
                Err(error) => return vec![format!("{error}: {line}")],
            };
            match (self.shape, value) {
                (Shape::Array, Value::Array(values)) => {
                    objects += values.len();
                    values.iter().for_each(|value| self.object("", value, &mut found));
                }
                (Shape::Object | Shape::Lines, value @ Value::Object(_)) => {
                    objects += 1;
                    self.object("", &value, &mut found);
                }
                (shape, value) => found.push(format!("not {shape:?}: {value}")),
            }
        }
        if objects == 0 {
            found.push("nothing was printed".to_owned());
        }
        if self.shape != Shape::Lines && printed.lines().count() != 1 {
            found.push("more or less than one line".to_owned());
        }
        found
    }

    fn object(&self, path: &str, value: &Value, found: &mut Vec<String>) {
        let Value::Object(object) = value else {
            found.push(format!("{path} is no object: {value}"));
            return;
        };
        for (name, value) in object {
            let key = format!("{path}{name}");
            let Some(field) = self.fields.get(&key) else {
                found.push(format!("{key} is not documented"));
                continue;
            };
            if !field.kinds.iter().any(|kind| is_of(kind, value)) {
                found.push(format!("{key} is no {}: {value}", field.kinds.join(" or ")));
            }
            let is_open = field.kinds.iter().any(|kind| kind == "any object");
            match value {
                Value::Object(_) if !is_open => {
                    self.object(&format!("{key}."), value, found);
                }
                Value::Array(values) => {
                    let inner = values.iter().filter(|it| it.is_object());
                    inner.for_each(|value| self.object(&format!("{key}[]."), value, found));
                }
                _ => {}
            }
        }
        for (name, field) in &self.fields {
            let own = name.strip_prefix(path).filter(|it| !it.contains('.'));
            let is_there = own.is_none_or(|own| object.contains_key(own));
            if !is_there && !field.may_be_missing {
                found.push(format!("{name} is missing"));
            }
        }
    }
}

fn is_of(kind: &str, value: &Value) -> bool {
    match kind {
        "null" => value.is_null(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "object" | "any object" => value.is_object(),
        "array" => value.is_array(),
        "array of strings" => {
            value.as_array().is_some_and(|values| values.iter().all(Value::is_string))
        }
        "UUID" => value.as_str().is_some_and(|text| {
            text.len() == 36 && text.bytes().filter(|byte| *byte == b'-').count() == 4
        }),
        // One of several words, in back quotes.
        _ => value.as_str().is_some_and(|text| kind == format!("`{text}`")),
    }
}

const EXAMPLE: &str = "\n## `remuda x`\n\nAn array of objects:\n\n| field | type | meaning |\n\
                       | `id` | UUID | who |\n| `note` | string or null, may be missing | what |\n\
                       | `state` | `on` or `off` | how |\n| `parts` | array | parts |\n\
                       | `parts[].size` | integer | large |\n";

#[test]
fn what_is_not_as_documented_is_found() {
    let documented = parse(EXAMPLE).remove("remuda x").unwrap();
    let id = "6ba7b810-9dad-41d1-80b4-00c04fd430c8";
    let object = |rest: &str| format!("[{{\"id\":\"{id}\",\"parts\":[{{\"size\":1}}]{rest}}}]");
    let good = object(",\"state\":\"on\",\"note\":null");
    assert_eq!(documented.differences(&good), [""; 0]);
    for (printed, difference) in [
        (object(",\"state\":\"odd\""), "state is no `on` or `off`: \"odd\""),
        (object(",\"state\":\"on\",\"more\":1"), "more is not documented"),
        (object(""), "state is missing"),
        (good.replace("size", "length"), "parts[].length is not documented"),
        (good.replace(id, "7"), "id is no UUID: \"7\""),
        ("[]".to_owned(), "nothing was printed"),
        ("{}".to_owned(), "not Array: {}"),
    ] {
        let found = documented.differences(&printed);
        assert!(found.iter().any(|it| it == difference), "{printed}: {found:?}");
    }
}
