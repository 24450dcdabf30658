//! Backward through an expert's second half: the down projection, SwiGLU and the router's weight.

use burn_cubecl::tensor::CubeTensor;
use cubecl::cmma::{self, MatrixScope};
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::cooperative::{self, Piece};
use super::epilogue::{read, swiglu_slopes, write, write_halves};
use super::launch::{Stacked, Work, arg_pieces, lanes, work};
use super::strips::{owner, part_column, part_row, spill, spot, strip_start, sync_owners};
use super::tile::{Scope, Tile};
use super::{Access, Four, Groups, Panel, Plain, Tier, plain};
use crate::convert::element;
use crate::gpu::{arg, grid, launch};

/// Four elements of 16 bits.
type Pair = Vector<u32, Const<2>>;

/// The SwiGLU backward of four columns; returns this unit's share of the weight's gradient.
#[cube]
fn swiglu_backward<O: Float, N: Size>(
    pre: &mut [Vector<O, N>],
    activation: &mut [Vector<O, N>],
    row: usize,
    column: usize,
    inner: usize,
    gate: Vector<f32, Four>,
    up: Vector<f32, Four>,
    weight: f32,
    unweighted: Vector<f32, Four>,
) -> f32 {
    let slopes = swiglu_slopes(gate, up);
    let factor = Vector::<f32, Four>::new(weight);
    let weighted = unweighted * factor;
    write_halves::<O, N>(
        pre,
        row,
        column,
        inner,
        weighted * slopes.gate,
        weighted * slopes.up,
    );
    write::<O, N>(activation, row, column, inner, slopes.activation * factor);
    // Columns past the end: both factors are zero.
    let share = slopes.activation * unweighted;
    share.extract(0usize) + share.extract(1usize) + share.extract(2usize) + share.extract(3usize)
}

