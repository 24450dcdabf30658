//! Gradient accumulation is one large batch.

use bellows_engine::objective::{BalanceScope, RouterObjective};
use bellows_engine::step::{IGNORE, evaluate};
use burn::module::Module;

use crate::batches::{assert_same_step, divided, rows, step, whole};
use crate::device::test_device;
use crate::models::{build, coe, llama_tied, olmoe};
use crate::numbers::{assert_near, distance, host};

fn objective(balance: BalanceScope) -> RouterObjective {
    RouterObjective {
        balance,
        balance_coefficient: 0.5,
        ..RouterObjective::default()
    }
}

#[test]
fn micro_batches_with_uneven_labels_equal_one_large_batch() {
    let Some(device) = test_device() else { return };
    let model = build(&llama_tied(), &device);
    let none = objective(BalanceScope::None);
    let large = step(&model, &whole(), &none, &device);
    assert_same_step(&step(&model, &divided(), &none, &device), &large);
    // The mean of the micro-batches' means is another number: the case tests something.
    let mean = |batch| step(&model, &[batch], &none, &device).losses.cross_entropy;
    let of_means = (mean(rows(0, 1)) + mean(rows(1, 4))) / 2.0;
    assert!((of_means - large.losses.cross_entropy).abs() > 0.01);
}

#[test]
fn router_losses_over_micro_batches_equal_those_of_one_large_batch() {
    let Some(device) = test_device() else { return };
    let model = build(&coe(), &device);
    let z = RouterObjective {
        z_loss_coefficient: 0.1,
        ..objective(BalanceScope::None)
    };
    let pooled = RouterObjective {
        pool_layers: true,
        ..objective(BalanceScope::Global)
    };
    let cases = [
        z,
        objective(BalanceScope::Sequence),
        objective(BalanceScope::Global),
        pooled,
    ];
    for objective in cases {
        let large = step(&model, &whole(), &objective, &device);
        assert!(large.losses.balance + large.losses.z > 0.1);
        assert_same_step(&step(&model, &divided(), &objective, &device), &large);
    }
}

#[test]
fn balance_per_micro_batch_depends_on_the_division() {
    let Some(device) = test_device() else { return };
    let model = build(&coe(), &device);
    let objective = objective(BalanceScope::MicroBatch);
    let large = step(&model, &whole(), &objective, &device);
    let small = step(&model, &divided(), &objective, &device);
    // Unlike routing in the two micro-batches, so unlike frequencies.
    assert!((large.losses.balance - small.losses.balance).abs() > 0.01);
    assert_near(
        "cross-entropy",
        small.losses.cross_entropy,
        large.losses.cross_entropy,
    );
    let router = "layers.0.mlp.gate.0.weight";
    let gradient =
        |step: &bellows_engine::step::StepResult| host(step.gradients.by_name[router].clone());
    assert!(distance(&gradient(&small), &gradient(&large)) > 1e-3);
}

#[test]
fn every_scope_is_the_same_for_one_micro_batch_of_one_sequence() {
    let Some(device) = test_device() else { return };
    let model = build(&olmoe(), &device);
    let batch = [rows(2, 3)];
    let wanted = step(
        &model,
        &batch,
        &objective(BalanceScope::MicroBatch),
        &device,
    );
    for scope in [
        BalanceScope::Sequence,
        BalanceScope::Global,
        BalanceScope::GlobalRunning,
    ] {
        assert_same_step(&step(&model, &batch, &objective(scope), &device), &wanted);
    }
}

#[test]
fn a_micro_batch_without_labels_adds_nothing_to_cross_entropy() {
    let Some(device) = test_device() else { return };
    let model = build(&llama_tied(), &device);
    let none = objective(BalanceScope::None);
    let mut silent = rows(1, 4);
    silent.labels.fill(IGNORE);
    let alone = step(&model, &[rows(0, 1)], &none, &device);
    let both = step(&model, &[rows(0, 1), silent.clone()], &none, &device);
    assert_eq!(both.losses, alone.losses);
    // Nothing but silence: no label to divide by, and still numbers.
    let nothing = step(&model, &[silent], &none, &device);
    assert_eq!(nothing.losses.total, 0.0);
    assert_eq!(nothing.gradients.global_norm(), 0.0);
}

#[test]
fn evaluation_sums_what_training_averages() {
    let Some(device) = test_device() else { return };
    let model = build(&coe(), &device);
    let trained = step(&model, &whole(), &objective(BalanceScope::None), &device);
    let valid = model.valid();
    let (sum, labels) = divided()
        .iter()
        .map(|batch| evaluate(&valid, batch, &device))
        .fold((0.0, 0), |(sum, labels), (more, count)| {
            (sum + more, labels + count)
        });
    assert_eq!(labels, trained.size.labels);
    assert_near(
        "the mean",
        sum / labels as f64,
        trained.losses.cross_entropy,
    );
}

#[test]
fn a_tied_head_gets_the_gradients_of_both_its_uses() {
    let Some(device) = test_device() else { return };
    let tied = build(&llama_tied(), &device);
    let mut untied_config = llama_tied();
    untied_config.tie_word_embeddings = false;
    let mut untied = build(&untied_config, &device);
    let head = untied.lm_head.as_mut().expect("untied");
    head.weight = burn::module::Param::from_tensor(tied.head().detach());
    let none = objective(BalanceScope::None);
    let one = step(&tied, &whole(), &none, &device);
    let two = step(&untied, &whole(), &none, &device);
    assert_near("loss", two.losses.total, one.losses.total);
    let [embedding, head] =
        ["embed_tokens.weight", "lm_head.weight"].map(|name| two.gradients.by_name[name].clone());
    let wanted = host(embedding.add(head));
    let found = host(one.gradients.by_name["embed_tokens.weight"].clone());
    assert!(distance(&found, &wanted) < 2e-5);
}

#[test]
fn the_padding_token_gets_no_gradient_from_look_ups() {
    let Some(device) = test_device() else { return };
    let mut config = olmoe();
    let mut batch = whole();
    let ids = batch[0].sequences.ids.clone();
    // Every position has a label, so every token in use has a gradient.
    batch[0].labels = ids.clone();
    let padding = ids[0];
    config.pad_token_id = Some(padding as usize);
    let model = build(&config, &device);
    let result = step(&model, &batch, &objective(BalanceScope::None), &device);
    let gradient = host(result.gradients.by_name["embed_tokens.weight"].clone());
    for (token, row) in (0..).zip(gradient.chunks_exact(config.hidden_size)) {
        let moves = row.iter().any(|&value| value != 0.0);
        let used = ids.contains(&token) && token != padding;
        assert_eq!(moves, used, "token {token}");
    }
}
