//! The inner loop of cooperative matrices: f16 and bf16 with f32 sums.
//!
//! Operands pass through workgroup memory in pieces of 16 bytes, each row padded by one piece
//! against bank conflicts; the next step's pieces are in registers while this one multiplies.
//! Rows and columns outside of an operand are not branched around but clamped to the last one: what
//! they give is never stored. Past the end of the sum, which only a last step reaches, both operands
//! are zeros.

use cubecl::cmma::{self, MatrixIdent, MatrixLayout, MatrixScope};
use cubecl::prelude::*;

use super::strips::{part_column, part_row};
use super::tile::Tile;
use super::{Access, Four, Panel};

/// Sixteen bytes: eight 16-bit elements.
pub(crate) type Piece = Vector<u32, Four>;

/// Row of an operand's tile, whose rows lie along the results, that piece `index` belongs to. Eight
/// units write 128 bytes at once: their rows are chosen so that, padding included, these lie in
/// different banks.
#[cube]
fn row_of(index: usize, #[comptime] depth: usize) -> usize {
    let mut row = index / comptime!(depth / 8);
    if comptime!(depth == 32) {
        row = row / 8 * 8 + row % 2 * 4 + row % 8 / 2;
    } else if comptime!(depth == 16) {
        row = row / 8 * 8 + row % 4 * 2 + row % 8 / 4;
    }
    row
}

/// What a unit knows of its pieces of an operand before it reads them: where its rows begin, in
/// pieces, for rows along the results; for gathered rows along the sum, [`look_up`] changes it from
/// step to step. Nothing for others.
#[cube]
fn places(
    tokens: &[u32],
    panel: &Panel,
    #[comptime] access: Access,
    #[comptime] extent: usize,
    #[comptime] tile: Tile,
) -> Array<u32> {
    let count = comptime!(tile.share(extent));
    let mut places = Array::<u32>::new(count);
    #[unroll]
    for i in 0..count {
        places[i] = 0u32;
        if comptime!(!access.k_rows) {
            let index = UNIT_POS as usize + comptime!(i * tile.units());
            let inside = row_of(index, comptime!(tile.depth));
            let mut at = panel.first + inside;
            let mut shift = 0usize;
            if comptime!(access.split) {
                if inside >= comptime!(extent / 2) {
                    at -= comptime!(extent / 2);
                    shift = panel.half;
                }
            }
            at = at.min(panel.end - 1);
            let mut row = at + shift;
            if comptime!(access.gather) {
                row = tokens[at] as usize;
            }
            places[i] = ((panel.base + row * panel.stride) / 8) as u32;
        }
    }
    places
}

/// Whether an operand's rows are looked up a step before they are read: those that change from
/// step to step. A look-up right before each read doubles what the read waits for.
const fn looks_ahead(access: Access) -> bool {
    access.k_rows && access.gather
}

/// The rows of a gathered operand that the unit's pieces at step `k` come from.
#[cube]
fn look_up(
    places: &mut Array<u32>,
    tokens: &[u32],
    k: usize,
    k_end: usize,
    #[comptime] access: Access,
    #[comptime] extent: usize,
    #[comptime] tile: Tile,
) {
    if comptime!(looks_ahead(access)) {
        #[unroll]
        for i in 0..comptime!(tile.share(extent)) {
            let at = k + (UNIT_POS as usize + comptime!(i * tile.units())) / comptime!(extent / 8);
            places[i] = tokens[at.min(k_end - 1)];
        }
    }
}

/// How far along the sum piece `index` of a step lies.
#[cube]
fn along(
    index: usize,
    #[comptime] access: Access,
    #[comptime] extent: usize,
    #[comptime] tile: Tile,
) -> usize {
    let mut along = index % comptime!(tile.depth / 8) * 8;
    if comptime!(access.k_rows) {
        along = index / comptime!(extent / 8);
    }
    along
}

/// Where piece `index` lies in the operand's buffer, `at` elements along the sum; `place` is what
/// the unit knows of it.
#[cube]
fn address(
    index: usize,
    place: u32,
    panel: &Panel,
    at: usize,
    #[comptime] access: Access,
    #[comptime] extent: usize,
) -> usize {
    let mut from = place as usize + at / 8;
    if comptime!(access.k_rows) {
        let column = (panel.first + index % comptime!(extent / 8) * 8).min(panel.end - 8);
        let mut row = at;
        if comptime!(access.gather) {
            row = place as usize;
        }
        from = (panel.base + row * panel.stride + column) / 8;
    }
    from
}

