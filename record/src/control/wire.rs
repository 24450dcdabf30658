use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::RunState;

/// Version of the protocol.
pub const CONTROL_VERSION: u32 = 1;

/// Bytes of a request's line, its end included. A longer one is refused and the connection closed.
pub const LONGEST_REQUEST: usize = 64 << 10;

/// What a client asks for: one line of JSON.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Request {
    /// [`CONTROL_VERSION`].
    pub version: u32,
    /// Comes back in the reply.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// What to do; its fields stand beside these.
    #[serde(flatten)]
    pub command: Command,
}

/// What a run can be told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// How far the run is, and how it is steered. Changes nothing, leaves no event, is answered at
    /// once.
    Status,
    /// Take no further step until told to.
    Pause,
    /// Go on after a pause.
    Resume,
    /// Write a checkpoint of the present step.
    Checkpoint,
    /// Measure the validation loss now.
    Evaluate,
    /// Write a checkpoint, then end the run.
    Stop,
    /// Multiply the schedule's learning rate from the next step on.
    LearningRateScale {
        /// Above 0, to 1000; 1 is the schedule's own.
        scale: f64,
    },
    /// Change the micro-batches of a step from the next one on.
    Accumulation {
        /// 1 to 65536.
        micro_batches: usize,
    },
    /// Change how often things are recorded.
    Intervals(Intervals),
    /// Let the model continue a text.
    Sample {
        /// The text; empty begins a document. At most 32 KiB.
        prompt: String,
        /// Longest continuation in tokens, 1 to 4096; absent: as the run's configuration says.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_tokens: Option<usize>,
        /// Randomness, 0 or more; absent: as the run's configuration says.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        temperature: Option<f64>,
    },
}

/// Steps between two records of a kind. What is absent stays as it is; 0 is never, which metrics
/// do not take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Intervals {
    /// Rows of `metrics.jsonl`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics_every: Option<u64>,
    /// Loads by expert.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub routing_every: Option<u64>,
    /// Transitions between experts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transitions_every: Option<u64>,
    /// The memory ledger.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_every: Option<u64>,
    /// Traces of the probe tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traces_every: Option<u64>,
}

impl Command {
    /// Its name on the wire and in events.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Checkpoint => "checkpoint",
            Self::Evaluate => "evaluate",
            Self::Stop => "stop",
            Self::LearningRateScale { .. } => "learning_rate_scale",
            Self::Accumulation { .. } => "accumulation",
            Self::Intervals(_) => "intervals",
            Self::Sample { .. } => "sample",
        }
    }

    const NAMES: [&str; 10] = [
        "status",
        "pause",
        "resume",
        "checkpoint",
        "evaluate",
        "stop",
        "learning_rate_scale",
        "accumulation",
        "intervals",
        "sample",
    ];

    /// Whether its values are in their ranges.
    ///
    /// # Errors
    ///
    /// [`ControlErrorKind::Invalid`] with the range that would have been right.
    pub fn check(&self) -> Result<(), ControlError> {
        let wrong = |message: String| Err(ControlError::new(ControlErrorKind::Invalid, message));
        match self {
            Self::LearningRateScale { scale } if !(*scale > 0.0 && *scale <= 1000.0) => {
                wrong(format!("scale is {scale}; it must be above 0 and at most 1000"))
            }
            Self::Accumulation { micro_batches } if !(1..=65_536).contains(micro_batches) => {
                wrong(format!("micro_batches is {micro_batches}; it must be 1 to 65536"))
            }
            Self::Intervals(intervals) if *intervals == Intervals::default() => wrong(
                "no interval was given; name one of metrics_every, routing_every, transitions_every, memory_every, traces_every".to_owned(),
            ),
            Self::Intervals(Intervals {
                metrics_every: Some(0),
                ..
            }) => wrong("metrics_every is 0; it must be 1 or more".to_owned()),
            Self::Sample { prompt, .. } if prompt.len() > 32 << 10 => wrong(format!(
                "the prompt has {} bytes; it must have at most 32768",
                prompt.len()
            )),
            Self::Sample {
                max_tokens: Some(tokens),
                ..
            } if !(1..=4096).contains(tokens) => {
                wrong(format!("max_tokens is {tokens}; it must be 1 to 4096"))
            }
            Self::Sample {
                temperature: Some(temperature),
                ..
            } if !(temperature.is_finite() && *temperature >= 0.0) => {
                wrong(format!("temperature is {temperature}; it must be 0 or more"))
            }
            _ => Ok(()),
        }
    }
}

