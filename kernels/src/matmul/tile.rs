//! How a workgroup of the cooperative tier divides its tile: numbers alone, fixed when a kernel is
//! compiled.

use super::Access;

/// Whose cooperative matrices multiply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// A subgroup's: 16×16×16.
    Subgroup,
    /// The whole workgroup's (`VK_NV_cooperative_matrix2`): as wide as the tile.
    Workgroup,
}

/// A tile of results and how it comes to be.
///
/// Its *parts* are owned by a subgroup (64×64) or by the whole workgroup (everything), by scope.
/// A part consists of *strips*: rows of matrices, which leave the registers one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Tile {
    /// Rows of results.
    pub rows: usize,
    /// Columns of results.
    pub columns: usize,
    /// Depth along the sum that is moved at a time.
    pub depth: usize,
    /// Copies of the operands in workgroup memory, 1 or 2. With two a step is written while the one
    /// before it multiplies.
    pub buffers: usize,
    /// Whose matrices multiply.
    pub scope: Scope,
    /// Subgroups of a workgroup.
    pub subgroups: usize,
    /// Units of a subgroup.
    pub subgroup: usize,
}

/// Rows and columns of a subgroup's part.
const PART: usize = 64;

impl Tile {
    /// A tile whose subgroups own 64×64 each.
    pub const fn of_subgroups(
        rows: usize,
        columns: usize,
        depth: usize,
        buffers: usize,
        subgroup: usize,
    ) -> Self {
        Self {
            rows,
            columns,
            depth,
            buffers,
            scope: Scope::Subgroup,
            subgroups: rows / PART * (columns / PART),
            subgroup,
        }
    }

    /// A tile that is multiplied by all of `subgroups` together.
    pub const fn of_workgroup(
        rows: usize,
        columns: usize,
        depth: usize,
        buffers: usize,
        subgroups: usize,
        subgroup: usize,
    ) -> Self {
        Self {
            rows,
            columns,
            depth,
            buffers,
            scope: Scope::Workgroup,
            subgroups,
            subgroup,
        }
    }

    /// Units of a workgroup.
    pub const fn units(self) -> usize {
        self.subgroups * self.subgroup
    }

    /// Units that own a part together.
    pub const fn owners(self) -> usize {
        match self.scope {
            Scope::Subgroup => self.subgroup,
            Scope::Workgroup => self.units(),
        }
    }

    /// Rows of a part.
    pub const fn part_rows(self) -> usize {
        match self.scope {
            Scope::Subgroup => PART,
            Scope::Workgroup => self.rows,
        }
    }

    /// Columns of a part.
    pub const fn part_columns(self) -> usize {
        match self.scope {
            Scope::Subgroup => PART,
            Scope::Workgroup => self.columns,
        }
    }

    /// Parts side by side.
    pub const fn across(self) -> usize {
        self.columns / self.part_columns()
    }

    /// Rows of a matrix of results.
    pub const fn m(self) -> usize {
        match self.scope {
            Scope::Subgroup => 16,
            Scope::Workgroup => 32,
        }
    }

    /// Columns of a matrix of results.
    pub const fn n(self) -> usize {
        match self.scope {
            Scope::Subgroup => 16,
            Scope::Workgroup => self.columns,
        }
    }

    /// Depth of a matrix along the sum.
    pub const fn k(self) -> usize {
        match self.scope {
            Scope::Subgroup => 16,
            Scope::Workgroup => self.depth,
        }
    }

    /// Strips of a part.
    pub const fn strips(self) -> usize {
        self.part_rows() / self.m()
    }

    /// Matrices along a strip.
    pub const fn matrices(self) -> usize {
        self.part_columns() / self.n()
    }

    /// Pieces of 16 bytes from row to row of a strip of f32 in workgroup memory: padded by one, so
    /// that rows lie in different banks.
    pub const fn strip_stride(self) -> usize {
        self.part_columns() / 4 + 1
    }

    /// Pieces of workgroup memory of an owner's strip.
    pub const fn strip_size(self) -> usize {
        self.m() * self.strip_stride()
    }

    /// Turns that the owners of a part take to go through a strip of `pieces` a row.
    pub const fn turns(self, pieces: usize) -> usize {
        self.m() * pieces / self.owners()
    }

    /// Pieces from row to row of an operand's tile in workgroup memory, `extent` wide along the
    /// results; padded by one against bank conflicts.
    pub const fn stride(self, access: Access, extent: usize) -> usize {
        if access.k_rows {
            extent / 8 + 1
        } else {
            self.depth / 8 + 1
        }
    }

    /// Pieces of such a tile.
    pub const fn size(self, access: Access, extent: usize) -> usize {
        let rows = if access.k_rows { self.depth } else { extent };
        rows * self.stride(access, extent)
    }

    /// Pieces of one copy of both operands.
    pub const fn operands(self, a: Access, b: Access) -> usize {
        self.size(a, self.rows) + self.size(b, self.columns)
    }

    /// Pieces of workgroup memory that a product and then its strips use.
    pub const fn memory(self, a: Access, b: Access) -> usize {
        let tiles = self.buffers * self.operands(a, b);
        let strips = self.units() / self.owners() * self.strip_size();
        if tiles > strips { tiles } else { strips }
    }

    /// Bytes of workgroup memory that the hungriest kernel uses.
    pub const fn bytes(self) -> usize {
        // Rows along the results take the most, both operands alike.
        16 * self.memory(Access::ROWS, Access::ROWS)
    }

    /// Pieces of an operand, `extent` wide, that a unit moves in a step.
    pub const fn share(self, extent: usize) -> usize {
        extent * self.depth / 8 / self.units()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every tile that the rule or a tuning run may choose.
    fn tiles() -> Vec<Tile> {
        super::super::tier::candidates(32)
            .into_iter()
            .map(|(_, tile)| tile)
            .collect()
    }

    #[test]
    fn the_units_move_a_step_without_remainder() {
        for tile in tiles() {
            for extent in [tile.rows, tile.columns] {
                assert!(tile.share(extent) > 0, "{tile:?}");
                assert_eq!(
                    tile.share(extent) * tile.units() * 8,
                    extent * tile.depth,
                    "{tile:?}"
                );
                // A unit keeps its place in a row from one of its pieces to the next.
                assert_eq!(tile.units() % (extent / 8), 0, "{tile:?}");
            }
            assert_eq!(tile.units() % (tile.depth / 8), 0, "{tile:?}");
        }
    }

    #[test]
    fn strips_cover_a_part_and_parts_a_tile() {
        for tile in tiles() {
            let parts = tile.units() / tile.owners();
            assert_eq!(
                parts * tile.part_rows() * tile.part_columns(),
                tile.rows * tile.columns
            );
            assert_eq!(tile.strips() * tile.m(), tile.part_rows());
            assert_eq!(tile.matrices() * tile.n(), tile.part_columns());
            for pieces in [tile.part_columns() / 4, tile.part_columns() / 8] {
                assert_eq!(tile.turns(pieces) * tile.owners(), tile.m() * pieces);
            }
        }
    }

    #[test]
    fn memory_stays_below_what_desktop_cards_give() {
        for tile in tiles() {
            for a in [Access::ROWS, Access::K_ROWS] {
                for b in [Access::ROWS, Access::K_ROWS] {
                    assert!(16 * tile.memory(a, b) <= tile.bytes(), "{tile:?}");
                }
            }
            assert!(tile.bytes() <= 48 * 1024, "{tile:?}: {}", tile.bytes());
        }
    }
}
