//! What can be wrong with a configuration, and where.

use std::fmt;

/// Where a value of a configuration comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A file: line and column count from 1, columns in characters.
    File {
        /// Line.
        line: usize,
        /// Column.
        column: usize,
    },
    /// An option of the command line, as it was typed.
    Option(String),
    /// Nobody wrote it: the default.
    Default,
}

/// One thing that is wrong, or worth a warning: what, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub at: Location,
    /// What is wrong and what to do.
    pub message: String,
}

impl Problem {
    pub(super) fn new(at: Location, message: impl Into<String>) -> Self {
        Self {
            at,
            message: message.into(),
        }
    }

    /// The problem in one line; `source` names the file it is about.
    pub fn line(&self, source: &str) -> String {
        match &self.at {
            Location::File { line, column } => {
                format!("{source}:{line}:{column}: {}", self.message)
            }
            Location::Option(option) => format!("{option}: {}", self.message),
            Location::Default => format!("{source}: {}", self.message),
        }
    }
}

/// Everything that is wrong with one configuration.
#[derive(Clone, Debug, thiserror::Error)]
pub struct Problems {
    /// The file's path as it was given.
    pub source_name: String,
    /// At least one, in the order of the file.
    pub list: Vec<Problem>,
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [problem] = self.list.as_slice() {
            return f.write_str(&problem.line(&self.source_name));
        }
        write!(f, "{} problems in the configuration", self.list.len())?;
        for problem in &self.list {
            write!(f, "\n  {}", problem.line(&self.source_name))?;
        }
        Ok(())
    }
}
