//! What `--device` and `run.device` accept.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A device as the user names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceChoice {
    /// A real GPU if there is one, else the CPU.
    #[default]
    Auto,
    /// The CPU backend.
    Cpu,
    /// The adapter with this number, hardware first, software last.
    Gpu(usize),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|_| digits).map(DeviceChoice::Gpu)
        };
        match text {
            "auto" => Some(DeviceChoice::Auto),
            "cpu" => Some(DeviceChoice::Cpu),
            "gpu" => Some(DeviceChoice::Gpu(0)),
            _ => text.strip_prefix("gpu:").and_then(number),
        }
        .ok_or_else(|| {
            format!(
                "{text:?} is not a device: give \"auto\", \"cpu\", \"gpu\" or \"gpu:N\" as `bellows devices` numbers them"
            )
        })
    }
}

impl TryFrom<String> for DeviceChoice {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceChoice::Auto => f.write_str("auto"),
            DeviceChoice::Cpu => f.write_str("cpu"),
            DeviceChoice::Gpu(index) => write!(f, "gpu:{index}"),
        }
    }
}

impl From<DeviceChoice> for String {
    fn from(choice: DeviceChoice) -> Self {
        choice.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_reads_and_prints_back() {
        for (text, choice) in [
            ("auto", DeviceChoice::Auto),
            ("cpu", DeviceChoice::Cpu),
            ("gpu:0", DeviceChoice::Gpu(0)),
            ("gpu:12", DeviceChoice::Gpu(12)),
        ] {
            assert_eq!(text.parse(), Ok(choice));
            assert_eq!(choice.to_string(), text);
        }
        assert_eq!("gpu".parse(), Ok(DeviceChoice::Gpu(0)));
    }

    #[test]
    fn what_is_no_device_is_refused_with_the_forms_that_are() {
        for text in [
            "",
            "cuda",
            "gpu:",
            "gpu:-1",
            "gpu:+1",
            "gpu:x",
            "GPU",
            "gpu:99999999999999999999",
        ] {
            let message = text.parse::<DeviceChoice>().expect_err(text);
            assert!(message.contains("gpu:N"), "{message}");
        }
    }
}
