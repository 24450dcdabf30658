//! Launches of the attention kernels: a plan is a function of shape, type and device alone.

use burn::backend::{DType, TensorMetadata};
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::backend::Rule;
use super::cooperative::Frame;
use super::span::SpanLaunch;
use super::tier::{Tier, Tile, subgroup};
use super::{cooperative, plain, prepare};
use crate::convert::{convert_primitive, element};
use crate::gpu::{arg, contiguous, empty, grid, launch};
use crate::profile::stage;

/// The operands of a pass, contiguous, and their sizes.
pub(super) struct Operands {
    query: CubeTensor,
    key: CubeTensor,
    value: CubeTensor,
    starts: CubeTensor,
    rule: Rule,
    batch: usize,
    heads: usize,
    groups: usize,
    time: usize,
    length: usize,
    width: usize,
    value_width: usize,
}

/// Elements of a 16-byte piece.
const PIECE: usize = 8;

impl Operands {
    pub(super) fn new(
        query: CubeTensor,
        key: CubeTensor,
        value: CubeTensor,
        starts: CubeTensor,
        rule: Rule,
    ) -> Self {
        let (query, key, value) = (contiguous(query), contiguous(key), contiguous(value));
        let starts = contiguous(starts);
        let shape = query.shape();
        let [batch, heads, time, width] = [shape[0], shape[1], shape[2], shape[3]];
        let shape = value.shape();
        let [groups, length, value_width] = [shape[1], shape[2], shape[3]];
        Self {
            query,
            key,
            value,
            starts,
            rule,
            batch,
            heads,
            groups,
            time,
            length,
            width,
            value_width,
        }
    }

    fn span(&self) -> SpanLaunch {
        let one_for_all = !self.rule.documents || self.starts.shape()[0] == 1;
        SpanLaunch::new(
            self.batch as u32,
            self.heads as u32,
            self.groups as u32,
            self.time as u32,
            self.length as u32,
            self.rule.window,
            if one_for_all { 0 } else { self.time as u32 },
        )
    }

    fn widths(&self) -> [usize; 2] {
        [self.width, self.value_width]
    }

    /// Operations of `products` products between all queries and the keys that they see, without
    /// windows and documents.
    fn operations(&self, products: usize) -> f64 {
        let past = (self.length - self.time) as f64;
        let seen = self.time as f64 * (past + (self.time as f64 + 1.0) / 2.0);
        let width = (self.width + self.value_width) as f64 / 2.0;
        2.0 * products as f64 * (self.batch * self.heads) as f64 * seen * width
    }

    /// Workgroups for `rows` rows of each of `heads` heads, `each` a workgroup.
    fn cubes(&self, heads: usize, rows: usize, each: usize) -> CubeCount {
        grid(self.batch * heads * rows.div_ceil(each))
    }
}

/// Units of a cooperative workgroup.
fn dim(tile: Tile, subgroup: usize) -> CubeDim {
    CubeDim::new_2d(subgroup as u32, tile.subgroups as u32)
}

/// Steps of 32 columns.
fn columns(width: usize) -> usize {
    width.div_ceil(32)
}

/// A tensor that stands for document starts where no kernel reads them.
pub(super) fn no_starts(like: &CubeTensor) -> CubeTensor {
    empty(like, [1, 1], DType::I32)
}

