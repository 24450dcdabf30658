//! How a pass is divided: a function of the shape, the tile and the room there is.

/// Workgroups that a product is split into where its result alone has fewer tiles: what keeps a
/// large card busy.
const WORKGROUPS: usize = 264;

/// The least of a sum that one workgroup of a split product takes.
const SPLIT: usize = 512;

/// What a plan depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// Tokens.
    pub tokens: usize,
    /// Hidden width.
    pub hidden: usize,
    /// Rows of the head.
    pub vocabulary: usize,
    /// Bytes of an element of the compute type.
    pub element: usize,
    /// Whether the logits' gradients are made; else logits are not stored at all.
    pub gradients: bool,
}

/// The tile that products are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TileShape {
    /// Tokens.
    pub rows: usize,
    /// Rows of the head.
    pub columns: usize,
    /// Parts of its columns that have statistics of their own.
    pub parts: usize,
}

/// The division of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// Tokens at a time.
    pub rows: usize,
    /// Elements from one token's logits to the next's: the vocabulary, padded to a piece of 16
    /// bytes of 16-bit numbers.
    pub stride: usize,
    /// Parts of the vocabulary.
    pub parts: usize,
    /// Parts of the sum over the vocabulary in the gradient of hidden states.
    pub splits: usize,
}

/// The vocabulary in whole pieces.
pub(super) fn stride(vocabulary: usize) -> usize {
    vocabulary.next_multiple_of(8)
}

impl Plan {
    /// As many tokens at a time as `workspace` bytes have room for, in whole tiles, at least one
    /// tile, unless a buffer of `largest` bytes is too small for it.
    pub fn new(shape: &Shape, tile: TileShape, workspace: usize, largest: usize) -> Self {
        let stride = stride(shape.vocabulary);
        let parts = shape.vocabulary.div_ceil(tile.columns) * tile.parts;
        let plan = Self {
            rows: 0,
            stride,
            parts,
            splits: 1,
        };
        let fixed = if shape.gradients {
            4 * WORKGROUPS * tile.rows * tile.columns
        } else {
            0
        };
        let room = workspace.saturating_sub(fixed) / plan.row_bytes(shape);
        let fitting = (room / tile.rows).max(1) * tile.rows;
        let row = if shape.gradients {
            stride * shape.element
        } else {
            8 * parts
        };
        let most = fitting.min((largest / row).max(1));
        let chunks = shape.tokens.div_ceil(most).max(1);
        let rows = shape.tokens.div_ceil(chunks).next_multiple_of(tile.rows);
        let rows = rows.min(most).max(1);
        let tiles = rows.div_ceil(tile.rows) * shape.hidden.div_ceil(tile.columns);
        let splits = WORKGROUPS.div_ceil(tiles);
        Self {
            rows,
            splits: splits.clamp(1, stride.div_ceil(SPLIT)),
            ..plan
        }
    }

    /// Bytes that one token takes: its logits' gradients, statistics, and hidden state in the
    /// compute type.
    fn row_bytes(&self, shape: &Shape) -> usize {
        let logits = if shape.gradients {
            self.stride * shape.element
        } else {
            0
        };
        logits + 8 * self.parts + 4 + shape.hidden * shape.element
    }

    /// Bytes of all that the pass holds besides its operands and results.
    pub fn bytes(&self, shape: &Shape) -> usize {
        let rows = self.rows;
        let partial = if shape.gradients {
            4 * self.splits * rows * shape.hidden
        } else {
            0
        };
        rows * self.row_bytes(shape) + partial
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TILE: TileShape = TileShape {
        rows: 128,
        columns: 128,
        parts: 2,
    };

    fn qwen(tokens: usize, gradients: bool) -> Shape {
        Shape {
            tokens,
            hidden: 1024,
            vocabulary: 151_936,
            element: 2,
            gradients,
        }
    }

    #[test]
    fn a_pass_stays_within_its_workspace_however_many_tokens_there_are() {
        for gradients in [false, true] {
            for workspace in [64 << 20, 144 << 20, 256 << 20] {
                let bytes = [1, 128, 4096, 8192, 131_072].map(|tokens| {
                    let shape = qwen(tokens, gradients);
                    Plan::new(&shape, TILE, workspace, usize::MAX).bytes(&shape)
                });
                assert!(
                    bytes.iter().all(|&bytes| bytes <= workspace),
                    "{bytes:?} of {workspace}"
                );
            }
        }
    }

    #[test]
    fn a_workspace_too_small_for_a_tile_still_takes_one() {
        let plan = Plan::new(&qwen(1000, true), TILE, 0, usize::MAX);
        assert_eq!(plan.rows, 128);
    }

    #[test]
    fn a_device_with_small_buffers_takes_fewer_tokens_than_a_tile_has() {
        let plan = Plan::new(&qwen(1000, true), TILE, 0, 20 << 20);
        assert_eq!(plan.rows, (20 << 20) / (2 * 151_936));
    }

    #[test]
    fn chunks_are_even_and_the_last_is_no_sliver() {
        let shape = qwen(500, true);
        let plan = Plan::new(&shape, TILE, 144 << 20, usize::MAX);
        assert_eq!(plan.rows, 256, "not 384 and 116");
    }

    #[test]
    fn rows_of_logits_begin_at_whole_pieces() {
        assert_eq!([1, 8, 50_257].map(stride), [8, 8, 50_264]);
    }

    #[test]
    fn a_few_tokens_still_fill_a_large_card() {
        let plan = Plan::new(&qwen(384, true), TILE, 144 << 20, usize::MAX);
        assert_eq!((plan.rows, plan.splits), (384, 11));
        // Nothing is split below what is worth it.
        let small = Shape {
            vocabulary: 300,
            ..qwen(128, true)
        };
        assert_eq!(Plan::new(&small, TILE, 144 << 20, usize::MAX).splits, 1);
    }
}
