//! Subgroup cooperative matrices: f16 and bf16 with f32 sums.
//!
//! A workgroup of four subgroups owns a 128×128 tile, a subgroup 64×64 of it as 4×4 matrices of
//! 16×16. Operands pass through workgroup memory 32 deep in 16-byte pieces, each row padded by
//! one piece against bank conflicts; the next step's pieces are in registers while this one
//! multiplies. One buffer is enough: on an H200 two were slower (150 against 244 TFLOP/s), since
//! indexing them cost more than the barrier they save.

use cubecl::cmma::{self, MatrixIdent, MatrixLayout};
use cubecl::prelude::*;

use super::{Access, Four, Panel};

/// Depth of a tile along the sum.
pub(crate) const DEPTH: usize = 32;
/// Rows and columns of a workgroup's tile.
pub(crate) const EDGE: usize = 128;
/// Rows and columns of a subgroup's part.
pub(crate) const PART: usize = 64;
/// Cooperative matrices along a part.
pub(crate) const MATRICES: usize = PART / 16;
/// Pieces from row to row of the epilogue's scratch.
pub(crate) const SCRATCH_STRIDE: usize = PART / 4 + 1;

/// Sixteen bytes: eight 16-bit elements.
pub(crate) type Piece = Vector<u32, Four>;

/// Pieces from row to row of an operand's tile in workgroup memory.
pub(crate) const fn tile_stride(access: Access) -> usize {
    if access.k_rows {
        EDGE / 8 + 1
    } else {
        DEPTH / 8 + 1
    }
}

/// Pieces of an operand's tile in workgroup memory.
pub(crate) const fn tile_size(access: Access) -> usize {
    if access.k_rows {
        DEPTH * tile_stride(access)
    } else {
        EDGE * tile_stride(access)
    }
}

/// Pieces of workgroup memory that [`product`] and then [`spill`] use.
pub(crate) const fn memory_size(a: Access, b: Access) -> usize {
    let tiles = tile_size(a) + tile_size(b);
    let scratch = 4 * 16 * SCRATCH_STRIDE;
    if tiles > scratch { tiles } else { scratch }
}

/// Stands for a row that is not there.
const NONE: u32 = 0xFFFF_FFFF;

/// The rows of a gathered operand that the unit's pieces at step `k` come from, or [`NONE`].
#[cube]
fn look_up(tokens: &[u32], k: usize, k_end: usize, #[comptime] units: usize) -> Array<u32> {
    let count = comptime!(EDGE * DEPTH / 8 / units);
    let mut rows = Array::<u32>::new(count);
    #[unroll]
    for i in 0..count {
        let at = k + (UNIT_POS as usize + comptime!(i * units)) / comptime!(EDGE / 8);
        let mut row = NONE.runtime();
        if at < k_end {
            row = tokens[at];
        }
        rows[i] = row;
    }
    rows
}

/// Whether an operand's rows are looked up a step before they are read: those that change from
/// step to step. A look-up right before each read doubles what the read waits for; the rows of
/// the other operands stay the same, and keeping them in registers was slower than reading their
/// numbers again from the cache (7.2 against 6.1 ms for a forward pass on an H200).
const fn looks_ahead(access: Access) -> bool {
    access.k_rows && access.gather
}

/// Reads the unit's pieces of an operand's tile at step `k`; `ahead` as [`look_up`] found them.
#[cube]
fn fetch(
    source: &[Piece],
    tokens: &[u32],
    ahead: &Array<u32>,
    panel: &Panel,
    k: usize,
    k_end: usize,
    #[comptime] access: Access,
    #[comptime] units: usize,
) -> Array<Piece> {
    let count = comptime!(EDGE * DEPTH / 8 / units);
    let mut pieces = Array::<Piece>::new(count);
    #[unroll]
    for i in 0..count {
        let index = UNIT_POS as usize + comptime!(i * units);
        let mut piece = Piece::new(0u32);
        if comptime!(looks_ahead(access)) {
            let column = panel.first + (index % comptime!(EDGE / 8)) * 8;
            if ahead[i] != NONE && column < panel.end {
                piece = source[(panel.base + ahead[i] as usize * panel.stride + column) / 8];
            }
        } else if comptime!(access.k_rows) {
            let at = k + index / comptime!(EDGE / 8);
            let column = panel.first + (index % comptime!(EDGE / 8)) * 8;
            if at < k_end && column < panel.end {
                piece = source[(panel.base + at * panel.stride + column) / 8];
            }
        } else {
            let inside = index / comptime!(DEPTH / 8);
            let column = k + (index % comptime!(DEPTH / 8)) * 8;
            let mut at = panel.first + inside;
            let mut shift = 0usize;
            if comptime!(access.split) {
                if inside >= comptime!(EDGE / 2) {
                    at -= comptime!(EDGE / 2);
                    shift = panel.half;
                }
            }
            if at < panel.end && column < k_end {
                let mut row = at + shift;
                if comptime!(access.gather) {
                    row = tokens[at] as usize;
                }
                piece = source[(panel.base + row * panel.stride + column) / 8];
            }
        }
        pieces[i] = piece;
    }
    pieces
}

