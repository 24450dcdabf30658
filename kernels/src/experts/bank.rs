//! The matrices of a layer's experts, in one buffer or in several.

use burn::tensor::{Device, Tensor};

use crate::Compute;
use crate::convert::convert;
use crate::vjp::{AnyTensor, Handover, bundle};

/// Experts that follow each other, with their matrices in one buffer a kind.
#[derive(Clone, Debug)]
pub struct Block {
    /// `[n, 2F, H]`: of each expert F gate rows, then F up rows.
    pub gate_up: Tensor<3>,
    /// `[n, H, F]`.
    pub down: Tensor<3>,
}

/// The matrices of all experts of a layer, routed ones first, then shared ones, in blocks of whole
/// experts: one block where a buffer of the device holds them all, as many as it takes where none
/// does ([`lengths`]). Gradients of a bank, and sums of them, are banks in the same blocks.
#[derive(Clone, Debug)]
pub struct Bank(Vec<Block>);

impl Bank {
    /// The experts of `blocks`, in order.
    ///
    /// # Panics
    /// If there is no block, or one's matrices are not of the same experts.
    pub fn new(blocks: Vec<Block>) -> Self {
        assert!(!blocks.is_empty(), "a bank has a block");
        for Block { gate_up, down } in &blocks {
            let ([experts, wide, hidden], [others, out, inner]) = (gate_up.dims(), down.dims());
            assert!(
                experts == others && hidden == out && wide == 2 * inner,
                "a block's matrices belong together: {:?} and {:?}",
                gate_up.dims(),
                down.dims()
            );
        }
        Self(blocks)
    }

    /// All experts in one block: `gate_up` `[G, 2F, H]` and `down` `[G, H, F]`.
    ///
    /// # Panics
    /// As [`Bank::new`].
    pub fn whole(gate_up: Tensor<3>, down: Tensor<3>) -> Self {
        Self::new(vec![Block { gate_up, down }])
    }

    /// The blocks, in the order of their experts.
    pub fn blocks(&self) -> &[Block] {
        &self.0
    }

    /// The blocks by value.
    pub fn into_blocks(self) -> Vec<Block> {
        self.0
    }

    /// Experts of all blocks.
    pub fn experts(&self) -> usize {
        self.0.iter().map(|block| block.gate_up.dims()[0]).sum()
    }

    /// Gate and up projections of all experts `[G, 2F, H]`: a copy where there are several blocks.
    pub fn gate_up(&self) -> Tensor<3> {
        self.joined(|block| &block.gate_up)
    }

    /// Down projections of all experts `[G, H, F]`: a copy where there are several blocks.
    pub fn down(&self) -> Tensor<3> {
        self.joined(|block| &block.down)
    }

    fn joined(&self, of: fn(&Block) -> &Tensor<3>) -> Tensor<3> {
        match self.0.as_slice() {
            [one] => of(one).clone(),
            several => Tensor::cat(several.iter().map(|block| of(block).clone()).collect(), 0),
        }
    }

    /// The matrices of one expert: `[2F, H]` and `[H, F]`.
    ///
    /// # Panics
    /// If there is no such expert.
    pub fn expert(&self, mut expert: usize) -> (Tensor<2>, Tensor<2>) {
        for Block { gate_up, down } in &self.0 {
            let own = gate_up.dims()[0];
            if expert < own {
                let of = |stacked: &Tensor<3>| stacked.clone().narrow(0, expert, 1).squeeze_dim(0);
                return (of(gate_up), of(down));
            }
            expert -= own;
        }
        panic!("no expert {expert} behind the last block");
    }

    /// The same outside of autodiff.
    #[must_use]
    pub fn without_autodiff(&self) -> Self {
        self.map(|tensor| tensor.without_autodiff())
    }

    /// The same stored in `compute`, as [`convert()`](crate::convert::convert) does.
    #[must_use]
    pub fn convert(&self, compute: Compute) -> Self {
        self.map(|tensor| convert(tensor, compute))
    }

    /// Every matrix changed by `change`.
    #[must_use]
    pub fn map(&self, change: impl Fn(Tensor<3>) -> Tensor<3>) -> Self {
        let changed = |block: &Block| Block {
            gate_up: change(block.gate_up.clone()),
            down: change(block.down.clone()),
        };
        Self(self.0.iter().map(changed).collect())
    }

    /// Element by element the sum with `other`, a bank in the same blocks.
    pub(crate) fn add(self, other: Self) -> Self {
        let sum = |(a, b): (Block, Block)| Block {
            gate_up: a.gate_up.add(b.gate_up),
            down: a.down.add(b.down),
        };
        Self(self.0.into_iter().zip(other.0).map(sum).collect())
    }

    /// Every tensor, in an order of its own.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = &Tensor<3>> {
        self.0
            .iter()
            .flat_map(|block| [&block.gate_up, &block.down])
    }

    /// The bank as one input of a function, and what takes the bank of its gradients.
    pub(crate) fn bundle(&self, device: &Device) -> (AnyTensor, Handover) {
        bundle(
            self.tensors().map(|tensor| tensor.clone().into()).collect(),
            device,
        )
    }

    /// The gradients that this bank is, as [`Bank::bundle`]'s second half takes them.
    pub(crate) fn into_gradients(self) -> Vec<AnyTensor> {
        let both = |block: Block| [block.gate_up.into(), block.down.into()];
        self.0.into_iter().flat_map(both).collect()
    }
}

/// How many experts each block holds where no buffer may be larger than `largest` bytes and one
/// expert's largest matrix takes `bytes`: as few blocks as will do, as equal as can be, each of one
/// expert at least. `None`: nothing limits a buffer.
pub fn lengths(experts: usize, bytes: u64, largest: Option<u64>) -> Vec<usize> {
    let most = largest.map_or(experts, |largest| {
        usize::try_from(largest / bytes.max(1)).unwrap_or(usize::MAX)
    });
    let blocks = experts.div_ceil(most.clamp(1, experts.max(1))).max(1);
    let (least, longer) = (experts / blocks, experts % blocks);
    (0..blocks)
        .map(|block| least + usize::from(block < longer))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::lengths;

    #[test]
    fn blocks_are_few_whole_and_within_the_limit() {
        assert_eq!(lengths(64, 100, None), [64]);
        assert_eq!(lengths(64, 100, Some(6400)), [64]);
        assert_eq!(lengths(64, 100, Some(6399)), [32, 32]);
        assert_eq!(lengths(7, 100, Some(300)), [3, 2, 2]);
        assert_eq!(lengths(3, 100, Some(100)), [1, 1, 1]);
        // An expert that no buffer takes is for the caller to refuse.
        assert_eq!(lengths(3, 100, Some(99)), [1, 1, 1]);
        for (experts, most) in [(65, 8), (1, 1), (256, 255), (256, 3)] {
            let lengths = lengths(experts, 10, Some(10 * most));
            assert_eq!(lengths.iter().sum::<usize>(), experts);
            assert!(
                lengths
                    .iter()
                    .all(|&own| (1..=most as usize).contains(&own))
            );
            assert_eq!(lengths.len(), experts.div_ceil(most as usize));
        }
    }
}
