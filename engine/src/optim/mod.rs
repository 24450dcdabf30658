//! AdamW over a model's parameters: weight-decay groups, clipping, schedule, loss scale, state.

mod config;
mod loss_scale;
mod optimizer;

pub use config::{AdamWConfig, ParameterKind, Schedule};
pub use loss_scale::{
    BACKOFF_FACTOR, GROWTH_FACTOR, LossScale, LossScaleConfig, MAX_SCALE, MIN_SCALE,
};
pub use optimizer::{AdamW, Gradients, Update, layer_of, own_parameters, parameter_kind};
