//! How much memory a run may use, and who says so.

use crate::config::RunConfig;
use crate::device::OpenDevice;

/// A limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Bytes, where they are known.
    pub bytes: Option<u64>,
    /// Who says so.
    pub source: &'static str,
}

impl Limit {
    /// What the configuration says, else what the device has.
    pub fn of(config: &RunConfig, opened: &OpenDevice) -> Self {
        let given = Self::given(config);
        if given.bytes.is_some() {
            return given;
        }
        let source = match opened.adapter {
            Some(_) => "the device's memory",
            None => "the system's memory",
        };
        Self {
            bytes: opened.memory_bytes(),
            source,
        }
    }

    /// What the configuration says.
    pub fn given(config: &RunConfig) -> Self {
        Self {
            bytes: config.train.memory_limit.map(|size| size.0),
            source: "train.memory_limit",
        }
    }
}
