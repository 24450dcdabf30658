//! Attention by the device's own kernels.

use burn::backend::Dispatch;
use burn::tensor::{DType, Int, Tensor};

use super::backend::{AttentionBackend, Rule};
use super::tier::{MAX_WIDTH, Tier, cooperative_on};
use super::{Known, Settings, Visible};
use crate::convert::convert;
use crate::{Compute, Kernels, gpu};

/// Widths are padded to a multiple of this many features: the 16-bit elements of 16 bytes.
const PIECE: usize = 8;

/// Which kernels compute it; `None`: plain operations do.
pub(super) fn tier(
    query: &Tensor<4>,
    key: &Tensor<4>,
    value: &Tensor<4>,
    visible: &Visible,
    settings: Settings,
) -> Option<Tier> {
    let elements = |tensor: &Tensor<4>| tensor.dims().iter().product::<usize>();
    let tensors = [query, key, value];
    let [_, heads, time, width] = query.dims();
    let value_width = value.dims()[3];
    // Indices of elements have 32 bits, those of the result too.
    let counted = (1..u32::MAX as usize / 2).contains(&(elements(query) / width.max(1)))
        && tensors
            .iter()
            .all(|tensor| (1..u32::MAX as usize / 2).contains(&elements(tensor)))
        && query.dims()[0] * heads * time * value_width < u32::MAX as usize / 2;
    let fits = width.max(value_width) <= MAX_WIDTH && counted;
    let ours = settings.kernels == Kernels::Fused
        && gpu::on_cube(query)
        && visible.window.is_none_or(|window| window > 0)
        && settings.compute.stored_by(&query.device());
    if !(ours && fits) {
        return None;
    }
    let like = gpu::probe(query)?;
    let widths = [width, value_width].map(|width| width.next_multiple_of(PIECE));
    Some(match settings.tier {
        // The cooperative kernels only where the device runs them.
        Some(Tier::Cooperative(tiles))
            if cooperative_on(&like, settings.compute, widths).is_err()
                || !tiles.fit(&like, settings.compute, widths) =>
        {
            Tier::Plain
        }
        Some(tier) => tier,
        None => Tier::of(&like, settings.compute, widths),
    })
}

/// A forward pass by the kernels, and what its backward pass needs.
#[derive(Clone, Debug)]
pub struct Pass {
    /// The result `[B, heads, T, V]`.
    pub y: Tensor<4>,
    /// Operands in the compute type, widths padded.
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    /// As padded `[B, T, heads, V]`.
    laid: Tensor<4>,
    log_sums: Tensor<3>,
    starts: Tensor<2, Int>,
    rule: Rule,
    /// Before padding.
    widths: [usize; 2],
}

/// The forward pass without autodiff; `None` where the kernels do not take the device or the
/// shape. Operands may be in the compute type already.
pub fn forward(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    visible: &Visible,
    scale: f64,
    settings: Settings,
) -> Option<Pass> {
    let tier = tier(&query, &key, &value, visible, settings)?;
    let compute = settings.compute;
    Some(pass(query, key, value, visible, scale, compute, tier, None))
}

/// The forward pass, or what it left, `known`, put in its place.
pub(super) fn pass(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    visible: &Visible,
    scale: f64,
    compute: Compute,
    tier: Tier,
    known: Option<Known>,
) -> Pass {
    let widths = [query.dims()[3], value.dims()[3]];
    let [query, key, value] = [query, key, value].map(|operand| convert(padded(operand), compute));
    let documents = visible.starts.is_some();
    let starts = match &visible.starts {
        Some(starts) => starts.clone(),
        None => Tensor::from_dispatch(<Dispatch as AttentionBackend>::attention_no_starts(
            query.clone().into_dispatch(),
        )),
    };
    let rule = Rule {
        window: visible
            .window
            .and_then(|window| u32::try_from(window).ok())
            .unwrap_or(u32::MAX),
        documents,
        scale: scale as f32,
        tier,
    };
    let (laid, log_sums) = match known {
        Some(Known { y, log_sums }) => (convert(y, Compute::F32), log_sums),
        None => {
            let (laid, log_sums) = <Dispatch as AttentionBackend>::attention_forward(
                query.clone().into_dispatch(),
                key.clone().into_dispatch(),
                value.clone().into_dispatch(),
                starts.clone().into_dispatch(),
                rule,
            );
            (Tensor::from_dispatch(laid), Tensor::from_dispatch(log_sums))
        }
    };
    Pass {
        y: narrowed(laid.clone(), widths[1]).swap_dims(1, 2),
        query,
        key,
        value,
        laid,
        log_sums,
        starts,
        rule,
        widths,
    }
}

impl Pass {
    /// What another pass over the same operands can take for its result.
    pub(super) fn known(&self) -> Known {
        Known {
            y: self.laid.clone(),
            log_sums: self.log_sums.clone(),
        }
    }
}

/// Gradients of query, key and value from that of the result `[B, heads, T, V]`, f32.
pub fn backward(dy: Tensor<4>, pass: Pass) -> (Tensor<4>, Tensor<4>, Tensor<4>) {
    let Pass {
        y,
        query,
        key,
        value,
        laid,
        log_sums,
        starts,
        rule,
        widths: [width, value_width],
    } = pass;
    drop(y);
    let (dquery, dkey, dvalue) = <Dispatch as AttentionBackend>::attention_backward(
        padded(dy.swap_dims(1, 2)).into_dispatch(),
        laid.into_dispatch(),
        log_sums.into_dispatch(),
        query.into_dispatch(),
        key.into_dispatch(),
        value.into_dispatch(),
        starts.into_dispatch(),
        rule,
    );
    (
        narrowed(Tensor::from_dispatch(dquery), width),
        narrowed(Tensor::from_dispatch(dkey), width),
        narrowed(Tensor::from_dispatch(dvalue), value_width),
    )
}

/// With zeros behind each row up to a whole number of pieces. They add nothing to a score, and
/// what comes out behind a row is cut off again.
fn padded(tensor: Tensor<4>) -> Tensor<4> {
    let [a, b, c, width] = tensor.dims();
    let missing = width.next_multiple_of(PIECE) - width;
    if missing == 0 {
        return tensor;
    }
    debug_assert_eq!(tensor.dtype(), DType::F32, "widths of 16-bit tensors fit");
    let zeros = Tensor::zeros([a, b, c, missing], &tensor.device());
    Tensor::cat(vec![tensor, zeros], 3)
}

fn narrowed(tensor: Tensor<4>, width: usize) -> Tensor<4> {
    if tensor.dims()[3] == width {
        return tensor;
    }
    tensor.narrow(3, 0, width)
}