/// Result `[B, T, heads, V]` and log-sum-exps `[B, heads, T]`.
pub(super) fn forward(operands: &Operands) -> (CubeTensor, CubeTensor) {
    let o = operands;
    let y = empty(
        &o.query,
        [o.batch, o.time, o.heads, o.value_width],
        DType::F32,
    );
    let log_sums = empty(&o.query, [o.batch, o.heads, o.time], DType::F32);
    // SAFETY: the kernels read and write rows below the counts and columns below the widths that
    // these shapes have; a workgroup past the last tile returns at once.
    stage(&o.query, "attention", o.operations(2), || unsafe {
        match o.rule.tier {
            Tier::Plain => launch!(plain::attend(
                &o.query.client,
                o.cubes(o.heads, o.time, plain::EDGE),
                CubeDim::new_1d(plain::UNITS as u32),
                arg(&o.query, 4),
                arg(&o.key, 4),
                arg(&o.value, 4),
                arg(&o.starts, 1),
                arg(&y, 4),
                arg(&log_sums, 1),
                o.span(),
                o.width / 4,
                o.value_width / 4,
                o.rule.scale,
                columns(o.value_width),
                o.rule.documents,
                element(&o.query),
            )),
            Tier::Cooperative(tiles) => {
                let tile = tiles.forward;
                let subgroup = subgroup(&o.query);
                let frame = Frame {
                    held: tiles.held,
                    ..tile.frame(subgroup, o.widths(), o.rule.documents)
                };
                launch!(cooperative::attend(
                    &o.query.client,
                    o.cubes(o.heads, o.time, frame.rows()),
                    dim(tile, subgroup),
                    arg(&o.query, PIECE),
                    arg(&o.key, PIECE),
                    arg(&o.value, PIECE),
                    arg(&o.starts, 1),
                    arg(&y, 4),
                    arg(&log_sums, 1),
                    o.span(),
                    o.width / PIECE,
                    o.value_width / PIECE,
                    o.rule.scale,
                    frame,
                    element(&o.query),
                ))
            }
        }
    });
    (y, log_sums)
}

/// Gradients of query, key and value.
pub(super) fn backward(
    dy: CubeTensor,
    y: CubeTensor,
    log_sums: &CubeTensor,
    operands: &Operands,
) -> (CubeTensor, CubeTensor, CubeTensor) {
    let o = operands;
    let (dy, inner) = prepared(dy, contiguous(y), o);
    let dquery = query_gradient(&dy, log_sums, &inner, o);
    let (dkey, dvalue) = key_gradients(&dy, log_sums, &inner, o);
    (dquery, dkey, dvalue)
}

/// `dy` in the operands' type, and Σ dy · y of each row `[B, heads, T]`.
fn prepared(dy: CubeTensor, y: CubeTensor, o: &Operands) -> (CubeTensor, CubeTensor) {
    let dy = convert_primitive(dy, o.query.dtype);
    let inner = empty(&o.query, [o.batch, o.heads, o.time], DType::F32);
    let rows = o.batch * o.time * o.heads;
    // SAFETY: the kernel reads and writes rows below `rows`.
    stage(&o.query, "attention: Σ dy · y", 0.0, || unsafe {
        launch!(prepare::prepare(
            &o.query.client,
            grid(rows.div_ceil(prepare::ROWS)),
            CubeDim::new_1d(prepare::UNITS as u32),
            arg(&dy, 4),
            arg(&y, 4),
            arg(&inner, 1),
            rows,
            o.time,
            o.heads,
            o.value_width / 4,
            element(&o.query),
        ));
    });
    (dy, inner)
}

