//! Which kernel multiplies: a pure function of device, type and shape.

use burn_cubecl::tensor::CubeTensor;
use cubecl::features::MmaConfig;
use cubecl::ir::features::CubeMmaConfig;
use cubecl::ir::{DeviceProperties, ElemType, FloatKind};

use super::Plain;
use super::tile::{Scope, Tile};
use crate::{Compute, tuning};

/// A way to multiply, with the tile it uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Tier {
    /// Tiles without matrix units.
    Plain(Plain),
    /// Cooperative matrices.
    Cooperative(Tile),
}

/// The tiles of the rule, most wanted first, by their names among the [`candidates`].
const RULE: [&str; 1] = ["subgroups, 128x128, depth 32"];

/// Name of the plain tiles that go through workgroup memory, which every device takes.
pub const THROUGH_MEMORY: &str = "plain, through workgroup memory";

impl Tier {
    /// The rule. Cooperative matrices where the device has them for the type, all subgroups are
    /// equally wide, and rows can be read in 16-byte pieces (`widths`: the lengths of all rows
    /// involved): of the rule's tiles the first that the device takes and that `rows` a group fill,
    /// else the last that it takes. Without one [plain](Plain::of) tiles.
    pub fn of(like: &CubeTensor, compute: Compute, widths: &[usize], rows: usize) -> Self {
        let properties = like.client.properties();
        if widths.iter().all(|width| width % 8 == 0) {
            let mut tiles = takes(properties, compute);
            match tuning::chosen() {
                Some(name) => tiles.retain(|(own, _)| *own == name),
                None => tiles.retain(|(own, _)| RULE.contains(own)),
            }
            let filled = tiles.iter().find(|(_, tile)| tile.rows <= rows);
            if let Some((_, tile)) = filled.or(tiles.last()) {
                return Self::Cooperative(*tile);
            }
        }
        Self::Plain(match tuning::chosen() {
            Some(THROUGH_MEMORY) => Plain::through_memory(rows, widths),
            _ => Plain::of(properties, rows, widths),
        })
    }

    /// The same, or with a tile that lies on its side where fewer of these cover a result of
    /// `height` by `width`.
    pub fn fitting(self, height: usize, width: usize) -> Self {
        let Self::Cooperative(tile) = self else {
            return self;
        };
        let count = |tile: Tile| height.div_ceil(tile.rows) * width.div_ceil(tile.columns);
        let turned = Tile {
            rows: tile.columns,
            columns: tile.rows,
            ..tile
        };
        Self::Cooperative(if count(turned) < count(tile) {
            turned
        } else {
            tile
        })
    }

    /// Rows of a tile.
    pub fn rows(self) -> usize {
        match self {
            Self::Plain(plain) => plain.rows(),
            Self::Cooperative(tile) => tile.rows,
        }
    }

    /// Columns of a tile.
    pub fn columns(self) -> usize {
        match self {
            Self::Plain(plain) => plain.columns(),
            Self::Cooperative(tile) => tile.columns,
        }
    }
}

/// Every cooperative tile, by name, for subgroups of this width; those of the [`RULE`] in its
/// order.
pub(crate) fn candidates(subgroup: usize) -> Vec<(&'static str, Tile)> {
    let own =
        |rows, columns, depth, buffers| Tile::of_subgroups(rows, columns, depth, buffers, subgroup);
    let all = |rows, columns, depth, subgroups| {
        Tile::of_workgroup(rows, columns, depth, 1, subgroups, subgroup)
    };
    vec![
        ("subgroups, 128x128, depth 32", own(128, 128, 32, 1)),
        ("subgroups, 128x128, depth 64", own(128, 128, 64, 1)),
        ("subgroups, 128x128, depth 32 twice", own(128, 128, 32, 2)),
        ("subgroups, 256x128, depth 32", own(256, 128, 32, 1)),
        ("subgroups, 128x256, depth 32", own(128, 256, 32, 1)),
        ("subgroups, 256x128, depth 16 twice", own(256, 128, 16, 2)),
        ("subgroups, 128x256, depth 16 twice", own(128, 256, 16, 2)),
        ("workgroup, 128x128, depth 32", all(128, 128, 32, 4)),
        ("workgroup, 128x128, depth 64", all(128, 128, 64, 8)),
        ("workgroup, 256x128, depth 32", all(256, 128, 32, 8)),
        ("workgroup, 128x256, depth 32", all(128, 256, 32, 8)),
    ]
}

/// The candidates that a device takes for a type.
pub(crate) fn takes(properties: &DeviceProperties, compute: Compute) -> Vec<(&'static str, Tile)> {
    let hardware = &properties.hardware;
    let subgroup = hardware.plane_size_max as usize;
    if hardware.plane_size_min != hardware.plane_size_max || !(8..=64).contains(&subgroup) {
        return Vec::new();
    }
    candidates(subgroup)
        .into_iter()
        .filter(|(_, tile)| fits(properties, compute, *tile))
        .collect()
}

/// Whether a device has a tile's matrices for a type, and the memory and units for it.
fn fits(properties: &DeviceProperties, compute: Compute, tile: Tile) -> bool {
    let hardware = &properties.hardware;
    let reserved = match tile.scope {
        Scope::Subgroup => 0,
        Scope::Workgroup => hardware.cube_mma_reserved_shared_memory,
    };
    let size = [tile.m(), tile.n(), tile.k()];
    let multiplied = has_matrices(properties, compute, tile.scope, size, tile.units() as u32);
    multiplied
        && tile.bytes() + reserved <= hardware.max_shared_memory_size
        && tile.units() <= hardware.max_units_per_cube as usize
}

/// Whether the device multiplies matrices of a scope, of these rows, columns and depth, in this type
/// with f32 sums, in a workgroup of `units`.
pub(crate) fn has_matrices(
    properties: &DeviceProperties,
    compute: Compute,
    scope: Scope,
    [m, n, k]: [usize; 3],
    units: u32,
) -> bool {
    let operand = match compute {
        Compute::F32 => return false,
        Compute::F16 => ElemType::Float(FloatKind::F16),
        Compute::Bf16 => ElemType::Float(FloatKind::BF16),
    };
    let sum = ElemType::Float(FloatKind::F32);
    let features = &properties.features.matmul;
    match scope {
        Scope::Subgroup => features.cmma.contains(&MmaConfig {
            a_type: operand,
            b_type: operand,
            cd_type: sum,
            m: m as u32,
            n: n as u32,
            k: k as u32,
        }),
        Scope::Workgroup => features.cube_mma.iter().any(|config: &CubeMmaConfig| {
            let divided = |size: usize, granularity: u32, most: u32| {
                size.is_multiple_of(granularity as usize) && size <= most as usize
            };
            config.a_type == operand
                && config.b_type == operand
                && config.cd_type == sum
                && divided(m, config.m_granularity, config.m_max)
                && divided(n, config.n_granularity, config.n_max)
                && divided(k, config.k_granularity, config.k_max)
                && config.units_per_block.is_none_or(|own| own == units)
        }),
    }
}
