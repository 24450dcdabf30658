//! Which kernel multiplies: a pure function of device, type and shape.

use burn_cubecl::tensor::CubeTensor;
use cubecl::features::MmaConfig;
use cubecl::ir::{ElemType, FloatKind};

use crate::Compute;

/// A way to multiply, with the tile it uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Tier {
    /// Square tiles of this edge, 8×8 results a unit.
    Plain {
        /// 64 or 128.
        edge: usize,
    },
    /// 128×128 tiles of cooperative matrices, four subgroups of this width.
    Cooperative {
        /// Units of a subgroup.
        subgroup: usize,
    },
}

impl Tier {
    /// The rule. Cooperative matrices where the device has them for the type, all subgroups are
    /// equally wide, 32 KiB of workgroup memory is there, and rows can be read in 16-byte pieces
    /// (`widths`: the lengths of all rows involved). Else plain tiles: 128 wide where `rows` a
    /// group fill them, 64 wide below.
    pub fn of(like: &CubeTensor, compute: Compute, widths: &[usize], rows: usize) -> Self {
        let properties = like.client.properties();
        let kind = match compute {
            Compute::F32 => None,
            Compute::F16 => Some(FloatKind::F16),
            Compute::Bf16 => Some(FloatKind::BF16),
        };
        let hardware = &properties.hardware;
        let one_width = hardware.plane_size_min == hardware.plane_size_max;
        let supported = kind.is_some_and(|kind| {
            properties.features.matmul.cmma.contains(&MmaConfig {
                a_type: ElemType::Float(kind),
                b_type: ElemType::Float(kind),
                cd_type: ElemType::Float(FloatKind::F32),
                m: 16,
                n: 16,
                k: 16,
            })
        });
        let pieces = widths.iter().all(|width| width % 8 == 0);
        let memory = hardware.max_shared_memory_size >= 32 * 1024;
        if supported && one_width && pieces && memory && hardware.plane_size_max <= 64 {
            return Self::Cooperative {
                subgroup: hardware.plane_size_max as usize,
            };
        }
        let narrow = widths.iter().any(|&width| width < 128);
        Self::Plain {
            edge: if rows < 128 || narrow { 64 } else { 128 },
        }
    }

    /// Rows and columns of a tile.
    pub fn edge(self) -> usize {
        match self {
            Self::Plain { edge } => edge,
            Self::Cooperative { .. } => cooperative_edge(),
        }
    }
}

/// Edge of the cooperative tile.
pub(crate) const fn cooperative_edge() -> usize {
    128
}
