//! The scratch in workgroup memory: matrices become rows there, and rows matrices. Every subgroup has
//! its rows, one behind the other, so that those of the whole workgroup are one matrix as well.

use cubecl::cmma::{self, MatrixLayout, MatrixScope};
use cubecl::prelude::*;

use super::super::Scope;
use super::super::span::{Four, Rows};
use super::{Frame, Piece, ROWS, left};

/// First piece of the scratch of the unit's owner.
#[cube]
fn owners_scratch(#[comptime] frame: Frame) -> usize {
    let mut start = comptime!(frame.tiles()).runtime();
    if comptime!(frame.scope == Scope::Subgroup) {
        start = scratch_of(frame);
    }
    start
}

/// Waits for all units of an owner, and for what they wrote.
#[cube]
fn sync_owner(#[comptime] frame: Frame) {
    if comptime!(frame.scope == Scope::Subgroup) {
        sync_plane();
    } else {
        sync_cube();
    }
}

/// Whether any unit of the subgroup, or of the workgroup, says so. `votes`: a place a subgroup.
#[cube]
pub(super) fn anyone(
    votes: &mut Shared<[u32]>,
    says_so: bool,
    #[comptime] whose: Scope,
    #[comptime] frame: Frame,
) -> bool {
    let mut any = plane_any(says_so);
    if comptime!(whose == Scope::Workgroup) {
        sync_cube();
        if UNIT_POS_X == 0 {
            votes[UNIT_POS_Y as usize] = u32::cast_from(any);
        }
        sync_cube();
        let mut count = 0u32;
        #[unroll]
        for subgroup in 0..comptime!(frame.subgroups) {
            count += votes[subgroup];
        }
        any = count > 0;
    }
    any
}

/// First piece of the subgroup's scratch.
#[cube]
fn scratch_of(#[comptime] frame: Frame) -> usize {
    comptime!(frame.tiles()) + UNIT_POS_Y as usize * comptime!(ROWS * frame.line())
}

/// The row of the subgroup that the unit works on.
#[cube]
pub(super) fn own_row() -> usize {
    UNIT_POS_X as usize % ROWS
}

/// The unit's first column of a tile.
#[cube]
pub(super) fn own_column(#[comptime] frame: Frame) -> usize {
    (UNIT_POS_X as usize / ROWS) * comptime!(frame.share())
}

/// Hands the unit its part of its row out of a tile's sums, four columns a vector.
#[cube]
pub(super) fn spread<S: MatrixScope>(
    memory: &mut Shared<[Piece]>,
    sums: &Sequence<cmma::Matrix<f32, S>>,
    #[comptime] frame: Frame,
) -> Array<Vector<f32, Four>> {
    let start = scratch_of(frame);
    let owned = owners_scratch(frame);
    // The subgroup's earlier reads of its scratch come first.
    sync_owner(frame);
    #[unroll]
    for j in 0..comptime!(frame.columns / frame.edge()) {
        let at = owned + comptime!(j * frame.edge() / 4);
        let end = memory.len();
        cmma::store(
            &mut memory[at..end],
            sums.index(j),
            comptime!(frame.line() as u32 * 4),
            MatrixLayout::RowMajor,
        );
    }
    sync_owner(frame);
    let count = comptime!(frame.share() / 4);
    let mut values = Array::<Vector<f32, Four>>::new(count);
    let from = start + own_row() * comptime!(frame.line()) + own_column(frame) / 4;
    #[unroll]
    for i in 0..count {
        values[i] = Vector::<f32, Four>::reinterpret(memory[from + i]);
    }
    values
}

