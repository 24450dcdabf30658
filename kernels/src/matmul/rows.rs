//! Products of rows: `out[row] = a[row] · b[group]`.

use burn_cubecl::tensor::CubeTensor;
use cubecl::cmma::{self, MatrixScope};
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::cooperative::{self, Piece};
use super::epilogue::write;
use super::launch::{Stacked, Work, arg_pieces, lanes, work};
use super::strips::{part_column, spill, spot};
use super::tile::{Scope, Tile};
use super::{Access, Four, Groups, Panel, Plain, Tier, plain};
use crate::convert::element;
use crate::gpu::{arg, grid, launch};

#[cube(launch, launch_unchecked)]
fn rows_plain<A: Float, B: Float, O: Float, N: Size>(
    a: &[Vector<A, N>],
    b: &[Vector<B, N>],
    tokens: &[u32],
    tiles: &[u32],
    out: &mut [Vector<O, N>],
    tile_count: usize,
    from: usize,
    groups: usize,
    depth: usize,
    width: usize,
    #[comptime] a_access: Access,
    #[comptime] b_access: Access,
    #[comptime] plain: Plain,
    #[define(A, B, O)] _types: [ElemType; 3],
) {
    let at = work(
        tiles,
        tile_count,
        width.div_ceil(comptime!(plain.columns())),
        from,
        groups,
        comptime!(!plain.in_memory()),
    );
    if at.group == groups {
        terminate!();
    }
    let column = at.column_tile * comptime!(plain.columns());
    let left = Panel {
        base: 0usize,
        stride: depth,
        first: at.first,
        end: at.end,
        half: 0usize,
    };
    let mut right = Panel {
        base: at.group * depth * width,
        stride: depth,
        first: column,
        end: width,
        half: 0usize,
    };
    if comptime!(b_access.k_rows) {
        right.stride = width;
    }
    let sums = plain::product::<A, B, N, N>(
        a, b, tokens, &left, &right, 0usize, depth, a_access, b_access, plain,
    );
    #[unroll]
    for i in 0..comptime!(plain.unit_rows()) {
        let row = at.first + plain::row_of(i, plain);
        if row < at.end {
            #[unroll]
            for j in 0..2usize {
                let to = column + plain::column_of(j, plain);
                write::<O, N>(out, row, to, width, sums[comptime!(i * 2 + j)]);
            }
        }
    }
}

#[cube(launch, launch_unchecked)]
fn rows_cooperative<E: Float, O: Float>(
    a: &[Piece],
    b: &[Piece],
    tokens: &[u32],
    tiles: &[u32],
    out: &mut [Vector<O, Four>],
    tile_count: usize,
    from: usize,
    groups: usize,
    depth: usize,
    width: usize,
    #[comptime] a_access: Access,
    #[comptime] b_access: Access,
    #[comptime] tile: Tile,
    #[define(E, O)] _types: [ElemType; 2],
) {
    let at = work(
        tiles,
        tile_count,
        width.div_ceil(comptime!(tile.columns)),
        from,
        groups,
        false,
    );
    if at.group == groups {
        terminate!();
    }
    if comptime!(tile.scope == Scope::Subgroup) {
        rows_tile::<E, O, cmma::Plane>(
            a, b, tokens, out, &at, depth, width, a_access, b_access, tile,
        );
    } else {
        rows_tile::<E, O, cmma::Cube>(
            a, b, tokens, out, &at, depth, width, a_access, b_access, tile,
        );
    }
}

#[cube]
fn rows_tile<E: Float, O: Float, S: MatrixScope>(
    a: &[Piece],
    b: &[Piece],
    tokens: &[u32],
    out: &mut [Vector<O, Four>],
    at: &Work,
    depth: usize,
    width: usize,
    #[comptime] a_access: Access,
    #[comptime] b_access: Access,
    #[comptime] tile: Tile,
) {
    let column = at.column_tile * comptime!(tile.columns);
    let left = Panel {
        base: 0usize,
        stride: depth,
        first: at.first,
        end: at.end,
        half: 0usize,
    };
    let mut right = Panel {
        base: at.group * depth * width,
        stride: depth,
        first: column,
        end: width,
        half: 0usize,
    };
    if comptime!(b_access.k_rows) {
        right.stride = width;
    }
    let mut memory = Shared::<[Piece]>::new_slice(comptime!(tile.memory(a_access, b_access)));
    let sums = cooperative::product::<E, S>(
        &mut memory,
        a,
        b,
        tokens,
        &left,
        &right,
        0usize,
        depth,
        a_access,
        b_access,
        tile,
    );
    let first = column + part_column(tile) * comptime!(tile.part_columns());
    let pieces = comptime!(tile.part_columns() / 4);
    #[unroll]
    for strip in 0..comptime!(tile.strips()) {
        spill(&mut memory, &sums, strip, tile);
        #[unroll]
        for turn in 0..comptime!(tile.turns(pieces)) {
            let spot = spot(strip, turn, pieces, tile);
            let row = at.first + spot.row;
            if row < at.end {
                let values = Vector::<f32, Four>::reinterpret(memory[spot.from]);
                write::<O, Four>(out, row, first + spot.piece * 4, width, values);
            }
        }
    }
}

/// `out[row] = a[row] · b[group]` for the rows of all groups: `a` `[rows, depth]`, or gathered
/// from `[tokens, depth]`; `b` stacked `[width, depth]`, or `[depth, width]` when `b_access` says
/// that its rows run along the sum; `out` `[rows, width]`.
pub(crate) fn rows(
    groups: &Groups,
    tier: Tier,
    a: &CubeTensor,
    a_access: Access,
    b: &Stacked,
    b_access: Access,
    out: &CubeTensor,
) {
    let (depth, width) = if b_access.k_rows {
        (b.rows, b.columns)
    } else {
        (b.columns, b.rows)
    };
    let cubes = groups.tile_count * width.div_ceil(tier.columns());
    if cubes == 0 {
        return;
    }
    // SAFETY: the kernels check rows against their group's end and columns against the width.
    unsafe {
        match tier {
            Tier::Plain(plain) => {
                let lanes = lanes(&[depth, width]);
                launch!(rows_plain(
                    &a.client,
                    grid(cubes),
                    CubeDim::new_1d(plain.units() as u32),
                    lanes,
                    arg(a, lanes),
                    arg(&b.buffer, lanes),
                    arg(&groups.tokens, 1),
                    arg(&groups.tiles, 1),
                    arg(out, lanes),
                    groups.tile_count,
                    groups.first,
                    groups.count,
                    depth,
                    width,
                    a_access,
                    b_access,
                    plain,
                    [element(a), element(&b.buffer), element(out)],
                ));
            }
            Tier::Cooperative(tile) => launch!(rows_cooperative(
                &a.client,
                grid(cubes),
                CubeDim::new_2d(tile.subgroup as u32, tile.subgroups as u32),
                arg_pieces(a),
                arg_pieces(&b.buffer),
                arg(&groups.tokens, 1),
                arg(&groups.tiles, 1),
                arg(out, 4),
                groups.tile_count,
                groups.first,
                groups.count,
                depth,
                width,
                a_access,
                b_access,
                tile,
                [element(a), element(out)],
            )),
        }
    }
}
