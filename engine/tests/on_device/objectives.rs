//! Preferences and rewards: their values by hand, their gradients by plain differentiation, and the
//! same step however it is divided.

use bellows_engine::config::ModelConfig;
use bellows_engine::kernels::cross_entropy::{Settings as Head, token_log_probabilities};
use bellows_engine::kernels::host::reads;
use bellows_engine::model::{Decoder, Input, Sequences};
use bellows_engine::objective::{
    BalanceScope, Mean, Measures, Objective, RouterObjective, Targets, advantages, dpo, grpo,
};
use bellows_engine::observer::NoObserver;
use bellows_engine::optim::Gradients;
use bellows_engine::policy;
use bellows_engine::step::{Backpropagation, IGNORE, MicroBatch, Settings, StepResult, run_with};
use bellows_engine::stream::{self, Keep};
use burn::module::Module;
use burn::tensor::activation::log_sigmoid;
use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::batches::{TIME, rows};
use crate::device::test_device;
use crate::models::{build, coe, llama_tied, mixtral, qwen3_sliding};
use crate::numbers::{assert_close, assert_near, distance, host};

const PREFERENCE: Objective = Objective::Dpo { beta: 0.5 };

const REWARD: Objective = Objective::Grpo {
    beta: 0.1,
    epsilon: 0.2,
    mean: Mean::Token,
};

const BY_SEQUENCE: Objective = Objective::Grpo {
    beta: 0.1,
    epsilon: 0.2,
    mean: Mean::Sequence,
};

fn tensor(values: &[f32], device: &Device) -> Tensor<1> {
    let device = device.clone().without_autodiff();
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), &device)
}

fn reported(report: Vec<Tensor<1>>) -> Vec<f32> {
    host(Tensor::cat(report, 0))
}

#[test]
fn a_preference_by_hand() {
    let Some(device) = test_device() else { return };
    // Chosen: -1 - 2 = -3 where the reference has -3.5, so half of 0.5. Rejected: -3 where it has
    // -2, so half of -1; its second position has no label.
    let logs = tensor(&[-1.0, -2.0, -3.0, 0.0], &device);
    let mask = tensor(&[1.0, 1.0, 1.0, 0.0], &device);
    let found = dpo::weigh(logs, mask, &[-3.5, -2.0], &[true], 0.5, 1);
    // h = 0.25 + 0.5 = 0.75; ln(1 + e^-0.75) = 0.3868710; sigmoid(-0.75) = 0.3208213.
    let report = reported(found.report);
    assert_close("report", &report, &[0.386_871, 0.25, -0.5, 1.0, 0.75]);
    let pull = 0.5 * 0.320_821_3;
    assert_close("weights", &host(found.weights), &[pull, pull, -pull, 0.0]);
}

#[test]
fn a_pair_that_is_not_there_counts_nothing_and_one_of_two_counts_half() {
    let Some(device) = test_device() else { return };
    let logs = tensor(&[-1.0, -3.0, 0.0, 0.0], &device);
    let mask = tensor(&[1.0, 1.0, 0.0, 0.0], &device);
    let reference = [-1.0, -3.0, 0.0, 0.0];
    let found = dpo::weigh(logs, mask, &reference, &[true, false], 0.1, 2);
    // The policy is the reference: h = 0, ln 2 of one pair in two, and no pair is better.
    let report = reported(found.report);
    assert_close(
        "report",
        &report,
        &[0.5 * std::f32::consts::LN_2, 0.0, 0.0, 0.0, 0.0],
    );
    assert_close("weights", &host(found.weights), &[0.025, -0.025, 0.0, 0.0]);
}

/// Two completions: the first, of advantage 1, has two tokens, the second, of -2, one.
fn rewarded(shares: [f32; 4], device: &Device) -> (Vec<f32>, Vec<f32>) {
    let logs = tensor(&[-1.0, -1.0, -2.0, 0.0], device);
    let mask = tensor(&[1.0, 1.0, 1.0, 0.0], device);
    let of = grpo::Tokens {
        advantages: &[1.0, 1.0, -2.0, -2.0],
        shares: &shares,
        old: &[-1.0, -1.5, -1.8, 0.0],
        reference: &[-1.2, -1.0, -2.0, 0.0],
    };
    let found = grpo::weigh(logs, mask, of, 0.1, 0.2, 3);
    (host(found.weights), reported(found.report))
}

