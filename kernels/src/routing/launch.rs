//! Launches of the routing kernels: how tokens are divided is a function of the shape alone.

use burn::backend::ops::IntTensorOps;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, DType, TensorMetadata, backend_extension};
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::CubeDim;

use super::device::{self, HELD, Rule, UNITS};
use super::{GroupScore, Router, ScoreFunction};
#[cfg(feature = "fusion")]
use crate::gpu::spec;
use crate::gpu::{arg, contiguous, count, empty, grid, launch};
use crate::profile::stage;

/// Fewest tokens of a tile.
const TILE: usize = 64;

/// Tiles beyond which they get longer: what is kept of them is `[tiles, E]`.
const MANY_TILES: usize = 2048;

/// Fewest units of a row: at less, a workgroup would have more tokens than a tile.
const FEWEST_LANES: usize = UNITS / TILE;

/// Scales and weights of a decision's router losses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TermFactors {
    /// Scale of the balance term.
    pub balance: f32,
    /// Its weight in the objective.
    pub balance_weight: f32,
    /// Scale of the z term.
    pub z: f32,
    /// Its weight in the objective.
    pub z_weight: f32,
}

/// Which gradients arrive at a decision, and the factors of its objective's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Arriving {
    /// Gradients of the weights.
    pub weights: bool,
    /// The gradient of the objective.
    pub terms: Option<TermFactors>,
}

/// Routing without autodiff. Floats are f32, integers i32; no axis is empty.
#[backend_extension(Cube, Fusion: cfg(feature = "fusion"))]
pub trait RoutingBackend: Backend {
    /// Of `logits` `[T, E]`, `sequences` equal parts of them, and a `bias` `[E]` that counts where
    /// `biased`: weights and indices `[T, k]`, what [`RoutingBackend::route_plan`] returns, sums `[sequences, E + 2]` and choices `[sequences, E]` of each sequence.
    #[allow(clippy::type_complexity, reason = "the macro wants tuples")]
    #[fusion(meta = |logits, _, router, _, sequences, _| {
        let [tokens, experts] = [logits.shape[0], logits.shape[1]];
        (
            spec::floats([tokens, router.top_k]),
            spec::integers([tokens, router.top_k]),
            spec::plan(experts, tokens * router.top_k),
            spec::floats([*sequences, experts + 2]),
            spec::integers([*sequences, experts]),
        )
    })]
    fn route_choose(
        logits: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        router: Router,
        biased: bool,
        sequences: usize,
        capacity: Option<usize>,
    ) -> (
        FloatTensor<Self>,
        IntTensor<Self>,
        (
            IntTensor<Self>,
            IntTensor<Self>,
            IntTensor<Self>,
            IntTensor<Self>,
        ),
        FloatTensor<Self>,
        IntTensor<Self>,
    );

    /// Of given `indices` `[T, k]`: chosen `[E]`, offsets `[E + 1]`, slots and positions `[T · k]`.
    #[fusion(meta = |indices, experts, _| spec::plan(*experts, indices.shape[0] * indices.shape[1]))]
    fn route_plan(
        indices: IntTensor<Self>,
        experts: usize,
        capacity: Option<usize>,
    ) -> (
        IntTensor<Self>,
        IntTensor<Self>,
        IntTensor<Self>,
        IntTensor<Self>,
    );

    /// A decision's objective `[1]` and its two terms `[2]`.
    #[fusion(meta = |_, _, _| (spec::floats([1]), spec::floats([2])))]
    fn route_terms(
        sums: FloatTensor<Self>,
        frequencies: IntTensor<Self>,
        factors: TermFactors,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// The gradient of the logits. Of what does not arrive, any tensor is taken.
    #[fusion(meta = |logits, _, _, _, _, _, _, _| logits.clone())]
    fn route_backward(
        logits: FloatTensor<Self>,
        indices: IntTensor<Self>,
        weight_gradients: FloatTensor<Self>,
        objective_gradient: FloatTensor<Self>,
        frequencies: IntTensor<Self>,
        router: Router,
        sequences: usize,
        arriving: Arriving,
    ) -> FloatTensor<Self>;

    /// Pairs of choices `[from experts · to experts]`.
    #[fusion(meta = |_, _, from_experts, to_experts| spec::integers([from_experts * to_experts]))]
    fn route_transitions(
        from: IntTensor<Self>,
        to: IntTensor<Self>,
        from_experts: usize,
        to_experts: usize,
    ) -> IntTensor<Self>;
}

