//! The layers put together as one tree in which every value knows who set it, and that tree read
//! by serde.
//!
//! Text from the environment and from flags becomes whatever type the setting has; values of the
//! file keep theirs.

use std::collections::BTreeMap;
use std::path::Path;

use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess,
    Visitor,
};
use serde::forward_to_deserialize_any;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::error::Wrong;
use super::{ConfigError, Origin};

pub(super) type Table = BTreeMap<String, Entry>;

/// One value and who set it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) setting: Setting,
    pub(super) origin: Origin,
}

#[derive(Debug)]
pub(super) enum Setting {
    Table(Table),
    List(Vec<Entry>),
    /// From the environment or a flag: of no type yet.
    Text(String),
    String(String),
    Integer(i128),
    Float(f64),
    Bool(bool),
    /// A value that no setting can have; why.
    Unusable(String),
}

impl Entry {
    pub(super) fn table() -> Entry {
        Entry { setting: Setting::Table(Table::new()), origin: Origin::Default }
    }
}

/// Key `key` of table `path`, as it is called in errors.
pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// Puts the values of a file into the tree; where it cannot be read as TOML, the first reason and
/// all others.
pub(super) fn file(
    path: &Path,
    settings: &mut Table,
) -> Result<(), (ConfigError, Vec<ConfigError>)> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| (ConfigError::Read { path: path.to_owned(), source }, Vec::new()))?;
    let line_of = |offset: usize| {
        let before = text.as_bytes().get(..offset).unwrap_or_default();
        before.iter().filter(|&&byte| byte == b'\n').count() + 1
    };
    let (parsed, wrong) = DeTable::parse_recoverable(&text);
    let mut wrong = wrong.iter().map(|error| ConfigError::Syntax {
        path: path.to_owned(),
        line: line_of(error.span().map_or(0, |span| span.start)),
        text: error.message().to_owned(),
    });
    if let Some(first) = wrong.next() {
        return Err((first, wrong.collect()));
    }
    let origin = |offset| Origin::File { path: path.to_owned(), line: line_of(offset) };
    settings.extend(table_of(parsed.get_ref(), &origin));
    Ok(())
}

fn table_of(table: &DeTable<'_>, origin: &dyn Fn(usize) -> Origin) -> Table {
    let entry = |(key, value): (&Spanned<DeString<'_>>, &Spanned<DeValue<'_>>)| {
        let origin_of_key = origin(key.span().start);
        let setting = setting_of(value.get_ref(), origin);
        (key.get_ref().to_string(), Entry { setting, origin: origin_of_key })
    };
    table.iter().map(entry).collect()
}

fn setting_of(value: &DeValue<'_>, origin: &dyn Fn(usize) -> Origin) -> Setting {
    match value {
        DeValue::String(text) => Setting::String(text.to_string()),
        DeValue::Integer(number) => match i128::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Setting::Integer(number),
            Err(_) => Setting::Unusable(format!("{number} is too large a number")),
        },
        DeValue::Float(number) => match number.as_str().parse() {
            Ok(number) => Setting::Float(number),
            Err(_) => Setting::Unusable(format!("{} is not a number", number.as_str())),
        },
        DeValue::Boolean(value) => Setting::Bool(*value),
        DeValue::Datetime(_) => Setting::Unusable("no setting is a date".into()),
        DeValue::Array(values) => {
            let entry = |value: &Spanned<DeValue<'_>>| Entry {
                setting: setting_of(value.get_ref(), origin),
                origin: origin(value.span().start),
            };
            Setting::List(values.iter().map(entry).collect())
        }
        DeValue::Table(table) => Setting::Table(table_of(table, origin)),
    }
}

/// Puts one value into the tree, in place of what a lower layer had.
pub(super) fn set(settings: &mut Table, path: &[&str], entry: Entry) -> Result<(), ConfigError> {
    let Some((key, tables)) = path.split_last() else {
        return Ok(());
    };
    let mut table = settings;
    for (depth, name) in tables.iter().enumerate() {
        let inner = table.entry((*name).to_owned()).or_insert_with(Entry::table);
        let Setting::Table(inner_table) = &mut inner.setting else {
            return Err(ConfigError::Value {
                origin: inner.origin.clone(),
                key: path[..=depth].join("."),
                text: "is a value, but must be a table".into(),
            });
        };
        table = inner_table;
    }
    table.insert((*key).to_owned(), entry);
    Ok(())
}

/// Takes one value out of the tree, where it is there.
pub(super) fn remove(settings: &mut Table, path: &[&str]) -> Option<Entry> {
    let (key, tables) = path.split_first()?;
    if tables.is_empty() {
        return settings.remove(*key);
    }
    match &mut settings.get_mut(*key)?.setting {
        Setting::Table(inner) => remove(inner, tables),
        _ => None,
    }
}

/// Who set each value, by key.
pub(super) fn origins(table: &Table, path: &str, into: &mut BTreeMap<String, Origin>) {
    for (key, entry) in table {
        let key = join(path, key);
        if let Setting::Table(inner) = &entry.setting {
            origins(inner, &key, into);
        } else {
            into.insert(key, entry.origin.clone());
        }
    }
}

