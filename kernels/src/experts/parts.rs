//! The experts in parts of their sorted rows, where memory is dearer than time.
//!
//! A driver on a processor shares its memory with everything else and has no units to keep busy, so
//! there the rows go through the experts a part at a time, and backward computes a part's
//! pre-activation again: nothing but a part's rows and the results lie in memory. A part is a run
//! of rows, whichever experts' they are, since the host does not know where an expert's begin.

use std::ops::Range;

use burn::backend::{DType, TensorMetadata};
use burn::tensor::Device;
use burn_cubecl::tensor::CubeTensor;

use super::launch::{Matrices, Operands, Rest, RowGradients, apart, combine, together};
use super::ready::Ready;
use crate::gpu::{count, empty, on_device};
use crate::matmul::Plain;

/// Parts of the rows, at most.
const PARTS: usize = 8;

/// Rows of a part are a multiple of this, so that every part of a buffer begins where a device
/// lets a binding begin: 256 bytes at most.
const STEP: usize = 256;

/// Whether the device of `operands` takes the rows in parts and keeps no pre-activation.
pub(super) fn taken(operands: &Operands) -> bool {
    Plain::on_processor(operands.x.client.properties())
}

/// Whether the kernels on `device` take the rows in parts of [`part_rows`] and compute the
/// pre-activation again in backward, whatever is asked: it is a driver that computes on a processor.
pub fn in_parts(device: &Device) -> bool {
    on_device(device).is_some_and(|probe| Plain::on_processor(probe.client.properties()))
}

/// Rows of a part, the last one's perhaps fewer, where all parts have `rows`.
pub fn part_rows(rows: usize) -> usize {
    rows.div_ceil(PARTS).next_multiple_of(STEP).max(STEP)
}

/// Rows at a time on the device of `operands`.
pub(super) fn length(operands: &Operands, rows: usize) -> usize {
    match taken(operands) {
        true => part_rows(rows),
        false => rows,
    }
}

/// The parts of `rows` rows, each `length` long but for the last: one at least.
pub(super) fn of(rows: usize, length: usize) -> impl Iterator<Item = Range<usize>> {
    let parts = rows.div_ceil(length.max(1)).max(1);
    (0..parts).map(move |number| number * length..rows.min((number + 1) * length))
}

/// The rows of `part` of a contiguous tensor with as many rows as its first axis is long.
pub(super) fn view(tensor: &CubeTensor, part: &Range<usize>) -> CubeTensor {
    let mut shape = tensor.shape();
    let width = count(tensor) / shape[0].max(1);
    let bytes = part.start * width * tensor.dtype.size();
    shape[0] = part.len();
    let handle = match bytes {
        0 => tensor.handle.clone(),
        bytes => tensor.handle.clone().offset_start(bytes as u64),
    };
    CubeTensor::new_contiguous(
        tensor.client.clone(),
        tensor.device.clone(),
        shape,
        handle,
        tensor.dtype,
    )
}

/// The whole backward pass, part by part.
pub(super) fn backward(
    ready: &Ready<'_>,
    dy: &CubeTensor,
    weights: CubeTensor,
    positions: &CubeTensor,
    sums: Option<Vec<Matrices>>,
) -> RowGradients {
    let row_weights = ready.row_weights(weights);
    let length = part_rows(ready.count);
    let shares = empty(dy, [ready.count.max(1), ready.share_count()], DType::F32);
    let mut accumulate = sums.is_some();
    let (gate_up, down) = match sums {
        Some(sums) => apart(sums),
        None => (ready.fresh_gate_up(), ready.fresh_down()),
    };
    let mut dx: Option<CubeTensor> = None;
    for part in of(ready.count, length) {
        let groups = ready.groups(&part);
        let (pre, activation) = ready.activate(&groups);
        ready.backward_of_swiglu(
            &groups,
            dy,
            &view(&row_weights, &part),
            &pre,
            &activation,
            &view(&shares, &part),
        );
        ready.gradient_of_down(&groups, dy, &activation, &down, accumulate);
        drop(activation);
        ready.gradient_of_gate_up(&groups, &pre, &gate_up, accumulate);
        // What a part has no rows of is zero since the first.
        accumulate = true;
        let rows = ready.gradient_of_rows(&groups, &pre);
        drop(pre);
        let (all, top_k) = (ready.count, ready.top_k);
        dx = Some(combine(
            &rows,
            &part,
            all,
            positions,
            top_k,
            None,
            dx.take(),
        ));
    }
    RowGradients {
        rows: dx.expect("there is a part"),
        summed: true,
        weights: ready.weight_gradient(&shares, positions, length),
        rest: Rest::Made(together(gate_up, down)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_every_row_once_and_begin_where_bindings_may() {
        for rows in [0, 1, 255, 256, 257, 2048, 2049, 8192, 100_003] {
            let length = part_rows(rows);
            let parts: Vec<_> = of(rows, length).collect();
            assert!((1..=PARTS).contains(&parts.len()), "{rows}: {parts:?}");
            assert!(parts.iter().flat_map(Clone::clone).eq(0..rows), "{rows}");
            assert!(parts.iter().all(|part| part.start.is_multiple_of(STEP)));
            // All rows at once are one part.
            assert_eq!(of(rows, rows).count(), 1);
        }
    }
}