impl RoutingBackend for CubeBackend {
    fn route_choose(
        logits: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        router: Router,
        biased: bool,
        sequences: usize,
        capacity: Option<usize>,
    ) -> (
        FloatTensor<Self>,
        IntTensor<Self>,
        (
            IntTensor<Self>,
            IntTensor<Self>,
            IntTensor<Self>,
            IntTensor<Self>,
        ),
        FloatTensor<Self>,
        IntTensor<Self>,
    ) {
        let (logits, bias) = (contiguous(logits), contiguous(bias));
        let [tokens, experts] = dims(&logits);
        let tiles = Tiles::new(tokens, sequences);
        let rule = rule(&router, experts, biased);
        let indices = empty(&logits, [tokens, router.top_k], DType::I32);
        let weights = empty(&logits, [tokens, router.top_k], DType::F32);
        let counts = empty(&logits, [tiles.count, experts], DType::I32);
        let partials = empty(&logits, [tiles.count, experts + 2], DType::F32);
        // SAFETY: tiles hold tokens below `tokens` alone, lanes read and write experts below
        // `experts`, ranks are below `top_k`; every buffer has the shape that the kernel states.
        stage(&logits, "choose experts", 0.0, || unsafe {
            launch!(device::choice::choose(
                &logits.client,
                grid(tiles.count),
                CubeDim::new_1d(UNITS as u32),
                arg(&logits, 1),
                arg(&bias, 1),
                arg(&indices, 1),
                arg(&weights, 1),
                arg(&counts, 1),
                arg(&partials, 1),
                tiles.span as u32,
                tiles.tile as u32,
                tiles.per_sequence as u32,
                tiles.count as u32,
                router.scale as f32,
                rule,
            ));
        });
        let sums = empty(&logits, [sequences, experts + 2], DType::F32);
        let by_sequence = empty(&logits, [sequences, experts], DType::I32);
        let plan = stage(&logits, "sort by expert", 0.0, || {
            let chosen = scan(&counts, &tiles, Some((&partials, &sums, &by_sequence)));
            scatter(&indices, &counts, chosen, &tiles, capacity)
        });
        (weights, indices, plan, sums, by_sequence)
    }

    fn route_plan(
        indices: IntTensor<Self>,
        experts: usize,
        capacity: Option<usize>,
    ) -> (
        IntTensor<Self>,
        IntTensor<Self>,
        IntTensor<Self>,
        IntTensor<Self>,
    ) {
        let indices = integers(indices);
        let [tokens, top_k] = dims(&indices);
        let tiles = Tiles::new(tokens, 1);
        let counts = empty(&indices, [tiles.count, experts], DType::I32);
        // SAFETY: slots are below `tokens · top_k`, and an index that is no expert is passed over.
        unsafe {
            launch!(device::sort::count(
                &indices.client,
                grid(tiles.count),
                CubeDim::new_1d(UNITS as u32),
                arg(&indices, 1),
                arg(&counts, 1),
                tokens as u32,
                tiles.tile as u32,
                tiles.count as u32,
                top_k,
                experts,
            ));
        }
        let chosen = scan(&counts, &tiles, None);
        scatter(&indices, &counts, chosen, &tiles, capacity)
    }

    fn route_terms(
        sums: FloatTensor<Self>,
        frequencies: IntTensor<Self>,
        factors: TermFactors,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (sums, frequencies) = (contiguous(sums), integers(frequencies));
        let [sequences, columns] = dims(&sums);
        let objective = empty(&sums, [1], DType::F32);
        let values = empty(&sums, [2], DType::F32);
        // SAFETY: sums have a row a sequence, frequencies as many rows as is said.
        unsafe {
            launch!(device::losses::terms(
                &sums.client,
                grid(1),
                CubeDim::new_1d(UNITS as u32),
                arg(&sums, 1),
                arg(&frequencies, 1),
                arg(&objective, 1),
                arg(&values, 1),
                sequences as u32,
                dims::<2>(&frequencies)[0] as u32,
                factors.balance,
                factors.balance_weight,
                factors.z,
                factors.z_weight,
                columns - 2,
            ));
        }
        (objective, values)
    }

