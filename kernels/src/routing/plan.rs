//! The order in which slots are computed: sorted by expert, on the device.

use std::sync::{Arc, OnceLock};

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::{HostPlan, fused, reference};
use crate::host::Reading;
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

    /// The same choices where an expert keeps `capacity` slots of a batch of which this plan's
    /// tokens are the next part: the parts before it chose each expert `before` `[E]` times. The
    /// drops of all parts together are those of the whole batch.
    ///
    /// A plan whose own capacity dropped something has lost the order that this needs: call it on
    /// one without.
    pub fn limited(&self, before: Tensor<1, Int>, capacity: usize) -> Self {
        if self.on_host.get().is_some()
            || !fused::computes(&self.indices, self.experts + 1, Kernels::Fused)
        {
            let chosen = self.host().experts.clone();
            let limits = host::integers(before).into_iter();
            let limits: Vec<usize> = limits
                .map(|taken| capacity.saturating_sub(taken as usize))
                .collect();
            let plan = HostPlan::with_limits(chosen, self.top_k, &limits);
            return Self::upload(plan, Some(capacity), &self.indices.device());
        }
        let count = self.tokens * self.top_k;
        let chosen = self.indices.clone().reshape([count]);
        // The rank of a slot among those of its expert, over all parts so far.
        let first = self.offsets.clone().narrow(0, 0, self.experts);
        let rank = self
            .positions
            .clone()
            .sub(first.select(0, chosen.clone()))
            .add(before.select(0, chosen.clone()));
        // Slots beyond the capacity go to one expert more, the last, which is then cut off.
        let kept = chosen.mask_fill(
            rank.greater_equal_elem(capacity as i32),
            self.experts as i32,
        );
        let sorted = fused::plan(
            kept.reshape([self.tokens, self.top_k]),
            self.experts + 1,
            None,
        );
        let end = sorted.offsets.clone().narrow(0, self.experts, 1);
        let behind =
            |positions: Tensor<1, Int>| positions.greater_equal(end.clone().expand([count]));
        let order = Tensor::<1, Int>::arange(0..count as i64, &self.indices.device());
        Self::on_device(
            self.indices.clone(),
            self.experts,
            Some(capacity),
            [
                self.chosen.clone(),
                sorted.offsets.narrow(0, 0, self.experts + 1),
                sorted.slots.mask_fill(behind(order), count as i32),
                sorted
                    .positions
                    .clone()
                    .mask_fill(behind(sorted.positions), count as i32),
            ],
        )
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
            let mut reading = Reading::default();
            let experts = reading.integers(self.indices.clone());
            let [slots, offsets, chosen] = [&self.slots, &self.offsets, &self.chosen]
                .map(|tensor| reading.integers(tensor.clone()));
            let read = reading.finish();
            let unsigned = |place: usize| -> Vec<u32> {
                let values = read.integers(place).into_iter();
                values.map(|value| value as u32).collect()
            };
            let offsets: Vec<usize> = unsigned(offsets)
                .into_iter()
                .map(|offset| offset as usize)
                .collect();
            let mut slots = unsigned(slots);
            slots.truncate(offsets[self.experts]);
            HostPlan {
                experts: unsigned(experts),
                top_k: self.top_k,
                slots,
                offsets,
                chosen: unsigned(chosen),
            }
        })
    }
}

/// Slots that one expert takes under a capacity factor: `⌈factor · T · k / E⌉`.
pub fn capacity_of(factor: f64, tokens: usize, top_k: usize, experts: usize) -> usize {
    (factor * (tokens * top_k) as f64 / experts as f64).ceil() as usize
}
