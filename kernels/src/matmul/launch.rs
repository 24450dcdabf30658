//! What the products' host code and kernels share, and the products themselves by one name.

use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

pub(crate) use super::gradient::gradient;
pub(crate) use super::rows::rows;
pub(crate) use super::swiglu::swiglu_rows;
pub(crate) use super::swiglu_backward::{share_count, swiglu_rows_backward};
use crate::gpu::arg;

/// A matrix for each group that a product is taken of: `[groups, rows, columns]` flattened.
#[derive(Clone, Debug)]
pub(crate) struct Stacked {
    /// The buffer.
    pub buffer: CubeTensor,
    /// Rows of a matrix.
    pub rows: usize,
    /// Columns of a matrix.
    pub columns: usize,
}

/// Elements a vector holds, for rows of these widths.
pub(super) fn lanes(widths: &[usize]) -> usize {
    if widths.iter().all(|width| width % 4 == 0) {
        4
    } else {
        1
    }
}

/// A tensor of 16-bit elements in pieces of 16 bytes.
pub(super) fn arg_pieces(tensor: &CubeTensor) -> BufferArg {
    arg(tensor, 8)
}

/// The tile of rows that a workgroup works on.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Work {
    /// The rows' group, counted from the first of the product; the number of groups where there is
    /// nothing to do.
    pub group: usize,
    /// The tile's first row.
    pub first: usize,
    /// End of the group's rows.
    pub end: usize,
    /// The tile's number along the columns.
    pub column_tile: usize,
}

/// What the workgroup works on in a product of `count` groups from the group `from` on: columns go
/// by faster than rows, or with `dealt` rows faster than columns. The last tiles of rows may be of no
/// use, and a driver on a processor gives each thread a run of workgroups: dealt out, they have as much
/// work each.
#[cube]
pub(super) fn work(
    tiles: &[u32],
    tile_count: usize,
    column_tiles: usize,
    from: usize,
    count: usize,
    #[comptime] dealt: bool,
) -> Work {
    let mut tile = CUBE_POS / column_tiles;
    let mut column_tile = CUBE_POS % column_tiles;
    if comptime!(dealt) {
        tile = CUBE_POS % tile_count;
        column_tile = CUBE_POS / tile_count;
        if column_tile >= column_tiles {
            tile = tile_count;
        }
    }
    let mut group = count;
    let mut first = 0usize;
    let mut end = 0usize;
    if tile < tile_count {
        let own = tiles[3 * tile] as usize;
        if own >= from && own < from + count {
            group = own - from;
            first = tiles[3 * tile + 1] as usize;
            end = tiles[3 * tile + 2] as usize;
        }
    }
    Work {
        group,
        first,
        end,
        column_tile,
    }
}
