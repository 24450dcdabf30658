//! Parameters under the names that checkpoints give them.
//!
//! A parameter of the engine may be several tensors of a checkpoint (all experts of a layer are
//! one parameter here, one tensor an expert in public checkpoints). [`parts`] lists them, each with
//! its ranges of the parameter. Where a layer's experts are larger than a buffer of the device, the
//! parameter in its turn is several, a stack of blocks: [`wholes`] puts them together, so that no
//! file tells in how many blocks a model was held.

mod names;
mod source;
mod transfer;

pub use names::{Naming, Part, Path, block_name, correction_bias_name, parts, stack_name};
pub use source::{SafetensorsSource, TensorSource, WeightError};
pub use transfer::{NamedTensor, Whole, export, import, parameters, snapshot_tensors, wholes};
