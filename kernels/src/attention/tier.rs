//! Which kernels compute attention: a pure function of device, type and widths.

use burn::tensor::{Device, Tensor};
use burn_cubecl::tensor::CubeTensor;
use cubecl::features::Plane;

use super::cooperative::Frame;
use crate::matmul::tier::has_matrices;
pub use crate::matmul::tile::Scope;
use crate::{Compute, gpu};

/// The largest width of queries, keys and values that the kernels take.
pub const MAX_WIDTH: usize = 256;

/// A way to compute attention on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tier {
    /// Plain tiles: every device, every type.
    Plain,
    /// Cooperative matrices, in tiles of these sizes.
    Cooperative(Tiles),
}

/// Tiles of the cooperative kernels. The numbers change no result beyond rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tiles {
    /// Forward.
    pub forward: Tile,
    /// Gradient of the queries.
    pub query: Tile,
    /// Gradients of keys and values.
    pub keys: Tile,
    /// Those gradients come from one launch, which computes each score once but holds twice the
    /// sums; else from two.
    pub joint: bool,
    /// The forward kernel makes weights inside matrices where all of an owner's rows see a tile;
    /// else all scores go through workgroup memory.
    pub held: bool,
}

/// A workgroup's tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tile {
    /// Whose matrices multiply.
    pub scope: Scope,
    /// Subgroups of a workgroup, 16 rows each.
    pub subgroups: usize,
    /// Columns at a time: a multiple of 16.
    pub columns: usize,
}

impl Tiles {
    /// The rule's, largest first: a smaller one is taken where memory or units do not suffice.
    ///
    /// Of 128 rows, which share what is read of the other side: on an H100 64 took half as long
    /// again. Of 32 columns: 16 took a twelfth longer, and with 64 two tiles and the scratch would
    /// not fit into 48 KiB of workgroup memory.
    const RULE: Self = Self {
        forward: Tile {
            scope: Scope::Subgroup,
            subgroups: 8,
            columns: 32,
        },
        query: Tile {
            scope: Scope::Subgroup,
            subgroups: 8,
            columns: 32,
        },
        keys: Tile {
            scope: Scope::Subgroup,
            subgroups: 8,
            columns: 32,
        },
        joint: true,
        held: true,
    };
}

impl Tile {
    /// The kernel's sizes for these widths.
    pub(super) fn frame(
        self,
        subgroup: usize,
        [width, value_width]: [usize; 2],
        documents: bool,
    ) -> Frame {
        let frame = Frame {
            scope: self.scope,
            subgroup,
            subgroups: self.subgroups,
            columns: self.columns,
            width,
            value_width,
            documents,
            held: false,
        };
        Frame {
            width: width.next_multiple_of(frame.edge()),
            value_width: value_width.next_multiple_of(frame.edge()),
            ..frame
        }
    }

    /// Whether the device runs it: it has the matrices, the memory and units, a unit takes whole
    /// pieces of 16-bit weights, and each column has a unit that brings what is known of it.
    fn fits(
        self,
        like: &CubeTensor,
        compute: Compute,
        subgroup: usize,
        widths: [usize; 2],
    ) -> bool {
        if self.subgroups == 0 || self.columns == 0 || !self.columns.is_multiple_of(16) {
            return false;
        }
        let properties = like.client.properties();
        let hardware = &properties.hardware;
        let frame = self.frame(subgroup, widths, false);
        let units = (subgroup * self.subgroups) as u32;
        let reserved = match self.scope {
            Scope::Subgroup => 0,
            Scope::Workgroup => hardware.cube_mma_reserved_shared_memory,
        };
        // Behind the pieces, three numbers a column and one a subgroup.
        let bytes = frame.memory() * 16 + self.columns * 12 + self.subgroups * 4 + reserved;
        let edge = frame.edge();
        (self.columns * 16 / subgroup).is_multiple_of(8)
            && units as usize >= self.columns
            && bytes <= hardware.max_shared_memory_size
            && units <= hardware.max_units_per_cube
            && has_matrices(
                properties,
                compute,
                self.scope,
                [frame.owned(), edge, edge],
                units,
            )
    }

    /// The largest tile up to this one that the device runs.
    fn fitted(
        mut self,
        like: &CubeTensor,
        compute: Compute,
        subgroup: usize,
        widths: [usize; 2],
    ) -> Option<Self> {
        while self.subgroups > 0 {
            if self.fits(like, compute, subgroup, widths) {
                return Some(self);
            }
            self.subgroups /= 2;
        }
        None
    }
}