impl Request {
    /// Asks for `command`.
    pub fn new(command: Command) -> Self {
        Self {
            version: CONTROL_VERSION,
            id: None,
            command,
        }
    }

    /// Reads a request's line. The id, where one could be read, comes with the error too.
    ///
    /// # Errors
    ///
    /// [`ControlErrorKind::Malformed`], [`ControlErrorKind::UnsupportedVersion`],
    /// [`ControlErrorKind::UnknownCommand`], [`ControlErrorKind::Invalid`].
    pub fn parse(line: &[u8]) -> Result<Self, (Option<u64>, ControlError)> {
        use ControlErrorKind::{Malformed, UnknownCommand, UnsupportedVersion};
        let error = |id, kind, message: String| (id, ControlError::new(kind, message));
        let value: Value = serde_json::from_slice(line)
            .map_err(|e| error(None, Malformed, format!("the request is no JSON: {e}")))?;
        let Value::Object(object) = &value else {
            let message = "the request is no JSON object".to_owned();
            return Err(error(None, Malformed, message));
        };
        let id = object.get("id").and_then(Value::as_u64);
        // Whoever leaves the version out means the first.
        let version = match object.get("version") {
            None => 1,
            Some(version) => version.as_u64().ok_or_else(|| {
                error(
                    id,
                    Malformed,
                    format!("version is {version}, not a whole number"),
                )
            })?,
        };
        if version == 0 || version > u64::from(CONTROL_VERSION) {
            let message = format!(
                "version {version} of the protocol is not known; this run speaks {CONTROL_VERSION}"
            );
            return Err(error(id, UnsupportedVersion, message));
        }
        let Some(name) = object.get("command").and_then(Value::as_str) else {
            let message = "the request has no \"command\"".to_owned();
            return Err(error(id, Malformed, message));
        };
        if !Command::NAMES.contains(&name) {
            let message = format!(
                "{name:?} is no command; there are {}",
                Command::NAMES.join(", ")
            );
            return Err(error(id, UnknownCommand, message));
        }
        let command = Command::deserialize(&value)
            .map_err(|e| error(id, ControlErrorKind::Invalid, format!("{name}: {e}")))?;
        command.check().map_err(|error| (id, error))?;
        Ok(Self {
            version: version as u32,
            id,
            command,
        })
    }

    /// The line that is sent, its end included.
    pub fn to_line(&self) -> Vec<u8> {
        line(self)
    }
}

/// A run's answer: one line of JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// [`CONTROL_VERSION`].
    pub version: u32,
    /// The request's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// `done` or `error`.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It took effect.
    Done(Acknowledgement),
    /// It did not.
    Error(ControlError),
}

impl Reply {
    /// The line that is sent, its end included.
    pub fn to_line(&self) -> Vec<u8> {
        line(self)
    }
}

fn line(value: &impl Serialize) -> Vec<u8> {
    // Numbers that are not finite become null; nothing else can go wrong with plain values.
    let mut bytes = serde_json::to_vec(value).expect("string keys and plain values");
    bytes.push(b'\n');
    bytes
}

/// A command took effect.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Acknowledgement {
    /// Optimizer steps taken when it did.
    pub step: u64,
    /// What happened, in words.
    #[serde(default)]
    pub message: String,
    /// For `status`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Box<Status>>,
    /// For `sample`: the text, without the prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// For `evaluate`: nats a label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_loss: Option<f64>,
}

/// How far a live run is, and how it is steered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The run's name.
    pub run: String,
    /// Running or paused.
    pub state: RunState,
    /// Optimizer steps taken.
    pub step: u64,
    /// Optimizer steps of the whole run.
    pub total_steps: u64,
    /// Tokens trained on.
    pub tokens: u64,
    /// The last step's loss.
    pub loss: Option<f64>,
    /// The last validation loss.
    pub validation_loss: Option<f64>,
    /// Recent throughput.
    pub tokens_per_second: Option<f64>,
    /// What the schedule's learning rate is multiplied with.
    pub learning_rate_scale: f64,
    /// Micro-batches of a step.
    pub micro_batches: usize,
    /// Steps between two records of each kind.
    pub intervals: Intervals,
    /// What keeps the run from writing its record, in words. It trains on meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// Why a request had no effect.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ControlError {
    /// For programs.
    pub kind: ControlErrorKind,
    /// For people.
    pub message: String,
}

