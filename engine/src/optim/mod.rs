//! AdamW over a model's parameters: weight-decay groups, clipping, schedule, state.

mod config;
mod optimizer;

pub use config::{AdamWConfig, ParameterKind, Schedule};
pub use optimizer::{AdamW, Gradients, Update, parameter_kind};
