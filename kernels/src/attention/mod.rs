//! Flash attention (arXiv 2205.14135, 2307.08691), forward and backward, on Burn tensors.
//!
//! | tensor | shape |
//! | --- | --- |
//! | `query` | `[B, heads, T, D]` |
//! | `key` | `[B, groups, S, D]` |
//! | `value` | `[B, groups, S, V]` |
//! | result | `[B, heads, T, V]` |
//!
//! `y = softmax(scale · q kᵀ) v` over the keys that a query sees. Query head h reads group
//! `h / (heads / groups)`. Queries are the last T of S positions, so that some tokens can be read
//! against all those before them: a chunk of a sequence, or one token against a cache.
//!
//! # Who sees whom
//!
//! A query sees a run of positions that ends with its own ([`Visible`]): all before it, at most a
//! window of them, and none before the start of its document, where several are packed into one
//! sequence. No mask is ever made: the kernels work out the run, and skip the tiles outside.
//!
//! # Memory
//!
//! Kept for backward: query, key and value in the compute type (in f32 they are the caller's own),
//! the result (shared with the caller) and a log-sum-exp a row `[B, heads, T]`. Nothing is
//! `[T, S]`: the kernels hold a tile of scores in registers, the [`reference`](mod@reference) those of at most
//! [`reference::BLOCK`] rows, about half a MiB at a time, of at least 8 rows. The result lies in memory as `[B, T, heads, V]`, so that the
//! projection behind it reads whole rows.
//!
//! # Kernels
//!
//! Scores are computed a tile at a time and reduced as they come, relative to a number of each row
//! that follows its scores, with the row's sum carried along; backward computes them again from the log-sum-exps, in one
//! kernel for the queries' gradient and one for those of keys and values, in which the query heads
//! of a group are added in order. There are no atomic sums: the same input gives the same bits.
//! [`Tier`] says which implementation runs: plain tiles on any device, or cooperative matrices, of a
//! subgroup or of the whole workgroup. On the CPU, for widths above [`MAX_WIDTH`] and with
//! [`Kernels::Reference`], plain tensor operations compute the same.
//!
//! # On its own
//!
//! ```
//! use bellows_kernels::attention::{Settings, Visible, attention};
//! use burn::tensor::{Device, Distribution, Tensor};
//!
//! // Any device; on a GPU this runs the kernels, forward and backward.
//! let device = Device::flex().autodiff();
//! let normal = Distribution::Normal(0.0, 1.0);
//! // Two sequences of 48 tokens, 4 query heads in 2 groups, 16 features a head.
//! let query = Tensor::<4>::random([2, 4, 48, 16], normal, &device).require_grad();
//! let key = Tensor::<4>::random([2, 2, 48, 16], normal, &device).require_grad();
//! let value = Tensor::<4>::random([2, 2, 48, 16], normal, &device).require_grad();
//!
//! // Causal, at most 32 tokens back.
//! let visible = Visible::default().within(32);
//! let y = attention(
//!     query.clone(),
//!     key,
//!     value,
//!     &visible,
//!     1.0 / 16f64.sqrt(),
//!     Settings::default(),
//! );
//! assert_eq!(y.dims(), [2, 4, 48, 16]);
//!
//! let gradients = y.sum().backward();
//! assert_eq!(query.grad(&gradients).unwrap().dims(), [2, 4, 48, 16]);
//! ```

#![allow(
    clippy::collapsible_if,
    reason = "a condition of the compiler's and one of the device's are no one condition"
)]

mod backend;
mod cooperative;
mod fused;
mod launch;
mod plain;
mod prepare;
pub mod reference;
mod span;
mod tier;

pub use backend::{AttentionBackend, Rule};
pub use fused::{Pass, backward, forward};
pub use tier::{MAX_WIDTH, Scope, Tier, Tile, Tiles};

use burn::tensor::{Int, Tensor};