impl Tiles {
    /// Whether the device's cooperative kernels run these for heads of these widths: it has the
    /// matrices, the workgroup memory and the units.
    pub fn run_on(
        self,
        device: &Device,
        compute: Compute,
        width: usize,
        value_width: usize,
    ) -> bool {
        let Some(probe) = probe(device) else {
            return false;
        };
        let widths = padded([width, value_width]);
        cooperative_on(&probe, compute, widths).is_ok() && self.fit(&probe, compute, widths)
    }

    /// Whether the device runs all of them.
    pub(super) fn fit(self, like: &CubeTensor, compute: Compute, widths: [usize; 2]) -> bool {
        let subgroup = subgroup(like);
        (!self.held || holds(like))
            && [self.forward, self.query, self.keys]
                .iter()
                .all(|tile| tile.fits(like, compute, subgroup, widths))
    }
}

/// Whether the device computes with single elements of a matrix, and makes operands of sums. CubeCL
/// does not tell; what it tells of is matrices of the workgroup, from the same extension
/// (`VK_NV_cooperative_matrix2`), and drivers that have these have all of it.
fn holds(like: &CubeTensor) -> bool {
    !like.client.properties().features.matmul.cube_mma.is_empty()
}

/// Units of a subgroup, where all subgroups are equally wide.
pub(super) fn subgroup(like: &CubeTensor) -> usize {
    like.client.properties().hardware.plane_size_max as usize
}

/// Something on `device` to ask it through; `None` where it runs no kernels.
fn probe(device: &Device) -> Option<CubeTensor> {
    let probe = Tensor::<1>::zeros([4], &device.clone().without_autodiff());
    gpu::probe(&probe)
}

/// Widths as the kernels see them.
fn padded(widths: [usize; 2]) -> [usize; 2] {
    widths.map(|width| width.next_multiple_of(8))
}

/// What stands against cooperative matrices on this device, or the tiles they would use.
pub(super) fn cooperative_on(
    like: &CubeTensor,
    compute: Compute,
    widths: [usize; 2],
) -> Result<Tiles, &'static str> {
    let properties = like.client.properties();
    let hardware = &properties.hardware;
    if compute == Compute::F32 {
        return Err("f32 has no cooperative matrices");
    }
    if !has_matrices(properties, compute, Scope::Subgroup, [16; 3], 0) {
        return Err("the device has no cooperative matrices of 16×16×16 in this type");
    }
    if hardware.plane_size_min != hardware.plane_size_max
        || ![16, 32, 64].contains(&hardware.plane_size_max)
    {
        return Err("the device's subgroups are not all of 16, 32 or 64 units");
    }
    if !properties.features.plane.contains(Plane::Ops) {
        return Err("the device's subgroups exchange no values");
    }
    if widths.iter().any(|width| !width.is_multiple_of(8)) {
        return Err("rows are not whole pieces of 16 bytes");
    }
    let subgroup = hardware.plane_size_max as usize;
    let fitted = |tile: Tile| {
        tile.fitted(like, compute, subgroup, widths)
            .ok_or("the device has too little workgroup memory for rows so wide")
    };
    let rule = Tiles::RULE;
    Ok(Tiles {
        forward: fitted(rule.forward)?,
        query: fitted(rule.query)?,
        keys: fitted(rule.keys)?,
        // Past that a unit's registers do not hold the sums of both.
        joint: rule.joint && widths[0] + widths[1] <= 256,
        held: rule.held && holds(like),
    })
}

impl Tier {
    /// The rule: cooperative matrices wherever the device has them.
    pub(super) fn of(like: &CubeTensor, compute: Compute, widths: [usize; 2]) -> Self {
        match cooperative_on(like, compute, widths) {
            Ok(tiles) => Self::Cooperative(tiles),
            Err(_) => Self::Plain,
        }
    }

    /// The tiles that cooperative kernels use for heads of these widths.
    ///
    /// # Errors
    /// Why the device has none, in words.
    pub fn cooperative(
        device: &Device,
        compute: Compute,
        width: usize,
        value_width: usize,
    ) -> Result<Tiles, &'static str> {
        let probe = probe(device).ok_or("the device runs no kernels")?;
        cooperative_on(&probe, compute, padded([width, value_width]))
    }

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain tiles",
            Self::Cooperative(tiles) => match tiles.forward.scope {
                Scope::Subgroup => "cooperative matrices",
                Scope::Workgroup => "cooperative matrices of the workgroup",
            },
        }
    }
}
