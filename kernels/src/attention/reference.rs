//! Attention in plain tensor operations, a block of queries at a time against the keys that they may
//! see.

use burn::tensor::{Device, Int, Tensor};

use super::{HIDDEN, Visible};

/// Most queries of a block. Smaller ones compute less above the diagonal, larger ones multiply better.
/// 64 is a choice between the two, not the outcome of a measurement.
pub const BLOCK: usize = 64;

/// Bytes that scores may take at a time, a few buffers of them: what stays near the processor.
const SCORES: usize = 1 << 19;

/// Queries of a block in the forward pass, which takes their scores of all keys together; `heads`
/// counts those of all sequences.
fn queries_of(heads: usize, keys: usize) -> usize {
    (SCORES / (size_of::<f32>() * (heads * keys).max(1))).clamp(8, BLOCK)
}

/// Keys of a piece in the backward pass, which takes a block of [`BLOCK`] queries.
fn keys_of(heads: usize) -> usize {
    (SCORES / (size_of::<f32>() * BLOCK * heads.max(1))).max(BLOCK)
}

/// Bytes of the scores that a pass holds at a time, in one of a few buffers: of `queries` queries
/// against `keys` keys, with `heads` heads in all sequences together.
pub fn scores_bytes(heads: usize, queries: usize, keys: usize, backward: bool) -> usize {
    let (rows, columns) = match backward {
        true => (BLOCK, keys_of(heads).min(keys)),
        false => (queries_of(heads, keys), keys),
    };
    size_of::<f32>() * heads * rows.min(queries) * columns
}

/// Folds the query heads of a group into its rows: `[B, groups · n, T, w]` to
/// `[B, groups, n · T, w]`, so that keys and values are never repeated.
fn fold(x: Tensor<4>, groups: usize) -> Tensor<4> {
    let [batch, heads, time, width] = x.dims();
    x.reshape([batch, groups, heads / groups * time, width])
}

/// A block of queries, and the keys that any of them may see.
struct Block {
    /// Its first query.
    start: usize,
    /// Queries.
    rows: usize,
    /// Position of its first query among the keys.
    position: usize,
    /// The first key.
    begin: usize,
    /// Keys.
    keys: usize,
}

fn blocks(
    size: usize,
    time: usize,
    length: usize,
    visible: &Visible,
) -> impl Iterator<Item = Block> {
    let window = visible.window.unwrap_or(usize::MAX);
    (0..time).step_by(size).map(move |start| {
        let rows = size.min(time - start);
        let position = length - time + start;
        let begin = (position + 1).saturating_sub(window);
        Block {
            start,
            rows,
            position,
            begin,
            keys: position + rows - begin,
        }
    })
}

impl Block {
    /// The same queries against some of the keys after the others, at most `keys` at a time.
    fn pieces(&self, keys: usize) -> impl Iterator<Item = Self> {
        (0..self.keys).step_by(keys).map(move |from| Self {
            begin: self.begin + from,
            keys: keys.min(self.keys - from),
            ..*self
        })
    }

    /// Whether every query sees every key.
    fn is_open(&self, visible: &Visible) -> bool {
        visible.window.is_none()
            && visible.starts.is_none()
            && self.begin + self.keys <= self.position + 1
    }

    /// Its rows of a tensor `[.., .., time, ..]`.
    fn rows(&self, of: &Tensor<4>) -> Tensor<4> {
        of.clone().narrow(2, self.start, self.rows)
    }

    /// The keys or values that it may see.
    fn seen(&self, of: &Tensor<4>) -> Tensor<4> {
        of.clone().narrow(2, self.begin, self.keys)
    }

    /// What is added to its scores `[B or 1, 1, rows, keys]`: 0, or [`HIDDEN`].
    fn mask(&self, visible: &Visible, device: &Device) -> Tensor<4> {
        let batch = visible.starts.as_ref().map_or(1, |starts| starts.dims()[0]);
        let shape = [batch, 1, self.rows, self.keys];
        let range = |from: usize, count: usize| {
            Tensor::<1, Int>::arange(from as i64..(from + count) as i64, device)
        };
        let own = range(self.position, self.rows).reshape([1, 1, self.rows, 1]);
        let keys = range(self.begin, self.keys)
            .reshape([1, 1, 1, self.keys])
            .expand(shape);
        let mut hidden = keys.clone().greater(own.clone().expand(shape));
        if let Some(window) = visible.window {
            let last_hidden = own.sub_scalar(window as i64).expand(shape);
            hidden = hidden.bool_or(keys.clone().lower_equal(last_hidden));
        }
        if let Some(starts) = &visible.starts {
            let starts = starts.clone().narrow(1, self.start, self.rows);
            let starts = starts.reshape([batch, 1, self.rows, 1]).expand(shape);
            hidden = hidden.bool_or(keys.lower(starts));
        }
        hidden.float().mul_scalar(HIDDEN)
    }