use crate::calls::{Path, note};
use crate::convert::convert;
use crate::vjp::{Accumulator, custom_vjp};
use crate::{Compute, Kernels};

/// A hidden position's score: far below any other, and finite in f32, so that differences of two
/// of them stay numbers.
pub const HIDDEN: f32 = -1.0e30;

/// What a row's largest score is before it has seen a position: below all scores and so far above
/// [`HIDDEN`] that the exponential of a hidden score relative to it is zero.
const NOTHING: f32 = -1.0e29;

/// Which positions a query sees, of those up to its own. The default is all of them.
#[derive(Clone, Debug, Default)]
pub struct Visible {
    /// The most, its own included; at least 1. `None`: no limit.
    pub window: Option<usize>,
    /// The first position of each query's document `[B or 1, T]`; `None`: 0. It never falls from
    /// a query to the next and never exceeds the query's own position. On the tensors' device.
    pub starts: Option<Tensor<2, Int>>,
}

impl Visible {
    /// The same, with a window of `positions`.
    pub fn within(mut self, positions: usize) -> Self {
        self.window = Some(positions);
        self
    }

    /// The same, with documents that start at `starts` `[B or 1, T]`.
    pub fn after(mut self, starts: Tensor<2, Int>) -> Self {
        self.starts = Some(starts);
        self
    }
}

/// How [`attention`] computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Settings {
    /// Whose kernels.
    pub kernels: Kernels,
    /// The type in which queries, keys, values and weights are multiplied; the reference takes
    /// f32 alone. Sums are f32 in every case.
    pub compute: Compute,
    /// Which kernels, and their tiles; `None`: as the device's properties say, which is what all
    /// but tests and benches want. Cooperative ones that the device does not run are plain ones.
    pub tier: Option<Tier>,
}

/// Sums of the gradients of keys and values, in their shapes, over several backward passes.
pub type KeySums = Accumulator<(Tensor<4>, Tensor<4>)>;

/// What a forward pass found, for a second one over the same operands: with it the second costs
/// nothing but keeps what backward needs. Where layers are recomputed, that is the difference
/// between two attentions and one.
#[derive(Clone, Debug)]
pub struct Known {
    /// The result as the implementation lays it out: `B · T · heads · V` numbers, or a few more
    /// where its kernels pad rows.
    pub y: Tensor<4>,
    /// Log-sum-exps of the scores `[B, heads, T]`, f32.
    pub log_sums: Tensor<3>,
}

impl Known {
    /// The same with the result stored in `compute`, rounded, on devices that store it.
    pub fn stored(self, compute: Compute) -> Self {
        Self {
            y: convert(self.y, compute),
            log_sums: self.log_sums,
        }
    }
}

/// Causal attention of `query` over `key` and `value`, shapes as in the module's table, scores
/// multiplied by `scale`.
///
/// # Panics
/// If shapes do not fit one another, or `visible` gives a window of 0.
pub fn attention(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    visible: &Visible,
    scale: f64,
    settings: Settings,
) -> Tensor<4> {
    attention_again(query, key, value, visible, scale, settings, None, None).0
}

/// [`attention`] for callers who recompute layers, and what it found.
///
/// With `sums`, backward adds the gradients of keys and values there instead of handing them to
/// autodiff; the query's goes the usual way. With `known`, from a pass over the same operands by the
/// same settings, nothing is computed before backward.
///
/// # Panics
/// As [`attention`].
pub fn attention_again(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    visible: &Visible,
    scale: f64,
    settings: Settings,
    sums: Option<&KeySums>,
    known: Option<Known>,
) -> (Tensor<4>, Known) {
    let plain = [&query, &key, &value].map(|tensor| tensor.clone().without_autodiff());
    let (y, pass) = computed(plain, visible, scale, settings, known);
    let known = pass.known();
    let y = match sums.cloned() {
        Some(sums) => custom_vjp([query.into()], y, move |dy, _| {
            let before = sums.take();
            let (dq, dk, dv) = pass.backward(dy, before);
            sums.put((dk, dv));
            [Some(dq.into())]
        }),
        None => custom_vjp([query.into(), key.into(), value.into()], y, move |dy, _| {
            let (dq, dk, dv) = pass.backward(dy, None);
            [Some(dq.into()), Some(dk.into()), Some(dv.into())]
        }),
    };
    (y, known)
}

