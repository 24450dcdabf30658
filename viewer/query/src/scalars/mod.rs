//! Metrics as curves, and how runs' configurations differ.

pub(crate) mod config;
mod curves;

pub use config::{ConfigDifference, ConfigDifferences, ConfigTable};
pub use curves::{Axis, Curve, CurvePoint, CurveSet, Curves};
