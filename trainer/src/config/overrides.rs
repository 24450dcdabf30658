//! Settings given on the command line.

use super::document;
use super::problem::{Location, Problem};
use super::tree::{Entry, Node, Value};

/// One setting given on the command line, and how it was typed.
#[derive(Clone, Debug, PartialEq)]
pub struct Override {
    key: String,
    value: Given,
    option: String,
}

#[derive(Clone, Debug, PartialEq)]
enum Given {
    /// Read as TOML where it can be, as text otherwise.
    Toml(String),
    /// Text whatever it looks like.
    Text(String),
}

impl Override {
    /// From the argument of `--set`: `section.key=value`. The value is read as TOML; what is not
    /// TOML is text, so that quotes are rarely needed.
    ///
    /// # Errors
    /// Says what the argument lacks.
    pub fn parse(argument: &str) -> Result<Self, String> {
        let Some((key, value)) = argument.split_once('=') else {
            return Err("expected section.key=value, for example train.steps=500".into());
        };
        let key = key.trim();
        if key.split('.').any(str::is_empty) || !key.contains('.') {
            return Err(format!(
                "{key:?} names no setting: expected section.key=value, for example train.steps=500"
            ));
        }
        Ok(Self {
            key: key.to_owned(),
            value: Given::Toml(value.trim().to_owned()),
            option: format!("--set {argument}"),
        })
    }

    /// From an option of its own, like `--steps 500`; `value` is TOML.
    pub fn option(option: &str, key: &str, value: impl ToString) -> Self {
        let value = value.to_string();
        Self {
            key: key.to_owned(),
            option: format!("{option} {value}"),
            value: Given::Toml(value),
        }
    }

    /// From an option of its own whose value is text, like `--name 2024`.
    pub fn text(option: &str, key: &str, value: impl Into<String>) -> Self {
        let value = value.into();
        Self {
            key: key.to_owned(),
            option: format!("{option} {value}"),
            value: Given::Text(value),
        }
    }

    /// The setting's full name, `section.key`.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Writes the setting into a tree.
    pub(super) fn apply(&self, root: &mut Node) -> Result<(), Problem> {
        let at = Location::Option(self.option.clone());
        let path: Vec<&str> = self.key.split('.').collect();
        let node = self.node(&at)?;
        let mut table = root;
        for (depth, key) in path[..path.len() - 1].iter().enumerate() {
            let name = path[..=depth].join(".");
            let Some(entries) = table.entries_mut() else {
                return Err(not_a_section(at, &path[..depth].join(".")));
            };
            let index = entries.iter().position(|entry| entry.key == *key);
            let index = index.unwrap_or_else(|| {
                entries.push(Entry {
                    key: (*key).to_owned(),
                    at: at.clone(),
                    node: Node::empty(at.clone()),
                });
                entries.len() - 1
            });
            table = &mut entries[index].node;
            if table.entries().is_none() {
                return Err(not_a_section(at, &name));
            }
        }
        let key = path[path.len() - 1].to_owned();
        if let Some(entries) = table.entries_mut() {
            entries.retain(|entry| entry.key != key);
            entries.push(Entry { key, at, node });
        }
        Ok(())
    }

    /// The value. For a setting that is text by its documentation, `2024` is text too; for one that
    /// is a list, a single value is a list of one.
    fn node(&self, at: &Location) -> Result<Node, Problem> {
        let of_text = |text: &String| Node {
            value: Value::String(text.clone()),
            at: at.clone(),
        };
        let documented = document::find(&self.key).map_or_else(String::new, |key| key.value);
        let node = match &self.value {
            Given::Text(text) => of_text(text),
            Given::Toml(text) => match Node::parse_value(text, at) {
                Ok(node) => match node.value {
                    Value::Integer(_) | Value::Float(_) | Value::Boolean(_)
                        if documented.starts_with('"') =>
                    {
                        of_text(text)
                    }
                    _ => node,
                },
                Err(message) if text.starts_with(['[', '{', '"', '\'']) => {
                    return Err(Problem::new(
                        at.clone(),
                        format!("the value is not valid TOML: {message}"),
                    ));
                }
                Err(_) => of_text(text),
            },
        };
        let single = !matches!(node.value, Value::List(_) | Value::Table(_));
        Ok(if single && documented.starts_with('[') {
            Node {
                value: Value::List(vec![node]),
                at: at.clone(),
            }
        } else {
            node
        })
    }
}

fn not_a_section(at: Location, name: &str) -> Problem {
    Problem::new(at, format!("{name} is a setting, not a section"))
}
