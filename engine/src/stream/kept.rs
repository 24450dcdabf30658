//! Inputs of layers, kept from forward to backward.

use bellows_kernels::Compute;
use bellows_kernels::convert::convert;
use bellows_kernels::host::Moved;
use bellows_kernels::memory;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

/// Where and how the layers' inputs are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Keep {
    /// On the device in f32: exact.
    #[default]
    F32,
    /// On the device in the type that matrices are multiplied in: with f16 and bf16 half the
    /// memory, and what backward recomputes starts from rounded inputs.
    Compute,
    /// In host memory in f32: exact, and no device memory. Forward waits for the device once a
    /// layer and chunk; backward queues each upload a chunk ahead.
    Host,
}

impl Keep {
    /// Its name in a configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Compute => "compute",
            Self::Host => "host",
        }
    }
}

/// One chunk of a layer's input `[tokens, hidden]`.
#[derive(Clone, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "one a layer and chunk; a box would save bytes beside megabytes"
)]
pub enum Kept {
    /// On the device, as it was or rounded.
    Device(Tensor<2>),
    /// On the host.
    Host(Moved<2>),
}

impl Kept {
    /// Keeps `x`, without autodiff, of a model that multiplies in `compute`.
    pub fn new(x: Tensor<2>, keep: Keep, compute: Compute) -> Self {
        match keep {
            Keep::F32 => {
                memory::keep(&x, "layer input");
                Self::Device(x)
            }
            Keep::Compute => {
                let x = convert(x, compute);
                memory::keep(&x, "layer input");
                Self::Device(x)
            }
            Keep::Host => Self::Host(Moved::new(x)),
        }
    }

    /// The chunk in f32 on `device`, without autodiff.
    pub fn restore(&self, device: &Device) -> Tensor<2> {
        match self {
            Self::Device(x) => convert(x.clone(), Compute::F32),
            Self::Host(moved) => moved.restore(&device.clone().without_autodiff()),
        }
    }
}

/// The chunks in f32 on `device`, in the order of `kept`, each restored before the one ahead of it
/// is worked on.
pub fn restored<'a, I>(mut kept: I, device: &Device) -> impl Iterator<Item = Tensor<2>> + use<'a, I>
where
    I: Iterator<Item = &'a Kept>,
{
    let device = device.clone();
    let mut ahead = kept.next().map(|kept| kept.restore(&device));
    std::iter::from_fn(move || {
        let next = kept.next().map(|kept| kept.restore(&device));
        std::mem::replace(&mut ahead, next)
    })
}