/// The names of the fields of a struct, as serde knows them; none where `T` is no struct.
pub(super) fn fields_of<T: DeserializeOwned>() -> &'static [&'static str] {
    struct Asking<'a>(&'a mut &'static [&'static str]);

    impl<'de> Deserializer<'de> for Asking<'_> {
        type Error = Wrong;

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Wrong> {
            Err(de::Error::custom("only asked for its fields"))
        }

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            visitor: V,
        ) -> Result<V::Value, Wrong> {
            *self.0 = fields;
            self.deserialize_any(visitor)
        }

        forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
            option unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier
            ignored_any
        }
    }

    let mut fields: &[&str] = &[];
    // It always fails: asking for the fields is all that it does.
    let _ = T::deserialize(Asking(&mut fields));
    fields
}

/// Hands one entry to serde.
#[derive(Clone)]
pub(super) struct Reader<'a> {
    entry: &'a Entry,
    path: String,
}

impl<'a> Reader<'a> {
    pub(super) fn root(entry: &'a Entry) -> Reader<'a> {
        Reader { entry, path: String::new() }
    }

    fn wrong_at_this(&self) -> impl Fn(Wrong) -> Wrong + use<'a> {
        let (path, origin) = (self.path.clone(), &self.entry.origin);
        move |wrong| wrong.at(&path, origin)
    }

    fn visit<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match &self.entry.setting {
            Setting::Table(table) => {
                visitor.visit_map(Entries { rest: table.iter(), value: None, path: self.path })
            }
            Setting::List(list) => {
                visitor.visit_seq(Elements { rest: list.iter(), path: self.path })
            }
            Setting::Text(text) | Setting::String(text) => visitor.visit_str(text),
            Setting::Integer(number) => visit_integer(*number, visitor),
            Setting::Float(number) => visitor.visit_f64(*number),
            Setting::Bool(value) => visitor.visit_bool(*value),
            Setting::Unusable(why) => Err(de::Error::custom(why)),
        }
    }

    /// The text of an entry of no type yet.
    fn text(&self) -> Option<&'a str> {
        match &self.entry.setting {
            Setting::Text(text) => Some(text.trim()),
            _ => None,
        }
    }
}

fn visit_integer<'de, V: Visitor<'de>>(number: i128, visitor: V) -> Result<V::Value, Wrong> {
    match (i64::try_from(number), u64::try_from(number)) {
        (Ok(number), _) => visitor.visit_i64(number),
        (_, Ok(number)) => visitor.visit_u64(number),
        _ => visitor.visit_i128(number),
    }
}

macro_rules! deserialize_integers {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
            let here = self.wrong_at_this();
            match self.text().and_then(|text| text.parse().ok()) {
                Some(number) => visit_integer(number, visitor).map_err(here),
                None => self.deserialize_any(visitor),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = Wrong;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        let here = self.wrong_at_this();
        self.visit(visitor).map_err(here)
    }

    deserialize_integers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        let here = self.wrong_at_this();
        match self.text().and_then(|text| text.parse().ok()) {
            Some(number) => visitor.visit_f64(number).map_err(here),
            None => self.deserialize_any(visitor),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match self.text() {
            Some("true" | "1") => visitor.visit_bool(true),
            Some("false" | "0") => visitor.visit_bool(false),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        let here = self.wrong_at_this();
        let Some(text) = self.text() else {
            return self.deserialize_any(visitor);
        };
        let origin = &self.entry.origin;
        let list: Vec<Entry> = text
            .split(',')
            .map(str::trim)
            .filter(|element| !element.is_empty())
            .map(|element| Entry {
                setting: Setting::Text(element.to_owned()),
                origin: origin.clone(),
            })
            .collect();
        visitor.visit_seq(Elements { rest: list.iter(), path: self.path }).map_err(here)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        // An empty variable or flag unsets what the file sets.
        if self.text() == Some("") { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        let here = self.wrong_at_this();
        match &self.entry.setting {
            Setting::Text(text) | Setting::String(text) => {
                let name: StrDeserializer<'_, Wrong> = text.as_str().into_deserializer();
                visitor.visit_enum(name).map_err(here)
            }
            _ => self.deserialize_any(visitor),
        }
    }

    forward_to_deserialize_any! {
        char str string bytes byte_buf unit unit_struct tuple tuple_struct map struct identifier
        ignored_any
    }
}

struct Entries<'a> {
    rest: std::collections::btree_map::Iter<'a, String, Entry>,
    value: Option<Reader<'a>>,
    path: String,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Wrong;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Wrong> {
        let Some((key, entry)) = self.rest.next() else {
            return Ok(None);
        };
        let reader = Reader { entry, path: join(&self.path, key) };
        let here = reader.wrong_at_this();
        self.value = Some(reader);
        let name: StrDeserializer<'_, Wrong> = key.as_str().into_deserializer();
        seed.deserialize(name).map(Some).map_err(here)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Wrong> {
        let value = self.value.take().ok_or_else(|| de::Error::custom("a value without key"))?;
        let here = value.wrong_at_this();
        seed.deserialize(value).map_err(here)
    }
}

struct Elements<'a> {
    rest: std::slice::Iter<'a, Entry>,
    path: String,
}

impl<'de> SeqAccess<'de> for Elements<'_> {
    type Error = Wrong;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Wrong> {
        let Some(entry) = self.rest.next() else {
            return Ok(None);
        };
        let reader = Reader { entry, path: self.path.clone() };
        let here = reader.wrong_at_this();
        seed.deserialize(reader).map(Some).map_err(here)
    }
}
