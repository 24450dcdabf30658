//! The decoder: embedding, layers of attention and feed-forward, final normalisation, head.
//!
//! The residual stream is two-dimensional, `[batch · time, hidden]`; only attention looks at
//! sequences.

mod attention;
mod decoder;
mod feed_forward;
mod init;
mod input;
mod layers;
mod mla;
pub mod rotary;

pub use attention::{Attention, GroupedQueryAttention};
pub use decoder::{Decoder, DecoderLayer, Forward, RoutingAt};
pub use feed_forward::{DenseFeedForward, ExpertWeights, FeedForward, MixtureOfExperts};
pub use init::Init;
pub use input::{Cache, Input, Sequences};
pub use layers::{Embedding, Linear, RmsNorm};
pub use mla::MultiHeadLatentAttention;