    /// Its scores `[B, heads, rows, keys]`.
    fn scores(
        &self,
        query: &Tensor<4>,
        key: &Tensor<4>,
        visible: &Visible,
        scale: f64,
    ) -> Tensor<4> {
        let [batch, heads, _, _] = query.dims();
        let groups = key.dims()[1];
        let scores = fold(self.rows(query).mul_scalar(scale), groups)
            .matmul(self.seen(key).swap_dims(2, 3))
            .reshape([batch, heads, self.rows, self.keys]);
        match self.is_open(visible) {
            true => scores,
            false => scores.add(self.mask(visible, &query.device())),
        }
    }

    /// Adds a part to the rows of its keys.
    fn add(&self, sum: Tensor<4>, part: Tensor<4>) -> Tensor<4> {
        let [batch, groups, length, width] = sum.dims();
        if self.keys == length {
            return sum.add(part);
        }
        let added = self.seen(&sum).add(part);
        let keys = self.begin..self.begin + self.keys;
        sum.slice_assign([0..batch, 0..groups, keys, 0..width], added)
    }
}

/// Returns the result `[B, heads, T, V]` and the log-sum-exp of each row's scores
/// `[B, heads, T, 1]`.
pub fn forward(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    visible: &Visible,
    scale: f64,
) -> (Tensor<4>, Tensor<4>) {
    let [batch, heads, time, _] = query.dims();
    let [_, groups, length, value_width] = value.dims();
    let (mut outputs, mut log_sums) = (Vec::new(), Vec::new());
    let size = queries_of(batch * heads, length);
    for block in blocks(size, time, length, visible) {
        let scores = block.scores(&query, &key, visible, scale);
        let largest = scores.clone().max_dim(3);
        let weights = scores.sub(largest.clone()).exp();
        let total = weights.clone().sum_dim(3);
        let y = fold(weights, groups).matmul(block.seen(&value));
        let y = y.reshape([batch, heads, block.rows, value_width]);
        outputs.push(y.div(total.clone()));
        log_sums.push(largest.add(total.log()));
    }
    (Tensor::cat(outputs, 2), Tensor::cat(log_sums, 2))
}

/// What the backward pass needs besides the result's gradient.
#[derive(Clone, Debug)]
pub struct Kept {
    /// `[B, heads, T, D]`.
    pub query: Tensor<4>,
    /// `[B, groups, S, D]`.
    pub key: Tensor<4>,
    /// `[B, groups, S, V]`.
    pub value: Tensor<4>,
    /// The result `[B, heads, T, V]`.
    pub y: Tensor<4>,
    /// As [`forward`] gave them.
    pub log_sums: Tensor<4>,
}

/// Gradients of query, key and value from that of the result; those of key and value added to
/// `sums`, if given.
pub fn backward(
    dy: Tensor<4>,
    kept: Kept,
    sums: Option<(Tensor<4>, Tensor<4>)>,
    visible: &Visible,
    scale: f64,
) -> (Tensor<4>, Tensor<4>, Tensor<4>) {
    let Kept {
        query,
        key,
        value,
        y,
        log_sums,
    } = kept;
    let [batch, heads, time, width] = query.dims();
    let [_, groups, length, value_width] = value.dims();
    let device = query.device();
    let (mut dkey, mut dvalue) = match sums {
        // Copied, so that what is added goes where they lie, one row after another.
        Some((dkey, dvalue)) => (dkey.add_scalar(0.0), dvalue.add_scalar(0.0)),
        None => (
            Tensor::zeros([batch, groups, length, width], &device),
            Tensor::zeros([batch, groups, length, value_width], &device),
        ),
    };
    let mut dqueries = Vec::new();
    let inner = dy.clone().mul(y).sum_dim(3);
    for block in blocks(BLOCK, time, length, visible) {
        let mut dquery: Option<Tensor<4>> = None;
        let dy = fold(block.rows(&dy), groups);
        let folded = fold(block.rows(&query), groups);
        for piece in block.pieces(keys_of(batch * heads)) {
            let scores = piece.scores(&query, &key, visible, scale);
            let weights = scores.sub(piece.rows(&log_sums)).exp();
            let part = fold(weights.clone(), groups).swap_dims(2, 3);
            dvalue = piece.add(dvalue, part.matmul(dy.clone()));
            let dweights = dy
                .clone()
                .matmul(piece.seen(&value).swap_dims(2, 3))
                .reshape([batch, heads, piece.rows, piece.keys]);
            // Softmax backward: P ⊙ (dP − Σ P ⊙ dP), and that sum is Σ dy ⊙ y.
            let dscores = weights.mul(dweights.sub(piece.rows(&inner)));
            let dscores = fold(dscores.mul_scalar(scale), groups);
            let part = dscores.clone().matmul(piece.seen(&key));
            dquery = Some(match dquery {
                Some(sum) => sum.add(part),
                None => part,
            });
            dkey = piece.add(dkey, dscores.swap_dims(2, 3).matmul(folded.clone()));
        }
        let dquery = dquery.expect("a query sees itself");
        dqueries.push(dquery.reshape([batch, heads, block.rows, width]));
    }
    (Tensor::cat(dqueries, 2), dkey, dvalue)
}