    fn route_backward(
        logits: FloatTensor<Self>,
        indices: IntTensor<Self>,
        weight_gradients: FloatTensor<Self>,
        objective_gradient: FloatTensor<Self>,
        frequencies: IntTensor<Self>,
        router: Router,
        sequences: usize,
        arriving: Arriving,
    ) -> FloatTensor<Self> {
        let (logits, indices) = (contiguous(logits), integers(indices));
        let weight_gradients = contiguous(weight_gradients);
        let objective_gradient = contiguous(objective_gradient);
        let frequencies = integers(frequencies);
        let [tokens, experts] = dims(&logits);
        let rule = rule(&router, experts, false);
        let result = empty(&logits, [tokens, experts], DType::F32);
        let (balance, z) = match arriving.terms {
            Some(factors) => (
                factors.balance * factors.balance_weight,
                factors.z * factors.z_weight,
            ),
            None => (0.0, 0.0),
        };
        // SAFETY: tokens and experts are below their counts; the gradients that do not arrive are
        // not read.
        stage(&logits, "backward of the choice", 0.0, || unsafe {
            launch!(device::losses::backward(
                &logits.client,
                grid(tokens.div_ceil(UNITS / rule.lanes)),
                CubeDim::new_1d(UNITS as u32),
                arg(&logits, 1),
                arg(&indices, 1),
                arg(&weight_gradients, 1),
                arg(&objective_gradient, 1),
                arg(&frequencies, 1),
                arg(&result, 1),
                tokens as u32,
                (tokens / sequences) as u32,
                dims::<2>(&frequencies)[0] as u32,
                router.scale as f32,
                balance,
                z,
                rule,
                arriving.weights,
                arriving.terms.is_some(),
            ));
        });
        result
    }

    fn route_transitions(
        from: IntTensor<Self>,
        to: IntTensor<Self>,
        from_experts: usize,
        to_experts: usize,
    ) -> IntTensor<Self> {
        let (from, to) = (integers(from), integers(to));
        let [_, from_k] = dims(&from);
        let [_, to_k] = dims(&to);
        let shape = burn::backend::Shape::from(vec![from_experts * to_experts]);
        let counts = Self::int_zeros(shape, &from.device, burn::tensor::IntDType::I32);
        let length = count(&from);
        // SAFETY: both decisions are of the same tokens and chose experts that they have.
        unsafe {
            launch!(device::pairs::transitions(
                &from.client,
                grid(length.div_ceil(UNITS)),
                CubeDim::new_1d(UNITS as u32),
                arg(&from, 1),
                arg(&to, 1),
                arg(&counts, 1),
                length as u32,
                to_experts as u32,
                from_k,
                to_k,
            ));
        }
        counts
    }
}

fn dims<const D: usize>(tensor: &CubeTensor) -> [usize; D] {
    tensor.shape().dims::<D>()
}

/// Integers as the kernels read them.
fn integers(tensor: CubeTensor) -> CubeTensor {
    contiguous(CubeBackend::int_cast(tensor, burn::tensor::IntDType::I32))
}

/// How tokens are divided into tiles, none of which crosses two sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tiles {
    tokens: usize,
    sequences: usize,
    /// Tokens of a sequence.
    span: usize,
    /// Tokens of a tile; the last one of a sequence may have fewer.
    tile: usize,
    per_sequence: usize,
    count: usize,
}

impl Tiles {
    fn new(tokens: usize, sequences: usize) -> Self {
        let span = tokens / sequences;
        let mut tile = TILE;
        while tile < span && sequences * span.div_ceil(tile) > MANY_TILES {
            tile *= 2;
        }
        let per_sequence = span.div_ceil(tile).max(1);
        Self {
            tokens,
            sequences,
            span,
            tile,
            per_sequence,
            count: sequences * per_sequence,
        }
    }
}

fn rule(router: &Router, experts: usize, biased: bool) -> Rule {
    let lanes = experts.div_ceil(HELD).next_power_of_two().max(FEWEST_LANES);
    let limit = router.group_limit;
    Rule {
        experts,
        top_k: router.top_k,
        lanes,
        held: experts.div_ceil(lanes),
        sigmoid: router.scores == ScoreFunction::Sigmoid,
        biased,
        normalise: router.normalise,
        groups: limit.map_or(0, |limit| limit.groups),
        chosen_groups: limit.map_or(0, |limit| limit.chosen),
        best_two: limit.is_some_and(|limit| limit.score == GroupScore::BestTwo),
    }
}

