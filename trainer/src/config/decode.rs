//! From a tree to a [`RunConfig`], with every problem placed where it was written.
//!
//! Serde stops at the first error. Decoding takes what was at fault out of the tree and tries
//! again, so that one run of the program shows all of them.

use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Expected, Unexpected, Visitor};

use super::problem::{Location, Problem};
use super::suggest;
use super::tree::{Entry, Node, Value};
use super::{RunConfig, TAGGED};

/// Decodes a tree; problems are in the order found.
pub fn decode(mut root: Node) -> Result<RunConfig, Vec<Problem>> {
    let mut problems = Vec::new();
    loop {
        match RunConfig::deserialize(&root) {
            Ok(config) if problems.is_empty() => return Ok(config),
            Ok(_) => return Err(problems),
            Err(error) => {
                let culprit = culprit(&root, &error);
                let path: Vec<&str> = culprit.iter().map(String::as_str).collect();
                problems.push(explain(&root, &error, &path));
                // Without the entry at fault the rest can be read; a whole document at fault ends it.
                if root.remove(&path).is_none() {
                    return Err(problems);
                }
            }
        }
    }
}

/// What serde found, and in which table.
#[derive(Clone, Debug, PartialEq)]
pub struct DecodeError {
    path: Vec<String>,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    UnknownKey {
        key: String,
        known: &'static [&'static str],
    },
    UnknownVariant {
        value: String,
        known: &'static [&'static str],
    },
    Missing(&'static str),
    Wrong {
        found: String,
        expected: String,
    },
    Other(String),
}

impl DecodeError {
    /// The keys that the table at fault has, where an unknown one is the fault.
    #[cfg(test)]
    pub fn known_keys(&self) -> Option<&'static [&'static str]> {
        match self.kind {
            Kind::UnknownKey { known, .. } => Some(known),
            _ => None,
        }
    }

    fn new(kind: Kind) -> Self {
        Self {
            path: Vec::new(),
            kind,
        }
    }

    fn under(mut self, key: &str) -> Self {
        self.path.insert(0, key.to_owned());
        self
    }
}

impl std::fmt::Display for DecodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} in {}", self.kind, self.path.join("."))
    }
}

impl std::error::Error for DecodeError {}

impl de::Error for DecodeError {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Self::new(Kind::Other(message.to_string()))
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(Kind::Wrong {
            found: describe_found(&found),
            expected: describe_expected(&expected.to_string()),
        })
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn unknown_variant(value: &str, known: &'static [&'static str]) -> Self {
        Self::new(Kind::UnknownVariant {
            value: value.to_owned(),
            known,
        })
    }

    fn unknown_field(key: &str, known: &'static [&'static str]) -> Self {
        Self::new(Kind::UnknownKey {
            key: key.to_owned(),
            known,
        })
    }

    fn missing_field(key: &'static str) -> Self {
        Self::new(Kind::Missing(key))
    }
}

fn describe_found(found: &Unexpected<'_>) -> String {
    match found {
        Unexpected::Str(text) => format!("the text {text:?}"),
        Unexpected::Signed(number) => format!("the number {number}"),
        Unexpected::Unsigned(number) => format!("the number {number}"),
        Unexpected::Float(number) => format!("the number {number:?}"),
        Unexpected::Bool(flag) => format!("{flag}"),
        Unexpected::Seq => "a list".into(),
        Unexpected::Map => "a section".into(),
        other => other.to_string(),
    }
}

/// Rust's names of types mean nothing to who writes a configuration.
fn describe_expected(expected: &str) -> String {
    match expected {
        "usize" | "u64" | "u32" => "a whole number, 0 or more",
        "i64" | "i32" => "a whole number",
        "f64" | "f32" => "a number",
        "a boolean" => "true or false",
        "a string" | "string" | "path string" => "text in quotes",
        "a sequence" => "a list in brackets, like [1, 2]",
        text if text.starts_with("struct ") || text.contains("tagged enum") => "a section of keys",
        text if text.starts_with("enum ") || text.contains("variant") => "text in quotes",
        other => other,
    }
    .to_owned()
}

