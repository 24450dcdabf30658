//! Parameters under the names that checkpoints give them.
//!
//! A parameter of the engine may be several tensors of a checkpoint (all experts of a layer are
//! one parameter here, one tensor an expert in public checkpoints). [`parts`] lists them, each with
//! its ranges of the parameter.

mod names;
mod source;
mod transfer;

pub use names::{Naming, Part, Path, correction_bias_name, parts};
pub use source::{SafetensorsSource, TensorSource, WeightError};
pub use transfer::{NamedTensor, export, import, parameters, snapshot_tensors};
