//! The order in which slots are computed: sorted by expert, on the device.

use std::sync::{Arc, OnceLock};

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::{HostPlan, fused, reference};
use crate::{Kernels, host};

/// Chosen experts of T tokens, and the permutation that groups them.
///
/// A slot is one (token, choice) pair, numbered `token · k + choice`. Every tensor is on the
/// device; only [`Plan::host`] waits for it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Tokens routed, T.
    pub tokens: usize,
    /// Choices of a token, k.
    pub top_k: usize,
    /// Experts, E.
    pub experts: usize,
    /// The most slots that one expert keeps; `None`: all.
    pub capacity: Option<usize>,
    /// Chosen experts `[T, k]`, best first.
    pub indices: Tensor<2, Int>,
    /// How often each expert was chosen, dropped slots included `[E]`.
    pub chosen: Tensor<1, Int>,
    /// Where each expert's run of `slots` begins, and the end of the last `[E + 1]`.
    pub offsets: Tensor<1, Int>,
    /// Kept slots in order of expert, then of number `[T · k]`; behind the last of them `T · k`.
    pub slots: Tensor<1, Int>,
    /// Position of each slot in `slots` `[T · k]`; of dropped ones `T · k`.
    pub positions: Tensor<1, Int>,
    on_host: Arc<OnceLock<HostPlan>>,
}

impl Plan {
    /// The plan of given choices `[T, k]`, each below `experts`, as when a pass is repeated.
    /// `capacity`: the most that one expert keeps; later slots are dropped first.
    pub fn from_indices(indices: Tensor<2, Int>, experts: usize, capacity: Option<usize>) -> Self {
        if fused::computes(&indices, experts, Kernels::Fused) {
            fused::plan(indices, experts, capacity)
        } else {
            reference::plan(indices, experts, capacity)
        }
    }

    /// Of tensors that a kernel made: chosen, offsets, slots, positions.
    pub(super) fn on_device(
        indices: Tensor<2, Int>,
        experts: usize,
        capacity: Option<usize>,
        [chosen, offsets, slots, positions]: [Tensor<1, Int>; 4],
    ) -> Self {
        let [tokens, top_k] = indices.dims();
        Self {
            tokens,
            top_k,
            experts,
            capacity,
            indices,
            chosen,
            offsets,
            slots,
            positions,
            on_host: Arc::default(),
        }
    }

    /// Uploads `plan`, which was made with this `capacity`.
    pub(super) fn upload(plan: HostPlan, capacity: Option<usize>, device: &Device) -> Self {
        let (tokens, top_k) = (plan.tokens(), plan.top_k);
        let count = plan.experts.len();
        let tensor = |values: Vec<i32>| {
            let length = values.len();
            Tensor::<1, Int>::from_data(TensorData::new(values, [length]), device)
        };
        let signed = |values: &[u32]| -> Vec<i32> { values.iter().map(|&v| v as i32).collect() };
        let mut slots = signed(&plan.slots);
        slots.resize(count, count as i32);
        let mut positions = vec![count as i32; count];
        for (position, &slot) in plan.slots.iter().enumerate() {
            positions[slot as usize] = position as i32;
        }
        Self {
            tokens,
            top_k,
            experts: plan.expert_count(),
            capacity,
            indices: tensor(signed(&plan.experts)).reshape([tokens, top_k]),
            chosen: tensor(signed(&plan.chosen)),
            offsets: tensor(plan.offsets.iter().map(|&offset| offset as i32).collect()),
            slots: tensor(slots),
            positions: tensor(positions),
            on_host: Arc::new(OnceLock::from(plan)),
        }
    }

    /// The same on the host. The first call waits for the device, unless the plan was made on the
    /// host.
    pub fn host(&self) -> &HostPlan {
        self.on_host.get_or_init(|| {
            let experts = host::integers(self.indices.clone());
            let experts = experts.iter().map(|&expert| expert as u32).collect();
            HostPlan::new(experts, self.top_k, self.experts, self.capacity)
        })
    }
}

/// Slots that one expert takes under a capacity factor: `⌈factor · T · k / E⌉`.
pub fn capacity_of(factor: f64, tokens: usize, top_k: usize, experts: usize) -> usize {
    (factor * (tokens * top_k) as f64 / experts as f64).ceil() as usize
}
