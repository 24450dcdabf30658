//! Matrix multiplication over groups of rows: the inner loop of the experts, and of dense layers.
//!
//! Rows are sorted by group (an expert); every group has its own matrix. Two products exist:
//!
//! | product | result | sum runs over |
//! | --- | --- | --- |
//! | of rows | `[rows, N]`: `A[row] · B[group]` | K, the same for all groups |
//! | gradient | `[groups, M, N]`: `Σ A[row]ᵀ B[row]` | the rows of a group |
//!
//! Either operand of rows can be gathered: row `p` is read from row `tokens[p]` of a matrix, so
//! sorted copies are never made. Sums are f32 whatever the operands' type.
//!
//! Tiers behind the one interface, chosen by [`Tier::of`] from the device's properties, the
//! operands' type and the shape alone:
//! - plain tiles ([`plain`]): every device, WGSL included, every shape; through workgroup memory on
//!   GPUs, through the registers of a subgroup on drivers that compute on a processor;
//! - cooperative matrices ([`cooperative`]) of a subgroup (`cmma`): f16 and bf16 where the device
//!   multiplies 16×16×16 tiles into f32 and all subgroups have one width;
//! - cooperative matrices of a workgroup (`cube_mma`), the same kernels with larger matrices, where
//!   the device has `VK_NV_cooperative_matrix2`.
//!
//! Which of the latter two, and with which [tile], is a [rule](tier) made of measurements;
//! [`tuning`](crate::tuning) takes them.

#![allow(
    clippy::collapsible_if,
    reason = "a condition of the compiler's and one of the device's are no one condition"
)]

pub(crate) mod cooperative;
pub(crate) mod epilogue;
mod gradient;
pub(crate) mod groups;
pub(crate) mod launch;
pub(crate) mod plain;
mod rows;
pub(crate) mod strips;
mod swiglu;
mod swiglu_backward;
pub(crate) mod tier;
pub(crate) mod tile;

pub(crate) use groups::Groups;
pub(crate) use plain::Plain;
pub(crate) use tier::Tier;

use cubecl::prelude::*;

/// Four lanes: the width in which tiles are moved.
pub(crate) type Four = Const<4>;

/// How a kernel reads one operand; fixed when the kernel is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Access {
    /// Rows in memory run along the sum (`[K, …]`), not along the result.
    pub k_rows: bool,
    /// Row `p` is row `tokens[p]` of the buffer.
    pub gather: bool,
    /// The tile's second half of rows lies this kernel's `half` rows further down: gate and up
    /// projections in one tile.
    pub split: bool,
}

impl Access {
    /// `[result, K]`, in place.
    pub const ROWS: Self = Self {
        k_rows: false,
        gather: false,
        split: false,
    };
    /// `[K, result]`, in place.
    pub const K_ROWS: Self = Self {
        k_rows: true,
        gather: false,
        split: false,
    };

    /// The same, gathered.
    pub const fn gathered(self) -> Self {
        Self {
            gather: true,
            ..self
        }
    }

    /// The same, with gate and up rows in one tile.
    pub const fn halves(self) -> Self {
        Self {
            split: true,
            ..self
        }
    }
}

/// Where an operand's tile lies, in elements of its buffer.
#[derive(CubeType, Clone, Copy)]
pub(crate) struct Panel {
    /// Start of the group's matrix.
    pub base: usize,
    /// Elements from row to row.
    pub stride: usize,
    /// The tile's first index along the result.
    pub first: usize,
    /// End along the result.
    pub end: usize,
    /// Rows from the first half to the second ([`Access::split`]).
    pub half: usize,
}