#[test]
fn rewards_by_hand() {
    let Some(device) = test_device() else { return };
    // Ratios 1, e^0.5 = 1.6487 (clipped to 1.2: its advantage is positive) and e^-0.2 = 0.81873
    // (within 0.8 to 1.2). The first token is 0.2 nat above the reference, the others are at it:
    // k3 = e^-0.2 + 0.2 - 1 = 0.0187308.
    // Losses: -1 + 0.1 k3 = -0.9981269; -1.2; 2 * 0.81873 = 1.6374615.
    // Slopes: 1 + 0.1 (e^-0.2 - 1) = 0.9818731; none; -1.6374615.
    let third = 1.0 / 3.0;
    let (weights, report) = rewarded([third, third, third, 0.0], &device);
    assert_close("weights", &weights, &[0.327_291, 0.0, -0.545_820_5, 0.0]);
    let wanted = [-0.186_888_47, 0.006_243_584, third];
    assert_close("report", &report, &wanted);
    // By completions: (-0.9981269 - 1.2) / 2 / 2 + 1.6374615 / 2 = 0.2691990.
    let (weights, report) = rewarded([0.25, 0.25, 0.5, 0.0], &device);
    let wanted = [0.25 * 0.981_873_1, 0.0, -0.5 * 1.637_461_5, 0.0];
    assert_close("weights", &weights, &wanted);
    assert_near("loss", f64::from(report[0]), 0.269_199_02);
}

#[test]
fn a_ratio_is_clipped_on_the_side_where_it_would_gain_more_and_there_alone() {
    let Some(device) = test_device() else { return };
    // A ratio far above and one far below, with an advantage of each sign; and one so far off that
    // its exponential has no f32.
    let of = grpo::Tokens {
        advantages: &[1.0, -1.0, 1.0, -1.0, 0.0],
        shares: &[1.0; 5],
        old: &[-3.0, -3.0, -1.0, -1.0, -500.0],
        reference: &[],
    };
    let logs = tensor(&[-1.0, -1.0, -3.0, -3.0, -1.0], &device);
    let found = grpo::weigh(logs, tensor(&[1.0; 5], &device), of, 0.0, 0.2, 5);
    let (up, down) = (2f32.exp(), (-2f32).exp());
    // Gaining more is clipped, losing more is not.
    let wanted = [0.0, -up, down, 0.0, 0.0];
    assert_close("weights", &host(found.weights), &wanted);
    let report = reported(found.report);
    let wanted = [-1.2 + up - down + 0.8, 0.0, 0.4];
    assert_close("report", &report, &wanted);
}

/// Numbers from -1.5 to 0 that the policy would not give.
fn others(count: usize, seed: usize) -> Vec<f32> {
    (0..count)
        .map(|at| -2.0 - ((at * 7 + seed * 3) % 11) as f32 / 10.0)
        .collect()
}

/// Rows `first..end` with what `objective` has to know of them. Whatever the division, a row gets
/// the same.
fn batch(objective: &Objective, first: usize, end: usize) -> MicroBatch {
    let mut batch = rows(first, end);
    let here = first * TIME..end * TIME;
    let labelled = |seed: usize| -> Vec<f32> {
        let all = others(4 * TIME, seed);
        let labels = batch.labels.iter();
        let own = all[here.clone()].iter().zip(labels);
        own.map(|(&log, &label)| if label == IGNORE { 0.0 } else { log })
            .collect()
    };
    batch.targets = match objective {
        Objective::Dpo { .. } => Targets::Pairs {
            reference: labelled(1)
                .chunks(TIME)
                .map(|row| row.iter().sum())
                .collect(),
        },
        _ => Targets::Groups {
            advantages: advantages(&[0.5, 2.0, -1.0, 0.25])[first..end].to_vec(),
            old: labelled(2),
            reference: labelled(1),
        },
    };
    batch
}

