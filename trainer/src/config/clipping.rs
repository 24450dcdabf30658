//! `max_grad_norm = 0` for "never clip". TOML has no null, so an absent key has to mean the
//! default, and "never" needs a value of its own.

use bellows_engine::optim::AdamWConfig;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub fn serialize<S: Serializer>(config: &AdamWConfig, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Written<'a> {
        #[serde(flatten)]
        config: &'a AdamWConfig,
        #[serde(skip_serializing_if = "Option::is_none")]
        max_grad_norm: Option<f64>,
    }
    Written {
        config,
        max_grad_norm: config.max_grad_norm.is_none().then_some(0.0),
    }
    .serialize(serializer)
}

pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<AdamWConfig, D::Error> {
    let mut config = AdamWConfig::deserialize(deserializer)?;
    if config.max_grad_norm == Some(0.0) {
        config.max_grad_norm = None;
    }
    Ok(config)
}
