//! The decoder: embedding, layers of attention and feed-forward, final normalisation, head.
//!
//! The residual stream is two-dimensional, `[batch · time, hidden]`; only attention looks at
//! sequences.

mod attended;
mod attention;
mod choices;
mod decoder;
mod feed_forward;
mod init;
mod input;
mod layers;
mod mla;
mod numerics;
pub mod rotary;

pub use attended::Attended;
pub use attention::{Attention, GroupedQueryAttention, Keys};
pub use choices::{Choices, Filled};
pub use decoder::{Decoder, DecoderLayer, Forward, RoutingAt};
pub use feed_forward::{DenseFeedForward, ExpertWeights, FeedForward, MixtureOfExperts};
pub use init::Init;
pub(crate) use init::hold;
pub use input::{Cache, Input, Part, Sequences};
pub use layers::{Embedding, Linear, RmsNorm, Stream};
pub use mla::MultiHeadLatentAttention;
pub use numerics::Numerics;
