//! A TOML document as a tree whose every value knows where it was written, so that a message about
//! it can say so, whether it came from the file or from an option.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Location, Problem};

/// A value and where it was written.
#[derive(Clone, Debug)]
pub struct Node {
    pub value: Value,
    pub at: Location,
}

/// A TOML value. Dates are kept as their text: no setting is one.
#[derive(Clone, Debug)]
pub enum Value {
    String(String),
    Integer(i128),
    Float(f64),
    Boolean(bool),
    List(Vec<Node>),
    Table(Vec<Entry>),
}

/// A key, where it was written, and its value.
#[derive(Clone, Debug)]
pub struct Entry {
    pub key: String,
    pub at: Location,
    pub node: Node,
}

impl Node {
    /// A table without keys.
    pub fn empty(at: Location) -> Self {
        Self {
            value: Value::Table(Vec::new()),
            at,
        }
    }

    /// Parses a whole file.
    ///
    /// # Errors
    /// Every syntax error that the parser can tell apart.
    pub fn parse_file(text: &str) -> Result<Self, Vec<Problem>> {
        let lines = Lines::new(text);
        let (document, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            return Err(errors.iter().map(|error| syntax(error, &lines)).collect());
        }
        let at = |span: std::ops::Range<usize>| lines.locate(span.start);
        Ok(Self {
            value: table(document.into_inner(), &at).map_err(|problem| vec![problem])?,
            at: Location::File { line: 1, column: 1 },
        })
    }

    /// Parses one value, all of it at `location`.
    ///
    /// # Errors
    /// The parser's message.
    pub fn parse_value(text: &str, location: &Location) -> Result<Self, String> {
        let value = DeValue::parse(text).map_err(|error| error.message().to_owned())?;
        node(value, &|_| location.clone()).map_err(|problem| problem.message)
    }

    /// Makes a tree of what the program itself serializes; nobody wrote it.
    pub fn of_defaults(table: toml::Table) -> Self {
        fn convert(value: toml::Value) -> Node {
            let value = match value {
                toml::Value::String(text) => Value::String(text),
                toml::Value::Integer(number) => Value::Integer(number.into()),
                toml::Value::Float(number) => Value::Float(number),
                toml::Value::Boolean(flag) => Value::Boolean(flag),
                toml::Value::Datetime(date) => Value::String(date.to_string()),
                toml::Value::Array(list) => Value::List(list.into_iter().map(convert).collect()),
                toml::Value::Table(table) => Value::Table(
                    table
                        .into_iter()
                        .map(|(key, value)| Entry {
                            key,
                            at: Location::Default,
                            node: convert(value),
                        })
                        .collect(),
                ),
            };
            Node {
                value,
                at: Location::Default,
            }
        }
        convert(toml::Value::Table(table))
    }

    /// The entries of a table.
    pub fn entries(&self) -> Option<&[Entry]> {
        match &self.value {
            Value::Table(entries) => Some(entries),
            _ => None,
        }
    }

    /// The entries of a table, to change them.
    pub fn entries_mut(&mut self) -> Option<&mut Vec<Entry>> {
        match &mut self.value {
            Value::Table(entries) => Some(entries),
            _ => None,
        }
    }

