//! Weights made inside the matrices of scores, by operations on each element wherever it lies
//! (`VK_NV_cooperative_matrix2`).
//!
//! The matrices begin with minus the number that each row's weights are relative to, its reference,
//! so that one exponential of each element makes weights of them, and these become the left operand
//! of the second product as they are. Nobody reads the elements, and so nobody learns how large they
//! are: rows are followed by their sums alone, the product of the weights with ones. Every
//! [`PERIOD`] tiles these are read; a row whose sum is past [`FULL`] takes its log-sum-exp for its
//! new reference. Weights far above 1 are as exact as any, up to the type's end, and past that they
//! are infinite, as is their row's sum then. Whoever finds such a sum is told [spoilt](Row::spoilt),
//! and the pass over the keys is repeated with scores read by rows.

use cubecl::cmma::{self, MatrixIdent, MatrixLayout, MatrixScope};
use cubecl::prelude::*;
use half::f16;

use super::scratch::{anyone, fill_rows, first_of_row, leave, rescale};
use super::{Frame, Piece, products_onto, zeros};

/// Tiles from one reading of the rows' sums to the next.
pub(super) const PERIOD: usize = 8;

/// A row's sum from which it gets a new reference: some way below 65504, the end of f16, and above
/// what equal scores sum up to before they are worth the reading.
const FULL: f32 = 2048.0;

/// A sum of weights at which other sums may have left f32; that at which weights may have left
/// their own type is its largest number, also where a driver rounds what is larger down to it.
const LIMIT: f32 = 1.0e19;

/// What a unit knows of its row.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Row {
    /// The number that the row's weights are relative to.
    pub reference: f32,
    /// The sum of its weights in the unit's columns, where scores are read by rows only.
    pub total: f32,
    /// Whether all rows of the owner have a reference.
    pub settled: bool,
    /// Whether a sum is past its limit, or is no number.
    pub spoilt: bool,
}

/// Sums of an owner's rows.
#[derive(CubeType)]
pub(super) struct Held<S: MatrixScope> {
    /// One matrix: of their weights, in each column.
    totals: Sequence<cmma::Matrix<f32, S>>,
    /// One matrix, what their scores begin with: minus the reference, in units of a product.
    offsets: Sequence<cmma::Matrix<f32, S>>,
}

/// Nothing summed, nothing referred to.
#[cube]
pub(super) fn none_yet<S: MatrixScope>(#[comptime] frame: Frame) -> Held<S> {
    Held::<S> {
        totals: zeros::<S>(comptime!(frame.edge()), frame),
        offsets: zeros::<S>(comptime!(frame.edge()), frame),
    }
}

/// Begins a pass over the keys.
#[cube]
pub(super) fn clear<S: MatrixScope>(
    held: &mut Held<S>,
    sums: &mut Sequence<cmma::Matrix<f32, S>>,
    #[comptime] frame: Frame,
) {
    cmma::fill(held.totals.index_mut(0), 0.0f32);
    #[unroll]
    for j in 0..comptime!(frame.value_width / frame.edge()) {
        cmma::fill(sums.index_mut(j), 0.0f32);
    }
}

/// Weights of a tile that all of the owner's rows see, of keys in the tile's place in memory.
#[cube]
pub(super) fn weigh<E: Float, S: MatrixScope>(
    memory: &Shared<[Piece]>,
    rows: &Sequence<cmma::Matrix<E, S>>,
    held: &Held<S>,
    scale: f32,
    #[comptime] frame: Frame,
) -> Sequence<cmma::Matrix<E, S>> {
    let scores = products_onto::<E, S>(
        memory,
        0usize,
        rows,
        held.offsets.index(0),
        comptime!(frame.width),
        frame,
    );
    let mut weights = Sequence::<cmma::Matrix<E, S>>::new();
    #[unroll]
    for j in 0..comptime!(frame.columns / frame.edge()) {
        let score = scores.index(j);
        cmma::execute_elementwise_op(score, score, |_row, _column, score| (score * scale).exp());
        weights.push(to_left::<f32, E, S>(score));
    }
    weights
}