/// Reads the unit's pieces of an operand's tile at step `k`, zeros past `k_end`.
///
/// Pieces of whole steps are read without a check: with one each, a product of 4096³ on an H200 reached
/// 250 TFLOP/s, not 268, and 281, not 294, with rows along the sum.
#[cube]
fn fetch(
    source: &[Piece],
    places: &Array<u32>,
    panel: &Panel,
    k: usize,
    k_end: usize,
    #[comptime] access: Access,
    #[comptime] extent: usize,
    #[comptime] tile: Tile,
) -> Array<Piece> {
    let count = comptime!(tile.share(extent));
    let mut pieces = Array::<Piece>::new(count);
    if k + comptime!(tile.depth) <= k_end {
        #[unroll]
        for i in 0..count {
            let index = UNIT_POS as usize + comptime!(i * tile.units());
            let at = k + along(index, access, extent, tile);
            pieces[i] = source[address(index, places[i], panel, at, access, extent)];
        }
    } else {
        #[unroll]
        for i in 0..count {
            let index = UNIT_POS as usize + comptime!(i * tile.units());
            let at = k + along(index, access, extent, tile);
            let mut piece = Piece::new(0u32);
            if at < k_end {
                piece = source[address(index, places[i], panel, at, access, extent)];
            }
            pieces[i] = piece;
        }
    }
    pieces
}

/// Writes the unit's pieces to workgroup memory from `start` on.
#[cube]
fn keep(
    memory: &mut Shared<[Piece]>,
    #[comptime] start: usize,
    pieces: &Array<Piece>,
    #[comptime] access: Access,
    #[comptime] extent: usize,
    #[comptime] tile: Tile,
) {
    let stride = comptime!(tile.stride(access, extent));
    #[unroll]
    for i in 0..comptime!(tile.share(extent)) {
        let index = UNIT_POS as usize + comptime!(i * tile.units());
        let mut row = index / comptime!(extent / 8);
        let mut column = index % comptime!(extent / 8);
        if comptime!(!access.k_rows) {
            row = row_of(index, comptime!(tile.depth));
            column = index % comptime!(tile.depth / 8);
        }
        memory[start + row * stride + column] = pieces[i];
    }
}

/// First column inside the tile of matrix `j` of a part. With `split`, the first half of a part's
/// matrices are gate columns, the second half the up columns that go with them.
#[cube]
fn matrix_column(#[comptime] j: usize, #[comptime] split: bool, #[comptime] tile: Tile) -> usize {
    let mut column = part_column(tile) * comptime!(tile.part_columns()) + comptime!(j * tile.n());
    if comptime!(split && tile.matrices() > 1) {
        let half = comptime!(tile.matrices() / 2);
        column = part_column(tile) * comptime!(tile.part_columns() / 2)
            + comptime!((j % half) * tile.n() + (j / half) * (tile.columns / 2));
    }
    column
}

/// Multiplies the operands that lie in workgroup memory from `start` on, and adds to the sums.
#[cube]
fn multiply<E: Float, S: MatrixScope>(
    memory: &Shared<[Piece]>,
    sums: &Sequence<cmma::Matrix<f32, S>>,
    #[comptime] start: usize,
    #[comptime] a_access: Access,
    #[comptime] b_access: Access,
    #[comptime] tile: Tile,
) {
    let right = comptime!(start + tile.size(a_access, tile.rows));
    let a_stride = comptime!(tile.stride(a_access, tile.rows));
    let b_stride = comptime!(tile.stride(b_access, tile.columns));
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
    let first = part_row(tile);
    #[unroll]
    for step in 0..comptime!(tile.depth / tile.k()) {
        let mut rows = Sequence::<cmma::Matrix<E, S>>::new();
        #[unroll]
        for i in 0..comptime!(tile.strips()) {
            let mut matrix = unsafe {
                cmma::Matrix::<E, S>::uninitialized(
                    MatrixIdent::A,
                    comptime!(tile.m()),
                    comptime!(tile.n()),
                    comptime!(tile.k()),
                    a_layout,
                )
            };
            let row = first + comptime!(i * tile.m());
            let mut at = start + row * a_stride + comptime!(step * tile.k() / 8);
            if comptime!(a_access.k_rows) {
                at = comptime!(start + step * tile.k() * a_stride) + row / 8;
            }
            cmma::load(
                &mut matrix,
                &memory[at..memory.len()],
                comptime!(a_stride as u32 * 4),
            );
            rows.push(matrix);
        }
        #[unroll]
        for j in 0..comptime!(tile.matrices()) {
            let mut matrix = unsafe {
                cmma::Matrix::<E, S>::uninitialized(
                    MatrixIdent::B,
                    comptime!(tile.m()),
                    comptime!(tile.n()),
                    comptime!(tile.k()),
                    b_layout,
                )
            };
            let column = matrix_column(j, comptime!(b_access.split), tile);
            let mut at = right + column * b_stride + comptime!(step * tile.k() / 8);
            if comptime!(b_access.k_rows) {
                at = comptime!(right + step * tile.k() * b_stride) + column / 8;
            }
            cmma::load(
                &mut matrix,
                &memory[at..memory.len()],
                comptime!(b_stride as u32 * 4),
            );
            #[unroll]
            for i in 0..comptime!(tile.strips()) {
                let sum = sums.index(comptime!(i * tile.matrices() + j));
                cmma::execute(rows.index(i), &matrix, sum, sum);
            }
        }
    }
}

