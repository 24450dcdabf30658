//! Plain tiles: every device, every shape, no matrix units.
//!
//! A workgroup owns a tile of the result, a unit some rows of it in its registers, for each two
//! times four columns: four of the tile's first half and the same four of its second, which puts a
//! gate column and its up column into one unit. There are two [ways](Plain) to come by the
//! operands, and [`Plain::of`] chooses by what the device is.

mod memory;
mod registers;

use cubecl::ir::DeviceProperties;
use cubecl::prelude::*;

use super::{Access, Four, Panel};

/// Rows a group from which tiles that go through registers have 32 rows, not 16: fewer would leave much of a
/// group's last tile empty, and a kernel of 32 takes twice as long to compile.
const MANY_ROWS: usize = 64;

/// How operands reach the units that multiply them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Plain {
    /// Through workgroup memory, in tiles of `edge`×`edge`: 8×8 results a unit.
    Memory {
        /// 64 or 128.
        edge: usize,
    },
    /// From the buffers to registers, a workgroup of one subgroup of this `width`: `rows`×8
    /// results a unit. For drivers that compute on a processor.
    Registers {
        /// 4, 8 or 16.
        width: usize,
        /// 16 or 32.
        rows: usize,
    },
}

impl Plain {
    /// The rule. [`Plain::Registers`] on a device that is no card, if its subgroups have one width
    /// of 4, 8 or 16: such a driver makes a vector of a subgroup, lets barriers cost a change of
    /// stacks and workgroup memory as much as any other, and gives back what registers hold from
    /// one load to the next. Elsewhere workgroup memory, in tiles of 128 where `rows` a group and
    /// all `widths` fill them, of 64 below.
    pub fn of(properties: &DeviceProperties, rows: usize, widths: &[usize]) -> Self {
        match subgroup(properties) {
            Some(width) => Self::Registers {
                width,
                rows: if rows < MANY_ROWS { 16 } else { 32 },
            },
            None => Self::through_memory(rows, widths),
        }
    }

    /// Whether the rule is [`Plain::Registers`]: the device is a driver on a processor.
    pub fn on_processor(properties: &DeviceProperties) -> bool {
        subgroup(properties).is_some()
    }

    /// The tile in workgroup memory.
    pub fn through_memory(rows: usize, widths: &[usize]) -> Self {
        let narrow = widths.iter().any(|&width| width < 128);
        Self::Memory {
            edge: if rows < 128 || narrow { 64 } else { 128 },
        }
    }

    /// Rows of a tile.
    pub const fn rows(self) -> usize {
        match self {
            Self::Memory { edge } => edge,
            Self::Registers { rows, .. } => rows,
        }
    }

    /// Columns of a tile.
    pub const fn columns(self) -> usize {
        match self {
            Self::Memory { edge } => edge,
            Self::Registers { width, .. } => 8 * width,
        }
    }

    /// Units of a workgroup.
    pub const fn units(self) -> usize {
        match self {
            Self::Memory { edge } => edge * edge / 64,
            Self::Registers { width, .. } => width,
        }
    }

    /// Units side by side.
    pub const fn across(self) -> usize {
        self.columns() / 8
    }

    /// Rows of a unit.
    pub const fn unit_rows(self) -> usize {
        match self {
            Self::Memory { .. } => 8,
            Self::Registers { rows, .. } => rows,
        }
    }

    /// Words of workgroup memory in which the units of a row exchange a number each; at least one.
    pub const fn exchange(self) -> usize {
        match self {
            Self::Memory { edge } => edge * edge / 8,
            Self::Registers { .. } => 1,
        }
    }

    /// Whether workgroup memory is used at all.
    pub const fn in_memory(self) -> bool {
        matches!(self, Self::Memory { .. })
    }

    /// Row `i` of a unit among those of its tile, for the unit highest up.
    const fn offset(self, i: usize) -> usize {
        match self {
            Self::Memory { edge } => (i / 4) * (edge / 2) + i % 4,
            Self::Registers { .. } => i,
        }
    }
}

