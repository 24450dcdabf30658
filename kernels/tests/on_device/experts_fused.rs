//! The experts' kernels against the reference, by hazard, in every type that the device stores.

use bellows_kernels::experts::reference::{Inputs, Layout};
use bellows_kernels::experts::{Bank, Block, Gradients, Settings, backward, forward, reference};
use bellows_kernels::routing::Plan;
use bellows_kernels::{Compute, Kernels, memcheck, tuning};
use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::device::test_device;
use crate::oracle::{TOLERANCE, assert_close, host, noise, tensor};

/// One case.
#[derive(Clone, Copy)]
struct Case {
    tokens: usize,
    hidden: usize,
    inner: usize,
    experts: usize,
    top_k: usize,
    capacity: Option<usize>,
}

const CASE: Case = Case {
    tokens: 131,
    hidden: 136,
    inner: 72,
    experts: 5,
    top_k: 3,
    capacity: None,
};

/// Values of a case's tensors, the same on every device.
struct Values {
    case: Case,
    x: Vec<f32>,
    weights: Vec<f32>,
    gate_up: Vec<f32>,
    down: Vec<f32>,
    dy: Vec<f32>,
    choices: Vec<i32>,
}

impl Values {
    /// Choices by `choose(token, choice)`.
    fn new(case: Case, choose: impl Fn(usize, usize) -> usize) -> Self {
        let Case {
            tokens,
            hidden,
            inner,
            experts,
            top_k,
            ..
        } = case;
        // Scaled as trained weights are: sums of order one, so that rounding shows relative to it.
        let scaled = |seed, count: usize, fan: usize| -> Vec<f32> {
            let factor = (3.0 / fan as f32).sqrt();
            noise(seed, count).iter().map(|v| v * factor).collect()
        };
        Self {
            case,
            x: noise(1, tokens * hidden),
            weights: noise(2, tokens * top_k).iter().map(|w| w.abs()).collect(),
            gate_up: scaled(3, experts * 2 * inner * hidden, hidden),
            down: scaled(4, experts * hidden * inner, inner),
            dy: noise(5, tokens * hidden),
            choices: (0..tokens * top_k)
                .map(|slot| choose(slot / top_k, slot % top_k) as i32)
                .collect(),
        }
    }

    fn plan(&self, device: &Device) -> Plan {
        let shape = [self.case.tokens, self.case.top_k];
        let indices =
            Tensor::<2, Int>::from_data(TensorData::new(self.choices.clone(), shape), device);
        memcheck::watch();
        let indices = memcheck::place_integers(indices);
        Plan::from_indices(indices, self.case.experts, self.case.capacity)
    }

    fn inputs(&self, device: &Device) -> Inputs {
        let Case {
            tokens,
            hidden,
            inner,
            experts,
            top_k,
            ..
        } = self.case;
        Inputs {
            x: tensor(self.x.clone(), [tokens, hidden], device),
            weights: tensor(self.weights.clone(), [tokens, top_k], device),
            experts: Bank::whole(
                tensor(self.gate_up.clone(), [experts, 2 * inner, hidden], device),
                tensor(self.down.clone(), [experts, hidden, inner], device),
            ),
        }
    }

    fn dy(&self, device: &Device) -> Tensor<2> {
        tensor(
            self.dy.clone(),
            [self.case.tokens, self.case.hidden],
            device,
        )
    }

    fn reference(&self) -> (Vec<f32>, [Vec<f32>; 4]) {
        let device = Device::flex();
        let (inputs, plan) = (self.inputs(&device), self.plan(&device));
        let layout = Layout::new(&plan, &device);
        let (y, pre) = reference::forward(&inputs, &layout);
        let gradients = reference::backward(self.dy(&device), &inputs, &layout, pre);
        (host(y), read(gradients))
    }

    fn fused(&self, device: &Device, settings: Settings) -> (Vec<f32>, [Vec<f32>; 4]) {
        let (inputs, plan) = (self.inputs(device), self.plan(device));
        let pass = forward(&inputs, &plan, None, settings);
        let gradients = backward(self.dy(device), &inputs, &plan, pass.kept, None, settings);
        (host(pass.y), read(gradients))
    }
}