#[cube(launch, launch_unchecked)]
fn backward_plain<A: Float, B: Float, O: Float, N: Size>(
    dy: &[Vector<A, N>],
    down: &[Vector<B, N>],
    tokens: &[u32],
    tiles: &[u32],
    weights: &[f32],
    pre: &mut [Vector<O, N>],
    activation: &mut [Vector<O, N>],
    shares: &mut [f32],
    tile_count: usize,
    from: usize,
    groups: usize,
    depth: usize,
    inner: usize,
    rows: usize,
    #[comptime] a_access: Access,
    #[comptime] plain: Plain,
    #[define(A, B, O)] _types: [ElemType; 3],
) {
    let at = work(
        tiles,
        tile_count,
        inner.div_ceil(comptime!(plain.columns())),
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
    let right = Panel {
        base: at.group * depth * inner,
        stride: inner,
        first: column,
        end: inner,
        half: 0usize,
    };
    let sums = plain::product::<A, B, N, N>(
        dy,
        down,
        tokens,
        &left,
        &right,
        0usize,
        depth,
        a_access,
        Access::K_ROWS,
        plain,
    );
    let across = comptime!(plain.across());
    let mut parts = Shared::<[f32]>::new_slice(comptime!(plain.exchange()));
    #[unroll]
    for i in 0..comptime!(plain.unit_rows()) {
        let inside = plain::row_of(i, plain);
        let row = at.first + inside;
        let mut share = 0.0f32;
        if row < at.end {
            #[unroll]
            for j in 0..2usize {
                let to = column + plain::column_of(j, plain);
                let gate = read::<O, N>(&*pre, 2 * row * inner, to, inner);
                let up = read::<O, N>(&*pre, (2 * row + 1) * inner, to, inner);
                share += swiglu_backward::<O, N>(
                    pre,
                    activation,
                    row,
                    to,
                    inner,
                    gate,
                    up,
                    weights[row],
                    sums[comptime!(i * 2 + j)],
                );
            }
        }
        if comptime!(plain.in_memory()) {
            parts[inside * across + UNIT_POS as usize % across] = share;
        } else {
            let sum = plain::subgroup_sum(share, plain);
            if UNIT_POS == comptime!((i % plain.units()) as u32) && row < at.end {
                shares[at.column_tile * rows + row] = sum;
            }
        }
    }
    if comptime!(plain.in_memory()) {
        sync_cube();
        // A fixed order of summation: the same bits every run.
        let units = comptime!(plain.units());
        #[unroll]
        for turn in 0..comptime!(plain.rows().div_ceil(units)) {
            let inside = UNIT_POS as usize + comptime!(turn * units);
            let row = at.first + inside;
            if inside < comptime!(plain.rows()) && row < at.end {
                let mut sum = 0.0f32;
                #[unroll]
                for part in 0..across {
                    sum += parts[inside * across + part];
                }
                shares[at.column_tile * rows + row] = sum;
            }
        }
    }
}

/// Reads the unit's gates and ups of a strip of its part into half `strip % 2` of `kept`, a gate
/// and its up side by side. They are kept as bits, two elements in 32: as variables
/// in bf16 they made this kernel take a third longer than in f16 on an H200.
#[cube]
fn read_strip<E: Float>(
    pre: &[Vector<E, Four>],
    kept: &mut Array<Pair>,
    at: &Work,
    first: usize,
    inner: usize,
    #[comptime] strip: usize,
    #[comptime] tile: Tile,
) {
    let pieces = comptime!(tile.part_columns() / 4);
    let turns = comptime!(tile.turns(pieces));
    #[unroll]
    for turn in 0..turns {
        let spot = spot(strip, turn, pieces, tile);
        let row = at.first + spot.row;
        let to = first + spot.piece * 4;
        let slot = comptime!(2 * (strip % 2 * turns + turn));
        let mut gate = Pair::new(0u32);
        let mut up = Pair::new(0u32);
        if row < at.end && to < inner {
            gate = Pair::reinterpret(pre[(2 * row * inner + to) / 4]);
            up = Pair::reinterpret(pre[((2 * row + 1) * inner + to) / 4]);
        }
        kept[slot] = gate;
        kept[comptime!(slot + 1)] = up;
    }
}

#[cube(launch, launch_unchecked)]
fn backward_cooperative<E: Float>(
    dy: &[Piece],
    down: &[Piece],
    tokens: &[u32],
    tiles: &[u32],
    weights: &[f32],
    pre: &mut [Vector<E, Four>],
    activation: &mut [Vector<E, Four>],
    shares: &mut [f32],
    tile_count: usize,
    from: usize,
    groups: usize,
    depth: usize,
    inner: usize,
    rows: usize,
    #[comptime] a_access: Access,
    #[comptime] tile: Tile,
    #[define(E)] _type: ElemType,
) {
    let at = work(
        tiles,
        tile_count,
        inner.div_ceil(comptime!(tile.columns)),
        from,
        groups,
        false,
    );
    if at.group == groups {
        terminate!();
    }
    if comptime!(tile.scope == Scope::Subgroup) {
        backward_tile::<E, cmma::Plane>(
            dy, down, tokens, weights, pre, activation, shares, &at, depth, inner, rows, a_access,
            tile,
        );
    } else {
        backward_tile::<E, cmma::Cube>(
            dy, down, tokens, weights, pre, activation, shares, &at, depth, inner, rows, a_access,
            tile,
        );
    }
}

#[cube]
fn backward_tile<E: Float, S: MatrixScope>(
    dy: &[Piece],
    down: &[Piece],
    tokens: &[u32],
    weights: &[f32],
    pre: &mut [Vector<E, Four>],
    activation: &mut [Vector<E, Four>],
    shares: &mut [f32],
    at: &Work,
    depth: usize,
    inner: usize,
    rows: usize,
    #[comptime] a_access: Access,
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
    let right = Panel {
        base: at.group * depth * inner,
        stride: inner,
        first: column,
        end: inner,
        half: 0usize,
    };
    let mut memory = Shared::<[Piece]>::new_slice(comptime!(tile.memory(a_access, Access::K_ROWS)));
    let sums = cooperative::product::<E, S>(
        &mut memory,
        dy,
        down,
        tokens,
        &left,
        &right,
        0usize,
        depth,
        a_access,
        Access::K_ROWS,
        tile,
    );
    let first = column + part_column(tile) * comptime!(tile.part_columns());
    let pieces = comptime!(tile.part_columns() / 4);
    let turns = comptime!(tile.turns(pieces));
    // Two strips of gates and ups: the next strip is read before this one's gradients go where they
    // were. Read one by one, each read would wait for the write before it, since both are of one
    // buffer.
    let mut kept = Array::<Pair>::new(comptime!(4 * turns));
    read_strip::<E>(&*pre, &mut kept, at, first, inner, 0usize, tile);
    #[unroll]
    for strip in 0..comptime!(tile.strips()) {
        if comptime!(strip + 1 < tile.strips()) {
            read_strip::<E>(
                &*pre,
                &mut kept,
                at,
                first,
                inner,
                comptime!(strip + 1),
                tile,
            );
        }
        spill(&mut memory, &sums, strip, tile);
        #[unroll]
        for turn in 0..turns {
            let spot = spot(strip, turn, pieces, tile);
            let row = at.first + spot.row;
            let mut share = 0.0f32;
            if row < at.end {
                let slot = comptime!(2 * (strip % 2 * turns + turn));
                share = swiglu_backward::<E, Four>(
                    pre,
                    activation,
                    row,
                    first + spot.piece * 4,
                    inner,
                    Vector::cast_from(Vector::<E, Four>::reinterpret(kept[slot])),
                    Vector::cast_from(Vector::<E, Four>::reinterpret(kept[comptime!(slot + 1)])),
                    weights[row],
                    Vector::<f32, Four>::reinterpret(memory[spot.from]),
                );
            }
            memory[spot.from] = Piece::new(u32::reinterpret(share));
        }
        sync_owners(tile);
        // A fixed order of summation: the same bits every run.
        #[unroll]
        for turn in 0..comptime!(tile.m().div_ceil(tile.owners())) {
            let inside = owner(tile) + comptime!(turn * tile.owners());
            let row = at.first + part_row(tile) + comptime!(strip * tile.m()) + inside;
            if inside < comptime!(tile.m()) && row < at.end {
                let start = strip_start(tile) + inside * comptime!(tile.strip_stride());
                let mut sum = 0.0f32;
                #[unroll]
                for part in 0..pieces {
                    sum += f32::reinterpret(memory[start + part].extract(0usize));
                }
                let share = at.column_tile * comptime!(tile.across()) + part_column(tile);
                shares[share * rows + row] = sum;
            }
        }
    }
}

/// Shares that [`swiglu_rows_backward`] splits a weight's gradient into.
pub(crate) fn share_count(tier: Tier, inner: usize) -> usize {
    let tiles = inner.div_ceil(tier.columns());
    match tier {
        Tier::Plain(_) => tiles,
        Tier::Cooperative(tile) => tile.across() * tiles,
    }
}

/// From the output's gradient `dy` (rows gathered) through `down` (stacked `[hidden, inner]`) and
/// SwiGLU. `pre` `[rows, 2 · inner]` is replaced by its gradient; `activation` `[rows, inner]`
/// gets the activation times the row's weight; `shares` `[share_count, rows]` get parts of the
/// gradient of the row's weight, whose sum over the first axis it is.
pub(crate) fn swiglu_rows_backward(
    groups: &Groups,
    tier: Tier,
    dy: &CubeTensor,
    a_access: Access,
    down: &Stacked,
    weights: &CubeTensor,
    pre: &CubeTensor,
    activation: &CubeTensor,
    shares: &CubeTensor,
) {
    let (depth, inner) = (down.rows, down.columns);
    let cubes = groups.tile_count * inner.div_ceil(tier.columns());
    if cubes == 0 {
        return;
    }
    // SAFETY: the kernels check rows against their group's end and columns against the width.
    unsafe {
        match tier {
            Tier::Plain(plain) => {
                let lanes = lanes(&[depth, inner]);
                launch!(backward_plain(
                    &dy.client,
                    grid(cubes),
                    CubeDim::new_1d(plain.units() as u32),
                    lanes,
                    arg(dy, lanes),
                    arg(&down.buffer, lanes),
                    arg(&groups.tokens, 1),
                    arg(&groups.tiles, 1),
                    arg(weights, 1),
                    arg(pre, lanes),
                    arg(activation, lanes),
                    arg(shares, 1),
                    groups.tile_count,
                    groups.first,
                    groups.count,
                    depth,
                    inner,
                    groups.rows,
                    a_access,
                    plain,
                    [element(dy), element(&down.buffer), element(pre)],
                ));
            }
            Tier::Cooperative(tile) => launch!(backward_cooperative(
                &dy.client,
                grid(cubes),
                CubeDim::new_2d(tile.subgroup as u32, tile.subgroups as u32),
                arg_pieces(dy),
                arg_pieces(&down.buffer),
                arg(&groups.tokens, 1),
                arg(&groups.tiles, 1),
                arg(weights, 1),
                arg(pre, 4),
                arg(activation, 4),
                arg(shares, 1),
                groups.tile_count,
                groups.first,
                groups.count,
                depth,
                inner,
                groups.rows,
                a_access,
                tile,
                element(dy),
            )),
        }
    }
}
