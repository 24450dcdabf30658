//! The passes on a CubeCL device, chunk of tokens by chunk of tokens.

use std::ops::Range;

use burn::backend::ops::IntTensorOps;
use burn::backend::{DType, TensorMetadata};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::slice;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::Settings;
use super::device::{self, UNITS};
use super::plan::{Plan, Shape, TileShape, stride};
use super::product::{self, SizesLaunch};
use crate::convert::{convert_primitive as convert, element};
use crate::gpu::{MAX_GRID, arg, contiguous, count, empty, grid, lanes, launch, own};
use crate::matmul::launch::gradient;
use crate::matmul::{Access, Groups, Plain, Tier};
use crate::memory::note_gradient;
use crate::profile::stage;

/// Workgroup memory of a plain tile of 128×128 with the rows' exchange, in bytes.
const LARGE_PLAIN_TILE: usize = 24 * 1024;

/// One call's operands, as the kernels read them, and its division.
struct Call {
    /// As it was given.
    hidden: CubeTensor,
    /// In the compute type; rows of zeros up to [`Plan::stride`] where the tier reads whole pieces.
    head: CubeTensor,
    labels: CubeTensor,
    shape: Shape,
    dtype: DType,
    tier: Tier,
    plan: Plan,
}

/// Tile and parts of `tier`.
fn tile_of(tier: Tier) -> TileShape {
    TileShape {
        rows: tier.rows(),
        columns: tier.columns(),
        parts: match tier {
            Tier::Plain(_) => 1,
            Tier::Cooperative(tile) => tile.across(),
        },
    }
}

impl Call {
    fn new(
        hidden: CubeTensor,
        head: CubeTensor,
        labels: CubeTensor,
        gradients: bool,
        settings: &Settings,
    ) -> Self {
        let dtype = settings.compute.dtype();
        let shape = Shape {
            tokens: hidden.shape()[0],
            hidden: hidden.shape()[1],
            vocabulary: head.shape()[0],
            element: dtype.size(),
            gradients,
        };
        let properties = hidden.client.properties();
        let widths = [shape.hidden, stride(shape.vocabulary)];
        let tier = match Tier::of(&hidden, settings.compute, &widths, shape.tokens) {
            Tier::Plain(Plain::Memory { .. })
                if properties.hardware.max_shared_memory_size < LARGE_PLAIN_TILE =>
            {
                Tier::Plain(Plain::Memory { edge: 64 })
            }
            tier => tier,
        };
        let largest = usize::try_from(properties.memory.max_page_size).unwrap_or(usize::MAX);
        let plan = Plan::new(&shape, tile_of(tier), settings.workspace, largest);
        let head = convert(head, dtype);
        let whole_pieces = !matches!(tier, Tier::Plain(_));
        Self {
            head: if whole_pieces && plan.stride != shape.vocabulary {
                padded(&head, plan.stride)
            } else {
                head
            },
            labels: contiguous(CubeBackend::int_cast(labels, burn::tensor::IntDType::I32)),
            hidden: contiguous(hidden),
            shape,
            dtype,
            tier,
            plan,
        }
    }

    fn chunks(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (tokens, rows) = (self.shape.tokens, self.plan.rows);
        (0..tokens)
            .step_by(rows)
            .map(move |first| first..(first + rows).min(tokens))
    }

    /// Hidden states of some tokens in the compute type.
    fn rows(&self, chunk: &Range<usize>) -> CubeTensor {
        let rows = slice(self.hidden.clone(), &[chunk.clone(), 0..self.shape.hidden]);
        convert(rows, self.dtype)
    }

    fn vector<const D: usize>(&self, shape: [usize; D]) -> CubeTensor {
        empty(&self.hidden, shape, DType::F32)
    }

    /// Logits of a chunk, or what takes their place.
    fn logits(&self) -> CubeTensor {
        empty(&self.hidden, [self.plan.rows, self.plan.stride], self.dtype)
    }

    /// The parts' statistics and the labels' logits.
    fn statistics_buffers(&self) -> [CubeTensor; 2] {
        let (rows, parts) = (self.plan.rows, self.plan.parts);
        [self.vector([2, rows, parts]), self.vector([rows])]
    }

    fn sizes(&self, chunk: &Range<usize>) -> SizesLaunch {
        SizesLaunch::new(
            chunk.start,
            chunk.len(),
            self.shape.hidden,
            self.shape.vocabulary,
            self.plan.stride,
        )
    }