/// A forward pass by whoever computes it.
enum Done {
    Kernels(Box<Pass>),
    Reference(Box<(reference::Kept, Visible, f64)>),
}

/// The result, and what its backward pass needs.
fn computed(
    operands: [Tensor<4>; 3],
    visible: &Visible,
    scale: f64,
    settings: Settings,
    known: Option<Known>,
) -> (Tensor<4>, Done) {
    check(&operands, visible);
    let [query, key, value] = operands;
    if let Some(tier) = fused::tier(&query, &key, &value, visible, settings) {
        note("attention", Path::Kernels(tier.name()));
        let compute = settings.compute;
        let pass = fused::pass(query, key, value, visible, scale, compute, tier, known);
        return (pass.y.clone(), Done::Kernels(Box::new(pass)));
    }
    note("attention", Path::Reference);
    let (y, log_sums) = match known {
        Some(Known { y, log_sums }) => (convert(y, Compute::F32), log_sums.unsqueeze_dim(3)),
        None => reference::forward(query.clone(), key.clone(), value.clone(), visible, scale),
    };
    let kept = reference::Kept {
        query,
        key,
        value,
        y: y.clone(),
        log_sums,
    };
    (y, Done::Reference(Box::new((kept, visible.clone(), scale))))
}

impl Done {
    /// What another pass over the same operands can take for its result.
    fn known(&self) -> Known {
        match self {
            Self::Kernels(pass) => pass.known(),
            Self::Reference(pass) => Known {
                y: pass.0.y.clone(),
                log_sums: pass.0.log_sums.clone().squeeze_dim(3),
            },
        }
    }

    /// Gradients of query, key and value, the latter two on top of `sums`.
    fn backward(
        self,
        dy: Tensor<4>,
        sums: Option<(Tensor<4>, Tensor<4>)>,
    ) -> (Tensor<4>, Tensor<4>, Tensor<4>) {
        match self {
            Self::Reference(pass) => {
                let (kept, visible, scale) = *pass;
                reference::backward(dy, kept, sums, &visible, scale)
            }
            Self::Kernels(pass) => {
                let (dq, dk, dv) = backward(dy, *pass);
                match sums {
                    Some((dkey, dvalue)) => (dq, dk.add(dkey), dv.add(dvalue)),
                    None => (dq, dk, dv),
                }
            }
        }
    }
}

fn check([query, key, value]: &[Tensor<4>; 3], visible: &Visible) {
    let [batch, heads, time, width] = query.dims();
    let [_, groups, length, value_width] = value.dims();
    assert_eq!(
        key.dims(),
        [batch, groups, length, width],
        "keys [B, groups, S, D] for queries {:?} and values {:?}",
        query.dims(),
        value.dims()
    );
    assert_eq!(
        value.dims(),
        [batch, groups, length, value_width],
        "values [B, groups, S, V] for queries {:?}",
        query.dims()
    );
    assert!(
        groups > 0 && heads.is_multiple_of(groups),
        "{heads} heads in {groups} groups"
    );
    assert!(
        length >= time,
        "{time} queries are the last of {length} positions"
    );
    assert_ne!(visible.window, Some(0), "a query sees itself");
    if let Some(starts) = &visible.starts {
        let [rows, columns] = starts.dims();
        assert!(
            (rows == batch || rows == 1) && columns == time,
            "document starts [{rows}, {columns}] for {batch} sequences of {time} queries"
        );
    }
}