fn read(gradients: Gradients) -> [Vec<f32>; 4] {
    [
        host(gradients.x),
        host(gradients.weights),
        host(gradients.experts.gate_up()),
        host(gradients.experts.down()),
    ]
}

/// The device under test if it runs CubeCL; on the CPU backend the reference is all there is.
fn gpu() -> Option<Device> {
    test_device().filter(|device| *device != Device::flex())
}

/// The types that the device stores.
fn types(device: &Device) -> Vec<Compute> {
    [Compute::F32, Compute::F16, Compute::Bf16]
        .into_iter()
        .filter(|compute| compute.stored_by(device))
        .collect()
}

/// What a result may differ by: f32 sums in another order; else, for a sum of a single term, the
/// roundings on its way: the gradient and the activation once each, and through SwiGLU's slope,
/// which doubles them at most, gate and up once each and their two operands with them.
fn tolerance(compute: Compute) -> f32 {
    match compute {
        Compute::F32 => TOLERANCE,
        other => 12.0 * other.rounding(),
    }
}

fn compare(
    what: &str,
    found: &(Vec<f32>, [Vec<f32>; 4]),
    wanted: &(Vec<f32>, [Vec<f32>; 4]),
    tolerance: f32,
) {
    assert_close(&format!("{what}: y"), &found.0, &wanted.0, tolerance);
    let names = ["x", "weights", "gate_up", "down"];
    for (name, (found, wanted)) in names.iter().zip(found.1.iter().zip(&wanted.1)) {
        let what = format!("{what}: gradient of {name}");
        assert_close(&what, found, wanted, tolerance);
    }
}

fn check(case: Case, choose: impl Fn(usize, usize) -> usize) {
    let Some(device) = gpu() else { return };
    let values = Values::new(case, choose);
    let wanted = values.reference();
    for compute in types(&device) {
        for recompute in [false, true] {
            let settings = Settings {
                kernels: Kernels::Fused,
                compute,
                recompute,
            };
            let what = format!("{compute:?}, recompute {recompute}");
            let found = values.fused(&device, settings);
            compare(&what, &found, &wanted, tolerance(compute));
            // Also on a device that takes others: on no other may the tests ever run.
            let found =
                tuning::with_tile(tuning::THROUGH_MEMORY, || values.fused(&device, settings));
            let what = format!("{what}, through workgroup memory");
            compare(&what, &found, &wanted, tolerance(compute));
        }
    }
}

/// Uneven, with expert 3 of 5 idle.
fn uneven(token: usize, choice: usize) -> usize {
    [[0, 4, 1], [4, 0, 2], [0, 2, 1]][token * token % 3][choice]
}

#[test]
fn tails_of_rows_columns_and_depth_with_an_idle_expert() {
    check(CASE, uneven);
}

#[test]
fn several_tiles_a_group() {
    check(
        Case {
            tokens: 700,
            hidden: 264,
            inner: 136,
            experts: 3,
            top_k: 2,
            ..CASE
        },
        |token, choice| if token % 7 == 0 { 2 - choice } else { choice },
    );
}

#[test]
fn widths_that_no_vector_divides() {
    check(
        Case {
            tokens: 37,
            hidden: 13,
            inner: 7,
            ..CASE
        },
        uneven,
    );
}

#[test]
fn widths_of_four_but_not_eight() {
    check(
        Case {
            tokens: 70,
            hidden: 20,
            inner: 12,
            ..CASE
        },
        uneven,
    );
}

#[test]
fn a_tiny_inner_width() {
    check(
        Case {
            tokens: 33,
            hidden: 8,
            inner: 1,
            ..CASE
        },
        uneven,
    );
}

#[test]
fn one_expert_takes_every_token() {
    check(Case { top_k: 1, ..CASE }, |_, _| 2);
}

#[test]
fn a_token_that_chooses_one_expert_twice() {
    check(Case { top_k: 2, ..CASE }, |token, _| token % 5);
}

#[test]
fn a_single_expert_and_a_single_token() {
    check(
        Case {
            experts: 1,
            top_k: 1,
            ..CASE
        },
        |_, _| 0,
    );
    check(
        Case {
            tokens: 1,
            top_k: 2,
            ..CASE
        },
        |_, choice| 4 - choice,
    );
}

