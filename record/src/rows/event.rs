use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use time::OffsetDateTime;

use super::LineRow;
use crate::now;

/// A line of `events.jsonl`: something that happened to the run.
///
/// The file only grows: events of work that a resume threw away stay.
///
/// ```
/// use bellows_record::{Event, EventKind};
///
/// let event = Event::new(120, EventKind::Checkpoint, "every 40 steps")
///     .elapsed(31.5)
///     .with("seconds", 0.2);
/// assert_eq!(event.data["seconds"], 0.2);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Optimizer steps taken when it happened.
    #[serde(default)]
    pub step: u64,
    /// The process that wrote the line. Set by the writer.
    #[serde(default)]
    pub segment: u32,
    /// Wall-clock time, RFC 3339 in UTC.
    #[serde(with = "time::serde::rfc3339")]
    pub time: OffsetDateTime,
    /// Seconds of training since the run began, earlier segments included.
    #[serde(default)]
    pub elapsed: f64,
    /// What happened.
    pub kind: EventKind,
    /// Why, in words for a person.
    #[serde(default)]
    pub reason: String,
    /// Details for programs; left out when empty.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub data: Map<String, Value>,
}

impl Event {
    /// An event of now.
    pub fn new(step: u64, kind: EventKind, reason: impl Into<String>) -> Self {
        Self {
            step,
            segment: 0,
            time: now(),
            elapsed: 0.0,
            kind,
            reason: reason.into(),
            data: Map::new(),
        }
    }

    /// Sets the seconds of training since the run began.
    pub fn elapsed(mut self, seconds: f64) -> Self {
        self.elapsed = seconds;
        self
    }

    /// Adds a detail.
    pub fn with(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.data.insert(key.into(), value.into());
        self
    }
}

impl LineRow for Event {
    const REPLACED: bool = false;
    const ONE_A_STEP: bool = false;

    fn position(&self) -> (u32, u64) {
        (self.segment, self.step)
    }
}

macro_rules! event_kinds {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)+) => {
        /// What an [`Event`] is about.
        #[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(from = "String", into = "String")]
        pub enum EventKind {
            $(#[doc = concat!("`", $name, "`:")] $(#[$doc])* $variant,)+
            /// A kind that this version does not know, under its name.
            Other(String),
        }

        impl EventKind {
            /// Its name in the file.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $name,)+
                    Self::Other(name) => name,
                }
            }
        }

        impl From<String> for EventKind {
            fn from(name: String) -> Self {
                match name.as_str() {
                    $($name => Self::$variant,)+
                    _ => Self::Other(name),
                }
            }
        }
    };
}

event_kinds! {
    /// the run's first process begins.
    Started = "started",
    /// training goes on, after a pause or (with a new segment number) in a new process.
    Resumed = "resumed",
    /// training waits.
    Paused = "paused",
    /// a checkpoint is complete.
    Checkpoint = "checkpoint",
    /// the validation loss was measured.
    Evaluated = "evaluated",
    /// someone steered the run from outside.
    Command = "command",
    /// something deserves a look.
    Warning = "warning",
    /// the loss scale was lowered because a gradient overflowed.
    Overflow = "overflow",
    /// a step was skipped because its loss or gradient was not finite.
    Skipped = "skipped",
    /// training ended early on request.
    Stopped = "stopped",
    /// all steps were taken.
    Finished = "finished",
    /// training ended by an error.
    Failed = "failed",
}

impl From<EventKind> for String {
    fn from(kind: EventKind) -> Self {
        kind.as_str().to_owned()
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_from_the_future_keeps_its_name() {
        let line = r#"{"step":3,"time":"2026-01-02T03:04:05.678Z","kind":"teleported","new":1}"#;
        let event: Event = serde_json::from_str(line).unwrap();
        assert_eq!(event.kind, EventKind::Other("teleported".into()));
        let again = serde_json::to_string(&event).unwrap();
        assert!(
            again.contains(r#""kind":"teleported""#) && again.contains("2026-01-02T03:04:05.678Z")
        );
    }
}