impl ControlError {
    /// An error.
    pub fn new(kind: ControlErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }
}

/// What was wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlErrorKind {
    /// No JSON object with a command.
    Malformed,
    /// A line longer than [`LONGEST_REQUEST`].
    TooLong,
    /// A line that did not end in time.
    TooSlow,
    /// No command of that name.
    UnknownCommand,
    /// A later version of the protocol.
    UnsupportedVersion,
    /// A value out of its range.
    Invalid,
    /// The run cannot do that now, or not at all.
    Unavailable,
    /// Too many clients at once.
    Busy,
    /// The run ends.
    Ending,
    /// It was tried and failed.
    Failed,
}

impl fmt::Display for ControlErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "malformed",
            Self::TooLong => "too_long",
            Self::TooSlow => "too_slow",
            Self::UnknownCommand => "unknown_command",
            Self::UnsupportedVersion => "unsupported_version",
            Self::Invalid => "invalid",
            Self::Unavailable => "unavailable",
            Self::Busy => "busy",
            Self::Ending => "ending",
            Self::Failed => "failed",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(line: &str) -> ControlErrorKind {
        Request::parse(line.as_bytes()).unwrap_err().1.kind
    }

    #[test]
    fn what_is_written_is_read_back() {
        let commands = [
            Command::Status,
            Command::Pause,
            Command::Resume,
            Command::Checkpoint,
            Command::Evaluate,
            Command::Stop,
            Command::LearningRateScale { scale: 0.5 },
            Command::Accumulation { micro_batches: 4 },
            Command::Intervals(Intervals {
                routing_every: Some(0),
                ..Intervals::default()
            }),
            Command::Sample {
                prompt: "fn\n".into(),
                max_tokens: None,
                temperature: Some(0.0),
            },
        ];
        for (command, name) in commands.into_iter().zip(Command::NAMES) {
            assert_eq!(command.name(), name);
            let request = Request {
                id: Some(7),
                ..Request::new(command)
            };
            let line = request.to_line();
            assert_eq!(line.iter().filter(|&&byte| byte == b'\n').count(), 1);
            assert_eq!(Request::parse(&line).unwrap(), request);
        }
        let reply = Reply {
            version: 1,
            id: None,
            outcome: Outcome::Error(ControlError::new(ControlErrorKind::Busy, "later")),
        };
        let back: Reply = serde_json::from_slice(&reply.to_line()).unwrap();
        assert_eq!(back, reply);
    }

    #[test]
    fn every_kind_of_nonsense_has_its_error() {
        use ControlErrorKind::*;
        assert_eq!(kind(""), Malformed);
        assert_eq!(kind("[1]"), Malformed);
        assert_eq!(kind("{}"), Malformed);
        assert_eq!(kind(r#"{"command":7}"#), Malformed);
        assert_eq!(kind(r#"{"command":"explode"}"#), UnknownCommand);
        assert_eq!(
            kind(r#"{"version":2,"command":"pause"}"#),
            UnsupportedVersion
        );
        assert_eq!(kind(r#"{"command":"learning_rate_scale"}"#), Invalid);
        for scale in ["0", "-1", "1e9", "null", "\"1\""] {
            let line = format!(r#"{{"command":"learning_rate_scale","scale":{scale}}}"#);
            assert_eq!(kind(&line), Invalid, "{line}");
        }
        assert_eq!(
            kind(r#"{"command":"accumulation","micro_batches":0}"#),
            Invalid
        );
        assert_eq!(kind(r#"{"command":"intervals"}"#), Invalid);
        assert_eq!(
            kind(r#"{"command":"intervals","metrics_every":0}"#),
            Invalid
        );
        let (id, _) = Request::parse(br#"{"id":3,"command":"x"}"#).unwrap_err();
        assert_eq!(id, Some(3));
    }
}