#[test]
fn every_expert_chosen() {
    check(
        Case {
            experts: 3,
            top_k: 3,
            ..CASE
        },
        |token, choice| (token + choice) % 3,
    );
}

#[test]
fn more_experts_than_units_of_a_workgroup() {
    check(
        Case {
            tokens: 50,
            hidden: 16,
            inner: 8,
            experts: 1000,
            top_k: 4,
            capacity: None,
        },
        |token, choice| (token * 37 + choice * 251) % 1000,
    );
}

#[test]
fn dropped_slots_add_nothing() {
    check(
        Case {
            capacity: Some(20),
            ..CASE
        },
        uneven,
    );
    check(
        Case {
            capacity: Some(0),
            ..CASE
        },
        uneven,
    );
}

#[test]
fn every_tile_of_cooperative_matrices_with_tails_on_all_sides() {
    let Some(device) = gpu() else { return };
    // Wider than every tile, and a tail in rows, columns and depth.
    let case = Case {
        tokens: 400,
        hidden: 296,
        inner: 152,
        experts: 3,
        top_k: 2,
        capacity: Some(290),
    };
    let values = Values::new(case, |token, choice| (token * token + choice) % 3);
    let wanted = values.reference();
    let mut tiles = 0;
    for compute in [Compute::F16, Compute::Bf16] {
        if !compute.stored_by(&device) {
            continue;
        }
        for tile in tuning::tiles(&device, compute) {
            let settings = Settings {
                compute,
                ..Settings::default()
            };
            let found = tuning::with_tile(tile, || values.fused(&device, settings));
            let what = format!("{compute:?}, {tile}");
            compare(&what, &found, &wanted, tolerance(compute));
            tiles += 1;
        }
    }
    if tiles == 0 {
        println!(
            "SKIPPED every_tile_of_cooperative_matrices_with_tails_on_all_sides: \
             the device has no cooperative matrices"
        );
    }
}

#[test]
fn bounds_checks_change_no_bit() {
    let Some(device) = gpu() else { return };
    for (case, choose) in [
        (CASE, uneven as fn(usize, usize) -> usize),
        (
            Case {
                tokens: 37,
                hidden: 13,
                inner: 7,
                capacity: Some(20),
                ..CASE
            },
            uneven,
        ),
    ] {
        let values = Values::new(case, choose);
        for compute in types(&device) {
            let settings = Settings {
                compute,
                ..Settings::default()
            };
            let unchecked = values.fused(&device, settings);
            let checked = memcheck::with_bounds_checks(|| values.fused(&device, settings));
            assert_eq!(unchecked.0, checked.0, "{compute:?}: y");
            assert_eq!(unchecked.1, checked.1, "{compute:?}: gradients");
        }
    }
}

#[test]
fn two_runs_give_the_same_bits() {
    let Some(device) = gpu() else { return };
    let values = Values::new(CASE, uneven);
    for compute in types(&device) {
        let settings = Settings {
            compute,
            ..Settings::default()
        };
        let (first, second) = (
            values.fused(&device, settings),
            values.fused(&device, settings),
        );
        assert_eq!(first.0, second.0);
        assert_eq!(first.1, second.1);
    }
}

#[test]
fn strided_inputs_are_read_where_they_lie() {
    let Some(device) = gpu() else { return };
    let values = Values::new(CASE, uneven);
    let wanted = values.fused(&device, Settings::default());
    // The same numbers with the first and the last axis swapped in memory.
    let turned = |values: &[f32], [outer, middle, last]: [usize; 3]| -> Tensor<3> {
        let at = |i: usize| {
            let (a, b, c) = (i % outer, i / outer % middle, i / outer / middle);
            values[(a * middle + b) * last + c]
        };
        let swapped = (0..values.len()).map(at).collect();
        tensor(swapped, [last, middle, outer], &device).swap_dims(0, 2)
    };
    let flat = |values: &[f32], columns: usize| -> Tensor<2> {
        turned(values, [values.len() / columns, 1, columns]).squeeze_dim(1)
    };
    let Case {
        hidden,
        inner,
        experts,
        top_k,
        ..
    } = CASE;
    let plan = values.plan(&device);
    let inputs = Inputs {
        x: flat(&values.x, hidden),
        weights: flat(&values.weights, top_k),
        experts: Bank::whole(
            turned(&values.gate_up, [experts, 2 * inner, hidden]),
            turned(&values.down, [experts, hidden, inner]),
        ),
    };
    let pass = forward(&inputs, &plan, None, Settings::default());
    let gradients = backward(
        flat(&values.dy, hidden),
        &inputs,
        &plan,
        pass.kept,
        None,
        Settings::default(),
    );
    assert_eq!(host(pass.y), wanted.0);
    assert_eq!(read(gradients), wanted.1);
}

