//! Host code of the chain's own kernels.

use burn::backend::{DType, TensorMetadata};
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::device::{self, TOKENS, UNITS, WIDTH};
use crate::convert::element;
use crate::gpu::{arg, contiguous, count, empty, grid, lanes, launch};
use crate::matmul::launch::gradient;
use crate::matmul::{Access, Groups, Plain, Tier};
use crate::profile::stage;

/// Experts up to which the logits are sums in a workgroup's registers.
pub(super) const MAX_FUSED_EXPERTS: usize = 4 * WIDTH;

/// Fewest tokens of a part of a sum over tokens, and most parts.
const PART: usize = 256;
const MAX_PARTS: usize = 64;

/// Parts of a sum over `tokens`.
pub(super) fn parts(tokens: usize) -> usize {
    (tokens / PART).clamp(1, MAX_PARTS)
}

/// Sorted rows of T tokens, and how they are summed.
pub(super) struct Sorted {
    /// `[rows, H]` in the compute type.
    pub rows: CubeTensor,
    /// `[T · k]`.
    pub positions: CubeTensor,
    /// `[T, H]` f32, if it is added.
    pub residual: Option<CubeTensor>,
    pub top_k: usize,
}

impl Sorted {
    fn tokens(&self) -> usize {
        count(&self.positions) / self.top_k
    }

    fn hidden(&self) -> usize {
        self.rows.shape()[1]
    }

    fn shared(&self) -> usize {
        (self.rows.shape()[0] - count(&self.positions)) / self.tokens()
    }
}

/// The next state `[T, H]` and logits `[T, E]`, f32, from rows weighted by `weights` `[T, k]` and
/// the next router `[E, H]` with at most [`MAX_FUSED_EXPERTS`].
pub(super) fn combine_logits(
    sorted: Sorted,
    weights: CubeTensor,
    router: CubeTensor,
) -> (CubeTensor, CubeTensor) {
    let (tokens, hidden) = (sorted.tokens(), sorted.hidden());
    let (weights, router) = (contiguous(weights), contiguous(router));
    let residual = sorted.residual.clone().map(contiguous);
    let experts = router.shape()[0];
    let state = empty(&sorted.rows, [tokens, hidden], DType::F32);
    let logits = empty(&sorted.rows, [tokens, experts], DType::F32);
    let lanes = lanes(hidden);
    let operations = 2.0 * (tokens * hidden * experts) as f64;
    // SAFETY: the kernel checks tokens, columns, experts, and positions past the rows.
    stage(
        &state,
        "combine with the next logits",
        operations,
        || unsafe {
            launch!(device::combine_logits(
                &sorted.rows.client,
                grid(tokens.div_ceil(TOKENS)),
                CubeDim::new_1d(UNITS as u32),
                lanes,
                arg(&sorted.rows, lanes),
                arg(&sorted.positions, 1),
                arg(&weights, 1),
                arg(residual.as_ref().unwrap_or(&router), lanes),
                arg(&router, lanes),
                arg(&state, lanes),
                arg(&logits, 1),
                tokens,
                hidden,
                experts,
                sorted.top_k,
                sorted.shared(),
                residual.is_some(),
                true,
                experts.div_ceil(WIDTH),
                element(&sorted.rows),
            ));
        },
    );
    (state, logits)
}

/// The gradient of a state `[T, H]`, f32, from those of its rows, of what it was added to, and of
/// the logits `[T, E]` of its `router` `[E, H]`.
pub(super) fn combine_gradient(
    sorted: Sorted,
    dlogits: CubeTensor,
    router: CubeTensor,
) -> CubeTensor {
    let (tokens, hidden) = (sorted.tokens(), sorted.hidden());
    let (dlogits, router) = (contiguous(dlogits), contiguous(router));
    let residual = sorted.residual.clone().map(contiguous);
    let out = empty(&sorted.rows, [tokens, hidden], DType::F32);
    let lanes = lanes(hidden);
    let operations = 2.0 * (tokens * hidden * router.shape()[0]) as f64;
    // SAFETY: as above.
    stage(
        &out,
        "combine with the router's gradient",
        operations,
        || unsafe {
            launch!(device::combine_gradient(
                &sorted.rows.client,
                grid(tokens.div_ceil(TOKENS) * hidden.div_ceil(WIDTH)),
                CubeDim::new_1d(UNITS as u32),
                lanes,
                arg(&sorted.rows, lanes),
                arg(&sorted.positions, 1),
                arg(residual.as_ref().unwrap_or(&router), lanes),
                arg(&dlogits, 1),
                arg(&router, lanes),
                arg(&out, lanes),
                tokens,
                hidden,
                router.shape()[0],
                sorted.top_k,
                sorted.shared(),
                residual.is_some(),
                element(&sorted.rows),
            ));
        },
    );
    out
}

/// Logits `[T, E]` of tokens `[T, H]` by a router `[E, H]` with at most
/// [`MAX_FUSED_EXPERTS`], all f32.
pub(super) fn logits(x: CubeTensor, router: CubeTensor) -> CubeTensor {
    let (x, router) = (contiguous(x), contiguous(router));
    let (tokens, hidden) = (x.shape()[0], x.shape()[1]);
    let experts = router.shape()[0];
    let out = empty(&x, [tokens, experts], DType::F32);
    let lanes = lanes(hidden);
    let unwritten = empty(&x, [lanes], DType::F32);
    let operations = 2.0 * (tokens * hidden * experts) as f64;
    // SAFETY: as above; what has no part in it is bound and not touched.
    stage(&x, "logits", operations, || unsafe {
        launch!(device::combine_logits(
            &x.client,
            grid(tokens.div_ceil(TOKENS)),
            CubeDim::new_1d(UNITS as u32),
            lanes,
            arg(&router, lanes),
            arg(&router, 1),
            arg(&router, 1),
            arg(&x, lanes),
            arg(&router, lanes),
            arg(&unwritten, lanes),
            arg(&out, 1),
            tokens,
            hidden,
            experts,
            1,
            0,
            false,
            false,
            experts.div_ceil(WIDTH),
            element(&x),
        ));
    });
    out
}

/// Parts `[P, E, H]` of the router's gradient `dlogitsᵀ x`, f32: the sum over many tokens fills
/// the device only if it is taken in parts.
pub(super) fn router_gradient(dlogits: CubeTensor, x: CubeTensor) -> CubeTensor {
    let (dlogits, x) = (contiguous(dlogits), contiguous(x));
    let (tokens, experts) = (dlogits.shape()[0], dlogits.shape()[1]);
    let hidden = x.shape()[1];
    let parts = parts(tokens);
    let out = empty(&x, [parts, experts, hidden], DType::F32);
    let operations = 2.0 * (tokens * hidden * experts) as f64;
    stage(&x, "gradient of the router", operations, || {
        gradient(
            &Groups::parts(&x, tokens, parts),
            Tier::Plain(Plain::of(x.client.properties(), PART, &[experts])),
            &dlogits,
            Access::K_ROWS,
            experts,
            experts,
            &x,
            Access::K_ROWS,
            hidden,
            &out,
            false,
        );
    });
    out
}
