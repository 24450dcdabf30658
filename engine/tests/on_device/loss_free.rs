//! Loss-free balancing by a correction bias.

use bellows_engine::objective::{
    BalanceScope, Frequencies, RouterObjective, update_correction_bias,
};
use bellows_engine::optim::{AdamW, AdamWConfig};
use burn::module::Module;

use crate::batches::{logits, step, whole};
use crate::device::test_device;
use crate::models::{build, coe, deepseek_v3};
use crate::numbers::bits;

fn biases(model: &bellows_engine::model::Decoder) -> Vec<Vec<f32>> {
    let mixtures = model.mixtures();
    mixtures
        .flat_map(|(_, mixture)| mixture.correction_bias.clone())
        .collect()
}

#[test]
fn the_bias_falls_for_busy_experts_and_rises_for_idle_ones() {
    let Some(device) = test_device() else { return };
    let mut model = build(&deepseek_v3(), &device);
    let frequencies = Frequencies {
        chosen: vec![vec![9, 0, 3, 2, 4, 0], vec![3, 3, 3, 3, 3, 3]],
    };
    update_correction_bias(&mut model, &frequencies, 0.01);
    update_correction_bias(&mut model, &frequencies, 0.01);
    // The mean is 3: an expert exactly there stays.
    let wanted = [vec![-0.02, 0.02, 0.0, 0.02, -0.02, 0.02], vec![0.0; 6]];
    assert_eq!(biases(&model), wanted);
}

#[test]
fn iterations_add_their_counts_only_where_they_share_a_router() {
    let Some(device) = test_device() else { return };
    // Two layers of two iterations each; together the iterations are balanced, alone they are not.
    let rows = [[4, 0, 2, 2, 2, 2], [0, 4, 2, 2, 2, 2]].map(Vec::from);
    let frequencies = Frequencies {
        chosen: [rows.clone(), rows].concat(),
    };
    let mut config = coe();
    config.score_correction_bias = true;
    let mut model = build(&config, &device);
    update_correction_bias(&mut model, &frequencies, 0.5);
    let first = vec![-0.5, 0.5, 0.0, 0.0, 0.0, 0.0];
    let second = vec![0.5, -0.5, 0.0, 0.0, 0.0, 0.0];
    let own = [first.clone(), second.clone(), first, second];
    assert_eq!(biases(&model), own);

    config.use_igate = false;
    let mut model = build(&config, &device);
    update_correction_bias(&mut model, &frequencies, 0.5);
    assert_eq!(biases(&model), [[0.0; 6], [0.0; 6]]);
}

#[test]
fn a_bias_that_changes_no_choice_changes_no_bit() {
    let Some(device) = test_device() else { return };
    let mut model = build(&deepseek_v3(), &device);
    let sequences = whole().remove(0).sequences;
    let before = logits(&model, &sequences, &device);
    let set = |model: &mut bellows_engine::model::Decoder, bias: &[f32]| {
        for (_, mixture) in model.mixtures_mut() {
            mixture.correction_bias = vec![bias.to_vec()];
        }
    };
    set(&mut model, &[0.25; 6]);
    assert_eq!(bits(&logits(&model, &sequences, &device)), bits(&before));
    // One that changes choices does change the result: it is not simply ignored.
    set(&mut model, &[2.0, 0.0, 2.0, 0.0, 0.0, 0.0]);
    assert_ne!(bits(&logits(&model, &sequences, &device)), bits(&before));
    let objective = RouterObjective {
        balance: BalanceScope::None,
        ..RouterObjective::default()
    };
    let result = step(&model, &whole(), &objective, &device);
    assert_eq!(result.frequencies.chosen, [[20, 0, 20, 0, 0, 0]; 2]);
}

#[test]
fn the_bias_survives_updates_and_evaluation() {
    let Some(device) = test_device() else { return };
    let mut model = build(&deepseek_v3(), &device);
    let result = step(&model, &whole(), &RouterObjective::default(), &device);
    update_correction_bias(&mut model, &result.frequencies, 0.01);
    let wanted = biases(&model);
    assert!(wanted.iter().flatten().any(|&bias| bias != 0.0));
    let mut optimizer = AdamW::new(&AdamWConfig::default());
    let (model, update) = optimizer.update(model, result.gradients, 1e-3);
    assert!(update.applied);
    assert_eq!(biases(&model), wanted);
    assert_eq!(biases(&model.valid()), wanted);
}