    /// The entry of a table's key.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries()?.iter().find(|entry| entry.key == key)
    }

    /// The value at a path of keys.
    pub fn get(&self, path: &[&str]) -> Option<&Node> {
        path.iter()
            .try_fold(self, |node, key| Some(&node.entry(key)?.node))
    }

    /// The value at a path of keys, to change it.
    pub fn get_mut(&mut self, path: &[&str]) -> Option<&mut Node> {
        path.iter().try_fold(self, |node, key| {
            let entries = node.entries_mut()?;
            let entry = entries.iter_mut().find(|entry| entry.key == *key)?;
            Some(&mut entry.node)
        })
    }

    /// Writes a value at a path of keys where there is none, with the sections that lead to it.
    /// Nothing happens where one of these is no section.
    pub fn set_default(&mut self, path: &[&str], value: Value) {
        let (Some((first, rest)), Some(entries)) = (path.split_first(), self.entries_mut()) else {
            return;
        };
        let index = entries.iter().position(|entry| entry.key == *first);
        match (index, rest.is_empty()) {
            (Some(index), false) => entries[index].node.set_default(rest, value),
            (Some(_), true) => {}
            (None, last) => {
                let mut node = Node::empty(Location::Default);
                match last {
                    true => node.value = value,
                    false => node.set_default(rest, value),
                }
                entries.push(Entry {
                    key: (*first).to_owned(),
                    at: Location::Default,
                    node,
                });
            }
        }
    }

    /// Takes the entry at a path out of its table.
    pub fn remove(&mut self, path: &[&str]) -> Option<Entry> {
        let (last, parents) = path.split_last()?;
        let entries = self.get_mut(parents)?.entries_mut()?;
        let index = entries.iter().position(|entry| entry.key == *last)?;
        Some(entries.remove(index))
    }

    /// Where the deepest part of `path` that exists was written.
    pub fn locate(&self, path: &[&str]) -> Location {
        let mut node = self;
        for (depth, key) in path.iter().enumerate() {
            match node.entry(key) {
                Some(entry) => node = &entry.node,
                // A key that nobody wrote has its default: the file's start would mislead.
                None if depth == 0 => return Location::Default,
                None => return node.at.clone(),
            }
        }
        node.at.clone()
    }
}

impl Value {
    /// What this is, in words.
    pub fn describe(&self) -> String {
        match self {
            Value::String(text) => format!("the text {text:?}"),
            Value::Integer(number) => format!("the number {number}"),
            Value::Float(number) => format!("the number {number:?}"),
            Value::Boolean(flag) => format!("{flag}"),
            Value::List(_) => "a list".into(),
            Value::Table(_) => "a section".into(),
        }
    }
}

fn table(
    table: DeTable<'_>,
    at: &impl Fn(std::ops::Range<usize>) -> Location,
) -> Result<Value, Problem> {
    let mut entries = Vec::new();
    for (key, value) in table {
        entries.push(Entry {
            at: at(key.span()),
            key: key.into_inner().into_owned(),
            node: node(value, at)?,
        });
    }
    Ok(Value::Table(entries))
}

fn node(
    value: Spanned<DeValue<'_>>,
    at: &impl Fn(std::ops::Range<usize>) -> Location,
) -> Result<Node, Problem> {
    let at_value = at(value.span());
    let value = match value.into_inner() {
        DeValue::String(text) => Value::String(text.into_owned()),
        DeValue::Integer(number) => match i128::from_str_radix(number.as_str(), number.radix()) {
            Ok(parsed) => Value::Integer(parsed),
            Err(_) => {
                return Err(Problem::new(
                    at_value,
                    format!("the number {number} is too large to read"),
                ));
            }
        },
        DeValue::Float(number) => match number.as_str().parse() {
            Ok(parsed) => Value::Float(parsed),
            Err(_) => {
                return Err(Problem::new(
                    at_value,
                    format!("the number {number} cannot be read"),
                ));
            }
        },
        DeValue::Boolean(flag) => Value::Boolean(flag),
        DeValue::Datetime(date) => Value::String(date.to_string()),
        DeValue::Array(list) => Value::List(
            list.into_iter()
                .map(|item| node(item, at))
                .collect::<Result<_, _>>()?,
        ),
        DeValue::Table(entries) => table(entries, at)?,
    };
    Ok(Node {
        value,
        at: at_value,
    })
}

fn syntax(error: &toml::de::Error, lines: &Lines<'_>) -> Problem {
    let at = error.span().map_or(0, |span| span.start);
    Problem::new(
        lines.locate(at),
        format!("not valid TOML: {}", error.message()),
    )
}

/// Turns byte offsets into lines and columns.
struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn new(text: &'a str) -> Self {
        let starts = std::iter::once(0)
            .chain(text.match_indices('\n').map(|(index, _)| index + 1))
            .collect();
        Self { text, starts }
    }

    fn locate(&self, offset: usize) -> Location {
        let offset = offset.min(self.text.len());
        let line = self.starts.partition_point(|&start| start <= offset);
        let start = self.starts[line - 1];
        let before = &self.text.as_bytes()[start..offset];
        Location::File {
            line,
            // Count the bytes that begin a character: an offset inside one must not panic.
            column: 1 + before.iter().filter(|&&byte| byte & 0xC0 != 0x80).count(),
        }
    }
}