/// The matrices of the unit's part, strip by strip; leaves workgroup memory free to use.
#[cube]
pub(crate) fn product<E: Float, S: MatrixScope>(
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
    #[comptime] tile: Tile,
) -> Sequence<cmma::Matrix<f32, S>> {
    let depth = comptime!(tile.depth);
    let copy = comptime!(tile.operands(a_access, b_access));
    let right = comptime!(tile.size(a_access, tile.rows));
    let mut sums = Sequence::<cmma::Matrix<f32, S>>::new();
    #[unroll]
    for _ in 0..comptime!(tile.strips() * tile.matrices()) {
        sums.push(cmma::Matrix::<f32, S>::from_value(
            MatrixIdent::Accumulator,
            comptime!(tile.m()),
            comptime!(tile.n()),
            comptime!(tile.k()),
            MatrixLayout::Undefined,
            0.0,
        ));
    }
    let steps = (k_end - k_begin).div_ceil(depth);
    let mut a_places = places(tokens, a_panel, a_access, comptime!(tile.rows), tile);
    let mut b_places = places(tokens, b_panel, b_access, comptime!(tile.columns), tile);
    if steps > 0 {
        look_up(
            &mut a_places,
            tokens,
            k_begin,
            k_end,
            a_access,
            comptime!(tile.rows),
            tile,
        );
        look_up(
            &mut b_places,
            tokens,
            k_begin,
            k_end,
            b_access,
            comptime!(tile.columns),
            tile,
        );
        let pieces = fetch(
            a,
            &a_places,
            a_panel,
            k_begin,
            k_end,
            a_access,
            comptime!(tile.rows),
            tile,
        );
        keep(
            memory,
            0usize,
            &pieces,
            a_access,
            comptime!(tile.rows),
            tile,
        );
        let pieces = fetch(
            b,
            &b_places,
            b_panel,
            k_begin,
            k_end,
            b_access,
            comptime!(tile.columns),
            tile,
        );
        keep(
            memory,
            right,
            &pieces,
            b_access,
            comptime!(tile.columns),
            tile,
        );
        let k = k_begin + depth;
        look_up(
            &mut a_places,
            tokens,
            k,
            k_end,
            a_access,
            comptime!(tile.rows),
            tile,
        );
        look_up(
            &mut b_places,
            tokens,
            k,
            k_end,
            b_access,
            comptime!(tile.columns),
            tile,
        );
    }
    sync_cube();
    // With two copies their numbers are known to the compiler: addressing them by a variable cost
    // more than the barrier that they save (150 against 244 TFLOP/s on an H200). An odd step too
    // many multiplies by zeros.
    for turn in 0..steps.div_ceil(comptime!(tile.buffers)) {
        #[unroll]
        for buffer in 0..comptime!(tile.buffers) {
            let k = k_begin + (turn * comptime!(tile.buffers) + buffer + 1) * depth;
            let a_next = fetch(
                a,
                &a_places,
                a_panel,
                k,
                k_end,
                a_access,
                comptime!(tile.rows),
                tile,
            );
            let b_next = fetch(
                b,
                &b_places,
                b_panel,
                k,
                k_end,
                b_access,
                comptime!(tile.columns),
                tile,
            );
            look_up(
                &mut a_places,
                tokens,
                k + depth,
                k_end,
                a_access,
                comptime!(tile.rows),
                tile,
            );
            look_up(
                &mut b_places,
                tokens,
                k + depth,
                k_end,
                b_access,
                comptime!(tile.columns),
                tile,
            );
            multiply::<E, S>(
                &*memory,
                &sums,
                comptime!(buffer * copy),
                a_access,
                b_access,
                tile,
            );
            if comptime!(tile.buffers == 1) {
                sync_cube();
            }
            let next = comptime!((buffer + 1) % tile.buffers * copy);
            keep(memory, next, &a_next, a_access, comptime!(tile.rows), tile);
            keep(
                memory,
                comptime!(next + right),
                &b_next,
                b_access,
                comptime!(tile.columns),
                tile,
            );
            sync_cube();
        }
    }
    sums
}