/// Leaves the units' parts of their rows in the scratch, in 16 bits, for [`packed`].
#[cube]
pub(super) fn pack<E: Float>(
    memory: &mut Shared<[Piece]>,
    values: &Array<Vector<f32, Four>>,
    #[comptime] frame: Frame,
) {
    let to = scratch_of(frame) + own_row() * comptime!(frame.line()) + own_column(frame) / 8;
    sync_owner(frame);
    #[unroll]
    for i in 0..comptime!(frame.share() / 8) {
        let low = halves::<E>(values[comptime!(2 * i)]);
        let high = halves::<E>(values[comptime!(2 * i + 1)]);
        let mut piece = Piece::new(0u32);
        piece.insert(0usize, low.extract(0usize));
        piece.insert(1usize, low.extract(1usize));
        piece.insert(2usize, high.extract(0usize));
        piece.insert(3usize, high.extract(1usize));
        memory[to + i] = piece;
    }
    sync_owner(frame);
}

/// What [`pack`] left, as left operands, one for every [`Frame::edge`] columns.
#[cube]
pub(super) fn packed<E: Float, S: MatrixScope>(
    memory: &Shared<[Piece]>,
    #[comptime] frame: Frame,
) -> Sequence<cmma::Matrix<E, S>> {
    let from = owners_scratch(frame);
    let mut matrices = Sequence::<cmma::Matrix<E, S>>::new();
    #[unroll]
    for step in 0..comptime!(frame.columns / frame.edge()) {
        matrices.push(left::<E, S>(
            memory,
            from + comptime!(step * frame.edge() / 8),
            comptime!(frame.line()),
            frame,
        ));
    }
    matrices
}

/// Four numbers in 16 bits each.
#[cube]
fn halves<E: Float>(values: Vector<f32, Four>) -> Vector<u32, Const<2>> {
    Vector::<u32, Const<2>>::reinterpret(Vector::<E, Four>::cast_from(values))
}

/// Multiplies each row of `sums` by its unit's `factor`, which all units of a row agree on.
#[cube]
pub(super) fn rescale<S: MatrixScope>(
    memory: &mut Shared<[Piece]>,
    sums: &mut Sequence<cmma::Matrix<f32, S>>,
    factor: f32,
    #[comptime] width: usize,
    #[comptime] frame: Frame,
) {
    let start = scratch_of(frame);
    let owned = owners_scratch(frame);
    let at_once = comptime!(frame.columns / frame.edge());
    let own = start + own_row() * comptime!(frame.line()) + own_column(frame) / 4;
    #[unroll]
    for turn in 0..comptime!((width / frame.edge()).div_ceil(at_once)) {
        sync_owner(frame);
        #[unroll]
        for j in 0..at_once {
            if comptime!(turn * at_once + j < width / frame.edge()) {
                let at = owned + comptime!(j * frame.edge() / 4);
                let end = memory.len();
                cmma::store(
                    &mut memory[at..end],
                    sums.index(comptime!(turn * at_once + j)),
                    comptime!(frame.line() as u32 * 4),
                    MatrixLayout::RowMajor,
                );
            }
        }
        sync_owner(frame);
        #[unroll]
        for i in 0..comptime!(frame.share() / 4) {
            let value = Vector::<f32, Four>::reinterpret(memory[own + i]) * Vector::new(factor);
            memory[own + i] = Piece::reinterpret(value);
        }
        sync_owner(frame);
        #[unroll]
        for j in 0..at_once {
            if comptime!(turn * at_once + j < width / frame.edge()) {
                let at = owned + comptime!(j * frame.edge() / 4);
                cmma::load_with_layout(
                    sums.index_mut(comptime!(turn * at_once + j)),
                    &memory[at..memory.len()],
                    comptime!(frame.line() as u32 * 4),
                    MatrixLayout::RowMajor,
                );
            }
        }
    }
    sync_owner(frame);
}