/// Writes the unit's pieces to workgroup memory.
#[cube]
fn keep(
    memory: &mut Shared<[Piece]>,
    #[comptime] start: usize,
    pieces: &Array<Piece>,
    #[comptime] access: Access,
    #[comptime] units: usize,
) {
    let count = comptime!(EDGE * DEPTH / 8 / units);
    let row = comptime!(if access.k_rows { EDGE / 8 } else { DEPTH / 8 });
    let stride = comptime!(tile_stride(access));
    #[unroll]
    for i in 0..count {
        let index = UNIT_POS as usize + comptime!(i * units);
        memory[start + (index / row) * stride + index % row] = pieces[i];
    }
}

/// The first row of the subgroup's part inside the tile.
#[cube]
pub(crate) fn part_row() -> usize {
    (UNIT_POS_Y as usize / 2) * PART
}

/// The subgroup's part along the columns: 0 or 1.
#[cube]
pub(crate) fn part_column() -> usize {
    UNIT_POS_Y as usize % 2
}

/// First column inside the tile of matrix `j` of the subgroup. With `split`, the first half of a
/// subgroup's matrices are gate columns, the second half the up columns that go with them.
#[cube]
fn matrix_column(#[comptime] j: usize, #[comptime] split: bool) -> usize {
    let mut column = part_column() * PART + comptime!(j * 16);
    if comptime!(split) {
        let half = comptime!(MATRICES / 2);
        column = part_column() * comptime!(PART / 2)
            + comptime!((j % half) * 16 + (j / half) * (EDGE / 2));
    }
    column
}

