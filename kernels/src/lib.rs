//! Operations for training Mixture-of-Experts and Chain-of-Experts language models on Burn tensors.
//!
//! One folder a family. Each `mod.rs` states the contract (shapes, what is kept for backward,
//! source), each `reference.rs` computes it in plain Burn tensor operations: the oracle of tests
//! and the path on every device without kernels of its own. A function called on tensors of an
//! autodiff device records one step with a hand-written backward, so a family keeps for backward
//! exactly what its contract says.
//!
//! | family | what |
//! | --- | --- |
//! | [`routing`] | router logits to chosen experts and weights |
//! | [`embedding`](mod@embedding) | token embedding |
//! | [`linear`] | linear projections in the compute type |
//! | [`chain`](mod@chain) | a mixture or chain of experts with its routers, in one backward |
//! | [`experts`](mod@experts) | the SwiGLU experts of a mixture, and dense SwiGLU |
//! | [`attention`] | flash attention: causal, grouped heads, windows, packed documents |
//! | [`cross_entropy`] | hidden states and head to losses, without a `[tokens, vocabulary]` buffer |
//! | [`norm`] | RMS normalisation |
//! | [`rope`] | rotary position embedding |
//! | [`adamw`] | one AdamW update |
//! | [`convert`] | between storage types |
//! | [`calls`] | which implementation computed each family |
//! | [`memcheck`] | buffers between guard bands, bounds checks |
//! | [`memory`] | whose memory is in use, and how much at most |
//! | [`profile`] | where a pass spends its time |
//! | [`tuning`] | the cooperative product's tiles, one by one |
//! | [`vjp`] | how a family attaches its backward |
//! | [`host`] | the one place that reads a device's memory, and counts it |

pub mod adamw;
pub mod attention;
pub mod calls;
pub mod chain;
mod choice;
pub mod convert;
pub mod cross_entropy;
pub mod embedding;
pub mod experts;
mod gpu;
mod here;
pub mod host;
pub mod linear;
mod matmul;
pub mod memcheck;
pub mod memory;
pub mod norm;
pub mod profile;
pub mod rope;
pub mod routing;
pub mod tuning;
pub mod vjp;

pub use choice::{Compute, Kernels};
pub use gpu::largest_buffer;