fn routers(balance: BalanceScope) -> RouterObjective {
    RouterObjective {
        balance,
        balance_coefficient: 0.5,
        z_loss_coefficient: 0.1,
        ..RouterObjective::default()
    }
}

fn step(
    model: &Decoder,
    objective: Objective,
    batches: &[MicroBatch],
    way: Backpropagation,
    device: &Device,
) -> StepResult {
    let settings = Settings {
        backpropagation: way,
        objective,
        ..Settings::default()
    };
    let routers = routers(BalanceScope::Sequence);
    run_with(model, batches, &routers, device, &mut NoObserver, &settings)
}

fn streamed(chunk: Option<usize>) -> Backpropagation {
    Backpropagation::Streamed(stream::Settings {
        chunk,
        keep: Keep::F32,
        keep_attention: false,
    })
}

const ALL: [Objective; 3] = [PREFERENCE, REWARD, BY_SEQUENCE];

/// Up to 10⁻⁵, of losses, measures and every gradient.
fn assert_equal(what: &str, found: &StepResult, wanted: &StepResult) {
    let numbers = |step: &StepResult| {
        let losses = step.losses;
        let mut numbers = vec![losses.total, losses.objective, losses.cross_entropy];
        match step.measures {
            Measures::None => panic!("the objective measures something"),
            Measures::Pairs {
                chosen,
                rejected,
                accuracy,
                margin,
            } => numbers.extend([chosen, rejected, accuracy, margin]),
            Measures::Groups { kl, clip_fraction } => {
                numbers.extend([kl.expect("there is a reference"), clip_fraction]);
            }
        }
        numbers
            .into_iter()
            .map(|number| number as f32)
            .collect::<Vec<_>>()
    };
    let apart = distance(&numbers(found), &numbers(wanted));
    assert!(apart <= 1e-5, "{what}: losses are {apart:e} apart");
    for (name, gradient) in &wanted.gradients.by_name {
        let own = host(found.gradients.by_name[name].clone());
        let apart = distance(&own, &host(gradient.clone()));
        assert!(
            apart <= 1e-5,
            "{what}: gradient of {name} is {apart:e} apart"
        );
    }
}

#[test]
fn streaming_and_checkpointing_make_the_plain_step() {
    let Some(device) = test_device() else { return };
    for config in [coe(), qwen3_sliding(), llama_tied()] {
        let model = build(&config, &device);
        for objective in ALL {
            let batches = [batch(&objective, 0, 4)];
            let wanted = step(&model, objective, &batches, Backpropagation::Plain, &device);
            assert!(wanted.gradients.global_norm() > 1e-3);
            for chunk in [Some(3), Some(10), None] {
                let found = step(&model, objective, &batches, streamed(chunk), &device);
                let what = format!("{} in chunks of {chunk:?}", objective.as_str());
                assert_equal(&what, &found, &wanted);
            }
        }
    }
}

/// `batch` with `more` tokens behind each row that have no label.
fn longer(batch: &MicroBatch, more: usize) -> MicroBatch {
    fn widened<T: Copy>(values: &[T], more: usize, filler: T) -> Vec<T> {
        let rows = values.chunks(TIME);
        rows.flat_map(|row| row.iter().copied().chain(std::iter::repeat_n(filler, more)))
            .collect()
    }
    let spread = |values: &[f32]| widened(values, more, 0.0);
    let sequences = &batch.sequences;
    let ids = widened(&sequences.ids, more, sequences.ids[0]);
    MicroBatch {
        sequences: Sequences::plain(sequences.batch, TIME + more, ids),
        labels: widened(&batch.labels, more, IGNORE),
        targets: match &batch.targets {
            Targets::Groups {
                advantages,
                old,
                reference,
            } => Targets::Groups {
                advantages: advantages.clone(),
                old: spread(old),
                reference: spread(reference),
            },
            others => others.clone(),
        },
    }
}

