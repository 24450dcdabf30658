//! How the sums of cooperative matrices leave the registers: strip by strip through workgroup
//! memory, where every unit finds columns next to each other.

use cubecl::cmma::{self, MatrixLayout, MatrixScope};
use cubecl::prelude::*;

use super::cooperative::Piece;
use super::tile::{Scope, Tile};

/// The part that the unit's subgroup or workgroup owns.
#[cube]
fn part(#[comptime] tile: Tile) -> usize {
    let mut part = 0usize;
    if comptime!(tile.scope == Scope::Subgroup) {
        part = UNIT_POS_Y as usize;
    }
    part
}

/// The first row of the unit's part inside the tile.
#[cube]
pub(crate) fn part_row(#[comptime] tile: Tile) -> usize {
    part(tile) / comptime!(tile.across()) * comptime!(tile.part_rows())
}

/// The number of the unit's part among those side by side.
#[cube]
pub(crate) fn part_column(#[comptime] tile: Tile) -> usize {
    part(tile) % comptime!(tile.across())
}

/// The unit's number among the owners of its part.
#[cube]
pub(crate) fn owner(#[comptime] tile: Tile) -> usize {
    let mut owner = UNIT_POS as usize;
    if comptime!(tile.scope == Scope::Subgroup) {
        owner = UNIT_POS_X as usize;
    }
    owner
}

/// Waits for the owners of the part.
#[cube]
pub(crate) fn sync_owners(#[comptime] tile: Tile) {
    if comptime!(tile.scope == Scope::Subgroup) {
        sync_plane();
    } else {
        sync_cube();
    }
}

/// Where the part's strip lies in workgroup memory, in pieces.
#[cube]
pub(crate) fn strip_start(#[comptime] tile: Tile) -> usize {
    part(tile) * comptime!(tile.strip_size())
}

/// A place in a strip.
#[derive(CubeType, Clone, Copy)]
pub(crate) struct Spot {
    /// Row inside the tile.
    pub row: usize,
    /// Piece of the row: four columns.
    pub piece: usize,
    /// Where it lies in workgroup memory.
    pub from: usize,
}

/// The unit's place at `turn` in strip `strip`, of which `pieces` a row are gone through.
#[cube]
pub(crate) fn spot(
    #[comptime] strip: usize,
    #[comptime] turn: usize,
    #[comptime] pieces: usize,
    #[comptime] tile: Tile,
) -> Spot {
    let index = owner(tile) + comptime!(turn * tile.owners());
    let inside = index / pieces;
    Spot {
        row: part_row(tile) + comptime!(strip * tile.m()) + inside,
        piece: index % pieces,
        from: strip_start(tile) + inside * comptime!(tile.strip_stride()) + index % pieces,
    }
}

/// Writes a strip of the unit's part to workgroup memory, as f32, four columns a piece; readable by
/// the part's owners when it returns.
#[cube]
pub(crate) fn spill<S: MatrixScope>(
    memory: &mut Shared<[Piece]>,
    sums: &Sequence<cmma::Matrix<f32, S>>,
    #[comptime] strip: usize,
    #[comptime] tile: Tile,
) {
    // The owners' reads of the strip before come first.
    sync_owners(tile);
    let start = strip_start(tile);
    #[unroll]
    for j in 0..comptime!(tile.matrices()) {
        let at = start + comptime!(j * tile.n() / 4);
        let end = memory.len();
        cmma::store(
            &mut memory[at..end],
            sums.index(comptime!(strip * tile.matrices() + j)),
            comptime!(tile.strip_stride() as u32 * 4),
            MatrixLayout::RowMajor,
        );
    }
    sync_owners(tile);
}