/// A matrix of sums as a left operand.
#[cube]
fn to_left<C: Scalar, E: Scalar, S: MatrixScope>(
    matrix: &cmma::Matrix<C, S>,
) -> cmma::Matrix<E, S> {
    // Its stand-in takes a reference and what stands behind it does not.
    intrinsic!(|scope| {
        cmma::cast_with_ident::expand::<C, E, S>(scope, matrix.clone(), MatrixIdent::A)
    })
}

/// Adds the weights of each row to its sum.
#[cube]
pub(super) fn count<E: Float, S: MatrixScope>(
    weights: &Sequence<cmma::Matrix<E, S>>,
    held: &Held<S>,
    #[comptime] frame: Frame,
) {
    let ones = cmma::Matrix::<E, S>::from_value(
        MatrixIdent::B,
        comptime!(frame.owned()),
        comptime!(frame.edge()),
        comptime!(frame.edge()),
        MatrixLayout::RowMajor,
        E::new(1.0),
    );
    #[unroll]
    for step in 0..comptime!(frame.columns / frame.edge()) {
        let totals = held.totals.index(0);
        cmma::execute(weights.index(step), &ones, totals, totals);
    }
}

/// Multiplies all sums of each row by its unit's `factor`.
#[cube]
pub(super) fn rescale_all<S: MatrixScope>(
    memory: &mut Shared<[Piece]>,
    sums: &mut Sequence<cmma::Matrix<f32, S>>,
    held: &mut Held<S>,
    factor: f32,
    #[comptime] frame: Frame,
) {
    rescale::<S>(memory, sums, factor, comptime!(frame.value_width), frame);
    rescale::<S>(
        memory,
        &mut held.totals,
        factor,
        comptime!(frame.edge()),
        frame,
    );
}

/// Lets scores begin with the rows' references.
#[cube]
pub(super) fn refer<S: MatrixScope>(
    memory: &mut Shared<[Piece]>,
    held: &mut Held<S>,
    row: &Row,
    scale: f32,
    #[comptime] frame: Frame,
) {
    fill_rows::<S>(
        memory,
        held.offsets.index_mut(0),
        -row.reference / scale,
        frame,
    );
}

/// The sum of the row's weights, which is looked at as well.
#[cube]
pub(super) fn total_of<E: Float, S: MatrixScope>(
    memory: &mut Shared<[Piece]>,
    held: &Held<S>,
    row: &mut Row,
    #[comptime] frame: Frame,
) -> f32 {
    let total = first_of_row::<S>(memory, held.totals.index(0), frame);
    let counted = total < min(f32::cast_from(E::max_value()), LIMIT);
    if !counted {
        row.spoilt = true;
    }
    total
}

/// Reads the rows' sums, and moves the references of those that are past [`FULL`].
#[cube]
pub(super) fn settle<E: Float, S: MatrixScope>(
    memory: &mut Shared<[Piece]>,
    votes: &mut Shared<[u32]>,
    sums: &mut Sequence<cmma::Matrix<f32, S>>,
    held: &mut Held<S>,
    row: &mut Row,
    scale: f32,
    #[comptime] frame: Frame,
) {
    let total = total_of::<E, S>(memory, &*held, row, frame);
    let mut factor = 1.0f32;
    let mut moved = false;
    if total > FULL {
        let reference = row.reference + total.ln();
        factor = (row.reference - reference).exp();
        row.reference = reference;
        moved = true;
    }
    if anyone(votes, moved, comptime!(frame.scope), frame) {
        rescale_all::<S>(memory, sums, held, factor, frame);
        refer::<S>(memory, held, &*row, scale, frame);
        declare_conversions::<S>(memory, frame);
    }
}

/// Makes a left operand of sums in the operand's own type, and leaves it in the scratch for nobody.
/// What [`to_left`] does needs the same capability (`CooperativeMatrixConversionsNV`), but CubeCL
/// declares that one for conversions which change no type alone.
#[cube]
fn declare_conversions<S: MatrixScope>(memory: &mut Shared<[Piece]>, #[comptime] frame: Frame) {
    let sums = cmma::Matrix::<f16, S>::from_value(
        MatrixIdent::Accumulator,
        comptime!(frame.owned()),
        comptime!(frame.edge()),
        comptime!(frame.edge()),
        MatrixLayout::Undefined,
        f16::new(0.0),
    );
    leave::<f16, S>(memory, &to_left::<f16, f16, S>(&sums), frame);
}
