//! A plan on the host: what the reference computes with, and tests and traces read.

/// Chosen experts of T tokens, and the permutation that groups them, as plain numbers.
///
/// A slot is one (token, choice) pair, numbered `token · k + choice`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPlan {
    /// Expert of each slot, dropped ones included `[T · k]`.
    pub experts: Vec<u32>,
    /// Choices of a token.
    pub top_k: usize,
    /// Slots in order of expert, then of token; dropped slots are left out.
    pub slots: Vec<u32>,
    /// Where each expert's run of `slots` begins, and the end `[E + 1]`.
    pub offsets: Vec<usize>,
    /// How often each expert was chosen, dropped slots included `[E]`.
    pub chosen: Vec<u32>,
}

impl HostPlan {
    /// Sorts slots by expert. `capacity`: the most that one expert takes; later tokens are
    /// dropped first.
    pub fn new(
        experts: Vec<u32>,
        top_k: usize,
        expert_count: usize,
        capacity: Option<usize>,
    ) -> Self {
        let limits = vec![capacity.unwrap_or(usize::MAX); expert_count];
        Self::with_limits(experts, top_k, &limits)
    }

    /// [`HostPlan::new`] with the most that each expert takes `[E]`.
    pub fn with_limits(experts: Vec<u32>, top_k: usize, limits: &[usize]) -> Self {
        let expert_count = limits.len();
        let mut chosen = vec![0u32; expert_count];
        for &expert in &experts {
            chosen[expert as usize] += 1;
        }
        let mut offsets = Vec::with_capacity(expert_count + 1);
        let mut end = 0;
        offsets.push(0);
        for (&count, &limit) in chosen.iter().zip(limits) {
            end += (count as usize).min(limit);
            offsets.push(end);
        }
        let mut next = offsets[..expert_count].to_vec();
        let mut slots = vec![0u32; end];
        for (slot, &expert) in experts.iter().enumerate() {
            let expert = expert as usize;
            if next[expert] < offsets[expert + 1] {
                slots[next[expert]] = slot as u32;
                next[expert] += 1;
            }
        }
        Self {
            experts,
            top_k,
            slots,
            offsets,
            chosen,
        }
    }

    /// The number of experts.
    pub fn expert_count(&self) -> usize {
        self.chosen.len()
    }

    /// Tokens routed.
    pub fn tokens(&self) -> usize {
        self.experts.len() / self.top_k
    }

    /// Slots left out because an expert was full.
    pub fn dropped(&self) -> usize {
        self.experts.len() - self.slots.len()
    }

    /// Position of each slot in `slots`; dropped ones point one past the end.
    pub fn positions(&self) -> Vec<u32> {
        let mut positions = vec![self.slots.len() as u32; self.experts.len()];
        for (position, &slot) in self.slots.iter().enumerate() {
            positions[slot as usize] = position as u32;
        }
        positions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_of_an_expert_stay_in_token_order() {
        let plan = HostPlan::new(vec![2, 0, 0, 2, 1, 2], 2, 4, None);
        assert_eq!(plan.slots, [1, 2, 4, 0, 3, 5]);
        assert_eq!(plan.offsets, [0, 2, 3, 6, 6]);
        assert_eq!(plan.chosen, [2, 1, 3, 0]);
        assert_eq!(plan.dropped(), 0);
        assert_eq!(plan.positions(), [3, 0, 1, 4, 2, 5]);
    }

    #[test]
    fn a_full_expert_drops_the_last_tokens_and_still_counts_them() {
        let plan = HostPlan::new(vec![2, 0, 0, 2, 1, 2], 2, 4, Some(1));
        assert_eq!(plan.slots, [1, 4, 0]);
        assert_eq!(plan.chosen, [2, 1, 3, 0]);
        assert_eq!(plan.dropped(), 3);
        assert_eq!(plan.positions(), [2, 0, 3, 3, 1, 3]);
    }
}