    /// Workgroups of the product of a chunk and the head.
    fn cubes(&self, chunk: &Range<usize>) -> CubeCount {
        let tile = tile_of(self.tier);
        let columns = self.shape.vocabulary.div_ceil(tile.columns);
        grid(chunk.len().div_ceil(tile.rows) * columns)
    }

    /// Vectors of plain tiles: rows of logits are whole ones always.
    fn lanes(&self) -> usize {
        lanes(self.shape.hidden)
    }

    /// Operations of one of the three products of a chunk.
    fn operations(&self, chunk: &Range<usize>) -> f64 {
        2.0 * chunk.len() as f64 * (self.shape.hidden * self.shape.vocabulary) as f64
    }

    /// The statistics of `x`'s logits, and with `out` their exponentials.
    fn statistics(
        &self,
        x: &CubeTensor,
        chunk: &Range<usize>,
        [partials, targets]: &[CubeTensor; 2],
        out: Option<&CubeTensor>,
    ) {
        let unwritten = match out {
            Some(out) => out.clone(),
            None => empty(x, [8], self.dtype),
        };
        let lanes = self.lanes();
        // SAFETY: the kernels check rows against the chunk and columns against the stride; columns
        // beyond are no tile's.
        stage(x, "logits", self.operations(chunk), || unsafe {
            match self.tier {
                Tier::Plain(plain) => launch!(product::statistics_plain(
                    &x.client,
                    self.cubes(chunk),
                    CubeDim::new_1d(plain.units() as u32),
                    lanes,
                    arg(x, lanes),
                    arg(&self.head, lanes),
                    arg(&self.labels, 1),
                    arg(&unwritten, lanes),
                    arg(partials, 1),
                    arg(targets, 1),
                    self.sizes(chunk),
                    out.is_some(),
                    plain,
                    [element(x), element(&self.head), element(&unwritten)],
                )),
                Tier::Cooperative(tile) => {
                    launch!(product::statistics_cooperative(
                        &x.client,
                        self.cubes(chunk),
                        CubeDim::new_2d(tile.subgroup as u32, tile.subgroups as u32),
                        arg(x, 8),
                        arg(&self.head, 8),
                        arg(&self.labels, 1),
                        arg(&unwritten, 4),
                        arg(partials, 1),
                        arg(targets, 1),
                        self.sizes(chunk),
                        out.is_some(),
                        tile,
                        element(x),
                    ));
                }
            }
        });
    }

    /// The gradients of `x`'s logits, where log-sum-exps are known.
    fn slopes(
        &self,
        x: &CubeTensor,
        chunk: &Range<usize>,
        log_sum_exp: &CubeTensor,
        slopes: &CubeTensor,
        out: &CubeTensor,
    ) {
        let lanes = self.lanes();
        // SAFETY: as above.
        stage(x, "gradient of logits", self.operations(chunk), || unsafe {
            match self.tier {
                Tier::Plain(plain) => launch!(product::slopes_plain(
                    &x.client,
                    self.cubes(chunk),
                    CubeDim::new_1d(plain.units() as u32),
                    lanes,
                    arg(x, lanes),
                    arg(&self.head, lanes),
                    arg(&self.labels, 1),
                    arg(log_sum_exp, 1),
                    arg(slopes, 1),
                    arg(out, lanes),
                    self.sizes(chunk),
                    plain,
                    [element(x), element(&self.head), element(out)],
                )),
                Tier::Cooperative(tile) => launch!(product::slopes_cooperative(
                    &x.client,
                    self.cubes(chunk),
                    CubeDim::new_2d(tile.subgroup as u32, tile.subgroups as u32),
                    arg(x, 8),
                    arg(&self.head, 8),
                    arg(&self.labels, 1),
                    arg(log_sum_exp, 1),
                    arg(slopes, 1),
                    arg(out, 4),
                    self.sizes(chunk),
                    tile,
                    element(x),
                )),
            }
        });
    }
}

/// `head` with rows of zeros up to `rows`.
fn padded(head: &CubeTensor, rows: usize) -> CubeTensor {
    let width = head.shape()[1];
    let out = empty(head, [rows, width], head.dtype);
    let lanes = if width.is_multiple_of(4) { 4 } else { 1 };
    let vectors = count(&out) / lanes;
    // SAFETY: both lengths are the kernel's.
    unsafe {
        launch!(device::copy_padded(
            &head.client,
            grid(vectors.div_ceil(UNITS)),
            CubeDim::new_1d(UNITS as u32),
            lanes,
            arg(head, lanes),
            arg(&out, lanes),
            count(head) / lanes,
            vectors,
            element(head),
        ));
    }
    out
}

