//! Inputs of layers and results of attention, kept from forward to backward.

use std::borrow::Borrow;

use bellows_kernels::Compute;
use bellows_kernels::attention::Known;
use bellows_kernels::convert::convert;
use bellows_kernels::host::Moved;
use bellows_kernels::memory;
use burn::tensor::{Device, Int, Tensor};
use serde::{Deserialize, Serialize};

use crate::model::Embedding;

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
    /// layer and chunk; backward queues each upload a chunk ahead. On the CPU backend, whose memory
    /// that is, the same as [`Keep::F32`].
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

    /// What it comes to on a device that is a `gpu`, or is none.
    pub(crate) fn on(self, gpu: bool) -> Self {
        match self {
            Self::Host if !gpu => Self::F32,
            keep => keep,
        }
    }
}

fn on_gpu<const D: usize>(tensor: &Tensor<D>) -> bool {
    tensor.device().without_autodiff() != Device::flex()
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
    /// Nowhere: the first layer's input is rows of the embedding, which are looked up again, by the
    /// chunk's tokens.
    Embedded(Tensor<1, Int>),
}

impl Kept {
    /// Keeps `x`, without autodiff, of a model that multiplies in `compute`.
    pub fn new(x: Tensor<2>, keep: Keep, compute: Compute) -> Self {
        match keep.on(on_gpu(&x)) {
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

    /// The chunk in f32 on `device`, without autodiff; `embedding` is the model's, likewise.
    pub fn restore(&self, embedding: &Embedding, device: &Device) -> Tensor<2> {
        match self {
            Self::Device(x) => convert(x.clone(), Compute::F32),
            Self::Host(moved) => moved.restore(&device.clone().without_autodiff()),
            Self::Embedded(ids) => {
                let rows = embedding.forward(ids.clone());
                memory::note(&rows);
                rows
            }
        }
    }
}

/// The result of one layer's attention over a chunk.
#[derive(Clone, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "one a layer and chunk; a box would save bytes beside megabytes"
)]
pub enum KeptAttention {
    /// On the device, as it was or rounded.
    Device(Known),
    /// The result is on the host.
    Host {
        /// The result.
        y: Moved<4>,
        /// Log-sum-exps, few beside it, on the device.
        log_sums: Tensor<3>,
    },
}

impl KeptAttention {
    /// Keeps `known` of a model that multiplies in `compute`.
    pub fn new(known: Known, keep: Keep, compute: Compute) -> Self {
        const OWNER: &str = "attention";
        memory::keep(&known.log_sums, OWNER);
        let known = match keep.on(on_gpu(&known.y)) {
            Keep::F32 => known,
            Keep::Compute => known.stored(compute),
            Keep::Host => {
                let Known { y, log_sums } = known;
                let y = Moved::new(y);
                return Self::Host { y, log_sums };
            }
        };
        memory::keep(&known.y, OWNER);
        Self::Device(known)
    }

    /// What was kept, on `device`.
    pub fn restore(self, device: &Device) -> Known {
        match self {
            Self::Device(known) => known,
            Self::Host { y, log_sums } => Known {
                y: y.restore(&device.clone().without_autodiff()),
                log_sums,
            },
        }
    }
}

/// The chunks in f32 on `device`, in the order of `kept`. One that comes from the host is restored
/// while the one ahead of it is worked on; the others cost nothing to have, and are restored when
/// they are asked for. What `kept` owns is let go as it is restored.
pub fn restored<'a, I>(
    kept: I,
    embedding: &'a Embedding,
    device: &'a Device,
) -> impl Iterator<Item = Tensor<2>> + use<'a, I>
where
    I: Iterator,
    I::Item: Borrow<Kept>,
{
    let mut kept = kept.peekable();
    let mut ahead: Option<Tensor<2>> = None;
    std::iter::from_fn(move || {
        let now = match ahead.take() {
            Some(restored) => restored,
            None => kept.next()?.borrow().restore(embedding, device),
        };
        if matches!(kept.peek().map(Borrow::borrow), Some(Kept::Host(_))) {
            ahead = kept
                .next()
                .map(|kept| kept.borrow().restore(embedding, device));
        }
        Some(now)
    })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use burn::tensor::Device;

    use super::*;
    use crate::model::Init;

    #[test]
    fn a_chunk_from_the_host_is_fetched_while_the_one_ahead_of_it_is_worked_on() {
        let device = Device::flex();
        let embedding = Embedding::new(&mut Init::random(&device, 1, 0.1), 3, 4, None);
        let chunks: Vec<Tensor<2>> = (0..3)
            .map(|number| Tensor::full([2, 4], number as f32, &device))
            .collect();
        let asked = Cell::new(0);
        let counted = |kept: Vec<Kept>| {
            asked.set(0);
            kept.into_iter().inspect(|_| asked.set(asked.get() + 1))
        };
        let host = |x: &Tensor<2>| Kept::Host(Moved::new(x.clone()));
        let mut restored_host = restored(
            counted(chunks.iter().map(host).collect()),
            &embedding,
            &device,
        );
        for (number, fetched) in [(0.0, 2), (1.0, 3), (2.0, 3)] {
            let chunk = restored_host.next().expect("a chunk");
            assert_eq!(chunk.max().into_scalar::<f32>(), number);
            assert_eq!(asked.get(), fetched);
        }
        assert!(restored_host.next().is_none());
        drop(restored_host);
        // What lies on the device costs nothing to have, and is not held twice.
        let here = |x: &Tensor<2>| Kept::Device(x.clone());
        let kept = counted(chunks.iter().map(here).collect());
        let mut there = restored(kept, &embedding, &device);
        there.next().expect("a chunk");
        // `peek` looks at the next and restores nothing.
        assert_eq!(asked.get(), 2);
        assert_eq!(there.count(), 2);
    }
}