#[test]
fn weight_gradients_add_into_given_buffers() {
    let Some(device) = gpu() else { return };
    let values = Values::new(CASE, uneven);
    let (_, wanted) = values.fused(&device, Settings::default());
    let (inputs, plan) = (values.inputs(&device), values.plan(&device));
    let pass = forward(&inputs, &plan, None, Settings::default());
    let sums = inputs.experts.map(|tensor| tensor.ones_like());
    let gradients = backward(
        values.dy(&device),
        &inputs,
        &plan,
        pass.kept,
        Some(sums),
        Settings::default(),
    );
    let found = read(gradients);
    for index in [2, 3] {
        let plus_one: Vec<f32> = wanted[index].iter().map(|v| v + 1.0).collect();
        assert_close("sum", &found[index], &plus_one, TOLERANCE);
    }
}

#[test]
fn the_residual_is_added() {
    let Some(device) = gpu() else { return };
    let values = Values::new(CASE, uneven);
    let (inputs, plan) = (values.inputs(&device), values.plan(&device));
    let plain = forward(&inputs, &plan, None, Settings::default());
    let residual = forward(
        &inputs,
        &plan,
        Some(values.dy(&device)),
        Settings::default(),
    );
    let wanted = host(plain.y.add(values.dy(&device)));
    assert_close("y", &host(residual.y), &wanted, TOLERANCE);
}

/// The experts of `bank` in blocks of so many.
fn divided(bank: &Bank, lengths: &[usize]) -> Bank {
    let (gate_up, down) = (bank.gate_up(), bank.down());
    let mut first = 0;
    let block = |&own: &usize| {
        let of = |stacked: &Tensor<3>| stacked.clone().narrow(0, first, own);
        let block = Block {
            gate_up: of(&gate_up),
            down: of(&down),
        };
        first += own;
        block
    };
    Bank::new(lengths.iter().map(block).collect())
}

#[test]
fn experts_in_several_blocks_change_no_bit() {
    let Some(device) = gpu() else { return };
    // Expert 3 is idle, and in a block of its own; the last two are shared. Dropped slots as well.
    let case = Case {
        experts: 7,
        capacity: Some(60),
        ..CASE
    };
    let values = Values::new(case, uneven);
    let shape = [case.tokens, case.top_k];
    let indices =
        Tensor::<2, Int>::from_data(TensorData::new(values.choices.clone(), shape), &device);
    let plan = Plan::from_indices(indices, 5, case.capacity);
    for compute in types(&device) {
        for (recompute, start) in [(false, None), (true, Some(0.5))] {
            let settings = Settings {
                compute,
                recompute,
                ..Settings::default()
            };
            let run = |lengths: &[usize]| {
                let mut inputs = values.inputs(&device);
                inputs.experts = divided(&inputs.experts, lengths);
                let pass = forward(&inputs, &plan, None, settings);
                let sums = start.map(|start: f32| {
                    inputs
                        .experts
                        .map(|tensor| tensor.mul_scalar(0.0).add_scalar(start))
                });
                let dy = values.dy(&device);
                let gradients = backward(dy, &inputs, &plan, pass.kept, sums, settings);
                assert_eq!(gradients.experts.blocks().len(), lengths.len());
                (host(pass.y), read(gradients))
            };
            let one = run(&[7]);
            assert!(one.0.iter().any(|&y| y != 0.0));
            for lengths in [&[4, 3][..], &[3, 1, 2, 1], &[1; 7]] {
                assert_eq!(run(lengths), one, "{compute:?}, blocks of {lengths:?}");
            }
        }
    }
}