/// Loss and log-sum-exp of every token so far, and if asked for the slopes of the objective.
struct Rows {
    losses: CubeTensor,
    log_sum_exp: CubeTensor,
    /// `[2, N]`, or too short to hold any.
    slopes: CubeTensor,
}

impl Rows {
    fn new(call: &Call, with_slopes: bool) -> Self {
        let tokens = call.shape.tokens;
        Self {
            losses: call.vector([tokens]),
            log_sum_exp: call.vector([tokens]),
            slopes: call.vector([2, if with_slopes { tokens } else { 1 }]),
        }
    }

    fn finish(
        &self,
        call: &Call,
        chunk: &Range<usize>,
        [partials, targets]: &[CubeTensor; 2],
        weights: Option<&CubeTensor>,
        settings: &Settings,
    ) {
        // SAFETY: a workgroup a row of the chunk.
        stage(partials, "softmax", 0.0, || unsafe {
            launch!(device::row_statistics(
                &partials.client,
                grid(chunk.len()),
                CubeDim::new_1d(UNITS as u32),
                arg(partials, 1),
                arg(targets, 1),
                arg(&call.labels, 1),
                arg(weights.unwrap_or(targets), 1),
                arg(&self.losses, 1),
                arg(&self.log_sum_exp, 1),
                arg(&self.slopes, 1),
                chunk.start,
                chunk.len(),
                call.shape.vocabulary,
                call.plan.parts,
                settings.loss_scale as f32,
                settings.z_loss as f32,
                weights.is_some(),
            ));
        });
    }

    /// Exponentials become the logits' gradients.
    fn slopes_in_place(
        &self,
        call: &Call,
        chunk: &Range<usize>,
        partials: &CubeTensor,
        logits: &CubeTensor,
    ) {
        let width = call.plan.stride / 4;
        let tile = tile_of(call.tier);
        // SAFETY: rows of the chunk alone, each `width` vectors.
        stage(logits, "softmax", 0.0, || unsafe {
            launch!(device::slopes_in_place(
                &logits.client,
                grid((chunk.len() * width).div_ceil(UNITS)),
                CubeDim::new_1d(UNITS as u32),
                4,
                arg(logits, 4),
                arg(partials, 1),
                arg(&call.labels, 1),
                arg(&self.log_sum_exp, 1),
                arg(&self.slopes, 1),
                chunk.start,
                chunk.len(),
                width,
                call.plan.parts,
                tile.columns / tile.parts,
                element(logits),
            ));
        });
    }
}

/// Gradients of hidden states and head from those of logits, f32.
struct Sums {
    hidden: CubeTensor,
    head: CubeTensor,
    /// Whether `head` holds a sum already.
    begun: bool,
    /// Parts of the sum over the vocabulary, and what they add up to.
    groups: Groups,
    partial: CubeTensor,
}

impl Sums {
    fn new(call: &Call, head_sum: Option<CubeTensor>) -> Self {
        let Shape {
            tokens,
            hidden,
            vocabulary,
            ..
        } = call.shape;
        let Plan { rows, splits, .. } = call.plan;
        let begun = head_sum.is_some();
        let head = match head_sum {
            // In place, unless someone else still reads it.
            Some(sum) => own(sum),
            None => call.vector([vocabulary, hidden]),
        };
        note_gradient(&head);
        // Whole pieces where the head has rows for them.
        let depth = call.head.shape()[0];
        Self {
            hidden: call.vector([tokens, hidden]),
            head,
            begun,
            groups: Groups::parts(&call.hidden, depth, splits),
            partial: call.vector([splits, rows, hidden]),
        }
    }

