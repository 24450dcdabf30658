//! The products with what follows each, one kernel a tier, and the host code that launches them.

use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::cooperative::{self, Piece, SCRATCH_STRIDE};
use super::epilogue::{read, swiglu, swiglu_slopes, write, write_sum};
use super::plain;
use super::{Access, Four, Groups, Panel, Tier};
use crate::convert::element;
use crate::gpu::{arg, grid};

/// A matrix with one block a group: `[groups, rows, columns]` flattened.
#[derive(Clone, Debug)]
pub(crate) struct Stacked {
    /// The buffer.
    pub buffer: CubeTensor,
    /// Rows of a block.
    pub rows: usize,
    /// Columns of a block.
    pub columns: usize,
}

/// Elements a vector holds, for rows of these widths.
fn lanes(widths: &[usize]) -> usize {
    if widths.iter().all(|width| width % 4 == 0) {
        4
    } else {
        1
    }
}

/// The tile of rows that a workgroup works on.
#[derive(CubeType, Clone, Copy)]
struct Work {
    group: usize,
    first: usize,
    end: usize,
    column_tile: usize,
}

#[cube]
fn work(tiles: &[u32], tile_count: usize, column_tiles: usize, count: usize) -> Work {
    let position = CUBE_POS;
    let tile = position / column_tiles;
    let mut group = count;
    let mut first = 0usize;
    let mut end = 0usize;
    if tile < tile_count {
        group = tiles[3 * tile] as usize;
        first = tiles[3 * tile + 1] as usize;
        end = tiles[3 * tile + 2] as usize;
    }
    Work {
        group,
        first,
        end,
        column_tile: position % column_tiles,
    }
}

// ---------------------------------------------------------------------------------------------
// rows · matrix → rows

#[cube(launch_unchecked)]
fn rows_plain<A: Float, B: Float, O: Float, N: Size>(
    a: &[Vector<A, N>],
    b: &[Vector<B, N>],
    tokens: &[u32],
    tiles: &[u32],
    out: &mut [Vector<O, N>],
    tile_count: usize,
    groups: usize,
    depth: usize,
    width: usize,
    #[comptime] a_access: Access,
    #[comptime] b_access: Access,
    #[comptime] edge: usize,
    #[define(A, B, O)] _types: [ElemType; 3],
) {
    let at = work(tiles, tile_count, width.div_ceil(edge), groups);
    if at.group == groups {
        terminate!();
    }
    let column = at.column_tile * edge;
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
        a, b, tokens, &left, &right, 0usize, depth, a_access, b_access, edge,
    );
    #[unroll]
    for i in 0..8usize {
        let row = at.first + plain::row_of(i, edge);
        if row < at.end {
            #[unroll]
            for j in 0..2usize {
                let to = column + plain::column_of(j, edge);
                write::<O, N>(out, row, to, width, sums[comptime!(i * 2 + j)]);
            }
        }
    }
}