fn query_gradient(
    dy: &CubeTensor,
    log_sums: &CubeTensor,
    inner: &CubeTensor,
    o: &Operands,
) -> CubeTensor {
    let dquery = empty(&o.query, [o.batch, o.heads, o.time, o.width], DType::F32);
    // SAFETY: as in `forward`.
    stage(
        &o.query,
        "gradient of queries",
        o.operations(3),
        || unsafe {
            match o.rule.tier {
                Tier::Plain => launch!(plain::dquery(
                    &o.query.client,
                    o.cubes(o.heads, o.time, plain::EDGE),
                    CubeDim::new_1d(plain::UNITS as u32),
                    arg(dy, 4),
                    arg(&o.query, 4),
                    arg(&o.key, 4),
                    arg(&o.value, 4),
                    arg(&o.starts, 1),
                    arg(log_sums, 1),
                    arg(inner, 1),
                    arg(&dquery, 4),
                    o.span(),
                    o.width / 4,
                    o.value_width / 4,
                    o.rule.scale,
                    columns(o.width),
                    o.rule.documents,
                    element(&o.query),
                )),
                Tier::Cooperative(tiles) => {
                    let tile = tiles.query;
                    let subgroup = subgroup(&o.query);
                    let frame = tile.frame(subgroup, o.widths(), o.rule.documents);
                    launch!(cooperative::dquery(
                        &o.query.client,
                        o.cubes(o.heads, o.time, frame.rows()),
                        dim(tile, subgroup),
                        arg(dy, PIECE),
                        arg(&o.query, PIECE),
                        arg(&o.key, PIECE),
                        arg(&o.value, PIECE),
                        arg(&o.starts, 1),
                        arg(log_sums, 1),
                        arg(inner, 1),
                        arg(&dquery, 4),
                        o.span(),
                        o.width / PIECE,
                        o.value_width / PIECE,
                        o.rule.scale,
                        frame,
                        element(&o.query),
                    ))
                }
            }
        },
    );
    dquery
}

fn key_gradients(
    dy: &CubeTensor,
    log_sums: &CubeTensor,
    inner: &CubeTensor,
    o: &Operands,
) -> (CubeTensor, CubeTensor) {
    let joint = match o.rule.tier {
        Tier::Plain => o.width + o.value_width <= 256,
        Tier::Cooperative(tiles) => tiles.joint,
    };
    let dkey = empty(&o.query, [o.batch, o.groups, o.length, o.width], DType::F32);
    let dvalue = empty(
        &o.query,
        [o.batch, o.groups, o.length, o.value_width],
        DType::F32,
    );
    let launches: &[(&'static str, usize, bool, bool)] = if joint {
        &[("gradients of keys and values", 4, true, true)]
    } else {
        &[
            ("gradient of values", 2, false, true),
            ("gradient of keys", 3, true, false),
        ]
    };
    for &(name, products, of_key, of_value) in launches {
        // SAFETY: as in `forward`.
        stage(&o.query, name, o.operations(products), || unsafe {
            match o.rule.tier {
                Tier::Plain => launch!(plain::dkey_dvalue(
                    &o.query.client,
                    o.cubes(o.groups, o.length, plain::EDGE),
                    CubeDim::new_1d(plain::UNITS as u32),
                    arg(dy, 4),
                    arg(&o.query, 4),
                    arg(&o.key, 4),
                    arg(&o.value, 4),
                    arg(&o.starts, 1),
                    arg(log_sums, 1),
                    arg(inner, 1),
                    arg(&dkey, 4),
                    arg(&dvalue, 4),
                    o.span(),
                    o.width / 4,
                    o.value_width / 4,
                    o.rule.scale,
                    if of_key { columns(o.width) } else { 0 },
                    if of_value { columns(o.value_width) } else { 0 },
                    o.rule.documents,
                    element(&o.query),
                )),
                Tier::Cooperative(tiles) => {
                    let tile = tiles.keys;
                    let subgroup = subgroup(&o.query);
                    let frame = tile.frame(subgroup, o.widths(), o.rule.documents);
                    launch!(cooperative::dkey_dvalue(
                        &o.query.client,
                        o.cubes(o.groups, o.length, frame.rows()),
                        dim(tile, subgroup),
                        arg(dy, PIECE),
                        arg(&o.query, PIECE),
                        arg(&o.key, PIECE),
                        arg(&o.value, PIECE),
                        arg(&o.starts, 1),
                        arg(log_sums, 1),
                        arg(inner, 1),
                        arg(&dkey, 4),
                        arg(&dvalue, 4),
                        o.span(),
                        o.width / PIECE,
                        o.value_width / PIECE,
                        o.rule.scale,
                        of_key,
                        of_value,
                        frame,
                        element(&o.query),
                    ))
                }
            }
        });
    }
    (dkey, dvalue)
}
