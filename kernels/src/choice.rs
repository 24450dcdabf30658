//! Choices that every family shares: whose kernels compute it, and in which type it multiplies.

use burn::backend::{Backend, DType, DTypeUsage, Dispatch};
use burn::tensor::Device;

/// Which implementation computes a family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Kernels {
    /// The family's own kernels where the device runs CubeCL, else the reference.
    #[default]
    Fused,
    /// Plain tensor operations on every device.
    Reference,
}

/// The type in which matrices are stored and multiplied. Sums are f32 in every case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Compute {
    /// 32 bits: nothing is rounded.
    #[default]
    F32,
    /// IEEE half precision: 11 bits of precision, largest value 65,504.
    F16,
    /// bfloat16: 8 bits of precision, the range of f32.
    Bf16,
}

impl Compute {
    /// Its tensor type.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::Bf16 => DType::BF16,
        }
    }

    /// Whether `device` holds and converts the type, which is all that kernels with f32 sums ask
    /// for. Arithmetic may still be missing: on Vulkan it is for bf16.
    pub fn stored_by(self, device: &Device) -> bool {
        Dispatch::dtype_usage(device.as_dispatch(), self.dtype()).contains(DTypeUsage::Storage)
    }

    /// Half the distance from 1 to the next value: the relative error of one rounding.
    pub fn rounding(self) -> f32 {
        match self {
            Self::F32 => f32::EPSILON / 2.0,
            Self::F16 => 4.9e-4,
            Self::Bf16 => 3.9e-3,
        }
    }
}
