//! The first half of an expert: gate and up projections with SwiGLU in the epilogue.

use burn_cubecl::tensor::CubeTensor;
use cubecl::cmma::{self, MatrixScope};
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::cooperative::{self, Piece};
use super::epilogue::{swiglu, write, write_halves};
use super::launch::{Stacked, Work, arg_pieces, lanes, work};
use super::strips::{part_column, spill, spot};
use super::tile::{Scope, Tile};
use super::{Access, Four, Groups, Panel, Plain, Tier, plain};
use crate::convert::element;
use crate::gpu::{arg, grid, launch};

#[cube(launch, launch_unchecked)]
fn swiglu_plain<A: Float, B: Float, O: Float, N: Size>(
    x: &[Vector<A, N>],
    gate_up: &[Vector<B, N>],
    tokens: &[u32],
    tiles: &[u32],
    pre: &mut [Vector<O, N>],
    activation: &mut [Vector<O, N>],
    tile_count: usize,
    from: usize,
    groups: usize,
    depth: usize,
    inner: usize,
    #[comptime] a_access: Access,
    #[comptime] plain: Plain,
    #[define(A, B, O)] _types: [ElemType; 3],
) {
    let half = comptime!(plain.columns() / 2);
    let at = work(
        tiles,
        tile_count,
        inner.div_ceil(half),
        from,
        groups,
        comptime!(!plain.in_memory()),
    );
    if at.group == groups {
        terminate!();
    }
    let column = at.column_tile * half;
    let left = Panel {
        base: 0usize,
        stride: depth,
        first: at.first,
        end: at.end,
        half: 0usize,
    };
    let right = Panel {
        base: at.group * 2 * inner * depth,
        stride: depth,
        first: column,
        end: inner,
        half: inner,
    };
    let sums = plain::product::<A, B, N, N>(
        x,
        gate_up,
        tokens,
        &left,
        &right,
        0usize,
        depth,
        a_access,
        comptime!(Access::ROWS.halves()),
        plain,
    );
    #[unroll]
    for i in 0..comptime!(plain.unit_rows()) {
        let row = at.first + plain::row_of(i, plain);
        if row < at.end {
            let to = column + plain::column_of(0usize, plain);
            let gate = sums[comptime!(i * 2)];
            let up = sums[comptime!(i * 2 + 1)];
            write_halves::<O, N>(pre, row, to, inner, gate, up);
            write::<O, N>(activation, row, to, inner, swiglu(gate, up));
        }
    }
}

#[cube(launch, launch_unchecked)]
fn swiglu_cooperative<E: Float>(
    x: &[Piece],
    gate_up: &[Piece],
    tokens: &[u32],
    tiles: &[u32],
    pre: &mut [Vector<E, Four>],
    activation: &mut [Vector<E, Four>],
    tile_count: usize,
    from: usize,
    groups: usize,
    depth: usize,
    inner: usize,
    #[comptime] a_access: Access,
    #[comptime] tile: Tile,
    #[define(E)] _type: ElemType,
) {
    let half = comptime!(tile.columns / 2);
    let at = work(tiles, tile_count, inner.div_ceil(half), from, groups, false);
    if at.group == groups {
        terminate!();
    }
    if comptime!(tile.scope == Scope::Subgroup) {
        swiglu_tile::<E, cmma::Plane>(
            x, gate_up, tokens, pre, activation, &at, depth, inner, a_access, tile,
        );
    } else {
        swiglu_tile::<E, cmma::Cube>(
            x, gate_up, tokens, pre, activation, &at, depth, inner, a_access, tile,
        );
    }
}

#[cube]
fn swiglu_tile<E: Float, S: MatrixScope>(
    x: &[Piece],
    gate_up: &[Piece],
    tokens: &[u32],
    pre: &mut [Vector<E, Four>],
    activation: &mut [Vector<E, Four>],
    at: &Work,
    depth: usize,
    inner: usize,
    #[comptime] a_access: Access,
    #[comptime] tile: Tile,
) {
    let column = at.column_tile * comptime!(tile.columns / 2);
    let left = Panel {
        base: 0usize,
        stride: depth,
        first: at.first,
        end: at.end,
        half: 0usize,
    };
    let right = Panel {
        base: at.group * 2 * inner * depth,
        stride: depth,
        first: column,
        end: inner,
        half: inner,
    };
    let b_access = comptime!(Access::ROWS.halves());
    let mut memory = Shared::<[Piece]>::new_slice(comptime!(tile.memory(a_access, b_access)));
    let sums = cooperative::product::<E, S>(
        &mut memory,
        x,
        gate_up,
        tokens,
        &left,
        &right,
        0usize,
        depth,
        a_access,
        b_access,
        tile,
    );
    let first = column + part_column(tile) * comptime!(tile.part_columns() / 2);
    // Gates are the first half of a part's columns, the ups that go with them the second.
    let pieces = comptime!(tile.part_columns() / 8);
    #[unroll]
    for strip in 0..comptime!(tile.strips()) {
        spill(&mut memory, &sums, strip, tile);
        #[unroll]
        for turn in 0..comptime!(tile.turns(pieces)) {
            let spot = spot(strip, turn, pieces, tile);
            let row = at.first + spot.row;
            let to = first + spot.piece * 4;
            if row < at.end {
                let gate = Vector::<f32, Four>::reinterpret(memory[spot.from]);
                let up = Vector::<f32, Four>::reinterpret(memory[spot.from + pieces]);
                write_halves::<E, Four>(pre, row, to, inner, gate, up);
                write::<E, Four>(activation, row, to, inner, swiglu(gate, up));
            }
        }
    }
}

/// `pre[row] = x[row] · gate_up[group]ᵀ` `[rows, 2 · inner]` and its SwiGLU `[rows, inner]`.
pub(crate) fn swiglu_rows(
    groups: &Groups,
    tier: Tier,
    x: &CubeTensor,
    a_access: Access,
    gate_up: &Stacked,
    pre: &CubeTensor,
    activation: &CubeTensor,
) {
    let (depth, inner) = (gate_up.columns, gate_up.rows / 2);
    let cubes = groups.tile_count * inner.div_ceil(tier.columns() / 2);
    if cubes == 0 {
        return;
    }
    // SAFETY: the kernels check rows against their group's end and columns against the width.
    unsafe {
        match tier {
            Tier::Plain(plain) => {
                let lanes = lanes(&[depth, inner]);
                launch!(swiglu_plain(
                    &x.client,
                    grid(cubes),
                    CubeDim::new_1d(plain.units() as u32),
                    lanes,
                    arg(x, lanes),
                    arg(&gate_up.buffer, lanes),
                    arg(&groups.tokens, 1),
                    arg(&groups.tiles, 1),
                    arg(pre, lanes),
                    arg(activation, lanes),
                    groups.tile_count,
                    groups.first,
                    groups.count,
                    depth,
                    inner,
                    a_access,
                    plain,
                    [element(x), element(&gate_up.buffer), element(pre)],
                ));
            }
            Tier::Cooperative(tile) => launch!(swiglu_cooperative(
                &x.client,
                grid(cubes),
                CubeDim::new_2d(tile.subgroup as u32, tile.subgroups as u32),
                arg_pieces(x),
                arg_pieces(&gate_up.buffer),
                arg(&groups.tokens, 1),
                arg(&groups.tiles, 1),
                arg(pre, 4),
                arg(activation, 4),
                groups.tile_count,
                groups.first,
                groups.count,
                depth,
                inner,
                a_access,
                tile,
                element(x),
            )),
        }
    }
}
