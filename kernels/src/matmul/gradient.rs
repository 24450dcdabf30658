//! Gradients of matrices: `out[group] = Σ a[row]ᵀ b[row]` over the group's rows.

use burn_cubecl::tensor::CubeTensor;
use cubecl::cmma::{self, MatrixScope};
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::cooperative::{self, Piece};
use super::epilogue::{read, write_sum};
use super::launch::{arg_pieces, lanes};
use super::strips::{part_column, spill, spot};
use super::tile::{Scope, Tile};
use super::{Access, Four, Groups, Panel, Plain, Tier, plain};
use crate::convert::element;
use crate::gpu::{arg, grid, launch};

#[cube(launch, launch_unchecked)]
fn gradient_plain<A: Float, B: Float, N: Size>(
    a: &[Vector<A, N>],
    b: &[Vector<B, N>],
    tokens: &[u32],
    ranges: &[u32],
    out: &mut [Vector<f32, N>],
    before: usize,
    groups: usize,
    height: usize,
    a_stride: usize,
    width: usize,
    #[comptime] a_access: Access,
    #[comptime] b_access: Access,
    #[comptime] accumulate: bool,
    #[comptime] plain: Plain,
    #[define(A, B)] _types: [ElemType; 2],
) {
    let columns = width.div_ceil(comptime!(plain.columns()));
    let tiles = height.div_ceil(comptime!(plain.rows())) * columns;
    if CUBE_POS >= groups * tiles {
        terminate!();
    }
    let mut group = CUBE_POS / tiles;
    let mut tile = CUBE_POS % tiles;
    if comptime!(!plain.in_memory()) {
        // A driver on a processor gives each thread a run of workgroups: so that all have work where
        // few groups have rows, a group's tiles are dealt out.
        group = CUBE_POS % groups;
        tile = CUBE_POS / groups;
    }
    if comptime!(accumulate) {
        // Nothing to add.
        if ranges[2 * (before + group)] == ranges[2 * (before + group) + 1] {
            terminate!();
        }
    }
    let first = (tile / columns) * comptime!(plain.rows());
    let column = (tile % columns) * comptime!(plain.columns());
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
        ranges[2 * (before + group)] as usize,
        ranges[2 * (before + group) + 1] as usize,
        a_access,
        b_access,
        plain,
    );
    #[unroll]
    for i in 0..comptime!(plain.unit_rows()) {
        let row = first + plain::row_of(i, plain);
        if row < height {
            #[unroll]
            for j in 0..2usize {
                write_sum::<N>(
                    out,
                    group * height * width,
                    row,
                    column + plain::column_of(j, plain),
                    width,
                    sums[comptime!(i * 2 + j)],
                    accumulate,
                );
            }
        }
    }
}

#[cube(launch, launch_unchecked)]
fn gradient_cooperative<E: Float>(
    a: &[Piece],
    b: &[Piece],
    tokens: &[u32],
    ranges: &[u32],
    out: &mut [Vector<f32, Four>],
    before: usize,
    groups: usize,
    height: usize,
    a_stride: usize,
    width: usize,
    #[comptime] a_access: Access,
    #[comptime] b_access: Access,
    #[comptime] accumulate: bool,
    #[comptime] tile: Tile,
    #[define(E)] _type: ElemType,
) {
    let columns = width.div_ceil(comptime!(tile.columns));
    let tiles = height.div_ceil(comptime!(tile.rows)) * columns;
    let group = CUBE_POS / tiles;
    if group >= groups {
        terminate!();
    }
    if comptime!(accumulate) {
        // Nothing is added to a group without rows.
        if ranges[2 * (before + group)] >= ranges[2 * (before + group) + 1] {
            terminate!();
        }
    }
    let first = (CUBE_POS % tiles / columns) * comptime!(tile.rows);
    let column = (CUBE_POS % columns) * comptime!(tile.columns);
    if comptime!(tile.scope == Scope::Subgroup) {
        gradient_tile::<E, cmma::Plane>(
            a, b, tokens, ranges, out, before, group, first, column, height, a_stride, width,
            a_access, b_access, accumulate, tile,
        );
    } else {
        gradient_tile::<E, cmma::Cube>(
            a, b, tokens, ranges, out, before, group, first, column, height, a_stride, width,
            a_access, b_access, accumulate, tile,
        );
    }
}