/// Turns the tiles' `counts` into what comes before each tile; returns the whole `[E]`. Sums up
/// `(partials, sums, choices by sequence)` where given.
fn scan(
    counts: &CubeTensor,
    tiles: &Tiles,
    statistics: Option<(&CubeTensor, &CubeTensor, &CubeTensor)>,
) -> CubeTensor {
    let [_, experts] = dims(counts);
    let chosen = empty(counts, [experts], DType::I32);
    let with_sums = statistics.is_some();
    // Bound and not touched where there are no statistics; a write must not alias the counts.
    let (spare_sums, spare_choices) = (
        empty(counts, [1], DType::F32),
        empty(counts, [1], DType::I32),
    );
    let (partials, sums, by_sequence) =
        statistics.unwrap_or((&spare_choices, &spare_sums, &spare_choices));
    let partials = match with_sums {
        true => partials.clone(),
        false => empty(counts, [1], DType::F32),
    };
    let shares = (UNITS / tiles.sequences.min(UNITS)).max(1);
    let shares = 1 << shares.ilog2();
    // SAFETY: columns beyond the experts touch sums alone; tiles and sequences are below their
    // counts.
    unsafe {
        launch!(device::sort::scan(
            &counts.client,
            grid(if with_sums { experts + 2 } else { experts }),
            CubeDim::new_1d(UNITS as u32),
            arg(counts, 1),
            arg(&partials, 1),
            arg(&chosen, 1),
            arg(sums, 1),
            arg(by_sequence, 1),
            tiles.count as u32,
            tiles.per_sequence as u32,
            tiles.sequences as u32,
            shares as u32,
            experts,
            with_sums,
        ));
    }
    chosen
}

/// Chosen, offsets, slots and positions from what [`scan`] made of the counts.
fn scatter(
    indices: &CubeTensor,
    before: &CubeTensor,
    chosen: CubeTensor,
    tiles: &Tiles,
    capacity: Option<usize>,
) -> (CubeTensor, CubeTensor, CubeTensor, CubeTensor) {
    let [_, top_k] = dims(indices);
    let [_, experts] = dims(before);
    let slots_count = count(indices);
    let offsets = empty(indices, [experts + 1], DType::I32);
    let slots = empty(indices, [slots_count], DType::I32);
    let positions = empty(indices, [slots_count], DType::I32);
    // No expert takes more than all slots.
    let capacity = capacity.unwrap_or(slots_count).min(slots_count);
    // SAFETY: slots are below `tokens · top_k`; a position is below the offset of the next expert.
    unsafe {
        launch!(device::sort::scatter(
            &indices.client,
            grid(tiles.count),
            CubeDim::new_1d(UNITS as u32),
            arg(indices, 1),
            arg(before, 1),
            arg(&chosen, 1),
            arg(&offsets, 1),
            arg(&slots, 1),
            arg(&positions, 1),
            tiles.tokens as u32,
            tiles.span as u32,
            tiles.tile as u32,
            tiles.per_sequence as u32,
            tiles.count as u32,
            capacity as u32,
            top_k,
            experts,
        ));
    }
    (chosen, offsets, slots, positions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_every_token_of_every_sequence_and_stay_few() {
        for (tokens, sequences) in [
            (1, 1),
            (7, 7),
            (64, 1),
            (65, 1),
            (3 * 1009, 3),
            (1 << 22, 16),
        ] {
            let tiles = Tiles::new(tokens, sequences);
            assert!(tiles.tile * tiles.per_sequence >= tiles.span);
            assert!(tiles.tile * (tiles.per_sequence - 1) < tiles.span);
            assert_eq!(tiles.count, sequences * tiles.per_sequence);
            assert!(tiles.count <= MANY_TILES.max(sequences));
        }
    }

    #[test]
    fn a_row_of_lanes_holds_every_expert_and_a_workgroup_whole_rows() {
        let router = Router {
            scores: ScoreFunction::Softmax,
            top_k: 1,
            group_limit: None,
            normalise: false,
            scale: 1.0,
            capacity_factor: None,
        };
        for experts in 1..=device::MAX_EXPERTS {
            let rule = rule(&router, experts, false);
            assert!(rule.lanes * rule.held >= experts && rule.held <= HELD);
            assert!(rule.lanes.is_power_of_two() && rule.lanes <= UNITS);
            // Workgroup memory of `choose`: histogram, three rows of units, what is staged.
            assert!(4 * (experts + 3 * UNITS + UNITS * rule.held) <= 16 * 1024);
        }
    }
}