#[test]
fn what_lies_behind_the_longest_completion_changes_nothing_where_it_is_cut_off() {
    let Some(device) = test_device() else { return };
    // Routers see what lies there; a model without any does not.
    let model = build(&qwen3_sliding(), &device);
    for objective in ALL {
        let cut = batch(&objective, 0, 4);
        let uncut = longer(&cut, 6);
        for way in [Backpropagation::Plain, streamed(Some(3))] {
            let found = step(&model, objective, std::slice::from_ref(&cut), way, &device);
            let wanted = step(
                &model,
                objective,
                std::slice::from_ref(&uncut),
                way,
                &device,
            );
            assert_equal(objective.as_str(), &found, &wanted);
        }
    }
}

#[test]
fn a_step_is_normalised_as_a_whole_however_it_is_divided() {
    let Some(device) = test_device() else { return };
    let model = build(&mixtral(), &device);
    for objective in ALL {
        let whole = [batch(&objective, 0, 4)];
        let wanted = step(&model, objective, &whole, Backpropagation::Plain, &device);
        // Micro-batches with 5 and 7 labels: a mean of their means would be another number.
        let divided = [batch(&objective, 0, 2), batch(&objective, 2, 4)];
        for way in [Backpropagation::Plain, streamed(Some(3))] {
            let found = step(&model, objective, &divided, way, &device);
            assert_equal(objective.as_str(), &found, &wanted);
        }
    }
}

/// The objective of whole micro-batches as a textbook has it, tracked.
fn textbook(objective: &Objective, logs: Tensor<1>, batch: &MicroBatch) -> Tensor<1> {
    let device = logs.device().without_autodiff();
    let upload = |values: &[f32]| tensor(values, &device);
    let labels: Vec<f32> = batch
        .labels
        .iter()
        .map(|&label| f32::from(u8::from(label != IGNORE)))
        .collect();
    let rows = batch.sequences.batch;
    match (objective, &batch.targets) {
        (Objective::Dpo { beta }, Targets::Pairs { reference }) => {
            let sums = logs.reshape([rows, TIME]).sum_dim(1).reshape([rows]);
            let rewards = sums.sub(upload(reference)).mul_scalar(*beta);
            let rewards = rewards.reshape([rows / 2, 2]);
            let margin = rewards.clone().narrow(1, 0, 1).sub(rewards.narrow(1, 1, 1));
            log_sigmoid(margin).neg().mean()
        }
        (
            Objective::Grpo {
                beta,
                epsilon,
                mean,
            },
            Targets::Groups {
                advantages,
                old,
                reference,
            },
        ) => {
            let spread: Vec<f32> = advantages.iter().flat_map(|&a| [a; TIME]).collect();
            let ratio = logs.clone().sub(upload(old)).exp();
            let gain = ratio.clone().mul(upload(&spread));
            let clipped = ratio
                .clamp(1.0 - epsilon, 1.0 + epsilon)
                .mul(upload(&spread));
            let smaller = gain.clone().min_pair(clipped);
            let apart = upload(reference).sub(logs);
            let k3 = apart.clone().exp().sub(apart).sub_scalar(1.0);
            let losses = k3.mul_scalar(*beta).sub(smaller).mul(upload(&labels));
            let counts: Vec<f32> = labels.chunks(TIME).map(|row| row.iter().sum()).collect();
            match mean {
                Mean::Token => losses.sum().div_scalar(counts.iter().sum::<f32>()),
                Mean::Sequence => {
                    let sums = losses.reshape([rows, TIME]).sum_dim(1).reshape([rows]);
                    sums.div(upload(&counts)).mean()
                }
            }
        }
        _ => panic!("no such objective"),
    }
}

