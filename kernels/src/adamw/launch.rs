//! Launches of the optimizer: tensors are grouped, as many as the device binds at once.
//!
//! These take lists of tensors, which Burn's backend extensions do not pass on: primitives are
//! taken out of the tensors here.

use burn::backend::DType;
use burn::tensor::Tensor;
use burn_cubecl::ops::numeric::zeros_client;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::{CubeDim, SequenceArg};

use super::device::{self, CHUNK, OUTCOME, UNITS};
use super::{Moments, Parameter, Step};
use crate::gpu::{arg, contiguous, count, empty, grid, launch, own, primitive, tensor};
use crate::memory::note_primitive;

/// Most tensors of one launch: enough that launches cost little, few enough that a kernel's
/// branches do.
const MAX_GROUP: usize = 8;

/// Bindings of a launch beside those of its tensors: the outcome or partial sums, scalars and
/// lengths.
const OTHER_BINDINGS: usize = 3;

/// The factor on gradients, whether the step is applied and the global norm, `[3]`.
pub fn outcome(gradients: &[Tensor<1>], loss_scale: f64, limit: Option<f64>) -> Tensor<1> {
    let gradients: Vec<CubeTensor> = gradients
        .iter()
        .map(|gradient| contiguous(primitive(gradient.clone())))
        .collect();
    tensor(conclude(&gradients, loss_scale, limit))
}

fn conclude(gradients: &[CubeTensor], loss_scale: f64, limit: Option<f64>) -> CubeTensor {
    let like = &gradients[0];
    let scale = (1.0 / loss_scale) as f32;
    let chunks: usize = gradients.iter().map(chunks).sum();
    let partial = empty(like, [2 * chunks], DType::F32);
    let outcome = empty(like, [OUTCOME], DType::F32);
    let mut offset = 0;
    for group in gradients.chunks(group_size(like, 1)) {
        let (starts, cubes) = starts(group);
        // SAFETY: a workgroup reads its chunk below its tensor's length and writes its two words;
        // workgroups beyond the last write none.
        unsafe {
            launch!(device::squares(
                &like.client,
                grid(cubes),
                CubeDim::new_1d(UNITS as u32),
                buffers(group),
                starts,
                arg(&partial, 1),
                offset as u32,
                scale,
            ));
        }
        offset += cubes;
    }
    // SAFETY: reads `partial` below its length, writes the words of `outcome`.
    unsafe {
        launch!(device::conclude(
            &like.client,
            grid(1),
            CubeDim::new_1d(UNITS as u32),
            arg(&partial, 1),
            arg(&outcome, 1),
            scale,
            limit.unwrap_or_default() as f32,
            limit.is_some(),
        ));
    }
    outcome
}

/// Updates in place what nobody else holds, and a copy of what somebody does.
pub fn update(
    parameters: Vec<Parameter>,
    step: &Step,
) -> (Vec<(Tensor<1>, Moments<1>)>, Tensor<1>) {
    let (mut values, mut gradients) = (Vec::new(), Vec::new());
    let (mut firsts, mut seconds, mut decays) = (Vec::new(), Vec::new(), Vec::new());
    for parameter in parameters {
        let value = own(primitive(parameter.value));
        let zeros = || {
            let (client, device) = (value.client.clone(), value.device.clone());
            let zeros = zeros_client(client, device, [count(&value)].into(), DType::F32);
            // Until the optimizer names them, which it does when the update is done.
            note_primitive(&zeros);
            zeros
        };
        let (first, second) = match parameter.moments {
            Some(Moments { first, second }) => (own(primitive(first)), own(primitive(second))),
            None => (zeros(), zeros()),
        };
        decays.push((1.0 - step.learning_rate * parameter.weight_decay) as f32);
        gradients.push(contiguous(primitive(parameter.gradient)));
        values.push(value);
        firsts.push(first);
        seconds.push(second);
    }
    let outcome = conclude(&gradients, step.loss_scale, step.max_norm);
    let (correction1, correction2) = step.corrections();
    let size = group_size(&outcome, 4);
    for from in (0..values.len()).step_by(size) {
        let group = from..(from + size).min(values.len());
        let (starts, cubes) = starts(&gradients[group.clone()]);
        // SAFETY: a workgroup reads and writes its chunk below the gradient's length, which is
        // that of its parameter and moments.
        unsafe {
            launch!(device::update(
                &outcome.client,
                grid(cubes),
                CubeDim::new_1d(UNITS as u32),
                buffers(&values[group.clone()]),
                buffers(&gradients[group.clone()]),
                buffers(&firsts[group.clone()]),
                buffers(&seconds[group.clone()]),
                starts,
                decays[group].iter().copied().collect(),
                arg(&outcome, 1),
                step.beta1 as f32,
                step.beta2 as f32,
                (1.0 - step.beta1) as f32,
                (1.0 - step.beta2) as f32,
                step.eps as f32,
                (step.learning_rate / correction1) as f32,
                correction2.sqrt() as f32,
            ));
        }
    }
    let moments = firsts
        .into_iter()
        .zip(seconds)
        .map(|(first, second)| Moments {
            first: tensor(first),
            second: tensor(second),
        });
    let updated = values.into_iter().map(tensor).zip(moments).collect();
    (updated, tensor(outcome))
}

fn chunks(tensor: &CubeTensor) -> usize {
    count(tensor).div_ceil(CHUNK)
}

/// Tensors of a launch that binds `each` buffers for one.
fn group_size(like: &CubeTensor, each: usize) -> usize {
    let bindings = like.client.properties().hardware.max_bindings as usize;
    (bindings.saturating_sub(OTHER_BINDINGS) / each).clamp(1, MAX_GROUP)
}

/// First workgroup of each tensor, then their number; and that number.
fn starts(group: &[CubeTensor]) -> (SequenceArg<u32>, usize) {
    let mut starts = SequenceArg::new();
    let mut cubes = 0;
    starts.push(0);
    for tensor in group {
        cubes += chunks(tensor);
        starts.push(cubes as u32);
    }
    (starts, cubes)
}

fn buffers(group: &[CubeTensor]) -> SequenceArg<Box<[f32]>> {
    group.iter().map(|tensor| arg(tensor, 1)).collect()
}