#[cube]
fn gradient_tile<E: Float, S: MatrixScope>(
    a: &[Piece],
    b: &[Piece],
    tokens: &[u32],
    ranges: &[u32],
    out: &mut [Vector<f32, Four>],
    before: usize,
    group: usize,
    first: usize,
    column: usize,
    height: usize,
    a_stride: usize,
    width: usize,
    #[comptime] a_access: Access,
    #[comptime] b_access: Access,
    #[comptime] accumulate: bool,
    #[comptime] tile: Tile,
) {
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
    let mut memory = Shared::<[Piece]>::new_slice(comptime!(tile.memory(a_access, b_access)));
    let sums = cooperative::product::<E, S>(
        &mut memory,
        a,
        b,
        tokens,
        &left,
        &right,
        ranges[2 * (before + group)] as usize,
        ranges[2 * (before + group) + 1] as usize,
        a_access,
        b_access,
        tile,
    );
    let from = column + part_column(tile) * comptime!(tile.part_columns());
    let pieces = comptime!(tile.part_columns() / 4);
    let turns = comptime!(tile.turns(pieces));
    #[unroll]
    for strip in 0..comptime!(tile.strips()) {
        // What is to be added to is read before the strip's first write: one by one, each read would
        // wait for the write before it, since both are of one buffer.
        let mut there = Array::<Vector<f32, Four>>::new(turns);
        if comptime!(accumulate) {
            #[unroll]
            for turn in 0..turns {
                let spot = spot(strip, turn, pieces, tile);
                let row = first + spot.row;
                let mut value = Vector::<f32, Four>::new(0.0f32);
                if row < height {
                    let start = group * height * width + row * width;
                    value = read::<f32, Four>(&*out, start, from + spot.piece * 4, width);
                }
                there[turn] = value;
            }
        }
        spill(&mut memory, &sums, strip, tile);
        #[unroll]
        for turn in 0..turns {
            let spot = spot(strip, turn, pieces, tile);
            let row = first + spot.row;
            if row < height {
                let mut values = Vector::<f32, Four>::reinterpret(memory[spot.from]);
                if comptime!(accumulate) {
                    values += there[turn];
                }
                write_sum::<Four>(
                    out,
                    group * height * width,
                    row,
                    from + spot.piece * 4,
                    width,
                    values,
                    false,
                );
            }
        }
    }
}

/// `out[group] = Σ a[row]ᵀ b[row]` over the rows of each group that `groups` takes, f32
/// `[groups, height, width]`; added to what is there with `accumulate`. Groups without rows get zeros,
/// or stay as they are. Rows of `a` are `a_stride`
/// apart in memory; what lies between `height` and the next row are finite numbers of no account.
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
    let tier = tier.fitting(height, width);
    let (rows, columns) = (tier.rows(), tier.columns());
    let cubes = groups.count * height.div_ceil(rows) * width.div_ceil(columns);
    // SAFETY: the kernels check the sum against the group's range and the tile against the shape.
    unsafe {
        match tier {
            Tier::Plain(plain) => {
                let lanes = lanes(&[a_stride, width]);
                launch!(gradient_plain(
                    &a.client,
                    grid(cubes),
                    CubeDim::new_1d(plain.units() as u32),
                    lanes,
                    arg(a, lanes),
                    arg(b, lanes),
                    arg(&groups.tokens, 1),
                    arg(&groups.ranges, 1),
                    arg(out, lanes),
                    groups.first,
                    groups.count,
                    height,
                    a_stride,
                    width,
                    a_access,
                    b_access,
                    accumulate,
                    plain,
                    [element(a), element(b)],
                ));
            }
            Tier::Cooperative(tile) => launch!(gradient_cooperative(
                &a.client,
                grid(cubes),
                CubeDim::new_2d(tile.subgroup as u32, tile.subgroups as u32),
                arg_pieces(a),
                arg_pieces(b),
                arg(&groups.tokens, 1),
                arg(&groups.ranges, 1),
                arg(out, 4),
                groups.first,
                groups.count,
                height,
                a_stride,
                width,
                a_access,
                b_access,
                accumulate,
                tile,
                element(a),
            )),
        }
    }
}