#[test]
fn constant_weights_make_the_gradient_that_differentiating_the_objective_makes() {
    let Some(device) = test_device() else { return };
    // Dense: nothing but the objective has a gradient.
    let config: ModelConfig = llama_tied();
    let model = build(&config, &device);
    for objective in ALL {
        let batch = batch(&objective, 0, 4);
        let input = Input::new(&config, &batch.sequences, 0, &device);
        let hidden = model.forward(&input, None).hidden;
        let labels = Tensor::<1, Int>::from_data(
            TensorData::new(batch.labels.clone(), [batch.labels.len()]),
            &device.clone().without_autodiff(),
        );
        let logs = token_log_probabilities(hidden, model.head(), labels, &Head::default());
        let loss = textbook(&objective, logs, &batch);
        let value = f64::from(host(loss.clone())[0]);
        let mut wanted = Gradients::default();
        wanted.accumulate(&model, loss.backward());
        let found = step(&model, objective, &[batch], Backpropagation::Plain, &device);
        assert_near(objective.as_str(), found.losses.objective, value);
        for (name, gradient) in &wanted.by_name {
            let own = host(found.gradients.by_name[name].clone());
            let apart = distance(&own, &host(gradient.clone()));
            assert!(
                apart <= 1e-5,
                "{}: {name} is {apart:e} apart",
                objective.as_str()
            );
        }
    }
}

#[test]
fn a_policy_that_is_its_own_reference_starts_at_the_objective_s_origin() {
    let Some(device) = test_device() else { return };
    let model = build(&llama_tied(), &device);
    for way in [Backpropagation::Plain, streamed(Some(3))] {
        let mut pairs = batch(&PREFERENCE, 0, 4);
        let own = policy::log_probabilities(&model.valid(), &pairs, &device, way);
        for (log, label) in own.iter().zip(&pairs.labels) {
            assert_eq!(*log == 0.0, *label == IGNORE);
        }
        pairs.targets = Targets::Pairs {
            reference: own.chunks(TIME).map(|row| row.iter().sum()).collect(),
        };
        let found = step(&model, PREFERENCE, &[pairs.clone()], way, &device);
        assert_near("ln 2", found.losses.objective, std::f64::consts::LN_2);
        let evaluated = policy::evaluate(&model.valid(), &pairs, &PREFERENCE, &device, way);
        assert_eq!(evaluated.units, 2);
        assert_near("sum", evaluated.objective, 2.0 * std::f64::consts::LN_2);

        let mut group = batch(&REWARD, 0, 4);
        let advantages = advantages(&[1.0, 0.0, 0.0, 1.0]);
        group.targets = Targets::Groups {
            advantages: advantages.clone(),
            old: own.clone(),
            reference: own,
        };
        let found = step(&model, BY_SEQUENCE, &[group], way, &device);
        // Ratios are 1 and advantages of a group sum to zero.
        assert_near("surrogate", found.losses.objective, 0.0);
        let Measures::Groups { kl, clip_fraction } = found.measures else {
            panic!("groups are measured as such");
        };
        assert_near("divergence", kl.expect("there is a reference"), 0.0);
        assert_eq!(clip_fraction, 0.0);
    }
}

#[test]
fn no_objective_waits_for_the_device_within_a_step() {
    let Some(device) = test_device() else { return };
    let model = build(&llama_tied(), &device);
    for objective in ALL {
        let divided = [batch(&objective, 0, 2), batch(&objective, 2, 4)];
        for way in [Backpropagation::Plain, streamed(Some(3))] {
            let before = reads();
            step(&model, objective, &divided, way, &device);
            assert_eq!(reads() - before, 1, "{}", objective.as_str());
        }
    }
}

#[test]
fn a_loss_scale_reaches_the_weights_and_no_number_that_is_told() {
    let Some(device) = test_device() else { return };
    let model = build(&llama_tied(), &device);
    for way in [Backpropagation::Plain, streamed(Some(3))] {
        let batches = [batch(&PREFERENCE, 0, 4)];
        let scaled = |loss_scale| {
            let settings = Settings {
                loss_scale,
                backpropagation: way,
                objective: PREFERENCE,
            };
            let routers = routers(BalanceScope::None);
            run_with(
                &model,
                &batches,
                &routers,
                &device,
                &mut NoObserver,
                &settings,
            )
        };
        let (one, many) = (scaled(1.0), scaled(1024.0));
        assert_near("loss", many.losses.objective, one.losses.objective);
        let name = "layers.0.self_attn.q_proj.weight";
        let of = |step: &StepResult| host(step.gradients.by_name[name].clone());
        let wanted: Vec<f32> = of(&one).iter().map(|value| value * 1024.0).collect();
        assert_close(name, &of(&many), &wanted);
    }
}