/// The path of the entry at fault.
fn culprit(root: &Node, error: &DecodeError) -> Vec<String> {
    let mut path = error.path.clone();
    match &error.kind {
        Kind::UnknownKey { key, .. } => {
            path.push(key.clone());
            return path;
        }
        Kind::Missing(_) => return path,
        _ => {}
    }
    // A section with a `kind` is buffered by serde, which forgets the key. It is the one without
    // which the error is another.
    let keys: Vec<&str> = path.iter().map(String::as_str).collect();
    let Some(entries) = root.get(&keys).and_then(Node::entries) else {
        return path;
    };
    let tag = TAGGED.iter().find(|(section, _)| *section == keys);
    let is_tag = |entry: &&Entry| tag.is_some_and(|(_, tag)| entry.key == *tag);
    let (tags, others): (Vec<_>, Vec<_>) = entries.iter().partition(is_tag);
    for entry in others.into_iter().chain(tags) {
        let child: Vec<&str> = keys.iter().copied().chain([entry.key.as_str()]).collect();
        let mut without = root.clone();
        without.remove(&child);
        if RunConfig::deserialize(&without).err().as_ref() != Some(error) {
            return child.into_iter().map(str::to_owned).collect();
        }
    }
    path
}

fn explain(root: &Node, error: &DecodeError, path: &[&str]) -> Problem {
    let at_key = match path.split_last() {
        Some((key, parents)) => root
            .get(parents)
            .and_then(|parent| parent.entry(key))
            .map_or(Location::Default, |entry| entry.at.clone()),
        None => root.at.clone(),
    };
    let name = path.join(".");
    match &error.kind {
        Kind::UnknownKey { key, known } => {
            let section: Vec<&str> = error.path.iter().map(String::as_str).collect();
            Problem::new(at_key, suggest::unknown_key(root, &section, key, known))
        }
        Kind::UnknownVariant { value, known } => Problem::new(
            root.locate(path),
            suggest::unknown_value(&name, value, known),
        ),
        Kind::Missing(key) => {
            let tag = TAGGED.iter().find(|(section, _)| *section == path);
            let kind = tag.and_then(|(_, tag)| {
                let child: Vec<&str> = path.iter().copied().chain([*tag]).collect();
                match &root.get(&child)?.value {
                    Value::String(text) => Some(format!(" ({tag} = {text:?})")),
                    _ => None,
                }
            });
            Problem::new(
                at_key,
                format!("[{name}]{} needs the key {key:?}", kind.unwrap_or_default()),
            )
        }
        Kind::Wrong { found, expected } => Problem::new(
            root.locate(path),
            format!("{name} is {found}: it must be {expected}"),
        ),
        Kind::Other(message) => Problem::new(root.locate(path), format!("{name}: {message}")),
    }
}

impl<'de> de::Deserializer<'de> for &'de Node {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match &self.value {
            Value::String(text) => visitor.visit_borrowed_str(text),
            Value::Boolean(flag) => visitor.visit_bool(*flag),
            Value::Float(number) => visitor.visit_f64(*number),
            Value::Integer(number) => match (i64::try_from(*number), u64::try_from(*number)) {
                (Ok(number), _) => visitor.visit_i64(number),
                (_, Ok(number)) => visitor.visit_u64(number),
                _ => Err(DecodeError::new(Kind::Wrong {
                    found: self.value.describe(),
                    expected: "smaller".into(),
                })),
            },
            Value::List(items) => visitor.visit_seq(Items(items.iter())),
            Value::Table(entries) => visitor.visit_map(Entries {
                rest: entries.iter(),
                current: None,
            }),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        // TOML has no null: a key that is written has a value.
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        match &self.value {
            Value::String(text) => {
                visitor.visit_enum(de::value::StrDeserializer::new(text.as_str()))
            }
            other => Err(DecodeError::new(Kind::Wrong {
                found: other.describe(),
                expected: "text in quotes".into(),
            })),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        unit unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

struct Items<'de>(std::slice::Iter<'de, Node>);

impl<'de> de::SeqAccess<'de> for Items<'de> {
    type Error = DecodeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, DecodeError> {
        // An error inside a list is placed at the list: its items have no keys.
        self.0.next().map(|item| seed.deserialize(item)).transpose()
    }
}

struct Entries<'de> {
    rest: std::slice::Iter<'de, Entry>,
    current: Option<&'de Entry>,
}

impl<'de> de::MapAccess<'de> for Entries<'de> {
    type Error = DecodeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, DecodeError> {
        self.current = self.rest.next();
        match self.current {
            Some(entry) => seed
                .deserialize(de::value::BorrowedStrDeserializer::new(&entry.key))
                .map(Some),
            None => Ok(None),
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(
        &mut self,
        seed: V,
    ) -> Result<V::Value, DecodeError> {
        match self.current.take() {
            Some(entry) => seed
                .deserialize(&entry.node)
                .map_err(|error| error.under(&entry.key)),
            None => Err(de::Error::custom("a value was asked for before its key")),
        }
    }
}