/// The subgroup's 4×4 matrices of results, row by row; leaves workgroup memory free to use.
#[cube]
pub(crate) fn product<E: Float>(
    memory: &mut Shared<[Piece]>,
    a: &[Piece],
    b: &[Piece],
    tokens: &[u32],
    a_panel: &Panel,
    b_panel: &Panel,
    k_begin: usize,
    k_end: usize,
    #[comptime] a_access: Access,
    #[comptime] b_access: Access,
    #[comptime] subgroup: usize,
) -> Sequence<cmma::Matrix<f32>> {
    let units = comptime!(4 * subgroup);
    let right = comptime!(tile_size(a_access));
    let a_stride = comptime!(tile_stride(a_access));
    let b_stride = comptime!(tile_stride(b_access));
    let mut sums = Sequence::<cmma::Matrix<f32>>::new();
    #[unroll]
    for _ in 0..comptime!(MATRICES * MATRICES) {
        sums.push(cmma::Matrix::<f32>::from_value(
            MatrixIdent::Accumulator,
            16usize,
            16usize,
            16usize,
            MatrixLayout::Undefined,
            0.0,
        ));
    }
    let a_layout = comptime!(if a_access.k_rows {
        MatrixLayout::ColMajor
    } else {
        MatrixLayout::RowMajor
    });
    let b_layout = comptime!(if b_access.k_rows {
        MatrixLayout::RowMajor
    } else {
        MatrixLayout::ColMajor
    });
    let row = part_row();
    let steps = (k_end - k_begin).div_ceil(DEPTH);
    let mut a_rows = Array::<u32>::new(comptime!(EDGE * DEPTH / 8 / units));
    let mut b_rows = Array::<u32>::new(comptime!(EDGE * DEPTH / 8 / units));
    if comptime!(looks_ahead(a_access)) {
        a_rows = look_up(tokens, k_begin, k_end, units);
    }
    if comptime!(looks_ahead(b_access)) {
        b_rows = look_up(tokens, k_begin, k_end, units);
    }
    if steps > 0 {
        let pieces = fetch(a, tokens, &a_rows, a_panel, k_begin, k_end, a_access, units);
        keep(memory, 0usize, &pieces, a_access, units);
        let pieces = fetch(b, tokens, &b_rows, b_panel, k_begin, k_end, b_access, units);
        keep(memory, right, &pieces, b_access, units);
    }
    if comptime!(looks_ahead(a_access)) {
        a_rows = look_up(tokens, k_begin + DEPTH, k_end, units);
    }
    if comptime!(looks_ahead(b_access)) {
        b_rows = look_up(tokens, k_begin + DEPTH, k_end, units);
    }
    sync_cube();
    for step in 0..steps {
        // Past the last step everything is out of range and reads as zero, unused.
        let k = k_begin + (step + 1) * DEPTH;
        let a_next = fetch(a, tokens, &a_rows, a_panel, k, k_end, a_access, units);
        let b_next = fetch(b, tokens, &b_rows, b_panel, k, k_end, b_access, units);
        if comptime!(looks_ahead(a_access)) {
            a_rows = look_up(tokens, k + DEPTH, k_end, units);
        }
        if comptime!(looks_ahead(b_access)) {
            b_rows = look_up(tokens, k + DEPTH, k_end, units);
        }
        #[unroll]
        for depth in 0..comptime!(DEPTH / 16) {
            let mut rows = Sequence::<cmma::Matrix<E>>::new();
            #[unroll]
            for i in 0..MATRICES {
                let mut matrix = unsafe {
                    cmma::Matrix::<E>::uninitialized(
                        MatrixIdent::A,
                        16usize,
                        16usize,
                        16usize,
                        a_layout,
                    )
                };
                let mut at = (row + comptime!(i * 16)) * a_stride + comptime!(depth * 2);
                if comptime!(a_access.k_rows) {
                    at = comptime!(depth * 16 * a_stride) + (row + comptime!(i * 16)) / 8;
                }
                cmma::load(
                    &mut matrix,
                    &memory[at..memory.len()],
                    comptime!(a_stride as u32 * 4),
                );
                rows.push(matrix);
            }
            #[unroll]
            for j in 0..MATRICES {
                let mut matrix = unsafe {
                    cmma::Matrix::<E>::uninitialized(
                        MatrixIdent::B,
                        16usize,
                        16usize,
                        16usize,
                        b_layout,
                    )
                };
                let column = matrix_column(j, comptime!(b_access.split));
                let mut at = right + column * b_stride + comptime!(depth * 2);
                if comptime!(b_access.k_rows) {
                    at = comptime!(right + depth * 16 * b_stride) + column / 8;
                }
                cmma::load(
                    &mut matrix,
                    &memory[at..memory.len()],
                    comptime!(b_stride as u32 * 4),
                );
                #[unroll]
                for i in 0..MATRICES {
                    let sum = sums.index(comptime!(i * MATRICES + j));
                    cmma::execute(rows.index(i), &matrix, sum, sum);
                }
            }
        }
        sync_cube();
        keep(memory, 0usize, &a_next, a_access, units);
        keep(memory, right, &b_next, b_access, units);
        sync_cube();
    }
    sums
}

/// Writes the subgroup's row `i` of matrices to its scratch, `[16, SCRATCH_STRIDE]` pieces of
/// f32 from `start` on; readable by the whole subgroup when it returns.
#[cube]
pub(crate) fn spill(
    scratch: &mut Shared<[Piece]>,
    start: usize,
    sums: &Sequence<cmma::Matrix<f32>>,
    #[comptime] i: usize,
) {
    // The subgroup's previous reads of its scratch come first.
    sync_plane();
    #[unroll]
    for j in 0..MATRICES {
        let at = start + comptime!(j * 4);
        let end = scratch.len();
        cmma::store(
            &mut scratch[at..end],
            sums.index(comptime!(i * MATRICES + j)),
            comptime!(SCRATCH_STRIDE as u32 * 4),
            MatrixLayout::RowMajor,
        );
    }
    sync_plane();
}