#[cube(launch_unchecked)]
fn rows_cooperative<E: Float, O: Float>(
    a: &[Piece],
    b: &[Piece],
    tokens: &[u32],
    tiles: &[u32],
    out: &mut [Vector<O, Four>],
    tile_count: usize,
    groups: usize,
    depth: usize,
    width: usize,
    #[comptime] a_access: Access,
    #[comptime] b_access: Access,
    #[comptime] subgroup: usize,
    #[define(E, O)] _types: [ElemType; 2],
) {
    let at = work(tiles, tile_count, width.div_ceil(cooperative::EDGE), groups);
    if at.group == groups {
        terminate!();
    }
    let column = at.column_tile * cooperative::EDGE;
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
    let mut memory =
        Shared::<[Piece]>::new_slice(comptime!(cooperative::memory_size(a_access, b_access)));
    let sums = cooperative::product::<E>(
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
        subgroup,
    );
    let start = UNIT_POS_Y as usize * comptime!(16 * SCRATCH_STRIDE);
    #[unroll]
    for i in 0..cooperative::MATRICES {
        cooperative::spill(&mut memory, start, &sums, i);
        #[unroll]
        for turn in 0..comptime!(256 / subgroup) {
            let index = UNIT_POS_X as usize + comptime!(turn * subgroup);
            let row = at.first + cooperative::part_row() + comptime!(i * 16) + index / 16;
            let to = column + cooperative::part_column() * cooperative::PART + (index % 16) * 4;
            if row < at.end {
                let values = Vector::<f32, Four>::reinterpret(
                    memory[start + (index / 16) * SCRATCH_STRIDE + index % 16],
                );
                write::<O, Four>(out, row, to, width, values);
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
    let cubes = groups.tile_count * width.div_ceil(tier.edge());
    if cubes == 0 {
        return;
    }
    // SAFETY: the kernels check rows against their group's end and columns against the width.
    unsafe {
        match tier {
            Tier::Plain { edge } => {
                let lanes = lanes(&[depth, width]);
                rows_plain::launch_unchecked(
                    &a.client,
                    grid(cubes),
                    CubeDim::new_1d((edge * edge / 64) as u32),
                    lanes,
                    arg(a, lanes),
                    arg(&b.buffer, lanes),
                    arg(&groups.tokens, 1),
                    arg(&groups.tiles, 1),
                    arg(out, lanes),
                    groups.tile_count,
                    groups.count,
                    depth,
                    width,
                    a_access,
                    b_access,
                    edge,
                    [element(a), element(&b.buffer), element(out)],
                );
            }
            Tier::Cooperative { subgroup } => rows_cooperative::launch_unchecked(
                &a.client,
                grid(cubes),
                CubeDim::new_2d(subgroup as u32, 4),
                arg_pieces(a),
                arg_pieces(&b.buffer),
                arg(&groups.tokens, 1),
                arg(&groups.tiles, 1),
                arg(out, 4),
                groups.tile_count,
                groups.count,
                depth,
                width,
                a_access,
                b_access,
                subgroup,
                [element(a), element(out)],
            ),
        }
    }
}

/// A tensor of 16-bit elements in pieces of 16 bytes.
fn arg_pieces(tensor: &CubeTensor) -> BufferArg {
    arg(tensor, 8)
}

// ---------------------------------------------------------------------------------------------
// rows · [gate; up] → pre-activation and activation

#[cube(launch_unchecked)]
fn swiglu_plain<A: Float, B: Float, O: Float, N: Size>(
    x: &[Vector<A, N>],
    gate_up: &[Vector<B, N>],
    tokens: &[u32],
    tiles: &[u32],
    pre: &mut [Vector<O, N>],
    activation: &mut [Vector<O, N>],
    tile_count: usize,
    groups: usize,
    depth: usize,
    inner: usize,
    #[comptime] a_access: Access,
    #[comptime] edge: usize,
    #[define(A, B, O)] _types: [ElemType; 3],
) {
    let half = comptime!(edge / 2);
    let at = work(tiles, tile_count, inner.div_ceil(half), groups);
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
        edge,
    );
    #[unroll]
    for i in 0..8usize {
        let row = at.first + plain::row_of(i, edge);
        if row < at.end {
            let to = column + plain::column_of(0usize, edge);
            let gate = sums[comptime!(i * 2)];
            let up = sums[comptime!(i * 2 + 1)];
            write_halves::<O, N>(pre, row, to, inner, gate, up);
            write::<O, N>(activation, row, to, inner, swiglu(gate, up));
        }
    }
}

/// Writes gate and up columns of a row `[2 · inner]`.
#[cube]
fn write_halves<O: Float, N: Size>(
    out: &mut [Vector<O, N>],
    row: usize,
    column: usize,
    inner: usize,
    gate: Vector<f32, Four>,
    up: Vector<f32, Four>,
) {
    // Two rows of width `inner` for one row of the tile.
    write::<O, N>(out, 2 * row, column, inner, gate);
    write::<O, N>(out, 2 * row + 1, column, inner, up);
}

#[cube(launch_unchecked)]
fn swiglu_cooperative<E: Float>(
    x: &[Piece],
    gate_up: &[Piece],
    tokens: &[u32],
    tiles: &[u32],
    pre: &mut [Vector<E, Four>],
    activation: &mut [Vector<E, Four>],
    tile_count: usize,
    groups: usize,
    depth: usize,
    inner: usize,
    #[comptime] a_access: Access,
    #[comptime] subgroup: usize,
    #[define(E)] _type: ElemType,
) {
    let half = comptime!(cooperative::EDGE / 2);
    let at = work(tiles, tile_count, inner.div_ceil(half), groups);
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
    let b_access = comptime!(Access::ROWS.halves());
    let mut memory =
        Shared::<[Piece]>::new_slice(comptime!(cooperative::memory_size(a_access, b_access)));
    let sums = cooperative::product::<E>(
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
        subgroup,
    );
    let start = UNIT_POS_Y as usize * comptime!(16 * SCRATCH_STRIDE);
    #[unroll]
    for i in 0..cooperative::MATRICES {
        cooperative::spill(&mut memory, start, &sums, i);
        #[unroll]
        for turn in 0..comptime!(128 / subgroup) {
            let index = UNIT_POS_X as usize + comptime!(turn * subgroup);
            let inside = index / 8;
            let row = at.first + cooperative::part_row() + comptime!(i * 16) + inside;
            let to = column + cooperative::part_column() * comptime!(half / 2) + (index % 8) * 4;
            if row < at.end {
                let from = start + inside * SCRATCH_STRIDE + index % 8;
                let gate = Vector::<f32, Four>::reinterpret(memory[from]);
                let up = Vector::<f32, Four>::reinterpret(memory[from + 8]);
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
    let cubes = groups.tile_count * inner.div_ceil(tier.edge() / 2);
    if cubes == 0 {
        return;
    }
    // SAFETY: the kernels check rows against their group's end and columns against the width.
    unsafe {
        match tier {
            Tier::Plain { edge } => {
                let lanes = lanes(&[depth, inner]);
                swiglu_plain::launch_unchecked(
                    &x.client,
                    grid(cubes),
                    CubeDim::new_1d((edge * edge / 64) as u32),
                    lanes,
                    arg(x, lanes),
                    arg(&gate_up.buffer, lanes),
                    arg(&groups.tokens, 1),
                    arg(&groups.tiles, 1),
                    arg(pre, lanes),
                    arg(activation, lanes),
                    groups.tile_count,
                    groups.count,
                    depth,
                    inner,
                    a_access,
                    edge,
                    [element(x), element(&gate_up.buffer), element(pre)],
                );
            }
            Tier::Cooperative { subgroup } => swiglu_cooperative::launch_unchecked(
                &x.client,
                grid(cubes),
                CubeDim::new_2d(subgroup as u32, 4),
                arg_pieces(x),
                arg_pieces(&gate_up.buffer),
                arg(&groups.tokens, 1),
                arg(&groups.tiles, 1),
                arg(pre, 4),
                arg(activation, 4),
                groups.tile_count,
                groups.count,
                depth,
                inner,
                a_access,
                subgroup,
                element(x),
            ),
        }
    }
}

// ---------------------------------------------------------------------------------------------
// rows of the output's gradient · down → gradients of the pre-activation

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

#[cube(launch_unchecked)]
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
    groups: usize,
    depth: usize,
    inner: usize,
    rows: usize,
    #[comptime] a_access: Access,
    #[comptime] edge: usize,
    #[define(A, B, O)] _types: [ElemType; 3],
) {
    let at = work(tiles, tile_count, inner.div_ceil(edge), groups);
    if at.group == groups {
        terminate!();
    }
    let column = at.column_tile * edge;
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
        edge,
    );
    let across = comptime!(edge / 8);
    let mut parts = Shared::<[f32]>::new_slice(comptime!(edge * edge / 8));
    #[unroll]
    for i in 0..8usize {
        let inside = plain::row_of(i, edge);
        let row = at.first + inside;
        let mut share = 0.0f32;
        if row < at.end {
            #[unroll]
            for j in 0..2usize {
                let to = column + plain::column_of(j, edge);
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
        parts[inside * across + UNIT_POS as usize % across] = share;
    }
    sync_cube();
    // A fixed order of summation: the same bits every run.
    let units = comptime!(edge * edge / 64);
    #[unroll]
    for turn in 0..comptime!(edge.div_ceil(units)) {
        let inside = UNIT_POS as usize + comptime!(turn * units);
        let row = at.first + inside;
        if inside < edge && row < at.end {
            let mut sum = 0.0f32;
            #[unroll]
            for part in 0..across {
                sum += parts[inside * across + part];
            }
            shares[at.column_tile * rows + row] = sum;
        }
    }
}

/// Reads the unit's gates and ups of strip `i` of its subgroup's part into half `i % 2` of `kept`,
/// a gate and its up side by side.
#[cube]
fn read_strip<E: Float>(
    pre: &[Vector<E, Four>],
    kept: &mut Array<Vector<E, Four>>,
    at: &Work,
    column: usize,
    inner: usize,
    #[comptime] i: usize,
    #[comptime] subgroup: usize,
) {
    let first = at.first + cooperative::part_row() + comptime!(i * 16);
    let turns = comptime!(256 / subgroup);
    #[unroll]
    for turn in 0..turns {
        let index = UNIT_POS_X as usize + comptime!(turn * subgroup);
        let row = first + index / 16;
        let to = column + cooperative::part_column() * cooperative::PART + (index % 16) * 4;
        let slot = comptime!(2 * (i % 2 * turns + turn));
        let mut gate = Vector::<E, Four>::new(E::from_int(0));
        let mut up = Vector::<E, Four>::new(E::from_int(0));
        if row < at.end && to < inner {
            gate = pre[(2 * row * inner + to) / 4];
            up = pre[((2 * row + 1) * inner + to) / 4];
        }
        kept[slot] = gate;
        kept[comptime!(slot + 1)] = up;
    }
}

#[cube(launch_unchecked)]
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
    groups: usize,
    depth: usize,
    inner: usize,
    rows: usize,
    #[comptime] a_access: Access,
    #[comptime] subgroup: usize,
    #[define(E)] _type: ElemType,
) {
    let at = work(tiles, tile_count, inner.div_ceil(cooperative::EDGE), groups);
    if at.group == groups {
        terminate!();
    }
    let column = at.column_tile * cooperative::EDGE;
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
    let mut memory = Shared::<[Piece]>::new_slice(comptime!(cooperative::memory_size(
        a_access,
        Access::K_ROWS
    )));
    let sums = cooperative::product::<E>(
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
        subgroup,
    );
    let start = UNIT_POS_Y as usize * comptime!(16 * SCRATCH_STRIDE);
    let turns = comptime!(256 / subgroup);
    // Two strips of 16 rows of gates and ups: the next strip is read before this one's gradients
    // go where they were. Read one by one, each read would wait for the write before it, since
    // both are of one buffer.
    let mut kept = Array::<Vector<E, Four>>::new(comptime!(4 * turns));
    read_strip::<E>(&*pre, &mut kept, &at, column, inner, 0usize, subgroup);
    #[unroll]
    for i in 0..cooperative::MATRICES {
        if comptime!(i + 1 < cooperative::MATRICES) {
            read_strip::<E>(
                &*pre,
                &mut kept,
                &at,
                column,
                inner,
                comptime!(i + 1),
                subgroup,
            );
        }
        cooperative::spill(&mut memory, start, &sums, i);
        let first = at.first + cooperative::part_row() + comptime!(i * 16);
        #[unroll]
        for turn in 0..turns {
            let index = UNIT_POS_X as usize + comptime!(turn * subgroup);
            let row = first + index / 16;
            let to = column + cooperative::part_column() * cooperative::PART + (index % 16) * 4;
            let from = start + (index / 16) * SCRATCH_STRIDE + index % 16;
            let mut share = 0.0f32;
            if row < at.end {
                let slot = comptime!(2 * (i % 2 * turns + turn));
                share = swiglu_backward::<E, Four>(
                    pre,
                    activation,
                    row,
                    to,
                    inner,
                    Vector::cast_from(kept[slot]),
                    Vector::cast_from(kept[comptime!(slot + 1)]),
                    weights[row],
                    Vector::<f32, Four>::reinterpret(memory[from]),
                );
            }
            memory[from] = Piece::new(u32::reinterpret(share));
        }
        sync_plane();
        // A fixed order of summation: the same bits every run.
        if UNIT_POS_X < 16u32 {
            let row = first + UNIT_POS_X as usize;
            if row < at.end {
                let mut sum = 0.0f32;
                #[unroll]
                for part in 0..16usize {
                    let piece = memory[start + UNIT_POS_X as usize * SCRATCH_STRIDE + part];
                    sum += f32::reinterpret(piece.extract(0usize));
                }
                shares[(2 * at.column_tile + cooperative::part_column()) * rows + row] = sum;
            }
        }
    }
}

/// Shares that [`swiglu_rows_backward`] splits a weight's gradient into.
pub(crate) fn share_count(tier: Tier, inner: usize) -> usize {
    let tiles = inner.div_ceil(tier.edge());
    match tier {
        Tier::Plain { .. } => tiles,
        Tier::Cooperative { .. } => 2 * tiles,
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
    let cubes = groups.tile_count * inner.div_ceil(tier.edge());
    if cubes == 0 {
        return;
    }
    // SAFETY: the kernels check rows against their group's end and columns against the width.
    unsafe {
        match tier {
            Tier::Plain { edge } => {
                let lanes = lanes(&[depth, inner]);
                backward_plain::launch_unchecked(
                    &dy.client,
                    grid(cubes),
                    CubeDim::new_1d((edge * edge / 64) as u32),
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
                    groups.count,
                    depth,
                    inner,
                    groups.rows,
                    a_access,
                    edge,
                    [element(dy), element(&down.buffer), element(pre)],
                );
            }
            Tier::Cooperative { subgroup } => backward_cooperative::launch_unchecked(
                &dy.client,
                grid(cubes),
                CubeDim::new_2d(subgroup as u32, 4),
                arg_pieces(dy),
                arg_pieces(&down.buffer),
                arg(&groups.tokens, 1),
                arg(&groups.tiles, 1),
                arg(weights, 1),
                arg(pre, 4),
                arg(activation, 4),
                arg(shares, 1),
                groups.tile_count,
                groups.count,
                depth,
                inner,
                groups.rows,
                a_access,
                subgroup,
                element(dy),
            ),
        }
    }
}

// ---------------------------------------------------------------------------------------------
// rowsᵀ · rows → a matrix a group

#[cube(launch_unchecked)]
fn gradient_plain<A: Float, B: Float, N: Size>(
    a: &[Vector<A, N>],
    b: &[Vector<B, N>],
    tokens: &[u32],
    ranges: &[u32],
    out: &mut [Vector<f32, N>],
    groups: usize,
    height: usize,
    a_stride: usize,
    width: usize,
    #[comptime] a_access: Access,
    #[comptime] b_access: Access,
    #[comptime] accumulate: bool,
    #[comptime] edge: usize,
    #[define(A, B)] _types: [ElemType; 2],
) {
    let columns = width.div_ceil(edge);
    let tiles = height.div_ceil(edge) * columns;
    let group = CUBE_POS / tiles;
    if group >= groups {
        terminate!();
    }
    let first = (CUBE_POS % tiles / columns) * edge;
    let column = (CUBE_POS % columns) * edge;
    let mut left = Panel {
        base: 0usize,
        stride: a_stride,
        first,
        end: height,
        half: 0usize,
    };
    if comptime!(a_access.k_rows) {
        left.end = a_stride;
    }
    let right = Panel {
        base: 0usize,
        stride: width,
        first: column,
        end: width,
        half: 0usize,
    };
    let sums = plain::product::<A, B, N, N>(
        a,
        b,
        tokens,
        &left,
        &right,
        ranges[2 * group] as usize,
        ranges[2 * group + 1] as usize,
        a_access,
        b_access,
        edge,
    );
    #[unroll]
    for i in 0..8usize {
        let row = first + plain::row_of(i, edge);
        if row < height {
            #[unroll]
            for j in 0..2usize {
                write_sum::<N>(
                    out,
                    group * height * width,
                    row,
                    column + plain::column_of(j, edge),
                    width,
                    sums[comptime!(i * 2 + j)],
                    accumulate,
                );
            }
        }
    }
}

#[cube(launch_unchecked)]
fn gradient_cooperative<E: Float>(
    a: &[Piece],
    b: &[Piece],
    tokens: &[u32],
    ranges: &[u32],
    out: &mut [Vector<f32, Four>],
    groups: usize,
    height: usize,
    a_stride: usize,
    width: usize,
    #[comptime] a_access: Access,
    #[comptime] b_access: Access,
    #[comptime] accumulate: bool,
    #[comptime] subgroup: usize,
    #[define(E)] _type: ElemType,
) {
    let edge = comptime!(cooperative::EDGE);
    let columns = width.div_ceil(edge);
    let tiles = height.div_ceil(edge) * columns;
    let group = CUBE_POS / tiles;
    if group >= groups {
        terminate!();
    }
    let first = (CUBE_POS % tiles / columns) * edge;
    let column = (CUBE_POS % columns) * edge;
    let mut left = Panel {
        base: 0usize,
        stride: a_stride,
        first,
        end: height,
        half: 0usize,
    };
    if comptime!(a_access.k_rows) {
        left.end = a_stride;
    }
    let right = Panel {
        base: 0usize,
        stride: width,
        first: column,
        end: width,
        half: 0usize,
    };
    let mut memory =
        Shared::<[Piece]>::new_slice(comptime!(cooperative::memory_size(a_access, b_access)));
    let sums = cooperative::product::<E>(
        &mut memory,
        a,
        b,
        tokens,
        &left,
        &right,
        ranges[2 * group] as usize,
        ranges[2 * group + 1] as usize,
        a_access,
        b_access,
        subgroup,
    );
    let start = UNIT_POS_Y as usize * comptime!(16 * SCRATCH_STRIDE);
    #[unroll]
    for i in 0..cooperative::MATRICES {
        cooperative::spill(&mut memory, start, &sums, i);
        #[unroll]
        for turn in 0..comptime!(256 / subgroup) {
            let index = UNIT_POS_X as usize + comptime!(turn * subgroup);
            let row = first + cooperative::part_row() + comptime!(i * 16) + index / 16;
            let to = column + cooperative::part_column() * cooperative::PART + (index % 16) * 4;
            if row < height {
                let values = Vector::<f32, Four>::reinterpret(
                    memory[start + (index / 16) * SCRATCH_STRIDE + index % 16],
                );
                write_sum::<Four>(
                    out,
                    group * height * width,
                    row,
                    to,
                    width,
                    values,
                    accumulate,
                );
            }
        }
    }
}

/// `out[group] = Σ a[row]ᵀ b[row]` over the group's rows, f32 `[groups, height, width]`; added to
/// what is there with `accumulate`. Groups without rows get zeros. `a_stride`: elements from row
/// to row of `a`, at least `height`; what lies between must be finite.
pub(crate) fn gradient(
    groups: &Groups,
    tier: Tier,
    a: &CubeTensor,
    a_access: Access,
    height: usize,
    a_stride: usize,
    b: &CubeTensor,
    b_access: Access,
    width: usize,
    out: &CubeTensor,
    accumulate: bool,
) {
    let edge = tier.edge();
    let cubes = groups.count * height.div_ceil(edge) * width.div_ceil(edge);
    // SAFETY: the kernels check the sum against the group's range and the tile against the shape.
    unsafe {
        match tier {
            Tier::Plain { edge } => {
                let lanes = lanes(&[a_stride, width]);
                gradient_plain::launch_unchecked(
                    &a.client,
                    grid(cubes),
                    CubeDim::new_1d((edge * edge / 64) as u32),
                    lanes,
                    arg(a, lanes),
                    arg(b, lanes),
                    arg(&groups.tokens, 1),
                    arg(&groups.ranges, 1),
                    arg(out, lanes),
                    groups.count,
                    height,
                    a_stride,
                    width,
                    a_access,
                    b_access,
                    accumulate,
                    edge,
                    [element(a), element(b)],
                );
            }
            Tier::Cooperative { subgroup } => gradient_cooperative::launch_unchecked(
                &a.client,
                grid(cubes),
                CubeDim::new_2d(subgroup as u32, 4),
                arg_pieces(a),
                arg_pieces(b),
                arg(&groups.tokens, 1),
                arg(&groups.ranges, 1),
                arg(out, 4),
                groups.count,
                height,
                a_stride,
                width,
                a_access,
                b_access,
                accumulate,
                subgroup,
                element(a),
            ),
        }
    }
}
