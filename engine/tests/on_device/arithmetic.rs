//! What Burn is asked to compute, as its fusion records it. Vulkan stores bf16 and multiplies
//! matrices of it, and does no arithmetic in it: so none of Burn's may get 16 bits, of either type,
//! which shows on every device that stores one of them.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use bellows_engine::kernels::Compute;
use bellows_engine::model::Numerics;
use bellows_engine::objective::RouterObjective;
use bellows_engine::observer::NoObserver;
use bellows_engine::optim::{AdamW, AdamWConfig};
use bellows_engine::step::{Backpropagation, Settings, run_with};
use bellows_engine::stream::{self, Keep};
use burn::backend::StreamId;
use burn::backend::fusion::observer::{BlockOperations, FusionObservation, FusionObserver};
use burn::backend::ir::OperationIr;
use burn::tensor::{DType, Device, Tensor};

use crate::batches::divided;
use crate::device::test_device;
use crate::models::{build_with, coe, deepseek_v3, llama_tied, qwen3_sliding};
use crate::numbers::host;

/// Arithmetic on 16 bits that one thread asked Burn for.
struct Found {
    thread: StreamId,
    operations: Mutex<BTreeSet<String>>,
}

impl FusionObserver for Found {
    fn registered(&self, operation: &OperationIr) {
        // Base operations move, reshape and convert.
        let computes = matches!(
            operation,
            OperationIr::NumericFloat(..)
                | OperationIr::Float(..)
                | OperationIr::Module(_)
                | OperationIr::Activation(_)
        );
        let small = operation
            .inputs()
            .any(|tensor| matches!(tensor.dtype, DType::F16 | DType::BF16));
        // The server works in the name of the thread that asked.
        if computes && small && StreamId::current() == self.thread {
            let mut operations = self.operations.lock().expect("nobody panicked");
            operations.insert(format!("{operation:?}"));
        }
    }

    fn block_starts(&self, _block: BlockOperations<'_>) {}

    fn block_ran(&self) {}
}

/// Arithmetic on 16 bits that `work` asks Burn for on `device`.
fn arithmetic_of(device: &Device, work: impl FnOnce()) -> Vec<String> {
    let found = Arc::new(Found {
        thread: StreamId::current(),
        operations: Mutex::default(),
    });
    device.sync().expect("the device works");
    let observation = FusionObservation::new(found.clone());
    work();
    device.sync().expect("the device works");
    drop(observation);
    let operations = found.operations.lock().expect("nobody panicked");
    operations.iter().cloned().collect()
}

#[test]
fn no_arithmetic_of_burns_receives_sixteen_bits_in_any_way_to_make_a_step() {
    let Some(device) = test_device() else { return };
    let types = [Compute::F16, Compute::Bf16];
    let stored: Vec<Compute> = types
        .into_iter()
        .filter(|compute| device != Device::flex() && compute.stored_by(&device))
        .collect();
    if stored.is_empty() {
        println!(
            "SKIPPED no_arithmetic_of_burns_receives_sixteen_bits_in_any_way_to_make_a_step: the \
             device has kernels for no 16-bit type"
        );
    }
    let tracked = device.clone().autodiff();
    let streamed = |chunk, keep, keep_attention| {
        Backpropagation::Streamed(stream::Settings {
            chunk,
            keep,
            keep_attention,
        })
    };
    let ways = [
        Backpropagation::Plain,
        streamed(None, Keep::Compute, true),
        streamed(Some(3), Keep::F32, false),
    ];
    for compute in stored {
        for config in [qwen3_sliding(), llama_tied(), deepseek_v3(), coe()] {
            for weights in [Compute::F32, compute] {
                let numerics = Numerics {
                    compute,
                    weights,
                    ..Numerics::default()
                };
                for backpropagation in ways {
                    let found = arithmetic_of(&device, || {
                        let model = build_with(&config, numerics, &device);
                        let settings = Settings {
                            backpropagation,
                            ..Settings::default()
                        };
                        let routers = RouterObjective::default();
                        let seen = &mut NoObserver;
                        let step =
                            run_with(&model, &divided(), &routers, &tracked, seen, &settings);
                        assert!(step.losses.total.is_finite());
                        if weights == Compute::F32 {
                            let mut optimizer = AdamW::new(&AdamWConfig::default());
                            optimizer.apply(model, step.gradients, 0.01);
                        }
                    });
                    assert!(
                        found.is_empty(),
                        "{compute:?}, {weights:?}, {backpropagation:?}: {found:#?}"
                    );
                }
            }
        }
        // What is looked for is found where it is.
        let found = arithmetic_of(&device, || {
            let small = Tensor::<1>::ones([4], &device).cast(compute.dtype());
            drop(host(small.clone().mul(small).cast(DType::F32)));
        });
        assert!(!found.is_empty(), "{compute:?}");
    }
}