/// The width of the subgroups of a device that is a driver on a processor, if kernels that go
/// through registers take it.
///
/// CubeCL names no card for such a device, and says of none of them that it has subgroup
/// operations. The one that is used is the broadcast of a lane whose number is fixed when the kernel
/// is compiled.
fn subgroup(properties: &DeviceProperties) -> Option<usize> {
    let hardware = &properties.hardware;
    let (least, most) = (hardware.plane_size_min, hardware.plane_size_max);
    let software = properties.identity.physical.is_none();
    (software && least == most && matches!(most, 4 | 8 | 16)).then_some(most as usize)
}

/// The unit's results: `[row · 2 + half]`, rows as [`row_of`], columns as [`column_of`]. Every sum
/// runs in the order of `k`.
#[cube]
pub(crate) fn product<A: Float, B: Float, NA: Size, NB: Size>(
    a: &[Vector<A, NA>],
    b: &[Vector<B, NB>],
    tokens: &[u32],
    a_panel: &Panel,
    b_panel: &Panel,
    k_begin: usize,
    k_end: usize,
    #[comptime] a_access: Access,
    #[comptime] b_access: Access,
    #[comptime] plain: Plain,
) -> Array<Vector<f32, Four>> {
    let mut sums = Array::<Vector<f32, Four>>::new(comptime!(2 * plain.unit_rows()));
    #[unroll]
    for i in 0..comptime!(2 * plain.unit_rows()) {
        sums[i] = Vector::new(0.0f32);
    }
    if comptime!(plain.in_memory()) {
        memory::add::<A, B, NA, NB>(
            &mut sums,
            a,
            b,
            tokens,
            a_panel,
            b_panel,
            k_begin,
            k_end,
            a_access,
            b_access,
            comptime!(plain.columns()),
        );
    } else {
        registers::add::<A, B, NA, NB>(
            &mut sums, a, b, tokens, a_panel, b_panel, k_begin, k_end, a_access, b_access, plain,
        );
    }
    sums
}

/// Row of the tile that the unit's row `i` is.
#[cube]
pub(crate) fn row_of(#[comptime] i: usize, #[comptime] plain: Plain) -> usize {
    let down = UNIT_POS as usize / comptime!(plain.across());
    down * 4 + comptime!(plain.offset(i))
}

/// First column of the tile that the unit's half `j` (0 or 1) is.
#[cube]
pub(crate) fn column_of(#[comptime] j: usize, #[comptime] plain: Plain) -> usize {
    let across = UNIT_POS as usize % comptime!(plain.across());
    across * 4 + comptime!(j * plain.columns() / 2)
}

/// Sum over the units of a subgroup, in their order: the same bits every run.
#[cube]
pub(crate) fn subgroup_sum(value: f32, #[comptime] plain: Plain) -> f32 {
    let mut sum = 0.0f32;
    #[unroll]
    for lane in 0..comptime!(plain.units()) {
        sum += plane_broadcast(value, comptime!(lane as u32));
    }
    sum
}

/// The largest of the units' values.
#[cube]
pub(crate) fn subgroup_max(value: f32, #[comptime] plain: Plain) -> f32 {
    let mut most = value;
    #[unroll]
    for lane in 0..comptime!(plain.units()) {
        let found = plane_broadcast(value, comptime!(lane as u32));
        if found > most {
            most = found;
        }
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_result_of_a_tile_is_one_units() {
        let ways = [64, 128]
            .map(|edge| Plain::Memory { edge })
            .into_iter()
            .chain([4, 8, 16].map(|width| Plain::Registers { width, rows: 16 }))
            .chain([4, 8, 16].map(|width| Plain::Registers { width, rows: 32 }));
        for plain in ways {
            let results = plain.units() * plain.unit_rows() * 8;
            assert_eq!(results, plain.rows() * plain.columns(), "{plain:?}");
            let mut rows: Vec<usize> = (0..plain.units() / plain.across())
                .flat_map(|down| (0..plain.unit_rows()).map(move |i| down * 4 + plain.offset(i)))
                .collect();
            rows.sort_unstable();
            assert!(rows.into_iter().eq(0..plain.rows()), "{plain:?}");
        }
    }
}
