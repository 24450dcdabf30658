//! Values that options take.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Which checkpoint of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum CheckpointChoice {
    /// The newest.
    #[default]
    Last,
    /// The one with the lowest validation loss.
    Best,
    /// The one of this step.
    Step(u64),
}

impl FromStr for CheckpointChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "last" => Ok(CheckpointChoice::Last),
            "best" => Ok(CheckpointChoice::Best),
            _ => text.parse().map(CheckpointChoice::Step).map_err(|_| {
                format!("{text:?} is no checkpoint: give a step, \"best\" or \"last\"")
            }),
        }
    }
}

impl fmt::Display for CheckpointChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CheckpointChoice::Last => f.write_str("last"),
            CheckpointChoice::Best => f.write_str("best"),
            CheckpointChoice::Step(step) => write!(f, "{step}"),
        }
    }
}

/// A size in bytes: `5GB` (decimal, as Hugging Face counts), `512MiB` (binary) or plain bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ByteSize(pub u64);

impl TryFrom<String> for ByteSize {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        match units.iter().find(|(_, unit)| self.0.is_multiple_of(*unit)) {
            Some((name, unit)) => write!(f, "{}{name}", self.0 / unit),
            None => write!(f, "{}", self.0),
        }
    }
}

impl From<ByteSize> for String {
    fn from(size: ByteSize) -> Self {
        size.to_string()
    }
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is no size: give a number with B, KB, MB, GB, KiB, MiB or GiB, for example 5GB"
            )
        };
        let text = text.trim();
        let split = text
            .find(|c: char| c != '.' && !c.is_ascii_digit())
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let unit: f64 = match unit.trim().to_lowercase().as_str() {
            "" | "b" => 1.0,
            "kb" => 1e3,
            "mb" => 1e6,
            "gb" => 1e9,
            "tb" => 1e12,
            "kib" => 1024.0,
            "mib" => 1_048_576.0,
            "gib" => 1_073_741_824.0,
            "tib" => 1_099_511_627_776.0,
            _ => return Err(wrong()),
        };
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let bytes = number * unit;
        if bytes < 1.0 || bytes >= u64::MAX as f64 {
            return Err(wrong());
        }
        Ok(Self(bytes as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_decimal_or_binary_by_their_unit() {
        assert_eq!("5GB".parse(), Ok(ByteSize(5_000_000_000)));
        assert_eq!("1.5 MiB".parse(), Ok(ByteSize(1_572_864)));
        assert_eq!("100".parse(), Ok(ByteSize(100)));
        for size in [100, 3 << 20, (3 << 20) + 1, 8 << 30] {
            let text = ByteSize(size).to_string();
            assert_eq!(text.parse(), Ok(ByteSize(size)), "{text}");
        }
        for text in ["", "GB", "-1GB", "0", "1e9", "5 pounds", "1.2.3KB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_checkpoint_is_a_step_or_a_word() {
        for (text, choice) in [
            ("last", CheckpointChoice::Last),
            ("best", CheckpointChoice::Best),
            ("1200", CheckpointChoice::Step(1200)),
        ] {
            assert_eq!(text.parse(), Ok(choice));
            assert_eq!(choice.to_string(), text);
        }
        assert!("newest".parse::<CheckpointChoice>().is_err());
    }
}