/// Fills each row of `matrix` with its unit's `value`, which all units of a row agree on.
#[cube]
pub(super) fn fill_rows<S: MatrixScope>(
    memory: &mut Shared<[Piece]>,
    matrix: &mut cmma::Matrix<f32, S>,
    value: f32,
    #[comptime] frame: Frame,
) {
    let owned = owners_scratch(frame);
    let count = comptime!(frame.edge() * ROWS / frame.subgroup / 4);
    let own = scratch_of(frame)
        + own_row() * comptime!(frame.line())
        + (UNIT_POS_X as usize / ROWS) * count;
    sync_owner(frame);
    #[unroll]
    for i in 0..count {
        memory[own + i] = Piece::new(u32::reinterpret(value));
    }
    sync_owner(frame);
    cmma::load_with_layout(
        matrix,
        &memory[owned..memory.len()],
        comptime!(frame.line() as u32 * 4),
        MatrixLayout::RowMajor,
    );
}

/// Writes `matrix` to the first columns of the owner's scratch, once all of it have read what was
/// there.
#[cube]
pub(super) fn leave<C: CubePrimitive, S: MatrixScope>(
    memory: &mut Shared<[Piece]>,
    matrix: &cmma::Matrix<C, S>,
    #[comptime] frame: Frame,
) {
    sync_owner(frame);
    let owned = owners_scratch(frame);
    let end = memory.len();
    cmma::store(
        &mut memory[owned..end],
        matrix,
        comptime!(frame.line() as u32 * 4),
        MatrixLayout::RowMajor,
    );
}

/// The number in the first column of the unit's row of `matrix`.
#[cube]
pub(super) fn first_of_row<S: MatrixScope>(
    memory: &mut Shared<[Piece]>,
    matrix: &cmma::Matrix<f32, S>,
    #[comptime] frame: Frame,
) -> f32 {
    leave::<f32, S>(memory, matrix, frame);
    sync_owner(frame);
    let own = scratch_of(frame) + own_row() * comptime!(frame.line());
    f32::reinterpret(memory[own].extract(0usize))
}

/// Writes the rows of a workgroup whose first one is `first_row`, `real` vectors long, each
/// multiplied by its unit's `factor`.
#[cube]
pub(super) fn write<S: MatrixScope>(
    memory: &mut Shared<[Piece]>,
    out: &mut [Vector<f32, Four>],
    rows: &Rows,
    first_row: usize,
    real: usize,
    sums: &Sequence<cmma::Matrix<f32, S>>,
    factor: f32,
    #[comptime] width: usize,
    #[comptime] frame: Frame,
) {
    let start = scratch_of(frame);
    let owned = owners_scratch(frame);
    let at_once = comptime!(frame.columns / frame.edge());
    let across = comptime!(frame.columns / 4);
    let first = first_row + UNIT_POS_Y as usize * ROWS;
    sync_owner(frame);
    // The factors lie behind the rows.
    if UNIT_POS_X < comptime!(ROWS as u32) {
        memory[start + own_row() * comptime!(frame.line()) + across] =
            Piece::new(u32::reinterpret(factor));
    }
    #[unroll]
    for turn in 0..comptime!((width / frame.edge()).div_ceil(at_once)) {
        sync_owner(frame);
        #[unroll]
        for j in 0..at_once {
            if comptime!(turn * at_once + j < width / frame.edge()) {
                let at = owned + comptime!(j * frame.edge() / 4);
                let end = memory.len();
                cmma::store(
                    &mut memory[at..end],
                    sums.index(comptime!(turn * at_once + j)),
                    comptime!(frame.line() as u32 * 4),
                    MatrixLayout::RowMajor,
                );
            }
        }
        sync_owner(frame);
        #[unroll]
        for i in 0..comptime!(ROWS * frame.columns / 4 / frame.subgroup) {
            let index = UNIT_POS_X as usize + comptime!(i * frame.subgroup);
            let row = index / across;
            let column = comptime!(turn * across) + index % across;
            if first + row < rows.count && column < real {
                let line = start + row * comptime!(frame.line());
                let factor = f32::reinterpret(memory[line + across].extract(0usize));
                let value = Vector::<f32, Four>::reinterpret(memory[line + index % across]);
                out[rows.start + (first + row) * rows.stride + column] =
                    value * Vector::new(factor);
            }
        }
    }
}