    fn add(&mut self, call: &Call, chunk: &Range<usize>, x: &CubeTensor, slopes: &CubeTensor) {
        let (hidden, vocabulary) = (call.shape.hidden, call.shape.vocabulary);
        let stride = call.plan.stride;
        let operations = call.operations(chunk);
        stage(slopes, "gradient of hidden states", operations, || {
            gradient(
                &self.groups,
                call.tier,
                slopes,
                Access::ROWS,
                chunk.len(),
                stride,
                &call.head,
                Access::K_ROWS,
                hidden,
                &self.partial,
                false,
            );
            let lanes = call.lanes();
            let vectors = chunk.len() * hidden / lanes;
            // SAFETY: the chunk's rows of every part, and as many of the result.
            unsafe {
                launch!(device::sum_parts(
                    &slopes.client,
                    grid(vectors.div_ceil(UNITS)),
                    CubeDim::new_1d(UNITS as u32),
                    lanes,
                    arg(&self.partial, lanes),
                    arg(&self.hidden, lanes),
                    chunk.start * hidden / lanes,
                    vectors,
                    call.plan.splits,
                ));
            }
        });
        stage(slopes, "gradient of head", operations, || {
            gradient(
                &Groups::dense(slopes, chunk.len(), tile_of(call.tier).rows),
                call.tier,
                slopes,
                Access::K_ROWS,
                vocabulary,
                stride,
                x,
                Access::K_ROWS,
                hidden,
                &self.head,
                self.begun,
            );
        });
        self.begun = true;
    }
}

/// Losses and log-sum-exps `[N]`.
pub(super) fn forward(
    hidden: CubeTensor,
    head: CubeTensor,
    labels: CubeTensor,
    settings: &Settings,
) -> (CubeTensor, CubeTensor) {
    let call = Call::new(hidden, head, labels, false, settings);
    let rows = Rows::new(&call, false);
    let buffers = call.statistics_buffers();
    for chunk in call.chunks() {
        call.statistics(&call.rows(&chunk), &chunk, &buffers, None);
        rows.finish(&call, &chunk, &buffers, None, settings);
    }
    (rows.losses, rows.log_sum_exp)
}

/// Gradients of hidden states and head.
pub(super) fn backward(
    hidden: CubeTensor,
    head: CubeTensor,
    labels: CubeTensor,
    log_sum_exp: CubeTensor,
    slopes: CubeTensor,
    head_sum: Option<CubeTensor>,
    settings: &Settings,
) -> (CubeTensor, CubeTensor) {
    let call = Call::new(hidden, head, labels, true, settings);
    let (log_sum_exp, slopes) = (contiguous(log_sum_exp), contiguous(slopes));
    let mut sums = Sums::new(&call, head_sum);
    let logits = call.logits();
    for chunk in call.chunks() {
        let x = call.rows(&chunk);
        call.slopes(&x, &chunk, &log_sum_exp, &slopes, &logits);
        sums.add(&call, &chunk, &x, &logits);
    }
    (sums.hidden, sums.head)
}

/// Losses, log-sum-exps, and the objective's gradients of hidden states and head.
pub(super) fn both(
    hidden: CubeTensor,
    head: CubeTensor,
    labels: CubeTensor,
    weights: CubeTensor,
    head_sum: Option<CubeTensor>,
    settings: &Settings,
) -> (CubeTensor, CubeTensor, CubeTensor, CubeTensor) {
    let call = Call::new(hidden, head, labels, true, settings);
    let weights = contiguous(weights);
    let rows = Rows::new(&call, true);
    let mut sums = Sums::new(&call, head_sum);
    let (logits, buffers) = (call.logits(), call.statistics_buffers());
    for chunk in call.chunks() {
        let x = call.rows(&chunk);
        call.statistics(&x, &chunk, &buffers, Some(&logits));
        rows.finish(&call, &chunk, &buffers, Some(&weights), settings);
        rows.slopes_in_place(&call, &chunk, &buffers[0], &logits);
        sums.add(&call, &chunk, &x, &logits);
    }
    (rows.losses, rows.log_sum_exp, sums.hidden, sums.head)
}

/// `gradient · factor / divisor`.
pub(super) fn scale(gradient: CubeTensor, factor: CubeTensor, divisor: f64) -> CubeTensor {
    let gradient = own(gradient);
    let lanes = lanes(count(&gradient));
    let cubes = (count(&gradient) / lanes)
        .div_ceil(UNITS)
        .clamp(1, MAX_SCALE);
    // SAFETY: the kernel checks its place against the length.
    unsafe {
        launch!(device::scale_in_place(
            &gradient.client,
            grid(cubes),
            CubeDim::new_1d(UNITS as u32),
            lanes,
            arg(&gradient, lanes),
            arg(&factor, 1),
            divisor as f32,
            cubes * UNITS,
        ));
    }
    gradient
}

/// Workgroups that go over a gradient, which most often has nothing to be done to it.
const MAX_SCALE: usize = 2048;
const _: () = assert!(MAX_SCALE <= MAX_GRID, "one dimension");
